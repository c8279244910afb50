"""Tables made of tables: ``unionmap:{type:name ...}`` and ``pipemap:{type:name ...}``.

A union gives the results of all its tables, joined by commas; a pipe asks each table for what the one
before answered.  The first table tells whether keys are fixed strings, and so folded for all of them.

Postfix counterpart: ``dict_union(3)``, ``dict_pipe(3)``.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtad.tables.table import Options, Table, fold


class CombinedTable:
    """What both have in common."""

    def __init__(self, spec: str, tables: Sequence[Table], options: Options) -> None:
        self.spec = spec
        self.fixed_key = tables[0].fixed_key
        self._tables = tables
        self._fold = self.fixed_key and options.fold
        self._utf8 = options.utf8

    def close(self) -> None:
        for table in self._tables:
            table.close()


class UnionTable(CombinedTable):
    """All results, joined by commas."""

    async def lookup(self, key: bytes) -> bytes | None:
        key = fold(key, self._utf8) if self._fold else key
        results = [await table.lookup(key) for table in self._tables]
        return b",".join(result for result in results if result is not None) or None


class PipeTable(CombinedTable):
    """Each result is the next table's key."""

    async def lookup(self, key: bytes) -> bytes | None:
        value: bytes | None = fold(key, self._utf8) if self._fold else key
        for table in self._tables:
            if value is None:
                return None
            value = await table.lookup(value)
        return value
