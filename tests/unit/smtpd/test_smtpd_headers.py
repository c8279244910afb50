"""The header scanner: what it keeps, drops and adds, however the input is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.smtpd.headers import HeaderScanner

DROP = frozenset((b"bcc", b"resent-bcc", b"return-path", b"content-length"))


def scan(pieces: list[bytes], limit: int = 1000) -> tuple[bytes, HeaderScanner]:
    scanner = HeaderScanner(DROP, limit, lambda _: b"Added: 1\r\n")
    out = b"".join([scanner.feed(piece) for piece in pieces]) + scanner.finish()
    return out, scanner


@pytest.mark.parametrize(
    ("given_text", "kept"),
    [
        (b"Subject: x\r\n\r\nbody\r\n", b"Subject: x\r\nAdded: 1\r\n\r\nbody\r\n"),
        (b"Subject: x\r\n", b"Subject: x\r\nAdded: 1\r\n"),
        (b"\r\nbody\r\n", b"Added: 1\r\n\r\nbody\r\n"),
        (b"", b"Added: 1\r\n"),
        (b"just text\r\nmore\r\n", b"Added: 1\r\n\r\njust text\r\nmore\r\n"),
        (b" leading\r\nA: b\r\n", b"Added: 1\r\n\r\n leading\r\nA: b\r\n"),
        (b"A: 1\r\n 2\r\nBcc: x@y,\r\n\tz@y\r\nB: 3\r\n\r\nBcc: stays\r\n",
         b"A: 1\r\n 2\r\nB: 3\r\nAdded: 1\r\n\r\nBcc: stays\r\n"),
        (b"Return-Path: <a@b>\r\nCONTENT-LENGTH: 3\r\nTo: a\r\n\r\n", b"To: a\r\nAdded: 1\r\n\r\n"),
        (b"A: 1\r\nno header\r\nB: 2\r\n\r\n", b"A: 1\r\nAdded: 1\r\n\r\nno header\r\nB: 2\r\n\r\n"),
        (b"From me Mon Jan\r\nA: 1\r\n\r\n", b"X-Mailbox-Line: From me Mon Jan\r\nA: 1\r\nAdded: 1\r\n\r\n"),
        (b">From me\r\nA: 1\r\n\r\n", b"X-Mailbox-Line: >From me\r\nA: 1\r\nAdded: 1\r\n\r\n"),
        (b"A: 1\r\n\r\nFrom x\r\n", b"A: 1\r\nAdded: 1\r\n\r\nFrom x\r\n"),
        (b"A: no line end", b"A: no line end\r\nAdded: 1\r\n"),
    ],
)  # fmt: skip
def test_what_is_kept(given_text: bytes, kept: bytes) -> None:
    assert scan([given_text])[0] == kept


def test_facts_about_the_headers() -> None:
    _, scanner = scan(
        [b"Received: a\r\nReceived: b\r\nMessage-ID:\r\n <1@x>\r\nResent-From: z\r\n"
         b"Content-Transfer-Encoding: 8bit\r\n\r\n"]
    )  # fmt: skip
    assert scanner.received == 2
    assert scanner.message_ids == [(b"", b"<1@x>")]
    assert scanner.resent
    assert scanner.eight_bit
    assert b"resent-from" in scanner.seen


def test_a_header_without_end_costs_bounded_memory_and_is_cut() -> None:
    scanner = HeaderScanner(DROP, 1000, lambda _: b"")
    for _ in range(500):
        assert scanner.feed(b"A: " + b"x" * 997) == b""
        assert len(scanner._pending) <= 2100
    out = scanner.feed(b"\r\nB: 1\r\n\r\n")
    assert out.endswith(b"B: 1\r\n\r\n")
    assert len(out) <= 1020


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
        ]
    ),
    max_size=12,
)


@given(LINES, st.lists(st.integers(0, 200), max_size=8))
def test_cutting_changes_nothing(lines: list[bytes], cuts: list[int]) -> None:
    text = b"".join(line + b"\r\n" for line in lines)
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    assert scan(pieces)[0] == scan([text])[0]
