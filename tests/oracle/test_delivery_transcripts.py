"""What the postmaster hears of servers that break the protocol: the transcripts of notify_classes.

Postfix says QUIT together with what comes before it, mtad when that is answered: it is left out of both, and
so is the answer, for which Postfix waits by LMTP.  Where Postfix tells the secrets of logins, mtad does not.
"""

from __future__ import annotations

import difflib
import re

import pytest
from oracle.dialogue import HELLO, TEXT, Body, Config, Dialogue, House, Houses, Step, each

AUTH = {
    "smtp_sasl_auth_enable": "yes",
    "smtp_sasl_security_options": "",
    "smtp_sasl_password_maps": "inline:{ { [127.0.0.1]:{port} = relay:secret } }",
}
TOLD = Config(
    "transcripts",
    {"notify_classes": "protocol, data", "error_notice_recipient": "errors"},
    transports={
        "no-pipelining": {"smtp_discard_ehlo_keywords": "pipelining"},
        "old": {"header_from_format": "obsolete", "error_notice_recipient": "old@example.net"},
        "other": {"notify_classes": "bounce, delay, policy, resource, software, 2bounce"},
        "failing": {"smtp_header_checks": "fail:oops"},
        "filtered": {"smtp_reply_filter": "regexp:{dir}/filter"},
    },
    files={"filter": "/^250 2.1.0 Ok$/ 555 5.5.4 no parameters\n"},
    lmtps={"lmtp": {}},
)
LOGIN = Config(
    "logins",
    {"notify_classes": "protocol", **AUTH},
    transports={name: {"smtp_sasl_mechanism_filter": name} for name in ("plain", "login")},
    upstream_users={"relay": "secret"},
)


def mail(
    name: str,
    rules: dict[str, bytes],
    *to: str,
    sender: str = "alice@example.com",
    tls: str = "none",
    messages: int = 3,
) -> Dialogue:
    """``messages``: by default itself, the notice, and what tells the sender."""
    recipients = [f"RCPT TO:<{each}>" for each in to or ("bob@example.net",)]
    steps: list[Step] = [HELLO, f"MAIL FROM:<{sender}>", *recipients, "DATA", Body(TEXT)]
    return Dialogue(name, steps, rules=rules, tls=tls, messages=messages)


def rcpt(
    reply: bytes, *to: str, name: str = "", sender: str = "alice@example.com", messages: int = 3
) -> Dialogue:
    first = to[0] if to else "bob@example.net"
    return mail(name or reply.decode()[:20], {f"rcpt:{first}": reply}, *to, sender=sender, messages=messages)


LONG = b"501-5.1.3 Bad recipient address syntax, of which there is much to say: " + b"a word " * 12
QUIT = re.compile(r" (?:Out: QUIT|In:  221 )")
CASES = {
    TOLD: [
        rcpt(LONG + b"\n501 5.1.3 " + b"x" * 90),
        rcpt(b"500 what", "bob@example.net", "carol@example.net", name="one of two"),
        rcpt(b"555 5.5.4 no parameters", "bob@no-pipelining.example", name="no pipelining"),
        rcpt(b"501 5.5.4 no", "bob@old.example", name="old"),
        rcpt(b"501 5.5.4 no", "bob@lmtp.example", name="lmtp"),
        rcpt(b"354 5.5.4 what", name="odd code"),
        rcpt(b"650 5.5.4 what", name="odder code"),
        mail("sender", {"mail:alice@example.com": b"555 5.5.4 unsupported"}),
        mail("data", {"data:alice@example.com": b"503 5.5.1 out of order"}),
        mail("message", {"dot:alice@example.com": b"500 5.5.1 hm"}),
        mail("message by lmtp", {"dot:bob@lmtp.example": b"500 5.5.1 hm"}, "bob@lmtp.example"),
        rcpt(b"what\n250 2.1.5 Ok", "bob@no-pipelining.example", name="garbage", messages=2),
        mail("reply filter", {}, "bob@filtered.example"),
        mail("greeting", {"connect": b"500 never"}, tls="none?", messages=2),
        mail("hello", {"ehlo": b"500 no", "helo": b"502 neither"}, tls="none?"),
        # nobody is told of these
        rcpt(b"550 5.1.1 no such user", messages=2),
        rcpt(b"450 4.1.1 later", messages=1),
        rcpt(b"501 5.5.4 no", sender="", name="null sender", messages=1),
        rcpt(b"501 5.5.4 no", "bob@other.example", name="other classes", messages=2),
    ],
}


def compare(house: House, dialogue: Dialogue, *secrets: tuple[str, str]) -> str:
    """Postfix's text, which is mtad's; ``secrets`` are as Postfix tells them, and as mtad has them."""
    theirs, ours = (
        [line for line in house.ask(side, dialogue).text().split("\n") if not QUIT.search(line)]
        for side in house.sides
    )
    text = "\n".join(theirs)
    for plain, masked in secrets:
        assert plain in text
        text = text.replace(plain, masked)
    difference = difflib.unified_diff(text.split("\n"), ours, "Postfix", "mtad", n=2, lineterm="")
    assert text == "\n".join(ours), "\n".join(difference)
    return text


@each(CASES)
def test_transcripts(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    text = compare(houses.of(config), dialogue)
    told = dialogue.name not in ("550 5.1.1 no such us", "450 4.1.1 later", "null sender", "other classes")
    lost = dialogue.name in ("greeting", "hello")  # the notice meets the same server
    assert ("Unexpected response from" in text) == (told and not lost)
    assert ("from=<double-bounce@" in text) == told


def test_our_own_errors(houses: Houses) -> None:
    """Of the class "data": the log has other words for them, the transcript is the same."""
    house = houses.of(TOLD)
    dialogue = mail("our own table", {}, "bob@failing.example", messages=2)
    theirs, ours = (
        house.ask(side, dialogue).text().partition("Unexpected response")[2].partition("For other details")[0]
        for side in house.sides
    )
    assert ours == theirs
    assert "In:  354 Go on" in ours


@pytest.mark.parametrize("mechanism", ["plain", "login"])
def test_logins_are_left_out(houses: Houses, mechanism: str) -> None:
    dialogue = rcpt(b"501 5.5.4 no", f"bob@{mechanism}.example", name=mechanism)
    if mechanism == "plain":
        secrets = [("Out: AUTH PLAIN AHJlbGF5AHNlY3JldA==", "Out: AUTH PLAIN (response)")]
    else:
        secrets = [
            ("334 VXNlcm5hbWU6", "334 (challenge)"),
            ("334 UGFzc3dvcmQ6", "334 (challenge)"),
            ("Out: cmVsYXk=", "Out: (response)"),
            ("Out: c2VjcmV0", "Out: (response)"),
        ]
    compare(houses.of(LOGIN), dialogue, *secrets)
