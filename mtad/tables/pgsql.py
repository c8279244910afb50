"""``pgsql:``: a query to PostgreSQL, by the ``psycopg`` package (extra ``mtad[pgsql]``).

Settings as in ``pgsql_table(5)``: ``hosts`` (``unix:/directory``, ``inet:host:port``, or a URI with
everything in it), ``user``, ``password``, ``dbname``, ``encoding``, ``query`` (or ``select_function``, or
the old parts of one), ``result_format``, ``domain``, ``expansion_limit``, ``retry_interval``,
``idle_interval``.  Values are taken as the server writes them; an answer that takes too long is a failed
one.

Raises :class:`~mtad.errors.ConfigError` when the package is not installed, and
:class:`~mtad.errors.TableError` when no server answers.  Postfix counterpart: ``dict_pgsql(3)``.
"""

from __future__ import annotations

import re
import select
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mtad.errors import ConfigError, TableError
from mtad.tables.servers import CONNECT_TIMEOUT, INET, QUERY_TIMEOUT, UNIX, URI, Address, Servers
from mtad.tables.settings import Settings
from mtad.tables.sql import SqlTable
from mtad.tables.table import Options

if TYPE_CHECKING:
    import psycopg

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

Rows = list[Sequence[bytes | None]]


def _package() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise ConfigError(
            "unsupported dictionary type: pgsql", remedy='install the package: pip install "mtad[pgsql]"'
        ) from error
    return psycopg


class PgsqlTable(SqlTable):
    """A query to one of several servers."""

    def __init__(self, spec: str, options: Options, name: str) -> None:
        self._psycopg = _package()
        settings = Settings(options, name)
        super().__init__(spec, options, settings)
        self._login = {
            "user": settings.text("user"),
            "password": settings.text("password"),
            "dbname": settings.text("dbname"),
        }
        self._encoding = settings.text("encoding", "UTF8", empty=False)
        addresses = [_address(host) for host in settings.words("hosts") or ("localhost",)]
        for address in addresses:
            if address.kind != URI and not self._login["dbname"]:
                raise settings.error("dbname", f"{spec} host target '{address.name}' requires dbname setting")
        self._servers = Servers("pgsql", addresses, settings, self._connect, _close, self.warn)

    def default_query(self) -> str:
        function = self.settings.text("select_function")
        return f"SELECT {function}('%s')" if function else super().default_query()

    def rows(self, key: bytes) -> Iterable[Sequence[bytes | None]]:
        return self._servers.ask(lambda connection: self._query(connection, key))

    def release(self) -> None:
        super().release()
        self._servers.shut()

    def _connect(self, address: Address) -> psycopg.Connection[Any]:
        wanted: dict[str, Any] = {"client_encoding": self._encoding, "connect_timeout": CONNECT_TIMEOUT}
        try:
            if address.kind == URI:
                given = self._psycopg.conninfo.conninfo_to_dict(address.name)
                wanted = {"connect_timeout": CONNECT_TIMEOUT} | given | {"client_encoding": self._encoding}
            else:
                wanted |= {"host": address.name, "port": address.port} | self._login
            settings = {name: value for name, value in wanted.items() if value != ""}
            connection: psycopg.Connection[Any] = self._psycopg.connect(autocommit=True, **settings)
        except self._psycopg.Error as error:
            raise TableError(_line(error)) from error
        return connection

    def _query(self, connection: psycopg.Connection[Any], key: bytes) -> Rows:
        psycopg = self._psycopg
        escape = psycopg.pq.Escaping(connection.pgconn).escape_string
        try:
            statement = self.statement(key, lambda text: bytes(escape(text.encode())).decode())
            result = answer(connection.pgconn, statement.encode("utf-8", "surrogateescape"))
        except psycopg.Error as error:
            raise TableError(_line(error)) from error
        status = psycopg.pq.ExecStatus
        if result is None or result.status not in (status.TUPLES_OK, status.COMMAND_OK):
            raise TableError(_line(connection.pgconn.error_message.decode("utf-8", "replace")))
        columns = range(result.nfields)
        return [[result.get_value(row, column) for column in columns] for row in range(result.ntuples)]


def answer(pgconn: Any, statement: bytes) -> Any:
    """The server's last answer to a statement, in time."""
    poll = select.poll()
    deadline = time.monotonic() + QUERY_TIMEOUT

    def wait(event: int) -> None:
        poll.register(pgconn.socket, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TableError("the query timed out")

    pgconn.nonblocking = 1
    pgconn.send_query(statement)
    while pgconn.flush():
        wait(select.POLLIN | select.POLLOUT)
        pgconn.consume_input()
    result = None
    while True:
        while pgconn.is_busy():
            wait(select.POLLIN)
            pgconn.consume_input()
        following = pgconn.get_result()
        if following is None:
            return result
        result = following
        if result.status in (3, 4, 8):  # COPY: nothing that a lookup can go on with
            return None


def _address(host: str) -> Address:
    if _URI.match(host):
        return Address(URI, host)
    name = host[5:] if host.startswith(("unix:", "inet:")) else host
    if name.startswith("/"):
        return Address(UNIX, name)
    bare, colon, port = name.rpartition(":")
    return Address(INET, bare, port) if colon else Address(INET, name)


def _close(connection: psycopg.Connection[Any]) -> None:
    connection.close()


def _line(problem: object) -> str:
    """A server's message in one line."""
    return " ".join(str(problem).split())
