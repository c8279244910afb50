"""Reading the PROXY header from a connection before anything else reads from it.

:func:`ends_of` tells who is connected with whom.  :func:`proxied` looks at what has arrived and takes the
header alone, so that TLS can begin right behind it; it gives None for a connection of the proxy itself.  Both
raise
:class:`~mtad.net.proxy_protocol.ProxyError` for a bad header, a time-out or a connection that ends.

Postfix counterpart: ``smtpd_haproxy.c``.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from mtad.net.hosts import PeerName
from mtad.net.proxy_protocol import LONGEST, Proxied, ProxyError, ProxyHeader
from mtad.wire.logtext import escaped

if TYPE_CHECKING:
    from mtad.smtpd.service import SmtpdService


#: Where it cannot be known.
UNKNOWN_ENDS = Proxied("unknown", "unknown", "unknown", "unknown")
UNKNOWN_PEER = PeerName("unknown")


async def ends_of(transport: Any, service: SmtpdService) -> Proxied:
    """Who is connected with whom.  Raises ProxyError."""
    ends = None
    if service.settings.upstream_proxy:
        known = service.engine_settings
        header = ProxyHeader(known.ipv4, known.ipv6)
        ends = await proxied(transport, service.reactor, header, service.settings.upstream_proxy_timeout)
    if ends is None:
        peer, host = transport.getPeer(), transport.getHost()
        ends = Proxied(peer.host, str(peer.port), host.host, str(host.port))
    return ends


async def proxied(transport: Any, reactor: Any, header: ProxyHeader, timeout: float) -> Proxied | None:
    """The connection behind ``transport``, whose reading is paused."""
    transport.pauseProducing()
    reader = _Reader(transport.socket.dup(), header)
    reactor.addReader(reader)
    clock = reactor.callLater(timeout, reader.end, ProxyError("haproxy read: timeout error"))
    try:
        await reader.done
    finally:
        reactor.removeReader(reader)
        reader.connection.close()
        if clock.active():
            clock.cancel()
    return header.ends


@implementer(IReadDescriptor)
class _Reader:
    """Looks at a connection while Twisted's own transport does not."""

    def __init__(self, connection: socket.socket, header: ProxyHeader) -> None:
        self.connection = connection
        self.done: Deferred[None] = Deferred()
        self._header = header

    def fileno(self) -> int:
        return self.connection.fileno()

    def logPrefix(self) -> str:
        return "PROXY"

    def connectionLost(self, reason: object) -> None:
        self.end(ProxyError("haproxy read: EOF"))

    def doRead(self) -> None:
        try:
            seen = self.connection.recv(LONGEST, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as problem:
            self.end(ProxyError(f"haproxy read: {problem.strerror}"))
            return
        if not seen:
            self.end(ProxyError("haproxy read: EOF"))
            return
        try:
            taken = self._header.take(seen)
        except ProxyError as problem:
            self.end(ProxyError(f"haproxy read: {problem}: {escaped(self._header.data + seen)}"))
            return
        self.connection.recv(taken)
        if self._header.complete:
            self.end(None)

    def end(self, problem: ProxyError | None) -> None:
        """The header is there, or will not be."""
        if self.done.called:
            return
        if problem is None:
            self.done.callback(None)
        else:
            self.done.errback(problem)
