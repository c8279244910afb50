"""Parts of :mod:`mtad.mime`: engine, checks, quoted-printable, folding, names."""

from __future__ import annotations

import asyncio
import itertools
import quopri

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.parameters import Parameters
from mtad.mime.checks import Checks, is_header, name_of
from mtad.mime.events import (
    MULTIPART,
    NESTED,
    PRIMARY,
    Body,
    Event,
    Fault,
    Header,
    HeadersEnd,
    MimeLimits,
    MimeOptions,
    Report,
    Wants,
)
from mtad.mime.folding import folded, limited
from mtad.mime.parameters import fields, first
from mtad.mime.phrase import full_name
from mtad.mime.quoted import QuotedPrintable
from mtad.mime.state import MimeState

LINES = st.lists(
    st.sampled_from(
        [
            b"Subject: a",
            b"Content-Type: multipart/mixed; boundary=q",
            b"Content-Type: message/rfc822",
            b"Content-Transfer-Encoding: 8bit",
            b"--q",
            b"--q--",
            b"",
            b" folded",
            b"text",
            b"gr\xc3\xbcn",
            b"--quite",
            b"y" * 70,
        ]
    ),
    max_size=16,
)
NOTHING = Wants(0)
ALL = Wants.EIGHT_BIT_HEADERS | Wants.EIGHT_BIT_BODY | Wants.ENCODING | Wants.NESTING | Wants.END_OF_HEADERS


def events(pieces: list[bytes], wants: Wants = NOTHING) -> list[Event]:
    state = MimeState(MimeOptions(wants, MimeLimits(line_length=64)))
    return [event for piece in pieces for event in state.feed(piece)] + state.finish()


def joined(found: list[Event]) -> list[object]:
    """Events with neighbouring bodies put together."""
    out: list[object] = []
    for event in found:
        if isinstance(event, Body) and out and isinstance(out[-1], bytes) and not event.restart:
            out[-1] += event.data
        else:
            out.append(event.data if isinstance(event, Body) else event)
    return out


@given(LINES, st.lists(st.integers(0, 300), max_size=8), st.sampled_from([NOTHING, ALL, ALL | Wants.RECORDS]))
def test_cutting_changes_nothing(lines: list[bytes], cuts: list[int], wants: Wants) -> None:
    text = b"".join(line + b"\r\n" for line in lines)
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    assert joined(events(pieces, wants)) == joined(events([text], wants))


@given(LINES)
def test_what_goes_in_comes_out(lines: list[bytes]) -> None:
    text = b"".join(line + b"\r\n" for line in lines)
    out = b""
    for event in events([text]):
        if isinstance(event, Header):
            out += event.text.replace(b"\n", b"\r\n") + b"\r\n"
        elif isinstance(event, Body):
            out += event.data
    assert out.replace(b"\r\n\r\n", b"\r\n").strip() == text.replace(b"\r\n\r\n", b"\r\n").strip() or (
        # an empty line is put behind headers that end otherwise
        out.replace(b"\r\n", b"") == text.replace(b"\r\n", b"")
    )


def test_places_of_headers() -> None:
    text = (
        b"Subject: a\r\nContent-Type: multipart/mixed; boundary=q\r\n\r\npreamble\r\n--q\r\nX: part\r\n\r\n"
        b"body\r\n--q\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nbody\r\n--q--\r\nend\r\n"
    )
    kinds = [(event.kind, event.name) for event in events([text]) if isinstance(event, Header)]
    assert kinds == [
        (PRIMARY, b"subject"),
        (PRIMARY, b"content-type"),
        (MULTIPART, b"x"),
        (MULTIPART, b"content-type"),
        (NESTED, b"subject"),
    ]


def test_a_plain_body_is_not_looked_at() -> None:
    state = MimeState(MimeOptions(Wants(0), MimeLimits()))
    found = state.feed(b"Subject: a\r\n\r\nx")
    assert [type(event) for event in found] == [Header, HeadersEnd, Body, Body]
    assert state.flat


def test_faults_are_reported_once_with_their_place() -> None:
    text = "Subject: grün\r\nno header\r\n\r\nä\r\nö\r\n".encode()
    found = [event for event in events([text], ALL) if isinstance(event, Report)]
    assert [(event.fault, event.text.decode()) for event in found] == [
        (Fault.EIGHT_BIT_HEADER, "Subject: grün"),
        (Fault.END_OF_HEADERS, "no header"),
        (Fault.EIGHT_BIT_BODY, "ä"),
    ]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=200), max_size=5))
def test_quoted_printable_can_be_read_back(lines: list[str]) -> None:
    data = b"".join(line.encode() + b"\r\n" for line in lines)
    encoded = QuotedPrintable().feed(data)
    assert quopri.decodestring(encoded.replace(b"\r\n", b"\n")) == data.replace(b"\r\n", b"\n")
    assert all(len(line) <= 76 and line.isascii() for line in encoded.split(b"\r\n"))
    assert not any(line.endswith((b" ", b"\t")) for line in encoded.split(b"\r\n"))


def test_a_long_line_is_one_line_in_quoted_printable() -> None:
    encoder = QuotedPrintable()
    line = "ü" * 500
    half = line.encode()[:300]
    encoded = encoder.feed(half, partial=True) + encoder.feed(line.encode()[300:] + b"\r\n")
    assert encoded == QuotedPrintable().feed(line.encode() + b"\r\n")


