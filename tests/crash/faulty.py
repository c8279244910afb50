"""A running mtad, in one process, whose system calls can be made to fail or to end it (``faults.c``)."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from live.daemon import Mtad, wait_until
from oracle.postfix import wait_for_port

SOURCE = Path(__file__).with_name("faults.c")
NURSERY = Path(__file__).with_name("nursery.py")
AVAILABLE = shutil.which("gcc") is not None
WHY_NOT = "needs gcc"

KILL_BEFORE, KILL_HALFWAY = 0, 1
WRITES, SYNCS, FORKS, DESCRIPTORS = 1, 2, 4, 8

_library = ""


def library() -> str:
    """The library to preload, compiled once."""
    global _library
    if not _library:
        directory = tempfile.mkdtemp(prefix="faults-")
        _library = f"{directory}/faults.so"
        subprocess.run(
            ["gcc", "-O1", "-shared", "-fPIC", "-o", _library, str(SOURCE), "-ldl"], check=True, timeout=60
        )
        os.chmod(directory, 0o755)
    return _library


def soon(condition: Callable[[], object], what: Callable[[], str]) -> None:
    """``wait_until`` for what happens many hundred times."""
    wait_until(condition, what, step=0.004)


def alive(group: int) -> bool:
    """Whether a process of the group lives."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if int(words[2]) == group and words[0] != "Z":
                    return True
    return False


class Plan:
    """What is to happen: the memory that the library looks at."""

    _FIELDS = ("calls", "armed", "at", "how", "which", "ended", "ahead")

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8 * len(self._FIELDS)))
        path.chmod(0o666)
        self._file = path.open("r+b")
        self._memory = mmap.mmap(self._file.fileno(), 8 * len(self._FIELDS))

    def get(self, name: str) -> int:
        return int(struct.unpack_from("=q", self._memory, 8 * self._FIELDS.index(name))[0])

    def put(self, name: str, value: int) -> None:
        struct.pack_into("=q", self._memory, 8 * self._FIELDS.index(name), value)

    def arm(self, at: int, how: int, which: int = 0) -> None:
        """From now on: the ``at``-th call."""
        for name, value in (
            ("calls", 0),
            ("ended", 0),
            ("at", at),
            ("how", how),
            ("which", which),
            ("armed", 1),
        ):
            self.put(name, value)

    def disarm(self) -> None:
        self.put("armed", 0)


class Faulty(Mtad):
    """``start`` runs it in the foreground of a process group of its own, with ``plan`` disarmed."""

    def __init__(self, main_cf: Mapping[str, str]) -> None:
        super().__init__(main_cf)
        self.plan = Plan(self.root / "plan")
        self._group = 0
        self._nursery = subprocess.Popen(
            [sys.executable, str(NURSERY), "mtad"], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "LD_PRELOAD": library(), "FAULTS": str(self.root / "plan")},
        )  # fmt: skip
        self._heard()

    def _heard(self) -> str:
        assert self._nursery.stdout is not None
        return self._nursery.stdout.readline().strip()

    def child(self, *arguments: str, text: str = "") -> int:
        """Run ``mtad`` as a child of the nursery: the pid, or the exit status of what is no daemon."""
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(json.dumps([text, *arguments]) + "\n")
        self._nursery.stdin.flush()
        return int(self._heard())

    def begin(self) -> None:
        """Start it, and wait for nothing."""
        self._group = self.child("-c", str(self.directory), "start-fg", "--single")

    def start(self) -> None:
        self.plan.disarm()
        here = self.mark()
        self.begin()
        (port,) = self.ports.values()
        asked = 0.0

        def looked() -> bool:
            """Look for it, and again where a dying predecessor was found."""
            nonlocal asked
            if time.monotonic() > asked + 1:
                wait_for_port(port, step=0.004)
                asked = time.monotonic()
            return " disconnect from " in self.since(here)

        soon(looked, lambda: f"the end of our own look:\n{self.since(here)}")

    def mark(self) -> int:
        """The end of the log."""
        return self.maillog.stat().st_size if self.maillog.exists() else 0

    def since(self, mark: int) -> str:
        """What was logged since then."""
        with self.maillog.open("rb") as log:
            log.seek(mark)
            return log.read().decode(errors="replace")

    def dead(self) -> bool:
        return not alive(self._group)

    def kill(self) -> None:
        if group := self._group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
            soon(lambda: not alive(group), lambda: "all processes to be gone")
            self._group = 0

    def stop(self) -> None:
        self.kill()
        self._nursery.kill()
        self._nursery.communicate()
        shutil.rmtree(self.root, ignore_errors=True)

    def queued(self) -> list[tuple[str, int]]:
        """Queue id and state of what is in the queue."""
        with contextlib.closing(sqlite3.connect(self.queue / "mtad" / "queue.db", timeout=60)) as db:
            return db.execute("SELECT queue_id, state FROM message").fetchall()

    def sound(self) -> None:
        """Whether the database is whole, with nothing that belongs to nobody."""
        with contextlib.closing(sqlite3.connect(self.queue / "mtad" / "queue.db", timeout=60)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            orphans = "SELECT count(*) FROM recipient WHERE id >> 20 NOT IN (SELECT seq FROM message)"
            assert db.execute(orphans).fetchone() == (0,)
            orphans = "SELECT count(*) FROM piece WHERE id >> 20 NOT IN (SELECT content FROM message)"
            assert db.execute(orphans).fetchone() == (0,)
