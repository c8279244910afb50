"""Text sources of tables: ``key whitespace value``, one logical line an entry.

:func:`parse_source` yields ``(line, key, value)``; what can't be an entry is left out with a warning
in Postfix's words.  The key ends at the first white space outside of double quotes and keeps its quotes.

:func:`extract_braces` and :func:`split_name_value` take apart the elements of ``inline:``, ``unionmap:`` and
match lists.

Postfix counterpart: the parser that ``postmap(1)`` and ``texthash:`` share; ``extpar()``,
``split_qnameval()``.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from mtad.config.lines import LIST_SEPARATORS, cut, logical_lines, unbraced
from mtad.errors import ConfigError, TableError
from mtad.tables.table import Options, is_utf8

_SPACE = " \t\r\n\v\f"
_KEY = re.compile(r'(?:\\.|"(?:\\.|[^"\\])*"|[^"\\\s])*\\?', re.ASCII | re.DOTALL)
#: An entry without quotes; :data:`_KEY` finds the same key, but slowly.
_PLAIN = re.compile(r'([^\s"\\]+)\s+(\S(?:.*\S)?)\s*', re.ASCII | re.DOTALL)
_NAME = re.compile(r'(?:\\.|"(?:\\.|[^"\\])*"|[^"\\\s=])*', re.ASCII | re.DOTALL)


def read_text(path: str) -> str:
    """The text of a source file, with bytes that are no UTF-8 as surrogates; :class:`TableError`."""
    try:
        with open(path, "rb") as source:
            return source.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise TableError(f"open {path}: {error.strerror}") from error


def to_bytes(text: str) -> bytes:
    """Text as the bytes that it was read from."""
    return text.encode("utf-8", "surrogateescape")


def parse_source(
    text: str, path: str, options: Options, verdict: str = ""
) -> Iterator[tuple[int, bytes, bytes]]:
    """The entries of ``text``, keys not folded, duplicates and all; warnings go to ``options.warn``.

    ``verdict`` ends the warning about a line that has no value.
    """
    warnings: list[str] = []
    plain = _PLAIN.fullmatch
    for number, line in logical_lines(text, path, warnings):
        while warnings:
            options.warn(warnings.pop(0))
        match = plain(line)
        if match is not None and line.isascii() and not options.value_is_file:
            key, value = match.groups()
            if key[-1] != ":":
                yield number, key.encode(), value.encode()
                continue
        where = f"{path}, line {number}"
        if options.wants_utf8 and not line.isascii() and not is_utf8(to_bytes(line)):
            options.warn(f'{where}: non-UTF-8 input "{line}" -- ignoring this line')
            continue
        match = _KEY.match(line)
        end = match.end() if match else 0
        if end < len(line) and line[end] not in _SPACE:
            options.warn(f"{where}: unbalanced '\"' in '{line}' -- ignoring this line")
            continue
        key, value = line[:end], line[end:].strip(_SPACE)
        if not key or not value:
            options.warn(f"{where}: expected format: key whitespace value{verdict}")
            continue
        if key.endswith(":"):
            options.warn(f'{where}: record is in "key: value" format; is this an alias file?')
        data = to_bytes(value)
        if options.value_is_file:
            try:
                data = file_value(value)
            except TableError as error:
                options.warn(f"{where}: {error}: skipping this entry")
                continue
        yield number, to_bytes(key), data
    for warning in warnings:
        options.warn(warning)


def file_value(names: str) -> bytes:
    """The content of the files ``names`` (apart by commas or blanks), one a line, as base64."""
    content = []
    for name in cut(names, LIST_SEPARATORS):
        try:
            with open(name, "rb") as source:
                content.append(source.read())
        except OSError as error:
            raise TableError(f"open {name}: {error.strerror}") from error
    if not content:
        raise TableError(f"empty pathname list: >>{names}<<'")
    return base64.b64encode(b"\n".join(content))


def extract_braces(text: str) -> str:
    """What is between the outer braces of ``text``, stripped; :class:`ConfigError` when they don't match."""
    if not text.startswith("{"):
        raise ConfigError(f"no '{{' at start of text in \"{text}\"")
    try:
        return unbraced(text)
    except ValueError as problem:
        raise ConfigError(str(problem)) from None


def split_name_value(text: str) -> tuple[str, str]:
    """``name = value``, where the name may hold quoted white space; :class:`ConfigError`."""
    text = text.strip(_SPACE)
    if not text:
        raise ConfigError("no key found; expected format: key = value")
    match = _NAME.match(text)
    end = match.end() if match else 0
    rest = text[end:].lstrip(_SPACE)
    if rest.startswith('"'):
        raise ConfigError("unbalanced '\"'")
    if not rest.startswith("="):
        raise ConfigError("missing '=' after attribute name")
    return text[:end], rest[1:].strip(_SPACE)
