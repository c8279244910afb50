"""From ``type:name`` to a table: the one place that knows all types.

:func:`open_table` raises :class:`~mtad.errors.ConfigError` for a bad specification and
:class:`~mtad.errors.TableError` for a table that can't be opened now.  :func:`open_or_defer` does what
Postfix does with both: it gives a table whose lookups fail, so that a server starts and answers with
a temporary error; the table is tried again, at most once a second.

Postfix counterpart: ``dict_open(3)``, ``dict_surrogate(3)``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib import import_module

from mtad.config.lines import tokens
from mtad.errors import ConfigError, MtadError, TableError
from mtad.tables.accounts import AccountTable
from mtad.tables.aliases import looks_like_aliases, parse_aliases
from mtad.tables.berkeley import BerkeleyTable
from mtad.tables.blocking import BlockingTable, shared
from mtad.tables.cdb import CdbTable
from mtad.tables.cidr import CidrTable
from mtad.tables.combined import PipeTable, UnionTable
from mtad.tables.lmdb_table import LmdbTable
from mtad.tables.memory import (
    EnvironmentTable,
    FailTable,
    InlineTable,
    RandomTable,
    StaticTable,
    TextHashTable,
)
from mtad.tables.pcre import PcreTable
from mtad.tables.proxymap import approved, unproxied
from mtad.tables.regexp import RegexpTable
from mtad.tables.settings import main_cf
from mtad.tables.source import extract_braces, parse_source, read_text
from mtad.tables.table import LocalTable, Options, Table, no_warning, state_of

Opener = Callable[[str, Options, str], Table]

#: The types that have an index file beside their source, and its suffix.
INDEXED = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}


def _texthash(spec: str, options: Options, name: str) -> Table:
    return TextHashTable(spec, options, options.path(name))


def index_files(kind: str, path: str) -> list[str]:
    """The index files of the table ``path`` that there are, the newest first; of equal age the own one first.

    ``hash`` and ``btree`` stand for the data, whatever the format of its index; other types for their own.
    """
    suffixes = (".db", ".lmdb", ".cdb") if kind in ("hash", "btree") else (INDEXED[kind],)
    found = []
    for order, suffix in enumerate(suffixes):
        try:
            found.append((-os.stat(path + suffix).st_mtime_ns, order, path + suffix))
        except OSError:
            continue
    return [index for _, _, index in sorted(found)]


def _berkeley(spec: str, options: Options, name: str) -> Table:
    """The newest index of ``name`` in whatever format there is, or its text source."""
    path = options.path(name)
    kind = spec.partition(":")[0]
    indexes = index_files(kind, path)
    if indexes:
        suffix = indexes[0][len(path) :]
        if suffix == ".db":
            return BerkeleyTable(spec, options, indexes[0])
        reason = f"{path}.db is older" if len(indexes) > 1 else f"no index {path}.db"
        options.warn(f"{spec}: {reason}, {indexes[0]} is used")
        opener = LmdbTable if suffix == ".lmdb" else CdbTable
        return opener(spec, options, indexes[0])
    if kind == "btree" or not os.path.isfile(path):
        raise TableError(f"open database {path}.db: No such file or directory")
    options.warn(f"{spec}: no index {path}.db, the text source {path} is used")
    parse = parse_aliases if looks_like_aliases(read_text(path)) else parse_source
    return TextHashTable(spec, options, path, parse)


def _cdb(spec: str, options: Options, name: str) -> Table:
    return CdbTable(spec, options, options.path(name) + ".cdb")


def _lmdb(spec: str, options: Options, name: str) -> Table:
    return LmdbTable(spec, options, options.path(name) + ".lmdb")


def _environ(spec: str, options: Options, name: str) -> Table:
    return EnvironmentTable(spec, options)


def _fail(spec: str, options: Options, name: str) -> Table:
    return FailTable(spec, options)


def _proxy(spec: str, options: Options, name: str) -> Table:
    """``proxy:type:name`` is opened right here: no proxymap(8) process is needed."""
    table = unproxied(name)
    if table not in approved(main_cf(options)):
        raise ConfigError(
            f'proxymap service is not configured for table "{table}"',
            remedy=f"to approve it, list proxy:{table} in main.cf:proxy_read_maps",
        )
    return open_with(table, options)


def _blocking(module: str, cls: str) -> Opener:
    """A type that asks a server: its module is loaded when it is needed, its tables are shared."""

    def opener(spec: str, options: Options, name: str) -> Table:
        kind: Callable[[str, Options, str], BlockingTable] = getattr(
            import_module(f"mtad.tables.{module}"), cls
        )
        state = state_of(options.path(name)) if name[:1] in ("/", ".") else None
        how = (spec, options.directory, options.config_directory, options.fold, options.utf8, state)
        return shared(how, lambda: kind(spec, options, name))

    return opener


def _combined(cls: type[UnionTable] | type[PipeTable]) -> Opener:
    def opener(spec: str, options: Options, name: str) -> Table:
        try:
            parts = tokens(extract_braces(name))
        except ConfigError:
            parts = []
        if not parts or not all(":" in part for part in parts):
            kind = spec.partition(":")[0]
            raise ConfigError(f'bad syntax: "{spec}"; need "{kind}:{{type:name...}}"')
        return cls(spec, [open_with(part, options) for part in parts], options)

    return opener


TYPES: dict[str, Opener] = {
    "btree": _berkeley,
    "cdb": _cdb,
    "cidr": CidrTable,
    "environ": _environ,
    "fail": _fail,
    "hash": _berkeley,
    "inline": InlineTable,
    "ldap": _blocking("ldap_table", "LdapTable"),
    "lmdb": _lmdb,
    "memcache": _blocking("memcache", "MemcacheTable"),
    "mysql": _blocking("mysql", "MysqlTable"),
    "pcre": PcreTable,
    "pgsql": _blocking("pgsql", "PgsqlTable"),
    "pipemap": _combined(PipeTable),
    "proxy": _proxy,
    "randmap": RandomTable,
    "regexp": RegexpTable,
    "socketmap": _blocking("socketmap", "SocketmapTable"),
    "sqlite": _blocking("sqlite_table", "SqliteTable"),
    "static": StaticTable,
    "tcp": _blocking("tcp", "TcpTable"),
    "texthash": _texthash,
    "unionmap": _combined(UnionTable),
    "unix": AccountTable,
}


def open_with(spec: str, options: Options) -> Table:
    """Open ``type:name`` with these options."""
    kind, colon, name = spec.partition(":")
    if not kind or not colon or not name:
        raise ConfigError(f'open dictionary: expecting "type:name" form instead of "{spec}"')
    opener = TYPES.get(kind)
    if opener is None:
        raise ConfigError(
            f"unsupported dictionary type: {kind}", remedy="known types: " + " ".join(sorted(TYPES))
        )
    return opener(spec, options, name)


def open_table(spec: str, config_directory: str = ".", *, warn: Callable[[str], None] = no_warning) -> Table:
    """Open ``type:name`` for lookups."""
    return open_with(spec, Options(directory=config_directory, warn=warn))


class DeferredTable(LocalTable):
    """A table that could not be opened: lookups fail until it can be."""

    at_once = False

    def __init__(self, spec: str, options: Options, problem: MtadError) -> None:
        super().__init__(spec, options)
        self.problem = problem
        self._table: Table | None = None
        self._tried = time.monotonic()

    async def lookup(self, key: bytes) -> bytes | None:
        table = self._table
        if table is None:
            now = time.monotonic()
            if isinstance(self.problem, ConfigError) or now - self._tried < 1:
                raise self._unavailable()
            self._tried = now
            try:
                table = self._table = open_with(self.spec, self.options)
            except TableError as error:
                self.problem = error
                raise self._unavailable() from error
            self.fixed_key = table.fixed_key
        return await table.lookup(key)

    def get(self, key: bytes) -> bytes | None:
        raise self._unavailable()

    def _unavailable(self) -> TableError:
        return TableError(unavailable(self.spec, self.problem))

    def close(self) -> None:
        if self._table is not None:
            self._table.close()


def unavailable(spec: str, problem: MtadError) -> str:
    """That a table cannot be used, and why, in Postfix's words."""
    return f"{spec} is unavailable. {problem.reason if isinstance(problem, ConfigError) else problem}"


def open_or_defer(spec: str, options: Options, problems: list[MtadError]) -> Table:
    """The table, or one whose lookups fail; what went wrong is added to ``problems``."""
    try:
        return open_with(spec, options)
    except (ConfigError, TableError) as error:
        problems.append(error)
        options.warn(unavailable(spec, error))
        return DeferredTable(spec, options, error)
