"""main.cf as values: each parameter's text with all ``$`` replaced, or its default, typed on demand.

:class:`Parameters` is read once and does not change.  Values are computed when first asked for and kept, so
the order of lines does not matter.  Every getter raises ConfigError with file, line, parameter and remedy; a
name that is neither built in nor set raises KeyError, which is a mistake of the program, not of the operator.

The built-in names, their types and defaults are data: ``parameters.tsv``.  Names that belong to a service of
master.cf (``slow_destination_concurrency_limit``) take type and default from their suffix.  ``myorigin`` with
a value that begins with ``/`` is the first line of that file, as Debian has it.

Postfix counterpart: ``mail_conf(3)``, ``mail_params(3)``, ``postconf_service.c``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mtad.config import types
from mtad.config.expand import ExpansionError, expand, has_literal
from mtad.config.lines import SPACE, logical_lines, read_text, split_assignment
from mtad.errors import ConfigError

if TYPE_CHECKING:
    from mtad.config.master_cf import Service

#: Suffixes of names that each delivery transport of master.cf has, and where their default comes from.
SERVICE_SUFFIXES = {
    "_time_limit": "command_time_limit",
    "_recipient_limit": "default_recipient_limit",
    "_extra_recipient_limit": "default_extra_recipient_limit",
    "_recipient_refill_limit": "default_recipient_refill_limit",
    "_recipient_refill_delay": "default_recipient_refill_delay",
    "_delivery_slot_cost": "default_delivery_slot_cost",
    "_delivery_slot_loan": "default_delivery_slot_loan",
    "_delivery_slot_discount": "default_delivery_slot_discount",
    "_minimum_delivery_slots": "default_minimum_delivery_slots",
    "_initial_destination_concurrency": "initial_destination_concurrency",
    "_destination_concurrency_limit": "default_destination_concurrency_limit",
    "_destination_recipient_limit": "default_destination_recipient_limit",
    "_destination_concurrency_positive_feedback": "default_destination_concurrency_positive_feedback",
    "_destination_concurrency_negative_feedback": "default_destination_concurrency_negative_feedback",
    "_destination_concurrency_failed_cohort_limit": "default_destination_concurrency_failed_cohort_limit",
    "_destination_rate_delay": "default_destination_rate_delay",
    "_transport_rate_delay": "default_transport_rate_delay",
}

#: Names that main.cf and master.cf cannot set.
READ_ONLY = ("process_id", "process_name")

#: The suffixes, longest first, so that the most specific one counts.
_SUFFIXES = sorted(SERVICE_SUFFIXES, key=len, reverse=True)

_TABLE = Path(__file__).with_name("parameters.tsv")


class Spec(NamedTuple):
    """One row of the table.

    ``status`` is ``honoured``, ``ignored`` (it has no meaning here; ``note`` says why) or ``unimplemented``
    (``note`` says what does not happen).  ``instead``: what to write in place of a deprecated name.
    """

    name: str
    type: str
    default: str
    status: str
    note: str
    instead: str


@cache
def table() -> dict[str, Spec]:
    """All built-in parameters by name."""
    rows = (line.split("\t") for line in _TABLE.read_text("utf-8").split("\n") if line and line[0] != "#")
    return {row[0]: Spec._make(row) for row in rows}


def service_spec(name: str) -> Spec | None:
    """The row that a service-derived name takes its type and default from, under that name."""
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and len(name) > len(suffix):
            origin = SERVICE_SUFFIXES[suffix]
            row = table()[origin]
            return Spec(name, row.type, f"${origin}", row.status, row.note, "")
    return None


def _loopback(style: str) -> str:
    return "127.0.0.0/8 [::1]/128"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a default may depend on outside of the configuration.  ``mynetworks``: style to value."""

    hostname: str = field(default_factory=lambda: os.uname().nodename)
    mynetworks: Callable[[str], str] = _loopback


class Setting(NamedTuple):
    """An explicit value as written, and where."""

    text: str
    path: str
    line: int


