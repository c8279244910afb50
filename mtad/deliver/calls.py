"""Things to be done later, that can all be called off.  Nothing is raised."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall


class Calls:
    """The delayed calls of one owner."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._waiting: set[IDelayedCall] = set()

    def later(self, act: Callable[[], object], delay: float = 0.0) -> None:
        """Do something later."""

        def wake() -> None:
            self._waiting.discard(call)
            act()

        call = self._reactor.callLater(delay, wake)
        self._waiting.add(call)

    def sleep(self, delay: float) -> Deferred[None]:
        """Fires after that many seconds."""
        woken: Deferred[None] = Deferred()
        self.later(partial(woken.callback, None), delay)
        return woken

    def cancel(self) -> None:
        """Call all of them off."""
        for call in self._waiting:
            if call.active():
                call.cancel()
        self._waiting.clear()
