"""Logical lines: the line format that all of Postfix's text files share.

main.cf, master.cf, lookup table sources and list files are read this way.  Blank lines and lines whose
first non-blank character is ``#`` are skipped, also inside a continued line; a line that begins with white
space continues the one before it, and keeps that white space; ``#`` after other text is text.

:func:`logical_lines` promises never to raise on any text; what it finds odd goes to ``warnings``.
:func:`split_assignment` parses one ``name = value`` and raises :class:`ValueError`.

Postfix counterpart: ``readlline(3)``, ``split_nameval(3)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mtad.errors import ConfigError

#: What C's ``isspace`` knows; Unicode has more, Postfix does not.
SPACE = " \t\n\v\f\r"

#: How the reason begins when a file cannot be opened.
CANNOT_READ = "cannot read this file: "

#: Separators of words and of list elements.
WORD_SEPARATORS = " \t\r\n"
LIST_SEPARATORS = ", \t\r\n"

_BRACE = re.compile(r"[{}]")
_BREAK = re.compile(r"[, \t\r\n{}]")
_ASSIGNMENT = re.compile(r"[ \t\n\v\f\r]*([^ \t\n\v\f\r=]+)[ \t\n\v\f\r]*=")


def logical_lines(text: str, path: str, warnings: list[str] | None = None) -> Iterator[tuple[int, str]]:
    """The logical lines of ``text`` as ``(number of the first physical line, line)``."""
    first = last = 0
    parts: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.lstrip(SPACE)
        if not stripped or stripped[0] == "#":
            continue
        if parts and line[0] in SPACE:
            parts.append(line)
            last = number
            continue
        if parts and (joined := _joined(parts, path, first, last, warnings)):
            yield first, joined
        parts = [line]
        first = last = number
    if parts and (joined := _joined(parts, path, first, last, warnings)):
        yield first, joined


def _joined(parts: list[str], path: str, first: int, last: int, warnings: list[str] | None) -> str:
    """The logical line; nothing for one that continues what is not there."""
    line = "".join(parts) if len(parts) > 1 else parts[0]
    if warnings is not None and "\0" in line:
        lines = f"{first}-{last}" if last > first else f"{first}"
        warnings.append(f"{path}, line {lines}: text after null byte may be ignored")
    if line[0] not in SPACE:
        return line
    if warnings is not None:
        shown = line[:30] + ("..." if len(line) > 30 else "")
        warnings.append(f'{path}, line {first}: logical line must not start with whitespace: "{shown}"')
    return ""


def split_assignment(line: str) -> tuple[str, str]:
    """``name = value`` as ``(name, value)``; :class:`ValueError` with Postfix's words when it is none."""
    match = _ASSIGNMENT.match(line)
    if match:
        return match.group(1), line[match.end() :].strip(SPACE)
    if line.lstrip(SPACE)[:1] in ("", "="):
        raise ValueError("missing attribute name")
    raise ValueError("missing '=' after attribute name")


def tokens(text: str, separators: str = LIST_SEPARATORS) -> list[str]:
    """``text`` cut at separators outside of braces; the braces stay, and may be unbalanced."""
    if "{" not in text:
        return cut(text, separators)
    found: list[str] = []
    start, end = 0, len(text)
    while True:
        while start < end and text[start] in separators:
            start += 1
        if start == end:
            return found
        level, stop = 0, end
        for match in _BREAK.finditer(text, start):
            char = match.group()
            if char == "{":
                level += 1
            elif char == "}":
                level = max(level - 1, 0)
            elif level == 0 and char in separators:
                stop = match.start()
                break
        found.append(text[start:stop])
        start = stop


def cut(text: str, separators: str) -> list[str]:
    """``text`` cut at separators; braces mean nothing."""
    for separator in separators[1:]:
        text = text.replace(separator, separators[0])
    return [word for word in text.split(separators[0]) if word]


def unbraced(word: str) -> str:
    """The inside of ``{...}`` without the white space around it; ValueError when it is no such word."""
    level = 0
    for match in _BRACE.finditer(word):
        level += 1 if match.group() == "{" else -1
        if level == 0:
            if match.end() != len(word):
                raise ValueError(f"syntax error after '}}' in \"{word}\"")
            return word[1:-1].strip(SPACE)
    raise ValueError(f"missing '}}' in \"{word}\"")


def read_text(path: str) -> str:
    """A configuration file's text; bytes that are no UTF-8 survive as surrogates.  Raises ConfigError."""
    try:
        return Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError(
            f"{CANNOT_READ}{error.strerror}", path=path, remedy="check its name and its permissions"
        ) from error
