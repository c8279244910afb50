"""Postfix's own cases of address lists: tokens, trees, text (``src/global``)."""

from __future__ import annotations

import re

import pytest
from peer_source import WHY, source

from mtad.wire.tokens import ADDRESS, ATOM, COMMENT, GROUP, LITERAL, QUOTED, Token, header_text, parse

GLOBAL = source("global")
pytestmark = pytest.mark.skipif(GLOBAL is None, reason=WHY)

_NAMES = {ATOM: "atom", QUOTED: "quoted string", LITERAL: "domain literal", COMMENT: "comment"}
_LIMIT = 20  # of the program that made the references


def _logical_lines(text: bytes) -> list[bytes]:
    """Lines with those that continue them, which begin with a blank, as ``readlline(3)`` gives them."""
    return [
        line.replace(b"\n", b"")
        for line in re.findall(rb"^(?![ \t#])[^\n]+(?:\n[ \t][^\n]*)*", text, re.MULTILINE)
        if line.strip()
    ]


def _shown(tokens: list[Token], indent: int = 0) -> str:
    out = ""
    for token in tokens:
        if token.kind == ADDRESS:
            out += f"{'':{indent}} address\n" + _shown(token.parts, indent + 2)
        elif token.kind == GROUP:
            out += f'{"":{indent}} group ":"\n'
        elif token.kind in _NAMES:
            out += f'{"":{indent}} {_NAMES[token.kind]} "{token.text.decode("latin-1")}"\n'
        else:
            out += f'{"":{indent}} OP "{token.kind}"\n'
    return out


@pytest.mark.parametrize("name", ["tok822_parse", "tok822_limit"])
def test_trees_and_texts(name: str) -> None:
    assert GLOBAL is not None
    wanted = (GLOBAL / f"{name}.ref").read_bytes().decode("latin-1")
    said = ""
    warnings: list[str] = []
    for line in _logical_lines((GLOBAL / f"{name}.in").read_bytes()):
        tokens = parse(line, _LIMIT)
        text = header_text(tokens, warnings.append).decode("latin-1")
        said += f">>>{line.decode('latin-1')}<<<\n\nParse tree:\n{_shown(tokens)}\n"
        said += f"Externalized, newlines inserted:\n{text}\n\n"
    stripped = re.findall(r"^unknown: warning: (stripping .*)\n", wanted, re.MULTILINE)
    wanted = re.sub(r"^unknown: warning: .*\n", "", wanted, flags=re.MULTILINE)
    for left_out in ("Internalized", "Externalized, no newlines inserted"):
        wanted = re.sub(rf"^{left_out}:\n.*?\n\n(?=Ext)", "", wanted, flags=re.DOTALL | re.MULTILINE)
    assert said.split("\n") == wanted.split("\n")
    assert sorted(2 * warnings) == sorted(stripped)  # once for each of the two texts
