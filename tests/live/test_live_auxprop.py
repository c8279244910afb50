"""The auxprop stores against real servers: PostgreSQL, MariaDB, OpenLDAP; killed, hung and brought back."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oracle.postfix
import pytest
from live.checking import smtp_login
from live.databases import MariaDb, Postgres, Server, Slapd, why_not
from live.people import People
from twisted.internet.epollreactor import EPollReactor

from mtad.auth import sql
from mtad.auth.authenticator import Authenticator, AuthSession, Denied, Granted
from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.tables.sasldb import SaslDb

SESSION = AuthSession("client.test", "192.0.2.1", "4000", "192.0.2.2", "587", True)

USERS = """
CREATE TABLE users (name VARCHAR(100), realm VARCHAR(100), userPassword VARCHAR(500),
  authPassword VARCHAR(500));
INSERT INTO users VALUES ('alice', 'mail.test', 'secret', NULL), ('o''brien', 'mail.test', 'it''s', NULL),
  ('hash', 'mail.test', '{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=', NULL), ('zürich', 'mail.test', 'grüezi', NULL);
"""

STATEMENTS = {
    "sql_select": "SELECT %p FROM users WHERE name = '%u' AND realm = '%r'",
    "sql_insert": "INSERT INTO users (name, realm, %p) VALUES ('%u', '%r', '%v')",
    "sql_update": "UPDATE users SET %p = '%v' WHERE name = '%u' AND realm = '%r'",
}


class Logins:
    """An authenticator whose questions are asked right here."""

    def __init__(self, root: Path, options: dict[str, str]) -> None:
        self.sink = ListSink()
        (root / "smtpd.conf").write_text("".join(f"{name}: {value}\n" for name, value in options.items()))
        p = Parameters.from_mapping({"myhostname": "mail.test", "cyrus_sasl_config_path": str(root)})
        reactor: Any = EPollReactor()
        self.authenticator = Authenticator.build(p, reactor, MailLog(self.sink, "x"))

    def plain(self, user: bytes, password: bytes) -> Any:
        exchange = self.authenticator.begin(b"PLAIN", SESSION)
        return result(exchange.step(b64encode(b"\0" + user + b"\0" + password)))


def result(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


@pytest.fixture(scope="module", params=["pgsql", "mysql"])
def database(request: pytest.FixtureRequest) -> Iterator[tuple[str, Server]]:
    kind, package = {"pgsql": (Postgres, "psycopg"), "mysql": (MariaDb, "pymysql")}[request.param]
    reason = why_not(kind, package)
    if reason:
        pytest.skip(reason)
    with kind() as server:
        grant = {
            "pgsql": "GRANT SELECT, INSERT, UPDATE ON users TO mail;",
            "mysql": "GRANT ALL ON mail.users TO mail@localhost, mail@'127.0.0.1';",
        }
        server.sql(USERS + grant[request.param], "mail")  # type: ignore[attr-defined]
        yield request.param, server


def options(kind: str, server: Server) -> dict[str, str]:
    return STATEMENTS | {
        "auxprop_plugin": "sql", "sql_engine": kind, "sql_hostnames": f"127.0.0.1:{server.port}",
        "sql_user": "mail", "sql_passwd": "secret", "sql_database": "mail",
    }  # fmt: skip


def test_sql(database: tuple[str, Server], tmp_path: Path) -> None:
    logins = Logins(tmp_path, options(*database))
    for user, password in (
        (b"alice", b"secret"), (b"o'brien", b"it's"), (b"hash", b"secret"),
        ("zürich".encode(), "grüezi".encode()), (b"alice@mail.test", b"secret"),
    ):  # fmt: skip
        assert isinstance(logins.plain(user, password), Granted), (user, logins.sink.lines)
    for user in (b"nobody", b"alice@other", b"' OR ''='", b"\\", b"alice'; DROP TABLE users; --", b"a\xff"):
        outcome = logins.plain(user, b"secret")
        assert isinstance(outcome, Denied)
        assert outcome.reply.code == 535, logins.sink.lines
    store = logins.authenticator.store
    result(store.store(b"new'\\one", {"userPassword": b"p'w\\", "authPassword": b"x"}))
    assert isinstance(logins.plain(b"new'\\one", b"p'w\\"), Granted)
    assert result(store.replace(b"new'\\one", "authPassword", b"x", b"y")) is True
    assert result(store.replace(b"new'\\one", "authPassword", b"x", b"z")) is False
    assert result(store.fetch(b"new'\\one", ("authPassword",))) == {"authPassword": b"y"}


def test_sql_server_killed_hung_and_back(
    database: tuple[str, Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, server = database
    monkeypatch.setattr(sql, "TIMEOUT", 2)
    monkeypatch.setattr("mtad.tables.pgsql.QUERY_TIMEOUT", 2)
    logins = Logins(tmp_path, options(kind, server))
    assert isinstance(logins.plain(b"alice", b"secret"), Granted)
    server.freeze()
    try:
        assert server.process is not None
        while " (stopped)" not in Path(f"/proc/{server.process.pid}/status").read_text():
            time.sleep(0.01)
        assert logins.plain(b"alice", b"secret").reply.code == 454
    finally:
        server.thaw()
    assert isinstance(logins.plain(b"alice", b"secret"), Granted)
    server.kill()
    assert logins.plain(b"alice", b"secret").reply.code == 454
    assert any("sql plugin: could not connect to 127.0.0.1" in text for _, _, text in logins.sink.lines)
    server.start()
    assert isinstance(logins.plain(b"alice", b"secret"), Granted)
    both = options(kind, server) | {"sql_hostnames": f"127.0.0.1:1, 127.0.0.1:{server.port}"}
    assert isinstance(Logins(tmp_path, both).plain(b"alice", b"secret"), Granted)


@pytest.fixture(scope="module")
def people() -> Iterator[People]:
    reason = why_not(Slapd, "ldap")
    if reason:
        pytest.skip(reason)
    with People() as server:
        assert isinstance(server, People)
        yield server


@pytest.mark.parametrize("mechanism", ["DIGEST-MD5", "CRAM-MD5", "SCRAM-SHA-256", "EXTERNAL", ""])
def test_ldapdb_logs_in_by_sasl(people: People, tmp_path: Path, mechanism: str) -> None:
    """By a mechanism, or by the best that there is."""
    conf = {
        "auxprop_plugin": "ldapdb", "ldapdb_uri": f"ldap://127.0.0.1:{people.port}",
        "ldapdb_id": "proxy", "ldapdb_pw": "proxypw",
    } | ({"ldapdb_mech": mechanism} if mechanism else {})  # fmt: skip
    logins = Logins(tmp_path, conf)
    if mechanism == "EXTERNAL":  # which needs a certificate that we do not have
        assert logins.plain(b"alice", b"secret").reply.code == 454
        return
    assert isinstance(logins.plain(b"alice", b"secret"), Granted), logins.sink.lines
    assert isinstance(logins.plain(b"hash", b"secret"), Granted)
    assert logins.plain(b"alice", b"wrong").reply.code == 535
    assert logins.plain(b"nobody", b"secret").reply.code == 535
    wrong = Logins(tmp_path, conf | {"ldapdb_pw": "bad"})
    assert wrong.plain(b"alice", b"secret").reply.code == 454


@pytest.mark.skipif(not oracle.postfix.AVAILABLE, reason=oracle.postfix.WHY_NOT)
def test_ldapdb_names_users_as_cyrus_does(people: People, tmp_path: Path) -> None:
    """What Postfix with Cyrus' plug-in says, and whom it names."""
    conf = {
        "mech_list": "plain", "auxprop_plugin": "sasldb", "sasldb_path": f"{people.root}/sasldb2",
        "canon_user_plugin": "ldapdb", "ldapdb_canon_attr": "title",
        "ldapdb_uri": f"ldap://127.0.0.1:{people.port}",
        "ldapdb_id": "proxy", "ldapdb_pw": "proxypw", "ldapdb_mech": "DIGEST-MD5",
    }  # fmt: skip
    SaslDb(conf["sasldb_path"]).set("alice-canonical", "mail.test", b"secret")
    Path(conf["sasldb_path"]).chmod(0o644)
    values = {
        "smtpd_sasl_auth_enable": "yes", "cyrus_sasl_config_path": "{dir}/sasl", "myhostname": "mail.test",
    }  # fmt: skip
    text = "".join(f"{name}: {value}\n" for name, value in conf.items())
    mine = Logins(tmp_path, conf)
    outcomes = [mine.plain(user, password) for user, password in ((b" alice", b"secret"), (b"alice", b"x"))]
    assert outcomes[0].avatar.username == outcomes[1].username == "alice-canonical"
    assert mine.plain(b"nobody", b"secret").reply.code == 535  # where Cyrus' plug-in has a temporary failure
    with oracle.postfix.Postfix(values, files={"sasl/smtpd.conf": text}) as server:
        port = server.ports["submission"]
        assert smtp_login(port, b"\0 alice\0secret").startswith("235")
        assert smtp_login(port, b"\0alice\0x").strip() == str(outcomes[1].reply)
        assert "535" not in smtp_login(port, b"\0nobody\0secret")
        log = server.maillog.read_text()
    assert "sasl_username=alice-canonical" in log


