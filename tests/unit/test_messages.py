"""Messages, compared with a second, independent model of their encodings.

``LAYOUTS`` repeats, from the standards, which fields every message has. From it the model writes
messages on its own, and knows where lengths and counts are, and which shorter forms are legal.
"""

from __future__ import annotations

import contextlib
import copy
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyssh import messages, wire
from anyssh.constants import ChannelOpenFailureReason, DisconnectReason, MessageNumber
from anyssh.errors import LocalProtocolError, RemoteProtocolError, SSHError, WireError
from anyssh.messages import (
    MESSAGES,
    MESSAGES_BY_NUMBER,
    ChannelData,
    ChannelExtendedData,
    ChannelOpen,
    ChannelOpenFailure,
    ChannelRequest,
    ChannelWindowAdjust,
    Debug,
    DirectTcpip,
    Disconnect,
    EnvRequest,
    ExecRequest,
    ExitSignal,
    ExitStatus,
    ExtInfo,
    ForwardedTcpip,
    GlobalRequest,
    GroupedUserauthInfoRequest,
    HostBasedFields,
    Ignore,
    InitialChannelRequest,
    KexDhInit,
    KexDhReply,
    KexInit,
    KeyboardInteractiveFields,
    LinkedSessionReconnectRequest,
    Message,
    NewKeys,
    PasswordFields,
    Prompt,
    PtyRequest,
    PublicKeyFields,
    RequestFailure,
    RequestSuccess,
    ServiceAccept,
    ServiceRequest,
    SessionReconnectFailure,
    SessionReconnectRequest,
    SessionReconnectResponse,
    Signal,
    Structure,
    SubsystemRequest,
    TcpipForward,
    TcpipForwardSuccess,
    Unimplemented,
    UserauthBanner,
    UserauthFailure,
    UserauthInfoRequest,
    UserauthInfoResponse,
    UserauthPasswdChangereq,
    UserauthPkOk,
    UserauthRequest,
    UserauthSuccess,
    WindowChange,
)
from anyssh.messages.declaration import declared, lenient_text, string, uint32

# Field kinds: u32, u64, bool, bytes, name (strict text), text (for people), system (text of the
# operating system), secret, names, cookie, rest, extensions, prompts, grouped, responses, request.
# "?" marks a field that a peer may leave out, "field>" one that is there when that field is true.
LAYOUTS: dict[type[Structure], str] = {
    Disconnect: "reason=u32 description=text language=text?",
    Ignore: "data=bytes?",
    Unimplemented: "sequence_number=u32",
    Debug: "always_display=bool message=text language=text?",
    ServiceRequest: "service_name=name",
    ServiceAccept: "service_name=name",
    ExtInfo: "extensions=extensions",
    KexInit: "cookie=cookie kex_algorithms=names server_host_key_algorithms=names "
    "encryption_algorithms_client_to_server=names encryption_algorithms_server_to_client=names "
    "mac_algorithms_client_to_server=names mac_algorithms_server_to_client=names "
    "compression_algorithms_client_to_server=names compression_algorithms_server_to_client=names "
    "languages_client_to_server=names languages_server_to_client=names "
    "first_kex_packet_follows=bool reserved=u32",
    NewKeys: "",
    KexDhInit: "client_public=bytes",
    KexDhReply: "host_key=bytes server_public=bytes signature=bytes",
    UserauthRequest: "user_name=name service_name=name method_name=name method_fields=rest",
    PasswordFields: "change=bool password=secret new_password=change>secret",
    PublicKeyFields: "has_signature=bool algorithm=name public_key=bytes "
    "signature=has_signature>bytes",
    HostBasedFields: "algorithm=name host_key=bytes client_host_name=name client_user_name=name "
    "signature=bytes",
    KeyboardInteractiveFields: "language=text? submethods=text?",
    UserauthFailure: "authentications_that_can_continue=names partial_success=bool",
    UserauthSuccess: "",
    UserauthBanner: "message=text language=text?",
    UserauthPkOk: "algorithm=name public_key=bytes",
    UserauthPasswdChangereq: "prompt=text language=text?",
    UserauthInfoRequest: "name=text instruction=text language=text prompts=prompts",
    GroupedUserauthInfoRequest: "name=text instruction=text language=text prompts=grouped",
    UserauthInfoResponse: "responses=responses",
    GlobalRequest: "request_name=name want_reply=bool payload=rest",
    RequestSuccess: "payload=rest",
    RequestFailure: "payload=rest",
    ChannelOpen: "channel_type=name sender_channel=u32 initial_window_size=u32 "
    "maximum_packet_size=u32 payload=rest",
    messages.ChannelOpenConfirmation: "recipient_channel=u32 sender_channel=u32 "
    "initial_window_size=u32 maximum_packet_size=u32 payload=rest",
    ChannelOpenFailure: "recipient_channel=u32 reason_code=u32 description=text? language=text?",
    ChannelWindowAdjust: "recipient_channel=u32 bytes_to_add=u32",
    ChannelData: "recipient_channel=u32 data=bytes",
    ChannelExtendedData: "recipient_channel=u32 data_type_code=u32 data=bytes",
    messages.ChannelEof: "recipient_channel=u32",
    messages.ChannelClose: "recipient_channel=u32",
    ChannelRequest: "recipient_channel=u32 request_type=name want_reply=bool payload=rest",
    messages.ChannelSuccess: "recipient_channel=u32",
    messages.ChannelFailure: "recipient_channel=u32",
    PtyRequest: "term=name width_characters=u32 height_rows=u32 width_pixels=u32 "
    "height_pixels=u32 encoded_modes=bytes",
    EnvRequest: "variable_name=system variable_value=system",
    ExecRequest: "command=system",
    SubsystemRequest: "subsystem_name=name",
    WindowChange: "width_characters=u32 height_rows=u32 width_pixels=u32 height_pixels=u32",
    Signal: "signal_name=name",
    ExitStatus: "exit_status=u32",
    ExitSignal: "signal_name=name core_dumped=bool error_message=text language=text?",
    SessionReconnectRequest: "client_token=bytes last_received_sequence_number=u64",
    LinkedSessionReconnectRequest: (
        "client_token=bytes last_received_sequence_number=u64 link_id=bytes attempt=u32"
    ),
    SessionReconnectResponse: "server_token=bytes last_received_sequence_number=u64",
    SessionReconnectFailure: "reason=u32? description=text? language=text?",
    InitialChannelRequest: "sender_channel=u32 request=request",
    TcpipForward: "address_to_bind=name port=u32 extra=rest",
    TcpipForwardSuccess: "port=u32?",
    ForwardedTcpip: "host=name port=u32 originator_address=name originator_port=u32 extra=rest",
    DirectTcpip: "host=name port=u32 originator_address=name originator_port=u32 extra=rest",
    messages.StreamLocalForward: "socket_path=system",
    messages.ForwardedStreamLocal: "socket_path=system reserved=bytes",
    messages.DirectStreamLocal: "socket_path=system reserved_string=bytes reserved_number=u32",
}

