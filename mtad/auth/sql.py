"""``auxprop_plugin: sql``: secrets from PostgreSQL, MariaDB/MySQL or SQLite.

Options as Cyrus has them: ``sql_engine`` (``mysql`` by default, ``pgsql``, ``sqlite``, ``sqlite3``),
``sql_hostnames`` (``host[:port]``, several by comma, tried in order; a path is a UNIX socket), ``sql_user``,
``sql_passwd``, ``sql_database``, ``sql_usessl``, ``sql_select`` (or ``sql_statement``), ``sql_insert``,
``sql_update``.  In statements ``%u`` is the user, ``%r`` the realm, ``%p`` the property, ``%v`` the value,
``%%`` a percent sign; each is escaped by the driver, for the quotes that the statement puts around it.

Every question is asked in a thread, on a connection that stays open; one that broke is made anew once.  A
failing question for ``userPassword`` is :class:`~mtad.errors.TableError`; one for another property means that
the statement does not know it.  ConfigError for options that can't work.

Postfix counterpart: libsasl's ``plugins/sql.c``.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from mtad.auth.names import split_first
from mtad.auth.offload import offload
from mtad.config.sasl_conf import SaslConf
from mtad.errors import ConfigError, TableError
from mtad.maillog import MailLog, printable
from mtad.tables.blocking import IdlePool, Lane
from mtad.tables.pgsql import answer
from mtad.tables.table import is_utf8

T = TypeVar("T")

#: Connections at a time.
CONCURRENCY = 4

#: Seconds for a connection and for an answer.
TIMEOUT = 10

#: Longest secret that is taken.
VALUE_LIMIT = 64 << 10

_PLACE = re.compile(r"%([upvr%])")

_TRUE = frozenset({"1", "yes", "on", "true", "t", "y"})


class Session(Protocol):
    """A connection to a database; raises :class:`TableError`."""

    def escape(self, text: bytes) -> bytes: ...

    def run(self, statement: bytes) -> list[bytes | None]:
        """The first column of all rows."""

    def close(self) -> None: ...


class Lost(TableError):
    """The connection can't be used any more."""


class SqlAuxprop:
    """The database of users that ``conf`` names."""

    def __init__(self, conf: SaslConf, default_realm: bytes, log: MailLog) -> None:
        self._select = conf.get("sql_select") or conf.get("sql_statement") or ""
        self._insert = conf.get("sql_insert") or ""
        self._update = conf.get("sql_update") or ""
        if not self._select:
            raise ConfigError("auxprop_plugin sql needs sql_select", path=conf.path, remedy="set sql_select")
        self._connect = connector(conf)
        self._default_realm = default_realm
        self._log = log
        self._lane = Lane("sql_select", CONCURRENCY)
        self._idle: IdlePool[Session] = IdlePool(lambda session: session.close())

    async def fetch(self, user: bytes, properties: Iterable[str]) -> dict[str, bytes]:
        names = tuple(properties)
        if not is_utf8(user) or b"\0" in user:
            return {}
        return await self._do(lambda session: self._read(session, self._values(user), names))

    async def replace(self, user: bytes, name: str, old: bytes, new: bytes) -> bool:
        return await self._do(lambda session: self._exchange(session, user, name, old, new))

    async def store(self, user: bytes, values: Mapping[str, bytes]) -> None:
        await self._do(lambda session: self._write(session, self._values(user), values))

    async def _do(self, work: Callable[[Session], T]) -> T:
        try:
            return await offload(self._lane, lambda: self._in_session(work))
        except TableError as error:
            self._log.warning(f"SASL authentication problem: sql plugin: {printable(str(error))}")
            raise

    def _in_session(self, work: Callable[[Session], T]) -> T:
        """The result of ``work``, on a connection that was idle, or else (or if that broke) on a new one."""
        session = self._idle.take()
        if session is not None:
            try:
                result = work(session)
            except Lost:
                session.close()
                self._idle.clear()
            except BaseException:
                session.close()
                raise
            else:
                self._idle.give(session)
                return result
        session = self._connect()
        try:
            result = work(session)
        except BaseException:
            session.close()
            raise
        self._idle.give(session)
        return result

    def _values(self, user: bytes) -> dict[str, bytes]:
        name, realm = split_first(user, self._default_realm)
        return {"u": name, "r": realm}

    def _read(self, session: Session, values: dict[str, bytes], names: tuple[str, ...]) -> dict[str, bytes]:
        found = {}
        for name in names:
            try:
                rows = session.run(fill(self._select, values | {"p": name.encode()}, session.escape))
            except Lost:
                raise
            except TableError:
                if name == "userPassword":
                    raise
                continue
            if rows and rows[0] and len(rows[0]) <= VALUE_LIMIT:
                found[name] = rows[0]
        return found

    def _write(self, session: Session, values: dict[str, bytes], changes: Mapping[str, bytes]) -> None:
        self._in_transaction(session, lambda: self._put(session, values, changes))

    def _put(self, session: Session, values: dict[str, bytes], changes: Mapping[str, bytes]) -> None:
        for name, value in changes.items():
            own = values | {"p": name.encode()}
            exists = bool(session.run(fill(self._select, own, session.escape)))
            statement = self._update if exists else self._insert
            if not statement:
                option = "sql_update" if exists else "sql_insert"
                raise TableError(f"{option} is not set: secrets can not be written")
            try:
                session.run(fill(statement, own | {"v": value}, session.escape))
            except Lost:
                raise
            except TableError:  # without the server's words, which may quote the statement
                raise TableError("sql_update or sql_insert failed") from None

    def _exchange(self, session: Session, user: bytes, name: str, old: bytes, new: bytes) -> bool:
        values = self._values(user)
        changed = False

        def work() -> None:
            nonlocal changed
            changed = self._read(session, values, (name,)).get(name) == old
            if changed:
                self._put(session, values, {name: new})

        self._in_transaction(session, work)
        return changed

    def _in_transaction(self, session: Session, work: Callable[[], None]) -> None:
        """All or nothing, and one after the other: what was read stays true until it is written."""
        session.run(b"BEGIN")
        try:
            work()
            session.run(b"COMMIT")
        except BaseException:
            try:
                session.run(b"ROLLBACK")
            except TableError:
                pass  # the connection is closed with all that was in it
            raise


