"""The stores of secrets: in order, in SQL, hashed, moved over from another back end."""

import base64
import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from auth_support import SESSION, Build, at_once

from mtad.auth.authenticator import Denied, Granted
from mtad.auth.checkers import Verdict
from mtad.auth.sql import fill
from mtad.auth.stores import plugins
from mtad.auth.verifiers import Transition
from mtad.config.sasl_conf import SaslConf
from mtad.errors import ConfigError, TableError
from mtad.maillog import ListSink, MailLog
from mtad.sasl import otp
from mtad.sasl.scram import parse_auth_password
from mtad.tables.sasldb import SaslDb

B64 = base64.b64encode
HASHED = b"{SSHA256}" + B64(hashlib.sha256(b"secretsalt").digest() + b"salt")


def plain(authenticator: Any, user: bytes, password: bytes) -> Any:
    exchange = authenticator.begin(b"PLAIN", SESSION)
    return at_once(exchange.step(B64(b"\0" + user + b"\0" + password)))


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "users.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE users (name TEXT, realm TEXT, userPassword TEXT, authPassword TEXT)")
        connection.executemany(
            "INSERT INTO users VALUES (?, 'mail.test', ?, NULL)",
            [("alice", "from sql"), ("dora", "dora's"), ("o'brien", "quoted"), ("hash", HASHED.decode())],
        )
    connection.close()
    return path


def options(database: Path) -> dict[str, str]:
    return {
        "sql_engine": "sqlite",
        "sql_database": str(database),
        "sql_select": "SELECT %p FROM users WHERE name='%u' AND realm='%r'",
        "sql_insert": "INSERT INTO users (name, realm, %p) VALUES ('%u', '%r', '%v')",
        "sql_update": "UPDATE users SET %p='%v' WHERE name='%u' AND realm='%r'",
    }


def test_sql(build: Build, database: Path, sink: ListSink) -> None:
    authenticator = build(options(database) | {"auxprop_plugin": "sql"})
    assert isinstance(plain(authenticator, b"dora", b"dora's"), Granted)
    assert isinstance(plain(authenticator, b"o'brien", b"quoted"), Granted)
    assert isinstance(plain(authenticator, b"hash", b"secret"), Granted)
    for user, password in (
        (b"alice", b"secret"), (b"nobody", b"x"), (b"' OR '1'='1", b"from sql"), (b"dora' --", b"dora's"),
        (b"hash", HASHED), (b"al\xffice", b"x"),
    ):  # fmt: skip
        outcome = plain(authenticator, user, password)
        assert isinstance(outcome, Denied)
        assert outcome.reply.code == 535
    assert not [text for _, _, text in sink.lines if "plugin" in text]


def test_stores_in_order(build: Build, database: Path) -> None:
    first = build(options(database) | {"auxprop_plugin": "sql sasldb"})
    assert isinstance(plain(first, b"alice", b"from sql"), Granted)
    assert isinstance(plain(first, b"alice", b"secret"), Denied)
    assert isinstance(plain(first, b"bob@example.com", b"pass word"), Granted)
    second = build(options(database))
    assert isinstance(plain(second, b"alice", b"secret"), Granted)
    assert isinstance(plain(second, b"dora", b"dora's"), Granted)


def test_a_broken_store_is_temporary(build: Build, database: Path, sink: ListSink) -> None:
    broken = options(database) | {"auxprop_plugin": "sql", "sql_select": "SELECT %p FROM nowhere"}
    outcome = plain(build(broken), b"alice", b"x")
    assert str(outcome.reply) == "454 4.7.0 Temporary authentication failure: generic failure"
    assert any("sql plugin: statement failed: no such table" in text for _, _, text in sink.lines)
    # another store that knows the user is enough
    outcome = plain(build(broken | {"auxprop_plugin": "sql sasldb"}), b"alice", b"secret")
    assert isinstance(outcome, Granted)


