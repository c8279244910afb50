"""The lock of the master: one for one queue directory.

:class:`MasterLock`, on ``$queue_directory/pid/master.pid``, is the lock of Postfix's ``master(8)``, so that
Postfix and mtad can never run on one queue directory at the same time.  It goes with the open file: whoever
is forked from the holder must let go of it (:meth:`MasterLock.leave`).

Postfix counterpart: ``open_lock(3)``, ``master -t``.
"""

from __future__ import annotations

import fcntl
import os
import time
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