def fill(statement: str, values: Mapping[str, bytes], escape: Callable[[bytes], bytes]) -> bytes:
    """The statement with its values in place."""
    parts = _PLACE.split(statement)
    out = [parts[0].encode()]
    for letter, text in zip(parts[1::2], parts[2::2], strict=True):
        if letter == "%":
            out.append(b"%")
        elif letter in values:
            value = values[letter]
            if b"\0" in value:
                raise TableError("a NUL in a name or value")
            # a property stands for a column, and is never the client's
            out.append(value if letter == "p" else escape(value))
        else:
            out.append(b"%" + letter.encode())
        out.append(text.encode())
    return b"".join(out)


def connector(conf: SaslConf) -> Callable[[], Session]:
    """What makes a connection as the options say; raises ConfigError."""
    engine = (conf.get("sql_engine") or "mysql").lower()
    database = conf.get("sql_database") or ""
    if engine in ("sqlite", "sqlite3"):
        if not database:
            raise ConfigError(
                f"sql_engine {engine} needs sql_database", path=conf.path, remedy="set it to the file"
            )
        return lambda: _Sqlite(database)
    if engine not in ("mysql", "pgsql"):
        raise ConfigError(
            f"sql plugin: unknown sql_engine {engine}",
            path=conf.path,
            remedy="set it to pgsql, mysql or sqlite",
        )
    kind: Any = _Mysql if engine == "mysql" else _Pgsql
    package = kind.package(conf)
    hosts = [part.strip() for part in (conf.get("sql_hostnames") or "").split(",") if part.strip()] or [""]
    login = (conf.get("sql_user") or "", conf.get("sql_passwd") or "", database)
    secure = (conf.get("sql_usessl") or "no").lower() in _TRUE

    def connect() -> Session:
        problem = None
        for host in hosts:
            try:
                session: Session = kind(package, host, *login, secure)
                return session
            except TableError as error:
                problem = error
        raise problem or TableError("no host")

    return connect


def _split(host: str) -> tuple[str, str]:
    """Name and port; the name of a UNIX socket stays whole."""
    if host.startswith("/"):
        return host, ""
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and port.isdigit() else (host, "")


class _Sqlite:
    def __init__(self, path: str) -> None:
        try:
            self._database = sqlite3.connect(
                path, timeout=TIMEOUT, isolation_level=None, check_same_thread=False
            )
            self._database.text_factory = bytes
        except sqlite3.Error as error:
            raise TableError(f"could not open {path}: {error}") from error

    def escape(self, text: bytes) -> bytes:
        return text.replace(b"'", b"''")

    def run(self, statement: bytes) -> list[bytes | None]:
        if statement == b"BEGIN":
            statement = b"BEGIN IMMEDIATE"
        try:
            rows = self._database.execute(statement.decode("utf-8", "surrogateescape")).fetchall()
        except (sqlite3.Error, UnicodeError) as error:
            raise TableError(f"statement failed: {_reason(error)}") from error
        return [_bytes(row[0]) for row in rows if row]

    def close(self) -> None:
        self._database.close()


