"""JSON Web Keys: RFC 7517, RFC 7518 section 6 for RSA and EC, RFC 8037 for Ed25519.

The member ``comment`` is not standard. Older Dev Tunnels peers write and require SSH's curve names
(``nistp384``) in place of the standard ones (``P-384``): both are read, and the former can be
written on request.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from ..errors import KeyFormatError
from ._schemes import CURVES, ED25519, RSA, EcdsaScheme
from .armor import decode_base64, tidy
from .key import Key
from .pairs import ecdsa_pair, ed25519_pair, rsa_pair

__all__ = ["read", "write_private", "write_public"]

_STANDARD_NAMES: Final = {"nistp256": "P-256", "nistp384": "P-384", "nistp521": "P-521"}
_CURVES: Final = {
    name: scheme
    for scheme in CURVES
    for name in (scheme.curve_name, _STANDARD_NAMES[scheme.curve_name])
}


def read(text: str) -> Key:
    """Read a key, or a key pair if the private members are present.

    :raises KeyFormatError: it is not a key of a supported type
    """
    members = _parse(text)
    match members.get("kty"):
        case "RSA":
            key = _read_rsa(members)
        case "EC":
            key = _read_ec(members)
        case "OKP":
            key = _read_ed25519(members)
        case _:
            raise KeyFormatError("JWK: the member kty must be RSA, EC or OKP")
    comment = members.get("comment", "")
    if not isinstance(comment, str):
        raise KeyFormatError("JWK: the member comment must be text")
    return key.with_comment(tidy(comment))


def _parse(text: str) -> dict[str, Any]:
    try:
        members = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise KeyFormatError("JWK: not JSON") from None
    if not isinstance(members, dict):
        raise KeyFormatError("JWK: expected a JSON object")
    return members


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise KeyFormatError("JWK: a member occurs twice")
    return members


def _bytes(members: dict[str, Any], name: str) -> bytes:
    value = members.get(name)
    if not isinstance(value, str):
        raise KeyFormatError(f"JWK: the member {name} is missing or not text")
    if not value.isascii() or not value.replace("-", "").replace("_", "").isalnum():
        raise KeyFormatError(f"JWK: the member {name} is not base64url")
    return decode_base64(value.replace("-", "+").replace("_", "/") + "=" * (-len(value) % 4))


def _number(members: dict[str, Any], name: str) -> int:
    return int.from_bytes(_bytes(members, name), "big")


def _read_rsa(members: dict[str, Any]) -> Key:
    modulus, exponent = _number(members, "n"), _number(members, "e")
    if "d" not in members:
        return Key.from_cryptography(RSA.public_from_numbers(modulus, exponent))
    if "oth" in members:
        raise KeyFormatError("JWK: RSA keys of more than two primes are not supported")
    return rsa_pair(
        modulus=modulus,
        public_exponent=exponent,
        private_exponent=_number(members, "d"),
        prime1=_number(members, "p"),
        prime2=_number(members, "q"),
        exponent1=_number(members, "dp"),
        exponent2=_number(members, "dq"),
        coefficient=_number(members, "qi"),
    )


def _read_ec(members: dict[str, Any]) -> Key:
    name = members.get("crv")
    curve = _CURVES.get(name) if isinstance(name, str) else None
    if curve is None:
        raise KeyFormatError("JWK: the member crv must be P-256, P-384 or P-521")
    size = curve.coordinate_size
    point = b"\x04"
    for coordinate in ("x", "y"):
        point += _bytes(members, coordinate).rjust(size, b"\0")
    public = curve.public_from_point(point)
    if "d" not in members:
        return Key.from_cryptography(public)
    return ecdsa_pair(curve, _number(members, "d"), point)


def _read_ed25519(members: dict[str, Any]) -> Key:
    if members.get("crv") != "Ed25519":
        raise KeyFormatError("JWK: of the type OKP, only Ed25519 is supported")
    public = _bytes(members, "x")
    if "d" in members:
        return ed25519_pair(_bytes(members, "d"), public)
    return Key.from_cryptography(ED25519.public_from_bytes(public))


def write_public(key: Key, legacy_curve_names: bool = False) -> str:
    """Write the public members, also of a key pair."""
    return _write(key, _public_members(key, legacy_curve_names))


def write_private(key: Key, legacy_curve_names: bool = False) -> str:
    """Write a key pair; the format has no encryption."""
    members = _public_members(key, legacy_curve_names)
    private = key.to_cryptography()
    if key.algorithm == "ssh-rsa":
        numbers = private.private_numbers()
        members |= {
            "d": _integer(numbers.d),
            "p": _integer(numbers.p),
            "q": _integer(numbers.q),
            "dp": _integer(numbers.dmp1),
            "dq": _integer(numbers.dmq1),
            "qi": _integer(numbers.iqmp),
        }
    elif key.algorithm == "ssh-ed25519":
        members["d"] = _text(private.private_bytes_raw())
    else:
        size = (key.bits + 7) // 8
        members["d"] = _text(private.private_numbers().private_value.to_bytes(size, "big"))
    return _write(key, members)


def _public_members(key: Key, legacy_curve_names: bool) -> dict[str, str]:
    public = key.public().to_cryptography()
    if key.algorithm == "ssh-rsa":
        numbers = public.public_numbers()
        return {"kty": "RSA", "n": _integer(numbers.n), "e": _integer(numbers.e)}
    if key.algorithm == "ssh-ed25519":
        return {"kty": "OKP", "crv": "Ed25519", "x": _text(public.public_bytes_raw())}
    curve: EcdsaScheme = _CURVES[key.algorithm.removeprefix("ecdsa-sha2-")]
    point = curve.point(public)
    middle = 1 + curve.coordinate_size
    name = curve.curve_name if legacy_curve_names else _STANDARD_NAMES[curve.curve_name]
    return {"kty": "EC", "crv": name, "x": _text(point[1:middle]), "y": _text(point[middle:])}


def _write(key: Key, members: dict[str, str]) -> str:
    if key.comment:
        members["comment"] = tidy(key.comment)
    return json.dumps(members, indent="\t") + "\n"


def _integer(value: int) -> str:
    return _text(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
