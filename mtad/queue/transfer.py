"""A queue moves from Postfix to mtad, or back, message by message: none is lost, none is there twice.

:class:`Import` makes messages of Postfix's queue files.  That a file was taken is noted with its message,
before the file goes.  Recipients that are done stay done; why the others wait is read from ``defer``, and
what nobody was told of yet from ``bounce`` and ``trace``: it is told with the next attempt, by mtad or, after
an export, by Postfix.  :class:`Export` writes files as cleanup(8) would: first a file that Postfix does not
look at yet, then the message is marked as exported, then the file is made valid, then the message goes.
Either may be interrupted at any point and be run again, and :func:`settle` puts right what was interrupted.
The maildrop needs neither: both systems take their mail from it.

Neither system may run meanwhile.  Raises QueueError, OSError.

Postfix counterpart: none; ``cleanup_open.c``, ``bounce_log(3)``.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from mtad.errors import QueueError
from mtad.queue import journal
from mtad.queue.blocking import BlockingStore
from mtad.queue.message import DEFERRED, EXPORTED, HOLD, INCOMING, REQUEUED, Message, Outcome
from mtad.queue.postfix.envelope import QueueFile, write_message
from mtad.queue.postfix.files import (
    ACTIVE,
    BOUNCE,
    DEFER,
    EXPIRED,
    LOGS,
    MAILDROP,
    READY,
    TRACE,
    QueueDirectory,
    open_plain,
    ready,
    with_inode,
)
from mtad.queue.postfix.logs import log_text, read_log
from mtad.queue.schema import PIECE
from mtad.queue.spool import open_spool
from mtad.queue.untold import ATTRIBUTE as UNTOLD
from mtad.queue.untold import packed, unpacked

#: Where each state comes from and goes to.
_STATES = {INCOMING: INCOMING, ACTIVE: INCOMING, DEFERRED: DEFERRED, HOLD: HOLD, MAILDROP: REQUEUED}
#: What each log tells of.
_LOGGED = {DEFER: "deferred", BOUNCE: "bounced", TRACE: "sent"}
#: Messages that are made durable at a time.
_BATCH = 200


@dataclass(slots=True)
class Count:
    """What a move came to."""

    moved: int = 0
    renamed: list[tuple[str, str]] = field(default_factory=list)  # old and new ids
    left: list[str] = field(default_factory=list)  # files that are no messages, and why
    doubtful: list[tuple[str, bytes]] = field(default_factory=list)  # id and recipient, perhaps delivered


class Import:
    """See the module.  ``new_id`` makes ids for messages whose own is in use; ``spool`` is a directory."""

    def __init__(
        self, queue: BlockingStore, where: QueueDirectory, spool: str, new_id: Callable[[], str]
    ) -> None:
        self._queue = queue
        self._where = where
        self._spool = spool
        self._new_id = new_id
        self._names: set[str] = set()
        self.count = Count()

    def run(self) -> Count:
        """Move everything."""
        self.count.doubtful += settle(self._queue, self._where)
        batch: list[tuple[str, str, str, Message]] = []
        before: list[str] = []  # taken when this was run before
        for name in (HOLD, DEFERRED, ACTIVE, INCOMING):
            for entry in list(self._where.files(name)):
                status = entry.stat(follow_symlinks=False)
                if not ready(status.st_mode):
                    continue
                key = f"{name}/{entry.name}:{status.st_ino}:{status.st_mtime_ns}"
                if self._queue.store.was_taken(key):
                    self._remove(entry.path, entry.name)
                    before.append(key)
                    continue
                try:
                    message = self._read(name, entry.path, entry.name, status)
                except (QueueError, OSError) as error:
                    self.count.left.append(f"{entry.path}: {error}")
                    continue
                batch.append((key, entry.path, entry.name, message))
                if len(batch) == _BATCH:
                    self._keep(batch)
                    batch = []
        self._keep(batch)
        self._forget(before)
        return self.count

    def _keep(self, batch: list[tuple[str, str, str, Message]]) -> None:
        """These messages are ours, and the files go."""
        store = self._queue.store
        waiting = [(item, store.enqueue(item[3], item[0])) for item in batch]
        problem: Exception | None = None
        for (_, path, name, message), deferred in waiting:
            try:
                self._queue.wait(deferred)
                self._remove(path, name)
                self.count.moved += 1
            except (QueueError, OSError) as error:
                problem = error
            finally:
                if message.spool is not None:
                    message.spool.close()
        if problem is not None:
            raise problem
        self._forget([key for key, *_ in batch])

    def _forget(self, keys: list[str]) -> None:
        """The files are gone, and stay gone if the host fails now: that they were taken need not be known."""
        if keys:
            os.sync()
            self._queue.wait(self._queue.store.forget_taken(keys))

    def _remove(self, path: str, name: str) -> None:
        _unlink_logs(self._where, name)
        _unlink(path)

    def _read(self, queue: str, path: str, name: str, status: os.stat_result) -> Message:
        with open_plain(path) as file:
            source = QueueFile(file)
            source.read_envelope()
            spool, content = self._content(source)
            message = source.read_rest().message(name)
        message.content, message.spool = content, spool
        message.size = len(content) if content is not None else _length(spool)
        message.arrival = min(message.arrival or status.st_mtime, time.time())
        message.state = _STATES[queue]
        message.next_attempt = status.st_mtime if message.state == DEFERRED else 0.0
        message.expired = bool(status.st_mode & EXPIRED)
        self._read_logs(message, name)
        if name in self._names or self._queue.store.find(name) is not None:
            message.queue_id = self._new_id()
            self.count.renamed.append((name, message.queue_id))
        self._names.add(name)
        return message

    def _content(self, source: QueueFile) -> tuple[BinaryIO | None, bytes | None]:
        """Content in a spool file, or, where it is small, in memory."""
        parts: list[bytes] = []
        size = 0
        spool: BinaryIO | None = None
        for chunk in source.content():
            size += len(chunk)
            if spool is None and size > PIECE:
                spool = open_spool(self._spool)
                spool.write(b"".join(parts))
            if spool is None:
                parts.append(chunk)
            else:
                spool.write(chunk)
        return (spool, None) if spool is not None else (None, b"".join(parts))

    def _read_logs(self, message: Message, name: str) -> None:
        found = {log: read_log(self._where.file(log, name), status) for log, status in _LOGGED.items()}
        reasons = {entry.recipient.address: entry for entry in found[DEFER]}
        for recipient in message.recipients:
            if entry := reasons.get(recipient.address):
                recipient.dsn, recipient.reason = entry.dsn, entry.reason
        pending = {recipient.address for recipient in message.recipients}  # these are tried again
        untold = [entry for entry in found[BOUNCE] + found[TRACE] if entry.recipient.address not in pending]
        if untold:
            message.attributes[UNTOLD] = packed(untold)


class Export:
    """See the module."""

    def __init__(self, queue: BlockingStore, where: QueueDirectory, warn_after: float) -> None:
        """``warn_after``: delay_warning_time."""
        self._queue = queue
        self._where = where
        self._warn_after = warn_after
        self.count = Count()

    def run(self) -> Count:
        """Move everything."""
        self.count.doubtful += settle(self._queue, self._where)
        while batch := self._some():
            written: list[tuple[Message, str]] = []
            for message in batch:
                if message.recipients or unpacked(message):
                    written.append((message, self._write(message)))
            os.sync()
            names = [message.queue_id for message in batch]
            self._queue.wait(self._queue.store.export(names))
            for message, path in written:
                _publish(path, message)
            os.sync()
            self._queue.wait(self._queue.store.remove(names))
            self.count.moved += len(written)
        return self.count

    def _some(self) -> list[Message]:
        found: list[Message] = []
        listing = self._queue.store.listing()
        for message in listing:
            if message.state == EXPORTED:
                continue
            found.append(message)
            if len(found) == _BATCH:
                break
        return found

    def _write(self, message: Message) -> str:
        """A file that Postfix does not look at yet."""
        where, queue = self._where, _queue_of(message)
        directory = os.path.dirname(where.file(queue, message.queue_id))
        os.makedirs(directory, 0o700, exist_ok=True)
        temporary = os.path.join(directory, "export.new")  # which is no queue id
        _unlink(temporary)
        _drop_unfinished(where, message.queue_id)
        with open(
            os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600), "w+b"
        ) as file:
            name = self._name(message, os.fstat(file.fileno()).st_ino)
            offsets = write_message(
                file, message, self._queue.store.read(message), created=message.arrival,
                warn_after=self._warn_after,
            )  # fmt: skip
        path = where.file(queue, name)
        os.rename(temporary, path)
        for log, outcomes in _logged(message).items():
            _write_log(where.file(log, name), log_text(outcomes, offsets))
        return path

    def _name(self, message: Message, inode: int) -> str:
        """Give the message the queue id that Postfix would: the number of the file is part of it."""
        old = message.queue_id
        name = with_inode(old, inode)
        if name != old:
            self._queue.wait(self._queue.store.rename(old, name))
            self.count.renamed.append((old, name))
            message.queue_id = name
        return name


def _logged(message: Message) -> dict[str, list[Outcome]]:
    """What each log is to tell of a message."""
    waiting = [one for one in message.recipients if one.reason]
    untold = unpacked(message)
    return {
        DEFER: [Outcome(one, "deferred", one.dsn, one.reason, action="delayed") for one in waiting],
        BOUNCE: [replace(one, action="failed") for one in untold if one.status == "bounced"],
        TRACE: [one for one in untold if one.status != "bounced"],
    }


def _write_log(path: str, text: bytes) -> None:
    if not text:
        return
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    with open(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(text)


def _publish(path: str, message: Message) -> None:
    """From now on the file is Postfix's."""
    when = message.next_attempt if message.state == DEFERRED else time.time()
    os.utime(path, (when, when))
    os.chmod(path, READY | (EXPIRED if message.expired else 0))


