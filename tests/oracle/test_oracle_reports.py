"""sendmail's -bv, -v and -XV: what Debian's Postfix and mtad then deliver, and the report that they send."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from live.daemon import MTAD, Mtad, wait_until
from oracle.postfix import Postfix
from oracle.upstream import Heard, Upstream

RULES = {
    "rcpt:bad@x.example": b"550 5.1.1 no such user",
    "rcpt:later@x.example": b"450 4.2.1 come back",
}
ALIASES = """{ one=nobody@here.example, { two = nobody@here.example, far@x.example, near@x.example },
  { list = far@x.example, nobody@here.example }, owner-list=far@x.example,
  { nested = two@here.example, more@x.example } }"""
#: By sender: the arguments, and how many sessions with the upstream follow.
ALL = ["good@x.example", "bad@x.example", "later@x.example", "gone@lost.example", "any@discarded.example"]
SENT: dict[str, tuple[list[str], int]] = {
    "verify@example.com": (["-bv", *ALL], 2),
    "trace@example.com": (["-v", *ALL], 3),
    "one@example.com": (["-bv", "good@x.example"], 2),
    "list@example.com": (["-XV", "good@x.example", "fine@x.example"], 2),
    "other@example.com": (["-XV=-", "good@x.example"], 1),
    "local@example.com": (["-bv", "one@here.example", "nobody@here.example", "unknown@here.example"], 1),
    "alias@example.com": (["-bv", "two@here.example", "list@here.example", "nested@here.example"], 1),
}


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream() as one, Upstream() as two:
        one.rules = two.rules = RULES
        yield one, two


@pytest.fixture(scope="module")
def both(upstreams: tuple[Upstream, Upstream]) -> Iterator[tuple[Postfix, Mtad]]:
    one, two = (
        {
            "myorigin": "example.com",
            "relayhost": f"[127.0.0.1]:{upstream.port}",
            "transport_maps": "inline:{ {lost.example=error:5.7.3 get lost}, discarded.example=discard: }",
            "notify_classes": "",
            "mydestination": "here.example",
            "home_mailbox": "Maildir/",
            "alias_maps": f"inline:{ALIASES}",
            "smtp_connection_cache_on_demand": "no",
        }
        for upstream in upstreams
    )
    with Postfix(one) as postfix, Mtad(two, master_extra="local unix - n n - - local\n") as mtad:
        yield postfix, mtad


def masked(line: bytes) -> bytes:
    text = re.sub(rb"\b[0-9A-F]{9,15}\b", b"ID", line)
    text = re.sub(rb"\[127\.0\.0\.1\]:\d+", b"[127.0.0.1]:PORT", text)
    text = re.sub(rb"\w{3}, +\d+ \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4} \(\w+\)", b"DATE", text)
    return re.sub(rb"SIZE=\d+", b"SIZE=N", text)


def heard(upstream: Upstream, before: int, count: int) -> list[str]:
    """The paragraphs of what the sessions said, in any order: recipients have theirs when they are done."""

    def over() -> list[Heard] | None:
        found = upstream.sessions[before:]
        return found if len(found) >= count and all(one.over for one in found) else None

    wait_until(over, f"{count} sessions")
    sessions = sorted([masked(line) for line in one.lines] for one in upstream.sessions[before:])
    text = b"\n".join(line for one in sessions for line in one).decode().replace("\r\n", "\n")
    return sorted(text.split("\n\n"))


def statuses(log: str, sender: str) -> list[str]:
    """What the log says of the recipients of the mail from ``sender``."""
    found = re.search(rf"(\w+): from=<{re.escape(sender)}>, size", log)
    assert found is not None
    lines = re.findall(rf"{found[1]}: to=(<\S+), .*, (dsn=.*)", log)
    return sorted(re.sub(r":\d+\b", ":PORT", f"{to} {what}") for to, what in lines)


@pytest.mark.parametrize("sender", SENT)
def test_sendmail_reports(
    both: tuple[Postfix, Mtad], upstreams: tuple[Upstream, Upstream], sender: str
) -> None:
    arguments, count = SENT[sender]
    commands = ["sendmail"], [*MTAD, "sendmail"]

    def send(number: int) -> tuple[list[str], list[str]]:
        before = len(upstreams[number].sessions)
        environment = {**os.environ, "MAIL_CONFIG": str(both[number].directory)}
        subprocess.run(
            [*commands[number], "-f", sender, *arguments],
            input="Subject: x\n\nhello\n", text=True, check=True, capture_output=True, env=environment,
        )  # fmt: skip
        said = heard(upstreams[number], before, count)
        return said, statuses(both[number].log(), sender)

    with ThreadPoolExecutor() as pool:
        theirs, ours = pool.map(send, (0, 1))
    different = difflib.unified_diff(*("\n\n".join(side[0] + side[1]).split("\n") for side in (theirs, ours)))
    assert ours == theirs, "\n".join(different)
    text = "\n\n".join(ours[0])
    if "-bv" in arguments:
        assert "Subject: Mail Delivery Status Report" in text and "Action: deliverable" in text
        assert all(re.search("deliverable|unknown user", line) for line in ours[1])
        assert text.count("\nDATA") == 1  # of the report
    elif "-v" in arguments:
        assert all(
            f"\nAction: {action}\n" in text for action in ("relayed", "delayed", "failed", "delivered")
        )
    else:
        assert "MAIL FROM:<list+good=x.example@example.com>" in text or "<other=good-x.example@" in text
