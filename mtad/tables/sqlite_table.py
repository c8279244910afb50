"""``sqlite:``: a query to an SQLite database, which is never written to.

One thread reads it.  Only the first column of each row counts.  Settings: ``dbpath``, ``query``,
``result_format``, ``domain``, ``expansion_limit`` (``sqlite_table(5)``).  Raises
:class:`~mtad.errors.TableError` when the database can't be opened or read.

Postfix counterpart: ``dict_sqlite(3)``.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from mtad.errors import TableError
from mtad.tables.settings import Settings
from mtad.tables.sql import SqlTable
from mtad.tables.table import Options

#: Seconds to wait for one who writes.
_LOCK_TIMEOUT = 10

_QUOTED = re.compile(r"'[^']*'?|%%|(%[a-zA-Z0-9])")


class SqliteTable(SqlTable):
    """A database file."""

    concurrency = 1

    def __init__(self, spec: str, options: Options, name: str) -> None:
        settings = Settings(options, name)
        path = settings.text("dbpath", empty=False)
        super().__init__(spec, options, settings)
        for match in _QUOTED.finditer(self.query_text):
            if match.group(1):
                self.warn(
                    f"{spec}: query >{self.query_text}< contains >{match.group(1)}< without the "
                    "recommended '' quotes"
                )
        try:
            self._database = sqlite3.connect(
                f"file:{quote(path)}?mode=ro",
                uri=True,
                timeout=_LOCK_TIMEOUT,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise TableError(f"{spec}: open database {path}: {error}") from error
        self._database.text_factory = bytes

    def rows(self, key: bytes) -> Iterable[Sequence[bytes | None]]:
        statement = self.statement(key, lambda text: text.replace("'", "''"))
        try:
            for row in self._database.execute(statement):
                yield (_text(row[0]),)
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise TableError(f"{self.spec}: query failed: {error}") from error

    def release(self) -> None:
        super().release()
        self._database.close()


def _text(value: Any) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else str(value).encode()
