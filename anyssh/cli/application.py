"""The commands and their parameters; other modules implement them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError

import anyssh
from anyssh import KeyFormat
from anyssh.demo import main as run_demo

from . import keys
from .commands import Commands
from .contour import contour
from .exec import command_request, execute, subsystem_request
from .failures import FAILED, Failure, say
from .forward import Forward, keep_forwarding
from .login import LOGIN, Login, LoginOptions
from .logs import configure
from .places import Destination, address, expanded, local_user
from .places import forward as parse_forward
from .running import COMMON, Common, Signals, fail, run
from .serve import ServeOptions, checked_patience, default_host_key, serve
from .status import make_display

__all__ = ["app", "main"]

STATUSES: Final = """\
**Exit status:** 0 for success, 255 for every failure, with an error message in one line.
"exec" exits with the status of the remote command, or with 128 + n if signal n ended it. A command
that a signal ends here, such as Ctrl-C, exits with 128 + n; "serve" and "forward" exit with 0.
"""

app: Final = App(
    name="anyssh",
    help="SSH-2 on AnyIO: servers, tunnels that survive, commands, keys.",
    help_epilogue=STATUSES,
    version=anyssh.__version__,
    help_format="markdown",
    default_parameter=Parameter(show_default=False),
)
key_app: Final = App(name="key", help="Convert key files.")
app.command(key_app)
app.register_install_completion_command(
    help="Install shell completion for anyssh; says what it changes."
)

PrivateFormat = Literal["openssh", "pkcs8", "pkcs1", "sec1", "ssh2", "jwk"]
InputFile = Annotated[Path, Parameter(allow_leading_hyphen=True)]
"""A file, or - for standard input."""


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name; return its exit status."""
    try:
        result = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        say(f"{error} {_remedy(error, arguments)}")
        return FAILED
    except (Failure, OSError) as error:
        return fail(error)
    except KeyboardInterrupt:
        return 130
    return result if isinstance(result, int) else 0


def _remedy(error: CycloptsError, arguments: Sequence[str]) -> str:
    name = next((each for each in arguments if not each.startswith("-")), "")
    if name == "exec" and isinstance(error, UnknownOptionError):
        return "If it belongs to the remote command, put -- before that."
    known = {each for names in app for each in [names]}
    return f"See: anyssh {name} --help" if name in known else "See: anyssh --help"


def _repeated(*names: str) -> Parameter:
    """Describe an option that may be given several times, with one value each time."""
    return Parameter(name=names or None, negative="", consume_multiple=False)


Repeated: Final = _repeated()