@pytest.mark.parametrize(
    ("text", "limit", "written"),
    [
        (b"A: b", 0, b"A: b\r\n"),
        (b"A: b\n c\nd", 0, b"A: b\r\n c\r\n\td\r\n"),
        (b"A: " + b"x" * 20, 10, b"A: xxxxxxx\r\n"),
        (b"A: 123456\n 789\n 1", 10, b"A: 123456\r\n"),  # nearly all of it: a nice cut
        (b"A: 1\n 23456789", 10, b"A: 1\r\n 2345\r\n"),
    ],
)
def test_headers_are_cut(text: bytes, limit: int, written: bytes) -> None:
    assert limited(text, limit) == written


def test_folding_fills_lines() -> None:
    text = b"To: " + b",\n".join(b"%025d" % n for n in range(5))
    assert [len(line) for line in folded(text).split(b"\n")] == [57, 53, 25]


def test_values_of_mime_headers() -> None:
    value = b' multipart/mixed (c; "x") ; a = "b\\"c" ; boundary=q; ; x'
    assert [[text for _, text in field] for field in fields(value)] == [
        [b"multipart", b"/", b"mixed"],
        [b"a", b"=", b'b"c'],
        [b"boundary", b"=", b"q"],
        [],
        [b"x"],
    ]
    assert first(b" (comment) 8bit; more") == ("word", b"8bit")
    assert first(b"") is None


@pytest.mark.parametrize(
    ("name", "comment", "written"),
    [
        (b"Alice Example", False, b"Alice Example"),
        (b"J. Doe", False, b'"J. Doe"'),
        (b"J. (Joe) Doe", True, b"J. (Joe) Doe"),
        (b"a) b ((c", True, b"a b ((c))"),
        ("Jürgen".encode(), False, b"=?utf-8?Q?J=C3=BCrgen?="),
        ("é".encode() * 15, False, b"=?utf-8?B?w6nDqcOpw6nDqcOpw6nDqcOpw6nDqcOpw6nDqcOp?="),
        (b" \x01 ", False, b""),
    ],
)
def test_full_names(name: bytes, comment: bool, written: bytes) -> None:
    warnings: list[str] = []
    assert full_name(name, b"utf-8", comment=comment, warn=warnings.append) == written
    assert not warnings


def test_a_bad_charset_is_told() -> None:
    warnings: list[str] = []
    assert full_name("é".encode(), b"utf 8", comment=False, warn=warnings.append) == b""
    assert warnings == ["rfc2047_encode: unreasonable charset name: 'utf 8'"]


class Recorder:
    """An actor that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, action: str, where: str, text: bytes, argument: bytes) -> None:
        self.told.append(f"{action} {where} {text.decode()}: {argument.decode()}")

    def warn(self, text: str) -> None:
        self.told.append(f"warning: {text}")

    def act(self, action: bytes, argument: bytes, where: str, text: bytes, table: str) -> bool:
        self.told.append(f"act {action.decode()} {argument.decode()} {table}")
        return action == b"HOLD"


@pytest.mark.parametrize(
    ("action", "out", "told"),
    [
        ("WARN why", [b"X: y"], ["warning header X: y: why"]),
        ("info", [b"X: y"], ["info header X: y: "]),
        ("PREPEND A: b", [b"A: b", b"X: y"], ["prepend header X: y: A: b"]),
        ("REPLACE A: b", [b"A: b"], ["replace header X: y: A: b"]),
        ("STRIP z", [], ["strip header X: y: z"]),
        ("IGNORE", [], []),
        ("DUNNO", [b"X: y"], []),
        ("HOLD now", [b"X: y"], ["act HOLD now header_checks"]),
        (
            "FROB it",
            [b"X: y"],
            ["act FROB it header_checks", "warning: unknown command in header_checks map: FROB it"],
        ),
        ("PREPEND", [b"X: y"], ["warning: PREPEND action without text in header_checks map"]),
        (
            "REPLACE bad",
            [b"X: y"],
            ['warning: bad REPLACE header text "bad" in header_checks map -- need "headername: headervalue"'],
        ),
    ],
)  # fmt: skip
def test_actions(action: str, out: list[bytes], told: list[str]) -> None:
    p = Parameters.from_mapping({"header_checks": f"pcre:{{{{/^X:/ {action}}}}}"})
    checks, actor = Checks(p, "", lambda text: None), Recorder()
    assert asyncio.run(checks.header(Header(PRIMARY, b"x", b"X: y"), actor)) == out
    assert actor.told == told
    checks.close()


def test_pieces_of_a_body() -> None:
    p = Parameters.from_mapping({"body_checks": "pcre:{{/^a/ REPLACE b}, {/^c/ IGNORE}, {/^ddd/ PREPEND e}}"})
    checks, actor = Checks(p, "", lambda text: None), Recorder()
    seen: list[int] = []

    def wanted(length: int) -> bool:
        seen.append(length)
        return len(seen) < 6

    data = b"x\r\na\r\nc\r\nddddd\r\ny\r\na\r\n"
    done = asyncio.run(checks.body_part(data, 3, actor, wanted))
    assert done == b"x\r\nb\r\ne\r\nddddd\r\ny\r\na\r\n"
    assert seen == [1, 1, 1, 3, 2, 1]
    checks.close()


def test_names_of_headers() -> None:
    assert is_header(b"A-b \t: c") and not is_header(b"A b: c") and not is_header(b": c")
    assert name_of(b"Subject : x") == b"subject"
