"""Tables that have to wait for somebody: a server, a disk.

A :class:`BlockingTable` gives its answer by a plain function that may block (``get``).  Where a reactor
runs, :attr:`BlockingTable.runner` (:class:`mtad.tables.threads.Threads`) calls it in a thread, and
``lookup`` waits without holding up anybody else; where none runs, as in ``postmap -q``, it is called
right there.

Whoever opens the same table twice in a process shares it (:func:`shared`): its threads and its connections
are as many as they are for one user.  :class:`IdlePool` keeps the connections between lookups.

Postfix counterpart: none; its processes wait.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from mtad.tables.table import LocalTable, Options

T = TypeVar("T")
C = TypeVar("C")


@dataclass(slots=True, eq=False)
class Lane:
    """The work of one table: at most ``limit`` at a time, so that a table that hangs holds up only itself."""

    name: str
    limit: int
    running: int = 0
    waiting: deque[Any] = field(default_factory=deque)


class Runner(Protocol):
    """What runs the work of tables elsewhere."""

    def run(self, lane: Lane, work: Callable[[], T]) -> Awaitable[T]:
        """Do ``work``; :class:`~mtad.errors.TableError` when too much is waiting already."""

    def tell(self, function: Callable[[str], None], text: str) -> None:
        """Have ``function(text)`` called in the reactor's thread."""


class BlockingTable(LocalTable):
    """A table whose :meth:`get` may block."""

    at_once = False

    #: Set once in a process that has a reactor.
    runner: ClassVar[Runner | None] = None

    #: How many lookups (and connections) a table has at a time.
    concurrency: ClassVar[int] = 4

    def __init__(self, spec: str, options: Options) -> None:
        super().__init__(spec, options)
        self._lane = Lane(spec, self.concurrency)
        self.sharing: Hashable = None
        self.users = 0

    async def lookup(self, key: bytes) -> bytes | None:
        folded = self.folded(key)
        if folded is None or b"\0" in folded or not await self.eligible(folded):
            return None
        return self.checked(key, await self.elsewhere(partial(self.get, folded)))

    async def eligible(self, key: bytes) -> bool:
        """Whether the table may have this key at all: what can be told without asking anybody."""
        return True

    async def elsewhere(self, work: Callable[[], T]) -> T:
        """The result of ``work``, which may block."""
        runner = BlockingTable.runner
        return work() if runner is None else await runner.run(self._lane, work)

    def warn(self, text: str) -> None:
        """Log a warning, from whatever thread."""
        runner = BlockingTable.runner
        if runner is None:
            self.options.warn(text)
        else:
            runner.tell(self.options.warn, text)

    def close(self) -> None:
        self.users -= 1
        if self.users <= 0:
            _shared.pop(self.sharing, None)
            self.release()

    def release(self) -> None:
        """Close what is open; nobody uses the table any more."""


_shared: dict[Hashable, BlockingTable] = {}

# a child has its own connections
os.register_at_fork(after_in_child=_shared.clear)


def shared(sharing: Hashable, make: Callable[[], BlockingTable]) -> BlockingTable:
    """The table that is open already under this key, or else a new one."""
    table = _shared.get(sharing)
    if table is None:
        table = _shared[sharing] = make()
        table.sharing = sharing
    table.users += 1
    return table


class IdlePool(Generic[C]):
    """Connections that nobody uses at the moment; the one used last goes first.

    What was idle for longer than ``max_idle`` seconds is closed when the pool is next used.
    """

    def __init__(self, close: Callable[[C], object], max_idle: float = float("inf")) -> None:
        self._close = close
        self._max_idle = max_idle
        self._idle: deque[tuple[float, C]] = deque()
        self._lock = threading.Lock()
        self._shut = False

    def take(self) -> C | None:
        """A connection, for the caller alone."""
        limit = time.monotonic() - self._max_idle
        old = []
        with self._lock:
            while self._idle and self._idle[0][0] < limit:
                old.append(self._idle.popleft()[1])
            found = self._idle.pop()[1] if self._idle else None
        for connection in old:
            self._close(connection)
        return found

    def give(self, connection: C) -> None:
        """Have a connection back that works."""
        with self._lock:
            if not self._shut:
                self._idle.append((time.monotonic(), connection))
                return
        self._close(connection)

    def clear(self) -> None:
        """Close all that are idle."""
        with self._lock:
            old = [connection for _, connection in self._idle]
            self._idle.clear()
        for connection in old:
            self._close(connection)

    def shut(self) -> None:
        """Close all, also those that come back later."""
        self._shut = True
        self.clear()
