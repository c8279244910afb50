"""Connections to policy services.

:class:`PolicyConnections` is a :class:`mtad.policy.policy_service.Channel`: each request has a connection to
itself while it is answered, connections are kept for the next one as long as ``max_idle``, ``max_ttl`` and
``request_limit`` say, and at most :data:`CONNECTIONS` are open (as many as Postfix has processes, in each of
ours); more requests wait their turn.  After a failure no connection is used again.  Each step, connecting and
the answer, must be done within ``timeout``.

A name in ``inet:name:port`` is looked up by the system's resolver, in a thread.

Postfix counterpart: ``auto_clnt(3)``, ``inet_connect(3)``, ``unix_connect(3)``.
"""

from __future__ import annotations

import codecs
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, ConnectionLost, DNSLookupError, TimeoutError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mtad.policy.policy_service import ExchangeFailed, PolicyOptions

#: Connections to one service.
CONNECTIONS = 100

#: Longest answer.
ANSWER_LIMIT = 65536

#: Seconds until a full listen queue is tried again.
_RETRY = 0.05

#: What becomes of a request on a connection that the server has just closed: it goes by a new one.
_GONE = (0, errno.ECONNRESET)


class _Connection(Protocol):
    """A connection; answers one request at a time."""

    transport: Any

    def __init__(self, pool: PolicyConnections) -> None:
        self._pool = pool
        self._answer: Deferred[bytes] | None = None
        self._data = b""
        self._requests = 0
        self._timer: Any = None
        self.usable = True

    def connectionMade(self) -> None:
        ttl = self._pool.options.max_ttl
        self._expiry = self._pool.reactor.callLater(ttl, self._expire) if ttl > 0 else None

    def ask(self, request: bytes) -> Deferred[bytes]:
        """The answer to ``request``, or :class:`ExchangeFailed`."""
        self._rest()
        self._answer = Deferred()
        self._requests += 1
        self._timer = self._pool.reactor.callLater(self._pool.options.timeout, self._late)
        self.transport.write(request)
        return self._answer

    def dataReceived(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked: we can't know what belongs to what
            self.drop()
            return
        self._data += data
        end = 1 if self._data.startswith(b"\n") else self._data.find(b"\n\n") + 2
        if end != 1 or self._data.startswith(b"\n"):
            limit = self._pool.options.request_limit
            if len(self._data) > end or self._requests >= limit > 0:
                self.usable = False
            self._settle(self._data[:end])
        elif len(self._data) > ANSWER_LIMIT:
            self._settle(ExchangeFailed(errno.EMSGSIZE))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.usable = False
        self._pool.lost(self)
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()
        code = errno.ECONNRESET if isinstance(reason.value, ConnectionLost) else 0
        self._settle(ExchangeFailed(code, partial=bool(self._data)))
        self._rest()

    def idle(self) -> None:
        """Wait for the next request, so long."""
        seconds = self._pool.options.max_idle
        if seconds > 0:
            self._timer = self._pool.reactor.callLater(seconds, self.drop)

    def drop(self) -> None:
        """Hang up."""
        self.usable = False
        self._rest()
        self._pool.lost(self)
        self.transport.abortConnection()

    def _late(self) -> None:
        self._settle(ExchangeFailed(errno.ETIMEDOUT, partial=bool(self._data)))

    def _expire(self) -> None:
        if self._answer is None:
            self.drop()
        else:
            self.usable = False

    def _rest(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _settle(self, outcome: bytes | ExchangeFailed) -> None:
        answer, self._answer, self._data = self._answer, None, b""
        if answer is None:
            return
        self._rest()
        if isinstance(outcome, bytes):
            answer.callback(outcome)
        else:
            self.usable = False
            answer.errback(outcome)


class PolicyConnections:
    """See the module.  ``queue_directory``: what the paths of UNIX sockets are relative to."""

    def __init__(self, reactor: Any, options: PolicyOptions, queue_directory: str) -> None:
        self.reactor = reactor
        self.options = options
        self._directory = queue_directory
        codecs.lookup("idna")  # for names of hosts: now, while we may read all modules
        self._turns = DeferredSemaphore(CONNECTIONS)
        self._idle: list[_Connection] = []

    async def exchange(self, request: bytes, accept: Callable[[bytes], bool]) -> bytes:
        """The answer to ``request``; raises :class:`ExchangeFailed`."""
        await self._turns.acquire()
        try:
            if self._idle:
                try:
                    return await self._ask(self._idle.pop(), request, accept)
                except ExchangeFailed as failure:
                    if failure.partial or failure.code not in _GONE:
                        raise
            return await self._ask(await self._connect(), request, accept)
        finally:
            self._turns.release()

    async def _ask(self, connection: _Connection, request: bytes, accept: Callable[[bytes], bool]) -> bytes:
        try:
            answer = await connection.ask(request)
        except ExchangeFailed:
            connection.drop()
            self.close()
            raise
        if connection.usable and accept(answer):
            self._idle.append(connection)
            connection.idle()
        else:
            connection.drop()
        return answer

    def lost(self, connection: _Connection) -> None:
        """``connection`` is no more."""
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Hang up where no answer is waited for."""
        for connection in list(self._idle):
            connection.drop()

    # -- connecting

    async def _connect(self) -> _Connection:
        if self.options.transport == "inet":
            return await self._connect_inet()
        return await self._connect_unix()

    async def _connect_inet(self) -> _Connection:
        try:
            host, port = _split(self.options.endpoint)
        except OSError as problem:
            raise ExchangeFailed(connecting=True, reason="unknown service") from problem
        kind: Any = HostnameEndpoint
        if isIPAddress(host) or isIPv6Address(host):
            kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
        endpoint = kind(self.reactor, host or "localhost", port, self.options.timeout)
        try:
            connection = await endpoint.connect(_Factory(_Connection(self)))
        except TimeoutError as problem:
            raise ExchangeFailed(errno.ETIMEDOUT, connecting=True) from problem
        except DNSLookupError as problem:
            raise ExchangeFailed(connecting=True, reason="host not found") from problem
        except ConnectError as problem:
            raise ExchangeFailed(problem.osError or errno.EIO, connecting=True) from problem
        assert isinstance(connection, _Connection)
        return connection

    async def _connect_unix(self) -> _Connection:
        """By hand: where the listen queue is full, the reactor's own client would try without pause."""
        path = os.path.join(self._directory, self.options.endpoint)
        deadline = self.reactor.seconds() + self.options.timeout
        while True:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.setblocking(False)
                try:
                    code = client.connect_ex(path)
                except OSError:  # longer than a socket's name can be
                    code = errno.ENAMETOOLONG
                if code == 0:
                    connection = _Connection(self)
                    self.reactor.adoptStreamConnection(client.fileno(), socket.AF_UNIX, _Factory(connection))
                    return connection
            if code != errno.EAGAIN or self.reactor.seconds() >= deadline:
                raise ExchangeFailed(code, connecting=True)
            await deferLater(self.reactor, _RETRY)


class _Factory(Factory):
    noisy = False

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def buildProtocol(self, addr: IAddress | None) -> _Connection:
        return self._connection


def _split(endpoint: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[address]:port``."""
    host, _, port = endpoint.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, int(port) if port.isdigit() else socket.getservbyname(port, "tcp")
