"""The reactor of our processes: Twisted's epoll reactor without a logging context for each event.

Twisted sets a context for its log around each ``doRead`` and ``doWrite``; we log by our own means, and
``_doReadOrWrite`` reports exceptions itself.  Leaving it out saves several microseconds an event.  Its clock
is one that nobody sets: no timer goes off too soon or too late when somebody sets the time of the day.
"""

from __future__ import annotations

import errno
import time
from typing import Any

from twisted.internet.epollreactor import EPollReactor


class MailReactor(EPollReactor):
    """See the module."""

    seconds = staticmethod(time.monotonic)

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events and handle them."""
        mine: Any = self
        selectables = mine._selectables
        try:
            events = mine._poller.poll(-1 if timeout is None else timeout, len(selectables) or 1)
        except OSError as problem:
            if problem.errno == errno.EINTR:
                return
            raise
        for fd, event in events:
            selectable = selectables.get(fd)
            if selectable is not None:
                mine._doReadOrWrite(selectable, fd, event)

    doIteration = doPoll
