"""The parts of ``mtad postconf`` that show master.cf: whole entries (-M), fields (-F), ``-o`` settings (-P).

Each function gives the lines to print and appends to ``warnings`` a line for each request that matched
nothing; :class:`UsageError` is a request that means nothing.  The shapes are those of Postfix's
``postconf_master.c``: columns, folding at 80, braces around arguments with blanks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mtad.config.lines import WORD_SEPARATORS, cut
from mtad.config.master_cf import FIELDS, Service
from mtad.config.parameters import Parameters

LINE_LIMIT = 80
INDENT = 4

_COLUMNS = (0, 11, 17, 25, 33, 41, 49, 57)
#: postconf's own names of the eight fields.
FIELD_NAMES = FIELDS

Expand = Callable[[Service, str], str]


class UsageError(ValueError):
    """A command line that cannot be understood."""


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


def expander(p: Parameters) -> Expand:
    """What -x does to a value: expand it as the service sees it."""
    return lambda service, text: p.for_service(service).expand(text)


def entries(
    services: Sequence[Service],
    requests: Sequence[str],
    folding: bool,
    expand: Expand | None,
    warnings: list[str],
) -> Iterator[str]:
    """-M: whole entries."""
    for service, _ in _matching(services, requests, 2, "-M option requires service_name[/type]", warnings):
        yield _entry(service, folding, expand)


def fields(
    services: Sequence[Service],
    requests: Sequence[str],
    folding: bool,
    show: tuple[bool, bool],
    expand: Expand | None,
    warnings: list[str],
) -> Iterator[str]:
    """-F: single fields; ``show`` says whether names and whether values are shown."""
    usage = "-F option requires service_name[/type[/field]]"
    found = _matching(services, requests, 3, usage, warnings)
    for request in requests:
        parts = request.split("/")
        if len(parts) == 3 and parts[2] not in (*FIELD_NAMES, "*"):
            raise UsageError(f'invalid service attribute name: "{parts[2]}"')
    for service, wanted in found:
        for index, name in enumerate(FIELD_NAMES):
            if wanted in ("*", name):
                yield _field(service, index, folding, show, expand)


def settings(
    services: Sequence[Service],
    requests: Sequence[str],
    folding: bool,
    show: tuple[bool, bool],
    expand: Expand | None,
    warnings: list[str],
) -> Iterator[str]:
    """-P: the ``-o`` settings."""
    usage = "-P option requires service_name[/type[/parameter]]"
    for service, wanted in _matching(services, requests, 3, usage, warnings, parameters=True):
        for name in sorted(service.overrides):
            if wanted not in ("*", name):
                continue
            value = service.overrides[name]
            if expand:
                value = expand(service, value)
            full = f"{service.name}/{service.type}/{name}"
            if not show[1]:
                yield fold(full, folding)
            else:
                yield fold(f"{full} = {value}" if show[0] else value, folding)


def _matching(
    services: Sequence[Service],
    requests: Sequence[str],
    parts: int,
    usage: str,
    warnings: list[str],
    parameters: bool = False,
) -> Iterator[tuple[Service, str]]:
    """Each service that a request names, with the request's third part."""
    wanted = [(request, _pattern(request, parts, usage)) for request in requests]
    matched: set[str] = set()
    for service in services:
        if not requests:
            yield service, "*"
        for request, (name, kind, third) in wanted:
            if name not in ("*", service.name) or kind not in ("*", service.type):
                continue
            if parameters and not (service.overrides if third == "*" else third in service.overrides):
                continue
            matched.add(request)
            yield service, third
    warnings.extend(f'unmatched request: "{request}"' for request in requests if request not in matched)


def _pattern(request: str, parts: int, usage: str) -> tuple[str, str, str]:
    found = request.split("/")
    if not 1 <= len(found) <= parts or not all(found):
        raise UsageError(usage)
    if any("*" in part and part != "*" for part in found):
        raise UsageError(usage)
    name, kind, third = (*found, "*", "*")[:3]
    return name, kind, third


def _entry(service: Service, folding: bool, expand: Expand | None) -> str:
    line = ""
    for text, column in zip(service.fields[:8], _COLUMNS, strict=True):
        if line:
            line = (line + " ").ljust(column)
        line += text
    return line + _command_line(service, width(line), folding, expand, 3)


def _field(
    service: Service, index: int, folding: bool, show: tuple[bool, bool], expand: Expand | None
) -> str:
    names, values = show
    line = f"{service.name}/{service.type}/{FIELD_NAMES[index]}" if names else ""
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
    if index == len(FIELD_NAMES) - 1:
        line += _command_line(service, column + width(text), folding, expand, 1)
    return line


def _command_line(service: Service, column: int, folding: bool, expand: Expand | None, extra: int) -> str:
    """The arguments behind the command; ``extra`` columns are kept free for an option's value."""
    result: list[str] = []
    words = list(service.fields[8:])
    options = True
    while words:
        word = words.pop(0)
        text, size, after = word, width(word), None
        options = options and word.startswith("-") and word != "--"
        if options and word == "-o" and words:
            value = words.pop(0)
            value = expand(service, value) if expand else value
            column = LINE_LIMIT
            size += width(value) + extra + (2 if _blank(value) else 0)
            text = f"{word} {_braced(value)}"
            after = LINE_LIMIT
        elif not options:
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
