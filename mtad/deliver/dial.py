"""TCP connections to servers that send at once: :mod:`mtad.net.eager`, for the side that connects.

:func:`connector_of` gives what makes connections with a reactor; it has the signature of ``connectTCP``.

Postfix counterpart: none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

from twisted.internet import tcp
from twisted.internet.posixbase import PosixReactorBase

from mtad.net.eager import EagerServer

ConnectTCP = Callable[..., Any]


class EagerClient(tcp.Client):
    """A connection to a server that sends at once."""

    write: Any = EagerServer.write
    writeSequence: Any = EagerServer.writeSequence
    getHandle: Any = EagerServer.getHandle
    getPeerCertificate: Any = EagerServer.getPeerCertificate
    streamingProducer: bool

    @property
    def unsent(self) -> int:
        """How much of what was written has not arrived yet, so far as the kernel knows."""
        connection: Any = self
        waiting = len(connection.dataBuffer) - int(connection.offset) + int(connection._tempDataLen)
        try:
            answer = ioctl(connection.socket.fileno(), TIOCOUTQ, b"\0\0\0\0")
        except OSError:
            return waiting
        return waiting + int.from_bytes(answer, sys.byteorder)

    def startTLS(self, ctx: Any, normal: bool = True) -> None:
        """Begin TLS, as the client unless not ``normal``."""
        start: Any = EagerServer.startTLS
        start(self, ctx, not normal)


class EagerConnector(tcp.Connector):
    """Connects, and makes an :class:`EagerClient` of it."""

    def _makeTransport(self) -> EagerClient:
        this: Any = self
        make: Any = EagerClient
        client: EagerClient = make(this.host, this.port, this.bindAddress, self, this.reactor)
        return client


def connector_of(reactor: Any) -> ConnectTCP:
    """``reactor.connectTCP``, or where its sockets are real, one whose transports are eager."""
    if not isinstance(reactor, PosixReactorBase):
        plain: ConnectTCP = reactor.connectTCP
        return plain

    def connect(
        host: str, port: int, factory: Any, timeout: float | None = 30, bindAddress: Any = None
    ) -> EagerConnector:
        make: Any = EagerConnector
        connector: EagerConnector = make(host, port, factory, timeout, bindAddress, reactor)
        connector.connect()
        return connector

    return connect
