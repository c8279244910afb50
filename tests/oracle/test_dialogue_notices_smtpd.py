"""What the postmaster hears of sessions with errors: the transcripts of notify_classes.

No session here has a login: mtad leaves its secrets out, which Postfix tells.  Commands are in capitals and
without odd blanks, since mtad tells what it understood of some (EHLO, DATA, RSET ...), not how it was spelt.
"""

from __future__ import annotations

import re

import pytest
from live.daemon import Mtad, wait_until
from oracle.dialogue import (
    HELLO,
    MAIL,
    RCPT,
    START,
    TEXT,
    Body,
    Config,
    Dialogue,
    End,
    Hang,
    House,
    Houses,
    mask,
)
from oracle.postfix import Postfix

CONFIG = Config(
    "notices",
    {
        "notify_classes": "policy, protocol, bounce",
        "error_notice_recipient": "errors",
        "bounce_notice_recipient": "bounces@example.net",
        "smtpd_recipient_restrictions": "check_recipient_access inline:{{bad@example.net=REJECT no thanks}}",
        "smtpd_hard_error_limit": "4",
        "message_size_limit": "2000",
        "smtpd_history_flush_threshold": "30",
    },
    services=(
        ("submission", {}),
        ("old", {"header_from_format": "obsolete"}),
        ("brief", {"notify_classes": "bounce, resource, software"}),
    ),
)
LONG = "a-very-long-word " * 9 + "x" * 90
TOLD = [
    Dialogue("policy", [HELLO, MAIL, "RCPT TO:<bad@example.net>"]),
    Dialogue("protocol", [HELLO, "RCPT TO:<a@b>", f"BOGUS {LONG}"], service="old"),
    Dialogue("hung up", ["HELO", Hang()]),
    Dialogue("too many errors", [HELLO, "BOGUS", "BOGUS", "BOGUS", "MAIL FROM:a b", End()]),
    Dialogue("size", [*START, Body(TEXT + "x\n" * 2000)]),
]
UNTOLD = [
    Dialogue("no errors", [HELLO]),
    Dialogue("forgiven", [HELLO, "BOGUS", MAIL, RCPT, "DATA", Body(TEXT)]),
]


def _notice(house: House, side: Postfix | Mtad, dialogue: Dialogue) -> str:
    """The session by which the notice about ``dialogue`` was handed on."""
    before, log = len(house.upstream.sessions), len(side.log())
    house.ask(side, dialogue)

    def heard() -> list[list[bytes]]:
        sessions = house.upstream.sessions[before:]
        return [one.lines for one in sessions if one.over and b"Transcript of" in b"\n".join(one.lines)]

    wait_until(lambda: bool(heard()), "the notice")
    ids = re.findall(r"cleanup\[\d+\]: (\w+): message-id=", side.log()[log:])
    text = "\n".join(line.decode("latin-1").replace("\r\n", "\n") for line in heard()[0])
    return mask(text, ids[-1:], str(side.root))


@pytest.mark.parametrize("dialogue", TOLD, ids=lambda one: one.name)
def test_told(houses: Houses, dialogue: Dialogue) -> None:
    house = houses.of(CONFIG)
    assert _notice(house, house.mtad, dialogue) == _notice(house, house.postfix, dialogue)


@pytest.mark.parametrize("dialogue", UNTOLD, ids=lambda one: one.name)
def test_not_told(houses: Houses, dialogue: Dialogue) -> None:
    """A message that is taken forgives what was before it."""
    houses.of(CONFIG).compare(dialogue)


def test_brief(houses: Houses) -> None:
    """Without policy and protocol, where Postfix tells the whole session, mtad begins with the error."""
    house = houses.of(CONFIG)
    dialogue = Dialogue("brief", [HELLO, "BOGUS", *START[1:], Body(TEXT + "x\n" * 2000)], service="brief")
    transcript = _notice(house, house.mtad, dialogue).partition("session follows.\n\n")[2]
    told = [" Out: 552 5.3.4 Error: message file too big", " In:  QUIT", " Out: 221 2.0.0 Bye"]
    assert transcript.split("\n")[:3] == told
