"""Whether more mail comes than goes: one word for all processes.

:class:`Pressure` is memory that the master makes before it forks.  The queue manager says in it that it is
behind, and whoever takes mail in then takes his time (``in_flow_delay``).  Nothing is raised.

Postfix counterpart: ``mail_flow(3)``, whose tokens are counted in a pipe.
"""

from __future__ import annotations

import mmap


class Pressure:
    """See the module; true while the queue manager is behind."""

    __slots__ = ("_memory",)

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def __bool__(self) -> bool:
        return self._memory[0] != 0

    def say(self, behind: bool) -> None:
        """Have all processes know."""
        self._memory[0] = behind
