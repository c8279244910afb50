"""Tables whose entries are in the configuration, in the environment, or in a small text file.

``texthash:/file`` is re-read when the file changes; ``inline:{...}``, ``static:value``, ``randmap:{...}``,
``environ:`` and ``fail:`` need no file.  Raises :class:`~mtad.errors.ConfigError` on bad syntax and
:class:`~mtad.errors.TableError` on a file that can't be read.

Postfix counterpart: ``dict_thash(3)``, ``dict_inline(3)``, ``dict_static(3)``, ``dict_random(3)``,
``dict_env(3)``, ``dict_fail(3)``.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator

from mtad.config.lines import tokens
from mtad.errors import ConfigError, TableError
from mtad.tables.source import (
    extract_braces,
    file_value,
    parse_source,
    read_text,
    split_name_value,
    to_bytes,
)
from mtad.tables.table import Identity, LocalTable, Options, Watch, fold, identity

#: What reads a source: its text, its name, and options; gives (line, key, value).
Parser = Callable[[str, str, Options], Iterator[tuple[int, bytes, bytes]]]


def _parse(text: str, path: str, options: Options) -> Iterator[tuple[int, bytes, bytes]]:
    return parse_source(text, path, options, " -- ignoring this line")


def load_source(path: str, options: Options, parse: Parser = _parse) -> dict[bytes, bytes]:
    """The text source ``path`` as a dictionary; duplicate keys as ``options`` says."""
    entries: dict[bytes, bytes] = {}
    for line, name, value in parse(read_text(path), path, options):
        key = fold(name, options.utf8) if options.fold else name
        if key in entries and options.duplicates != "replace":
            if options.duplicates == "warn":
                shown = name.decode("utf-8", "surrogateescape")
                options.warn(f'{path}, line {line}: duplicate entry: "{shown}"')
            continue
        entries[key] = value
    return entries


class TextHashTable(LocalTable):
    """A text source in memory."""

    def __init__(self, spec: str, options: Options, path: str, parse: Parser = _parse) -> None:
        super().__init__(spec, options)
        self._path = path
        self._parse = parse
        self._entries: dict[bytes, bytes] = {}
        self._watch = Watch(path, self._load, options.warn)

    def _load(self) -> Identity | None:
        try:
            state = identity(os.stat(self._path))
        except OSError as error:
            raise TableError(f"open database {self._path}: {error.strerror}") from error
        self._entries = load_source(self._path, self.options, self._parse)
        return state

    def get(self, key: bytes) -> bytes | None:
        self._watch.refresh()
        return self._entries.get(key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._entries.items())


class InlineTable(LocalTable):
    """``inline:{ key=value, { key = text with spaces } }``."""

    def __init__(self, spec: str, options: Options, name: str) -> None:
        super().__init__(spec, options)
        entries: dict[bytes, bytes] = {}
        usage = f'need "inline:{{name={"filename" if options.value_is_file else "value"}...}}"'
        try:
            body = extract_braces(name)
        except ConfigError as error:
            raise ConfigError(f'bad syntax: "{spec}"; {usage}') from error
        try:
            for element in tokens(body):
                pair = extract_braces(element) if element.startswith("{") else element
                key, value = split_name_value(pair)
                data = file_value(value) if options.value_is_file else to_bytes(value)
                entries[fold(to_bytes(key), options.utf8) if options.fold else to_bytes(key)] = data
        except ConfigError as error:
            raise ConfigError(f'{error.reason}: "{spec}"; {usage}') from error
        except TableError as error:
            raise TableError(f'{error}: "{spec}"; {usage}') from error
        if not entries:
            raise ConfigError(f'empty table: "{spec}"; {usage}')
        self._entries = entries

    def get(self, key: bytes) -> bytes | None:
        return self._entries.get(key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        return iter(self._entries.items())


class StaticTable(LocalTable):
    """``static:value`` or ``static:{text with spaces}``: one value for every key."""

    def __init__(self, spec: str, options: Options, name: str) -> None:
        super().__init__(spec, options)
        if name.startswith("{"):
            try:
                name = extract_braces(name)
            except ConfigError as error:
                raise ConfigError(f"bad static:name syntax: {error.reason}") from error
        self._value = file_value(name) if options.value_is_file else to_bytes(name)

    def get(self, key: bytes) -> bytes | None:
        return self._value


class RandomTable(LocalTable):
    """``randmap:{value, value ...}``: any of the values, whatever the key."""

    fixed_key = False

    def __init__(self, spec: str, options: Options, name: str) -> None:
        super().__init__(spec, options)
        try:
            values = tokens(extract_braces(name))
        except ConfigError:
            values = []
        if not values:
            raise ConfigError(f'bad syntax: "{spec}"; need "randmap:{{value...}}"')
        self._values = [file_value(text) if options.value_is_file else to_bytes(text) for text in values]

    def get(self, key: bytes) -> bytes | None:
        return random.choice(self._values)


class EnvironmentTable(LocalTable):
    """``environ:name``: environment variables; keys are folded, so only lower-case names are found."""

    def get(self, key: bytes) -> bytes | None:
        return os.environb.get(key)


class FailTable(LocalTable):
    """``fail:name``: every lookup fails, for tests."""

    def get(self, key: bytes) -> bytes | None:
        raise TableError("Application error")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        raise TableError(f"table {self.spec}: sequence error: Application error")
