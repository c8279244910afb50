"""Processes that tests fork."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def process(work: Callable[[], None]) -> Iterator[int]:
    """The pid of a process that has done ``work`` and then lives on, until it is killed at the end."""
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