NUMBERS: dict[type[Message], int] = {
    Disconnect: 1,
    Ignore: 2,
    Unimplemented: 3,
    Debug: 4,
    ServiceRequest: 5,
    ServiceAccept: 6,
    ExtInfo: 7,
    KexInit: 20,
    NewKeys: 21,
    KexDhInit: 30,
    KexDhReply: 31,
    UserauthRequest: 50,
    UserauthFailure: 51,
    UserauthSuccess: 52,
    UserauthBanner: 53,
    UserauthPkOk: 60,
    UserauthPasswdChangereq: 60,
    UserauthInfoRequest: 60,
    GroupedUserauthInfoRequest: 60,
    UserauthInfoResponse: 61,
    GlobalRequest: 80,
    RequestSuccess: 81,
    RequestFailure: 82,
    ChannelOpen: 90,
    messages.ChannelOpenConfirmation: 91,
    ChannelOpenFailure: 92,
    ChannelWindowAdjust: 93,
    ChannelData: 94,
    ChannelExtendedData: 95,
    messages.ChannelEof: 96,
    messages.ChannelClose: 97,
    ChannelRequest: 98,
    messages.ChannelSuccess: 99,
    messages.ChannelFailure: 100,
}

HOT = (ChannelData, ChannelExtendedData, ChannelWindowAdjust, KexInit)
SECRET = "correct horse battery staple"

every_class = pytest.mark.parametrize("cls", LAYOUTS, ids=lambda cls: cls.__name__)
every_hot_class = pytest.mark.parametrize("cls", HOT, ids=lambda cls: cls.__name__)


# --- the model ------------------------------------------------------------------------------------


class Field(NamedTuple):
    name: str
    kind: str
    optional: bool
    condition: str


class Piece(NamedTuple):
    """Some bytes of a wire form: a length, a count, a start of what may be missing, or plain."""

    role: str
    data: bytes


def fields_of(cls: type[Structure]) -> list[Field]:
    fields = []
    for entry in LAYOUTS[cls].split():
        name, _, kind = entry.partition("=")
        condition, found, kind_there = kind.rpartition(">")
        kind = kind_there if found else kind
        fields.append(Field(name, kind.rstrip("?"), kind.endswith("?"), condition))
    return fields


def model_pieces(message: Structure) -> Iterator[Piece]:
    cls = type(message)
    if isinstance(message, Message):
        yield Piece("plain", bytes([NUMBERS[type(message)]]))
    for field in fields_of(cls):
        if field.condition and not getattr(message, field.condition):
            continue
        if field.optional:
            yield Piece("may end", b"")
        yield from value_pieces(field.kind, getattr(message, field.name))


def string_pieces(value: str | bytes) -> Iterator[Piece]:
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    yield Piece("length", struct.pack(">I", len(data)))
    yield Piece("plain", data)


def value_pieces(kind: str, value: Any) -> Iterator[Piece]:
    match kind:
        case "u32":
            yield Piece("plain", struct.pack(">I", value))
        case "u64":
            yield Piece("plain", struct.pack(">Q", value))
        case "bool":
            yield Piece("plain", struct.pack("?", value))
        case "bytes" | "name" | "text" | "system" | "secret":
            yield from string_pieces(value)
        case "names":
            yield from string_pieces(",".join(value))
        case "cookie":
            yield Piece("plain", value)
        case "rest":
            yield Piece("open end", value)
        case "request":
            yield from model_pieces(value)
        case _:
            yield Piece("count", struct.pack(">I", len(value)))
            yield from entry_pieces(kind, value)


def entry_pieces(kind: str, value: Any) -> Iterator[Piece]:
    match kind:
        case "extensions":
            for name, content in value.items():
                yield from string_pieces(name)
                yield from string_pieces(content)
        case "prompts":
            for text, echo in value:
                yield from string_pieces(text)
                yield Piece("plain", struct.pack("?", echo))
        case "grouped":
            for text, _ in value:
                yield from string_pieces(text)
            for _, echo in value:
                yield Piece("plain", struct.pack("?", echo))
        case "responses":
            for text in value:
                yield from string_pieces(text)
        case _:
            raise AssertionError(kind)


def joined(pieces: Iterable[Piece]) -> bytes:
    return b"".join(piece.data for piece in pieces)


def legal_ends(message: Structure) -> set[int]:
    """Return the sizes at which a peer may end this message."""
    ends, offset = set(), 0
    for role, data in model_pieces(message):
        if role == "may end":
            ends.add(offset)
        if role == "open end":
            ends.update(range(offset, offset + len(data)))
        offset += len(data)
    return ends | {offset}


# --- values ---------------------------------------------------------------------------------------

uint32s = st.integers(0, 2**32 - 1)
names = st.text(
    st.sampled_from([chr(code) for code in range(0x21, 0x7F) if code != ord(",")]),
    min_size=1,
    max_size=64,
)
channel_requests = st.builds(
    ChannelRequest, uint32s, st.text(max_size=10), st.booleans(), st.binary(max_size=20)
)
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "u32": uint32s,
    "u64": st.integers(0, 2**64 - 1),
    "bool": st.booleans(),
    "bytes": st.binary(max_size=40),
    "name": st.text(max_size=20),
    "text": st.text(max_size=20),
    "secret": st.text(max_size=20),
    "system": st.binary(max_size=20).map(lambda data: data.decode("utf-8", "surrogateescape")),
    "names": st.lists(names, max_size=4).map(tuple),
    "cookie": st.binary(min_size=16, max_size=16),
    "rest": st.binary(max_size=20),
    "extensions": st.dictionaries(st.text(max_size=20), st.binary(max_size=20), max_size=5),
    "responses": st.lists(st.text(max_size=20), max_size=16).map(tuple),
    "request": channel_requests,
}
STRATEGIES["prompts"] = STRATEGIES["grouped"] = st.lists(
    st.builds(Prompt, st.text(max_size=20), st.booleans()), max_size=16
).map(tuple)

