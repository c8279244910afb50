"""Who has what of the queue: its manager, messages in hand, journals.

A claim is a lock on one byte of ``qmgr.lock``, and goes with the open file: when a process ends, all that it
claims is free at the same moment, and nobody finds one claim gone and another one still there.  A former
queue manager keeps a claim on each message that it still delivers, and on its journal.

Postfix counterpart: ``qmgr(8)`` leaves deliveries to processes of their own, which lock the queue file.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterable

from mtad.errors import QueueError

#: ``struct flock`` of fcntl(2): type, whence, start, length, pid.
_FLOCK = struct.Struct("@hhqqi0q")
#: Bytes: the manager's, the first message's, the first journal's.
_MANAGER, _MESSAGES, _JOURNALS = 0, 1, 1 << 62
_STEP = 0.05


class Claims:
    """What is claimed of the queue in ``directory``, by the process that has made this object.

    Raises QueueError where the file can't be had."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        path = os.path.join(directory, "qmgr.lock")
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise QueueError(f"{path}: {error.strerror}") from error
        self._journals: set[int] = set()

    def take(self) -> bool:
        """Be the queue manager, if there is none."""
        return self._lock(_MANAGER)

    def pass_on(self, seqs: Iterable[int]) -> None:
        """Be the queue manager no more, but keep these messages."""
        for seq in seqs:
            self._lock(_MESSAGES + seq)
        self._unlock(_MANAGER)

    def release(self, seq: int) -> None:
        """We are done with this message."""
        self._unlock(_MESSAGES + seq)

    def kept_by_others(self) -> frozenset[int]:
        """The messages that managers before us still have in hand."""
        found: list[int] = []
        spans = [(_MESSAGES, _JOURNALS)]
        while spans:
            start, end = spans.pop()
            lock = self._lock_within(start, end)
            if lock is not None:
                # the system names any lock that is in the way, not always the first
                at, stop = max(start, lock[0]), min(end, lock[1])
                found += range(at - _MESSAGES, stop - _MESSAGES)
                spans += [(start, at), (stop, end)]
        return frozenset(found)

    def be_alone(self, seconds: float) -> None:
        """Be the queue manager, with none before us; wait so long for those that are about to end.

        Raises QueueError."""
        deadline = time.monotonic() + seconds
        while not self.take() or self.kept_by_others():
            if time.monotonic() > deadline:
                raise QueueError("a queue manager still delivers mail; try again when it has ended")
            time.sleep(_STEP)

    def take_journal(self, number: int) -> bool:
        """Have the journal of that number, if nobody has it; also False where it is ours already."""
        if number in self._journals or not self._lock(_JOURNALS + number):
            return False
        self._journals.add(number)
        return True

    def leave_journal(self, number: int) -> None:
        """It is ours no more."""
        self._journals.discard(number)
        self._unlock(_JOURNALS + number)

    def close(self) -> None:
        """Claim nothing any more."""
        os.close(self._fd)

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte, 1))
        except OSError:
            return False
        return True

    def _unlock(self, byte: int) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, byte, 1))

    def _lock_within(self, start: int, end: int) -> tuple[int, int] | None:
        """A range of bytes that another process has locked, not all before ``start`` or behind ``end``."""
        if start >= end:
            return None
        asked = _flock(fcntl.F_WRLCK, start, end - start)
        kind, _, at, length, _ = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else (at, at + length)


def _flock(kind: int, start: int, length: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
