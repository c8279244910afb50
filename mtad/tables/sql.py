"""What the SQL tables have in common: the query and its results.

The query is ``query``, or is made of ``table``, ``select_field``, ``where_field`` and
``additional_conditions``. What is filled in is escaped by the driver for use within the quotes that the
query has around it.  The results are all columns of all rows.

Postfix counterpart: ``db_common_sql_build_query()``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from mtad.tables.settings import Settings
from mtad.tables.table import Options
from mtad.tables.template import Quote
from mtad.tables.templated import TemplatedTable


class SqlTable(TemplatedTable):
    """A table in a database.  Subclasses give :meth:`rows`."""

    def __init__(self, spec: str, options: Options, settings: Settings) -> None:
        super().__init__(spec, options, settings)
        self.query_text = settings.text("query") or self.default_query()
        self.query = self.templates.query(self.query_text)
        self.set_result(settings.text("result_format", "%s", empty=False))

    def default_query(self) -> str:
        """The query as it was written before there was ``query``."""
        settings = self.settings
        parts = {}
        for name in ("table", "select_field", "where_field"):
            parts[name] = settings.text(name)
            if not parts[name]:
                raise settings.error(name, f"'{name}' parameter not defined", "set query")
        conditions = settings.text("additional_conditions")
        return "SELECT {select_field} FROM {table} WHERE {where_field}='%s' ".format(**parts) + conditions

    def statement(self, key: bytes, quote: Quote) -> str:
        """The query for a key, by the ``quote`` of a connection."""
        return self.query.fill(self.values(key), quote)

    def get(self, key: bytes) -> bytes | None:
        results = self.results(key)
        for row in self.rows(key):
            for value in row:
                results.add(value)
        return results.joined()

    @abstractmethod
    def rows(self, key: bytes) -> Iterable[Sequence[bytes | None]]:
        """What the database has for ``key``; :class:`~mtad.errors.TableError`."""
