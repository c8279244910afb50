"""Patterns of IPv4 addresses: which answers of a DNS list count (``zen.example=127.0.0.[2..11]``).

Four fields apart by dots, each a number or, in brackets, numbers and ranges ``a..b`` apart by ``;``.  The
whole may stand in brackets, too.  :func:`parse` raises ValueError that shows where.

Postfix counterpart: ``ip_match(3)``.
"""

from __future__ import annotations

import re

Pattern = tuple[frozenset[int], ...]

_NUMBER = re.compile(r"[0-9]+")
_TOKEN = re.compile(r"[0-9]+|.", re.DOTALL)


class _Reader:
    """The tokens of a pattern."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = self.before = 0

    def next(self) -> str:
        """The next token; empty at the end."""
        self.before = self.at
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match.group()

    def error(self, problem: str) -> ValueError:
        text, before, at = self.text, self.before, self.at
        return ValueError(f'{problem} at "{text[:before]}>{text[before:at]}<{text[at:]}"')


def parse(text: str) -> Pattern:
    """The values that each of the four numbers may have."""
    if text.startswith("["):
        end = _closing(text)
        if end < 0:
            raise ValueError('missing "]" character')
        if end == len(text) - 1:
            text = text[1:-1]
    if not text:
        raise ValueError("empty address pattern")
    reader = _Reader(text)
    fields: list[frozenset[int]] = []
    while True:
        token = reader.next()
        if token == "[":
            fields.append(_alternatives(reader))
        elif _octet(token):
            fields.append(frozenset((int(token),)))
        else:
            raise reader.error('need decimal number 0..255 or "["')
        token = reader.next()
        if len(fields) == 4:
            if token:
                raise reader.error("garbage after pattern")
            return tuple(fields)
        if token != ".":
            raise reader.error('need "."')


def _alternatives(reader: _Reader) -> frozenset[int]:
    values: set[int] = set()
    while True:
        low = high = reader.next()
        if not _octet(low):
            raise reader.error("need decimal number 0..255")
        token = reader.next()
        if token == ".":
            if reader.next() != "." or not _octet(high := reader.next()) or int(low) > int(high):
                raise reader.error("numeric range error")
            token = reader.next()
        values.update(range(int(low), int(high) + 1))
        if token == "]":
            return frozenset(values)
        if token != ";":
            raise reader.error('need ";" or "]"')


def _octet(token: str) -> bool:
    return _NUMBER.fullmatch(token) is not None and len(token) < 100 and int(token) <= 255


def _closing(text: str) -> int:
    level = 0
    for at, char in enumerate(text):
        level += (char == "[") - (char == "]")
        if char == "]" and level == 0:
            return at
    return -1


def matches(pattern: Pattern, address: str) -> bool:
    """Whether an IPv4 address fits."""
    return all(int(number) in field for number, field in zip(address.split("."), pattern, strict=True))
