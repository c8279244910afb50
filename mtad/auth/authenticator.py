"""Authentication of SMTP clients: which mechanisms there are, and one exchange at a time.

An :class:`Exchange` lives from AUTH to its outcome; each :meth:`Exchange.step` takes one response
as it came over the wire (base64) and gives :class:`Challenge`, :class:`Granted` or
:class:`Denied`.  A step that needs no back end finishes without ever waiting.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtad.auth.interfaces import ISubmitter
from mtad.wire.reply import Reply


@dataclass(frozen=True, slots=True)
class AuthSession:
    """The connection that an exchange belongs to."""

    client_name: str
    client_address: str
    client_port: str
    server_address: str
    server_port: str
    tls: bool


@dataclass(frozen=True, slots=True)
class Challenge:
    """Answer ``334 data`` (base64, maybe empty) and pass on what the client sends."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Granted:
    """Answer ``235 2.7.0 Authentication successful``."""

    avatar: ISubmitter


@dataclass(frozen=True, slots=True)
class Denied:
    """Answer ``reply`` and log ``warning: name[addr]: `` + ``log``."""

    reply: Reply
    log: str
    username: str
