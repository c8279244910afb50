"""``mysql:``: a query to MySQL or MariaDB, by the ``PyMySQL`` package (extra ``mtad[mysql]``).

Settings as in ``mysql_table(5)``: ``hosts`` (``unix:/path``, ``inet:host:port``; ``localhost`` is the
local socket), ``user``, ``password``, ``dbname``, ``charset``, ``query`` (or the old parts of one),
``result_format``, ``domain``, ``expansion_limit``, ``require_result_set``, ``option_file``,
``option_group``, ``tls_*``, ``retry_interval``, ``idle_interval``.  With a CA and no ``tls_verify_cert``
the server's certificate must be of that CA.

Raises :class:`~mtad.errors.ConfigError` when the package is not installed, and
:class:`~mtad.errors.TableError` when no server answers.  Postfix counterpart: ``dict_mysql(3)``.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any

from mtad.errors import ConfigError, TableError
from mtad.tables.servers import CONNECT_TIMEOUT, INET, QUERY_TIMEOUT, UNIX, Address, Servers
from mtad.tables.settings import Settings
from mtad.tables.sql import SqlTable
from mtad.tables.table import Options

#: Where distributions have the server's socket.
_SOCKETS = ("/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock")

Rows = list[Sequence[bytes | None]]


def _package() -> Any:
    try:
        import pymysql
    except ImportError as error:
        raise ConfigError(
            "unsupported dictionary type: mysql", remedy='install the package: pip install "mtad[mysql]"'
        ) from error
    return pymysql


class MysqlTable(SqlTable):
    """A query to one of several servers."""

    def __init__(self, spec: str, options: Options, name: str) -> None:
        self._pymysql = _package()
        settings = Settings(options, name)
        super().__init__(spec, options, settings)
        self._require_result_set = settings.flag("require_result_set", True)
        self._arguments: dict[str, Any] = {
            "user": settings.text("user") or None,
            "password": settings.text("password"),
            "database": settings.text("dbname", empty=False),
            "charset": settings.text("charset", "utf8mb4", empty=False),
            "read_default_file": settings.text("option_file") or None,
            "ssl": _context(settings),
        }
        if self._arguments["read_default_file"]:
            self._arguments["read_default_group"] = settings.text("option_group") or "client"
        addresses = [_address(host, settings) for host in settings.words("hosts") or ("localhost",)]
        self._servers = Servers("mysql", addresses, settings, self._connect, _close, self.warn)

    def rows(self, key: bytes) -> Iterable[Sequence[bytes | None]]:
        return self._servers.ask(lambda connection: self._query(connection, key))

    def release(self) -> None:
        super().release()
        self._servers.shut()

    def _connect(self, address: Address) -> Any:
        where: dict[str, Any]
        if address.kind == UNIX:
            where = {"unix_socket": address.name or _local_socket()}
        else:
            where = {"host": address.name, "port": int(address.port or 0)}
        try:
            return self._pymysql.connect(
                **where,
                **self._arguments,
                autocommit=None,
                conv={},
                connect_timeout=CONNECT_TIMEOUT,
                read_timeout=QUERY_TIMEOUT,
                write_timeout=QUERY_TIMEOUT,
            )
        except (self._pymysql.Error, OSError) as error:
            raise TableError(_line(error)) from error

    def _query(self, connection: Any, key: bytes) -> Rows:
        statement = self.statement(key, lambda text: str(connection.escape(text))[1:-1])
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                found = cursor.fetchall() if cursor.description else None
                while cursor.nextset():
                    if cursor.description and found is not None:
                        raise TableError("multiple result sets returning data are not supported")
                    if cursor.description:
                        found = cursor.fetchall()
        except (self._pymysql.Error, OSError, UnicodeError) as error:
            raise TableError(_line(error)) from error
        if found is None:
            if self._require_result_set:
                raise TableError("query returned no result set (require_result_set = yes)")
            return []
        return [[_bytes(value) for value in row] for row in found]


def _address(host: str, settings: Settings) -> Address:
    unix = host.startswith("unix:")
    name = host[5:] if host.startswith(("unix:", "inet:")) else host
    bare, colon, port = name.rpartition(":")
    if colon and not port.isdigit():
        try:
            port = str(socket.getservbyname(port, "tcp"))
        except OSError as error:
            raise settings.error("hosts", f"unknown service: {port}/tcp") from error
    if not colon:
        bare, port = name, ""
    if bare.lower() == "localhost":
        return Address(UNIX, "")
    return Address(UNIX if unix else INET, bare, port)


def _local_socket() -> str:
    return next((path for path in _SOCKETS if os.path.exists(path)), _SOCKETS[0])


def _context(settings: Settings) -> ssl.SSLContext | None:
    """How to do TLS, when a setting asks for it."""
    key, certificate = settings.text("tls_key_file"), settings.text("tls_cert_file")
    file, path, ciphers = (
        settings.text("tls_CAfile"),
        settings.text("tls_CApath"),
        settings.text("tls_ciphers"),
    )
    verify = settings.flag("tls_verify_cert", False)
    if not (key or certificate or file or path or ciphers or settings.given("tls_verify_cert")):
        return None
    try:
        context = ssl.create_default_context(cafile=file or None, capath=path or None)
        context.check_hostname = verify
        if not verify and (settings.given("tls_verify_cert") or not (file or path)):
            context.verify_mode = ssl.CERT_NONE
        if certificate or key:
            context.load_cert_chain(certificate or key, key or None)
        if ciphers:
            context.set_ciphers(ciphers)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise settings.error(
            "tls_CAfile", f"TLS can't be set up: {error}", "check the tls_ settings"
        ) from error
    return context


def _close(connection: Any) -> None:
    if connection.open:
        try:
            connection.close()
        except Exception:  # whatever it finds broken, it is closed
            pass


def _bytes(value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode("utf-8", "surrogateescape")


def _line(problem: BaseException) -> str:
    """A server's message in one line, without its number."""
    arguments = problem.args
    text = arguments[-1] if len(arguments) > 1 and isinstance(arguments[-1], str) else problem
    return " ".join(str(text).split())
