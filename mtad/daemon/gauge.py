"""Whether the queue manager keeps up with the mail that comes in.

:class:`Gauge` looks when there is new mail, at most every half a second, and as often while the manager is
behind: when it has all the messages in hand that it may, and as many more have come meanwhile.  It says so to
all processes (:mod:`mtad.queue.pressure`).  What was in the queue when it began does not count.  Nothing is
raised but mistakes.

Postfix counterpart: ``mail_flow(3)``, where ``default_process_limit`` messages may wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mtad.errors import QueueError
from mtad.queue.pressure import Pressure

_STEP = 0.5


class Gauge:
    """See the module.  ``behind`` tells whether too many wait of the messages between two ``seq``, ``newest``
    the ``seq`` of the last one."""

    def __init__(
        self,
        behind: Callable[[int, int], bool],
        newest: Callable[[], int],
        pressure: Pressure,
        reactor: Any,
    ) -> None:
        self._behind = behind
        self._newest = newest
        self._pressure = pressure
        self._reactor = reactor
        self._first = 0
        self._next = 0.0
        self._call: Any = None

    def start(self) -> None:
        """Begin; whatever a manager before us has said is no more."""
        self._pressure.say(False)
        self._first = self._last()

    def look(self) -> None:
        """There is new mail."""
        now = self._reactor.seconds()
        if self._call is None and now >= self._next:
            self._next = now + _STEP
            self._look()

    def _look(self) -> None:
        behind = self._behind(self._first, self._last())
        self._pressure.say(behind)
        self._call = self._reactor.callLater(_STEP, self._look) if behind else None

    def _last(self) -> int:
        try:
            return self._newest()
        except QueueError:  # the manager tells of it
            return 0

    def stop(self) -> None:
        """Look no more."""
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._pressure.say(False)
