"""Logging in to servers: who is believed, and what is not tried twice."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from delivery_world import World
from twisted.internet.defer import Deferred, succeed

from mtad.auth import gssapi
from mtad.config.parameters import Parameters
from mtad.deliver.auth_cache import RefusedLogins
from mtad.deliver.credentials import Login
from mtad.errors import ConfigError, TableError
from mtad.maillog import ListSink, MailLog
from mtad.sasl.client import ClientMechanism
from mtad.tables.blocking import BlockingTable, Lane
from mtad.wire.server_reply import ServerReply

LOGIN = {
    "smtp_sasl_auth_enable": "yes",
    "smtp_sasl_security_options": "noanonymous",
    "smtp_sasl_password_maps": "static:user:secret",
}


@pytest.mark.parametrize(("mechanism", "believed"), [(b"SCRAM-SHA-256", False), (b"PLAIN", True)])
def test_a_server_that_proves_nothing_is_not_believed(mechanism: bytes, believed: bool) -> None:
    world = World(**LOGIN)
    world.server(extensions=(b"AUTH " + mechanism,), auth=b"235 2.7.0 ok\r\n")
    world.submit("Q1", b"you@dest.test")
    world.run()
    if believed:
        assert "status=sent" in world.log("Q1")[1]
    else:
        assert world.log("Q1")[1].endswith(
            "dsn=4.7.0, status=deferred (SASL authentication failed; cannot authenticate to server "
            "192.0.2.1[192.0.2.1]: server failed mutual authentication step)"
        )


@pytest.mark.parametrize("overloaded", [False, True])
def test_tickets_are_looked_for_in_a_thread(monkeypatch: pytest.MonkeyPatch, overloaded: bool) -> None:
    """With a keytab, Kerberos asks a KDC for one, which may take minutes."""
    here: list[bool] = []  # whether the work is done elsewhere

    class Runner:
        def run(self, lane: Lane, work: Callable[[], Any]) -> Deferred[Any]:
            if overloaded:
                raise TableError("too many are waiting")
            here.append(True)
            return succeed(work())

    def has_ticket() -> bool:
        assert here.pop() is True
        return False

    kerberos = ClientMechanism(b"GSSAPI", gssapi.PROPERTIES, lambda login: iter(()))  # type: ignore[arg-type,return-value]
    monkeypatch.setattr(gssapi, "client_mechanism", lambda: kerberos)
    monkeypatch.setattr(gssapi, "has_ticket", has_ticket)
    monkeypatch.setattr(BlockingTable, "runner", Runner())
    world = World(**LOGIN)
    server = world.server(extensions=(b"AUTH PLAIN gssapi",), auth=b"235 2.7.0 ok\r\n")
    world.submit("Q1", b"you@dest.test")
    world.run()
    if overloaded:
        assert "cannot authenticate to server 192.0.2.1[192.0.2.1]: transient failure" in world.log("Q1")[1]
    else:
        assert any(command.startswith(b"AUTH PLAIN ") for command in server.commands)


@pytest.mark.parametrize("soft", ["yes", "no"])
def test_a_refused_login_is_not_tried_again(soft: str, tmp_path: Path) -> None:
    world = World(
        **LOGIN,
        smtp_sasl_auth_cache_name=f"proxy:btree:{tmp_path}/cache",
        smtp_sasl_auth_soft_bounce=soft,
    )
    server = world.server(extensions=(b"AUTH PLAIN",), auth=b"535 5.7.8 bad\r\n")
    for name in ("Q1", "Q2"):
        world.submit(name, b"you@dest.test", sender=b"")
        world.run()
    status = "dsn=4.7.8, status=deferred" if soft == "yes" else "dsn=5.7.8, status=bounced"
    for name, words in (
        ("Q1", f"{status} (SASL authentication failed; server 192.0.2.1[192.0.2.1] said: 535 5.7.8 bad)"),
        ("Q2", f"{status} (SASL [CACHED] authentication failed; server 192.0.2.1 said: 535 5.7.8 bad)"),
    ):
        assert any(line.endswith(words) for line in world.log(name)), world.log(name)
    assert sum(command.startswith(b"AUTH") for command in server.commands) <= 1


REPLY = ServerReply(535, b"5.7.8", (b"535-bad", b"535 5.7.8 really"))
ALICE = Login(b"alice", b"secret")


class Cache(RefusedLogins):
    """A cache whose time is told, and whose log is at hand."""

    def __init__(self, directory: Path, kind: str = "btree", **values: str) -> None:
        self.time = 1000.0
        self.sink = ListSink()
        values = {"smtp_sasl_auth_cache_name": f"proxy:{kind}:{directory}/cache"} | values
        p = Parameters.from_mapping({"smtp_sasl_auth_cache_time": "60s"} | values)
        super().__init__(p, MailLog(self.sink, "postfix/smtp"), lambda: self.time)

    def ask(self, login: Login = ALICE, host: str = "host") -> ServerReply | None:
        found: ServerReply | None = at_once(self.find(host, login))
        return found

    def tell(self, reply: ServerReply = REPLY, login: Login = ALICE, host: str = "host") -> None:
        at_once(self.note(host, login, reply))


def at_once(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")


@pytest.mark.parametrize("kind", ["btree", "hash", "lmdb"])
def test_what_is_remembered(kind: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path, kind)
    cache.tell(ServerReply(454, b"4.7.0", (b"454 later",)))
    assert cache.ask() is None
    assert os.listdir(tmp_path) == []
    cache.tell()
    found = cache.ask()
    assert found is not None
    assert (found.code, found.dsn, str(found)) == (535, b"5.7.8", "535-bad")
    again = Cache(tmp_path, kind)  # after a restart
    assert again.ask() == found
    assert again.ask(host="other") is None
    assert again.ask(Login(b"bob", b"secret")) is None
    again.time += 60
    assert again.ask() == found
    again.time += 1
    assert again.ask() is None
    again.tell()
    assert again.ask(Login(b"alice", b"a new one")) is None  # which is the end of the entry
    assert again.ask() is None
    for path in tmp_path.iterdir():
        assert oct(path.stat().st_mode)[-3:] == "600"
        assert b"secret" not in path.read_bytes()
    assert again.sink.lines == []


def test_old_entries_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.tell()
    cache.time += 61
    cache.tell(login=Login(b"bob", b"x"))
    assert list(cache._read()) == [b"host;bob"]


def test_a_table_that_is_broken_is_told_and_no_more(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "none")
    cache.tell()
    assert cache.ask() is None
    assert "update failed for host;alice: " in cache.sink.lines[0][2]
    (tmp_path / "cache.db").write_bytes(b"no database")
    broken = Cache(tmp_path)
    broken.tell()
    assert broken.ask() is None
    assert "lookup failed for host;alice: " in broken.sink.lines[1][2]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"smtp_sasl_auth_cache_name": "btree:/x"}, "must start with proxy:"),
        ({"smtp_sasl_auth_cache_name": "proxy:btree:/x, proxy:btree:/y"}, "multiple values"),
        ({"smtp_sasl_auth_cache_name": "proxy:cdb:/x"}, "can not be written to"),
        ({"proxy_write_maps": "proxy:btree:/other"}, "add proxy:btree:"),
    ],
)
def test_tables_that_will_not_do(values: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        Cache(tmp_path, **values)


@pytest.mark.skipif(shutil.which("postmap") is None, reason="needs postmap")
def test_postfix_reads_it(tmp_path: Path) -> None:
    Cache(tmp_path).tell()
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    words = ["postmap", "-c", str(tmp_path), "-q", "host;alice", f"btree:{tmp_path}/cache"]
    done = subprocess.run(words, capture_output=True, timeout=20)
    digest = base64.b64encode(hashlib.sha1(b"secret").digest()).decode()
    assert done.stdout.decode() == f"1000;{digest};5.7.8;535-bad\n535 5.7.8 really\n", done.stderr
