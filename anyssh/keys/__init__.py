"""Keys: made, read, written, signed with and verified with.

:class:`Key` and :func:`generate_key` stand in :mod:`~anyssh.keys.key`, the formats of key files in
:mod:`~anyssh.keys.formats` and one module for each. cryptography is loaded with the first key.
"""

from __future__ import annotations

from .formats import (
    KeyFormat,
    export_private_key,
    export_private_key_bytes,
    export_private_key_file,
    export_public_key,
    export_public_key_bytes,
    export_public_key_file,
    import_key,
    import_key_file,
    import_public_key,
)
from .key import SIGNATURE_ALGORITHMS, Key, generate_key, key_type_for

__all__ = [
    "SIGNATURE_ALGORITHMS",
    "Key",
    "KeyFormat",
    "export_private_key",
    "export_private_key_bytes",
    "export_private_key_file",
    "export_public_key",
    "export_public_key_bytes",
    "export_public_key_file",
    "generate_key",
    "import_key",
    "import_key_file",
    "import_public_key",
    "key_type_for",
]
