"""Notifications, against ones that Postfix made."""

from __future__ import annotations

import email
import email.policy

from mtad.config.parameters import Parameters
from mtad.deliver.bounce import header_section
from mtad.deliver.bounce_template import DELAY, FAILURE, SUCCESS, Template
from mtad.deliver.dsn_text import Frame, Letter, compose, wrap, xtext_decode
from mtad.queue.message import Message, Outcome, Recipient

FRAME = Frame(b"mail.example.com", b"example.com", b"Postfix", 5 * 86400)
P = Parameters.from_mapping({"myhostname": "mail.example.com", "delay_warning_time": "4h"})
CONTENT = b"Received: from me\r\n\tby mail.example.com\r\nSubject: hi\r\n\r\nhello\r\n"
HOST = "127.0.0.1[127.0.0.1]"


def message(**fields: object) -> Message:
    made = Message("C9D2520E0E4", b"me@origin.test", [], 1795331564.0, len(CONTENT), CONTENT)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def notice(kind: Template, outcomes: list[Outcome], *, whole: bool = True, **fields: object) -> bytes:
    returned = CONTENT if whole else header_section(CONTENT)
    warnings: list[str] = []
    text = "\n".join([*kind.expanded(P, warnings.append), ""]).encode()
    assert not warnings
    return compose(
        Letter(kind, text),
        FRAME,
        message(**fields),
        outcomes,
        returned,
        whole=whole,
        queue_id="E5DAA20E0F8",
        recipient=b"me@origin.test",
        now=1795331564.9,
    )


REFUSED = Outcome(
    Recipient(b"nosuch@dest.test", original=b"nosuch@dest.test"),
    "bounced",
    "5.1.1",
    f"host {HOST} said: 550-5.1.1 no such user 550 5.1.1 second line (in reply to RCPT TO command)",
    f"{HOST}:2626",
    "smtp; 550-5.1.1 no such user 550 5.1.1 second line",
    "127.0.0.1",
)
ALIASED = Outcome(
    Recipient(b"plain@dest.test", original=b"alias@x.test", orcpt=b"rfc822;orig+2Bplain@x.test"),
    "bounced",
    "5.3.4",
    f"message size 216301 exceeds size limit 100000 of server {HOST}",
    f"{HOST}:2626",
)


def test_a_bounce_has_postfix_words() -> None:
    text = notice(FAILURE, [REFUSED, ALIASED], envid=b"abc+2B")
    head, _, rest = text.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"Received: by mail.example.com (Postfix)"
    assert lines[1].startswith(b"\tid E5DAA20E0F8; ")
    assert lines[3:] == [
        b"From: Mail Delivery System <MAILER-DAEMON@example.com>",
        b"Subject: Undelivered Mail Returned to Sender",
        b"To: me@origin.test",
        b"Auto-Submitted: auto-replied",
        b"MIME-Version: 1.0",
        b"Content-Type: multipart/report; report-type=delivery-status;",
        b'\tboundary="C9D2520E0E4.1795331564/mail.example.com"',
        b"Content-Transfer-Encoding: 8bit",
        b"Message-Id: <20261122071244.E5DAA20E0F8@mail.example.com>",
    ]
    assert rest.startswith(
        b"This is a MIME-encapsulated message.\r\n\r\n--C9D2520E0E4.1795331564/mail.example.com\r\n"
    )
    for part in (
        b"\r\n\r\nThis is the mail system at host mail.example.com.\r\n\r\nI'm sorry to have to inform ",
        b"                   The mail system\r\n\r\n"
        b"<nosuch@dest.test>: host 127.0.0.1[127.0.0.1] said: 550-5.1.1 no such user 550\r\n"
        b"    5.1.1 second line (in reply to RCPT TO command)\r\n\r\n"
        b"<plain@dest.test> (expanded from <alias@x.test>): message size 216301 exceeds\r\n"
        b"    size limit 100000 of server 127.0.0.1[127.0.0.1]\r\n\r\n"
        b"--C9D2520E0E4.1795331564/mail.example.com\r\n"
        b"Content-Description: Delivery report\r\n"
        b"Content-Type: message/delivery-status\r\n\r\n"
        b"Reporting-MTA: dns; mail.example.com\r\n"
        b"Original-Envelope-Id: abc+\r\n"
        b"X-Postfix-Queue-ID: C9D2520E0E4\r\n"
        b"X-Postfix-Sender: rfc822; me@origin.test\r\n"
        b"Arrival-Date: ",
        b"\r\n\r\nFinal-Recipient: rfc822; nosuch@dest.test\r\n"
        b"Action: failed\r\n"
        b"Status: 5.1.1\r\n"
        b"Remote-MTA: dns; 127.0.0.1\r\n"
        b"Diagnostic-Code: smtp; 550-5.1.1 no such user 550 5.1.1 second line\r\n\r\n"
        b"Final-Recipient: rfc822; plain@dest.test\r\n"
        b"Original-Recipient: rfc822;orig+plain@x.test\r\n"
        b"Action: failed\r\n"
        b"Status: 5.3.4\r\n"
        b"Diagnostic-Code: X-Postfix; message size 216301 exceeds size limit 100000 of\r\n"
        b"    server 127.0.0.1[127.0.0.1]\r\n\r\n"
        b"--C9D2520E0E4.1795331564/mail.example.com\r\n"
        b"Content-Description: Undelivered Message\r\n"
        b"Content-Type: message/rfc822\r\n"
        b"Content-Transfer-Encoding: 8bit\r\n\r\n"
        b"Return-Path: <me@origin.test>\r\n"
        + CONTENT
        + b"\r\n--C9D2520E0E4.1795331564/mail.example.com--\r\n",
    ):
        assert part in text


