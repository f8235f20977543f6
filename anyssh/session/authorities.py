"""Whose certificates are believed: for users by a server, for hosts by a client.

The judging itself is done by :func:`~anyssh.check_user_certificate` and
:func:`~anyssh.check_host_certificate`; here it gets the time and its place in a session. Without
one of these policies no certificate is asked for, and none is read.
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
    """What a server demands of users' certificates; given to :class:`~anyssh.Server`.

    A certificate passes if it is about a user, signed by one of the authorities, good at this
    moment, made out to the user, and not restricted in a way that nobody enforces. It then reaches
    ``authenticate`` as a :class:`~anyssh.CertificateAttempt`; all others are refused before.

    :param keys: the public keys of the authorities, at least one
    :param principals_for: asked for the names, one of which a certificate must be made out to for
        this user name; by default the user name itself
    :param enforced_options: critical options that the application itself enforces, such as
        ``"force-command"``; ``source-address`` is enforced here, by the remote address of the
        stream. A certificate with any other is refused
    :param revoked: fingerprints, ``SHA256:…``, of keys and authorities that are believed no more
    :raises ValueError: there is no authority, or a fingerprint has another form
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

        :param certificate: what the client has shown
        :param username: who the client wants to be
        :param address: where the user comes from; None if unknown
        :raises CertificateError: it does not; the text says why
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
    """A :data:`~anyssh.HostKeyVerifier` that can judge host certificates too.

    Host certificates are asked for, in preference to plain keys, when ``verify_host`` is one of
    these and says that it takes them.
    """

    @property
    def takes_certificates(self) -> bool:
        """Whether there is an authority whose word about this host is believed."""

    async def __call__(self, presented: PresentedHostKey) -> bool:
        """Judge as any verifier does; ``presented.certificate`` is a certificate or None."""


class HostAuthorities:
    """Accept the server whose certificate, by one of these authorities, is made out to a host.

    A :class:`HostCertificateVerifier`, to be given as ``verify_host``.

    :param keys: the public keys of the authorities, at least one
    :param host: the name or address that the certificate must be made out to, without a port
    :param revoked: fingerprints, ``SHA256:…``, of keys and authorities that are believed no more
    :param otherwise: asked about the plain key of a server that has no certificate, or none that
        is good; without it such a server is refused
    :raises ValueError: there is no authority or host, or a fingerprint has another form
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
            raise ValueError("a host is needed: the name that its certificate is made out to")
        self._keys = _authorities(keys)
        self._host = host
        self._revoked = checked_fingerprints(revoked)
        self._otherwise = otherwise

    @property
    def takes_certificates(self) -> bool:
        """True: host certificates are asked for."""
        return True

    async def __call__(self, presented: PresentedHostKey) -> bool:
        """Return True for the right server.

        :raises HostKeyError: it is not; the text says why
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
        raise ValueError("at least one authority is needed: the public key of who certifies")
    return found


def _refused(key: Key, reason: str) -> HostKeyError:
    return HostKeyError(
        f"the {key.algorithm} host key {key.fingerprint} was not accepted: {reason}",
        key.fingerprint,
        key.algorithm,
    )
