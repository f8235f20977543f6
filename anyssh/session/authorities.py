"""Trusted certificate authorities: of users on a server, of hosts on a client.

The checks themselves are :func:`~anyssh.check_user_certificate` and
:func:`~anyssh.check_host_certificate`; this module applies them within a session. Without one of
these policies, certificates are neither requested nor parsed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from typing import Protocol, runtime_checkable

from ..errors import CertificateError, HostKeyError
from ..keys import Certificate, Key, check_host_certificate, check_user_certificate
from .host_keys import HostKeyVerifier, PresentedHostKey, checked_fingerprints

__all__ = ["HostAuthorities", "HostCertificateVerifier", "UserAuthorities"]

PrincipalsFor = Callable[[str], Awaitable[Collection[str]]]


class UserAuthorities:
    """How a server checks user certificates; an argument of :class:`~anyssh.Server`.

    A certificate is valid if it is a user certificate, signed by one of the authorities, within its
    validity period, issued for the user, and free of critical options that nothing enforces. It
    then reaches ``authenticate`` as a :class:`~anyssh.CertificateAttempt`; any other is refused
    before that.

    :param keys: the public keys of the authorities, at least one
    :param principals_for: an async callable that maps a user name to the principals of which a
        certificate must name one; by default just the user name
    :param enforced_options: critical options that the application enforces itself, such as
        ``"force-command"``. ``source-address`` is enforced here, against the stream's remote
        address. Certificates with any other critical option are refused
    :param revoked: fingerprints, ``SHA256:…``, of keys and authorities that are no longer trusted
    :raises ValueError: there is no authority, or a fingerprint is malformed
    """

    def __init__(
        self,
        keys: Iterable[Key],
        *,
        principals_for: PrincipalsFor | None = None,
        enforced_options: Iterable[str] = (),
        revoked: Iterable[str] = (),
    ) -> None:
        self._keys = _authorities(keys)
        self._principals_for = principals_for
        self._enforced_options = frozenset(enforced_options)
        self._revoked = checked_fingerprints(revoked)

    async def check(self, certificate: Certificate, username: str, address: str | None) -> None:
        """Check that a certificate lets a user in; return only if it does.

        :param certificate: the certificate that the client presented
        :param username: the user to log in as
        :param address: the client's address; None if unknown
        :raises CertificateError: it does not; the message says why
        """
        principals: Collection[str] = (username,)
        if self._principals_for is not None:
            principals = await self._principals_for(username)
        check_user_certificate(
            certificate,
            self._keys,
            principals,
            now=time.time(),
            address=address,
            enforced_options=self._enforced_options,
            revoked=self._revoked,
        )


@runtime_checkable
class HostCertificateVerifier(Protocol):
    """A :data:`~anyssh.HostKeyVerifier` that can also verify host certificates.

    The client requests host certificates, in preference to plain keys, if its ``verify_host``
    conforms to this protocol and :attr:`takes_certificates` is true.
    """

    @property
    def takes_certificates(self) -> bool:
        """Whether an authority is trusted to certify this host."""

    async def __call__(self, presented: PresentedHostKey) -> bool:
        """Verify like any verifier; ``presented.certificate`` is a certificate or None.

        :param presented: the key that the server proved to hold
        """


class HostAuthorities:
    """Accepts a server whose certificate, by one of these authorities, names a given host.

    A :class:`HostCertificateVerifier`, for use as ``verify_host``.

    :param keys: the public keys of the authorities, at least one
    :param host: the name or address that the certificate must name, without a port
    :param revoked: fingerprints, ``SHA256:…``, of keys and authorities that are no longer trusted
    :param otherwise: called to verify the plain key of a server without a valid certificate; by
        default such a server is refused
    :raises ValueError: there is no authority or host, or a fingerprint is malformed
    """

    def __init__(
        self,
        keys: Iterable[Key],
        host: str,
        *,
        revoked: Iterable[str] = (),
        otherwise: HostKeyVerifier | None = None,
    ) -> None:
        if not host:
            raise ValueError("a host is needed: the name that its certificate is issued for")
        self._keys = _authorities(keys)
        self._host = host
        self._revoked = checked_fingerprints(revoked)
        self._otherwise = otherwise

    @property
    def takes_certificates(self) -> bool:
        """True: host certificates are requested."""
        return True

    async def __call__(self, presented: PresentedHostKey) -> bool:
        """Return True for the right server.

        :param presented: the key that the server proved to hold
        :raises HostKeyError: it is any other server; the message says why
        """
        key = presented.key
        if key.fingerprint in self._revoked:
            raise _refused(key, "it is revoked")
        try:
            self._check(presented.certificate)
        except CertificateError as error:
            if self._otherwise is None:
                raise _refused(key, str(error)) from error
            return await self._otherwise(replace(presented, certificate=None))
        return True

    def _check(self, certificate: Certificate | None) -> None:
        if certificate is None:
            raise CertificateError(f"the server has no certificate for {self._host!r}")
        check_host_certificate(
            certificate, self._keys, self._host, now=time.time(), revoked=self._revoked
        )


def _authorities(keys: Iterable[Key]) -> frozenset[Key]:
    found = frozenset(keys)
    if not found:
        raise ValueError(
            "at least one authority is needed: the public key that signs the certificates"
        )
    return found


def _refused(key: Key, reason: str) -> HostKeyError:
    return HostKeyError(
        f"the {key.algorithm} host key {key.fingerprint} was not accepted: {reason}",
        key.fingerprint,
        key.algorithm,
    )