EMPTY: dict[str, Any] = {
    "u32": 0,
    "u64": 0,
    "bool": False,
    "cookie": bytes(16),
    "extensions": {},
    "request": ChannelRequest(0, "", False),
}
EMPTY |= dict.fromkeys(("bytes", "rest"), b"") | dict.fromkeys(("name", "text", "system"), "")
EMPTY |= dict.fromkeys(("names", "prompts", "grouped", "responses"), ()) | {"secret": ""}

LONG_TEXT = "é日" * 200 + "x" * 24
MAXIMAL: dict[str, Any] = {
    "u32": 2**32 - 1,
    "u64": 2**64 - 1,
    "bool": True,
    "bytes": bytes(range(256)) * 128,
    "system": LONG_TEXT + "\udcff",
    "names": tuple(f"{number:02}".rjust(64, "n") for number in range(25)),
    "cookie": bytes(range(16)),
    "rest": bytes(range(256)) * 4,
    "extensions": {f"name{number:02}": bytes(242) for number in range(63)} | {"": b"x" * 10},
    "responses": (LONG_TEXT,) * 16,
    "request": ChannelRequest(2**32 - 1, LONG_TEXT, True, bytes(1024)),
}
MAXIMAL |= dict.fromkeys(("name", "text", "secret"), LONG_TEXT)
MAXIMAL |= dict.fromkeys(
    ("prompts", "grouped"), tuple(Prompt(LONG_TEXT, number % 2 == 0) for number in range(16))
)


def filled(cls: type[Structure], values: dict[str, Any]) -> Structure:
    return cls(**{field.name: values[field.kind] for field in fields_of(cls)})


@st.composite
def structures(draw: st.DrawFn, cls: type[Structure]) -> Structure:
    values: dict[str, Any] = {}
    for field in fields_of(cls):
        if not field.condition or values[field.condition]:
            values[field.name] = draw(STRATEGIES[field.kind])
    return cls(**values)


any_structure = st.sampled_from(sorted(LAYOUTS, key=lambda cls: cls.__name__)).flatmap(structures)
any_hot_message = st.sampled_from(HOT).flatmap(structures)


# --- every message against the model --------------------------------------------------------------


def test_the_model_knows_every_class() -> None:
    public = [getattr(messages, name) for name in messages.__all__]
    types = [entry for entry in public if isinstance(entry, type)]
    classes = {entry for entry in types if issubclass(entry, Structure)}
    assert classes - {Message, Structure} == set(LAYOUTS)
    assert {cls for cls in classes if issubclass(cls, Message)} - {Message} == set(NUMBERS)


def test_the_tables_hold_every_message_under_its_number() -> None:
    """MSG-01 to MSG-05"""
    assert {cls: int(cls.number) for cls in MESSAGES} == NUMBERS
    assert len(set(MESSAGES)) == len(MESSAGES)
    assert {
        (cls, number) for number, classes in MESSAGES_BY_NUMBER.items() for cls in classes
    } == set(NUMBERS.items())
    assert set(MESSAGES_BY_NUMBER) == set(map(int, MessageNumber))


@every_class
def test_instances_have_slots_only(cls: type[Structure]) -> None:
    assert not hasattr(filled(cls, EMPTY), "__dict__")


@given(any_structure)
def test_round_trips(message: Structure) -> None:
    encoded = message.encode()
    assert encoded == joined(model_pieces(message))
    assert type(message).decode(encoded) == message


@every_class
@pytest.mark.parametrize("values", [EMPTY, MAXIMAL], ids=["empty", "maximal"])
def test_empty_and_maximal_fields(cls: type[Structure], values: dict[str, Any]) -> None:
    """MSG-06"""
    message = filled(cls, values)
    encoded = joined(model_pieces(message))
    assert message.encode() == encoded
    decoded = cls.decode(encoded)
    if all(getattr(message, field.condition) for field in fields_of(cls) if field.condition):
        assert decoded == message
    assert decoded.encode() == encoded


@every_class
def test_decoding_from_any_buffer_copies_and_holds_nothing(cls: type[Structure]) -> None:
    """The receive buffer is trimmed after each message: it must be free again, also on errors."""
    message = cls.decode(joined(model_pieces(filled(cls, MAXIMAL))))
    buffer = bytearray(message.encode())
    from_bytearray = cls.decode(buffer)
    from_view = cls.decode(memoryview(bytes(b"xx" + buffer + b"yy"))[2:-2])
    failed = None
    try:
        cls.decode(buffer + b"\x00")
    except WireError as error:
        failed = error
    buffer[:] = bytes(len(buffer))
    del buffer[:]
    assert from_bytearray == from_view == message
    for field in fields_of(cls):
        if field.kind in ("bytes", "rest", "cookie"):
            assert type(getattr(from_bytearray, field.name)) is bytes
            assert type(getattr(from_view, field.name)) is bytes
    assert failed is None or isinstance(failed, WireError)


@given(any_structure, st.data())
def test_every_prefix_is_refused_or_a_legal_shorter_form(
    message: Structure, data: st.DataObject
) -> None:
    """MSG-38, WIO-20"""
    cls, encoded, ends = type(message), message.encode(), legal_ends(message)
    size = data.draw(st.integers(0, len(encoded) - 1)) if encoded else 0
    if size in ends:
        assert cls.decode(encoded[:size]).encode().startswith(encoded[:size])
    else:
        with pytest.raises(WireError):
            cls.decode(encoded[:size])


@every_class
def test_all_prefixes_of_a_filled_message(cls: type[Structure]) -> None:
    prompts = (Prompt("a", True), Prompt("b", False))
    small = MAXIMAL | {
        "bytes": b"ab",
        "rest": b"cd",
        "names": ("a", "b"),
        "name": "n",
        "text": "é",
        "system": "s\udc80",
        "secret": "p",
        "responses": ("1", "2"),
        "extensions": {"x": b"y"},
        "prompts": prompts,
        "grouped": prompts,
        "request": ChannelRequest(1, "exec", True, b"pay"),
    }
    message = filled(cls, small)
    encoded, ends = message.encode(), legal_ends(message)
    for size in range(len(encoded)):
        if size in ends:
            cls.decode(encoded[:size])
        else:
            with pytest.raises(WireError):
                cls.decode(encoded[:size])


