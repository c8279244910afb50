"""Work that takes its time (a slow hash, a database) done where it holds up no other session.

:func:`offload` runs it in the threads in which tables wait, as far as the process has them
(:mod:`mtad.tables.threads`), and else, as in a command, right there.  A *lane* bounds how much of one
kind is under way and waits; raises :class:`~mtad.errors.TableError` when too much waits already.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from mtad.tables.blocking import BlockingTable, Lane

T = TypeVar("T")

#: Hashes of passwords: as many at a time as there are processors.
HASHES = Lane("password hashes", os.cpu_count() or 1)


async def offload(lane: Lane, work: Callable[[], T]) -> T:
    """The result of ``work``, which may block."""
    runner = BlockingTable.runner
    return work() if runner is None else await runner.run(lane, work)
