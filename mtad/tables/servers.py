"""Several SQL servers that hold the same: which one to ask, and what to do when one is dead.

:class:`Servers` prefers a connection that is there already, then UNIX sockets, then the network, and
chooses among equals at random.  A server that fails is left alone for ``retry_interval`` seconds, and the
next one is asked; a single server gets a second try at once, since it may be a load balancer.  When none
answers, ``ask`` raises :class:`~mtad.errors.TableError`.  A connection that breaks after it was in use
before tells nothing about its server (it may have been restarted): then a new one is made.

Called from several threads at a time.  Postfix counterpart: ``dict_pgsql.c``, ``dict_mysql.c``.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mtad.errors import TableError
from mtad.tables.blocking import IdlePool
from mtad.tables.settings import Settings

C = TypeVar("C")
T = TypeVar("T")

#: Seconds to wait for a connection, and for the answer to a query.
CONNECT_TIMEOUT = 10
QUERY_TIMEOUT = 30

UNIX, INET, URI = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Address:
    """One of ``hosts``: a socket's path, a host's name and port, or a URI, which is never shown."""

    kind: int
    name: str = field(repr=False)
    port: str = ""

    @property
    def label(self) -> str:
        return "(URI)" if self.kind == URI else self.name or "localhost"


@dataclass(slots=True, eq=False)
class _Server(Generic[C]):
    address: Address
    idle: IdlePool[C]
    down_until: float = 0.0


class Servers(Generic[C]):
    """The servers of one table.

    ``connect`` makes a connection and ``close`` ends one; they, and what ``ask`` is given, raise TableError.
    """

    def __init__(
        self,
        kind: str,
        addresses: Sequence[Address],
        settings: Settings,
        connect: Callable[[Address], C],
        close: Callable[[C], object],
        warn: Callable[[str], None],
    ) -> None:
        self._kind = kind
        self._connect = connect
        self._close = close
        self._warn = warn
        self._retry = settings.number("retry_interval", 60, 1)
        idle = settings.number("idle_interval", 60, 1)
        if len(addresses) == 1:
            addresses = [*addresses, *addresses]
        self._servers = [_Server(address, IdlePool(close, idle)) for address in addresses]

    def ask(self, query: Callable[[C], T]) -> T:
        """The result of ``query``, which is called with a connection."""
        problem: TableError | None = None
        while True:
            found = self._idle()
            used = found is not None
            if found is None:
                found = self._fresh(problem)
            server, connection = found
            try:
                result = query(connection)
            except BaseException as error:
                self._close(connection)
                if not isinstance(error, TableError):
                    raise
                problem = error
                if used:
                    server.idle.clear()
                else:
                    self._failed(server, f"{self._kind} query failed: host {server.address.label}: {error}")
            else:
                server.idle.give(connection)
                return result

    def shut(self) -> None:
        """Hang up everywhere."""
        for server in self._servers:
            server.idle.shut()

    def _idle(self) -> tuple[_Server[C], C] | None:
        for server in self._in_order(self._servers):
            connection = server.idle.take()
            if connection is not None:
                return server, connection
        return None

    def _fresh(self, problem: TableError | None) -> tuple[_Server[C], C]:
        now = time.monotonic()
        for server in self._in_order([server for server in self._servers if server.down_until <= now]):
            try:
                return server, self._connect(server.address)
            except TableError as error:
                problem = error
                self._failed(server, f"connect to {self._kind} server {server.address.label}: {error}")
        raise TableError(
            str(problem) if problem else f"no {self._kind} server answers; they are tried again later"
        )

    def _failed(self, server: _Server[C], text: str) -> None:
        server.down_until = time.monotonic() + self._retry
        self._warn(text)

    @staticmethod
    def _in_order(servers: Sequence[_Server[C]]) -> list[_Server[C]]:
        shuffled = random.sample(servers, len(servers))
        return sorted(shuffled, key=lambda server: server.address.kind)
