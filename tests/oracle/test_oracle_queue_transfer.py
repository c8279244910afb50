"""A queue moves from Debian's Postfix to mtad and back, on one configuration.

What each lists before the move the other lists after it; what was delivered is not delivered again, and the
rest is delivered by the other, byte for byte.
"""

from __future__ import annotations

import difflib
import json
import re
import shutil
import smtplib
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from live.daemon import MTAD, Sink, wait_until
from oracle.postfix import Postfix, alive, free_port, wait_for_port
from oracle.upstream import Upstream

REFUSE = ("--reply", "rcpt=250 ok", "--reply", "rcpt=450 4.2.0 later")
BODIES = [
    b"Subject: one\r\n\r\n.dots\r\n..\r\n \r\n",
    b"Subject: long\r\n\r\n" + b"x" * 900 + b"\r\n" + "äöü".encode() + b"\r\n",
    b"Subject: large\r\n\r\n" + b"0123456789" * 50 + b"\r\n" + (b"y" * 70 + b"\r\n") * 3000,
    b"Subject: last line open\r\n\r\nno end",
]


def mtad(postfix: Postfix, *arguments: str, text_input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MTAD, "-c", str(postfix.directory), *arguments], text=True, capture_output=True, timeout=60,
        input=text_input,
    )  # fmt: skip


def fill(postfix: Postfix) -> None:
    """The first recipient of all is delivered, all others are deferred."""
    (port,) = postfix.ports.values()
    wait_for_port(port)
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.ehlo("client.example")
        client.sendmail(
            "alice@example.com", ["done@example.net", "todo@example.net"], BODIES[0],
            ["RET=HDRS", "ENVID=a+2Bb"], ["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;or+2Big@example.org"],
        )  # fmt: skip
        wait_until(lambda: "to=<done@example.net>" in postfix.log(), "the first delivery")
        client.sendmail("", ["bob@example.net"], BODIES[1], ["BODY=8BITMIME"])
        client.sendmail('"a b"@example.com', ["bob@example.net", '"c d"@example.net'], BODIES[2])
        client.sendmail("alice@example.com", ["held@example.net"], BODIES[3])


