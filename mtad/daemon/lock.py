"""Locks: one master for one configuration, one queue manager for one queue.

:class:`MasterLock`, on ``$queue_directory/pid/master.pid``, is the lock of Postfix's ``master(8)``, so that
Postfix and mtad can never run on one queue directory at the same time.  It goes with the open file: whoever
is forked from the holder must let go of it (:meth:`MasterLock.leave`).

:class:`ManagerLock` passes the queue from one queue manager to the next while the former still has deliveries
under way: it keeps a lock of its own on each of these messages.

Postfix counterpart: ``open_lock(3)``, ``master -t``; ``qmgr(8)`` leaves deliveries to processes of their own.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path

from mtad.errors import ConfigError

_TRIES, _PAUSE = 10, 0.01


class AlreadyRunning(ConfigError):
    """Somebody holds the lock: ``pid`` is theirs (0: unknown), ``program`` their name."""

    def __init__(self, path: str, pid: int, program: str) -> None:
        self.pid = pid
        self.program = program
        super().__init__(f"the Postfix mail system is already running: {program}, PID {pid}", path=path)


class MasterLock:
    """The lock, held."""

    def __init__(self, path: str) -> None:
        """Take the lock or raise AlreadyRunning; ConfigError where the file cannot be had."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as problem:
            raise ConfigError(f"cannot open the lock file: {problem.strerror}", path=path) from problem
        if not self._try():
            pid = _read_pid(path)
            os.close(self._fd)
            raise AlreadyRunning(path, pid, program_of(pid))
        #: the last holder did not give it up: its children may still be about to end
        self.orphaned = _read_pid(path) != 0
        self.write_pid(os.getpid())

    def _try(self) -> bool:
        """Whoever only looks (:func:`holder`) has the lock for a moment, too."""
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                time.sleep(_PAUSE)
        return False

    def write_pid(self, pid: int) -> None:
        """Say in the file who holds the lock."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{pid:10d}\n".encode(), 0)

    def leave(self) -> None:
        """Let go of the file in a forked child; the lock stays with the parent."""
        os.close(self._fd)

    def release(self) -> None:
        """Give the lock up."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def holder(path: str) -> int:
    """The pid of the master that holds the lock at ``path``, or 0 when nobody does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read_pid(path) or -1
    finally:
        os.close(fd)
    return 0


def program_of(pid: int) -> str:
    """What holds the lock as ``pid``: ``mtad``, ``Postfix`` or the name of the program.

    mtad may have been started by any name, as by that of ``postfix``."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "an unknown program"
    name = os.path.basename(words[0]).decode("utf-8", "replace")
    if name == "mtad" or name.startswith("python"):
        return "mtad"
    return "Postfix" if name == "master" else name


def _read_pid(path: str) -> int:
    try:
        return int(Path(path).read_text().strip() or 0)
    except (OSError, ValueError):
        return 0


#: ``struct flock`` of fcntl(2): type, whence, start, length, pid.
_FLOCK = struct.Struct("@hhqqi0q")
_MANAGER, _FIRST = 0, 1


class ManagerLock:
    """Byte 0 of a file is locked by the queue manager, byte ``1 + seq`` by who delivers that message.

    The locks are the process's: a process opens the file once, and loses them when it ends.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> bool:
        """Be the queue manager, if there is none."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _MANAGER)
        except OSError:
            return False
        return True

    def pass_on(self, seqs: Iterable[int]) -> None:
        """Be the queue manager no more, but keep these messages."""
        for seq in seqs:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _FIRST + seq)
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _MANAGER)

    def release(self, seq: int) -> None:
        """We are done with this message."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _FIRST + seq)

    def kept_by_others(self) -> frozenset[int]:
        """The messages that managers before us still have in hand."""
        found: list[int] = []
        spans = [(_FIRST, 1 << 62)]
        while spans:
            start, end = spans.pop()
            lock = self._lock_within(start, end)
            if lock is not None:
                # the system names any lock that is in the way, not always the first
                at, stop = max(start, lock[0]), min(end, lock[1])
                found += range(at - _FIRST, stop - _FIRST)
                spans += [(start, at), (stop, end)]
        return frozenset(found)

    def _lock_within(self, start: int, end: int) -> tuple[int, int] | None:
        """A range of bytes that another process has locked, not all before ``start`` or behind ``end``."""
        if start >= end:
            return None
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, end - start, 0)
        kind, _, at, length, _ = _FLOCK.unpack(fcntl.fcntl(self._fd, fcntl.F_GETLK, asked))
        return None if kind == fcntl.F_UNLCK else (at, at + length)

    def close(self) -> None:
        os.close(self._fd)