def test_ldapdb(people: People, tmp_path: Path) -> None:
    conf = {
        "auxprop_plugin": "ldapdb", "ldapdb_uri": f"ldap://127.0.0.1:{people.port}",
        "ldapdb_id": "cn=manager,dc=example,dc=com", "ldapdb_pw": "managerpw",
    }  # fmt: skip
    logins = Logins(tmp_path, conf)
    assert isinstance(logins.plain(b"alice", b"secret"), Granted), logins.sink.lines
    assert isinstance(logins.plain(b"hash", b"secret"), Granted)
    for user, password in ((b"alice", b"wrong"), (b"nobody", b"secret"), (b"al)(uid=*", b"secret")):
        outcome = logins.plain(user, password)
        assert isinstance(outcome, Denied)
        assert outcome.reply.code == 535, logins.sink.lines
    store = logins.authenticator.store
    result(store.store(b"alice", {"userPassword": b"newer"}))
    assert isinstance(logins.plain(b"alice", b"newer"), Granted)
    assert result(store.replace(b"alice", "userPassword", b"other", b"x")) is False
    assert result(store.replace(b"alice", "userPassword", b"newer", b"secret")) is True
    assert isinstance(logins.plain(b"alice", b"secret"), Granted)
    people.kill()
    assert logins.plain(b"alice", b"secret").reply.code == 454
    people.start()
    assert isinstance(logins.plain(b"alice", b"secret"), Granted)
    wrong = Logins(tmp_path, conf | {"ldapdb_pw": "bad"})
    assert wrong.plain(b"alice", b"secret").reply.code == 454
    assert any("ldapdb plugin" in text and "bad" not in text for _, _, text in wrong.sink.lines)
