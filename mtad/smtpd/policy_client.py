"""Connections to policy services.

:class:`PolicyConnections` is a :class:`mtad.policy.policy_service.Channel`: each request has a connection to
itself while it is answered, connections are kept for the next one as long as ``max_idle``, ``max_ttl`` and
``request_limit`` say, and at most :data:`CONNECTIONS` are open (as many as Postfix has processes, in each of
ours); more requests wait their turn.  After a failure no connection is used again.  Each step, connecting and
the answer, must be done within ``timeout``.

Postfix counterpart: ``auto_clnt(3)``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from mtad.config.endpoint import Endpoint
from mtad.errors import ConfigError
from mtad.net.connect import connect
from mtad.policy.policy_service import ExchangeFailed, PolicyOptions

#: Connections to one service.
CONNECTIONS = 100

#: Longest answer.
ANSWER_LIMIT = 65536

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

    async def _connect(self) -> _Connection:
        options = self.options
        try:
            if options.transport == "inet":
                endpoint = Endpoint.parse_inet(options.endpoint)
            else:
                endpoint = Endpoint(os.path.join(self._directory, options.endpoint))
            return await connect(self.reactor, endpoint, _Connection(self), options.timeout)
        except ConfigError as problem:
            raise ExchangeFailed(connecting=True, reason=problem.reason) from problem
        except OSError as problem:
            code = problem.errno or errno.EIO
            raise ExchangeFailed(code, connecting=True, reason=problem.strerror or "") from problem