def test_every_notification_is_well_formed_mime() -> None:
    for kind in (FAILURE, DELAY, SUCCESS):
        for whole in (True, False):
            parsed = email.message_from_bytes(
                notice(kind, [REFUSED], whole=whole), policy=email.policy.default
            )
            parts = list(parsed.iter_parts())
            assert not parsed.defects
            assert [part.get_content_type() for part in parts] == [
                "text/plain",
                "message/delivery-status",
                "message/rfc822" if whole else "text/rfc822-headers",
            ]


def test_a_delay_says_how_long_it_will_be_tried() -> None:
    text = notice(DELAY, [REFUSED], whole=False)
    assert (
        b"could not be delivered for more than 4 hour(s).\r\nIt will be retried until it is 5 day(s) old."
        in text
    )
    assert b"Action: delayed\r\n" in text and b"\r\nWill-Retry-Until: " in text
    assert b"Content-Description: Undelivered Message Headers\r\n" in text
    assert b"hello" not in text


def test_international_mail_is_reported_as_such() -> None:
    outcome = Outcome(Recipient("jürgen@dest.test".encode()), "bounced", "5.6.7", "no")
    text = notice(FAILURE, [outcome], smtputf8=True)
    assert b"report-type=delivery-status;" in text
    assert b"Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n" in text
    assert "Final-Recipient: utf-8; jürgen@dest.test\r\n".encode() in text
    assert b"Content-Type: message/global\r\n" in text


def test_names_in_the_configuration_may_hold_any_bytes() -> None:
    outcome = Outcome(
        Recipient(b"you@dest.test"), "bounced", "5.0.0", "host b\udce9d said no", remote_mta="b\udce9d"
    )
    text = notice(FAILURE, [outcome])
    assert b"Remote-MTA: dns; b?d\r\n" in text and b": host b?d said no\r\n" in text


def test_words_are_wrapped_and_envelope_ids_decoded() -> None:
    assert wrap(b"a " * 39 + b"bb") == b"a " * 38 + b"a\n    bb"
    assert wrap(b"x" * 200) == b"x" * 200
    assert xtext_decode(b"a+2Bb+0Ac") == b"a+b?c"


def test_headers_of_messages_without_body_or_headers() -> None:
    assert header_section(b"A: b\r\n") == b"A: b\r\n"
    assert header_section(b"\r\nbody\r\n") == b""
    assert header_section(b"A: b\r\n\r\nbody") == b"A: b\r\n"