@given(any_structure, st.binary(min_size=1, max_size=8))
def test_trailing_bytes_are_refused(message: Structure, extra: bytes) -> None:
    """HR-03: but for the open-ended ones."""
    cls, encoded = type(message), message.encode()
    if any(role == "open end" for role, _ in model_pieces(message)):
        assert cls.decode(encoded + extra).encode() == encoded + extra
    else:
        with pytest.raises(WireError, match=cls.__name__):
            cls.decode(encoded + extra)


@given(
    st.sampled_from(sorted(LAYOUTS, key=lambda cls: cls.__name__)),
    st.binary(max_size=100),
    st.booleans(),
)
def test_no_bytes_raise_anything_but_our_error(
    cls: type[Structure], garbage: bytes, numbered: bool
) -> None:
    """HR-03"""
    start = bytes([NUMBERS[cls]]) if numbered and issubclass(cls, Message) else b""
    try:
        message = cls.decode(start + garbage)
    except WireError:
        return
    again = cls.decode(message.encode())
    assert again == message


# --- lengths and counts that lie ------------------------------------------------------------------


def lies(message: Structure) -> Iterator[tuple[bytes, int, int]]:
    """Yield the message with each length and count replaced, the lie, and the bytes behind it."""
    encoded, offset = joined(model_pieces(message)), 0
    for role, data in model_pieces(message):
        if role in ("length", "count"):
            truth = int.from_bytes(data, "big")
            behind = len(encoded) - offset - 4
            for lie in {0, 1, truth - 1, truth + 1, 2**31 - 1, 2**31, 2**32 - 1} - {truth, -1}:
                yield encoded[:offset] + struct.pack(">I", lie) + encoded[offset + 4 :], lie, behind
        offset += len(data)


@every_class
def test_lying_lengths_and_counts(cls: type[Structure]) -> None:
    """T-12: a length or count beyond the message is refused, and none allocates by its claim."""
    cases = list(lies(filled(cls, MAXIMAL)))
    tracemalloc.start()
    try:
        for data, lie, behind in cases:
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            refused = False
            try:
                cls.decode(data)
            except WireError:
                refused = True
            peak = tracemalloc.get_traced_memory()[1] - before
            assert refused or lie <= behind
            assert peak < 2 * len(data) + 64 * 1024
    finally:
        tracemalloc.stop()
    has_lengths = any(
        field.kind not in ("u32", "u64", "bool", "cookie", "rest") for field in fields_of(cls)
    )
    assert bool(cases) is has_lengths


@every_class
def test_lies_are_found_out_quickly(cls: type[Structure]) -> None:
    """T-12, HR-04: no loop is as long as a number from the wire says."""
    for data, lie, _ in lies(filled(cls, MAXIMAL)):
        seconds = []
        for _ in range(3):
            start = time.thread_time()
            with contextlib.suppress(WireError):
                cls.decode(data)
            seconds.append(time.thread_time() - start)
        assert min(seconds) < 0.01, lie


def ends_in_a_string(cls: type[Structure]) -> bool:
    roles = [role for role, data in model_pieces(filled(cls, MAXIMAL)) if data]
    return roles[-2:] == ["length", "plain"]


@pytest.mark.parametrize(
    "cls", [cls for cls in LAYOUTS if ends_in_a_string(cls)], ids=lambda cls: cls.__name__
)
def test_the_last_length_must_be_exact(cls: type[Structure]) -> None:
    *before, length, content = (piece for piece in model_pieces(filled(cls, MAXIMAL)) if piece.data)
    truth = len(content.data)
    assert length.data == struct.pack(">I", truth)
    for lie in (0, 1, truth - 1, truth + 1):
        with pytest.raises(WireError):
            cls.decode(joined(before) + struct.pack(">I", lie) + content.data)


def test_data_is_copied_once() -> None:
    body = bytes(256 * 1024)
    for message in (ChannelData(1, body), ChannelExtendedData(1, 1, body)):
        for data in (message.encode(), bytearray(message.encode())):
            tracemalloc.start()
            try:
                type(message).decode(data)
                assert tracemalloc.get_traced_memory()[1] < len(body) + 4096
            finally:
                tracemalloc.stop()


@pytest.mark.parametrize(
    "cls, data, expected",
    [
        (ExtInfo, b"\x07" + wire.uint32(65) + bytes(65 * 8), "at most 64"),
        (ExtInfo, b"\x07" + wire.uint32(3) + bytes(2 * 8), "do not fit"),
        (ExtInfo, b"\x07" + wire.uint32(1) + bytes(4) + wire.string(bytes(16384)), "16384"),
        (UserauthInfoRequest, b"\x3c" + bytes(12) + wire.uint32(17) + bytes(85), "at most 16"),
        (UserauthInfoRequest, b"\x3c" + bytes(12) + wire.uint32(3) + bytes(14), "do not fit"),
        (GroupedUserauthInfoRequest, b"\x3c" + bytes(12) + wire.uint32(17) + bytes(85), "at most"),
        (GroupedUserauthInfoRequest, b"\x3c" + bytes(12) + wire.uint32(3) + bytes(14), "not fit"),
        (UserauthInfoResponse, b"\x3d" + wire.uint32(17) + bytes(17 * 4), "at most 16"),
        (UserauthInfoResponse, b"\x3d" + wire.uint32(16) + bytes(15 * 4), "do not fit"),
        (KexInit, b"\x14" + bytes(16 * 1024), "at most 16384"),
        (UserauthFailure, b"\x33" + wire.string(b",".join([b"a"] * 257)) + b"\0", "256 names"),
    ],
)
def test_bounds_on_counts(cls: type[Message], data: bytes, expected: str) -> None:
    """HR-16, HR-27"""
    with pytest.raises(WireError, match=expected) as caught:
        cls.decode(data)
    assert cls.__name__ in str(caught.value)


# --- golden bytes ---------------------------------------------------------------------------------

