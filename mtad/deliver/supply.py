"""What the queue manager takes from the store, and when it looks: new mail first, then what is due.

:class:`Supply` asks its :class:`Taker` how much room there is, gives it messages, and looks again when there
is more room, when something has come, and when the next message is due, at the latest after
``queue_run_delay``.  A search that takes long lets others have their turns.  An error of the store is logged,
and the search made again; nothing is raised.

Postfix counterpart: ``qmgr_scan.c``, the timers of ``qmgr.c``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mtad.config.parameters import Parameters
from mtad.deliver.settle import RETRY
from mtad.errors import MtadError
from mtad.maillog import MailLog, printable
from mtad.net.drive import drive
from mtad.queue.message import Message
from mtad.queue.store import QueueStore

#: Messages taken from the store at a time.
BATCH = 100
#: Before the first of the due messages; seconds after which the search for more begins there again.
_START = (float("-inf"), 0)
_PASS = 1.0
#: Seconds of a search after which others have their turn.
_SLICE = 0.02


class Taker(Protocol):
    """Who takes the messages."""

    def room(self) -> int:
        """How many more messages may be in hand."""

    def roomy(self) -> bool:
        """Whether it is worth the while to look for more."""

    def taken(self) -> frozenset[int]:
        """The ``seq`` of messages that are not to be found again."""

    async def take(self, messages: list[Message]) -> Message | None:
        """Take messages in hand while there is room; the last of them."""

    def tick(self) -> None:
        """The time has come to look at everything."""

    def searched(self) -> None:
        """A search that was under way when :meth:`Supply.stop` was called is over."""


class Supply:
    """See the module.  ``clock`` tells the time since the epoch."""

    def __init__(
        self,
        p: Parameters,
        store: QueueStore,
        reactor: Any,
        log: MailLog,
        clock: Callable[[], float],
        taker: Taker,
    ) -> None:
        self._store = store
        self._reactor = reactor
        self._log = log
        self._clock = clock
        self._taker = taker
        self._run_delay = p.seconds("queue_run_delay")
        self.after = 0  # seq of the last message taken from "incoming"
        self.searching = False
        self._freed = math.inf  # messages from here on have become free, and are to be looked for again
        self._incoming = True  # there may be more
        self._due = True
        self._due_after, self._pass_begun = _START, 0.0
        self._timer: IDelayedCall | None = None
        self._stopped = False

    def fill(self) -> None:
        """Have messages taken while there is room."""
        if self.searching or self._stopped:
            return
        self.searching = True
        drive(self._search(), self._searched, self._failed)

    def wake(self) -> None:
        """There is new mail."""
        self._incoming = True
        self.fill()

    def look_for_due(self) -> None:
        """There may be more messages that are due."""
        self._due = True
        self._begin_pass()
        self.fill()

    def scan(self, first: int | None = None) -> None:
        """The queue has changed; ``first``: the ``seq`` of a message that was passed over and is now free."""
        if first is not None:
            self._freed = min(self._freed, first)
        self._incoming = True
        self.look_for_due()

    def ended(self, when: float | None, queued: bool) -> None:
        """An attempt is over.

        ``when``: of the next one, None if there is none; ``queued``: there is new mail by it, a notification.
        """
        if when is not None and when <= self._clock():
            self._due = True
            self._begin_pass()
        elif when is not None and (
            self._timer is None or not self._timer.active() or when < self._timer_at(self._timer)
        ):
            self._set_timer(when)
        self._incoming |= queued
        self._fill_if_roomy()

    def stop(self) -> None:
        """Take no more."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    # -- inside

    async def _search(self) -> None:
        looked: float | None = None  # for due messages, at that time
        taker, seconds = self._taker, self._reactor.seconds
        begun = seconds()
        while not self._stopped and (room := taker.room()) > 0:
            room = min(room, BATCH)
            if self._incoming:
                await self._look_for_new(room)
            elif self._due:
                looked = await self._look_for_due(room)
            else:
                break
            if seconds() - begun >= _SLICE:
                await deferLater(self._reactor, 0.0)
                begun = seconds()
        if looked is not None and not self._stopped:
            self._set_timer(await self._store.next_due(looked))

    async def _look_for_new(self, room: int) -> None:
        self._incoming = False
        if self._freed <= self.after:
            self.after = int(self._freed) - 1
        self._freed = math.inf
        messages = await self._store.incoming(self.after, room)
        self._due |= not messages  # what has come may be for later (FUTURERELEASE)
        last = await self._taker.take(messages)
        self._incoming |= len(messages) == room or (bool(messages) and last is not messages[-1])
        if last is not None:
            self.after = last.seq

    async def _look_for_due(self, room: int) -> float:
        """Take some; up to which time they were due."""
        self._due = False
        if self._reactor.seconds() - self._pass_begun >= _PASS:
            self._begin_pass()
        begun, after, now = self._pass_begun, self._due_after, self._clock()
        messages = await self._store.due(now, room, self._taker.taken(), after)
        last = await self._taker.take(messages)
        self._due |= len(messages) == room or (bool(messages) and last is not messages[-1])
        if not self._due and after != _START:
            self._due = True  # once more from the beginning, for what has become due meanwhile
            self._begin_pass()
        elif last is not None and begun == self._pass_begun:
            self._due_after = (last.next_attempt, last.seq)
        return now

    def _begin_pass(self) -> None:
        """Look for due messages from the longest due on."""
        self._due_after, self._pass_begun = _START, self._reactor.seconds()

    def _fill_if_roomy(self) -> None:
        if (self._incoming or self._due) and self._taker.roomy():
            self.fill()

    def _searched(self, _: None) -> None:
        self.searching = False
        if self._stopped:
            self._taker.searched()
        else:
            self._fill_if_roomy()

    def _failed(self, failure: Failure) -> None:
        self.searching = False
        self._log.warning(f"can't read the queue: {failure.value}; will try again")
        if not failure.check(MtadError):
            self._log.error(printable(failure.getTraceback()))
        self._incoming = self._due = True
        self._set_timer(self._clock() + RETRY)
        if self._stopped:
            self._taker.searched()

    def _set_timer(self, when: float | None) -> None:
        """Look for due messages at ``when``, or at the end of ``queue_run_delay``."""
        if self._stopped:
            return
        delay = float(self._run_delay)
        if when is not None:
            delay = min(delay, max(0.0, when - self._clock()))
        if self._timer is not None and self._timer.active():
            self._timer.reset(delay)
        else:
            self._timer = self._reactor.callLater(delay, self._tick)

    def _timer_at(self, timer: IDelayedCall) -> float:
        """When the timer will go off, by our clock."""
        return self._clock() + timer.getTime() - float(self._reactor.seconds())

    def _tick(self) -> None:
        self._taker.tick()
        self._incoming = self._due = True
        self.fill()
