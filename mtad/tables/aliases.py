"""Text sources of alias tables: ``name: value, value, ...``, one logical line an entry (aliases(5)).

:func:`parse_aliases` yields ``(line, name, value)`` as :func:`mtad.tables.source.parse_source` does for other
tables.  Lines are cut into the tokens of RFC 822, so that ``:`` and ``@`` in quotes are text.  The name comes
out unquoted, since that is what is looked up; the value as it has to be parsed again, its blanks put right.

Postfix counterpart: the parser of ``postalias(1)``, ``tok822_scan()``, ``tok822_externalize()``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mtad.config.lines import logical_lines
from mtad.tables.source import to_bytes
from mtad.tables.table import Options, is_utf8

_OPERATORS = '|%!()<>@,;:\\".[]'
_BLANK = " \t\r\n"
_ATOM = re.compile(r"""(?:\\.?|[^ \t\r\n|%!()<>@,;:\\".\[\]])+""", re.DOTALL)
_PLAIN = re.compile(r'[^ \x00-\x1f\x7f|%!()<>@,;:\\".\[\]]+')

ATOM, QUOTED, COMMENT, LITERAL = "atom", "quoted", "comment", "literal"
_WORDS = frozenset({ATOM, QUOTED, COMMENT, LITERAL})


@dataclass(frozen=True, slots=True)
class _Token:
    """``kind`` is one of the words above, or an operator; ``text`` without quotes and backslashes."""

    kind: str
    text: str


def parse_aliases(text: str, path: str, options: Options) -> Iterator[tuple[int, bytes, bytes]]:
    """The entries of ``text``; warnings go to ``options.warn``."""
    warnings: list[str] = []
    for number, line in logical_lines(text, path, warnings):
        while warnings:
            options.warn(warnings.pop(0))
        where = f"{path}, line {number}"
        if options.wants_utf8 and not line.isascii() and not is_utf8(to_bytes(line)):
            options.warn(f'{where}: non-UTF-8 input "{line}" -- ignoring this line')
            continue
        tokens = _scan(line)
        kinds = [token.kind for token in tokens]
        colon = kinds.index(":") if ":" in kinds else 0
        if not 0 < colon < len(tokens) - 1 or "," in kinds[:colon]:
            options.warn(f"{where}: need name:value pair")
        elif "@" in kinds[:colon] or "%" in kinds[:colon]:
            options.warn(f"{where}: name must be local and have no domain")
        else:
            yield number, to_bytes(_internal(tokens[:colon])), to_bytes(_external(tokens[colon + 1 :]))
    for warning in warnings:
        options.warn(warning)


def looks_like_aliases(text: str) -> bool:
    """Whether the first entry is of this format rather than ``key whitespace value``."""
    for _, line in logical_lines(text, "", None):
        tokens = _scan(line)
        return len(tokens) > 1 and tokens[1].kind == ":"
    return False


def _scan(line: str) -> list[_Token]:
    """The tokens of a line (RFC 822 section 3.3, and ``| % !``)."""
    tokens = []
    position = 0
    while position < len(line):
        char = line[position]
        if char in _BLANK:
            position += 1
        elif char == "(":
            text, position = _comment(line, position)
            tokens.append(_Token(COMMENT, text))
        elif char in '["':
            text, position = _until('"' if char == '"' else "]", line, position + 1)
            tokens.append(_Token(QUOTED if char == '"' else LITERAL, text))
        elif char != "\\" and char in _OPERATORS:
            tokens.append(_Token(char, char))
            position += 1
        else:
            match = _ATOM.match(line, position)
            position = match.end() if match else position + 1
            text = _unescaped(match.group()) if match else ""
            tokens.append(_Token(ATOM if _PLAIN.fullmatch(text) else QUOTED, text))
    return tokens


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.?)", r"\1", text, flags=re.DOTALL)


def _until(end: str, line: str, position: int) -> tuple[str, int]:
    """The text up to ``end``, and where to read on."""
    start = position
    while position < len(line) and line[position] != end:
        position += 2 if line[position] == "\\" else 1
    text = re.sub(r"[\t\r\n]", " ", _unescaped(line[start:position]))
    return text, min(position + 1, len(line))


def _comment(line: str, position: int) -> tuple[str, int]:
    """The comment as it is, with comments inside."""
    start, level = position, 0
    while position < len(line):
        char = line[position]
        position += 2 if char == "\\" else 1
        level += (char == "(") - (char == ")")
        if level == 0:
            break
    return line[start:position], min(position, len(line))


def _space_after(tokens: list[_Token], at: int) -> bool:
    if at + 1 >= len(tokens):
        return False
    this, following = tokens[at], tokens[at + 1]
    return this.kind == "," or following.kind == "<" or (this.kind in _WORDS and following.kind in _WORDS)


def _internal(tokens: list[_Token]) -> str:
    """Without quotes."""
    parts = []
    for at, token in enumerate(tokens):
        parts.append(f"[{token.text}]" if token.kind == LITERAL else token.text)
        if _space_after(tokens, at):
            parts.append(" ")
    return "".join(parts)


def _external(tokens: list[_Token]) -> str:
    """With quotes where they are needed."""
    parts = []
    for at, token in enumerate(tokens):
        if token.kind == QUOTED:
            parts.append('"' + re.sub(r'(["\\\r\n])', r"\\\1", token.text) + '"')
        elif token.kind == LITERAL:
            parts.append("[" + re.sub(r"([\\\r\n])", r"\\\1", token.text) + "]")
        elif token.kind == ",":
            parts.append(", ")
            continue
        else:
            parts.append(token.text)
        if _space_after(tokens, at):
            parts.append(" ")
    return "".join(parts)
