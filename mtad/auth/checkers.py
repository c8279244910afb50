"""Checkers: from credentials to the canonical name of who may act.

:class:`PasswordChecker` asks its :class:`Verifier` s in the order of ``pwcheck_method`` until one
says OK; when none does, the last one's word counts, as in ``libsasl``.  :class:`ProvenChecker`
takes what a mechanism has proven.  Both refuse to let one act as another, by
:class:`~mtad.auth.credentials.Refused`.

Postfix counterpart: ``sasl_checkpass`` and the authorization step of ``libsasl``.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mtad.auth.credentials import Refused, SASLPassword, SASLProven, authorize
from mtad.auth.interfaces import ISASLPassword, ISASLProven
from mtad.maillog import MailLog, printable
from mtad.net.drive import drive
from mtad.sasl.mechanism import Reason


class Verdict(enum.Enum):
    """What a back end says of a name and password, and what the client hears of it.

    ``NO_USER`` stays apart from ``BAD_PASSWORD`` in here, and is the same to the client.
    """

    OK = None
    BAD_PASSWORD = (Reason.BADAUTH, "wrong password")
    NO_USER = (Reason.BADAUTH, "no such user")
    DOWN = (Reason.FAIL, "back end not available")


class Verifier(Protocol):
    """A back end that can tell whether a password is right."""

    name: str

    async def verify(self, user: bytes, password: bytes, address: str = "") -> Verdict:
        """The verdict on the canonical ``user``.  Logs why when it is DOWN; never raises.

        ``address`` is the client's, with its port: ``192.0.2.1;4000``.
        """


class AlwaysTrue:
    """``pwcheck_method: alwaystrue``: every password is right.  For tests only."""

    name = "alwaystrue"

    def __init__(self, log: MailLog) -> None:
        self._log = log

    async def verify(self, user: bytes, password: bytes, address: str = "") -> Verdict:
        self._log.warning(
            f"SASL authentication problem: AlwaysTrue Password Verifier Verified: {printable(user)}"
        )
        return Verdict.OK


@implementer(ICredentialsChecker)
class PasswordChecker:
    """Names and passwords, by the verifiers in order."""

    credentialInterfaces = (ISASLPassword,)

    def __init__(self, verifiers: Sequence[Verifier]) -> None:
        self.verifiers = tuple(verifiers)

    def requestAvatarId(self, credentials: SASLPassword) -> Deferred[bytes | tuple[()]]:
        done: Deferred[bytes | tuple[()]] = Deferred()
        drive(self._check(credentials), done.callback, done.errback)
        return done

    async def _check(self, credentials: SASLPassword) -> bytes | tuple[()]:
        verdict = Verdict.DOWN
        session = credentials.session
        address = f"{session.client_address};{session.client_port}"
        for verifier in self.verifiers:
            verdict = await verifier.verify(credentials.authcid, credentials.password, address)
            if verdict is Verdict.OK:
                return authorize(credentials.authcid, credentials.authzid)
        raise Refused(verdict.value[0])


@implementer(ICredentialsChecker)
class ProvenChecker:
    """Names that a mechanism has proven."""

    credentialInterfaces = (ISASLProven,)

    def requestAvatarId(self, credentials: SASLProven) -> Deferred[bytes | tuple[()]]:
        return succeed(authorize(credentials.authcid, credentials.authzid))