RECONNECT = "session-reconnect@microsoft.com"
ALGORITHMS = b"rsa-sha2-256,rsa-sha2-512"
PROMPTS = (Prompt("Password: ", False), Prompt("OTP: ", True), Prompt("PIN: ", False))
FORWARDED = ForwardedTcpip("192.168.1.1", 22, "10.0.0.5", 54321)
QUERY = PublicKeyFields(False, "ecdsa-sha2-nistp256", b"\x01\x02")
INITIAL = InitialChannelRequest(7, ChannelRequest(3, "exec", False))
OPEN_REQUEST = InitialChannelRequest(42, ChannelRequest(7, "shell", True))

GOLDEN: dict[str, tuple[Message, str]] = {
    "disconnect": (Disconnect(11, "bye"), "010000000b0000000362796500000000"),
    "ignore": (Ignore(), "0200000000"),
    "unimplemented": (Unimplemented(256), "0300000100"),
    "debug": (Debug(False, "test"), "0400000000047465737400000000"),
    "service request": (
        ServiceRequest("ssh-userauth"),
        "050000000c7373682d7573657261757468",
    ),
    "service accept": (ServiceAccept("ssh-userauth"), "060000000c7373682d7573657261757468"),
    "ext info": (
        ExtInfo({"server-sig-algs": ALGORITHMS}),
        "07000000010000000f7365727665722d7369672d616c6773000000197273612d736861322d3235362c"
        "7273612d736861322d353132",
    ),
    "ext info without entries": (ExtInfo({}), "0700000000"),
    "newkeys": (NewKeys(), "15"),
    "kexdh init with zero": (KexDhInit(b""), "1e00000000"),
    "userauth success": (UserauthSuccess(), "34"),
    "keep-alive": (
        GlobalRequest("keepalive@openssh.com", True),
        "50000000156b656570616c697665406f70656e7373682e636f6d01",
    ),
    "reconnect request": (
        GlobalRequest(RECONNECT, True, SessionReconnectRequest(b"\x01", 5).encode()),
        "500000001f73657373696f6e2d7265636f6e6e656374406d6963726f736f66742e636f6d01"
        "00000001010000000000000005",
    ),
    "reconnect response": (
        RequestSuccess(SessionReconnectResponse(b"\xaa\xbb", 1).encode()),
        "5100000002aabb0000000000000001",
    ),
    "reconnect failure": (
        RequestFailure(SessionReconnectFailure(2, "no").encode()),
        "5200000002000000026e6f00000002656e",
    ),
    "bare failure": (RequestFailure(), "52"),
    "bare success": (RequestSuccess(), "51"),
    "initial channel request": (
        GlobalRequest("initial-channel-request@microsoft.com", True, INITIAL.encode()),
        "5000000025696e697469616c2d6368616e6e656c2d72657175657374406d6963726f736f66742e636f6d01"
        "000000076200000003000000046578656300",
    ),
    "open channel request": (
        GlobalRequest("open-channel-request", True, OPEN_REQUEST.encode()),
        "50000000146f70656e2d6368616e6e656c2d72657175657374010000002a6200000007"
        "000000057368656c6c01",
    ),
    "channel open": (
        ChannelOpen("session", 0, 1048576, 32768),
        "5a0000000773657373696f6e000000000010000000008000",
    ),
    "window adjust": (ChannelWindowAdjust(3, 524288), "5d0000000300080000"),
    "data": (ChannelData(1, b"hi"), "5e00000001000000026869"),
    "extended data": (
        ChannelExtendedData(2, 1, b"error output"),
        "5f00000002000000010000000c6572726f72206f7574707574",
    ),
    "eof": (messages.ChannelEof(1), "6000000001"),
    "close": (messages.ChannelClose(256), "6100000100"),
    "success": (messages.ChannelSuccess(0), "6300000000"),
    "failure": (messages.ChannelFailure(0), "6400000000"),
    "shell": (ChannelRequest(7, "shell", True), "6200000007000000057368656c6c01"),
    "custom request": (
        ChannelRequest(7, "custom-request", True, bytes.fromhex("deadbeef01020304")),
        "62000000070000000e637573746f6d2d7265717565737401deadbeef01020304",
    ),
    "exec": (
        ChannelRequest(0, "exec", True, ExecRequest("whoami").encode()),
        "62000000000000000465786563010000000677686f616d69",
    ),
    "exit status": (
        ChannelRequest(5, "exit-status", False, ExitStatus(11).encode()),
        "62000000050000000b657869742d737461747573000000000b",
    ),
    "exit signal": (
        ChannelRequest(1, "exit-signal", False, ExitSignal("test", False, "message").encode()),
        "62000000010000000b657869742d7369676e616c000000000474657374"
        "00000000076d65737361676500000000",
    ),
    "signal": (
        ChannelRequest(0, "signal", False, Signal("TERM").encode()),
        "6200000000000000067369676e616c00000000045445524d",
    ),
    "info request, Dev Tunnels layout": (
        GroupedUserauthInfoRequest("auth", "Please respond", "en", PROMPTS),
        "3c00000004617574680000000e506c6561736520726573706f6e6400000002656e000000030000000a"
        "50617373776f72643a20000000054f54503a200000000550494e3a20000100",
    ),
    "info request": (
        UserauthInfoRequest("auth", "Please respond", "en", PROMPTS),
        "3c00000004617574680000000e506c6561736520726573706f6e6400000002656e000000030000000a"
        "50617373776f72643a2000000000054f54503a20010000000550494e3a2000",
    ),
    "info response": (UserauthInfoResponse(("1", "2")), "3d0000000200000001310000000132"),
    "public key query": (
        UserauthRequest("test", "ssh-connection", "publickey", QUERY.encode()),
        "3200000004746573740000000e7373682d636f6e6e656374696f6e000000097075626c69636b657900"
        "0000001365636473612d736861322d6e69737470323536000000020102",
    ),
    "tcpip-forward": (
        GlobalRequest("tcpip-forward", True, TcpipForward("127.0.0.1", 8080).encode()),
        "500000000d74637069702d666f727761726401000000093132372e302e302e3100001f90",
    ),
    "forward success": (RequestSuccess(TcpipForwardSuccess(12345).encode()), "5100003039"),
    "forwarded-tcpip": (
        ChannelOpen("forwarded-tcpip", 1, 1048576, 32768, FORWARDED.encode()),
        "5a0000000f666f727761726465642d74637069700000000100100000000080000000000b"
        "3139322e3136382e312e31000000160000000831302e302e302e350000d431",
    ),
}


