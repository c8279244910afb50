"""Which names of parameters mean something: what ``postconf`` lists and what it warns about.

A name in main.cf or behind ``-o`` counts as known when it is built in, belongs to a delivery service of
master.cf, is mentioned as ``$name`` in some value, is a restriction class, or belongs to a database table
named in a value (``ldap:accounts`` makes ``accounts_server_host`` known).  All others are unused, most often
mistyped.

:func:`survey` promises the classes that ``postconf -C`` knows and the findings of ``postconf``, in its order;
it raises ConfigError only where a value it must expand cannot be expanded.
Postfix counterpart: ``postconf_service.c``, ``postconf_user.c``, ``postconf_unused.c``, ``postconf_dbms.c``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from mtad.config.databases import CLIENTS, TableWalk
from mtad.config.expand import references
from mtad.config.lines import LIST_SEPARATORS, cut
from mtad.config.master_cf import Service
from mtad.config.parameters import READ_ONLY, SERVICE_SUFFIXES, Parameters, table

BUILTIN, SERVICE, USER, LEGACY = "builtin", "service", "user", "legacy"

#: Programs whose services have parameters of their own.
_TRANSPORTS = ("local", "error", "virtual", "smtp", "lmtp", "pipe")
_TIMED = ("pipe", "spawn")

#: A name that was dropped for good, and what to do instead.
REMOVED = {"deleted-test-only": "do not specify"}


@dataclass(slots=True)
class Survey:
    """``classes``: known name to its class.  The findings are (file, line, name, value), in order.

    ``odd``, ``broken`` and ``client_unused`` are whole warnings: of braces and comments in values, of
    expressions that cannot be read, and of database clients' own files.
    """

    classes: dict[str, str] = field(default_factory=dict)
    undefined: list[tuple[str, int, str]] = field(default_factory=list)
    unused: list[tuple[str, int, str, str]] = field(default_factory=list)
    deprecated: list[tuple[str, int, str, str]] = field(default_factory=list)
    read_only: list[tuple[str, int, str, str]] = field(default_factory=list)
    removed: list[tuple[str, int, str, str]] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    client_unused: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Scope:
    """The ``-o`` settings of one service, and which of their names are known."""

    service: Service
    known: set[str] = field(default_factory=set)


def survey(p: Parameters, services: list[Service], defaults_only: bool = False) -> Survey:
    """Look at all names of main.cf and master.cf; ``defaults_only`` leaves out what the operator made up."""
    result = Survey()
    for name, row in table().items():
        result.classes[name] = LEGACY if row.type == "legacy" else BUILTIN
    for service in services:
        for name in service_names(service):
            result.classes[name] = SERVICE
    if not defaults_only:
        _Surveyor(p, services, result).run()
    return result


def service_names(service: Service) -> Iterator[str]:
    """The parameters that exist because of this service."""
    program = os.path.basename(service.command)
    if program in _TRANSPORTS:
        yield from (service.name + suffix for suffix in SERVICE_SUFFIXES if suffix != "_time_limit")
    if program in _TIMED:
        yield f"{service.name}_time_limit"


class _Surveyor:
    """The walk over all values."""

    def __init__(self, p: Parameters, services: list[Service], result: Survey) -> None:
        self.p = p
        self.result = result
        self.scopes = [_Scope(service) for service in services if service.overrides]
        self.main = f"{p.directory}/main.cf"
        self.master = f"{p.directory}/master.cf"
        self._scope: _Scope | None = None
        self._walk = TableWalk(self._client)

    def run(self) -> None:
        """Look at everything, then judge."""
        for scope in self.scopes:
            local = self.p.for_service(scope.service)
            if "smtpd_restriction_classes" in scope.service.overrides:
                self._classes(local, scope)
            for name, text in scope.service.overrides.items():
                self._value(local, name, text, scope)
        for name in list(self.result.classes):
            default = self.p.default(name)
            if not self.p.explicit(name) and default and not self._raw(name):
                for mentioned in references(default):
                    self._mention(mentioned, None, 0)
        if self.p.explicit("smtpd_restriction_classes"):
            self._classes(self.p, None)
        for name in self.p.explicit_names():
            self._value(self.p, name, self.p.raw(name) or "", None)
        self.result.odd = self._walk.odd
        self.result.client_unused = self._walk.unused
        self._judge()

    def _classes(self, p: Parameters, scope: _Scope | None) -> None:
        for name in cut(p["smtpd_restriction_classes"], LIST_SEPARATORS):
            self._mention(name, scope, p.where("smtpd_restriction_classes")[1])

    def _value(self, p: Parameters, name: str, text: str, scope: _Scope | None) -> None:
        kind = self.result.classes.get(name)
        line = p.where(name)[1]
        if name in READ_ONLY:
            self.result.read_only.append((self._path(scope), line, name, text))
            return
        if kind == LEGACY:
            self.result.classes[name] = USER
        if kind is not None and self._raw(name):
            return
        for mentioned in references(text, self.result.broken):
            self._mention(mentioned, scope, line)
        if kind in (BUILTIN, SERVICE):
            self._scope = scope
            blame = f"{self.master}:{scope.service.name}/{scope.service.type}" if scope else self.main
            self._walk.value(p.expand(text), blame)

    def _mention(self, name: str, scope: _Scope | None, line: int) -> None:
        """``$name`` stands in a value: whoever sets it meant something by it."""
        set_somewhere = False
        if scope is not None and name in scope.service.overrides:
            set_somewhere = True
            scope.known.add(name)
        elif self.p.explicit(name):
            set_somewhere = True
            self.result.classes.setdefault(name, USER)
        if scope is None:
            for other in self.scopes:
                if name in other.service.overrides:
                    set_somewhere = True
                    other.known.add(name)
        if not set_somewhere and name not in self.result.classes:
            self.result.undefined.append((self._path(scope), line, name))

    def _client(self, kind: str, prefix: str) -> None:
        """A database table whose parameters stand in main.cf or behind ``-o``."""
        for suffix in CLIENTS[kind]:
            name = f"{prefix}_{suffix}"
            scope = self._scope
            if scope is not None and name in scope.service.overrides:
                scope.known.add(name)
            elif self.p.explicit(name):
                self.result.classes.setdefault(name, USER)
            if scope is None:
                for other in self.scopes:
                    if name in other.service.overrides:
                        other.known.add(name)

    def _judge(self) -> None:
        names = sorted(self.p.explicit_names())
        self._findings(names, self.p, self.main, frozenset())
        for scope in self.scopes:
            local = self.p.for_service(scope.service)
            self._findings(sorted(scope.service.overrides), local, self.master, scope.known)

    def _findings(self, names: list[str], p: Parameters, path: str, known: frozenset[str] | set[str]) -> None:
        for name in names:
            line = p.where(name)[1]
            if name in REMOVED and name not in self.result.classes and name not in known:
                self.result.removed.append((path, line, name, REMOVED[name]))
            elif name not in self.result.classes and name not in known:
                self.result.unused.append((path, line, name, p.raw(name) or ""))
            else:
                row = table().get(name)
                if row is not None and row.instead:
                    self.result.deprecated.append((path, line, name, row.instead))

    def _path(self, scope: _Scope | None) -> str:
        return self.master if scope else self.main

    @staticmethod
    def _raw(name: str) -> bool:
        row = table().get(name)
        return row is not None and row.type == "raw"
