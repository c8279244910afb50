"""Types of parameter values, and how text becomes a value.

A type is written in ``parameters.tsv`` as a word and its arguments:

========================  =====================================================
``bool``                  ``yes`` or ``no``, in any case
``int LOW..HIGH``         a decimal number; either bound may be absent
``long LOW..HIGH``        the same with 64 bits
``time UNIT LOW..HIGH``   digits and a unit of ``s m h d w``; UNIT is the one meant without
``str LOW..HIGH``         text of a length
``list``                  words between commas and blanks, ``{...}`` one word
``maps``                  a list of tables, ``type:name``; the tables are opened by who uses them
``networks``              a list of hosts and networks, likewise read by who uses it
``enum NAME...``          one of these names, in any case
``enum? NAME...``         the same, or nothing
``set NAME...``           a list of these names, written just so
``hostname``              a host or domain name
``level``                 a compatibility level
``raw``                   text in which ``$`` is for somebody else
``legacy``                text of an old name that a newer parameter's default asks for
========================  =====================================================

Each function raises :class:`BadValue`, whose text is Postfix's where Postfix has one, and whose ``remedy``
says what would do.  Postfix counterpart: ``mail_conf_bool(3)``, ``mail_conf_int(3)``, ``mail_conf_time(3)``,
``conv_time(3)``, ``mystrtok(3)``, ``valid_hostname(3)``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from mtad.config.expand import ExpansionError, parse_level
from mtad.config.lines import tokens, unbraced

#: The types whose values are lists of tables, or may hold some; then all types of lists of free words.
TABLES = ("maps", "networks")
LISTS = ("list", *TABLES)

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_NUMBER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)")
_ADDRESS = re.compile(r"(?=.*:.*:)[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(?:/[0-9]+)?")
_INT_LIMIT = 1 << 31
_LONG_LIMIT = 1 << 63


class BadValue(ValueError):
    """A value that its type does not allow."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Type:
    """A parsed type.  ``low`` and ``high`` are None where there is no bound."""

    kind: str
    low: int | None = None
    high: int | None = None
    unit: str = "s"
    names: tuple[str, ...] = ()


@cache
def parse_type(text: str) -> Type:
    """The type that ``text`` of the table describes."""
    kind, *rest = text.split()
    if kind in ("enum", "enum?", "set"):
        return Type(kind, names=tuple(rest))
    unit = rest.pop(0) if kind == "time" else "s"
    low, _, high = rest[0].partition("..") if rest else ("", "", "")
    return Type(kind, int(low) if low else None, int(high) if high else None, unit)


def boolean(name: str, text: str) -> bool:
    """``yes`` or ``no``."""
    word = text.lower()
    if word == "yes":
        return True
    if word == "no":
        return False
    raise BadValue(f"bad boolean configuration: {name} = {text}", 'specify "yes" or "no"')


def integer(name: str, text: str, of: Type) -> int:
    """A decimal number in its range."""
    match = _NUMBER.fullmatch(text)
    limit = _LONG_LIMIT if of.kind == "long" else _INT_LIMIT
    if match is None or len(text) > 40 or not -limit <= int(match.group(1)) < limit:
        remedy = "specify digits only, without a unit" if text[:1].isdigit() else "specify a decimal number"
        raise BadValue(f"bad numerical configuration: {name} = {text}", remedy)
    return _in_range(name, int(match.group(1)), of)


def seconds(name: str, text: str, of: Type) -> int:
    """A time in seconds.  Only the first character after the digits counts, as with Postfix."""
    match = _NUMBER.match(text)
    unit = text[match.end() :][:1] or of.unit if match else ""
    scale = UNITS.get(unit, 0)
    if match is None or len(match.group()) > 40 or not scale:
        raise BadValue(f"bad time value or unit: {text}", "specify a number and one of s, m, h, d, w")
    value = int(match.group(1)) * scale
    if not 0 <= value < _INT_LIMIT:
        raise BadValue(f"bad time value or unit: {text}", "specify a smaller time")
    return _in_range(name, value, of)


def words(name: str, text: str) -> tuple[str, ...]:
    """The elements of a list; the braces around a whole element are taken off."""
    found = tokens(text)
    if "{" not in text and "}" not in text:
        return tuple(found)
    if text.count("{") != text.count("}"):
        raise BadValue(f"unbalanced braces: {name} = {text}", "close each { with a }")
    try:
        return tuple(unbraced(word) if word[0] == "{" else word for word in found)
    except ValueError as error:
        raise BadValue(str(error), "put a blank or a comma behind the closing brace") from error


