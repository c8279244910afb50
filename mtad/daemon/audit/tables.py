"""The tables that the configuration names: can they be opened, and is what they hold up to date?

A table that cannot be opened is an error where its specification is none, else a warning: Postfix starts
without it, too, and answers with temporary errors.  A bad pattern in a list of networks is an error.  Of a
table's indexes (``.db``, ``.lmdb``, ``.cdb``) the newest serves, and it should not be older than the source.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtad.config import types
from mtad.config.lines import LIST_SEPARATORS, cut, tokens
from mtad.config.lint import ERROR, WARNING, Finding
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError, MtadError
from mtad.tables.match import AddressList
from mtad.tables.registry import INDEXED, TYPES, index_files, open_with
from mtad.tables.table import Options

#: Tables in aliases(5) format, which postalias makes.
_ALIASES = frozenset({"alias_maps", "alias_database"})


@dataclass(frozen=True, slots=True)
class TableUse:
    """A table that is named somewhere; ``kind`` and ``name`` without ``proxy:``."""

    parameter: str
    path: str
    line: int
    kind: str
    name: str

    @property
    def spec(self) -> str:
        return f"{self.kind}:{self.name}"

    def finding(self, severity: str, text: str) -> Finding:
        """A finding at the place where the table is named."""
        return Finding(severity, self.path, self.line, self.parameter, text)


def tables_in_use(p: Parameters, services: Sequence[Parameters]) -> list[TableUse]:
    """Every table that a file or a server stands behind, once, also from within braces."""
    found: dict[tuple[str, str], TableUse] = {}
    for scope in (p, *services):
        for name, text in _values(scope):
            where = scope.where(name)
            for word in cut(text.replace("{", " ").replace("}", " "), LIST_SEPARATORS):
                kind, colon, rest = word.lstrip("!").partition(":")
                while kind in ("proxy", "debug") and colon:
                    kind, colon, rest = rest.partition(":")
                if kind in TYPES and rest[:1] in ("/", "."):
                    found.setdefault((kind, rest), TableUse(name, *where, kind, rest))
    return list(found.values())


def _values(p: Parameters) -> Iterator[tuple[str, str]]:
    """Each parameter that mtad honours and that is set or has a table for its default, with its value."""
    for name in dict.fromkeys((*p.explicit_names(), "alias_maps")):
        row = p.spec(name)
        if row is not None and (row.status != "honoured" or row.type == "raw"):
            continue
        try:
            yield name, p[name]
        except ConfigError:  # which is among the errors already
            continue


def findings(p: Parameters, services: Sequence[Parameters], used: Sequence[TableUse]) -> Iterator[Finding]:
    """What is wrong with tables and lists."""
    for scope in (p, *services):
        names = [name for name, _ in _values(scope) if scope.explicit(name)]
        for name in names:
            path, _ = scope.where(name)
            if scope is not p and not path.endswith("/master.cf"):
                continue
            kind = scope.type(name).kind
            if kind == "maps":
                yield from _opened(scope, name)
            elif kind == "networks":
                yield from _networks(scope, name)
    for use in used:
        if use.kind in INDEXED:
            yield from _index(use)


def _opened(p: Parameters, name: str) -> Iterator[Finding]:
    """Open each table of a parameter; what is odd in its source is told, too."""
    path, line = p.where(name)
    told: list[str] = []
    for spec in tokens(p[name]):
        if ":" not in spec:  # an error of the parameter's type already
            continue
        try:
            open_with(spec, Options(directory=p.directory, warn=told.append)).close()
        except ConfigError as problem:
            yield Finding(ERROR, path, line, name, _text(problem))
        except MtadError as problem:
            text = f"{problem}; mail that needs {spec} is deferred until it can be opened"
            yield Finding(WARNING, path, line, name, text)
    for text in told:
        if "is older than source file" not in text:
            yield Finding(WARNING, "", 0, "", text)


def _networks(p: Parameters, name: str) -> Iterator[Finding]:
    path, line = p.where(name)
    try:
        types.check(name, p[name], p.type(name))
        patterns = AddressList(name, p[name], p.directory)
    except (types.BadValue, ConfigError):  # an error of the parameter's type already
        return
    for problem in patterns.problems:
        if isinstance(problem, ConfigError):
            yield Finding(ERROR, path, line, name, _text(problem))
        else:
            yield Finding(WARNING, path, line, name, str(problem))
    patterns.close()


def _text(problem: ConfigError) -> str:
    return f"{problem.reason} ({problem.remedy})" if problem.remedy else problem.reason


def _index(use: TableUse) -> Iterator[Finding]:
    """Whether the index that serves is the only one, and as new as its source."""
    indexes = index_files(use.kind, use.name)
    if not indexes:
        return
    serving = indexes[0]
    if len(indexes) > 1:
        rest = ", ".join(indexes[1:])
        text = f"{use.spec} has more than one index: {serving} is the newest and serves, {rest} does not"
        yield use.finding(WARNING, f"{text} (remove what is not needed)")
    try:
        if os.stat(use.name).st_mtime <= os.stat(serving).st_mtime:
            return
    except OSError:
        return
    command = "postalias" if use.parameter in _ALIASES else "postmap"
    kind = {".db": use.kind, ".lmdb": "lmdb", ".cdb": "cdb"}[serving[len(use.name) :]]
    yield use.finding(
        WARNING,
        f"the index {serving} is older than its source {use.name}, changes are not in effect "
        f"(run: mtad {command} {kind}:{use.name})",
    )