class _Pgsql:
    @staticmethod
    def package(conf: SaslConf) -> Any:
        try:
            import psycopg
        except ImportError as error:
            raise ConfigError(
                "sql_engine pgsql needs the package psycopg",
                path=conf.path,
                remedy='pip install "mtad[pgsql]"',
            ) from error
        return psycopg

    def __init__(
        self, psycopg: Any, host: str, user: str, password: str, database: str, secure: bool
    ) -> None:
        self._psycopg = psycopg
        name, port = _split(host)
        wanted = {"host": name, "port": port, "user": user, "password": password, "dbname": database}
        settings: dict[str, Any] = {key: value for key, value in wanted.items() if value}
        if secure:
            settings["sslmode"] = "require"
        limit = f"-c statement_timeout={TIMEOUT * 1000}"
        try:
            self._connection = psycopg.connect(
                autocommit=True,
                connect_timeout=TIMEOUT,
                options=limit,
                client_encoding="UTF8",
                keepalives_idle=TIMEOUT,
                tcp_user_timeout=TIMEOUT * 1000,
                **settings,
            )
        except psycopg.Error as error:
            raise TableError(f"could not connect to {name or 'localhost'}: {_reason(error)}") from error
        self._escape = psycopg.pq.Escaping(self._connection.pgconn).escape_string

    def escape(self, text: bytes) -> bytes:
        try:
            return bytes(self._escape(text))
        except self._psycopg.Error as error:
            raise TableError("a name that is not UTF-8") from error

    def run(self, statement: bytes) -> list[bytes | None]:
        pgconn, status = self._connection.pgconn, self._psycopg.pq.ExecStatus
        try:
            result = answer(pgconn, statement)
        except self._psycopg.Error as error:
            raise Lost(_reason(error)) from error
        except TableError as error:  # it took too long
            raise Lost(str(error)) from error
        if result is None:
            raise Lost("an answer that is none")
        if result.status not in (status.TUPLES_OK, status.COMMAND_OK):
            broken = pgconn.status != self._psycopg.pq.ConnStatus.OK
            text = f"statement failed: {_reason(pgconn.error_message.decode('utf-8', 'replace'))}"
            raise Lost(text) if broken else TableError(text)
        return [result.get_value(row, 0) for row in range(result.ntuples)] if result.nfields else []

    def close(self) -> None:
        self._connection.close()


class _Mysql:
    @staticmethod
    def package(conf: SaslConf) -> Any:
        try:
            import pymysql
        except ImportError as error:
            raise ConfigError(
                "sql_engine mysql needs the package PyMySQL",
                path=conf.path,
                remedy='pip install "mtad[mysql]"',
            ) from error
        return pymysql

    def __init__(
        self, pymysql: Any, host: str, user: str, password: str, database: str, secure: bool
    ) -> None:
        self._pymysql = pymysql
        name, port = _split(host)
        where: dict[str, Any] = (
            {"unix_socket": name}
            if name.startswith("/")
            else {"host": name or "localhost", "port": int(port or 0)}
        )
        if secure:
            where["ssl"] = {"check_hostname": False}
        try:
            self._connection = pymysql.connect(
                user=user or None, password=password, database=database or None, charset="utf8mb4", conv={},
                connect_timeout=TIMEOUT, read_timeout=TIMEOUT, write_timeout=TIMEOUT, autocommit=True,
                **where,
            )  # fmt: skip
        except (pymysql.Error, OSError) as error:
            raise TableError(f"could not connect to {name or 'localhost'}: {_reason(error)}") from error

    def escape(self, text: bytes) -> bytes:
        try:
            escaped = str(self._connection.escape(text.decode()))[1:-1]  # as the session's sql_mode has it
        except UnicodeDecodeError as error:
            raise TableError("a name that is not UTF-8") from error
        return escaped.encode()

    def run(self, statement: bytes) -> list[bytes | None]:
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement.decode())
                return [_bytes(row[0]) for row in cursor.fetchall()]
        except (self._pymysql.err.OperationalError, self._pymysql.err.InterfaceError, OSError) as error:
            number = error.args[0] if error.args else 0
            lost = number in (0, 2006, 2013, 4031) or not self._connection.open
            raise (Lost if lost else TableError)(f"statement failed: {_reason(error)}") from error
        except (self._pymysql.Error, UnicodeError) as error:
            raise TableError(f"statement failed: {_reason(error)}") from error

    def close(self) -> None:
        if self._connection.open:
            try:
                self._connection.close()
            except (self._pymysql.Error, OSError):
                pass  # closed all the same


def _bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode("utf-8", "surrogateescape")


def _reason(problem: object) -> str:
    """A driver's message in one line, without what it quotes of the statement (it may be a secret)."""
    arguments: tuple[object, ...] = getattr(problem, "args", ())
    text = arguments[-1] if len(arguments) > 1 and isinstance(arguments[-1], str) else str(problem)
    return text.strip().partition("\n")[0]