def settle(queue: BlockingStore, where: QueueDirectory) -> list[tuple[str, bytes]]:
    """Put right what was interrupted; id and address of each recipient that was perhaps delivered to.

    A process that was killed while it delivered has said what it had delivered.  Of an export, a file that is
    not valid yet is removed, and its message is ours again; where there is a valid one, or none any more, the
    message was exported."""
    doubtful: list[tuple[str, bytes]] = []
    for left in queue.store.recover():
        _, found, path = queue.wait(left)
        doubtful += found
        journal.remove(path)
    store = queue.store
    gone: list[str] = []
    back: dict[str, list[str]] = {}
    for message in _exported(store.listing()):
        name = _drop_unfinished(where, message.queue_id)
        if name:
            back.setdefault(_STATES[name], []).append(message.queue_id)
        else:
            gone.append(message.queue_id)
    for state, names in back.items():
        queue.wait(store.take_back(names, state))
    if gone:
        queue.wait(store.remove(gone))
    return doubtful


def _drop_unfinished(where: QueueDirectory, queue_id: str) -> str:
    """Remove the file of this message that is not valid yet, with its logs; the queue it was in, if any."""
    for name in _STATES:
        path = where.file(name, queue_id)
        if os.path.lexists(path) and not ready(os.lstat(path).st_mode):
            _unlink(path)
            _unlink_logs(where, queue_id)
            return name
    return ""


def _exported(messages: Iterator[Message]) -> list[Message]:
    return [message for message in messages if message.state == EXPORTED]


def _queue_of(message: Message) -> str:
    return message.state if message.state in (DEFERRED, HOLD, REQUEUED) else INCOMING


def _unlink_logs(where: QueueDirectory, name: str) -> None:
    for log in LOGS:
        _unlink(where.file(log, name))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        pass


def _length(spool: BinaryIO | None) -> int:
    assert spool is not None
    return spool.seek(0, io.SEEK_END)