def test_a_hash_is_of_no_use_for_cram_md5(build: Build, database: Path, sink: ListSink) -> None:
    authenticator = build(options(database) | {"auxprop_plugin": "sql"})
    exchange = authenticator.begin(b"CRAM-MD5", SESSION)
    at_once(exchange.step(None))
    outcome = at_once(exchange.step(B64(b"hash " + b"0" * 32)))
    assert str(outcome.reply) == "535 5.7.8 Error: authentication failed: authentication failure"
    assert (
        "warning: SASL authentication problem: the password of hash is stored as a hash (SSHA256): "
        "only PLAIN and LOGIN can use it" in [text for _, _, text in sink.lines]
    )


class Fixed:
    """A verifier that knows one password."""

    name = "fixed"

    async def verify(self, user: bytes, password: bytes, address: str = "") -> Verdict:
        return Verdict.OK if password == b"right" else Verdict.BAD_PASSWORD


@pytest.mark.parametrize("counter", ["0", "2000000", "many"])
def test_a_transition_keeps_keys_that_can_be_used(
    build: Build, tmp_path: Path, sink: ListSink, counter: str
) -> None:
    conf = {"sasldb_path": str(tmp_path / "own"), "auto_transition": "noplain"}
    conf |= {"pwcheck_method": "alwaystrue", "scram_iteration_counter": counter}
    authenticator = build(conf)
    assert isinstance(plain(authenticator, b"new", b"right"), Granted)
    kept = at_once(authenticator.store.fetch(b"new", ("authPassword",)))["authPassword"]
    assert parse_auth_password(b"SCRAM-SHA-256", kept) is not None


@pytest.mark.parametrize("kind", ["sasldb", "sql"])
def test_transition(build: Build, database: Path, tmp_path: Path, sink: ListSink, kind: str) -> None:
    conf = options(database) | {"auxprop_plugin": kind, "sasldb_path": str(tmp_path / "own")}
    store = build(conf).store
    log = MailLog(sink, "x")
    assert (
        at_once(Transition(Fixed(), store, log, True, 100).verify(b"new", b"wrong")) is Verdict.BAD_PASSWORD
    )
    assert at_once(store.fetch(b"new", ("userPassword",))) == {}
    at_once(Transition(Fixed(), store, log, False, 100).verify(b"new", b"right"))
    kept = at_once(store.fetch(b"new", ("userPassword", "authPassword")))
    assert set(kept) == {"authPassword"}
    at_once(Transition(Fixed(), store, log, False, 100).verify(b"new", b"right"))
    assert at_once(store.fetch(b"new", ("authPassword",))) == kept
    # SCRAM keys are good for a plain login, too
    assert isinstance(plain(build(conf), b"new", b"right"), Granted)
    assert isinstance(plain(build(conf), b"new", b"wrong"), Denied)
    at_once(Transition(Fixed(), store, log, True, 100).verify(b"new", b"right"))
    assert at_once(store.fetch(b"new", ("userPassword",))) == {"userPassword": b"right"}
    assert at_once(store.replace(b"new", "userPassword", b"right", b"newer")) is True
    assert at_once(store.replace(b"new", "userPassword", b"right", b"other")) is False
    assert at_once(store.fetch(b"new", ("userPassword",))) == {"userPassword": b"newer"}
    assert [text for _, _, text in sink.lines if "auto_transition" in text] == []