def check(name: str, text: str, of: Type) -> None:
    """Raise :class:`BadValue` when ``text`` is no value of this type."""
    if of.kind == "bool":
        boolean(name, text)
    elif of.kind in ("int", "long"):
        integer(name, text, of)
    elif of.kind == "time":
        seconds(name, text, of)
    elif of.kind == "str":
        _length(name, text, of)
    elif of.kind in LISTS:
        _tables(words(name, text), of)
    elif of.kind in ("enum", "enum?"):
        choice(text, of)
    elif of.kind == "set":
        members(words(name, text), of)
    elif of.kind == "hostname":
        hostname(text)
    elif of.kind == "level":
        try:
            parse_level(text)
        except ExpansionError as error:
            raise BadValue(str(error), "specify for example 3.6, or remove the line") from error


def hostname(text: str) -> None:
    """Check a host or domain name (RFC 1123 section 2.1; underscores are let through, as Postfix does)."""
    if not text:
        raise BadValue("bad parameter value: empty name", "specify a fully qualified name")
    for char in text:
        if not (char.isalnum() or char in "-_."):
            hint = "text after # is not a comment here" if "#" in text else "specify a fully qualified name"
            raise BadValue(f"bad parameter value: {text} (invalid character {ord(char)}(decimal))", hint)
    labels = (
        text.encode("idna").decode().split(".") if not text.isascii() and len(text) < 256 else text.split(".")
    )
    if any(not label or label[0] == "-" or label[-1] == "-" for label in labels):
        raise BadValue(f"bad parameter value: {text} (misplaced delimiter or hyphen)")
    if len(text) > 255 or any(len(label) > 63 for label in labels):
        raise BadValue(f"bad parameter value: {text[:80]} (too long)")
    if all(label.isdigit() for label in labels):
        raise BadValue(f"bad parameter value: {text} (numeric hostname)", "specify a name, not an address")


def nearest(word: str, names: Iterable[str]) -> str:
    """``did you mean "x"?`` for the known name most like ``word``, or nothing."""
    found = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f'did you mean "{found[0]}"?' if found else ""


def choice(text: str, of: Type) -> str:
    """One name of an enumeration, as the table spells it; empty where that is allowed."""
    word = text.lower()
    if word in of.names or (not word and of.kind == "enum?"):
        return word
    raise _unknown(text, of)


def members(found: Iterable[str], of: Type) -> None:
    """Check that each word is a name of the set."""
    for word in found:
        if word not in of.names:
            raise _unknown(word, of)


def _unknown(word: str, of: Type) -> BadValue:
    remedy = nearest(word.lower(), of.names) or "specify one of: " + ", ".join(of.names)
    return BadValue(f'unknown value: "{word}"', remedy)


def _tables(found: Iterable[str], of: Type) -> None:
    """Check that words that must name tables, or can be nothing else, look like it."""
    for word in found:
        pattern = word.lstrip("!")
        if of.kind == "maps" or (of.kind == "networks" and ":" in pattern and pattern[0] not in "[/"):
            kind, colon, table = word.partition(":") if of.kind == "maps" else pattern.partition(":")
            if kind and colon and table and not (of.kind == "networks" and _ADDRESS.fullmatch(pattern)):
                continue
            remedy = "write the table as type:name, for example hash:/etc/postfix/table"
            if of.kind == "networks":
                remedy = f"write an IPv6 address as [{pattern}]"
            raise BadValue(f'open dictionary: expecting "type:name" form instead of "{word}"', remedy)


def _length(name: str, text: str, of: Type) -> None:
    size = len(text.encode("utf-8", "surrogateescape"))
    if of.low is not None and size < of.low:
        raise BadValue(f"bad string length {size} < {of.low}: {name} = {text}", "specify a longer text")
    if of.high is not None and size > of.high:
        raise BadValue(f"bad string length {size} > {of.high}: {name} = {text}", "specify a shorter text")


def _in_range(name: str, value: int, of: Type) -> int:
    if of.low is not None and value < of.low:
        raise BadValue(f"invalid {name} parameter value {value} < {of.low}", f"specify at least {of.low}")
    if of.high is not None and value > of.high:
        raise BadValue(f"invalid {name} parameter value {value} > {of.high}", f"specify at most {of.high}")
    return value
