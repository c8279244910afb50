"""master.cf entries as text: in columns, folded, with braces where there are blanks.

:func:`entry_lines` and :func:`field_line` write what ``postconf -M`` and ``-F`` show, :func:`plain` the same
with single blanks, for JSON.  Postfix leaves the first argument that is no option without its braces; what is
put into a file (``exact``) has them.  They raise nothing of their own.

Postfix counterpart: ``pcf_print_master_entry()``, ``pcf_print_master_field()``, ``pcf_print_line()``.
"""

from __future__ import annotations

from collections.abc import Callable

from mtad.config.lines import WORD_SEPARATORS, cut
from mtad.config.master_cf import FIELDS, Service

LINE_LIMIT = 80
INDENT = 4

_COLUMNS = (0, 11, 17, 25, 33, 41, 49, 57)

#: Expands the ``$`` in a value as the service sees it.
Expand = Callable[[Service, str], str]


def fold(text: str, folding: bool) -> str:
    """``text`` with single blanks between its words, broken at 80 columns when ``folding``."""
    result: list[str] = []
    column = 0
    for word in cut(text, WORD_SEPARATORS):
        size = width(word)
        if column:
            if not folding or column + size < LINE_LIMIT:
                result.append(" ")
                column += 1
            else:
                result.append("\n" + " " * INDENT)
                column = INDENT
        result.append(word)
        column += size
    return "".join(result)


def width(text: str) -> int:
    """Columns as postconf counts them: bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))


def entry_lines(service: Service, folding: bool, expand: Expand | None = None, *, exact: bool = False) -> str:
    """The whole entry."""
    line = ""
    for text, column in zip(service.fields[:8], _COLUMNS, strict=True):
        if line:
            line = (line + " ").ljust(column)
        line += text
    return line + _command_line(service, width(line), folding, expand, 3, exact)


def field_line(
    service: Service, index: int, folding: bool, show: tuple[bool, bool], expand: Expand | None
) -> str:
    """One field; ``show``: its name, its value."""
    names, values = show
    line = f"{service.name}/{service.type}/{FIELDS[index]}" if names else ""
    if names and values:
        line += " = "
    if not values:
        return line
    column = width(line)
    text = service.fields[index]
    if column and column + width(text) > LINE_LIMIT:
        line += "\n" + " " * INDENT
        column = INDENT
    line += text
    if index == len(FIELDS) - 1:
        line += _command_line(service, column + width(text), folding, expand, 1)
    return line


def plain(service: Service, index: int | None, expand: Expand | None) -> str:
    """A field, or without ``index`` the entry, with one blank between its words."""
    if index is not None and index < len(FIELDS) - 1:
        return service.fields[index]
    text = " ".join(service.fields[:8]) if index is None else service.fields[index]
    return text + _command_line(service, LINE_LIMIT, False, expand, 1)


def _command_line(
    service: Service, column: int, folding: bool, expand: Expand | None, extra: int, exact: bool = False
) -> str:
    """The arguments behind the command; ``extra`` columns are kept free for an option's value."""
    result: list[str] = []
    words = list(service.fields[8:])
    options = True
    while words:
        word = words.pop(0)
        text, size, after = word, width(word), None
        first = options
        options = options and word.startswith("-") and word != "--"
        if options and word == "-o" and words:
            value = words.pop(0)
            value = expand(service, value) if expand else value
            column = LINE_LIMIT
            size += width(value) + extra + (2 if _blank(value) else 0)
            text = f"{word} {_braced(value)}"
            after = LINE_LIMIT
        elif not options and (exact or not first):
            text = _braced(word)
        if column > INDENT:
            if not folding or column + 1 + size < LINE_LIMIT:
                result.append(" ")
                column += 1
            else:
                result.append("\n" + " " * INDENT)
                column = INDENT
        result.append(text)
        column = after if after is not None else column + width(text)
    return "".join(result)


def _blank(text: str) -> bool:
    return any(char in WORD_SEPARATORS for char in text)


def _braced(text: str) -> str:
    return f"{{{text}}}" if _blank(text) else text
