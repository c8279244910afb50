"""Locks between the processes that share a queue.

Writers take turns by ``flock`` on one file: the kernel wakes the one that waits, where SQLite would sleep and
ask again.  Each writer also holds a *slot* for as long as it lives, by a lock on a file of its own, so that
others can tell whether it still does.  Both end with the process, however it ends.
Raises QueueError.  Postfix counterpart: ``myflock(3)``.
"""

from __future__ import annotations

import fcntl
import os

from mtad.errors import QueueError
from mtad.queue.spool import queue_error

_SLOTS = 256


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise queue_error(error) from error


class Turn:
    """The right to write: ``with turn: ...``.

    Two files make it fair: who waits for the second holds the first, so that a writer that has just let go
    cannot overtake it.
    """

    def __init__(self, directory: str) -> None:
        self._next = _open(os.path.join(directory, "next.lock"))
        self._lock = _open(os.path.join(directory, "queue.lock"))

    def __enter__(self) -> None:
        try:
            fcntl.flock(self._next, fcntl.LOCK_EX)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX)
            finally:
                fcntl.flock(self._next, fcntl.LOCK_UN)
        except OSError as error:
            raise queue_error(error) from error

    def __exit__(self, *exc_info: object) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._next)
        os.close(self._lock)


class Slot:
    """A number that no other living writer has.  Take it, and ask, in one's turn."""

    def __init__(self, directory: str) -> None:
        for number in range(_SLOTS):
            file = _claim(directory, number)
            if file is not None:
                self.number, self._file = number, file
                return
        raise QueueError(f"more than {_SLOTS} writers of {directory}")

    def close(self) -> None:
        os.close(self._file)


def alive(directory: str, number: int) -> bool:
    """Whether a writer has the slot ``number``."""
    file = _claim(directory, number)
    if file is None:
        return True
    os.close(file)
    return False


def _claim(directory: str, number: int) -> int | None:
    file = _open(os.path.join(directory, f"writer.{number}"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError as error:
        os.close(file)
        raise queue_error(error) from error
    return file
