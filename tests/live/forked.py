"""Children of this process, which have what it imports: sooner there than a new interpreter."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


def forked(
    command: Callable[[Sequence[str]], int], *arguments: str, text: bytes = b"", uid: int | None = None
) -> tuple[int, str, str]:
    """Exit status, output and errors of a command, run by that user; ``text``: its standard input."""
    with tempfile.TemporaryFile() as feed, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        feed.write(text)
        feed.seek(0)
        pid = os.fork()
        if pid == 0:
            status = 99
            try:
                for number, file in enumerate((feed, out, err)):
                    os.dup2(file.fileno(), number)
                sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
                os.environ.pop("LOGNAME", None)
                if uid is not None:
                    os.setgroups([])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                status = command(arguments)
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return status, said[0], said[1]


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
