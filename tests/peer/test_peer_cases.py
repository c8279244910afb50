"""Test cases that stand in C in Postfix's source, and those of ``mail_addr_find.in``: read from there."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from peer_source import WHY, source

from mtad.config.lines import logical_lines, tokens
from mtad.errors import ConfigError, MtadError
from mtad.tables.maps import Find, Maps
from mtad.tables.registry import open_table
from mtad.tables.source import extract_braces, split_name_value

UTIL, GLOBAL = source("util"), source("global")
pytestmark = pytest.mark.skipif(UTIL is None, reason=WHY)

_STRING = r'"(?:\\.|[^"\\])*"'


def unescape(text: str) -> str:
    """C's escapes."""
    return codecs.escape_decode(text.encode("latin-1"))[0].decode("latin-1")


def string(literals: str) -> str:
    """Adjacent C string literals as one text."""
    return "".join(unescape(part[1:-1]) for part in re.findall(_STRING, literals))


def c_source(name: str) -> str:
    if UTIL is None:
        return ""
    text = (UTIL / name).read_text("latin-1")
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def rows(name: str, start: str) -> Iterator[list[str | None]]:
    """The rows ``{"x", 0, 5}`` of the C table after ``start``; numbers as None."""
    text = c_source(name).partition(start)[2].partition("};")[0]
    for row in re.findall(
        rf"\{{\s*({_STRING}(?:[^{{}}\"]|{_STRING}|\{{(?:[^{{}}\"]|{_STRING})*\}})*)\}}", text
    ):
        cells = re.findall(rf"(?:{_STRING}\s*)+|\b(?:0|null|EXP_\w+)\b|\b\d+\b", row)
        yield [string(cell) if cell.startswith('"') else None for cell in cells]


def identity(value: object) -> str:
    return str(value)[:40]


# dict_pipe_test.c, dict_union_test.c


def table_cases() -> list[tuple[str, str, str | None, bool]]:
    """(table, key, wanted value, whether an error is wanted) of each expectation."""
    cases: list[tuple[str, str, str | None, bool]] = []
    for name in ("dict_pipe_test.c", "dict_union_test.c"):
        for function in c_source(name).split("\nstatic int ")[1:]:
            spec = re.search(rf"dict_spec = \(?((?:\s*{_STRING})+)", function)
            found = re.findall(
                rf"\.key = ({_STRING}),\s*\.want_value = ({_STRING}|0)(,\s*\.want_error = (\w+))?", function
            )
            for key, value, _, error in found if spec else ():
                wanted = None if value == "0" else string(value)
                failing = error not in ("", "DICT_ERR_NONE")
                cases.append((string(spec[1]) if spec else "", string(key), wanted, failing))
    return cases or [("none", "", None, False)]


@pytest.mark.parametrize(("spec", "key", "value", "error"), list(table_cases()), ids=identity)
def test_combined_tables(spec: str, key: str, value: str | None, error: bool) -> None:
    table = open_table(spec)
    if error:
        with pytest.raises(MtadError):
            asyncio.run(table.lookup(key.encode()))
    else:
        found = asyncio.run(table.lookup(key.encode()))
        assert (None if found is None else found.decode()) == value


@pytest.mark.parametrize("kind", ["pipemap", "unionmap"])
def test_a_bad_part_makes_a_bad_table(kind: str) -> None:
    name = "dict_pipe_test.c" if kind == "pipemap" else "dict_union_test.c"
    lists = re.findall(rf"component_specs\[\] = \{{((?:\s*{_STRING},)+)", c_source(name))
    good, bad = (", ".join(string(part) for part in re.findall(_STRING, text)) for text in lists)
    open_table(f"{kind}:{{{good}}}").close()
    with pytest.raises(ConfigError, match="bad syntax:"):
        open_table(f"{kind}:{{{bad}}}")


# readlline.c, mystrtok.c, split_qnameval.c, dict_stream.c


@pytest.mark.parametrize("row", list(rows("readlline.c", "testcases[] =")), ids=identity)
def test_logical_lines(row: list[str | None]) -> None:
    _, given, wanted = (unescape(cell or "") for cell in row[:3])
    found = list(logical_lines(given, "file"))
    assert [line for _, line in found] == ([wanted] if wanted else [])


@pytest.mark.parametrize("row", list(rows("mystrtok.c", "testcases[] =")), ids=identity)
def test_words(row: list[str | None]) -> None:
    function, given, *wanted = row
    if function != "mystrtokq":
        pytest.skip("mtad has this tokenizer with other separators only")
    assert tokens(given or "", " ") == wanted


@pytest.mark.parametrize("row", list(rows("split_qnameval.c", "test_info[] =")), ids=identity)
def test_name_and_value(row: list[str | None]) -> None:
    given, error, name, value = row
    if error:
        with pytest.raises(ConfigError, match=re.escape(error)):
            split_name_value(given or "")
    else:
        assert split_name_value(given or "") == (name, value)


@pytest.mark.parametrize("row", list(rows("dict_stream.c", "testcases[] =")), ids=identity)
def test_inline_files(row: list[str | None]) -> None:
    _, given, *wanted = row

    def content() -> str:
        return "".join(f"{extract_braces(part)}\n" for part in tokens(extract_braces(given or "")))

    if wanted[-1] is None:
        with pytest.raises(ConfigError, match="syntax error after '}'"):
            content()
    else:
        assert content() == wanted[-1]


# mail_addr_find.in

_STRATEGY = {
    "full": Find.FULL,
    "noext": Find.NO_EXTENSION,
    "localpart_if_local": Find.LOCAL,
    "localpart_at_if_local": Find.LOCAL_AT,
    "at_domain": Find.AT_DOMAIN,
    "domain": Find.DOMAIN,
    "pdms": Find.PARENTS,
    "pddms": Find.DOT_PARENTS,
    "localpart_at": Find.ANY_LOCAL_AT,
    "default": Find.DEFAULT,
}


def address_cases() -> list[tuple[str, str]]:
    """(maps, test line)"""
    if GLOBAL is None:
        return [("none", "")]
    cases = []
    maps = ""
    for line in (GLOBAL / "mail_addr_find.in").read_text().splitlines():
        command, _, rest = line.partition(" ")
        if command == "maps":
            maps = rest
        elif command == "test":
            cases.append((maps, rest))
    return cases


def unquoted(text: str) -> str:
    """An address in internal form."""
    local, at, domain = text.rpartition("@")
    if local[:1] + local[-1:] == '""':
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return local + at + domain


@pytest.mark.parametrize(("maps", "line"), list(address_cases()))
def test_addresses(maps: str, line: str) -> None:
    given, query, output, strategy, key, *rest = line.split(":")
    if query == "internal":
        pytest.skip("mtad asks for the external form first, always")
    wanted, extension = (*rest, "", "")[:2]
    find = Find(0)
    for word in strategy.split("|"):
        find |= _STRATEGY[word]
    address = unquoted(key) if given.startswith("external") else key
    tables = Maps(maps)
    found = asyncio.run(
        tables.match_address(
            address.encode(), "+", lambda domain: domain == b"localhost.localdomain", b"localdomain", find
        )
    )
    if not wanted:
        assert found is None
        return
    assert found is not None
    value = found[0].decode()
    assert (unquoted(value) if output == "internal" else value) == wanted
    assert found[1].decode() == extension


def test_the_checkout_has_cases() -> None:
    assert len(address_cases()) > 40
    assert len(table_cases()) > 5
    assert Path(str(UTIL)).is_dir()
