"""TCP transports that send a reply at once instead of in the reactor's next turn.

Twisted's transports put what is written into a buffer, ask the reactor to tell when the socket can be
written to, and write then: two ``epoll_ctl`` and a turn of the loop for each reply of some forty bytes.
:class:`EagerServer` tries ``send`` first and falls back to Twisted's way for what the kernel does not take,
while something waits in the buffer, while the connection closes and while a pull producer is at work; so
everything a protocol can see is the same.  ``startTLS`` keeps this below TLS, and leaves out the buffer that
Twisted puts above TLS, which would again wait for the next turn.

:func:`adopt` serves a listening socket with them, or, by ``eager=False``, with Twisted's own.  This module
leans on attributes of ``tcp.Server`` that are not quite public; nothing else does.

Postfix counterpart: none; each of its processes writes to one client.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IProtocolFactory, ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import directlyProvides

from mtad.net import openssl

#: The most that a TLS record holds (RFC 8446 section 5.1).
_RECORD = 16384


def _send(connection: EagerServer, data: bytes) -> None:
    """Write to the plain connection, whether or not TLS runs above it."""
    if (
        not data
        or connection._tempDataBuffer
        or connection.dataBuffer
        or not connection.connected
        or connection.disconnecting
        or connection._aborting
        or connection._writeDisconnecting
        or (connection.producer is not None and not connection.streamingProducer)
    ):
        FileDescriptor.write(connection, data)
        return
    try:
        sent = connection.socket.send(data)
    except OSError:
        sent = 0  # full, or broken: then the reactor finds it so and tells the protocol
    if sent < len(data):
        FileDescriptor.write(connection, data[sent:] if sent else data)


class _BelowTLS:
    """What TLS sees as its transport: the connection without TLS."""

    def __init__(self, connection: EagerServer) -> None:
        self._connection: Any = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def write(self, data: bytes) -> None:
        _send(self._connection, data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        _send(self._connection, b"".join(iovec))

    def loseConnection(self) -> None:
        lose: Any = FileDescriptor.loseConnection
        lose(self._connection)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        FileDescriptor.registerProducer(self._connection, producer, streaming)

    def unregisterProducer(self) -> None:
        FileDescriptor.unregisterProducer(self._connection)


class _TLSLayer(TLSMemoryBIOProtocol):
    """Twisted's TLS between a connection and its protocol.

    It does without an aggregate of small writes, does not take over the interfaces of its transport
    one by one: the protocol's transport is the connection, which has them; and it gives the protocol all
    records that arrived together at once.
    """

    def begin(self, connection: SSL.Connection, transport: Any) -> None:
        """Do the handshake of ``connection``."""
        self._tlsConnection: Any = connection
        self._appSendBuffer: list[bytes] = []
        make: Any = Protocol.makeConnection
        make(self, transport)
        layer: Any = self
        layer.factory.registerProtocol(self)
        layer._checkHandshakeStatus()

    def _flushSendBIO(self) -> None:
        """Send what there is to be sent; Twisted learns by an exception that there is nothing."""
        layer: Any = self
        if waiting := openssl.outgoing(self._tlsConnection):
            layer.transport.write(self._tlsConnection.bio_read(waiting))

    def _flushReceiveBIO(self) -> None:
        """Decrypt what has arrived, and give it on; Twisted gives record by record."""
        layer: Any = self
        connection = self._tlsConnection
        records: list[bytes] = []
        ending: Failure | None = None
        over = False
        while not (over or layer._lostTLSConnection):
            try:
                records.append(connection.recv(_RECORD))
                if not openssl.incoming(connection):
                    break
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                over = True
            except SSL.Error:
                over, ending = True, Failure()
        if records and not layer._aborted:
            give: Any = ProtocolWrapper.dataReceived
            give(self, records[0] if len(records) == 1 else b"".join(records))
        if over and not layer._lostTLSConnection:
            if ending is None:
                layer._shutdownTLS()
            layer._tlsShutdownFinished(ending)
        layer._flushSendBIO()


#: Twisted's layers belong to a factory; ours share this one.
_LAYERS: Any = WrappingFactory(Factory())


class EagerServer(tcp.Server):
    """A server's connection that sends at once."""

    protocol: Any
    streamingProducer: bool

    def __init__(self, sock: socket.socket, *rest: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(sock, *rest)

    def write(self, data: bytes) -> None:
        if not self.TLS:
            _send(self, data)
        elif self.connected:
            self.protocol.write(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        self.write(b"".join(iovec))

    def getHandle(self) -> Any:
        """The socket, or the connection of TLS."""
        return self.protocol.getHandle() if self.TLS else self.socket

    def getPeerCertificate(self) -> Any:
        """The peer's certificate, within TLS."""
        return self.protocol.getPeerCertificate()

    def startTLS(self, ctx: Any, normal: bool = True) -> None:
        """Begin TLS as the server or, if not ``normal``, as the client; ``ctx`` makes the connection
        (``IOpenSSLServerConnectionCreator``, ``IOpenSSLClientConnectionCreator``)."""
        this: Any = self
        producer = self.producer
        if producer is not None:
            this.unregisterProducer()
        make_layer: Any = _TLSLayer
        layer = self.protocol = make_layer(_LAYERS, self.protocol, False)
        directlyProvides(self, ISSLTransport)
        this.TLS = True
        if normal:
            connection = ctx.serverConnectionForTLS(layer)
            connection.set_accept_state()
        else:
            connection = ctx.clientConnectionForTLS(layer)
            connection.set_connect_state()
        layer.begin(connection, _BelowTLS(self))
        if producer is not None:
            this.registerProducer(producer, self.streamingProducer)


class EagerPort(tcp.Port):
    """A listening port whose connections are :class:`EagerServer`."""

    transport: Any = EagerServer


def adopt(
    reactor: Any, listener: socket.socket, factory: IProtocolFactory, *, eager: bool = True
) -> tcp.Port:
    """Accept connections from a listening socket, which other processes may share.

    The port has a descriptor of its own: ``listener`` may be closed, and ``stopListening()`` ends
    this process's part only.
    """
    kind: Any = EagerPort if eager else tcp.Port
    port: tcp.Port = kind._fromListeningDescriptor(reactor, listener.fileno(), listener.family, factory)
    port.startListening()
    return port
