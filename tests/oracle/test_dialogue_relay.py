"""Plain relay: commands, their order and their syntax, bodies, pipelining."""

from __future__ import annotations

import pytest
from oracle.dialogue import AVAILABLE, WHY_NOT, Body, Config, Dialogue, End, Hang, Houses, Send

pytestmark = pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)

HELLO = "EHLO client.example"
MAIL, RCPT = "MAIL FROM:<alice@example.com>", "RCPT TO:<bob@example.net>"
START = (HELLO, MAIL, RCPT, "DATA")
TEXT = "From: alice@example.com\nTo: bob@example.net\nSubject: hello\n\nHello.\n"

RELAY = Config("relay", {})

CASES = {
    RELAY: [
        Dialogue("usual", [*START, Body(TEXT)]),
        Dialogue("helo", ["HELO client.example", MAIL, RCPT, "DATA", Body(TEXT)]),
        Dialogue("nothing", []),
        Dialogue("hang up", [Hang()]),
        Dialogue("noop", ["NOOP", "NOOP x y", "RSET", "RSET x", "QUIT x", End()]),
        Dialogue("hello twice", [HELLO, "HELO other", "EHLO", "HELO", "EHLO a b c", 'EHLO <("x")>']),
        Dialogue("two mails", [*START, Body(TEXT), MAIL, RCPT, "DATA", Body(TEXT)]),
        Dialogue("dots", [*START, Body(TEXT + ".\n..\n...a\n. b\n")]),
        Dialogue("reset", [HELLO, MAIL, RCPT, "RSET", RCPT, MAIL, RCPT, "DATA", Body(TEXT)]),
        Dialogue("ehlo resets", [HELLO, MAIL, RCPT, HELLO, "DATA", "RCPT TO:<a@b.example>"]),
        Dialogue("order", ["DATA", "RCPT TO:<x@y.example>", MAIL, MAIL, "DATA", "BDAT 0", "VRFY x"]),
        Dialogue("lost in data", [*START, Send(b"Subject: x\r\n\r\nhalf a line"), Hang()]),
        Dialogue("lost after rcpt", [HELLO, MAIL, RCPT, Hang()]),
        Dialogue("lost after mail", [HELLO, MAIL, Hang()]),
    ],
}


@pytest.mark.parametrize(
    ("config", "dialogue"),
    [pytest.param(c, d, id=f"{c.name}: {d.name}") for c, ds in CASES.items() for d in ds],
)
def test_dialogue(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)
