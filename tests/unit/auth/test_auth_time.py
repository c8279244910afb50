"""A name that does not exist costs what a wrong password costs, in hashes and questions, by each back end."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from auth_support import Build, converse

from mtad.auth import auxprop, hashes, sql
from mtad.auth.authenticator import Authenticator, Denied
from mtad.auth.auxprop import PASSWORD, SCRAM
from mtad.auth.verifiers import scram_keys
from mtad.daemon.saslauthd import backends
from mtad.daemon.saslauthd.wire import Request
from mtad.sasl import client, scram
from mtad.tables.sasldb import SaslDb

STORED = {
    "crypt": hashes.crypt(b"secret", b"$6$rounds=1000$saltsalt$"),
    "PBKDF2": b"{PBKDF2-SHA256}1000$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "SCRAM": b"{SCRAM}" + scram_keys(b"secret", 1000),
}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The costly functions, each with a note of its calls."""
    calls: list[str] = []

    def count(module: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(module, name)

        def counting(*arguments: Any) -> Any:
            calls.append(name)
            return function(*arguments)

        monkeypatch.setattr(module, name, counting)

    for module, name in (
        (auxprop, "verify"), (backends, "verify"), (backends, "crypt"), (scram, "derive"),
        (sql._Sqlite, "run"),
    ):  # fmt: skip
        count(module, name)
    yield calls


def attempt(authenticator: Authenticator, mechanism: bytes, user: bytes) -> None:
    """A login with a wrong password."""
    mine = client.choose([mechanism], (), user, b"wrong", context=client.ClientContext(b"mail.test"))
    outcome = converse(authenticator, mine)
    assert isinstance(outcome, Denied) and outcome.reply.code == 535


def costs(calls: list[str], do: Callable[[], object]) -> list[str]:
    calls.clear()
    do()
    return sorted(calls)


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("store", ["sasldb", "sql"])
def test_auxprop(build: Build, tmp_path: Path, counted: list[str], kind: str, store: str) -> None:
    conf = {"auxprop_plugin": store, "sasldb_path": str(tmp_path / "own")}
    if store == "sasldb":
        SaslDb(conf["sasldb_path"]).set("alice", "mail.test", STORED[kind])
    else:
        with sqlite3.connect(tmp_path / "users") as database:
            database.execute("CREATE TABLE users (name TEXT, password TEXT)")
            database.execute("INSERT INTO users VALUES ('alice', ?)", (STORED[kind].decode(),))
        conf |= {
            "sql_engine": "sqlite", "sql_database": str(tmp_path / "users"),
            "sql_select": "SELECT password FROM users WHERE name = '%u' AND '%p' = 'userPassword'",
        }  # fmt: skip
    authenticator = build(conf)
    known = costs(counted, lambda: attempt(authenticator, b"PLAIN", b"alice"))
    unknown = costs(counted, lambda: attempt(authenticator, b"PLAIN", b"nobody"))
    assert known == unknown
    assert known.count("verify") == 1


@pytest.mark.parametrize("mechanism", [b"SCRAM-SHA-1", b"SCRAM-SHA-256", b"SCRAM-SHA-512"])
@pytest.mark.parametrize("clear", [True, False])
def test_scram(build: Build, tmp_path: Path, counted: list[str], mechanism: bytes, clear: bool) -> None:
    """Where passwords are in the clear, the server derives the keys, for those who are not there as well."""
    db = SaslDb(str(tmp_path / "own"))
    keys = scram.derive(scram.HASHES[mechanism], b"secret", bytes(16), 1000)
    name, value = (PASSWORD, b"secret") if clear else (SCRAM, scram.auth_password(mechanism, keys))
    db.set("alice", "mail.test", value, name)
    authenticator = build({"sasldb_path": db.path}, smtpd_sasl_security_options="")
    known = costs(counted, lambda: attempt(authenticator, mechanism, b"alice"))
    unknown = costs(counted, lambda: attempt(authenticator, mechanism, b"nobody"))
    assert known == unknown == ["derive"]


@pytest.mark.parametrize("kind", ["sasldb", "crypt"])
def test_saslauthd(tmp_path: Path, counted: list[str], kind: str) -> None:
    if kind == "sasldb":
        SaslDb(str(tmp_path / "own")).set("alice", os.uname().nodename, STORED["crypt"])
        backend = backends.make("sasldb", str(tmp_path / "own"))
    else:
        backend = backends.Accounts({b"alice": STORED["crypt"]}.get)
    known = costs(counted, lambda: backend(Request(b"alice", b"wrong")))
    unknown = costs(counted, lambda: backend(Request(b"nobody", b"wrong")))
    assert known == unknown != []


def test_accounts_that_are_refused_cost_as_much(counted: list[str]) -> None:
    def find(login: bytes) -> bytes | None:
        if login == b"expired":
            raise backends.Refused("account expired")
        return STORED["crypt"]

    backend = backends.Accounts(find)
    known = costs(counted, lambda: backend(Request(b"alice", b"wrong")))
    assert costs(counted, lambda: backend(Request(b"expired", b"secret"))) == known
