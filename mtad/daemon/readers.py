"""Small things for a reactor to read: wake-up datagrams, connections, a pipe that ends with its writer."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IProtocolFactory, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

#: Datagrams or connections taken in one turn.
_TURN = 256


@implementer(IReadDescriptor)
class _SocketReader:
    """Reads a socket that others made, and that outlives us."""

    def __init__(self, reactor: Any, bound: socket.socket) -> None:
        self._reactor = reactor
        self._socket = bound
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def doRead(self) -> None:
        raise AssertionError("made by a subclass")

    def close(self) -> None:
        """Read no more."""
        self._reactor.removeReader(self)
        self._socket.close()

    def connectionLost(self, reason: Failure) -> None:
        pass

    def logPrefix(self) -> str:
        return type(self).__name__


class DatagramReader(_SocketReader):
    """Calls ``heard`` once for however many datagrams have come."""

    def __init__(self, reactor: Any, bound: socket.socket, heard: Callable[[], object]) -> None:
        self._heard = heard
        super().__init__(reactor, bound)

    def doRead(self) -> None:
        try:
            for _ in range(_TURN):
                self._socket.recv(16)
        except OSError:
            pass
        self._heard()


class Acceptor(_SocketReader):
    """Gives each connection to a listening UNIX socket to ``factory``."""

    def __init__(self, reactor: Any, listener: socket.socket, factory: IProtocolFactory) -> None:
        self._factory = factory
        super().__init__(reactor, listener)

    def doRead(self) -> None:
        try:
            for _ in range(_TURN):
                connection, _address = self._socket.accept()
                with connection:
                    connection.setblocking(False)
                    self._reactor.adoptStreamConnection(connection.fileno(), socket.AF_UNIX, self._factory)
        except OSError:
            pass


@implementer(IReadDescriptor)
class PipeWatch:
    """Calls ``heard`` for what comes through the pipe ``fd``, and ``gone`` when its other end is closed: its
    holder has died."""

    def __init__(
        self, reactor: Any, fd: int, heard: Callable[[], object], gone: Callable[[], object]
    ) -> None:
        self._reactor = reactor
        self._fd = fd
        self._heard = heard
        self._gone = gone
        os.set_blocking(fd, False)
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._fd

    def doRead(self) -> None:
        try:
            if os.read(self._fd, 64):
                self._heard()
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._reactor.removeReader(self)
        self._gone()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has seen the end of the pipe, and nothing to read before it."""
        self._gone()

    def logPrefix(self) -> str:
        return "master"
