"""Has mail written into mailboxes by the process that may do so.

:class:`Mailboxes` speaks with :mod:`mtad.daemon.mailman` over its UNIX socket: a line of JSON that says whose
mailbox, and how many bytes follow; the bytes; and a line of JSON back.  :meth:`Mailboxes.write` gives None
when the mail is safe on the disk, else a :class:`NotWritten`.

Postfix counterpart: ``maildir.c`` of ``local(8)`` and ``virtual(8)``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mtad.config.endpoint import Endpoint
from mtad.config.parameters import Parameters
from mtad.net.connect import connect

#: Seconds for a mail to be written.
_TIMEOUT = 600
_ANSWER_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class NotWritten:
    """Why a mail is not in its mailbox.  ``unknown``: there is no such user."""

    dsn: str
    text: str
    unknown: bool = False


_UNAVAILABLE = NotWritten("4.3.0", "mailbox delivery is unavailable")


@implementer(IPullProducer)
class _Request(Protocol):
    """One mail on its way."""

    transport: Any

    def __init__(self, head: bytes, pieces: Iterator[bytes]) -> None:
        self.done: Deferred[bytes] = Deferred()
        self._head = head
        self._pieces = pieces
        self._answer = b""
        self._over = False

    def connectionMade(self) -> None:
        self.transport.write(self._head)
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        try:
            piece = next(self._pieces, None)
        except Exception:
            self._finish(Failure())
            self.transport.abortConnection()
            return
        if piece is None:
            self.transport.unregisterProducer()
        else:
            self.transport.write(piece)

    def stopProducing(self) -> None:
        """The connection is gone, which we hear of."""

    def dataReceived(self, data: bytes) -> None:
        self._answer = (self._answer + data)[:_ANSWER_LIMIT]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._finish(self._answer)

    def _finish(self, result: bytes | Failure) -> None:
        if not self._over:
            self._over = True
            if isinstance(result, Failure):
                self.done.errback(result)
            else:
                self.done.callback(result)


def mailman_socket(p: Parameters) -> str:
    """Where the process listens that writes mailboxes."""
    return os.path.join(p["mtad_queue_directory"], "mailman")


class Mailboxes:
    """The mailboxes of this host, behind the socket ``path``."""

    def __init__(self, path: str, reactor: Any) -> None:
        self._path = path
        self._reactor = reactor

    async def write(
        self, whose: Mapping[str, object], name: str, pieces: Iterable[bytes], size: int
    ) -> NotWritten | None:
        """Write ``size`` bytes into a mailbox, as a file of that name."""
        return await self._request({**whose, "name": name, "size": size}, pieces)

    async def ask(self, whose: Mapping[str, object]) -> NotWritten | None:
        """Whether mail for that user could be written, as far as can be told."""
        return await self._request({**whose, "name": "probe", "size": 0, "probe": True}, ())

    async def _request(self, what: Mapping[str, object], pieces: Iterable[bytes]) -> NotWritten | None:
        head = json.dumps(what).encode() + b"\n"
        request = _Request(head, iter(pieces))
        try:
            await connect(self._reactor, Endpoint(self._path), request, 30)
        except OSError:
            return _UNAVAILABLE
        answer = await request.done.addTimeout(_TIMEOUT, self._reactor, lambda _result, _timeout: b"")
        try:
            found = json.loads(answer)
            if found.get("ok") is True:
                return None
            return NotWritten(str(found["dsn"]), str(found["text"]), bool(found.get("unknown")))
        except (ValueError, KeyError, AttributeError):
            return _UNAVAILABLE
