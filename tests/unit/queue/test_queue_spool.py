from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mtad.errors import QueueError, QueueFull
from mtad.queue.spool import open_spool, queue_error


def test_no_name(tmp_path: Path) -> None:
    with open_spool(str(tmp_path)) as spool:
        spool.write(b"x" * 200000)
        spool.seek(0)
        assert spool.read() == b"x" * 200000
        assert os.listdir(tmp_path) == []


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(QueueError):
        open_spool(str(tmp_path / "none"))


def test_errors() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert isinstance(queue_error(OSError(number, "full")), QueueFull)
    assert not isinstance(queue_error(OSError(errno.EIO, "bad")), QueueFull)
