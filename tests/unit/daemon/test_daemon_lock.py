"""The lock of the master."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mtad.daemon.lock import AlreadyRunning, MasterLock, holder, program_of


@contextmanager
def process(work: Callable[[], None]) -> Iterator[int]:
    """A process that has done ``work`` and then lives on."""
    ours, its = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(its, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(its)
    assert os.read(ours, 1) == b"."
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ours)


def test_the_master_lock_names_its_holder(tmp_path: Path) -> None:
    path = str(tmp_path / "master.pid")
    assert holder(path) == 0
    with process(lambda: setattr(test_the_master_lock_names_its_holder, "lock", MasterLock(path))) as pid:
        assert holder(path) == pid
        with pytest.raises(AlreadyRunning) as caught:
            MasterLock(path)
        assert caught.value.pid == pid
        assert str(pid) in str(caught.value)
    assert holder(path) == 0
    lock = MasterLock(path)
    assert lock.orphaned  # the last one was killed
    lock.release()
    lock = MasterLock(path)
    assert not lock.orphaned
    lock.release()


def test_program_of() -> None:
    assert program_of(os.getpid()) == "mtad"  # as every Python program that holds the lock
    with subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None and other.stdout is not None
        other.stdin.write(b"echo ready\n")
        other.stdin.flush()
        other.stdout.readline()
        assert program_of(other.pid) == "sh"
        other.stdin.close()
    assert program_of(2**22 + 1) == "an unknown program"
