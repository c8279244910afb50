"""The lock of the master."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from live.forked import process

from mtad.daemon.lock import AlreadyRunning, MasterLock, holder, program_of


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