@app.command(
    name="serve",
    help_epilogue="""\
Examples:

    anyssh serve --exec
    anyssh serve --listen '*:2222' --allow-connect 'localhost:8000-8999'
    anyssh serve --allow-listen 'localhost:*' --log-json
""",
)
def serve_(
    *,
    listen: Annotated[tuple[str, ...], Repeated] = ("localhost:2222",),
    host_key: Annotated[tuple[Path, ...], Repeated] = (),
    authorized_keys: Path = Path("~/.ssh/authorized_keys"),
    user: Annotated[tuple[str, ...], Repeated] = (),
    exec: Annotated[bool, Parameter(negative="")] = False,
    echo: Annotated[bool, Parameter(negative="")] = False,
    allow_connect: Annotated[tuple[str, ...], Repeated] = (),
    allow_listen: Annotated[tuple[str, ...], Repeated] = (),
    allow_forwarding: Annotated[bool, Parameter(negative="")] = False,
    patience: float = 600.0,
    log_json: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> int:
    r"""Run a server on this machine. Clients log in with keys, and may do what the options allow.

    Sessions of anyssh and of Dev Tunnels SSH survive the loss of the network. The server logs to
    standard error. Ctrl-C or SIGTERM ends it and its sessions.

    A pattern is host:port. The host is a name, an address, a network or \*; the port is a number, a
    range or \*. No name and no \* leads to this machine itself: for that, say localhost.

    Parameters
    ----------
    listen
        [host:]port to listen on, \* for all interfaces; may be given several times. By default
        localhost:2222.
    host_key
        A file with the private host key; may be given several times. It is created if it does not
        exist. By default ~/.config/anyssh/host_key.
    authorized_keys
        The public keys of those who may log in, read again for each login. By default
        ~/.ssh/authorized_keys.
    user
        A name that clients may log in with; may be given several times. By default your own.
    exec
        Let clients run commands as you.
    echo
        Offer a subsystem "echo" that sends back what it receives, for trying things out.
    allow_connect
        Let clients connect to what this pattern matches (their -L and -D); may be given several
        times.
    allow_listen
        Let clients listen on ports that this pattern matches (their -R); may be given several
        times.
    allow_forwarding
        Let clients connect to and listen on everything.
    patience
        Seconds that a session waits for a client that has lost the network; 600 by default.
    log_json
        Log in JSON, one object per line.
    """
    if exec and sys.platform == "win32":
        raise Failure("--exec does not work on Windows")
    configure(logging.INFO, is_verbose=common.verbose, has_times=True, is_json=log_json)
    forwarding = _policy(allow_connect, allow_listen)
    if allow_forwarding:
        forwarding = anyssh.ForwardingPolicy.allow_all()
    options = ServeOptions(
        listen=[address(each) for each in listen],
        host_keys=[expanded(path) for path in host_key] or [default_host_key()],
        authorized_keys=expanded(authorized_keys),
        users=user or (local_user(),),
        forwarding=forwarding,
        commands=Commands(exec, echo),
        patience=checked_patience(patience),
    )

    async def work(signals: Signals) -> int:
        return await serve(options, signals)

    return run(work, common)


def _policy(connect_to: Sequence[str], listen_on: Sequence[str] = ()) -> anyssh.ForwardingPolicy:
    try:
        return anyssh.ForwardingPolicy(connect_to=connect_to, listen_on=listen_on)
    except ValueError as error:
        raise Failure(str(error)) from error


@app.command(
    help_epilogue="""\
Examples:

    anyssh forward -L 8080:localhost:80 alice@host.example
    anyssh forward -R 9000:localhost:3000 -D 1080 alice@host.example
    anyssh forward -R 1080 --allow-connect '*.example.com:443' alice@host.example
    anyssh forward -L /tmp/pg.sock:/run/postgresql/.s.PGSQL.5432 alice@host.example
"""
)
def forward(
    destination: str,
    /,
    *,
    local: Annotated[tuple[str, ...], _repeated("--local", "-L")] = (),
    remote: Annotated[tuple[str, ...], _repeated("--remote", "-R")] = (),
    dynamic: Annotated[tuple[str, ...], _repeated("--dynamic", "-D")] = (),
    allow_connect: Annotated[tuple[str, ...], Repeated] = (),
    login: LoginOptions = LOGIN,
    common: Common = COMMON,
) -> int:
    """Forward ports, and stay up through losses of the network. Ctrl-C ends it.

    With a server that supports the reconnect extension, such as "anyssh serve", connections
    continue when the network is back, and not a byte of them is lost. With any other server, anyssh
    connects again and restores the forwards, but earlier connections are broken. It says which of
    the two happened.

    Parameters
    ----------
    destination
        [user@]host[:port], or ssh://[user@]host[:port]
    local
        [address:]port:host:port; connections to the first port, on this machine, go to the second
        one, which the server connects to. Either may also be the path of a UNIX socket.
    remote
        [address:]port:host:port; connections to the first port, on the server, go to the second
        one, which we connect to. Without host:port, a SOCKS proxy on the server, whose connections
        we make, as far as --allow-connect permits.
    dynamic
        [address:]port; a SOCKS proxy on this machine, whose connections the server makes.
    allow_connect
        Let the server and the clients of its SOCKS proxy (-R without host:port) connect to what
        this pattern matches; may be given several times.
    """
    forwards = [
        *(Forward("-L", *parse_forward(text, "-L")) for text in local),
        *(Forward("-R", *parse_forward(text, "-R")) for text in remote),
        *(Forward("-D", address(text), None) for text in dynamic),
    ]
    if not forwards:
        raise Failure("say what to forward with -L, -R or -D; see: anyssh forward --help")
    is_proxy = any(each.option == "-R" and each.target is None for each in forwards)
    if is_proxy and not allow_connect:
        raise Failure(
            "-R without host:port lets the server choose where this machine connects to; "
            "specify what it may reach with --allow-connect, such as '*.example.com:443', "
            "or '*:*' for every host except this machine"
        )
    if allow_connect and not is_proxy:
        raise Failure("--allow-connect is for -R without host:port")
    policy = _policy(allow_connect)
    target = Destination.parse(destination, login.port)

    async def work(signals: Signals) -> int:
        return await keep_forwarding(
            Login(target, login), forwards, policy, make_display(), signals
        )

    return run(work, common)


@app.command(
    name="exec",
    help_epilogue="""\
Examples:

    anyssh exec alice@host.example -- ls -l
    tar c . | anyssh exec alice@host.example -- tar x -C /backup
    anyssh exec -s echo alice@127.0.0.1:2222
""",
)
def exec_(
    destination: str,
    /,
    *command: str,
    subsystem: Annotated[str | None, Parameter(name=("--subsystem", "-s"))] = None,
    login: LoginOptions = LOGIN,
    common: Common = COMMON,
) -> int:
    """Run a command on a server, with our standard input, output and error.

    Signals are passed on: Ctrl-C reaches the command, a second one ends anyssh. The command has no
    terminal. If the server supports the reconnect extension, as "anyssh serve" does, the command
    survives the loss of the network.

    Parameters
    ----------
    destination
        [user@]host[:port], or ssh://[user@]host[:port]
    command
        The command, preceded by --; its words are joined by spaces for the remote shell, as ssh
        does.
    subsystem
        Start this subsystem instead of a command.
    """
    if bool(command) == bool(subsystem):
        raise Failure("say what to run: a command after --, or a subsystem with -s")
    request = command_request(command) if subsystem is None else subsystem_request(subsystem)
    target = Destination.parse(destination, login.port)

    async def work(signals: Signals) -> int:
        return await execute(Login(target, login), request, signals)

    return run(work, common)


@app.command(help_epilogue="Example:\n\n    anyssh demo --mib 64 --cuts 100\n")
def demo(*, channels: int = 2, mib: int = 256, cuts: int = 24, common: Common = COMMON) -> int:
    """Demonstrate a session that survives: a server, a client, and a network that keeps failing.

    Data goes to the server and back over several channels of one session; in the end, not a byte
    may be lost.

    Parameters
    ----------
    channels
        The number of concurrent channels; 2 by default.
    mib
        MiB per channel; 256 by default.
    cuts
        How often the network is cut, at least; 24 by default.
    """
    options = ("--channels", channels, "--mib", mib, "--cuts", cuts, "--backend", common.backend)
    return run_demo([str(each) for each in options])


@app.command(
    help_epilogue="""\
Examples:

    anyssh keygen
    anyssh keygen -t rsa -b 4096 -f deploy_key --no-passphrase
"""
)
def keygen(
    *,
    type: Annotated[
        Literal["ed25519", "ecdsa", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa"],
        Parameter(name=("--type", "-t")),
    ] = "ed25519",
    bits: Annotated[int | None, Parameter(name=("--bits", "-b"))] = None,
    file: Annotated[Path | None, Parameter(name=("--file", "-f"))] = None,
    comment: Annotated[str | None, Parameter(name=("--comment", "-C"))] = None,
    format: PrivateFormat = "openssh",
    passphrase_file: InputFile | None = None,
    no_passphrase: Annotated[bool, Parameter(negative="")] = False,
    common: Common = COMMON,
) -> int:
    """Generate a key pair: two new files, the private one readable by its owner only.

    Parameters
    ----------
    type
        The type of key.
    bits
        The size of an RSA key; 3072 by default.
    file
        The file of the private key; the public key is written next to it, with .pub appended to the
        name. By default ~/.ssh/id_TYPE.
    comment
        A text stored with the key; user@machine by default.
    format
        The format of the private key.
    passphrase_file
        Take the passphrase from the first line of this file, or of standard input for -.
    no_passphrase
        Do not encrypt the private key.
    """
    if no_passphrase and passphrase_file is not None:
        raise Failure("--no-passphrase and --passphrase-file exclude each other")
    passphrase = "" if no_passphrase else None
    if passphrase_file is not None:
        passphrase = keys.read_passphrase(passphrase_file)

    async def work(signals: Signals) -> int:
        return await keys.generate(type, bits, file, comment, KeyFormat(format), passphrase)

    return run(work, common)


@key_app.command(
    help_epilogue="""\
Examples:

    anyssh key convert ~/.ssh/id_rsa --to pkcs8 -o id_rsa.pem
    anyssh key convert key.ppk > id_ed25519
    anyssh key convert --public ~/.ssh/id_ed25519
"""
)
def convert(
    file: InputFile,
    /,
    *,
    to: PrivateFormat | Literal["ssh"] | None = None,
    public: Annotated[bool, Parameter(negative="")] = False,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    passphrase_file: InputFile | None = None,
    new_passphrase_file: InputFile | None = None,
    common: Common = COMMON,
) -> int:
    """Convert a key to another format. The present format is detected.

    The new private key is not encrypted unless --new-passphrase-file is given.

    Parameters
    ----------
    file
        The key, or - for standard input.
    to
        The new format: for private keys openssh (the default), pkcs8, pkcs1, sec1, ssh2 or jwk; for
        public keys ssh (the default), ssh2, pkcs1, pkcs8 or jwk.
    public
        Write only the public key.
    output
        A new file to write instead of standard output.
    passphrase_file
        Take the present passphrase from the first line of this file; by default you are asked.
    new_passphrase_file
        Encrypt with the first line of this file.
    """
    form = None if to is None else KeyFormat(to)
    old = None if passphrase_file is None else keys.read_passphrase(passphrase_file)
    new = None if new_passphrase_file is None else keys.read_passphrase(new_passphrase_file)

    async def work(signals: Signals) -> int:
        return await keys.convert(file, form, public, output, old, new)

    return run(work, common)


@app.command(
    help_epilogue="""\
Examples:

    anyssh fingerprint ~/.ssh/id_ed25519.pub
    anyssh fingerprint ~/.ssh/authorized_keys ~/.ssh/known_hosts
"""
)
def fingerprint(*files: InputFile, common: Common = COMMON) -> int:
    """Print size, fingerprint, comment and type of each key in the files, like ssh-keygen -l.

    Parameters
    ----------
    files
        Public or private keys, certificates, authorized_keys, known_hosts; - for standard input.
    """
    if not files:
        raise Failure("say which files; see: anyssh fingerprint --help")

    async def work(signals: Signals) -> int:
        return await keys.fingerprints(list(files))

    return run(work, common)


@app.command(
    name="contour",
    help_epilogue="""\
Examples:

    anyssh contour AQUBAAAAAgQBAgMLDAAAAAB9ECAY+rwQIBgAAA==
    anyssh contour session.txt --svg -o session.svg
""",
)
def contour_(
    source: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    svg: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    width: int | None = None,
) -> int:
    """Draw the contour of a session: its throughput and latency over its whole life.

    A contour is the text from session.contour.export(), or from the Dev Tunnels tools.

    Parameters
    ----------
    source
        The text, a file that contains it, or - for standard input.
    svg
        Draw an SVG image instead of text for the terminal.
    json
        Print the numbers of each interval as JSON.
    output
        A file to write instead of standard output.
    width
        The width in characters; that of the terminal by default.
    """
    if svg and json:
        raise Failure("--svg and --json exclude each other")
    form = "svg" if svg else "json" if json else "terminal"
    return contour(source, form, None if output is None else expanded(output), width)
