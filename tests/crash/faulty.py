"""A running mtad, in one process, whose system calls can be made to fail or to end it (``faults.c``)."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from live.daemon import MTAD, Mtad, wait_until
from oracle.postfix import wait_for_port

SOURCE = Path(__file__).with_name("faults.c")
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


def alive(group: int) -> bool:
    """Whether a process of the group lives."""
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
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.plan.disarm()
        seen = self.log().count(" disconnect from ")
        self.process = subprocess.Popen(
            [*MTAD, "-c", str(self.directory), "start-fg", "--single"],
            env={**os.environ, "LD_PRELOAD": library(), "FAULTS": str(self.root / "plan")},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        (port,) = self.ports.values()
        wait_for_port(port)
        wait_until(lambda: self.log().count(" disconnect from ") > seen, "the end of our own look")

    def dead(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            group = self.process.pid
            self.process.wait(10)
            self.process = None
            wait_until(lambda: not alive(group), "all processes to be gone")

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def queued(self) -> list[tuple[str, int]]:
        """Queue id and state of what is in the queue."""
        with contextlib.closing(sqlite3.connect(self.queue / "mtad" / "queue.db", timeout=10)) as db:
            return db.execute("SELECT queue_id, state FROM message").fetchall()

    def sound(self) -> None:
        """Whether the database is whole, with nothing that belongs to nobody."""
        with contextlib.closing(sqlite3.connect(self.queue / "mtad" / "queue.db", timeout=10)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            orphans = "SELECT count(*) FROM recipient WHERE id >> 20 NOT IN (SELECT seq FROM message)"
            assert db.execute(orphans).fetchone() == (0,)
            orphans = "SELECT count(*) FROM piece WHERE id >> 20 NOT IN (SELECT content FROM message)"
            assert db.execute(orphans).fetchone() == (0,)
