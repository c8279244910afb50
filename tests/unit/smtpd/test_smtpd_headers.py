"""Headers on their way in: what is kept, dropped and added, however the input is cut."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intake_support import Taken, headers_of

from mtad.smtpd.intake import SMALL

ADDED = (
    b"Message-Id: <19700101000000.4ABC@mail.example.com>\r\n"
    b"Date: Thu, 01 Jan 1970 00:00:00 +0000 (UTC)\r\nFrom: alice@example.com\r\n"
)


@pytest.fixture(autouse=True, scope="module")
def utc() -> object:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"Subject: x\r\n\r\nbody\r\n", b"Subject: x\r\n+\r\nbody\r\n"),
        (b"Subject: x\r\n", b"Subject: x\r\n+"),
        (b"\r\nbody\r\n", b"+\r\nbody\r\n"),
        (b"", b"+"),
        (b"just text\r\nmore\r\n", b"+\r\njust text\r\nmore\r\n"),
        (b" leading\r\nA: b\r\n", b"+\r\n leading\r\nA: b\r\n"),
        (b"A: 1\r\n 2\r\nBcc: x@y,\r\n\tz@y\r\nB: 3\r\n\r\nBcc: stays\r\n",
         b"A: 1\r\n 2\r\nB: 3\r\n+\r\nBcc: stays\r\n"),
        (b"Return-Path: <a@b.c>\r\nCONTENT-LENGTH: 3\r\nTo: a@b.c\r\n\r\n", b"To: a@b.c\r\n+\r\n"),
        (b"A: 1\r\nno header\r\nB: 2\r\n\r\n", b"A: 1\r\n+\r\nno header\r\nB: 2\r\n\r\n"),
        (b"From me Mon Jan\r\nA: 1\r\n\r\n", b"X-Mailbox-Line: From me Mon Jan\r\nA: 1\r\n+\r\n"),
        (b">From me\r\nFrom you\r\nA: 1\r\n\r\n",
         b"X-Mailbox-Line: >From me\r\n+\r\nFrom you\r\nA: 1\r\n\r\n"),
        (b"A: 1\r\n\r\nFrom x\r\n", b"A: 1\r\n+\r\nFrom x\r\n"),
        (b"A\t : 1\r\n\r\n", b"A: 1\r\n+\r\n"),
    ],
)  # fmt: skip
def test_what_is_kept(text: bytes, kept: bytes) -> None:
    taken = Taken([text])
    assert taken.content == b"Received: here\r\n" + kept.replace(b"+", ADDED)
    assert taken.log == ["4ABC: message-id=<19700101000000.4ABC@mail.example.com>"]


def test_a_remote_client_s_headers_are_left_as_they_are() -> None:
    taken = Taken([b"Subject: x\r\nTo: bob\r\n\r\nbody\r\n"], context="")
    assert taken.content == b"Received: here\r\nSubject: x\r\nTo: bob\r\n\r\nbody\r\n"
    assert taken.log == ["4ABC: message-id=<>"]


@pytest.mark.parametrize(
    ("given_header", "written"),
    [
        (b"To: bob", b"To: bob@example.com"),
        (b"To: bob@example.net", b"To: bob@example.net"),
        (b'To:"a b"  <bob@example.net>(c)', b'To:"a b"  <bob@example.net>(c)'),
        (b'To:"a b"  <bob>(c)', b'To: "a b" <bob@example.com>(c)'),
        (b"To: a, b@c.example", b"To: a@example.com, b@c.example"),
        (b"To: friends: a, b;", b"To: friends: a@example.com, b@example.com;"),
        (b"Cc: c!b, d%e", b"Cc: b@c, d@e"),
        (b"From: <@x,@y:bob@c.example>", b"From: <bob@c.example>"),
        (b"Reply-To: bob@c.example.", b"Reply-To: bob@c.example"),
        (b"Subject: bob", b"Subject: bob"),
        (b"To: <>", b"To: <>"),
        (b"To: " + b", ".join(b"user%d" % n for n in range(6)),
         b"To: user0@example.com, user1@example.com, user2@example.com,\n"
         b"\tuser3@example.com, user4@example.com, user5@example.com"),
    ],
)  # fmt: skip
def test_addresses_of_local_clients_are_completed(given_header: bytes, written: bytes) -> None:
    taken = Taken([given_header + b"\r\n\r\nx\r\n"])
    assert headers_of(taken.content)[0] == written


def test_loops_are_broken() -> None:
    taken = Taken([b"Received: x\r\n" * 4 + b"\r\n"], hopcount_limit="5")
    assert taken.content is None
    assert taken.refusal == "554 5.4.0 Error: too many hops"
    assert taken.log == ["warning: 4ABC: message rejected: hopcount exceeded"]


def test_size_is_guarded_while_it_comes() -> None:
    text = [b"A: b\r\n\r\n", *[b"x" * 998 + b"\r\n"] * 3]
    for room in range(-2, 3):
        taken = Taken(text, size_limit=sum(map(len, text)) + room)
        assert taken.intake.too_big == (room < 0)


def test_large_content_is_not_kept_in_memory() -> None:
    text = b"Subject: x\r\nMessage-Id: <1@x>\r\nDate: d\r\nFrom: f@g.h\r\n\r\n" + b"y" * 98 + b"\r\n"
    taken = Taken([text, *[b"z" * 9_998 + b"\r\n"] * 15])
    assert taken.content is None
    assert taken.refusal == ""
    assert taken.spooled == b"Received: here\r\n" + text + (b"z" * 9_998 + b"\r\n") * 15
    assert taken.intake.size == len(taken.spooled) > SMALL


def test_a_full_disk_refuses_for_now() -> None:
    def full() -> object:
        raise OSError(28, "No space left on device")

    taken = Taken([b"A: b\r\n\r\n" + b"x" * (SMALL + 1)], spool=full)
    assert taken.content is None
    assert taken.refusal.startswith("452 ")


def test_a_header_without_end_costs_bounded_memory_and_is_cut() -> None:
    taken = Taken([b"A: " + b"x" * 997] * 500 + [b"\r\nB: 1\r\n\r\n"], size_limit=0, header_size_limit="1000")
    headers = headers_of(taken.content)
    assert headers[1] == b"B: 1"
    assert len(headers[0]) == 1000


LINES = st.lists(
    st.sampled_from(
        [
            b"Subject: a",
            b" cont",
            b"\tcont",
            b"Bcc: x",
            b"Received: r",
            b"text",
            b"",
            b"From x",
            b"A :b",
            b"::",
            b"X:",
            b"To: a, b <c@d.example>",
            b"Content-Type: multipart/mixed; boundary=q",
            b"--q",
            b"--q--",
            b"Content-Type: message/rfc822",
            b"Content-Transfer-Encoding: 8bit",
            b"gr\xc3\xbcn",
            b"y" * 2100,
        ]
    ),
    max_size=14,
)


@given(LINES, st.lists(st.integers(0, 400), max_size=8), st.booleans())
def test_cutting_changes_nothing(lines: list[bytes], cuts: list[int], checked: bool) -> None:
    text = b"".join(line + b"\r\n" for line in lines)
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    settings: dict[str, Any] = {
        "body_checks": "pcre:{{/^y/ PREPEND z}, {/^text/ IGNORE}}",
        "header_checks": "pcre:{{/^X/ REPLACE Z: z}}",
        "strict_mime_encoding_domain": "yes",
    }
    settings = settings if checked else {}
    whole, cut = Taken([text], **settings), Taken(pieces, **settings)
    assert (cut.content, cut.log, cut.refusal) == (whole.content, whole.log, whole.refusal)
