"""Credentials as exchanges end in them, and the error by which a checker refuses them."""

from __future__ import annotations

from dataclasses import dataclass, field

from twisted.cred.error import UnauthorizedLogin
from zope.interface import implementer

from mtad.auth.interfaces import ISASLPassword, ISASLProven
from mtad.net.tls_channel import TLSChannel
from mtad.sasl.mechanism import Reason


@dataclass(frozen=True, slots=True)
class AuthSession:
    """The connection that an exchange belongs to; ``channel`` is there under TLS."""

    client_name: str
    client_address: str
    client_port: str
    server_address: str
    server_port: str
    tls: bool
    channel: TLSChannel | None = None

    @property
    def certificate(self) -> bool:
        """The client has shown a certificate that is trusted."""
        return self.channel is not None and self.channel.trusted


@implementer(ISASLPassword)
@dataclass(frozen=True, slots=True)
class SASLPassword:
    """A password that is still to be checked: of ``authcid``, who wants to act as ``authzid``."""

    authcid: bytes
    authzid: bytes
    password: bytes = field(repr=False)
    session: AuthSession


@implementer(ISASLProven)
@dataclass(frozen=True, slots=True)
class SASLProven:
    """``authcid`` has proven who they are, and wants to act as ``authzid``."""

    authcid: bytes
    authzid: bytes
    session: AuthSession


class Refused(UnauthorizedLogin):
    """Credentials were refused, or could not be checked now: ``reason`` tells which.

    ``note`` is for the operator's log only; ``user`` whom the log names, when not who logged in.
    """

    def __init__(self, reason: Reason, note: str = "", user: bytes = b"") -> None:
        super().__init__(reason.text)
        self.reason = reason
        self.note = note
        self.user = user


def authorize(authcid: bytes, authzid: bytes) -> bytes:
    """The name to act as: nobody acts as another.  Raises :class:`Refused`.

    Postfix counterpart: the default proxy policy of ``libsasl``.
    """
    if authcid != authzid:
        raise Refused(Reason.BADAUTH, "Requested identity not authenticated identity", authzid)
    return authzid
