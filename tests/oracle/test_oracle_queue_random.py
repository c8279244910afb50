"""Queue files that Debian's Postfix made of random mail, after a way to mtad and back: record by record."""

from __future__ import annotations

import random
import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from live.daemon import wait_until
from live.forked import forked
from live.milter import Conversation, FakeMilter, negotiate
from oracle.postfix import Postfix
from oracle.upstream import Upstream

from mtad.cli import queue
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.records import read_records
from mtad.smtpd.milter import wire

MESSAGES = 25
PEOPLE = ["later@example.net", "later+x=y@example.net", '"q s"@example.net', "good@example.net",
          "held@example.net", "alias@example.net", "copied@example.net", "filtered@example.net"]  # fmt: skip
BODIES = [b"hi\r\n", b".dot\r\n", b"no end", b"", b"l" * 3000 + b"\r\nz\r\n", "üü\r\n".encode(),
          (b"0123456789" * 7 + b"\r\n") * 2000]  # fmt: skip
OPTIONS = [["BODY=8BITMIME"], ["BODY=7BIT"], ["RET=FULL"], ["RET=HDRS"], ["ENVID=e+2Bn+20x"], ["XVERP"],
           ["XVERP=-="], [], []]  # fmt: skip
WISHES = [["NOTIFY=NEVER"], ["NOTIFY=SUCCESS,DELAY"], ["NOTIFY=FAILURE"],
          ["ORCPT=rfc822;or+2Big@example.org"], [], []]  # fmt: skip


def edits(dice: random.Random) -> list[bytes]:
    """What a Milter changes: so there are pointers in the files."""
    one = (1).to_bytes(4, "big")
    found = [
        wire.packet(b"h", b"X-Added\0" + b"v" * dice.randrange(200) + b"\0"),
        wire.packet(b"i", one + b"X-Inserted\0 " + b"w" * dice.randrange(100) + b"\0"),
        wire.packet(b"m", one + b"Subject\0" + dice.choice([b"", b"changed", b"z" * 300]) + b"\0"),
        wire.packet(b"+", b"<later-more@example.net>\0"),
        wire.packet(b"-", b"<later@example.net>\0"),
        wire.packet(b"e", b"<another@example.com>\0"),
        wire.packet(b"b", b"new body\r\n" * dice.randrange(200)),
    ]
    return [*dice.sample(found, dice.randrange(4)), wire.packet(b"c")]


@contextmanager
def mail(dice: random.Random) -> Iterator[Postfix]:
    """A Postfix, stopped, with some mail deferred and some on hold."""

    def edit(talk: Conversation, data: bytes) -> list[bytes]:
        return edits(dice)

    with Upstream() as upstream, FakeMilter({b"E": edit}, negotiation=negotiate(actions=0x1FF)) as milter:
        upstream.rules = {"rcpt": b"450 4.2.1 later", "rcpt:good@example.net": b"250 2.1.5 Ok"}
        main_cf = {
            "mynetworks": "127.0.0.0/8",
            "relayhost": f"[127.0.0.1]:{upstream.port}",
            "smtpd_authorized_verp_clients": "127.0.0.0/8",
            "enable_long_queue_ids": dice.choice(["yes", "no"]),
            "hash_queue_names": dice.choice(["deferred, defer", "incoming active deferred defer hold"]),
            "hash_queue_depth": dice.choice("12"),
            "delay_warning_time": dice.choice(["0", "1h"]),
            "default_destination_concurrency_failed_cohort_limit": "0",
            "virtual_alias_maps": "inline:{{alias@example.net=one@example.net,two@example.net}}",
            "recipient_bcc_maps": "inline:{copied@example.net=copy@example.net}",
            "smtpd_recipient_restrictions": "check_recipient_access"
            " inline:{ {held@example.net=HOLD} {filtered@example.net=FILTER smtp:[127.0.0.1]:1} }",
        }
        services: list[tuple[str, dict[str, str]]] = [
            ("plain", {}),
            ("milter", {"smtpd_milters": milter.name}),
        ]
        with Postfix(main_cf, services) as postfix:
            for number in range(MESSAGES):
                submit(dice, postfix, number)
            wait_until(lambda: not any(files(postfix, "incoming", "active")), "mail to be deferred")
            postfix.command("postfix", "stop")
            names = sorted(path.name for path in files(postfix, "deferred"))
            for option in ("-h", "-e"):
                for name in dice.sample(names, 3):
                    postfix.command("postsuper", option, name)
            yield postfix


