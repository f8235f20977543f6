"""Keys: generating, reading, writing, signing and verifying.

:class:`Key` and :func:`generate_key` are in :mod:`~anyssh.keys.key`; the formats of key files in
:mod:`~anyssh.keys.formats` and one module each; certificates in :mod:`~anyssh.keys.certificate`.
cryptography is imported with the first key.
"""

from __future__ import annotations

from .certificate import (
    Certificate,
    CertificateType,
    Identity,
    check_host_certificate,
    check_user_certificate,
    import_certificate,
    import_certificate_file,
    key_of,
    read_identity,
    signature_algorithm,
    with_certificates,
)
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
from .key import SIGNATURE_ALGORITHMS, CryptographyKey, Key, generate_key, key_type_for

__all__ = [
    "SIGNATURE_ALGORITHMS",
    "Certificate",
    "CertificateType",
    "CryptographyKey",
    "Identity",
    "Key",
    "KeyFormat",
    "check_host_certificate",
    "check_user_certificate",
    "export_private_key",
    "export_private_key_bytes",
    "export_private_key_file",
    "export_public_key",
    "export_public_key_bytes",
    "export_public_key_file",
    "generate_key",
    "import_certificate",
    "import_certificate_file",
    "import_key",
    "import_key_file",
    "import_public_key",
    "key_of",
    "key_type_for",
    "read_identity",
    "signature_algorithm",
    "with_certificates",
]
