"""The locks: one master, one queue manager, and what is passed from one to the next."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mtad.daemon.lock import AlreadyRunning, ManagerLock, MasterLock, holder, program_of


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


def test_the_queue_is_passed_on_with_what_is_in_hand(tmp_path: Path) -> None:
    path = str(tmp_path / "qmgr.lock")
    kept = [0, 1, 2, 7, 1_000_000_007, 5]

    def old() -> None:
        lock = ManagerLock(path)
        assert lock.take()
        lock.pass_on(kept)
        lock.release(1)

    new = ManagerLock(path)
    with process(old):
        assert new.kept_by_others() == {0, 2, 5, 7, 1_000_000_007}
        assert new.take()
        assert new.kept_by_others() == {0, 2, 5, 7, 1_000_000_007}
    assert new.kept_by_others() == set()
    new.close()


def test_several_that_leave(tmp_path: Path) -> None:
    path = str(tmp_path / "qmgr.lock")

    def leaving(*seqs: int) -> Callable[[], None]:
        def work() -> None:
            lock = ManagerLock(path)
            assert lock.take()
            lock.pass_on(seqs)

        return work

    new = ManagerLock(path)
    with process(leaving(*range(0, 3000, 3))), process(leaving(*range(1, 3000, 3))):
        assert new.kept_by_others() == {n for n in range(3000) if n % 3 != 2}
    new.close()


def test_one_manager_at_a_time(tmp_path: Path) -> None:
    path = str(tmp_path / "qmgr.lock")
    new = ManagerLock(path)
    with process(lambda: (lambda lock: setattr(lock, "taken", lock.take()))(ManagerLock(path))):
        assert not new.take()
    assert new.take()
    new.close()
