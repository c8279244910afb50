"""Milters: what clients are told, what filters hear, and what becomes of the mail, beside Postfix."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from live.milter import Answer, Conversation, FakeMilter, negotiate
from oracle.dialogue import (
    HELLO,
    MAIL,
    RCPT,
    START,
    TEXT,
    Body,
    Config,
    Dialogue,
    Hang,
    House,
    Send,
)

from mtad.smtpd.milter import wire
from mtad.smtpd.milter.wire import packet

GO_ON = packet(wire.CONTINUE)
REJECT, TEMPFAIL, DISCARD, ACCEPT = (packet(code) for code in (b"r", b"t", b"d", b"a"))
SHUT_DOWN, SKIP = packet(b"4"), packet(b"s")


def reply(text: bytes) -> bytes:
    return packet(b"y", text + b"\0")


def header(code: bytes, name: bytes, value: bytes, index: int | None = None) -> bytes:
    number = b"" if index is None else index.to_bytes(4, "big")
    return packet(code, number + name + b"\0" + value + b"\0")


def envelope(code: bytes, *texts: bytes) -> bytes:
    return packet(code, b"".join(text + b"\0" for text in texts))


def hang_up(talk: Conversation, data: bytes) -> None:
    talk.connection.shutdown(2)


@dataclass
class Case:
    """What a filter answers, and a dialogue with a service that has it.

    ``second``: the answers of another one behind it, which the service must have.
    """

    name: str
    answers: Mapping[bytes, Answer] = field(default_factory=dict)
    steps: tuple[object, ...] = (*START, Body(TEXT))
    negotiation: bytes | None = None
    second: Mapping[bytes, Answer] | None = None
    service: str = "plain"


#: How services name their filters, and what they set else.
SERVICES: dict[str, tuple[str, dict[str, str]]] = {
    "plain": ("{0}", {}),
    "strict": (
        "{0}",
        {
            "smtpd_recipient_restrictions": (
                "check_recipient_access inline:{{gone.example=550 5.1.1 gone}}, permit"
            )
        },
    ),
    "soft": ("{0}", {"soft_bounce": "yes"}),
    "two": ("{0} {1}", {}),
    "maps": ("", {"smtpd_milter_maps": "static:{{ {0}, default_action=reject }}"}),
    "disabled": ("{0}", {"smtpd_milter_maps": "inline:{{127.0.0.1=DISABLE}}"}),
    "overridden": ("{0}", {"receive_override_options": "no_milters"}),
    **{action: (f"{{{{ {{0}}, default_action={action} }}}}", {}) for action in ("accept", "reject")},
}
UNASKED = ("disabled", "overridden")

TWICE = (*START, Body(TEXT), MAIL, RCPT, "DATA", Body(TEXT))
LONG = Body(
    "From: a@b.example\nTo: c@d.example\nX-Long: one\n two\n\tthree\nEmpty:\nNo-Space:x\nTwo-Spaces:  y\n\n"
    + ("line " * 180 + "\n") * 120
)
AT_END: dict[str, list[bytes]] = {
    "add a header": [header(b"h", b"X-New", b"value")],
    "add a folded header": [header(b"h", b"X-New", b"value\n more\n\tstill")],
    "add a header folded badly": [header(b"h", b"X-New", b"value\nmore: it")],
    "insert on top": [header(b"i", b"X-New", b"value", 0)],
    "insert second": [header(b"i", b"X-New", b"value", 1)],
    "insert third": [header(b"i", b"X-New", b"value", 2)],
    "insert far behind": [header(b"i", b"X-New", b"value", 50)],
    "change the subject": [header(b"m", b"subject", b"other", 1)],
    "change index 0": [header(b"m", b"Subject", b"other", 0)],
    "change what is not there": [header(b"m", b"X-Other", b"other", 1)],
    "change a second one": [header(b"m", b"Subject", b"other", 2)],
    "delete": [header(b"m", b"Subject", b"", 1)],
    "delete what is not there": [header(b"m", b"Subject", b"", 7)],
    "delete ours": [header(b"m", b"Received", b"", 1)],
    "several": [
        header(b"h", b"X-One", b"1"),
        header(b"i", b"X-Two", b"2", 0),
        header(b"m", b"X-One", b"3", 1),
        header(b"m", b"From", b"", 1),
        header(b"i", b"X-Four", b"4", 1),
    ],
    "a new body": [packet(b"b", b"new\r\nbody\r\n")],
    "a new body without end": [packet(b"b", b"new\r\nbo"), packet(b"b", b"dy\r"), packet(b"b", b"\nlast")],
    "a new body and a header": [
        header(b"h", b"X-One", b"1"),
        packet(b"b", b"new\r\n"),
        header(b"h", b"X-Two", b"2"),
    ],
    "bodies with something between": [
        packet(b"b", b"new\r\n"),
        header(b"h", b"X-Two", b"2"),
        packet(b"b", b"x\r\n"),
    ],
    "an empty body": [packet(b"b", b"")],
    "a body with stray returns": [
        packet(b"b", b"a\rb\r\r\n\r.\r\n.x\r"),
        packet(b"b", b"\r"),
        packet(b"b", b"\n\r\n\rlast\r"),
    ],
    "a sender": [envelope(b"e", b"<other@example.org>")],
    "a sender without brackets": [envelope(b"e", b"other@example.org", b"RET=HDRS ENVID=abc FOO=bar")],
    "no sender": [envelope(b"e", b"<>")],
    "a recipient": [envelope(b"+", b"<carol@example.net>")],
    "a recipient twice": [envelope(b"+", b"carol@example.net"), envelope(b"+", b"<carol@example.net>")],
    "a local recipient": [envelope(b"+", b"carol")],
    "no recipient": [envelope(b"+", b"<>")],
    "a recipient with arguments": [
        envelope(b"2", b"<carol@example.net>", b"NOTIFY=NEVER ORCPT=rfc822;x@y.example"),
        envelope(b"2", b"<dave@example.net>", b"NOTIFY=SOMETIMES ORCPT=nothing BAR=1"),
    ],
    "one less that is not there": [envelope(b"-", b"<Bob@example.net>")],
    "held": [packet(b"q", b"\0")],
    "progress": [packet(b"p"), packet(b"p")],
    "an empty header name": [header(b"m", b"", b"x", 1)],
    "what nobody knows": [packet(b"?", b"")],
}

STRAY = (*START, Body(b"Subject: a\rb\r\r\nX: y\r\n c\r\r\n\r\nb\r\r\n\r.\r\n"))

CASES = [
    Case("silent"),
    Case("stray returns", steps=STRAY),
    Case("stray returns, changes", {b"E": [header(b"m", b"Subject", b"other", 1), GO_ON]}, steps=STRAY),
    Case("long", steps=(*START[:3], "DATA", LONG)),
    Case("two messages", steps=TWICE),
    Case(
        "two messages by BDAT",
        steps=(
            HELLO,
            MAIL,
            RCPT,
            Send(b"BDAT 6\r\nabc\r\n\nBDAT 6 LAST\r\n\r\nxx\r\n", 2),
            MAIL,
            "RSET",
            "NOOP",
            MAIL,
            RCPT,
            "RSET",
        ),
    ),
    Case("hello twice", steps=(HELLO, MAIL, "HELO again.example", MAIL, RCPT, "EHLO third.example")),
    Case("unknown", steps=(HELLO, "FOO bar", MAIL, "BAR")),
    Case("hangs up", steps=(HELLO, MAIL, Hang())),
    Case(
        "parameters",
        steps=(
            HELLO,
            "MAIL FROM:<alice@example.com> SIZE=300 BODY=8BITMIME",
            "RCPT TO:<bob@example.net> NOTIFY=NEVER",
            'RCPT TO:<"b ob"@example.net> ORCPT=rfc822;x@y',
            "DATA",
            Body(TEXT),
        ),
    ),
    Case(
        "refused recipients",
        steps=(HELLO, MAIL, "RCPT TO:<x@gone.example>", RCPT, "DATA", Body(TEXT)),
        service="strict",
    ),
    Case(
        "refused recipients are wanted",
        negotiation=negotiate(unwanted=wire.REJECTED_RECIPIENTS),
        steps=(HELLO, MAIL, "RCPT TO:<x@gone.example>", RCPT, "DATA", Body(TEXT)),
        service="strict",
    ),
    *(
        Case(
            f"{what} at {where}",
            {letter: answer},
            steps=(HELLO, "STARTTLS", MAIL, RCPT, RCPT, "VRFY bob", "DATA", *tail),
        )
        for where, letter, tail in (
            ("connect", b"C", ()),
            ("helo", b"H", ()),
            ("mail", b"M", ()),
            ("rcpt", b"R", ()),
        )
        for what, answer in (
            ("reject", REJECT),
            ("tempfail", TEMPFAIL),
            ("own words", reply(b"550 5.7.9 100%% no")),
            ("own words for now", reply(b"450 4.7.9 wait")),
            ("accept", ACCEPT),
            ("gone", hang_up),
            ("own shutdown", reply(b"421 4.7.9 bye")),
            ("shutdown", SHUT_DOWN),
        )
        if not (what == "accept" and letter in b"MR")
    ),
    *(
        # the filter's end is noticed by another process of Postfix than the one that goes on
        Case(f"{what} at {where}", {letter: answer}, steps=(*TWICE, MAIL) if again else TWICE[:5])
        for where, letter in (("headers", b"L"), ("end of headers", b"N"), ("body", b"B"), ("end", b"E"))
        for what, answer, again in (
            ("reject", REJECT, True),
            ("tempfail", TEMPFAIL, True),
            ("own words", reply(b"550 5.7.9 no"), True),
            ("many words", reply(b"550-5.7.9 no\r\n550 5.7.9 no!"), True),
            ("bad words", reply(b"250 yes"), False),
            ("gone", hang_up, False),
            ("discard", DISCARD, True),
        )
    ),
    *(
        Case(f"{what} at data", {b"T": answer}, steps=(HELLO, MAIL, RCPT, "DATA", "RSET", MAIL))
        for what, answer in (
            ("reject", REJECT),
            ("tempfail", TEMPFAIL),
            ("own words", reply(b"550 5.7.9 no")),
            ("bad words", reply(b"250 yes")),
            ("shutdown", SHUT_DOWN),
            ("gone", hang_up),
        )
    ),
    *(Case(f"{service}, nobody is asked", {b"C": REJECT}, service=service) for service in UNASKED),
    Case(
        "a header longer than milters can be sent",
        steps=(*START, Body("X-Long: x" + ("\n " + "x" * 900) * 75 + "\nSubject: x\n\ny\n")),
    ),
    Case("discard at mail", {b"M": DISCARD}),
    Case("discard at rcpt", {b"R": DISCARD}),
    Case("discard at connect", {b"C": DISCARD}),
    Case("discard at data", {b"T": DISCARD}),
    Case("accept at mail", {b"M": ACCEPT}, steps=TWICE),
    Case("accept at rcpt", {b"R": ACCEPT}, steps=TWICE),
    Case("accept at header", {b"L": ACCEPT}, steps=TWICE),
    Case("skip in headers", {b"L": SKIP}),
    Case("skip in the body", {b"B": SKIP}, steps=(*START[:3], "DATA", LONG)),
    Case("nothing wanted", negotiation=negotiate(unwanted=wire.LEFT_OUT)),
    Case(
        "nothing answered",
        negotiation=negotiate(unwanted=wire.UNANSWERED),
        answers=dict.fromkeys((b"C", b"H", b"M", b"R", b"T", b"L", b"N", b"B", b"U"), b""),
    ),
    Case(
        "leading space",
        {b"E": [header(b"h", b"X-New", b" value"), header(b"i", b"X-Tight", b"value", 0), GO_ON]},
        negotiation=negotiate(unwanted=wire.LEADING_SPACE),
        steps=(*START[:3], "DATA", LONG),
    ),
    Case("version 2", negotiation=negotiate(version=2, actions=0x3F), steps=(*TWICE, "FOO")),
    Case("version 7", negotiation=negotiate(version=7)),
    Case("unknown actions", negotiation=negotiate(actions=1 << 12)),
    Case("own macros", negotiation=negotiate(extra=b"\0\0\0\0j {client_addr}\0\0\0\0\5{mail_addr} i\0")),
    Case("bad negotiation", negotiation=packet(b"O", b"\0\0")),
    Case("no negotiation", negotiation=packet(b"c")),
    *(
        Case(
            f"gone, {action}",
            {b"M": hang_up},
            steps=TWICE,
            service="plain" if action == "tempfail" else action,
        )
        for action in ("accept", "reject", "tempfail")
    ),
    Case("soft", {b"R": reply(b"550 5.1.1 never")}, service="soft", steps=START[:3]),
    Case("replies with bad codes", {b"R": reply(b"550 4.1.1 mixed")}, steps=START[:3]),
    Case(
        "two filters",
        {b"E": [header(b"h", b"X-First", b"1"), GO_ON]},
        service="two",
        second={b"E": [header(b"m", b"X-First", b"2", 1), header(b"i", b"X-Second", b"s", 0), GO_ON]},
    ),
    Case("two filters, the first says no", {b"R": REJECT}, service="two", second={}, steps=(*START[:3],)),
    Case("two filters, the second says no", service="two", second={b"E": REJECT}),
    *(
        Case(
            f"at the end: {name}",
            {b"E": [*changes, GO_ON]},
            steps=(
                HELLO,
                MAIL,
                RCPT,
                "DATA",
                Body("From: a@b.example\nSubject: one\nSubject: two\n\nbody\n"),
            ),
        )
        for name, changes in AT_END.items()
    ),
    Case("at the end: a header, then no", {b"E": [header(b"h", b"X-New", b"v"), REJECT]}),
    Case("at the end: held, then no", {b"E": [packet(b"q", b"\0"), REJECT]}),
]


@dataclass
class Ward:
    """A house whose services have two filters each, of which they may use one."""

    house: House
    filters: dict[str, tuple[FakeMilter, FakeMilter]]


@pytest.fixture(scope="module")
def ward(certificate: tuple[str, str]) -> Iterator[Ward]:
    with contextlib.ExitStack() as stack:
        filters: dict[str, tuple[FakeMilter, FakeMilter]] = {}
        services: list[tuple[str, Mapping[str, str]]] = []
        for service, (names, options) in SERVICES.items():
            first, second = filters[service] = (
                stack.enter_context(FakeMilter()),
                stack.enter_context(FakeMilter()),
            )
            settings = {
                key: value.format(first.name, second.name) if "{{" in value and "milter" in key else value
                for key, value in options.items()
            }
            services.append((service, {"smtpd_milters": names.format(first.name, second.name), **settings}))
        config = Config(
            "milters",
            {
                "milter_default_action": "tempfail",
                "milter_macro_v": "testing",
                "smtpd_delay_reject": "no",
                "cleanup_replace_stray_cr_lf": "no",
                "smtpd_tls_security_level": "may",
            },
            services=services,
        )
        yield Ward(stack.enter_context(House(config, certificate)), filters)


def shown(talk: Conversation) -> list[str]:
    """What a filter heard, without what differs by nature.

    Postfix aborts, to be sure, once more at the end of a session, and behind HELO rather than before it.
    """
    found = [f"offered {talk.offered}"]
    for place, (code, data) in enumerate(talk.events):
        before = talk.events[place - 1][0] if place else b""
        following = talk.letters[place + 1 : place + 2]
        if code == wire.ABORT and (before in (wire.ABORT, wire.HELO.code) or following in (b"A", b"H", b"Q")):
            continue  # there is nothing to abort, or it goes without saying
        if code == wire.CONNECT.code:
            data = re.sub(rb"(?<=\x004)..(?=127)", b"PP", data, flags=re.DOTALL)
        data = re.sub(rb"id [0-9A-F]{8,}", b"id ID", data)
        data = re.sub(rb"\d{14}\.[0-9A-F]{8,}@", b"MSGID@", data)
        data = re.sub(rb"(?<=Date\0).*", b"DATE\0", data)
        found.append(f"{code!r} {data!r}")
    for letter, macros in sorted(talk.macros.items()):
        masked = {name: (b"ID" if name == b"i" else value) for name, value in macros.items()}
        found.append(f"macros of {letter!r}: {masked}")
    return found


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_milters(ward: Ward, case: Case) -> None:
    filters = ward.filters[case.service]
    before = [len(one.talks) for one in filters]
    filters[0].answers, filters[1].answers = dict(case.answers), dict(case.second or {})
    filters[0].negotiation = case.negotiation or negotiate()
    ward.house.compare(Dialogue(case.name, case.steps, service=case.service))  # type: ignore[arg-type]
    for one, count in zip(filters, before, strict=True):
        if one.talks[count:]:
            ours, theirs = one.talks[count:]
            assert ours.ended.wait(60)
            assert theirs.ended.wait(60)
            assert "\n".join(shown(ours)) == "\n".join(shown(theirs))
        else:
            assert one is filters[1] or case.service in UNASKED
        assert not (one.talks[count:] and case.service in UNASKED)
