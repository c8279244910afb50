"""Received headers, command counts."""

from __future__ import annotations

import time

import pytest

from mtad.mime.date import mail_date
from mtad.smtpd.counters import Counters
from mtad.smtpd.received import Trace, received
from mtad.wire.tokens import comment


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
        trace(tls=True, tls_lines=lines, authenticated=True, authenticated_sender=b"al(ic\xc3\xa9"),
        "4ABC",
        b"",
        0,
    )
    assert text == (
        b"Received: from client.example (localhost [127.0.0.1])\r\n"
        b"\t(using TLSv1.3 with cipher X (256/256 bits))\r\n"
        b"\t(Authenticated sender: al(ic??))\r\n"
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


def test_comment() -> None:
    assert comment("a (b) c") == "a (b) c"
    assert comment("a)b\\c\x7fé") == "a?b?c??"
    assert comment("((a)") == "((a))"


def test_counters() -> None:
    counters = Counters()
    assert str(counters) == "commands=0/0"
    for verb in (b"EHLO", b"MAIL", b"RCPT", b"RCPT", b"UNKNOWN"):
        counters.given(verb)
    for verb in (b"EHLO", b"MAIL", b"RCPT"):
        counters.done(verb)
    assert str(counters) == "ehlo=1 mail=1 rcpt=1/2 unknown=0/1 commands=3/5"
