"""In which order the deliveries to one destination are made.

Messages wait in the order in which they came, each with its deliveries.  So that a long list does not hold
up what came later, each delivery of it that begins earns a part of a *slot*; when a smaller message fits into
the slots, it goes before the rest of the list, and the one that has waited long and is small goes first.  A
message that has gone before another may be overtaken in the same way.  How many deliveries a slot costs,
how many are lent, and how many a message must be able to earn to be overtaken at all, say the
``_delivery_slot_`` parameters of the transport; a cost below 2 means strictly one after the other.
Nothing is raised.

Postfix counterpart: ``qmgr_job.c``, whose algorithm this is, with the difference that slots are counted by
destination and not by transport, since no limit of processes ties destinations together; SCHEDULER_README.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from mtad.deliver.job import Active, Job
from mtad.deliver.limits import Limits


class _Share:
    """What one message has for the destination."""

    __slots__ = ("begun", "children", "jobs", "level", "message", "parent", "since", "slots", "total", "used")

    def __init__(self, message: Active) -> None:
        self.message = message
        self.since = int(message.since)
        self.jobs: list[Job] = []  # the last one is the next
        self.total = 0  # deliveries, those that have begun too
        self.begun = 0
        self.slots = 0  # earned and not used, in deliveries; less where some are lent
        self.used = 0
        self.level = 0  # how many have been overtaken that wait for it
        self.parent: _Share | None = None  # the one that it has overtaken
        self.children: list[_Share] = []

    def most(self) -> int:
        """How many deliveries it may come to."""
        return self.total + self.message.unread


class Order:
    """See the module."""

    __slots__ = ("_best", "_best_at", "_best_for", "_clock", "_limits", "_line", "_shares", "waiting")

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._line: deque[_Share] = deque()
        self._shares: dict[Active, _Share] = {}
        self.waiting = 0
        # the last search for one to go before the first
        self._best: _Share | None = None
        self._best_for: _Share | None = None
        self._best_at = 0

    def add(self, message: Active, jobs: Sequence[Job]) -> None:
        """More deliveries of a message."""
        share = self._shares.get(message)
        if share is None:
            share = self._shares[message] = _Share(message)
            self._link(share)
        share.jobs[:0] = jobs[::-1]
        share.total += len(jobs)
        self.waiting += len(jobs)
        self._best_for = None

    def next(self) -> Job:
        """Take out the one whose turn it is; there must be one."""
        share = self._line[0]
        if self._limits.slot_cost >= 2 and share.slots > 0 and len(self._line) > 1:
            share = self._overtaken(share)
        while not share.jobs:  # more were to be read, but have not come
            self._retire(share)
            share = self._line[0]
        job = share.jobs.pop()
        self.waiting -= 1
        share.begun += 1
        share.slots += 1
        share.used += 1
        if share is not self._best_for:
            self._best_for = None
        if not share.jobs and share.message.unread <= 0:
            self._retire(share)
        return job

    def clear(self) -> list[Job]:
        """Take all out."""
        jobs = [job for share in self._line for job in reversed(share.jobs)]
        self._line.clear()
        self._shares.clear()
        self._best_for = self._best = None
        self.waiting = 0
        return jobs

    def first(self) -> Active:
        """The message at the head; there must be one."""
        return self._line[0].message

    def _link(self, share: _Share) -> None:
        """Put it behind those that came before it."""
        line = self._line
        at = len(line)
        while at and (line[at - 1].parent is not None or line[at - 1].since > share.since):
            at -= 1
        line.insert(at, share)

    def _overtaken(self, first: _Share) -> _Share:
        """The first, or the one that goes before it now."""
        limits = self._limits
        if first.most() < limits.minimum_slots * limits.slot_cost:
            return first
        share = self._candidate(first)
        if share is None:
            return first
        expected = share.most() - share.begun
        earned = first.slots // limits.slot_cost + limits.slot_loan
        if earned < expected * (100 - limits.slot_discount) / 100:
            return first
        if share.level > 0:
            self._pop(share)
        self._line.remove(share)
        self._line.appendleft(share)
        share.parent = first
        first.children.append(share)
        share.level = first.level + 1
        self._best_for = None
        first.slots -= expected * limits.slot_cost
        share.used = -expected  # what it is beyond or below the expected is settled when it is done
        return share

    def _candidate(self, first: _Share) -> _Share | None:
        """The best of those that fit into the slots that the first has or will have."""
        now = int(self._clock())
        if self._best_for is first and (self._best_at == now or self._best is None):
            return self._best
        slots = (first.total - first.begun + first.slots) // self._limits.slot_cost
        best, best_score = None, 0.0
        if slots > 0:
            for share in self._line:
                if share is first or share.children:
                    continue
                most = share.most()
                waited = now - share.since + 1
                if 0 < most - share.begun <= slots and (score := waited / most) > best_score:
                    best, best_score = share, score
                if waited <= best_score and share.level == 0:
                    break
        self._best, self._best_for, self._best_at = best, first, now
        return best

    def _retire(self, share: _Share) -> None:
        """It has nothing more."""
        if share.level > 0:
            self._pop(share)
        for child in share.children:
            child.parent = None
        share.children.clear()
        if self._line[0] is share:
            self._line.popleft()
        else:
            self._line.remove(share)
        del self._shares[share.message]
        if share is self._best or share is self._best_for:
            self._best_for = None

    def _pop(self, share: _Share) -> None:
        """It has overtaken nobody any more."""
        parent = share.parent
        if parent is not None:
            if share.level == parent.level + 1:
                parent.slots -= share.used * self._limits.slot_cost
            parent.children.remove(share)
            parent.children.extend(share.children)
        for child in share.children:
            child.parent = parent
        share.children.clear()
        share.parent = None
        share.level = 0
        self._best_for = None
