"""Long queues: how fast one is drained, and how soon a very long one begins to move.

:func:`drain`: so many messages are deferred, since nobody listens where they go; then the relay host is
another one, and the queue is flushed.  Measured from the flush until the sink has the last.

:func:`million`: a queue of a million deferred messages, all of them due, made by SQL (only for mtad:
Postfix would need a million files).  Measured from ``mtad start`` to the first message at the sink; the
memory of all processes while they deliver; and how soon ``postqueue -p`` prints its first line, and what
memory it takes for all of them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import systems
from systems import System, running

from mtad.queue import schema

PATIENCE = 300.0
#: Seconds of delivery after which the memory is looked at.
_UNDER_WAY = 10.0
_BODY = b"Subject: one of many\r\n\r\n" + (b"x" * 70 + b"\r\n") * 14


def drain(
    name: str,
    configuration: dict[str, str],
    users: Path,
    messages: int,
    fill: Callable[[System], int],
    wait: Callable[[int], tuple[int, float]],
) -> dict[str, Any]:
    """One drain; ``fill`` has the system take messages, ``wait`` waits for them at the sink."""
    goal = configuration["relayhost"]
    slow = {"minimal_backoff_time": "3600s", "maximal_backoff_time": "3600s", "queue_run_delay": "3600s"}
    dead = {"relayhost": f"[127.0.0.1]:{systems.free_port()}"}
    with running(name, configuration | slow | dead, users) as system:
        accepted = fill(system)
        _until(lambda: _deferred(system.log) >= accepted, "all to be deferred")
        main_cf = system.instance.directory / "main.cf"
        main_cf.write_text(main_cf.read_text().replace(dead["relayhost"], goal))
        reload = ("postfix", "reload") if name == "postfix" else ("reload",)
        flush = ("postqueue", "-f")
        done = system.instance.command(*reload)
        if done.returncode:
            raise RuntimeError(f"{name}: reload: {done.stderr}")
        time.sleep(1.0)
        system.tree.settle()
        before = system.tree.cpu()
        begun = time.clock_gettime(time.CLOCK_MONOTONIC)
        system.instance.command(*flush)
        relayed, last = wait(accepted)
        system.tree.settle()
        cpu = system.tree.cpu() - before
    return {
        "rate": relayed / max(last - begun, 1e-9),
        "cpu_ms": 1e3 * cpu / max(1, relayed),
        "messages": relayed,
        "accepted": accepted,
    }


def _deferred(log: Path) -> int:
    with log.open("rb") as lines:
        return sum(b" status=deferred " in line for line in lines)


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.5)


def million(configuration: dict[str, str], users: Path, scratch: Path, count: int) -> dict[str, Any]:
    """What the module says of it; ``count`` messages."""
    queue = scratch / "million"
    queue.mkdir(mode=0o711)
    _fill(queue, count)
    with running("mtad", configuration | {"mtad_queue_directory": str(queue)}, users, start=False) as system:
        begun = time.monotonic()
        with system.tree.births():
            system.instance.start()
        system.tree.started(int((system.instance.queue / "pid" / "master.pid").read_text()))
        _soon(lambda: _sent(system.log))
        first = time.monotonic() - begun
        time.sleep(_UNDER_WAY)
        memory = system.tree.memory()
        sent = _sent(system.log)
        line, peak = _listing(system)
    return {
        "messages": count,
        "first_delivery_s": first,
        "memory_mib": memory / 2**20,
        "rate": sent / _UNDER_WAY,
        "postqueue_first_line_s": line,
        "postqueue_peak_mib": peak / 2**20,
    }


def _soon(condition: Callable[[], int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("no delivery")
        time.sleep(0.01)


def _sent(log: Path) -> int:
    with log.open("rb") as lines:
        return sum(b" status=sent " in line for line in lines)


def _listing(system: System) -> tuple[float, int]:
    """Seconds to the first line of ``postqueue -p``, and its largest memory for a hundred thousand lines."""
    from live.daemon import MTAD

    begun = time.monotonic()
    words = [*MTAD, "-c", str(system.instance.directory), "postqueue", "-p"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    first = time.monotonic() - begun
    for _ in range(100_000):
        process.stdout.readline()
    process.stdout.close()
    _, _, usage = os.wait4(process.pid, 0)
    return first, usage.ru_maxrss * 1024


def _fill(queue: Path, count: int) -> None:
    """Deferred messages for one recipient each, all of them due."""
    schema.make(str(queue))
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    now = time.time()
    part = schema.key(1)
    with contextlib.closing(sqlite3.connect(queue / "queue.db", isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        db.execute(
            f"INSERT INTO message {numbers} SELECT i, printf('%012X', i), 1, {now - 7200}, {len(_BODY)}, i,"
            f" 1, {now - 60}, 0, 0, 0, CAST('s@example.com' AS BLOB), x'', x'', x'', '{{}}' FROM n"
        )
        db.execute(
            f"INSERT INTO recipient {numbers} SELECT i * {part}, 0, CAST('r' || i || '@example.net' AS BLOB),"
            " x'', '', x'', '4.4.1', 'connect to 127.0.0.1[127.0.0.1]:25: refused', 'none' FROM n"
        )
        db.execute(f"INSERT INTO piece {numbers} SELECT i * {part}, ? FROM n", (_BODY,))
        db.execute("UPDATE counter SET next = ?", (count + 1,))
        db.execute("COMMIT")
    os.sync()
