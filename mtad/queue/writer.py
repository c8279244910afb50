"""One thread that writes, and commits in groups.

Whatever is asked for while a transaction is being committed goes into the next one, together.  What may take
long (content from a spool file, commands on many messages) is cut into steps, one a transaction, so that the
rest is not held up; large content is *partial* until its message is published with the last step, and partial
content whose writer has died is removed when a writer starts.

A transaction that fails is rolled back and its jobs tried one by one, so that only those at fault fail, with
QueueFull where the disk is full, else QueueError.  Results go to the reactor's thread, a batch at a time.
New messages are refused a little before the disk is full, for taking messages out needs room too.
Postfix counterpart: ``mail_stream(3)``, ``cleanup_bounce.c``.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from mtad.errors import QueueError, QueueFull
from mtad.queue import schema
from mtad.queue.rows import Entry
from mtad.queue.spool import queue_error
from mtad.queue.statements import Settlement, Stage, forget, publish, settle
from mtad.queue.turn import Slot, Turn, alive

#: Bytes of the disk that are left for removing messages: twice what the log may hold.
_RESERVE = 8 * 1024 * 1024


class CallsFromThread(Protocol):
    """What is needed of a reactor."""

    def callFromThread(self, callable: Callable[..., object], *args: object) -> object: ...


class Steps(Protocol):
    """Work that is done a step a transaction."""

    @property
    def result(self) -> Any: ...

    def step(self, db: sqlite3.Connection, slot: int) -> bool:
        """Do the next step; True when it is the last.  Changes nothing that the next try would miss."""

    def committed(self) -> None:
        """The step is durable."""


class Job:
    """Something to be written: steps first, then, in one transaction, messages and a settlement."""

    __slots__ = ("change", "deferred", "entries", "settlement", "steps")

    def __init__(
        self,
        entries: Sequence[Entry] = (),
        settlement: Settlement | None = None,
        change: Steps | None = None,
    ) -> None:
        self.deferred: Deferred[Any] = Deferred()
        self.entries = entries
        self.settlement = settlement
        self.change = change
        self.steps: deque[Steps] = deque(Stage(entry) for entry in entries if entry.spool is not None)
        if change is not None:
            self.steps.append(change)

    @property
    def patient(self) -> bool:
        """Nobody waits for it: it may be committed a little later, with others."""
        return self.settlement is not None and not self.entries

    @property
    def adds(self) -> bool:
        """Whether it makes the queue larger."""
        return self.settlement is None and bool(self.entries)

    @property
    def result(self) -> Any:
        if self.settlement is not None:
            return self.settlement.removed
        return None if self.change is None else self.change.result


#: So many jobs are enough for one transaction, and for the reactor's thread to be told of at a time.
_MOST = 500
#: Seconds that an outcome waits for company: a commit costs as much for one as for ten.
GATHER = 0.005

#: Jobs that are over, each with its result or the exception.
_Outcomes = list[tuple[Job, Any]]


class Writer:
    """Opens the database of ``directory``, making it where it is missing, and writes.  Raises QueueError."""

    def __init__(self, directory: str, reactor: CallsFromThread) -> None:
        self._directory = directory
        self._reactor = reactor
        self._turn = Turn(directory)
        with self._turn:
            schema.make(directory)
            self._slot = Slot(directory)
            self._db: sqlite3.Connection | None = None
            self._sweep()
        self._asked: list[Job] = []  # in this turn of the reactor
        self._inbox: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._long: deque[Job] = deque()
        self._open = True
        self._closed: Deferred[None] = Deferred()
        self._thread = threading.Thread(target=self._run, name="queue writer", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Deferred[Any]:
        """Have ``job`` done.  The Deferred fires in the reactor's thread when it is durable."""
        if not self._asked:
            self._reactor.callFromThread(self._hand_over)
        self._asked.append(job)
        return job.deferred

    def _hand_over(self) -> None:
        """Wake the thread, once a turn: the two are in each other's way while the reactor is at work."""
        if self._asked:
            self._inbox.put(self._asked)
            self._asked = []

    def close(self) -> Deferred[None]:
        """Do what was submitted, and end."""
        self._hand_over()
        self._inbox.put(None)
        return self._closed

    # -- in the thread

    def _run(self) -> None:
        while self._open or self._long:
            ready: list[Job] = []
            if not self._long:
                self._take(self._inbox.get(), ready)
                if ready and ready[0].patient:
                    time.sleep(GATHER)
            outcomes: _Outcomes = []
            try:
                with self._turn:
                    self._drain(ready)
                    self._refuse_if_full(ready, outcomes)
                    slow = self._long.popleft() if self._long else None
                    self._attempt(ready, slow, outcomes)
            except QueueError as error:
                outcomes += [(job, error) for job in (*ready, *self._long)]
                self._long.clear()
            if outcomes:
                self._reactor.callFromThread(_report, outcomes)
        if self._db is not None:
            self._db.close()
        self._slot.close()
        self._turn.close()
        self._reactor.callFromThread(self._closed.callback, None)

    def _take(self, jobs: list[Job] | None, ready: list[Job]) -> None:
        if jobs is None:
            self._open = False
            return
        for job in jobs:
            (self._long if job.steps else ready).append(job)

    def _drain(self, ready: list[Job]) -> None:
        """Take what has arrived by now, so much of it at most."""
        try:
            while len(ready) < _MOST:
                self._take(self._inbox.get_nowait(), ready)
        except Empty:
            pass

    def _refuse_if_full(self, ready: list[Job], outcomes: _Outcomes) -> None:
        """Drop the jobs for which there is no room."""
        adding = [job for job in (*ready, *self._long) if job.adds]
        if not adding or self._room() >= _RESERVE:
            return
        for job in adding:
            (self._long if job.steps else ready).remove(job)
            self._forget(job)
            outcomes.append((job, QueueFull("no room for more messages on the queue's disk")))

    def _room(self) -> int:
        """Bytes that may be written: what is free on the disk, and, where that is little, in the file."""
        try:
            space = os.statvfs(self._directory)
            room = space.f_bavail * space.f_frsize
            if room < _RESERVE:
                db = self._connection()
                page, free = [
                    int(db.execute(f"PRAGMA {name}").fetchall()[0][0])
                    for name in ("page_size", "freelist_count")
                ]
                room += page * free
        except OSError as error:
            raise queue_error(error) from error
        except sqlite3.Error as error:
            raise schema.queue_error(error) from error
        return room

    def _attempt(self, ready: list[Job], slow: Job | None, outcomes: _Outcomes) -> None:
        """One transaction with ``ready`` and a step of ``slow``; if it fails, one for each of them."""
        jobs = [*ready, slow] if slow is not None else ready
        if not jobs:
            return
        try:
            self._transact(ready, slow)
        except Exception as error:
            self._roll_back(error)
            if len(jobs) > 1:
                # What makes room goes first.
                for job in sorted(ready, key=lambda job: job.settlement is None):
                    self._attempt([job], None, outcomes)
                if slow is not None:
                    self._attempt([], slow, outcomes)
                return
            self._forget(jobs[0])
            outcomes.append((jobs[0], _public(error)))
            return
        outcomes += [(job, job.result) for job in ready]
        if slow is not None and slow.steps:
            self._long.append(slow)
        elif slow is not None:
            outcomes.append((slow, slow.result))

    def _transact(self, ready: list[Job], slow: Job | None) -> None:
        db = self._connection()
        db.execute("BEGIN IMMEDIATE")
        finished = slow is not None and slow.steps[0].step(db, self._slot.number)
        if slow is not None and finished and len(slow.steps) == 1:
            ready = [*ready, slow]
        entries = [entry for job in ready for entry in job.entries]
        if entries:
            publish(db, entries)
        settlements = [job.settlement for job in ready if job.settlement is not None]
        if settlements:
            settle(db, settlements)
        db.execute("COMMIT")
        if slow is not None:
            slow.steps[0].committed()
            if finished:
                slow.steps.popleft()

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = schema.connect(self._directory)
        return self._db

    def _roll_back(self, cause: Exception) -> None:
        """Undo, make room if there is none, and begin anew with a connection that is in doubt."""
        db = self._db
        if db is None:
            return
        full = isinstance(cause, sqlite3.Error) and isinstance(schema.queue_error(cause), QueueFull)
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if full:
                db.execute("PRAGMA wal_checkpoint").fetchall()
            if full or not isinstance(cause, sqlite3.OperationalError):
                return
        except sqlite3.Error:
            pass
        db.close()
        self._db = None

    def _forget(self, job: Job) -> None:
        """Remove the content that a failed job has brought; what cannot be removed now is swept later."""
        contents = [entry.content for entry in job.entries if entry.staged]
        if not contents:
            return
        try:
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            for content in contents:
                forget(db, content)
            db.execute("COMMIT")
        except (sqlite3.Error, QueueError) as error:
            self._roll_back(error)

    def _sweep(self) -> None:
        """Remove the partial content of writers that are no more."""
        try:
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            for content, slot in db.execute("SELECT content, slot FROM partial").fetchall():
                if slot == self._slot.number or not alive(self._directory, slot):
                    forget(db, content)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise schema.queue_error(error) from error


def _public(error: Exception) -> Exception:
    return schema.queue_error(error) if isinstance(error, sqlite3.Error) else error


def _report(outcomes: _Outcomes) -> None:
    """In the reactor's thread: tell who waits."""
    for job, result in outcomes:
        if isinstance(result, Exception):
            job.deferred.errback(result)
        else:
            job.deferred.callback(result)
