"""The system fails mtad, and what was acknowledged arrives, once, when the trouble is over.

Disks that are full or read-only, syncs that fail, no descriptors, no processes, a clock that jumps, a damaged
database.
"""

from __future__ import annotations

import errno
import os
import signal
import smtplib
import socket
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest
from faulty import AVAILABLE, DESCRIPTORS, FORKS, SYNCS, WHY_NOT, WRITES, Faulty
from live.daemon import Mtad, Sink, wait_until

pytestmark = pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)

#: Bytes of a message that is larger than what is kept in memory.
LARGE = 300_000


def send(mtad: Mtad, subject: str, size: int = 0, patience: float = 60) -> bool:
    """Whether the message was acknowledged."""
    (port,) = mtad.ports.values()
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=patience) as client:
            text = f"Subject: {subject}\r\n\r\n".encode() + b"0123456789\r\n" * (size // 12)
            client.sendmail("alice@example.com", ["bob@example.net"], text)
    except (smtplib.SMTPException, OSError):
        return False
    return True


def settings(sink: Sink) -> dict[str, str]:
    return {
        "relayhost": f"[127.0.0.1]:{sink.port}",
        "mynetworks": "127.0.0.0/8",
        "message_size_limit": "1000000",
        "notify_classes": "",
    }


def subjects(sink: Sink) -> Counter[str]:
    return Counter(str(mail["Subject"]) for mail in sink.mails())


def check(mtad: Faulty, sink: Sink, told: dict[str, bool]) -> None:
    """All is well again: what was acknowledged comes, once."""
    mtad.plan.disarm()
    assert send(mtad, "all is well")
    told["all is well"] = True

    def come() -> bool:
        mtad.command("postqueue", "-f")  # what is in hand does not mind it
        return all(subjects(sink)[name] for name, said in told.items() if said)

    wait_until(come, f"the mail:\n{mtad.log()[-2000:]}", step=0.5)
    wait_until(lambda: not mtad.queued(), f"an empty queue:\n{mtad.log()[-2000:]}")
    assert max(subjects(sink).values()) == 1
    mtad.sound()


@pytest.mark.parametrize(
    ("number", "which", "firsts"),
    [
        (errno.ENOSPC, WRITES, (1, 6)),
        (errno.EROFS, WRITES | SYNCS, (1, 6)),
        (errno.EIO, SYNCS, (1,)),
        (errno.EMFILE, DESCRIPTORS, (1,)),
    ],
    ids=["no room", "read-only", "syncs fail", "no descriptors"],
)
def test_the_system_fails_for_a_while(number: int, which: int, firsts: tuple[int, ...]) -> None:
    """``firsts``: the call from which on all fail."""
    with Sink() as sink, Faulty(settings(sink)) as mtad:
        told: dict[str, bool] = {}
        for first in firsts:
            mtad.plan.arm(first, number, which)
            for size in (0, LARGE):
                name = f"{first} {size}"
                told[name] = send(mtad, name, size, patience=3)
            assert mtad.plan.get("ended")
            mtad.plan.disarm()
            assert not mtad.dead(), f"it ended:\n{mtad.log()[-3000:]}"
            wait_until(lambda: send(mtad, "again", patience=10), "it takes mail again")

            def delivered() -> bool:
                mtad.command("postqueue", "-f")  # what found no socket would wait for minutes
                return subjects(sink)["again"] > 0

            wait_until(delivered, "it delivers again", step=0.5)
            for path in (sink.root / "Maildir" / "new").iterdir():
                if b"Subject: again" in path.read_bytes():
                    path.unlink()
        check(mtad, sink, told)


def test_no_process_can_be_made() -> None:
    """The child dies, and there is none for a while to take its place."""
    with Sink() as sink, Faulty(settings(sink)) as mtad:
        sink.stop()  # so that mail stays
        told = {f"before {number}": send(mtad, f"before {number}") for number in range(5)}
        assert all(told.values())
        mtad.plan.arm(1, errno.EAGAIN, FORKS)
        (child,) = mtad.children()
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: mtad.plan.get("calls") > 1, "a second attempt to fork")
        assert not mtad.dead(), mtad.log()[-2000:]
        mtad.plan.disarm()
        wait_until(lambda: send(mtad, "again", patience=10), "it serves again")
        sink.start()
        check(mtad, sink, {**told, "again": True})


def test_the_clock_jumps() -> None:
    with Sink("--reply", "rcpt=450 later") as sink, Faulty(settings(sink)) as mtad:
        told: dict[str, bool] = {}
        for number, ahead in enumerate((0, 7200, -7200, 86400, 0)):
            mtad.plan.put("ahead", ahead)
            told[f"mail {number}"] = send(mtad, f"mail {number}")
        assert all(told.values())
        wait_until(lambda: len(mtad.queued()) == len(told), "all to be queued")
        sink.stop()
        sink._options = ()
        sink.start()
        assert mtad.command("postqueue", "-f").returncode == 0
        check(mtad, sink, told)