@pytest.mark.parametrize("message, expected", GOLDEN.values(), ids=GOLDEN)
def test_golden_bytes(message: Message, expected: str) -> None:
    assert message.encode().hex() == expected
    assert type(message).decode(bytes.fromhex(expected)) == message


SHORTER: dict[str, tuple[Structure, str]] = {
    "disconnect of TypeScript and C#": (Disconnect(11, "bye"), "010000000b00000003627965"),
    "ignore of Go": (Ignore(), "02"),
    "debug without language": (Debug(True, "a"), "04010000000161"),
    "banner without language": (UserauthBanner("a"), "350000000161"),
    "open failure after the reason": (ChannelOpenFailure(1, 2), "5c0000000100000002"),
    "open failure without language": (
        ChannelOpenFailure(1, 2, "a"),
        "5c00000001000000020000000161",
    ),
    "keyboard-interactive of TypeScript and C#": (KeyboardInteractiveFields(), ""),
    "keyboard-interactive without submethods": (KeyboardInteractiveFields("en"), "00000002656e"),
    "reconnect failure of a stranger": (SessionReconnectFailure(101), ""),
    "forward success without port": (TcpipForwardSuccess(0), ""),
    "exit signal without language": (
        ExitSignal("TERM", True, "m"),
        "000000045445524d01000000016d",
    ),
}


@pytest.mark.parametrize("message, data", SHORTER.values(), ids=SHORTER)
def test_what_some_peers_leave_out(message: Structure, data: str) -> None:
    """MSG-09, MSG-10, MSG-36, MSG-40; we always send the whole form."""
    assert type(message).decode(bytes.fromhex(data)) == message
    assert message.encode().startswith(bytes.fromhex(data))
    assert len(message.encode()) > len(bytes.fromhex(data))


def test_payloads_of_golden_messages_are_read_back() -> None:
    """MSG-32 to MSG-35, MSG-39 to MSG-41"""

    def payload(name: str) -> bytes:
        return bytes.fromhex(GOLDEN[name][1])

    assert ExecRequest.decode(ChannelRequest.decode(payload("exec")).payload).command == "whoami"
    reconnect = GlobalRequest.decode(payload("reconnect request"))
    assert SessionReconnectRequest.decode(reconnect.payload) == SessionReconnectRequest(b"\x01", 5)
    initial = GlobalRequest.decode(payload("initial channel request"))
    assert InitialChannelRequest.decode(initial.payload) == INITIAL
    opening = ChannelOpen.decode(payload("forwarded-tcpip"))
    assert ForwardedTcpip.decode(opening.payload) == FORWARDED
    query = UserauthRequest.decode(payload("public key query"))
    assert PublicKeyFields.decode(query.method_fields) == QUERY
    bare = RequestFailure.decode(payload("bare failure"))
    assert SessionReconnectFailure.decode(bare.payload).reason == 101


# --- single behaviours ----------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [*DisconnectReason, 9999, 2**32 - 1])
def test_disconnect_reasons_survive(reason: int) -> None:
    """MSG-07, MSG-08"""
    assert Disconnect.decode(Disconnect(reason, "fermé").encode()) == Disconnect(reason, "fermé")


@pytest.mark.parametrize("reason", [0, *ChannelOpenFailureReason, 2**32 - 1])
def test_open_failure_reasons_survive(reason: int) -> None:
    """MSG-28"""
    failure = ChannelOpenFailure.decode(ChannelOpenFailure(1, reason, "d").encode())
    assert (failure.reason_code, failure.description, failure.language) == (reason, "d", "en")


def test_kexinit_layout() -> None:
    """MSG-14, MSG-15"""
    lists = tuple((f"list{number}",) for number in range(10))
    arguments: list[Any] = [bytes(range(16)), *lists, True, 2**32 - 1]
    message = KexInit(*arguments)
    encoded = message.encode()
    assert encoded[1:17] == bytes(range(16))
    reader = wire.Reader(encoded, 17)
    assert tuple(reader.name_list() for _ in range(10)) == lists
    assert (reader.boolean(), reader.uint32(), reader.remaining) == (True, 2**32 - 1, 0)
    nothing = KexInit(bytes(16), *((),) * 8)
    assert nothing.encode() == b"\x14" + bytes(16) + bytes(40) + bytes(5)


def test_kexinit_of_a_peer_without_security() -> None:
    """A Dev Tunnels peer that offers only none: its payload has 94 bytes."""
    message = KexInit(bytes(16), *(("none",),) * 8)
    assert len(message.encode()) == 94


@pytest.mark.parametrize("size", [0, 15, 17])
def test_the_cookie_has_16_bytes(size: int) -> None:
    with pytest.raises(
        LocalProtocolError, match=rf"KexInit\.cookie: expected 16 bytes, got {size}"
    ):
        KexInit(bytes(size), *((),) * 8).encode()


@pytest.mark.parametrize("value", [0, 2**127, 2**2047])
def test_kexdh_carries_an_mpint(value: int) -> None:
    """MSG-16, MSG-17: the string's content is the content of an mpint."""
    content = wire.mpint(value)[4:]
    assert KexDhInit(content).encode() == b"\x1e" + wire.mpint(value)
    reply = KexDhReply.decode(KexDhReply(b"", content, b"").encode())
    assert int.from_bytes(reply.server_public, "big") == value


def test_password_fields() -> None:
    """MSG-18, RFC 4252 section 8"""
    assert PasswordFields(False, "pw").encode() == b"\x00" + wire.string("pw")
    change = PasswordFields(True, "old", "new")
    assert change.encode() == b"\x01" + wire.string("old") + wire.string("new")
    assert PasswordFields.decode(change.encode()) == change
    with pytest.raises(WireError, match="trailing bytes"):
        PasswordFields.decode(b"\x00" + wire.string("pw") + wire.string("new"))
    with pytest.raises(WireError, match="expected"):
        PasswordFields.decode(b"\x01" + wire.string("pw"))