class Parameters:
    """The parameters of one configuration directory, or of one service of its master.cf."""

    __slots__ = ("_cache", "_facts", "_process", "_settings", "directory", "warnings")

    def __init__(
        self,
        settings: Mapping[str, Setting],
        directory: str,
        facts: Facts | None = None,
        warnings: list[str] | None = None,
        process: tuple[str, str] = ("", ""),
    ) -> None:
        self.directory = directory
        self.warnings: list[str] = warnings if warnings is not None else []
        self._settings = dict(settings)
        self._facts = facts or Facts()
        self._process = process
        self._cache: dict[str, str] = {}

    @classmethod
    def load(
        cls,
        directory: str,
        facts: Facts | None = None,
        overrides: Mapping[str, str] | None = None,
        process: tuple[str, str] = ("", ""),
    ) -> Parameters:
        """Read ``directory/main.cf``; ``overrides`` count more than the file.

        ``process``: what ``$process_name`` and ``$service_name`` are.
        """
        path = f"{directory}/main.cf"
        warnings: list[str] = []
        settings = _read_settings(path, warnings)
        for name in READ_ONLY:
            if name in settings:
                text = settings.pop(name).text
                warnings.append(f"{path}: read-only parameter assignment: {name}={text}")
        settings.update({name: Setting(text, "-o", 0) for name, text in (overrides or {}).items()})
        return cls(settings, directory, facts, warnings, process)

    @classmethod
    def from_mapping(
        cls, values: Mapping[str, str], directory: str = "/etc/postfix", facts: Facts | None = None
    ) -> Parameters:
        """Parameters without a file, for tests."""
        path = f"{directory}/main.cf"
        return cls({name: Setting(text, path, 0) for name, text in values.items()}, directory, facts)

    def with_facts(self, facts: Facts) -> Parameters:
        """The same settings, defaults computed from other facts."""
        return Parameters(self._settings, self.directory, facts, self.warnings, self._process)

    def replaced(self, name: str, text: str) -> Parameters:
        """The same settings but for one."""
        settings = {**self._settings, name: Setting(text, "-o", 0)}
        return Parameters(settings, self.directory, self._facts, self.warnings, self._process)

    def for_service(self, service: Service) -> Parameters:
        """These parameters as ``service`` sees them: with its ``-o`` settings and its ``$service_name``."""
        path = f"{self.directory}/master.cf"
        settings = dict(self._settings)
        for name, text in service.overrides.items():
            if name not in READ_ONLY:
                settings[name] = Setting(text, path, service.line)
        process = (os.path.basename(service.command), service.name)
        return Parameters(settings, self.directory, self._facts, self.warnings, process)

    def __getitem__(self, name: str) -> str:
        found = self._cache.get(name)
        if found is not None:
            return found
        value = self._value(name, 0)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: str) -> bool:
        return name in self._settings or self.spec(name) is not None

    def flag(self, name: str) -> bool:
        """A ``yes`` or ``no``."""
        text = self[name]
        try:
            return types.boolean(name, text)
        except types.BadValue as error:
            raise self.error(name, error) from error

    def number(self, name: str) -> int:
        """A decimal number."""
        text = self[name]
        of = self.type(name)
        try:
            return types.integer(name, text, of if of.kind in ("int", "long") else types.parse_type("long"))
        except types.BadValue as error:
            raise self.error(name, error) from error

    def seconds(self, name: str) -> int:
        """A time in seconds."""
        text = self[name]
        of = self.type(name)
        try:
            return types.seconds(name, text, of if of.kind == "time" else types.parse_type("time s"))
        except types.BadValue as error:
            raise self.error(name, error) from error

    def choice(self, name: str) -> str:
        """One name of an enumeration in lower case; empty where that is allowed."""
        try:
            return types.choice(self[name], self.type(name))
        except types.BadValue as error:
            raise self.error(name, error) from error

    def words(self, name: str) -> tuple[str, ...]:
        """The elements of a list, split at commas and blanks; ``{...}`` is one, without its braces."""
        text = self[name]
        of = self.type(name)
        try:
            found = types.words(name, text)
            if of.kind == "set":
                types.members(found, of)
            return found
        except types.BadValue as error:
            raise self.error(name, error) from error

    def explicit(self, name: str) -> bool:
        """Whether main.cf or a ``-o`` sets this parameter."""
        return name in self._settings

    def explicit_names(self) -> tuple[str, ...]:
        """All names that main.cf or a ``-o`` sets, known or not."""
        return tuple(self._settings)

    def raw(self, name: str) -> str | None:
        """The value as written, or the default before expansion; None for an unknown name."""
        setting = self._settings.get(name)
        if setting is not None:
            return setting.text
        return self.default(name)

    def default(self, name: str) -> str | None:
        """The default before expansion; None for an unknown name."""
        row = self.spec(name)
        if row is None:
            return None
        compute = _COMPUTED.get(row.default)
        return compute(self, 0) if compute else row.default

    def where(self, name: str) -> tuple[str, int]:
        """File and line of the setting; main.cf and 0 for a default."""
        setting = self._settings.get(name)
        return (setting.path, setting.line) if setting else (f"{self.directory}/main.cf", 0)

    def expand(self, text: str) -> str:
        """``text`` with all ``$`` expressions replaced."""
        try:
            return expand(text, self._reference, self._is_set)
        except ExpansionError as error:
            raise ConfigError(str(error), path=f"{self.directory}/main.cf") from error

    def written(self, name: str) -> str:
        """The name by which the operator knows the parameter."""
        return name

    def spec(self, name: str) -> Spec | None:
        """The row of the table for a name, also for one that is derived from a service."""
        return table().get(name) or service_spec(name)

    def type(self, name: str) -> types.Type:
        """The type of a name; plain text for one that the operator made up."""
        row = self.spec(name)
        return types.parse_type(row.type if row else "str")

    def check(self) -> list[ConfigError]:
        """The errors of all typed values, of built-in and of service-derived parameters."""
        errors: list[ConfigError] = []
        for name in dict.fromkeys((*table(), *self._settings)):
            try:
                self.check_one(name)
            except ConfigError as error:
                if str(error) not in {str(known) for known in errors}:
                    errors.append(error)
        return errors

    def check_one(self, name: str) -> None:
        """Raise ConfigError when the value of ``name`` is not of its type."""
        text = self[name]
        row = self.spec(name)
        of = self.type(name)
        if of.kind in types.TABLES and row is not None and row.status == "ignored":
            return
        try:
            types.check(name, text, of)
        except types.BadValue as error:
            raise self.error(name, error) from error

    def error(self, name: str, cause: ValueError | str, remedy: str = "") -> ConfigError:
        """An error about the value of ``name``, with its place."""
        path, line = self.where(name)
        if isinstance(cause, types.BadValue):
            remedy = remedy or cause.remedy
        return ConfigError(str(cause), path=path, line=line, parameter=name, remedy=remedy)

    def _value(self, name: str, depth: int) -> str | None:
        """The expanded value, or None for an unknown name; for myorigin, what its file says."""
        found = self._cache.get(name)
        if found is not None:
            return found
        text = self._expanded(name, depth)
        if text is None:
            return None
        if name == "myorigin" and text.startswith("/"):
            text = self._first_line(name, text)
        self._cache[name] = text
        return text

    def _expanded(self, name: str, depth: int) -> str | None:
        setting = self._settings.get(name)
        row = self.spec(name)
        if setting is not None:
            text = setting.text
        elif row is None:
            return None
        else:
            compute = _COMPUTED.get(row.default)
            text = compute(self, depth) if compute else row.default
        if row is None or row.type != "raw":
            try:
                text = expand(text, self._reference, self._is_set, depth)
            except ExpansionError as error:
                raise self.error(name, error) from error
        return text

    def _reference(self, name: str, depth: int) -> str:
        """What ``$name`` stands for: of myorigin the text, also when that is a file's name."""
        return (self._expanded(name, depth) if name == "myorigin" else self._value(name, depth)) or ""

    def _is_set(self, name: str, depth: int) -> bool:
        setting = self._settings.get(name)
        if setting is not None:
            return bool(setting.text)
        row = self.spec(name)
        if row is not None and row.default not in _COMPUTED and has_literal(row.default):
            return True
        return bool(self._value(name, depth))

    def _first_line(self, name: str, path: str) -> str:
        try:
            text = read_text(path).partition("\n")[0].strip(SPACE)
        except ConfigError as error:
            raise self.error(name, f"{path}: {error.reason}", "write the domain itself") from error
        if not text:
            raise self.error(name, f"file {path} is empty", "write the domain into its first line")
        return text