def test_a_transition_without_plain_for_otp(build: Build, tmp_path: Path, sink: ListSink) -> None:
    """Its user can log in by SCRAM and by the first one-time password, which are not the password."""
    conf = {"sasldb_path": str(tmp_path / "own"), "mech_list": "scram-sha-256 otp plain"}
    authenticator = build(conf, smtpd_sasl_security_options="")
    transition = Transition(Fixed(), authenticator.store, MailLog(sink, "x"), False, 100, True)
    at_once(transition.verify(b"new", b"right"))
    kept = at_once(authenticator.store.fetch(b"new", ("userPassword", "authPassword", otp.PROPERTY)))
    assert set(kept) == {"authPassword", otp.PROPERTY}
    first = otp.parse_secret(kept[otp.PROPERTY])
    assert (first.algorithm, first.sequence) == ("md5", 499)
    exchange = authenticator.begin(b"OTP", SESSION)
    at_once(exchange.step(base64.b64encode(b"\0new")))
    answer = b"hex:" + otp.generate("md5", 498, first.seed, b"right").hex().encode()
    assert isinstance(at_once(exchange.step(base64.b64encode(answer))), Granted)
    at_once(transition.verify(b"new", b"right"))  # which does not begin the sequence anew
    now = at_once(authenticator.store.fetch(b"new", (otp.PROPERTY,)))[otp.PROPERTY]
    assert otp.parse_secret(now).sequence == 498


def test_a_transition_that_fails_is_only_told(build: Build, database: Path, sink: ListSink) -> None:
    store = build(
        options(database) | {"auxprop_plugin": "sql", "sql_insert": "INSERT INTO nowhere '%v'"}
    ).store
    transition = Transition(Fixed(), store, MailLog(sink, "x"), True, 100)
    assert at_once(transition.verify(b"new", b"right")) is Verdict.OK
    assert "auto_transition: the secret of new can not be kept" in sink.lines[-1][2]
    assert not any("right" in text for _, _, text in sink.lines)


def test_log_level(build: Build, sink: ListSink) -> None:
    plain(build({"log_level": "4"}), b"alice", b"bad")
    assert any("SASL authentication info: auxprop: alice: wrong password (" in t for _, _, t in sink.lines)
    with pytest.raises(ConfigError, match="log_level is not a number"):
        build({"log_level": "many"})


def test_plugins() -> None:
    assert plugins(SaslConf()) == ("sasldb",)
    assert plugins(SaslConf({"sql_select": "x", "ldapdb_uri": "y"})) == ("sasldb", "sql", "ldapdb")
    assert plugins(SaslConf({"auxprop_plugin": "ldapdb sql ldapdb"})) == ("ldapdb", "sql")
    with pytest.raises(ConfigError, match="could not find auxprop plugin other"):
        plugins(SaslConf({"auxprop_plugin": "other"}))


@pytest.mark.parametrize(
    ("conf", "text"),
    [
        ({"auxprop_plugin": "sql"}, "needs sql_select"),
        ({"auxprop_plugin": "sql", "sql_select": "x", "sql_engine": "oracle"}, "unknown sql_engine oracle"),
        ({"auxprop_plugin": "sql", "sql_select": "x", "sql_engine": "sqlite"}, "needs sql_database"),
        ({"auxprop_plugin": "ldapdb"}, "needs ldapdb_uri"),
        ({"auxprop_plugin": "ldapdb", "ldapdb_uri": "ldap://x", "ldapdb_starttls": "maybe"}, "maybe"),
    ],
)
def test_what_cannot_work_is_refused(build: Build, conf: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build(conf)


def test_statements() -> None:
    values = {"u": b"al'ice", "r": b"%u", "p": b"userPassword"}
    made = fill("SELECT %p, '%%', '%x' WHERE u='%u' AND r='%r' %v", values, lambda t: t.replace(b"'", b"''"))
    assert made == b"SELECT userPassword, '%', '%x' WHERE u='al''ice' AND r='%u' %v"
    with pytest.raises(TableError):
        fill("%u", {"u": b"a\0b"}, lambda t: t)


def test_a_new_user_database(build: Build, tmp_path: Path) -> None:
    path = str(tmp_path / "new")
    authenticator = build({"sasldb_path": path})
    at_once(authenticator.store.store(b"eve@mail.test", {"userPassword": b"pw"}))
    assert SaslDb(path).get("eve", "mail.test") == b"pw"
    assert isinstance(plain(authenticator, b"eve", b"pw"), Granted)
