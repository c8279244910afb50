"""postsuper of Debian's Postfix and ours, one command after the other on the same queue, while nothing runs:
they say the same, and leave the same behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.forked import forked
from oracle.postfix import Postfix

from mtad.cli import postqueue, postsuper, queue
from mtad.queue.ids import in_base
from mtad.queue.message import Message, Recipient
from mtad.queue.postfix.envelope import write_message
from mtad.queue.postfix.files import QueueDirectory

QUEUES = ("maildrop", "incoming", "active", "deferred", "hold", "corrupt", "defer", "bounce", "trace",
          "flush", "pid", "public", "private")  # fmt: skip
LONG = in_base(1790000000, 52, 6) + in_base(123456, 52, 4) + "z3F"
#: Where each message is at first.
QUEUED = {"0A1B2C01": "deferred", "0A1B2C02": "deferred", "0A1B2C03": "hold", "0A1B2C04": "incoming",
          "0A1B2C06": "incoming", LONG: "deferred", "0A1B2C07": "deferred"}  # fmt: skip
#: Arguments, and what is on standard input.
COMMANDS: list[tuple[list[str], str]] = [
    (["-h", "0A1B2C01"], ""),
    (["-h", "0A1B2C01", "-H", "0A1B2C01", "-e", "0A1B2C01", "-e", "0A1B2C01"], ""),
    (["-h", "-"], f"{LONG}\nno!\n0A1B2C02\n{LONG}\n0A1B2C0\n0A1B2C03\n"),
    (["-f", "-"], f"0A1B2C02\n\n{LONG}\n0A1B2C01\n"),
    (["-H", "0A1B2C03", "deferred"], ""),
    (["-e", "0A1B2C03", "deferred", "incoming"], ""),
    (["-h", "ALL", "incoming"], ""),
    (["-r", "0A1B2C04", "-e", "0A1B2C04", "-h", "0A1B2C04", "-r", "0A1B2C04"], ""),
    (["-d", "0A1B2C04", "deferred"], ""),
    (["-f", "ALL", "hold"], ""),
    (["-d", "0A1B2C04", "-d", "0A1B2C01", "maildrop"], ""),
    (["-c", "relative", "-d", "ALL"], ""),
    (["-r", "ALL", "hold", "-d"], ""),
    (["-h", "ALL", "-d", LONG, "-H", "0A1B2C02"], ""),
    (["-r", "ALL", "hold", "active"], ""),
    (["-d", "ALL", "hold", "incoming"], ""),
    (["-d", "ALL"], ""),
    (["-p"], ""), (["-s"], ""), ([], ""), (["-S", "hold"], ""),
]  # fmt: skip


def summary(listed: str) -> dict[str, tuple[str, bool]]:
    """What ``postqueue -j`` says."""
    found = [json.loads(line) for line in listed.splitlines()]
    return {one["queue_id"]: (one["queue_name"], one["forced_expire"]) for one in found}


def theirs(postfix: Postfix, name: str, arguments: list[str], text: str = "") -> tuple[int, str, str]:
    environment = {**os.environ, "MAIL_CONFIG": str(postfix.directory)}
    done = subprocess.run([name, *arguments], input=text, text=True, capture_output=True, env=environment)
    return done.returncode, done.stdout, done.stderr


def fill(spool: Path) -> None:
    spool.chmod(0o755)
    where = QueueDirectory(str(spool), frozenset(("deferred", "defer")), 1)
    for name in QUEUES:
        (spool / name).mkdir()
    for name, place in QUEUED.items():
        message = Message(name, b"s@example.com", [Recipient(b"r@example.net", id=1)], 1790000000.0)
        path = Path(where.file(place, name))
        path.parent.mkdir(exist_ok=True)
        with open(path, "w+b") as file:
            write_message(file, message, [b"Subject: x\r\n\r\nx\r\n"], created=1.0)
        path.chmod(0o700)
    for path in spool.rglob("*"):
        shutil.chown(path, "root" if path.name == "pid" else "postfix")


@pytest.fixture
def both() -> Iterator[tuple[Postfix, Postfix]]:
    """Two queues of Postfix's that are the same."""
    made = [Postfix({"enable_long_queue_ids": "yes"}) for _ in range(2)]
    try:
        for one in made:
            fill(one.queue)
            one.maillog.touch()
            shutil.chown(one.maillog, "postfix")
        yield made[0], made[1]
    finally:
        for one in made:
            shutil.rmtree(one.root)


def test_one_after_the_other(both: tuple[Postfix, Postfix], monkeypatch: pytest.MonkeyPatch) -> None:
    postfix, other = both
    monkeypatch.setenv("MAIL_CONFIG", str(other.directory))
    _, _, err = forked(queue.main, "import")
    assert err == f"mtad queue: {len(QUEUED)} messages imported\n"
    for arguments, text in COMMANDS:
        a = theirs(postfix, "postsuper", arguments, text)
        b = forked(postsuper.main, *arguments, text=text.encode())
        assert b == a, f"{arguments}: {a[2]}{b[2]}"
        left = summary(theirs(postfix, "postqueue", ["-j"])[1])
        assert summary(forked(postqueue.main, "-j")[1]) == left, arguments
    assert not left
