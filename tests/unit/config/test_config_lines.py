"""Logical lines and assignments, as readlline(3) and split_nameval(3) have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.lines import SPACE, cut, logical_lines, read_text, split_assignment, tokens, unbraced
from mtad.errors import ConfigError


def lines(text: str) -> list[tuple[int, str]]:
    return list(logical_lines(text, "/x/main.cf"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("a\nb\n", [(1, "a"), (2, "b")]),
        ("a\nb", [(1, "a"), (2, "b")]),
        ("# c\n\n  \n \t# d\na\n", [(5, "a")]),
        ("a = 1,\n   2\n", [(1, "a = 1,   2")]),
        ("a\n# comment\n\n \n  # another\n b\n", [(1, "a b")]),
        ("a # b\n", [(1, "a # b")]),
        ("a\r\nb\r\n", [(1, "a\r"), (2, "b\r")]),
        ("a\n\\\nb\n", [(1, "a"), (2, "\\"), (3, "b")]),
        ("a\n\vb\n", [(1, "a\vb")]),
        ("a\n b\n\nc\n d\n", [(1, "a b"), (4, "c d")]),
        ("a\u2028b\n\xa0c\n", [(1, "a\u2028b"), (2, "\xa0c")]),
    ],
)
def test_logical_lines(text: str, expected: list[tuple[int, str]]) -> None:
    assert lines(text) == expected


def test_text_before_any_line_is_warned_about_and_skipped() -> None:
    warnings: list[str] = []
    long = " " + "x" * 40
    assert list(logical_lines(f"# c\n{long}\n a\nb\n c\n", "/x/main.cf", warnings)) == [(4, "b c")]
    assert warnings == [f'/x/main.cf, line 2: logical line must not start with whitespace: "{long[:30]}..."']


def test_null_byte_is_warned_about() -> None:
    warnings: list[str] = []
    assert list(logical_lines("a\n b\0c\n", "/x", warnings)) == [(1, "a b\0c")]
    assert warnings == ["/x, line 1-2: text after null byte may be ignored"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=b", ("a", "b")),
        (" a \t= b c \r", ("a", "b c")),
        ("a =", ("a", "")),
        ("a = b = c # d", ("a", "b = c # d")),
        ("a.b-c = d", ("a.b-c", "d")),
        ("ä = ö", ("ä", "ö")),
    ],
)
def test_assignment(line: str, expected: tuple[str, str]) -> None:
    assert split_assignment(line) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("= b", "missing attribute name"),
        ("  ", "missing attribute name"),
        ("a", "missing '=' after attribute name"),
        ("a b = c", "missing '=' after attribute name"),
    ],
)
def test_no_assignment(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        split_assignment(line)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b c\t,\nd", ["a", "b", "c", "d"]),
        ("a {b, c} d", ["a", "{b, c}", "d"]),
        ("inline:{ {k=v}, {l=w} } x", ["inline:{ {k=v}, {l=w} }", "x"]),
        ("{a b", ["{a b"]),
        ("a} b", ["a}", "b"]),
        ("", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


def test_unbraced() -> None:
    assert unbraced("{ a { b } }") == "a { b }"
    for bad in ("{a", "{a}b", "{{a}"):
        with pytest.raises(ValueError, match="}"):
            unbraced(bad)


def test_read_text_keeps_foreign_bytes(tmp_path: object) -> None:
    path = f"{tmp_path}/main.cf"
    with open(path, "wb") as stream:
        stream.write(b"a = \xff\n")
    assert read_text(path).encode("utf-8", "surrogateescape") == b"a = \xff\n"
    with pytest.raises(ConfigError) as caught:
        read_text(f"{tmp_path}/nothing")
    assert caught.value.path == f"{tmp_path}/nothing"


TEXT = st.text(alphabet=st.sampled_from("ab=#,{}$\\ \t\n\r\v\f\0é\x85"), max_size=60)


@given(TEXT)
def test_any_text_gives_lines_with_their_numbers(text: str) -> None:
    physical = text.split("\n")
    last = 0
    for number, line in logical_lines(text, "/x", []):
        assert last < number <= len(physical)
        assert line.startswith(physical[number - 1])
        assert line[0] not in SPACE
        assert "\n" not in line
        last = number


@given(TEXT)
def test_text_without_continuations_loses_nothing_but_comments(text: str) -> None:
    flat = "\n".join(f"x{line}" for line in text.split("\n"))
    assert [line for _, line in lines(flat)] == flat.split("\n")


@given(TEXT)
def test_tokens_hold_all_but_separators(text: str) -> None:
    assert "".join(cut("".join(tokens(text)), ", \t\r\n")) == "".join(cut(text, ", \t\r\n"))