def test_public_key_fields() -> None:
    """MSG-19, RFC 4252 section 7"""
    proof = PublicKeyFields(True, "ssh-ed25519", b"key", b"signature")
    query = PublicKeyFields(False, "ssh-ed25519", b"key")
    named = wire.string("ssh-ed25519") + wire.string(b"key")
    assert proof.encode() == b"\x01" + named + wire.string(b"signature")
    assert query.encode() == b"\x00" + named
    assert proof.signed_fields() == query.signed_fields() == b"\x01" + named
    with pytest.raises(WireError):
        PublicKeyFields.decode(query.encode() + wire.string(b"signature"))
    with pytest.raises(WireError):
        PublicKeyFields.decode(b"\x01" + named)


def test_host_based_fields() -> None:
    """RFC 4252 section 9"""
    fields = HostBasedFields("ssh-ed25519", b"key", "host.", "user", b"signature")
    assert fields.encode() == fields.signed_fields() + wire.string(b"signature")


@pytest.mark.parametrize("text", ["", "日本語", "пароль"])
def test_user_names_passwords_prompts_and_responses_are_utf8(text: str) -> None:
    """MSG-20, MSG-21, MSG-25, MSG-26"""
    request = UserauthRequest(text, text, text, PasswordFields(False, text).encode())
    decoded = UserauthRequest.decode(request.encode())
    assert (decoded.user_name, decoded.service_name, decoded.method_name) == (text,) * 3
    assert PasswordFields.decode(decoded.method_fields).password == text
    ask = UserauthInfoRequest(text, text, "", (Prompt(text, True),))
    assert UserauthInfoRequest.decode(ask.encode()) == ask
    assert UserauthInfoResponse.decode(UserauthInfoResponse((text,)).encode()).responses == (text,)


@given(st.lists(st.builds(Prompt, st.text(max_size=5), st.booleans()), max_size=1).map(tuple))
def test_both_prompt_layouts_coincide_for_one_prompt(prompts: tuple[Prompt, ...]) -> None:
    """MSG-24"""
    ours = UserauthInfoRequest("n", "i", "l", prompts)
    grouped = GroupedUserauthInfoRequest("n", "i", "l", prompts)
    assert ours.encode() == grouped.encode()
    assert isinstance(grouped, UserauthInfoRequest)
    assert ours != grouped


def test_of_extensions_with_one_name_the_last_counts() -> None:
    """MSG-13"""
    entry = wire.string("a")
    data = b"\x07" + wire.uint32(3) + entry + wire.string("1") + wire.string("b") + wire.string("")
    assert ExtInfo.decode(data + entry + wire.string("2")).extensions == {"a": b"2", "b": b""}


@pytest.mark.parametrize("message", MESSAGES, ids=lambda cls: cls.__name__)
def test_another_number_is_refused_and_told(message: type[Message]) -> None:
    """MSG-37, MSG-38"""
    encoded = filled(message, EMPTY).encode()
    expected, other = NUMBERS[message], NUMBERS[message] ^ 0x80
    told = f"{message.__name__}: expected message {expected}, got {other}"
    with pytest.raises(WireError, match=told):
        message.decode(bytes([other]) + encoded[1:])
    with pytest.raises(WireError, match=f"expected message {expected}, got nothing"):
        message.decode(b"")


def test_a_wire_error_ends_the_connection() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Unimplemented.decode(b"\x03\x00")
    assert caught.value.reason == DisconnectReason.PROTOCOL_ERROR
    assert str(caught.value) == "Unimplemented: expected 4 bytes at offset 1, but only 1 are left"


def test_a_payload_is_read_as_something_more_specific_without_loss() -> None:
    """MSG-29, MSG-43"""
    request = ChannelRequest(1, "exec", True, ExecRequest("ls").encode())
    before = copy.deepcopy(request)
    again = ChannelRequest(
        request.recipient_channel,
        request.request_type,
        request.want_reply,
        ExecRequest.decode(request.payload).encode(),
    )
    assert again == request == before
    assert again.encode() == before.encode()


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x00\x05abc", b"\xff" * 20])
def test_a_missing_or_wrong_forward_payload_is_refused(data: bytes) -> None:
    """MSG-42"""
    for cls in (TcpipForward, ForwardedTcpip, DirectTcpip):
        with pytest.raises(WireError):
            cls.decode(data)


@pytest.mark.parametrize(
    "command", [b"", b"ls", "é日".encode(), b"\xff\xfe", b"\xed\xa0\x80", b"\0"]
)
def test_commands_survive_byte_for_byte(command: bytes) -> None:
    """MSG-30"""
    decoded = ExecRequest.decode(wire.string(command))
    assert decoded.encode() == wire.string(command)
    decoded.command.encode("utf-8", "surrogateescape")
    assert EnvRequest.decode(wire.string(command) * 2).encode() == wire.string(command) * 2


def test_text_for_people_is_mended_and_names_are_not() -> None:
    bad = wire.string(b"a\xffb")
    assert Disconnect.decode(b"\x01" + bytes(4) + bad).description == "a\ufffdb"
    assert UserauthBanner.decode(b"\x35" + bad).message == "a\ufffdb"
    with pytest.raises(WireError, match=r"ServiceRequest: .*UTF-8"):
        ServiceRequest.decode(b"\x05" + bad)


