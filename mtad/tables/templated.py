"""What tables with a ``.cf`` file have in common: templates, the list of domains, the limit of results.

Only keys that are UTF-8, whose domain is in ``domain`` (where that is set) and that have all the parts
that the templates need are looked up; nobody is asked for others.

Postfix counterpart: ``db_common(3)`` as ``ldap_table(5)``, ``pgsql_table(5)`` and the others use it.
"""

from __future__ import annotations

from mtad.errors import TableError
from mtad.tables.blocking import BlockingTable
from mtad.tables.match import StringList
from mtad.tables.settings import Settings
from mtad.tables.table import Options
from mtad.tables.template import Results, Templates


class TemplatedTable(BlockingTable):
    """A table whose queries are made from templates."""

    def __init__(self, spec: str, options: Options, settings: Settings) -> None:
        super().__init__(spec, options)
        self.settings = settings
        self.templates = Templates(spec, settings.name, self.warn)
        self._domains = StringList(
            settings.name, settings.text("domain"), options.directory, warn=options.warn
        )

    def set_result(self, text: str) -> None:
        """What results are made of; their number is limited by ``expansion_limit``."""
        self._result = self.templates.result(text)
        self.expansion_limit = self.settings.number("expansion_limit", 0)

    async def eligible(self, key: bytes) -> bool:
        """Whether the server is asked for ``key`` at all, by ``domain`` of the table's settings."""
        if self._domains:
            user, at, domain = key.rpartition(b"@")
            if not at or not user or not await self._domains.matches(domain):
                return False
        try:
            text = key.decode()
        except UnicodeDecodeError:
            return False
        return self.templates.for_query(text) is not None

    def values(self, key: bytes) -> dict[str, str]:
        """What queries for an eligible key are filled with."""
        values = self.templates.key_values(key.decode())
        if values is None:
            raise TableError(f"{self.spec}: no query for key {key!r}")
        return values

    def results(self, key: bytes) -> Results:
        """To collect what was found in."""
        return Results(self.templates, self._result, self.expansion_limit, key.decode())

    def release(self) -> None:
        self._domains.close()