def listing(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for line in done.stdout.splitlines():
        entry = json.loads(line)
        # sizes are those of records with one, of lines with the other; 3.7 has no orig_address
        del entry["message_size"]
        for recipient in entry["recipients"]:
            recipient.pop("orig_address", None)
        entry["recipients"].sort(key=lambda one: one["address"])
        found[entry["queue_id"]] = entry
    return found


def all_deferred(found: dict[str, dict[str, Any]]) -> bool:
    return len(found) == 4 and all(
        one["queue_name"] == "deferred" and all("delay_reason" in r for r in one["recipients"])
        for one in found.values()
    )


def queue_of(run: Any) -> dict[str, dict[str, Any]]:
    """The queue once everything is deferred."""
    found: dict[str, dict[str, Any]] = {}

    def complete() -> bool:
        found.clear()
        found.update(listing(run("postqueue", "-j")))
        return all_deferred(found)

    wait_until(complete, "all mail to be deferred")
    return found


def without_ids(found: dict[str, dict[str, Any]]) -> list[str]:
    """Postfix wants the number of the file in an id."""
    return sorted(json.dumps({**one, "queue_id": name[:5]}) for name, one in found.items())


def held(found: dict[str, dict[str, Any]]) -> str:
    return next(name for name, one in found.items() if one["recipients"][0]["address"] == "held@example.net")


def arrived(sink: Sink) -> Counter[tuple[bytes, bytes]]:
    """What came for whom; the body without the headers that each system adds."""
    found: Counter[tuple[bytes, bytes]] = Counter()
    for raw in sink.raw():
        head, _, body = raw.partition(b"\r\n\r\n")
        found.update((name.strip(), body) for name in re.findall(rb"^X-Sink-Recipient:(.*)$", head, re.M))
    return found


def expected() -> Counter[tuple[bytes, bytes]]:
    people = [[b"done@example.net", b"todo@example.net"], [b"bob@example.net"],
              [b"bob@example.net", b"c d@example.net"], [b"held@example.net"]]  # fmt: skip
    bodies = [body.partition(b"\r\n\r\n")[2] for body in BODIES]
    return Counter(
        (name, body if body.endswith(b"\n") else body + b"\r\n")
        for names, body in zip(people, bodies, strict=True)
        for name in names
    )


def postcat_fields(text: str) -> list[str]:
    """What postcat says of a message, without what differs by nature."""
    return [
        re.sub(r"\b[0-9A-F]{8,}\b", "ID", line)
        for line in text.splitlines()
        if not line.startswith(("message_size:", "create_time:"))
    ]


@contextmanager
def filled(**settings: str) -> Iterator[tuple[Postfix, Sink, dict[str, dict[str, Any]]]]:
    """A Postfix with mail for a sink that takes the first recipient of all and no other, and its queue."""
    with Sink(*REFUSE) as sink:
        main_cf = {
            "mynetworks": "127.0.0.0/8",
            "relayhost": f"[127.0.0.1]:{sink.port}",
            "default_destination_concurrency_failed_cohort_limit": "0",
            **settings,
        }
        with Postfix(main_cf, ports={"submission": free_port()}) as postfix:
            fill(postfix)
            yield postfix, sink, queue_of(postfix.command)


def takes_all(sink: Sink) -> None:
    """From now on."""
    sink.stop()
    sink._options = ()
    sink.start()


@contextmanager
def running(postfix: Postfix) -> Iterator[None]:
    """mtad runs in its place."""
    started = mtad(postfix, "start")
    assert started.returncode == 0, started.stderr
    try:
        yield
    finally:
        mtad(postfix, "stop")


def heard(upstream: Upstream) -> Counter[tuple[bytes, bytes]]:
    """Recipients and paragraphs of what came, without what is new each time, in any order: a notification
    names recipients in the order in which they were done."""
    found: Counter[tuple[bytes, bytes]] = Counter()
    for session in upstream.sessions:
        names: list[bytes] = []
        for line in list(session.lines):
            if line.startswith(b"MAIL"):
                names = []
            elif line.startswith(b"RCPT"):
                names.append(line.partition(b"<")[2].partition(b">")[0])
            elif line.endswith(b"\r\n.\r\n"):
                text = re.sub(rb"\b([0-9A-F]{9,15}|[0-9]{6,14})\b", b"ID", line)
                text = re.sub(rb"\w{3}, +\d+ \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", b"DATE", text)
                text = b"\r\n\r\n".join(sorted(text.split(b"\r\n\r\n")))
                found.update((name, text) for name in names)
    return found


def logs(postfix: Postfix) -> dict[str, list[str]]:
    """What the files tell of recipients, without what mtad does not keep."""
    found: dict[str, list[str]] = {}
    for name in ("defer", "bounce", "trace"):
        paths = [path for path in (postfix.queue / name).rglob("*") if path.is_file()]
        gone = "offset=.*" if name != "defer" else "(offset|diag_type|diag_text|mta_type|mta_mname)=.*"
        texts = [re.sub(f"(?m)^{gone}\n", "", path.read_text()) for path in paths]
        found[name] = sorted(block for text in texts for block in text.split("\n\n"))
    return found


def test_what_nobody_was_told_yet() -> None:
    """Postfix is stopped while a message is being delivered, whose sender is then told, once: by mtad, and by
    Postfix after the queue was at mtad's and came back.  A message on hold is told of at its release."""
    with Upstream(offers=["8BITMIME"]) as upstream, socket.create_server(("127.0.0.1", 0)) as silent:
        upstream.rules = {
            "rcpt:bad@example.net": b"550 5.1.1 <x>: no = such user",
            "rcpt:a b@example.net": b"550 5.1.1 none",
            "rcpt:later@example.net": b"450 4.2.1 later",
        }
        main_cf = {
            "mynetworks": "127.0.0.0/8",
            "relayhost": f"[127.0.0.1]:{upstream.port}",
            "smtp_destination_recipient_limit": "1",
            "transport_maps": f"inline:{{slow@example.net=smtp:[127.0.0.1]:{silent.getsockname()[1]}}}",
            "virtual_alias_maps": "inline:{{alias@example.net=one@example.net,two@example.net}}",
            "smtpd_recipient_restrictions": "check_recipient_access inline:{alias@example.net=HOLD}",
        }
        with Postfix(main_cf, ports={"submission": free_port()}) as postfix:
            (port,) = postfix.ports.values()
            with smtplib.SMTP("127.0.0.1", port) as client:
                client.ehlo("client.example")
                names = ["bad", '"a b"', "good", "later", "slow"]
                client.sendmail(
                    "alice@example.com", [f"{name}@example.net" for name in names], BODIES[0], ["ENVID=a"],
                    ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;or+2Big@example.org"],
                )  # fmt: skip
                client.sendmail("alice@example.com", ["alias@example.net"], BODIES[1], [], ["NOTIFY=SUCCESS"])
            wait_until(lambda: sum(map(len, logs(postfix).values())) >= 8, "all but the slow one")
            master = int((postfix.queue / "pid" / "master.pid").read_text())
            postfix.command("postfix", "abort")
            wait_until(lambda: not alive(master), "the end of master(8), which has ended the others")
            silent.close()
            upstream.sessions.clear()
            told, kept = logs(postfix), postfix.root / "kept"
            subprocess.run(["cp", "-a", str(postfix.queue), str(kept)], check=True)

            assert mtad(postfix, "queue", "import").returncode == 0
            assert not any(logs(postfix).values())
            listed = mtad(postfix, "postqueue", "-j").stdout
            assert '"bounce_reason": "host 127.0.0.1[127.0.0.1] said: 550 5.1.1 <x>: no = such user' in listed
            assert mtad(postfix, "queue", "export").returncode == 0
            assert logs(postfix) == told
            postfix.start()
            postfix.command("postsuper", "-H", "ALL")
            postfix.command("postqueue", "-f")
            settled(postfix.command, upstream)
            postfix.command("postfix", "stop")
            theirs = heard(upstream)
            upstream.sessions.clear()

            for name in ("active", "deferred", "hold", "defer", "bounce", "trace"):
                shutil.rmtree(postfix.queue / name)
                subprocess.run(["cp", "-a", str(kept / name), str(postfix.queue)], check=True)
            assert mtad(postfix, "queue", "import").returncode == 0
            with running(postfix):
                mtad(postfix, "postsuper", "-H", "ALL")
                settled(lambda *words: mtad(postfix, *words), upstream)
            ours = heard(upstream)
            difference = difflib.unified_diff(lines(theirs), lines(ours), "Postfix", "mtad", lineterm="")
            assert ours == theirs, "\n".join(difference)
            assert len(told_of(theirs)) == 3


def settled(run: Any, upstream: Upstream) -> None:
    """Wait until the sender was told, and nothing is left but what must wait."""

    def names() -> list[str]:
        found = listing(run("postqueue", "-j"))
        return sorted(r["address"] for one in found.values() for r in one["recipients"])

    wait_until(lambda: len(told_of(heard(upstream))) == 3, "notifications")
    wait_until(lambda: names() == ["later@example.net", "slow@example.net"], "what must wait")


def lines(found: Counter[tuple[bytes, bytes]]) -> list[str]:
    texts = sorted(f"{name!r}\n{content.decode('latin-1')}" for name, content in found.elements())
    return "\n".join(texts).splitlines()


def told_of(found: Counter[tuple[bytes, bytes]]) -> list[bytes]:
    return [text for name, text in found.elements() if name == b"alice@example.com"]


def test_there_and_back() -> None:
    with filled(default_destination_recipient_limit="50") as (postfix, sink, before):
        name = held(before)
        assert mtad(postfix, "queue", "import").returncode == 1, "Postfix runs"
        assert "already running: Postfix" in mtad(postfix, "queue", "import").stderr
        postfix.command("postsuper", "-h", name, check=True)
        first = next(one for one in before if "todo" in str(before[one]))
        shown = postfix.command("postcat", "-q", first).stdout
        shapes = [
            ["-s", "deferred"], ["-p", "-b", "4", "-t", "10", "deferred", "hold"], ["-l", "-b", "1"],
            ["-m", "1", "-p", "-w", "100", "-t", "0.5", "-n", "3", "-N", "2", "deferred"],
        ]  # fmt: skip
        directory = ["-c", str(postfix.directory)]
        drawn = [
            subprocess.run(["qshape", *directory, *shape], text=True, capture_output=True).stdout
            for shape in shapes
        ]
        postfix.command("postfix", "stop")

        # to mtad
        done = mtad(postfix, "queue", "import")
        assert (done.returncode, done.stderr) == (0, "mtad queue: 4 messages imported\n")
        before[name]["queue_name"] = "hold"
        assert listing(mtad(postfix, "postqueue", "-j")) == before
        assert postfix.command("postqueue", "-p").stdout == "Mail queue is empty\n"
        assert [mtad(postfix, "qshape", *shape).stdout for shape in shapes] == drawn
        again = mtad(postfix, "queue", "import")
        assert again.stderr == "mtad queue: 0 messages imported\n"
        ours = mtad(postfix, "postcat", "-q", first).stdout
        mine = postcat_fields(ours)
        theirs = [line for line in postcat_fields(shown) if "done" not in line]
        assert [line for line in theirs if line not in mine] == []

        # it is mtad's now: it tries, and is refused as Postfix was
        with running(postfix):
            assert mtad(postfix, "queue", "export").returncode == 1, "mtad runs"
            assert mtad(postfix, "postqueue", "-f").returncode == 0
            wait_until(lambda: listing(mtad(postfix, "postqueue", "-j")).keys() == before.keys(), "the queue")

        # and back, where it is delivered in the end
        before = listing(mtad(postfix, "postqueue", "-j"))
        exported = mtad(postfix, "queue", "export")
        assert (exported.returncode, exported.stderr) == (0, "mtad queue: 4 messages exported\n")
        theirs_now = listing(postfix.command("postqueue", "-j"))
        assert without_ids(theirs_now) == without_ids(before)
        first = next(one for one in theirs_now if "todo" in str(theirs_now[one]))
        assert postcat_fields(postfix.command("postcat", "-q", first).stdout) == postcat_fields(ours)
        assert mtad(postfix, "postqueue", "-p").stdout == "Mail queue is empty\n"
        takes_all(sink)
        postfix.start()
        postfix.command("postsuper", "-H", "ALL", check=True)
        postfix.command("postqueue", "-f", check=True)
        wait_until(lambda: arrived(sink).total() >= 6, f"the mail:\n{postfix.log()[-2000:]}")
        wait_until(lambda: not listing(postfix.command("postqueue", "-j")), "an empty queue")
        assert arrived(sink) == expected()


def test_delivered_by_mtad() -> None:
    with filled(enable_long_queue_ids="yes") as (postfix, sink, before):
        postfix.command("postfix", "stop")
        takes_all(sink)
        assert mtad(postfix, "queue", "import").returncode == 0
        assert listing(mtad(postfix, "postqueue", "-j")) == before
        with running(postfix):
            mtad(postfix, "postqueue", "-f")
            wait_until(lambda: arrived(sink).total() >= 6, f"the mail:\n{postfix.log()[-2000:]}")
            wait_until(lambda: not listing(mtad(postfix, "postqueue", "-j")), "an empty queue")
        assert arrived(sink) == expected()
