"""Received headers, command counts, intake."""

from __future__ import annotations

import os
import tempfile
import time

import pytest

from mtad.maillog import ListSink, MailLog
from mtad.smtpd.counters import Counters
from mtad.smtpd.intake import SMALL, Intake, IntakeRules
from mtad.smtpd.received import Trace, comment, mail_date, received

RULES = IntakeRules(
    myhostname="mail.example.com",
    message_size_limit=200_000,
    header_size_limit=1000,
    hopcount_limit=5,
    drop_headers=frozenset((b"bcc", b"return-path")),
    long_queue_ids=False,
    undisclosed=b"",
)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def trace(**changes: object) -> Trace:
    values: dict[str, object] = {
        "helo": b"client.example", "client_name": b"localhost", "client_address": b"127.0.0.1",
        "by": b"mail.example.com", "mail_name": b"Postfix", "protocol": b"ESMTP", "smtputf8": False,
        "tls": False, "tls_lines": (), "authenticated": False, "authenticated_sender": b"",
        "hide_client": False,
    }  # fmt: skip
    return Trace(**{**values, **changes})  # type: ignore[arg-type]


def test_received_header() -> None:
    assert received(trace(), "4ABC", b"bob@example.net", 0) == (
        b"Received: from client.example (localhost [127.0.0.1])\r\n"
        b"\tby mail.example.com (Postfix) with ESMTP id 4ABC\r\n"
        b"\tfor <bob@example.net>; Thu, 01 Jan 1970 00:00:00 +0000 (UTC)\r\n"
    )


def test_received_header_of_a_login_over_tls_with_several_recipients() -> None:
    lines = [b"\t(using TLSv1.3 with cipher X (256/256 bits))"]
    text = received(
        trace(tls=True, tls_lines=lines, authenticated=True, authenticated_sender=b"al(ice"), "4ABC", b"", 0
    )
    assert text == (
        b"Received: from client.example (localhost [127.0.0.1])\r\n"
        b"\t(using TLSv1.3 with cipher X (256/256 bits))\r\n"
        b"\t(Authenticated sender: al?ice)\r\n"
        b"\tby mail.example.com (Postfix) with ESMTPSA id 4ABC;\r\n"
        b"\tThu, 01 Jan 1970 00:00:00 +0000 (UTC)\r\n"
    )


def test_received_header_without_the_client() -> None:
    text = received(trace(hide_client=True, tls=True), "4ABC", b"", 0)
    assert text.startswith(b"Received: by mail.example.com (Postfix) id 4ABC;\r\n")


def test_smtputf8_has_its_own_keyword() -> None:
    assert b" with UTF8SMTPS id " in received(trace(smtputf8=True, tls=True), "4", b"", 0)


def test_dates_carry_two_digit_days_and_the_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XST-5:30")
    time.tzset()
    assert mail_date(86400) == b"Fri, 02 Jan 1970 05:30:00 +0530 (XST)"


@pytest.mark.parametrize(
    ("given", "safe"),
    [(b"alice", b"alice"), (b"a)b", b"a?b"), (b"a(b", b"a?b"), (b"(a)", b"(a)"), (b"a\r\n\\\xff", b"a????")],
)
def test_comments_are_closed_and_printable(given: bytes, safe: bytes) -> None:
    assert comment(given) == safe


def test_counters() -> None:
    counters = Counters()
    assert str(counters) == "commands=0/0"
    for verb in (b"EHLO", b"MAIL", b"RCPT", b"RCPT", b"UNKNOWN"):
        counters.given(verb)
    for verb in (b"EHLO", b"MAIL", b"RCPT"):
        counters.done(verb)
    assert str(counters) == "ehlo=1 mail=1 rcpt=1/2 unknown=0/1 commands=3/5"


def intake(complete: bool = True, rules: IntakeRules = RULES, **changes: object) -> tuple[Intake, ListSink]:
    sink = ListSink()
    values: dict[str, object] = {
        "queue_id": "4ABC", "created": 0.0, "arrival": 0.0, "sender": b"alice@example.com",
        "received": b"Received: here\r\n", "complete": complete, "spool": tempfile.TemporaryFile,
    }  # fmt: skip
    return Intake(rules, MailLog(sink, "postfix/cleanup"), **{**values, **changes}), sink  # type: ignore[arg-type]


def test_what_a_local_client_left_out_is_added() -> None:
    message, sink = intake()
    message.feed(b"Subject: x\r\nBcc: secret@example.net\r\n\r\nbody\r\n")
    assert message.finish() == (
        b"Received: here\r\nSubject: x\r\nMessage-Id: <19700101000000.4ABC@mail.example.com>\r\n"
        b"Date: Thu, 01 Jan 1970 00:00:00 +0000 (UTC)\r\nFrom: alice@example.com\r\n\r\nbody\r\n"
    )
    assert sink.lines == [
        ("info", "postfix/cleanup", "4ABC: message-id=<19700101000000.4ABC@mail.example.com>")
    ]


def test_a_remote_client_s_headers_are_left_as_they_are() -> None:
    message, sink = intake(complete=False)
    message.feed(b"Subject: x\r\n\r\nbody\r\n")
    assert message.finish() == b"Received: here\r\nSubject: x\r\n\r\nbody\r\n"
    assert sink.lines == [("info", "postfix/cleanup", "4ABC: message-id=<>")]


def test_loops_are_broken() -> None:
    message, sink = intake()
    message.feed(b"Received: x\r\n" * 4 + b"\r\n")
    assert message.finish() is None
    assert message.refusal is not None
    assert str(message.refusal) == "554 5.4.0 Error: too many hops"
    assert sink.lines[-1][2] == "warning: 4ABC: message rejected: hopcount exceeded"


def test_size_is_guarded_while_it_comes() -> None:
    message, sink = intake()
    for _ in range(5):
        message.feed(b"x" * 50_000)
    assert message.finish() is None
    assert message.refusal is not None
    assert str(message.refusal) == "552 5.3.4 Error: message file too big"
    assert not sink.lines  # smtpd says it


def test_large_content_is_not_kept_in_memory() -> None:
    message, _ = intake()
    text = b"Subject: x\r\nMessage-Id: <1@x>\r\nDate: d\r\nFrom: f\r\n\r\n" + b"y" * 98 + b"\r\n"
    message.feed(text)
    for _ in range(15):
        message.feed(b"z" * 9_998 + b"\r\n")
    assert message.finish() is None
    assert message.refusal is None
    assert message.spool is not None
    message.spool.seek(0)
    assert message.spool.read() == b"Received: here\r\n" + text + (b"z" * 9_998 + b"\r\n") * 15
    assert message.size == os.fstat(message.spool.fileno()).st_size > SMALL


def test_a_full_disk_refuses_for_now() -> None:
    def full() -> object:
        raise OSError(28, "No space left on device")

    message, _ = intake(spool=full)
    message.feed(b"A: b\r\n\r\n" + b"x" * (SMALL + 1))
    assert message.finish() is None
    assert message.refusal is not None
    assert message.refusal.code == 452
