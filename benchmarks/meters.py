"""What a mail system costs: the CPU time and the memory of all its processes, those that have ended included.

:class:`Tree` puts a system into a control group of its own, whose ``cpu.stat`` counts every process that was
ever in it.  Where there is no writable cgroup v2 it adds up ``/proc/PID/stat`` over the master and its
descendants, with the time of the children that each has waited for; that is exact to a clock tick a process.

Memory is the sum of ``Pss`` in ``/proc/PID/smaps_rollup``: what is private, and each shared page divided by
the number of processes that share it.  The kernel's own memory (sockets, page tables) is not in it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")


def _own_group() -> Path | None:
    """The directory of the cgroup v2 that we are in."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        mount = next(words[1] for words in mounts if words[2] == "cgroup2")
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        inside = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    return Path(mount + inside)


class Tree:
    """All processes of one mail system."""

    def __init__(self, name: str) -> None:
        self._outside = _own_group()
        self._group: Path | None = None
        self._master = 0
        if self._outside is not None:
            group = self._outside / f"bench-{name}-{os.getpid()}"
            with contextlib.suppress(OSError):
                group.mkdir()
                self._group = group

    @property
    def method(self) -> str:
        return "cgroup" if self._group else "/proc"

    @contextlib.contextmanager
    def births(self) -> Iterator[None]:
        """What is started within belongs to the tree."""
        if self._group is None or self._outside is None:
            yield
            return
        (self._group / "cgroup.procs").write_text("0")
        try:
            yield
        finally:
            (self._outside / "cgroup.procs").write_text("0")

    def started(self, master: int) -> None:
        """The master's pid, for the way without a cgroup."""
        self._master = master

    def pids(self) -> list[int]:
        if self._group is not None:
            return [int(pid) for pid in (self._group / "cgroup.procs").read_text().split()]
        return list(_descendants(self._master))

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        if self._group is not None:
            words = (self._group / "cpu.stat").read_text().split()
            return int(words[words.index("usage_usec") + 1]) / 1e6
        return sum(_cpu(pid) for pid in self.pids())

    def settle(self, seconds: float = 5.0) -> None:
        """Wait until the processes have nothing to do any more."""
        deadline = time.monotonic() + seconds
        last = self.cpu()
        while time.monotonic() < deadline:
            time.sleep(0.2)
            used = self.cpu()
            if used - last < 0.004:
                return
            last = used

    def memory(self) -> int:
        """Bytes of memory, each shared page by its share."""
        return sum(_pss(pid) for pid in self.pids())

    def close(self) -> None:
        """Forget the group; its processes have ended."""
        if self._group is None:
            return
        for _ in range(100):
            with contextlib.suppress(OSError):
                self._group.rmdir()
                return
            time.sleep(0.05)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _cpu(pid: int) -> float:
    fields = _stat(pid)
    return sum(int(field) for field in fields[11:15]) * _TICK


def _descendants(master: int) -> Iterator[int]:
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = _stat(int(entry))
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(entry))
    todo = [master]
    while todo:
        pid = todo.pop()
        yield pid
        todo += parents.get(pid, [])


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def memory_available() -> int:
    """Bytes that the kernel could still give."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def machine() -> dict[str, str]:
    """What a reader of the figures wants to know of the machine."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": f"{os.cpu_count()} x {model}",
        "kernel": os.uname().release,
        "load_average": Path("/proc/loadavg").read_text().split()[0],
    }