def submit(dice: random.Random, postfix: Postfix, number: int) -> None:
    text = b"Subject: number %d\r\n\r\n" % number + dice.choice(BODIES)
    people = dice.sample(PEOPLE, dice.randrange(1, 5))
    if dice.random() < 0.1:
        words = ["sendmail", "-C", str(postfix.directory), "-F", "Fül Näme", "-v", *people]
        subprocess.run(words, input=text, check=True, capture_output=True)
        return
    sender = dice.choice(["alice@example.com", "", '"a b"@example.com'])
    options = dice.choice(OPTIONS) + dice.choice([["SMTPUTF8"], [], []])
    if not sender:
        options = [one for one in options if not one.startswith("XVERP")]
    with smtplib.SMTP("127.0.0.1", postfix.ports[dice.choice(["plain", "milter", "milter"])]) as client:
        client.ehlo("client.example")
        client.sendmail(sender, people, text, options, dice.choice(WISHES))


def files(postfix: Postfix, *names: str) -> list[Path]:
    return [path for name in names for path in (postfix.queue / name).rglob("*") if path.is_file()]


def described(path: Path) -> list[Any]:
    """What a queue file says, but not where in the file it says so."""
    envelope: list[tuple[bytes, bytes]] = []
    recipients: list[tuple[bytes, list[tuple[bytes, bytes]]]] = []
    about: list[tuple[bytes, bytes]] = []
    text, within = b"", False
    with open(path, "rb") as file:
        for _, kind, data in read_records(file):
            within = kind == rec.MESSAGE or (within and kind != rec.EXTRACTED)
            name = data.partition(b"=")[0] if kind == rec.ATTRIBUTE else b""
            if kind == rec.SIZE:
                envelope.append((kind, data.split()[5]))
            elif within:
                text += data + b"\n" * (kind == rec.LINE)
            elif kind == rec.ORIGINAL or name in (b"dsn_orig_rcpt", b"notify_flags"):
                about.append((kind, data))
            elif kind in (rec.RECIPIENT, rec.DONE, rec.CANCELED):
                recipients += [(data, sorted(about))] * (kind == rec.RECIPIENT)
                about = []
            elif kind not in (b"K", rec.WARN) and data != b"trace_flags=0":  # whose sender was null has no W
                envelope.append((kind, data))
    status = path.stat()
    when = int(status.st_mtime) if "deferred" in path.parts else 0
    return [status.st_mode, status.st_uid, when, sorted(set(envelope)), recipients, text.rstrip()]


def kept(postfix: Postfix) -> list[list[Any]]:
    """What all files say, queue by queue."""
    places = ("incoming", "active", "deferred", "hold")
    found = [[place, *described(path)] for place in places for path in files(postfix, place)]
    return sorted(found, key=str)


@pytest.mark.parametrize("seed", [1])
def test_there_and_back(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail(random.Random(seed)) as postfix:
        monkeypatch.setenv("MAIL_CONFIG", str(postfix.directory))
        before = kept(postfix)
        assert len(before) > MESSAGES * 0.8
        told = f"mtad queue: {len(before)} messages"
        assert forked(queue.main, "import") == (0, "", f"{told} imported\n")
        assert not kept(postfix)
        assert forked(queue.main, "export") == (0, "", f"{told} exported\n")
        assert kept(postfix) == before
