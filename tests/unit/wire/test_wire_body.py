"""Bodies in and out: against a slow model that works line by line, and however the input is cut."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mtad.wire.body import PIECE, ChunkDecoder, DataDecoder, Stuffer

PARTS = [
    b"\r",
    b"\n",
    b"\r\n",
    b".",
    b"..",
    b"a",
    b"\0",
    b"\r\n.",
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
]
raw_bodies = st.lists(st.sampled_from(PARTS), max_size=14).map(b"".join)
cuts = st.lists(st.integers(0, 40), max_size=6)

END = b"\r\n.\r\n"


def pieces(data: bytes, where: list[int]) -> list[bytes]:
    marks = sorted({min(mark, len(data)) for mark in where} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(marks)]


def decode(parts: list[bytes], loose: bool = False, keep_cr: bool = False) -> tuple[bytes, bool, bytes, bool]:
    """The content, whether it ended, what was left over, whether a lone LF was seen."""
    decoder = DataDecoder(loose, keep_cr)
    content = rest = b""
    for part in parts:
        at = 0
        while at < len(part) and not decoder.ended:
            piece, at = decoder.feed(part, at)
            assert len(piece) <= 2 * PIECE + 16
            content += piece
        rest += part[at:]
    assert decoder.size == len(content)
    return content, decoder.ended, rest, decoder.bare_newline


def model(data: bytes, loose: bool, keep_cr: bool) -> bytes | None:
    """The content, line by line; None when no end of data is there."""
    end = (b"\r\n" + data).find(END)
    if end < 0:
        return None
    body = data[: max(end, 0)]
    lines = re.findall(rb"[^\n]*\n", body)
    content = b""
    previous_bare = False
    for line in lines:
        bare = not line.endswith(b"\r\n")
        text = line[:-1] if bare else line[:-2]
        text = text.rstrip(b"\r") if loose else text
        if text != b"." or not (bare or previous_bare or loose):
            content += text.removeprefix(b".").replace(b"\r", b"\r" if keep_cr else b" ") + b"\r\n"
        previous_bare = bare
    return content


@settings(max_examples=400)
@given(raw_bodies, cuts, st.booleans(), st.booleans())
@example(b"x\r\r\n.\n", [6], False, False)
@example(b"x\r\r\n.\n", [6], True, True)
@example(b".\n.\n.\n", [2, 4], False, False)
@example(b"\n.\r\n.\r\n", [1, 2, 3, 4], False, True)
def test_data_is_decoded_as_by_the_model_however_it_is_cut(
    body: bytes, where: list[int], loose: bool, keep_cr: bool
) -> None:
    data = body + END + b"QUIT\r\n"
    content, ended, rest, _ = decode(pieces(data, where), loose, keep_cr)
    assert ended
    assert content == model(data, loose, keep_cr)
    assert (content, ended, rest) == decode([data[i : i + 1] for i in range(len(data))], loose, keep_cr)[:3]
    first = (b"\r\n" + data).find(END) - 2
    assert rest == data[first + 5 :]


@given(raw_bodies, st.booleans())
def test_what_comes_out_of_data_is_strictly_lined(body: bytes, keep_cr: bool) -> None:
    content = decode([body + END], keep_cr=keep_cr)[0]
    assert content.count(b"\r\n") == content.count(b"\n")
    assert keep_cr or content.count(b"\n") == content.count(b"\r")
    assert content == b"" or content.endswith(b"\r\n")


@pytest.mark.parametrize(
    "fake",
    [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r\n.\r",
        b"\n.\r",
        b"\r.\n",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n.\r\0\n",
        b"\r\0\n.\r\n",
        b"\n\n.\r\n",
        b"\r\n..\r\n",
        b"\r\n.\r\r\n",
        b"\r\n. \r\n",
    ],
)
@pytest.mark.parametrize("fill", [0, PIECE - 8, PIECE - 4, PIECE - 3, PIECE - 2, PIECE - 1, PIECE])
@pytest.mark.parametrize("keep_cr", [False, True])
def test_only_crlf_dot_crlf_ends_a_message(fake: bytes, fill: int, keep_cr: bool) -> None:
    """Wherever a look-alike falls, also on the edge of a buffer, the message goes on."""
    data = b"x" * fill + fake + b"MAIL FROM:<a@b>\r\n" + END
    content, ended, rest, _ = decode([data], keep_cr=keep_cr)
    assert ended
    assert rest == b""
    assert content == model(data, False, keep_cr)
    assert content.endswith(b"MAIL FROM:<a@b>\r\n\r\n")
    # and what is sent on holds no look-alike either, unless lone CRs are wanted
    stuffer = Stuffer(keep_cr=keep_cr)
    out = stuffer.feed(content) + stuffer.finish()
    assert out.find(END) == len(out) - len(END)
    assert out.count(b"\n") == out.count(b"\r\n")
    assert keep_cr or out.count(b"\n") == out.count(b"\r")


@pytest.mark.parametrize(
    ("raw", "content", "bare"),
    [
        (b".\r\n", b"", False),
        (b"a\r\n.\r\n", b"a\r\n", False),
        (b"..a\r\n.b\r\n...\r\n.\r\n", b".a\r\nb\r\n..\r\n", False),
        (b"a\nb\r\n.\r\n", b"a\r\nb\r\n", True),
        (b"a\n.b\r\n.\r\n", b"a\r\nb\r\n", True),
        (b"a\rb\r\n.\r\n", b"a b\r\n", False),
        (b"a\r\r\n.\r\n", b"a \r\n", False),
        (b"\r\n.\r\n", b"\r\n", False),
        (b"\n.\r\n\r\n.\r\n", b"\r\n\r\n", True),
    ],
)
def test_data(raw: bytes, content: bytes, bare: bool) -> None:
    assert decode([raw]) == (content, True, b"", bare)


@pytest.mark.parametrize(
    ("raw", "strict", "loose"),
    [
        (b"a\rb\r\n.\r\n", b"a\rb\r\n", b"a\rb\r\n"),
        (b"a\r\r\n.\r\n", b"a\r\r\n", b"a\r\n"),
        (b"a\r.\r\n.\r\n", b"a\r.\r\n", b"a\r.\r\n"),
        (b".\r\r\n.\r\n", b"\r\r\n", b""),
        (b"\r\n.\r\r\r\n.\r\n", b"\r\n\r\r\r\n", b"\r\n"),
        (b"\r.a\n..\r\n.\r\n", b"\r.a\r\n.\r\n", b"\r.a\r\n.\r\n"),
    ],
)
def test_stray_returns_are_kept(raw: bytes, strict: bytes, loose: bytes) -> None:
    assert decode([raw], False, True)[:3] == (strict, True, b"")
    assert decode([raw], True, True)[:3] == (loose, True, b"")


@pytest.mark.parametrize(("loose", "most"), [(False, 4), (True, 1003)])
def test_a_decoder_keeps_few_bytes(loose: bool, most: int) -> None:
    decoder = DataDecoder(loose)
    fed = given_out = 0
    for piece in (b"x" * 5000, b"\r" * 5000, b"\n" * 5000, b"\n." * 3000, b"\r\n..\r" * 3000):
        content, at = decoder.feed(piece, 0)
        assert at == len(piece)
        assert len(decoder._held) <= most
        fed, given_out = fed + at, given_out + len(content)
    assert given_out == decoder.size


def chunked(parts: list[bytes], loose: bool = False, keep_cr: bool = False) -> bytes:
    decoder = ChunkDecoder(loose, keep_cr)
    content = b"".join(map(decoder.feed, parts)) + decoder.finish()
    assert decoder.size == len(content)
    return content


@given(raw_bodies, cuts, st.booleans(), st.booleans())
def test_chunks_are_lined_but_not_unstuffed(
    body: bytes, where: list[int], loose: bool, keep_cr: bool
) -> None:
    stray = b"\r" if keep_cr else b" "
    lines = body.split(b"\n")
    last = lines.pop()
    lines = [line.rstrip(b"\r") if loose else line.removesuffix(b"\r") for line in lines]
    expected = b"".join(line.replace(b"\r", stray) + b"\r\n" for line in lines)
    if last:
        expected += last.replace(b"\r", stray) + b"\r\n"
    assert chunked(pieces(body, where), loose, keep_cr) == expected


LINES = [b".", b"..", b"a", b"", b".a", b"\0"]


def contents(lines: list[bytes]) -> st.SearchStrategy[bytes]:
    """Content of such lines."""
    return st.lists(st.sampled_from(lines), max_size=8).map(
        lambda lines: b"".join(line + b"\r\n" for line in lines)
    )


@given(contents(LINES), cuts, st.booleans())
def test_stuffing_comes_back_whole(content: bytes, where: list[int], keep_cr: bool) -> None:
    stuffer = Stuffer(keep_cr=keep_cr)
    wire = b"".join(map(stuffer.feed, pieces(content, where))) + stuffer.finish()
    assert wire.endswith(b".\r\n")
    assert (b"\r\n" + wire).find(END) == len(wire) - 3
    assert decode([wire]) == (content, True, b"", False)


@given(contents([*LINES, b"\r", b".\r", b"\r.", b"a\r\r.b", b"\r\r\r"]), cuts)
def test_only_dots_behind_crlf_are_stuffed(content: bytes, where: list[int]) -> None:
    stuffer = Stuffer(keep_cr=True)
    wire = b"".join(map(stuffer.feed, pieces(content, where))) + stuffer.finish()
    assert wire == (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"
    assert decode([wire], keep_cr=True) == (content, True, b"", False)


@given(raw_bodies, cuts, st.booleans())
def test_stuffing_makes_anything_harmless(body: bytes, where: list[int], keep_cr: bool) -> None:
    stuffer = Stuffer(keep_cr=keep_cr)
    wire = b"".join(map(stuffer.feed, pieces(body, where))) + stuffer.finish()
    assert wire.count(b"\r\n") == wire.count(b"\n")
    assert keep_cr or wire.count(b"\n") == wire.count(b"\r")
    assert (b"\r\n" + wire).find(END) == len(wire) - 3
    assert decode([wire], keep_cr=keep_cr)[0] == chunked([body], keep_cr=keep_cr)


def test_stuffing_adds_the_line_end_that_is_missing() -> None:
    stuffer = Stuffer()
    assert stuffer.feed(b"a") + stuffer.finish() == b"a\r\n.\r\n"
    assert Stuffer().finish() == b".\r\n"


def folded(content: bytes, limit: int) -> bytes:
    """A slow model of folding."""
    lines = []
    for line in content.split(b"\r\n")[:-1]:
        lines.append(line[:limit])
        lines += [b" " + line[at : at + limit - 1] for at in range(limit, len(line), limit - 1)]
    return b"".join(b"." * line.startswith(b".") + line + b"\r\n" for line in lines) + b".\r\n"


lengths = st.lists(st.integers(0, 30), max_size=12)


@settings(max_examples=300)
@given(lengths, cuts, st.sampled_from([5, 8, 10]), st.booleans())
@example([8, 9, 16, 17], [8, 9], 8, False)
@example([8, 9, 16, 17], [8, 9], 8, True)
def test_long_lines_are_folded(sizes: list[int], where: list[int], limit: int, keep_cr: bool) -> None:
    line = b".2345\r78\r\rbcd\rf.h\rjk\r\r\rop\rrstuv" if keep_cr else b".23456789abcdefghijklmnopqrstuv"
    content = b"".join(line[:size] + b"\r\n" for size in sizes)
    stuffer = Stuffer(limit, keep_cr)
    wire = b"".join(map(stuffer.feed, pieces(content, where))) + stuffer.finish()
    assert wire == folded(content, limit)
    assert stuffer.folded == any(size > limit for size in sizes)
