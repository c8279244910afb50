"""One DNS question to one server, by UDP or by TCP.

:func:`ask_udp` and :func:`ask_tcp` end with what ``accept`` makes of an answer, or with None when the
time is up or the server cannot be reached; they raise nothing.  What ``accept`` refuses (by None) was not
meant for us and is passed over.

RFC 1035 section 4.2, RFC 5452 section 4 (an answer comes from the address and port that was asked: the
socket is connected).  Postfix counterpart: none, glibc's ``res_send.c``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, DatagramProtocol, Protocol, connectionDone
from twisted.python.failure import Failure

T = TypeVar("T")
Accept = Callable[[bytes], T | None]

#: Largest UDP answer without EDNS is 512 bytes; a server that sends more is heard all the same.
_DATAGRAM_LIMIT = 4096


class _Question(Generic[T]):
    """A question in flight: ends once, by :meth:`answer` or :meth:`give_up`."""

    def __init__(self, query: bytes, accept: Accept[T]) -> None:
        self.query = query
        self.result: Deferred[T | None] = Deferred()
        self._accept = accept
        self._done = False

    def answer(self, data: bytes) -> None:
        if not self._done:
            found = self._accept(data)
            if found is not None:
                self._end(found)

    def give_up(self) -> None:
        if not self._done:
            self._end(None)

    def _end(self, found: T | None) -> None:
        self._done = True
        self.result.callback(found)


class _Datagram(DatagramProtocol, Generic[T]):
    def __init__(self, question: _Question[T], host: str, port: int) -> None:
        self._question = question
        self._server = (host, port)

    def startProtocol(self) -> None:
        transport: Any = self.transport
        try:
            transport.connect(*self._server)
            transport.write(self._question.query)
        except OSError:  # no way there; the port is closed as after an answer
            self._question.give_up()

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        self._question.answer(datagram)

    def connectionRefused(self) -> None:
        self._question.give_up()

    def stopProtocol(self) -> None:
        # under epoll a refusal by ICMP ends the port
        self._question.give_up()


async def ask_udp(
    reactor: Any, server: tuple[str, int], query: bytes, accept: Accept[T], timeout: float
) -> T | None:
    """Ask by UDP, from a port that the kernel picks at random for this question alone."""
    question = _Question(query, accept)
    interface = "::" if ":" in server[0] else ""
    try:
        port = reactor.listenUDP(0, _Datagram(question, *server), interface, _DATAGRAM_LIMIT)
    except (CannotListenError, OSError):
        return None
    timer = reactor.callLater(timeout, question.give_up)
    try:
        return await question.result
    finally:
        if timer.active():
            timer.cancel()
        port.stopListening()


class _Stream(Protocol, Generic[T]):
    def __init__(self, question: _Question[T]) -> None:
        self._question = question
        self._buffer = b""

    def connectionMade(self) -> None:
        query = self._question.query
        assert self.transport is not None
        self.transport.write(len(query).to_bytes(2, "big") + query)

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2:
            end = int.from_bytes(self._buffer[:2], "big") + 2
            if len(self._buffer) < end:
                return
            message, self._buffer = self._buffer[2:end], self._buffer[end:]
            self._question.answer(message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._question.give_up()


class _StreamFactory(ClientFactory, Generic[T]):
    noisy = False

    def __init__(self, question: _Question[T]) -> None:
        self._question = question

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Stream(self._question)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        self._question.give_up()


async def ask_tcp(
    reactor: Any, server: tuple[str, int], query: bytes, accept: Accept[T], timeout: float
) -> T | None:
    """Ask by TCP."""
    question = _Question(query, accept)
    connector = reactor.connectTCP(*server, _StreamFactory(question), timeout=timeout)
    timer = reactor.callLater(timeout, question.give_up)
    try:
        return await question.result
    finally:
        if timer.active():
            timer.cancel()
        connector.disconnect()
