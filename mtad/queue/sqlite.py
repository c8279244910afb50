"""The queue in a SQLite database: the driver for one host.

:class:`SQLiteStore` promises what :mod:`mtad.queue.store` says.  Any number of processes may open the same
directory.  Writing is done by a thread (:mod:`mtad.queue.writer`); reading, which takes well below a
millisecond, at once in the caller's, so that those awaitables have fired when they are returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from mtad.errors import QueueError
from mtad.queue import statements
from mtad.queue.claims import Claims
from mtad.queue.journal import Journal, left_behind
from mtad.queue.message import Message, Outcome, Recipient
from mtad.queue.reader import Reader
from mtad.queue.rows import entry
from mtad.queue.writer import CallsFromThread, Job, Writer

#: Ids of messages that are gone, and queue id and address of each recipient in doubt.
Recovered = tuple[list[str], list[tuple[str, bytes]], str]


class SQLiteStore:
    """The queue in ``directory``, which exists and is the process's to write to.

    Call :meth:`open` in the process that uses it, after it forked.  A ``read_only`` store has no thread and
    needs no reactor; it reads, even while others write, and refuses the rest.
    """

    def __init__(
        self,
        directory: str,
        reactor: CallsFromThread | None,
        *,
        read_only: bool = False,
        warn: Callable[[str], object] = lambda text: None,
    ) -> None:
        """``warn`` is told what goes wrong and stops nothing."""
        self._directory = directory
        self._claims: Claims | None = None
        self._journal: Journal | None = None
        self._journal_failed = warn
        self._reactor = reactor
        self._read_only = read_only
        self._writer: Writer | None = None
        self._reader: Reader | None = None

    def open(self) -> None:
        """Open the database, made if it is missing and not ``read_only``.  Raises QueueError."""
        if not self._read_only:
            assert self._reactor is not None
            self._writer = Writer(self._directory, self._reactor)
        self._reader = Reader(self._directory, read_only=self._read_only)

    @property
    def claims(self) -> Claims:
        """What this process claims of the queue, while the store is open.  Raises QueueError."""
        if self._claims is None:
            self._claims = Claims(self._directory)
        return self._claims

    # -- writing

    def enqueue(self, message: Message, taken: str = "") -> Deferred[None]:
        try:
            made = entry(message)
            made.taken = taken
            return self._submit(Job((made,)))
        except QueueError as error:
            return fail(error)

    def finish(
        self,
        message: Message,
        outcomes: Sequence[Outcome],
        next_attempt: float,
        bounces: Sequence[Message] = (),
    ) -> Deferred[bool]:
        try:
            entries = [entry(bounce) for bounce in bounces] if bounces else ()
            settlement = statements.Settlement(message, outcomes, next_attempt)
        except QueueError as error:
            return fail(error)
        written = self._submit(Job(entries, settlement))
        if self._journal is not None:
            written.addCallback(self._recorded, settlement.final)
        return written

    def _recorded(self, removed: bool, ids: Iterable[int]) -> bool:
        if self._journal is not None:
            self._journal.recorded(ids)
        return removed

    def in_doubt(self, ids: Sequence[int]) -> None:
        if self._journal is None:
            self._journal = Journal(self.claims, self._journal_failed)
        self._journal.in_doubt(ids)

    def answered(self, ids: Sequence[int], delivered: bool) -> None:
        if self._journal is not None:
            self._journal.answered(ids, delivered)

    def recover(self) -> list[Deferred[Recovered]]:
        return [self._submit(Job(change=statements.Recovery(left))) for left in left_behind(self._directory)]

    def flush(self, queue_ids: Sequence[str] | None = None) -> Deferred[int]:
        if queue_ids is None:
            return self._submit(Job(change=statements.FlushAll()))
        return self._change(queue_ids, statements.flush).addCallback(len)

    def hold(self, queue_ids: Sequence[str]) -> Deferred[list[str]]:
        return self._change(queue_ids, statements.hold)

    def release(self, queue_ids: Sequence[str]) -> Deferred[list[str]]:
        return self._change(queue_ids, statements.release)

    def requeue(self, queue_ids: Sequence[str]) -> Deferred[list[str]]:
        return self._change(queue_ids, statements.requeue)

    def expire(self, queue_ids: Sequence[str]) -> Deferred[list[str]]:
        return self._change(queue_ids, statements.expire)

    def remove(self, queue_ids: Sequence[str]) -> Deferred[list[str]]:
        return self._change(queue_ids, statements.remove)

    def export(self, queue_ids: Sequence[str]) -> Deferred[list[str]]:
        return self._change(queue_ids, statements.export)

    def rename(self, queue_id: str, name: str) -> Deferred[list[str]]:
        return self._change([queue_id], statements.rename(name))

    def take_back(self, queue_ids: Sequence[str], state: str) -> Deferred[list[str]]:
        return self._change(queue_ids, statements.take_back(state))

    def forget_taken(self, names: Sequence[str]) -> Deferred[list[str]]:
        return self._change(names, statements.forget_taken)

    def _change(self, queue_ids: Sequence[str], apply: statements.Apply) -> Deferred[Any]:
        return self._submit(Job(change=statements.Change(queue_ids, apply)))

    def _submit(self, job: Job) -> Deferred[Any]:
        if self._writer is None:
            return fail(QueueError("the queue is not open for writing"))
        return self._writer.submit(job)

    # -- reading

    def incoming(self, after: int, limit: int) -> Deferred[list[Message]]:
        try:
            return succeed(self._open_reader().incoming(after, limit))
        except QueueError as error:
            return fail(error)

    def due(
        self, now: float, limit: int, skip: frozenset[int], after: tuple[float, int] = (float("-inf"), 0)
    ) -> Deferred[list[Message]]:
        try:
            return succeed(self._open_reader().due(now, limit, skip, after))
        except QueueError as error:
            return fail(error)

    def recipients(self, message: Message, first: int, count: int) -> Deferred[list[Recipient]]:
        try:
            return succeed(self._open_reader().recipients(message, first, count))
        except QueueError as error:
            return fail(error)

    def next_due(self, after: float) -> Deferred[float | None]:
        try:
            return succeed(self._open_reader().next_due(after))
        except QueueError as error:
            return fail(error)

    def read(self, message: Message) -> Iterator[bytes]:
        if message.content is not None:
            return iter((message.content,))
        return self._open_reader().read(message)

    def listing(self) -> Iterator[Message]:
        return self._open_reader().listing()

    def requeued(self, limit: int, skip: frozenset[int]) -> list[Message]:
        return self._open_reader().requeued(limit, skip)

    def exported(self) -> int:
        return self._open_reader().exported()

    def was_taken(self, name: str) -> bool:
        return self._open_reader().was_taken(name)

    def find(self, queue_id: str) -> Message | None:
        return self._open_reader().find(queue_id)

    def newest(self) -> int:
        """The ``seq`` of the message that came last."""
        return self._open_reader().newest()

    def counts(self) -> dict[str, int]:
        return self._open_reader().counts()

    def _open_reader(self) -> Reader:
        if self._reader is None:
            raise QueueError("the queue is not open")
        return self._reader

    # -- the end

    def close(self) -> Deferred[None]:
        writer, self._writer = self._writer, None
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        return succeed(None) if writer is None else writer.close().addCallback(self._close_journal)

    def _close_journal(self, _: None) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._claims is not None:
            self._claims.close()
            self._claims = None
