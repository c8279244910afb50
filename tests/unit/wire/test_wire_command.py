"""Words of command lines, and encoded parameter values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.wire.command import (
    first_word,
    is_header,
    notify_conditions,
    split,
    utf8_xtext_decode,
    utf8_xtext_encode,
    xtext_decode,
    xtext_encode,
)
from mtad.wire.linebuffer import LineBuffer


@pytest.mark.parametrize(
    ("rest", "words", "bad"),
    [
        (b"", [], False),
        (b" a  b\t", [b"a", b"b"], False),
        (b"FROM:<a@b> SIZE=1", [b"FROM:", b"<a@b>", b"SIZE=1"], False),
        (b"from: <a@b>", [b"from:", b"<a@b>"], False),
        (b"FROM :<a@b>", [b"FROM", b":<a@b>"], False),
        (b"TO:<a b@c>x y", [b"TO:", b"<a b@c>x", b"y"], False),
        (b'TO:<"a>b"@c> y', [b"TO:", b'<"a>b"@c>', b"y"], False),
        (b"TO:<a<b>c> y", [b"TO:", b"<a<b>c>", b"y"], False),
        (b"TO:a\\ b c", [b"TO:", b"a\\ b", b"c"], False),
        (b"TO:<a@b", [b"TO:", b"<a@b"], True),
        (b'TO:"a b', [b"TO:", b'"a b'], True),
        (b"TO:<a\\>", [b"TO:", b"<a\\>"], True),
        (b"x:y", [b"x:y"], False),
    ],
)
def test_words(rest: bytes, words: list[bytes], bad: bool) -> None:
    assert split(rest) == (words, bad)


@given(st.text('<>"\\: ab', max_size=30))
def test_any_line_is_split(text: str) -> None:
    words, _ = split(text.encode())
    assert all(words)
    assert b"".join(words).replace(b" ", b"") == text.encode().replace(b" ", b"")


def test_the_first_word() -> None:
    assert first_word(b"\t Subject: hi") == (b"Subject:", b" hi")
    assert first_word(b"From: x") == (b"From:", b" x")
    assert first_word(b"  ") == (b"", b"")


def test_headers() -> None:
    assert is_header(b"Subject:")
    assert not is_header(b":")
    assert not is_header(b"GET")
    assert not is_header(b"\xc3\xa4:")


def test_xtext() -> None:
    assert xtext_decode(b"a+2Bb+3d") == b"a+b="
    assert xtext_decode(b"a+2") is None
    assert xtext_decode(b"a+zz") is None
    assert xtext_encode(b"a+b=c d") == b"a+2Bb+3Dc+20d"


@given(st.binary(max_size=20))
def test_xtext_comes_back(value: bytes) -> None:
    assert xtext_decode(xtext_encode(value)) == value


@given(st.text(max_size=20))
def test_utf8_xtext_comes_back(value: str) -> None:
    assert utf8_xtext_decode(utf8_xtext_encode(value.encode())) == value.encode()


def test_utf8_xtext_is_checked() -> None:
    assert utf8_xtext_decode(b"\\x{110000}") is None
    assert utf8_xtext_decode(b"\\x{4") is None
    assert utf8_xtext_decode(b"\\x{g}") is None


def test_notify() -> None:
    assert notify_conditions(b"success,Failure") == {b"SUCCESS", b"FAILURE"}
    assert notify_conditions(b"NEVER") == {b"NEVER"}
    assert notify_conditions(b"NEVER,DELAY") is None
    assert notify_conditions(b"") is None
    assert notify_conditions(b"SOMETIMES") is None


def lines_of(parts: list[bytes], limit: int) -> tuple[list[tuple[bytes, bool, bool]], bool]:
    buffer = LineBuffer()
    lines = []
    for part in parts:
        buffer.add(part)
        while (line := buffer.line(limit)) is not None:
            lines.append((line, buffer.cut, buffer.bare))
        assert len(buffer) <= limit + 1
    return lines, buffer.deaf


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"bbbbbbbb"]), max_size=20).map(b"".join))
def test_lines_are_the_same_however_they_are_cut(data: bytes) -> None:
    whole = lines_of([data], 8)
    assert whole == lines_of([data[i : i + 1] for i in range(len(data))], 8)
    assert all(len(line) <= 8 for line, _, _ in whole[0])


def test_lines_are_bounded() -> None:
    assert lines_of([b"a" * 8 + b"\n"], 8)[0] == [(b"a" * 8, True, False)]
    assert lines_of([b"a" * 7 + b"\r\n"], 8)[0] == [(b"a" * 7, False, False)]
    assert lines_of([b"a" * 7 + b"\n"], 8)[0] == [(b"a" * 7, False, True)]
    assert lines_of([b"a" * 15 + b"\nb\n"], 8) == ([(b"a" * 8, True, False), (b"b", False, True)], False)
    assert lines_of([b"a" * 16 + b"\nb\n"], 8) == ([(b"a" * 8, True, False)], True)