def test_values_that_do_not_fit_are_our_own_error() -> None:
    wrong: list[tuple[Structure, str]] = [
        (Unimplemented(2**32), "Unimplemented.sequence_number"),
        (Unimplemented(-1), "Unimplemented.sequence_number"),
        (ChannelData(2**32, b""), "ChannelData.recipient_channel"),
        (ChannelExtendedData(1, 2**32, b""), "ChannelExtendedData.data_type_code"),
        (ChannelWindowAdjust(1, 2**32), "ChannelWindowAdjust.bytes_to_add"),
        (SessionReconnectRequest(b"", 2**64), "last_received_sequence_number"),
        (ServiceRequest("\ud800"), "ServiceRequest.service_name"),
        (UserauthFailure(("é",)), "authentications_that_can_continue"),
    ]
    for message, where in wrong:
        with pytest.raises(LocalProtocolError, match=where):
            message.encode()


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        PasswordFields(True, SECRET, SECRET),
        UserauthInfoResponse((SECRET, SECRET)),
        UserauthRequest("u", "s", "password", PasswordFields(False, SECRET).encode()),
        SessionReconnectRequest(SECRET.encode(), 1),
        SessionReconnectResponse(SECRET.encode(), 1),
        GlobalRequest("r", True, SECRET.encode()),
        RequestSuccess(SECRET.encode()),
        ChannelData(1, SECRET.encode()),
        ChannelData(1, bytearray(SECRET.encode())),  # type: ignore[arg-type]
        ChannelExtendedData(1, 1, SECRET.encode()),
        ChannelRequest(1, "r", True, SECRET.encode()),
        InitialChannelRequest(1, ChannelRequest(1, "r", True, SECRET.encode())),
        Ignore(SECRET.encode()),
        ExtInfo({"name": SECRET.encode()}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_repr_shows_no_secrets(message: Structure) -> None:
    """HR-71, T-53"""
    shown = repr(message) + str(message)
    assert type(message).__name__ in shown
    for word in SECRET.split():
        assert word not in shown
        assert word.encode().hex() not in shown


def test_repr_shows_what_is_not_secret_on_one_short_line() -> None:
    """HR-06"""
    assert repr(ChannelData(7, b"abc")) == "ChannelData(recipient_channel=7, data=<3 bytes>)"
    assert repr(PasswordFields(True, "a", "b")) == "PasswordFields(change=True)"
    assert repr(KexInit(bytes(16), ("a", "b"), *((),) * 7)).startswith(
        "KexInit(cookie=<16 bytes>, kex_algorithms=('a', 'b'), server_host_key_algorithms=(), "
    )
    hostile = "\x1b[2J\n\u202e" * 100_000
    prompts = (Prompt(hostile, True),)
    for message in (Disconnect(1, hostile), UserauthInfoRequest("", "", "", prompts)):
        assert repr(message).isprintable()
        assert len(repr(message)) < 3000


@pytest.mark.parametrize(
    "message",
    [PasswordFields(False, "\ud800" + SECRET), UserauthInfoResponse((SECRET + "\ud800",))],
    ids=lambda message: type(message).__name__,
)
def test_an_unencodable_secret_stays_out_of_the_error(message: Structure) -> None:
    with pytest.raises(LocalProtocolError, match=r"^\w+\.\w+: cannot be encoded$") as caught:
        message.encode()
    assert_nothing_told(caught.value)


@pytest.mark.parametrize(
    "cls, data",
    [
        (PasswordFields, b"\x00" + wire.string(SECRET.encode() + b"\xff")),
        (UserauthInfoResponse, b"\x3d" + wire.uint32(1) + wire.string(SECRET.encode() + b"\xff")),
    ],
)
def test_an_undecodable_secret_stays_out_of_the_error(cls: type[Structure], data: bytes) -> None:
    with pytest.raises(WireError, match="must be UTF-8") as caught:
        cls.decode(data)
    assert_nothing_told(caught.value)


def assert_nothing_told(error: BaseException | None) -> None:
    """A decoder's error keeps the bytes it failed on, and would be found in the chain."""
    while error is not None:
        assert isinstance(error, SSHError)
        assert not any(word in str(error) for word in SECRET.split())
        error = error.__context__


# --- messages that take a shorter way -------------------------------------------------------------


@given(any_hot_message)
def test_hot_messages_encode_as_declared(message: Structure) -> None:
    assert message.encode() == message.encode_as_declared()


def outcome(decode: Callable[[bytes], Structure], data: bytes) -> Structure | str:
    try:
        return decode(data)
    except WireError as error:
        return str(error)


@given(any_hot_message, st.data())
def test_hot_messages_decode_as_declared(message: Structure, data: st.DataObject) -> None:
    """On whole, cut, extended and altered input: the same message or the same error."""
    cls, encoded = type(message), bytearray(message.encode())
    if data.draw(st.booleans(), "alter"):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    wanted = bytes(encoded) + data.draw(st.sampled_from([b"", b"\x00", bytes(20)]))
    wanted = wanted[: data.draw(st.integers(0, len(wanted)) | st.just(len(wanted)))]
    assert outcome(cls.decode, wanted) == outcome(cls.decode_as_declared, wanted)


@every_hot_class
def test_hot_messages_decode_all_garbage_as_declared(cls: type[Message]) -> None:
    for size in range(24):
        for fill in (0, 1, 94, 95, 93, 255):
            data = bytes([cls.number]) + bytes([fill]) * size
            assert outcome(cls.decode, data) == outcome(cls.decode_as_declared, data)


@given(uint32s, uint32s, st.binary(max_size=40))
def test_headers_for_senders(channel: int, code: int, data: bytes) -> None:
    header = messages.channel_data_header(channel, len(data))
    assert len(header) == 9
    assert header + data == ChannelData(channel, data).encode()
    header = messages.channel_extended_data_header(channel, code, len(data))
    assert len(header) == 13
    assert header + data == ChannelExtendedData(channel, code, data).encode()


# --- declarations ---------------------------------------------------------------------------------


def test_what_can_be_missing_must_come_last() -> None:
    with pytest.raises(TypeError, match="must come last"):

        @declared
        class Wrong(Structure):
            first: str = lenient_text(default="", optional=True)
            second: int = uint32(default=0)


def test_a_declaration_of_ones_own() -> None:
    @declared
    class Ping(Message):
        number = 192

        identifier: int = uint32()
        token: bytes = string(default=b"", secret=True)

    ping = Ping(5, b"abc")
    assert ping.encode() == b"\xc0\x00\x00\x00\x05\x00\x00\x00\x03abc"
    assert Ping.decode(ping.encode()) == ping == Ping(identifier=5, token=b"abc")
    assert repr(ping).endswith("Ping(identifier=5)")
    assert ping != Unimplemented(5)
    match ping:
        case Ping(identifier, token):
            assert (identifier, token) == (5, b"abc")


def test_payload_classes_know_where_they_belong() -> None:
    requests = (
        PtyRequest,
        EnvRequest,
        ExecRequest,
        SubsystemRequest,
        WindowChange,
        Signal,
        ExitStatus,
        ExitSignal,
    )
    assert [cls.request_type for cls in requests] == [
        "pty-req",
        "env",
        "exec",
        "subsystem",
        "window-change",
        "signal",
        "exit-status",
        "exit-signal",
    ]
    assert TcpipForward.request_name == "tcpip-forward"
    assert TcpipForward.cancel_request_name == "cancel-tcpip-forward"
    assert (DirectTcpip.channel_type, ForwardedTcpip.channel_type) == (
        "direct-tcpip",
        "forwarded-tcpip",
    )
