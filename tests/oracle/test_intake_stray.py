"""CRs that are no part of a line end: blanks, or, with cleanup_replace_stray_cr_lf = no, what they were."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from oracle.dialogue import HELLO, MAIL, RCPT, START, Body, Config, Dialogue, Houses, Send, Step, each
from oracle.test_intake_sendmail import outcome

REFUSED = {"rcpt:bob@example.net": b"550 5.1.1 no"}
CHECKS = {"header_checks": "pcre:{dir}/header", "body_checks": "pcre:{dir}/body"}
#: Services of cleanup(8), one for each of smtpd(8).
CLEANUPS = {
    "kept": {},
    "blank": {"cleanup_replace_stray_cr_lf": "yes"},
    "checked": CHECKS,
    "strict": {"strict_8bitmime": "yes"},
    "stripped": {"message_strip_characters": "\\15x"},
    "rejected": {"message_reject_characters": "\\15\\12"},
    "mapped": {"canonical_maps": "inline:{{alice@example.com=alice.a@example.com}}"},
}
CONFIG = Config(
    "stray",
    {"mydomain": "example.com", "cleanup_replace_stray_cr_lf": "no"},
    services=[
        ("loose", {"smtpd_forbid_bare_newline": "no", "cleanup_service_name": "clean-kept"}),
        ("reject", {"smtpd_forbid_bare_newline": "reject", "cleanup_service_name": "clean-kept"}),
        ("proxied", {"smtpd_proxy_filter": "127.0.0.1:{port}"}),
        *((name, {"cleanup_service_name": f"clean-{name}"}) for name in CLEANUPS),
    ],
    cleanups={f"clean-{name}": settings for name, settings in CLEANUPS.items()},
    transports={
        "narrow": {"smtp_line_length_limit": "100"},
        "seven": {"smtp_discard_ehlo_keywords": "8bitmime, smtputf8"},
    },
    files={
        "header": "/^X-A:/ WARN here\n/\\r/ WARN return\n/^Bcc:/ REJECT\n/^Subject: x$/ WARN whole\n",
        "body": "/^\\r/ WARN begins\n/\\r$/ WARN ends\n/^warn/ WARN line\n/^\\.$/ WARN dot\n",
    },
)
SUBJECT = b"Subject: x\r\n\r\n"
TEXTS = {
    "within a line": SUBJECT + b"a\rb\r\nc\rd\re\r\n",
    "at the ends of lines": SUBJECT + b"a\r\r\nb\r\r\r\n\r\r\nc\r\n\r\r\r\n",
    "at the beginnings of lines": SUBJECT + b"\ra\r\n\r\rwarn\r\n\rwarn\r\nwarn\r\n",
    "around dots": SUBJECT + b"a\r.\r\n\r.\r\nb\r.\rc\r\n.\r\r\n..\rd\r\n.\r.\r\n\r\r.\r\r\n.\r\n",
    "alone": b"\r\r\n",
    "first of all": b"\rSubject: x\r\nTo: y\r\n\r\nz\r\n",
    "in a header": b"Subject: a\rb\r\nX-A: c\r\r\nX-B:\rd\r\nX-C\r: e\r\nTo: f\r\n\r\ny\r\n",
    "in a header's name": b"Sub\rject: a\r\nTo: f\r\n\r\ny\r\n",
    "like headers": b"X-A: a\rBcc: secret@example.net\r\nX-B: b\r\n\rBcc: secret@example.net\r\n\r\ny\r\n",
    "in folded headers": b"Subject: x\r\n a\rb\r\n c\r\r\n \r\r\nTo: f\r\n\t\r\r\nX-A: g\r\n\r\ny\r\n",
    "instead of the empty line": b"Subject: x\r\n\r\r\nTo: y\r\n\r\nz\r\n",
    "in addresses": b"From: alice@example.com\r (A)\r\n"
    b'To: "a\rb" <bob@example.com>,\rcarol\r\nCc: d\re\r\n\r\ny\r\n',
    "in a Message-Id": b"Message-Id: <a\rb@example.com>\r\nReceived: a\rb\r\n\r\ny\r\n",
    "in MIME": b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r boundary=x\r\n\r\n"
    b"--x\r\r\nContent-Type: text/plain\r\r\n\r\r\n\r\na\rb\r\n\r--x\r\n--x\rc\r\n\r\n--x--\r\r\n",
    "with 8 bits": b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\ngr\xc3\xbcn\ra\r\r\n\r\r\nb \r\r\n",
    "long lines": SUBJECT
    + (b"0123456\r89.\r.\r\r" * 13)[:-2]
    + b"\r\n"
    + b"\r" * 199
    + b"\r\n"
    + b".\r" * 150
    + b"\r\n",
    "many": SUBJECT + b"\r" * 5000 + b"\r\na" + b"\r" * 2047 + b"\r\n" + b"\r" * 2048 + b"\r\n",
    "at the line limit": SUBJECT
    + b"".join(b"a" * size + b"\r" * more + b"\r\n" for size in (997, 998, 2046, 2047) for more in (1, 2)),
    "at borders": SUBJECT
    + b"".join(b"a" * size + b"\r\r\n.\r.\r\n" for size in (65520, *range(1, 4), 65532, 65525, 65527)),
    "at borders, short lines": SUBJECT
    + b"".join(
        (b"a" * 1986 + b"\r.\r\n") * 32 + b"b" * size + b"\r\r\n.\r.\r\n" for size in range(66, 90, 5)
    ),
}
#: Content of longer lines is cut into records by Postfix, and CRs before a line end are looked for in each.
LONG = ("many", "at the line limit", "at borders")
#: smtpd(8) sees no blank there yet: in the queue file the line is a part of our Received header.
BEGINNING = ("alone", "first of all")
BARE = {
    "bare newlines": b"Subject: a\rb\nX-B: c\r\nTo: d\r\r\n\na\r\n.\n\r.\nb\r\n\r\r\n\r\n.\r\n",
    "returns before bare newlines": b"Subject: x\r\r\n\r\na\r\r\r\n\rb\n\r\nc\n\r\r\n\r\n.\r\n",
}


def _dialogues(service: str, but: Sequence[str] = (), bare: Sequence[str] = ()) -> list[Dialogue]:
    """All texts to this service ``but`` some, a few to a session."""
    steps: list[Step] = [Body(text) for name, text in TEXTS.items() if name not in but]
    steps += [Send(BARE[name], 1) for name in bare]
    return [
        Dialogue(
            f"{service} {first}",
            [HELLO, *(one for step in steps[first : first + 6] for one in (MAIL, RCPT, "DATA", step))],
            service=service,
        )
        for first in range(0, len(steps), 6)
    ]


def _chunks(text: bytes, size: int) -> Send:
    parts = [text[at : at + size] for at in range(0, len(text), size)]
    commands = [b"BDAT %d\r\n%b" % (len(part), part) for part in parts[:-1]]
    last = b"BDAT %d LAST\r\n%b" % (len(parts[-1]), parts[-1])
    return Send(b"".join([*commands, last]), len(parts))


CHUNKED = {
    "in pieces": (SUBJECT + b"a\rb\r\r\n.\r.\r\n\r\r\nc\r\n", 1),
    "in others": (SUBJECT + b"a\rb\r\r\n.\r.\r\n\r\r\nc\r\n", 3),
    "at the end": (SUBJECT + b"a\r", 100),
    "two at the end": (SUBJECT + b"a\r\r", 7),
    "alone": (b"\r", 1),
    "large": (TEXTS["at borders, short lines"], 30000),
    "with bare newlines": (b"Subject: a\rb\nX-B: c\r\nTo: d\r\r\n\na\r\n.\n\r.\nb\r\n\r\r\n", 5),
}


def _via(transport: str) -> Dialogue:
    recipient = f"RCPT TO:<bob@{transport}.example>"
    texts = [text for name, text in TEXTS.items() if name not in LONG and "borders" not in name]
    steps = [HELLO, *(step for text in texts for step in (MAIL, recipient, "DATA", Body(text)))]
    return Dialogue(transport, steps, service="kept")


CASES = {
    CONFIG: [
        *_dialogues("kept", bare=list(BARE)),
        *_dialogues("loose", LONG, ["returns before bare newlines"]),
        *_dialogues("blank", BEGINNING),
        *(
            one
            for name in ("checked", "strict", "stripped", "rejected", "mapped", "proxied")
            for one in _dialogues(name)
        ),
        *(
            Dialogue(f"chunks {name} {service}", [HELLO, MAIL, RCPT, _chunks(*chunks)], service=service)
            for service in ("kept", "blank", "loose", "proxied")
            for name, chunks in CHUNKED.items()
            if (service, name) != ("blank", "alone")  # see BEGINNING
        ),
        Dialogue("rejected", [*START, Send(SUBJECT + b"a\rb\n.\r\n\r\n.\r\n", 1)], service="reject"),
        Dialogue("not rejected", [*START, Body(TEXTS["within a line"])], service="reject"),
        _via("narrow"),
        _via("seven"),
        *(
            Dialogue(f"returned {name}", [*START, Body(TEXTS[name])], rules=REFUSED, service="kept")
            for name in ("in a header", "around dots", "instead of the empty line")
        ),
    ]
}


@each(CASES)
def test_stray(houses: Houses, config: Config, dialogue: Dialogue) -> None:
    houses.of(config).compare(dialogue)


@pytest.mark.parametrize("name", TEXTS)
def test_stray_of_sendmail(houses: Houses, name: str) -> None:
    house = houses.of(CONFIG)
    house.upstream.rules = {}
    text = TEXTS[name].decode("latin-1")
    theirs, ours = (outcome(house, side, ("bob@example.net",), text) for side in house.sides)
    assert any("RCPT TO:" in line for line in theirs)
    assert ours == theirs
