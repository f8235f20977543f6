"""Slow key operations in worker threads, for code that must not block its event loop.

Generating an RSA key takes seconds, and so may a passphrase, which is slow by design; files take as
long as the disk. Each function here has the name, parameters, results and exceptions of one in
``anyssh``, but is awaited::

    key = await anyssh.to_thread.import_key_file("id_ed25519", passphrase)

They run in AnyIO's worker threads, subject to its limiter. A computation cannot be interrupted: a
cancelled call ends when its thread has ended, so nothing keeps running and no file appears later.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Final, ParamSpec, TypeVar

import anyio.to_thread

from . import keys

__all__ = [
    "export_private_key",
    "export_private_key_bytes",
    "export_private_key_file",
    "export_public_key_file",
    "generate_key",
    "import_certificate_file",
    "import_key",
    "import_key_file",
]

P = ParamSpec("P")
T = TypeVar("T")


def _in_thread(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    @wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(partial(function, *args, **kwargs))

    call.__doc__ = f"Call :func:`anyssh.{function.__name__}` in a worker thread."
    return call


generate_key: Final = _in_thread(keys.generate_key)
import_certificate_file: Final = _in_thread(keys.import_certificate_file)
import_key: Final = _in_thread(keys.import_key)
import_key_file: Final = _in_thread(keys.import_key_file)
export_private_key: Final = _in_thread(keys.export_private_key)
export_private_key_bytes: Final = _in_thread(keys.export_private_key_bytes)
export_private_key_file: Final = _in_thread(keys.export_private_key_file)
export_public_key_file: Final = _in_thread(keys.export_public_key_file)