def _read_settings(path: str, warnings: list[str]) -> dict[str, Setting]:
    settings: dict[str, Setting] = {}
    for line, name, text in read_assignments(path, warnings):
        old = settings.get(name)
        if old is not None and old.text != text:
            warnings.append(f"{path}, line {line}: overriding earlier entry: {name}={old.text}")
        settings[name] = Setting(text, path, line)
    return settings


def read_assignments(path: str, warnings: list[str]) -> Iterator[tuple[int, str, str]]:
    """All ``name = value`` of a file as (line, name, value); ConfigError for a line that is none."""
    for line, text in logical_lines(read_text(path), path, warnings):
        try:
            name, value = split_assignment(text)
        except ValueError as error:
            raise ConfigError(
                f'{error}: "{text[:80]}"', path=path, line=line, remedy="write it as: name = value"
            ) from error
        yield line, name, value


def _myhostname(p: Parameters, depth: int) -> str:
    name = p._facts.hostname
    if "." in name:
        return name
    domain = p._reference("mydomain", depth + 1) if p.explicit("mydomain") else "localdomain"
    return f"{name}.{domain}"


def _mydomain(p: Parameters, depth: int) -> str:
    _, dot, domain = p._reference("myhostname", depth + 1).partition(".")
    return domain if dot else "localdomain"


def _mynetworks(p: Parameters, depth: int) -> str:
    return p._facts.mynetworks(p._reference("mynetworks_style", depth + 1))


#: Defaults that are computed, by the word that stands in the table for them.
_COMPUTED: dict[str, Callable[[Parameters, int], str]] = {
    "@myhostname": _myhostname,
    "@mydomain": _mydomain,
    "@mynetworks": _mynetworks,
    "@config_directory": lambda p, depth: p.directory,
    "@process_id": lambda p, depth: str(os.getpid()),
    "@process_name": lambda p, depth: p._process[0],
    "@service_name": lambda p, depth: p._process[1] or "amnesiac",
}
