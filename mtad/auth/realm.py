"""The realm: what an authenticated name becomes.

Any ``IRealm`` that gives :class:`~mtad.auth.interfaces.ISubmitter` can stand in for
:class:`SubmissionRealm`; its ``mind`` is a :class:`Login`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.cred.portal import IRealm
from twisted.mail.interfaces import IMessageDelivery
from zope.interface import Interface, implementer

from mtad.auth.credentials import AuthSession
from mtad.auth.interfaces import ISubmitter
from mtad.auth.names import printable_name, split_first


@dataclass(frozen=True, slots=True)
class Login:
    """What the realm may know besides the name: how, whence, and the realm of a name without one."""

    mechanism: str
    default_realm: bytes
    session: AuthSession


@implementer(ISubmitter)
@dataclass(frozen=True, slots=True)
class Submitter:
    """Somebody known by name, whose mail the daemon's own policy and queue handle."""

    username: str
    mechanism: str
    realm: str

    def getMessageDelivery(self) -> IMessageDelivery | None:
        return None


def _forget() -> None:
    """Nothing is kept for a submitter that would have to be given back."""


@implementer(IRealm)
class SubmissionRealm:
    """Everyone with a name may submit."""

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> tuple[type[Interface], object, Callable[[], None]]:
        if ISubmitter not in interfaces or not isinstance(mind, Login) or not isinstance(avatarId, bytes):
            raise TypeError("only authenticated submitters live here")
        realm = split_first(avatarId, mind.default_realm)[1]
        submitter = Submitter(printable_name(avatarId), mind.mechanism, printable_name(realm))
        return ISubmitter, submitter, _forget