@pytest.mark.parametrize("ahead", [7200, -7200])
def test_timers_do_not_heed_the_clock_of_the_day(ahead: int) -> None:
    """A client that is silent is neither cut off at once nor kept for hours, and a destination that was dead
    lives again in time."""
    quick = {"minimal_backoff_time": "1s", "maximal_backoff_time": "1s", "queue_run_delay": "1s"}
    with Sink() as sink:
        main_cf = {**settings(sink), **quick, "smtpd_timeout": "3s", "initial_destination_concurrency": "1"}
        sink.stop()
        with Faulty(main_cf) as mtad:
            assert send(mtad, "mail 1")
            wait_until(lambda: "Connection refused" in mtad.log(), "a dead destination")
            (port,) = mtad.ports.values()
            with socket.create_connection(("127.0.0.1", port), timeout=60) as silent:
                silent.recv(1000)
                begun = time.monotonic()
                mtad.plan.put("ahead", ahead)
                sink.start()
                assert send(mtad, "mail 2")
                wait_until(lambda: subjects(sink)["mail 2"], f"mail 2:\n{mtad.log()[-2000:]}")
                assert b"421 4.4.2" in silent.recv(1000)
                assert 2.5 < time.monotonic() - begun < 60
            mtad.plan.put("ahead", 0)
            check(mtad, sink, {"mail 1": True, "mail 2": True})


def fill(mtad: Mtad, count: int) -> None:
    for number in range(count):
        assert send(mtad, f"mail {number}", 3000)
    wait_until(lambda: mtad.log().count("status=deferred") >= count, "all to be deferred")


@pytest.mark.parametrize("damage", ["page", "head"])
def test_a_damaged_database(damage: str) -> None:
    with Sink("--reply", "rcpt=450 later") as sink, Mtad(settings(sink)) as mtad:
        fill(mtad, 12)
        database = mtad.queue / "mtad" / "queue.db"
        mtad.command("stop")
        assert mtad.command("queue", "check").stdout == "the queue is sound\n"
        harm(database, damage)
        checked = mtad.command("queue", "check")
        assert checked.returncode == 1
        assert "run: mtad queue repair" in checked.stderr
        started = mtad.command("start")
        if damage == "head":  # nothing can be read at all
            assert started.returncode == 1
            assert "file is not a database" in started.stderr
            assert "run: mtad queue repair" in started.stderr
        else:
            mtad.wait_for_log("run: mtad queue repair")
            assert "mtad queue: fatal" in mtad.command("queue", "repair").stderr, "it runs"
            mtad.command("stop")
        repaired = mtad.command("queue", "repair")
        assert list(mtad.queue.glob("mtad/queue.db.damaged.*"))
        assert mtad.command("queue", "check").stdout == "the queue is sound\n"
        sink.stop()
        sink._options = ()
        sink.start()
        mtad.start()
        mtad.command("flush")
        if damage == "head":
            assert "0 messages rescued" in repaired.stderr
            return
        rescued = int(repaired.stderr.split(" messages rescued")[0].split()[-1])
        assert 6 <= rescued < 12, repaired.stderr
        wait_until(lambda: len(sink.raw()) >= rescued, f"what was rescued:\n{mtad.log()[-2000:]}")
        wait_until(
            lambda: mtad.command("postqueue", "-p").stdout == "Mail queue is empty\n", "an empty queue"
        )
        assert set(subjects(sink).values()) == {1}
        assert len(subjects(sink)) == rescued


def harm(database: Path, damage: str) -> None:
    """Overwrite a part of the file."""
    with sqlite3.connect(database) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'piece'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    with database.open("r+b") as file:
        if damage == "head":
            file.write(os.urandom(100))
            return
        # a leaf of the tree that has the content
        file.seek((root - 1) * size)
        page = file.read(size)
        cell = int.from_bytes(page[12:14])
        child = int.from_bytes(page[cell : cell + 4])
        file.seek((child - 1) * size)
        file.write(os.urandom(size))


def test_repair_of_a_sound_queue_changes_nothing() -> None:
    with Sink("--reply", "rcpt=450 later") as sink, Mtad(settings(sink)) as mtad:
        fill(mtad, 3)
        mtad.command("stop")
        before = mtad.command("postqueue", "-j").stdout
        done = mtad.command("queue", "repair")
        assert done.returncode == 0
        assert "3 messages rescued, 0 not" in done.stderr
        assert mtad.command("postqueue", "-j").stdout == before
