"""The settings of a table that has some: ``ldap:/etc/postfix/ldap.cf``.

A name that begins with ``/`` or ``.`` is a file in main.cf's format (nothing in it is ``$``-expanded).
Any other name is one under which main.cf itself has the settings: ``ldap:accounts`` reads
``accounts_server_host``.

Raises :class:`~mtad.errors.TableError` when the file can't be opened and
:class:`~mtad.errors.ConfigError` for what is wrong in it.  The messages never show the value of a setting
that may be secret.

Postfix counterpart: ``cfg_parser(3)``.
"""

from __future__ import annotations

import os

from mtad.config.lines import LIST_SEPARATORS, cut, logical_lines, split_assignment
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.tables.source import read_text
from mtad.tables.table import Identity, Options, state_of

_main_cf: dict[str, tuple[Identity | None, Parameters]] = {}


def main_cf(options: Options) -> Parameters:
    """The parameters of main.cf, for a type of table that heeds some; defaults where there is no main.cf."""
    directory = options.config_directory or options.directory
    path = os.path.join(directory, "main.cf")
    state = state_of(path)
    known = _main_cf.get(directory)
    if known is not None and known[0] == state:
        return known[1]
    p = Parameters.from_mapping({}, directory) if state is None else Parameters.load(directory)
    _main_cf[directory] = (state, p)
    return p


class Settings:
    """What a table's file, or main.cf for it, says."""

    def __init__(self, options: Options, name: str) -> None:
        self.name = name
        self._parameters: Parameters | None = None
        self._values: dict[str, tuple[str, int]] = {}
        if name[:1] not in ("/", "."):
            self._parameters = main_cf(options)
            return
        path = self.name = options.path(name)
        for line, text in logical_lines(read_text(path), path):
            try:
                key, value = split_assignment(text)
            except ValueError as error:
                raise ConfigError(str(error), path=path, line=line) from error
            self._values[key] = (value, line)

    def text(self, name: str, default: str = "", *, empty: bool = True) -> str:
        """The value of a setting.  With ``empty`` off, an empty one is an error."""
        value = self._get(name)
        if value is None:
            value = default
        if not value and not empty:
            raise self.error(name, f"bad string length 0 < 1: {name} =")
        return value

    def words(self, name: str, default: str = "") -> tuple[str, ...]:
        """The value as a list."""
        return tuple(cut(self.text(name, default), LIST_SEPARATORS))

    def number(self, name: str, default: int, low: int | None = None) -> int:
        """The value as a whole number."""
        value = self._get(name)
        if value is None:
            return default
        try:
            number = int(value, 10) if value.isascii() and "_" not in value else None
        except ValueError:
            number = None
        if number is None:
            raise self.error(name, f"bad numerical configuration: {name} = {value}")
        if low is not None and number < low:
            raise self.error(name, f"invalid {name} parameter value {number} < {low}")
        return number

    def flag(self, name: str, default: bool) -> bool:
        """The value as ``yes`` or ``no``."""
        value = self._get(name)
        if value is None:
            return default
        if value.lower() not in ("yes", "no"):
            raise self.error(name, f"bad boolean configuration: {name} = {value}")
        return value.lower() == "yes"

    def given(self, name: str) -> bool:
        """Whether the setting is there."""
        return self._get(name) is not None

    def error(self, name: str, reason: str, remedy: str = "") -> ConfigError:
        """What is wrong with a setting, and where it is."""
        if self._parameters is not None:
            return ConfigError(f"{self.name}: {reason}", parameter=f"{self.name}_{name}", remedy=remedy)
        line = self._values.get(name, ("", 0))[1]
        return ConfigError(reason, path=self.name, line=line, remedy=remedy)

    def _get(self, name: str) -> str | None:
        if self._parameters is None:
            return self._values.get(name, (None, 0))[0]
        try:
            return self._parameters[f"{self.name}_{name}"]
        except KeyError:
            return None
