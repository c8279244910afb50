"""One connection to a milter: packets out, packets in, with time limits.

:meth:`Link.read` waits for the next packet and :meth:`Link.drained` for a filter that does not take
what it is sent.  What goes wrong is a :class:`LinkError` with the system's words.

Postfix counterpart: the ``VSTREAM`` of ``milter8.c``.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mtad.smtpd.milter.wire import BadPacket, PacketReader

#: Packets that were not asked for and wait; a filter answers one event at a time, except at the end of
#: a message, where each of its changes is a packet.
_AHEAD = 64


class LinkError(Exception):
    """The connection can't be used any more; the text says why."""


@implementer(IPushProducer)
class Link(Protocol):
    """See the module."""

    transport: Any

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._reader = PacketReader()
        self._packets: deque[tuple[bytes, bytes]] = deque()
        self._waiting: Deferred[None] | None = None  # for a packet
        self._choked: Deferred[None] | None = None
        self._end: str = ""  # why there will be nothing more

    # -- from Twisted

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        if self._end:
            return
        try:
            self._packets.extend(self._reader.receive(data))
        except BadPacket as problem:
            self._finish(str(problem))
            return
        if len(self._packets) > _AHEAD:
            self.transport.pauseProducing()
        if self._packets:
            self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._finish("")

    def pauseProducing(self) -> None:
        if self._choked is None:
            self._choked = Deferred()

    def resumeProducing(self) -> None:
        choked, self._choked = self._choked, None
        if choked is not None and not choked.called:
            choked.callback(None)

    def stopProducing(self) -> None:
        self.resumeProducing()

    # -- for the filter's client

    def write(self, data: bytes) -> None:
        """Send; :meth:`drained` says when there is room for more."""
        if not self._end:
            self.transport.write(data)

    async def drained(self, seconds: float) -> None:
        """Wait until the filter has taken what was sent.  Raises LinkError."""
        if self._choked is not None:
            await self._limited(self._choked, seconds)

    async def read(self, seconds: float) -> tuple[bytes, bytes]:
        """The next packet, at most ``seconds`` from now.  Raises LinkError."""
        while not self._packets:
            if self._end:
                raise LinkError(self._end)
            self._waiting = Deferred()
            try:
                await self._limited(self._waiting, seconds)
            finally:
                self._waiting = None
        found = self._packets.popleft()
        if len(self._packets) == _AHEAD and not self._end:
            self.transport.resumeProducing()
        return found

    def close(self, last: bytes = b"") -> None:
        """End the connection, with a ``last`` packet."""
        if self._end:
            return
        if last:
            self.transport.write(last)
        self._finish("closed")

    # -- inside

    async def _limited(self, waiting: Deferred[None], seconds: float) -> None:
        waiting.addTimeout(seconds, self._clock)
        try:
            await waiting
        except TimeoutError:
            self._finish(os.strerror(110))
            raise LinkError(self._end) from None

    def _finish(self, why: str) -> None:
        if self._end:
            return
        self._end = why or "Application error"  # Postfix' words where the system has none
        self.transport.unregisterProducer()
        if why and why != "closed":
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()
        self.resumeProducing()
        self._wake()

    def _wake(self) -> None:
        waiting = self._waiting
        if waiting is not None and not waiting.called:
            waiting.callback(None)
