"""mtad under load while its processes are killed at random moments: what was answered 250 arrives."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

from live.daemon import Mtad, Sink, wait_until
from live.load import Load

ROUNDS = 24
KINDS = ("worker", "qmgr", "master", "everything")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def manager(mtad: Mtad) -> int:
    """The pid that the queue manager gives in the log."""
    lines = [line for line in mtad.log().splitlines() if "/qmgr[" in line and "(queue active)" in line]
    return int(lines[-1].partition("/qmgr[")[2].partition("]")[0]) if lines else 0


def check_queue(mtad: Mtad) -> None:
    with contextlib.closing(sqlite3.connect(mtad.queue / "mtad" / "queue.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def one_round(mtad: Mtad, kind: str, dice: random.Random, load: Load) -> None:
    """Kill something in the middle of the load, and see it replaced."""
    before = len(load.accepted)
    wait_until(lambda: len(load.accepted) > before, f"accepted mail:\n{mtad.log()[-3000:]}")
    time.sleep(dice.uniform(0.0, 0.4))
    wait_until(lambda: manager(mtad) in mtad.children(), "the queue manager at work")
    master, children, delivering = mtad.pid, mtad.children(), manager(mtad)
    workers = [pid for pid in children if pid != delivering]
    victim = dice.choice(workers) if kind == "worker" else delivering
    if kind in ("worker", "qmgr"):
        kill(victim)
    elif kind == "master":
        kill(master)
    else:
        kill(master, *children)
    if kind in ("worker", "qmgr"):
        wait_until(
            lambda: victim not in mtad.children() and len(mtad.children()) == len(children),
            "the master to replace it",
        )
        return
    if kind == "everything":
        wait_until(lambda: not any(alive(pid) for pid in (master, *children)), "all to be dead")
        check_queue(mtad)
    mtad.start()
    wait_until(lambda: not any(alive(pid) for pid in children), "the children of the dead master to end")
    assert mtad.pid not in (0, master)


def test_killed_at_any_moment() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    kinds = [KINDS[n % len(KINDS)] for n in range(ROUNDS)]
    dice.shuffle(kinds)
    with Sink() as sink:
        settings = {
            "relayhost": f"[127.0.0.1]:{sink.port}",
            "mynetworks": "127.0.0.0/8",
            "default_destination_concurrency_limit": "20",
        }
        with Mtad(settings) as mtad, Load(mtad.ports["submission"]) as load:
            for kind in kinds:
                one_round(mtad, kind, dice, load)
            load.stop()

            def arrived() -> Counter[str]:
                return Counter(str(mail["Subject"]) for mail in sink.mails())

            wait_until(
                lambda: mtad.command("postqueue", "-p").stdout == "Mail queue is empty\n", "an empty queue"
            )
            came = arrived()
            log = mtad.log()
            lost = load.accepted - came.keys()
            duplicates = sum(count - 1 for count in came.values())
            doubtful = log.count("the message may be delivered twice")
            print(
                f"{ROUNDS} kills, {load.attempted} mails tried, {len(load.accepted)} answered 250, "
                f"{len(came)} arrived, {len(lost)} lost, {duplicates} duplicates of {doubtful} in doubt"
            )
            assert not lost
            assert duplicates <= doubtful
            assert len(load.accepted) > 10 * ROUNDS
            assert "Traceback" not in log and "panic" not in log
            assert log.count("killed by signal 9") == kinds.count("worker") + kinds.count("qmgr")
            check_queue(mtad)
