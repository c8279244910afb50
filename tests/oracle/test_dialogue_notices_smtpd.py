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

RESTRICTIONS = "smtpd_recipient_restrictions"
FULL = {"queue_minfree": "9000000000000000"}
FAILS = {RESTRICTIONS: "check_recipient_access fail:oops"}
CLASSES = ("resource", "software", "data", "policy")
CONFIG = Config(
    "notices",
    {
        "notify_classes": "policy, protocol, bounce",
        "error_notice_recipient": "errors",
        "bounce_notice_recipient": "bounces@example.net",
        RESTRICTIONS: "check_recipient_access inline:{{bad@example.net=REJECT no thanks}}",
        "smtpd_hard_error_limit": "4",
        "message_size_limit": "2000",
        "smtpd_history_flush_threshold": "30",
    },
    services=(
        ("submission", {}),
        ("old", {"header_from_format": "obsolete"}),
        ("brief", {"notify_classes": "bounce, resource, software"}),
        ("full", {"notify_classes": "protocol, resource", **FULL}),
        ("full and silent", {"notify_classes": "protocol, policy, bounce, data", **FULL}),
        *((each, {"notify_classes": f"protocol, {each}", **FAILS}) for each in CLASSES),
    ),
)
LONG = "a-very-long-word " * 9 + "x" * 90
TOLD = [
    Dialogue("policy", [HELLO, MAIL, "RCPT TO:<bad@example.net>"]),
    Dialogue("protocol", [HELLO, "RCPT TO:<a@b>", f"BOGUS {LONG}"], service="old"),
    Dialogue("hung up", ["HELO", Hang()]),
    Dialogue("too many errors", [HELLO, "BOGUS", "BOGUS", "BOGUS", "MAIL FROM:a b", End()]),
    Dialogue("size", [*START, Body(TEXT + "x\n" * 2000)]),
    Dialogue("no room", [HELLO, MAIL], service="full"),
    Dialogue("no table", [HELLO, MAIL, RCPT], service="policy"),
]
UNTOLD = [
    Dialogue("no errors", [HELLO]),
    Dialogue("no room", [HELLO, MAIL], service="full and silent"),
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


def test_only_its_class(houses: Houses) -> None:
    """What is an error of one class is told to who asks for that one, and not to who asks for others."""
    house = houses.of(CONFIG)
    for side in house.sides:
        before = len(house.upstream.sessions)
        for service in CLASSES[:-1]:
            house.ask(side, Dialogue("no table", [HELLO, MAIL, RCPT], service=service))
        assert "configuration error\n In:  QUIT" in _notice(house, side, TOLD[-1])
        heard = [b"\n".join(one.lines) for one in house.upstream.sessions[before:]]
        assert sum(b"Transcript of" in text for text in heard) == 1


def test_brief(houses: Houses) -> None:
    """Without policy and protocol, where Postfix tells the whole session, mtad begins with the error."""
    house = houses.of(CONFIG)
    dialogue = Dialogue("brief", [HELLO, "BOGUS", *START[1:], Body(TEXT + "x\n" * 2000)], service="brief")
    transcript = _notice(house, house.mtad, dialogue).partition("session follows.\n\n")[2]
    told = [" Out: 552 5.3.4 Error: message file too big", " In:  QUIT", " Out: 221 2.0.0 Bye"]
    assert transcript.split("\n")[:3] == told
