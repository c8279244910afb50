"""mtad saslauthd: the protocol, the cache, the processes; hostile and slow clients."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.auth.hashes import crypt
from mtad.cli import saslauthd, testsaslauthd
from mtad.daemon.saslauthd import server as saslauthd_server
from mtad.daemon.saslauthd.backends import Accounts, Backend, Rimap, Sasldb, make
from mtad.daemon.saslauthd.cache import Cache
from mtad.daemon.saslauthd.server import Options, Server, listen
from mtad.daemon.saslauthd.wire import BadRequest, Reader, Request, encode_answer, encode_request
from mtad.errors import ConfigError
from mtad.maillog import ListSink, MailLog
from mtad.tables.sasldb import SaslDb

GOOD = Request(b"alice", b"secret", b"smtp", b"mail.test")


def fields(*values: bytes) -> bytes:
    return b"".join(len(each).to_bytes(2, "big") + each for each in values)


@given(st.lists(st.integers(0, 40), max_size=4))
def test_a_request_in_pieces(cuts: list[int]) -> None:
    data = encode_request(GOOD)
    reader, found = Reader(), None
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        found = found or reader.receive(data[start:end])
    assert found == GOOD
    assert Reader().receive(fields(b"a", b"p", b"", b"")) == Request(b"a", b"p")
    assert Reader().receive(fields(b"a", b"p", b"", b"", b"192.0.2.1;4000")) == Request(
        b"a", b"p", address="192.0.2.1"
    )
    assert b"secret" not in repr(GOOD).encode()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (fields(b"", b"p", b"s", b"r"), "NULL login"), (fields(b"u", b"", b"s", b"r"), "NULL password"),
        (b"\xff\xff", "login exceeds"), (fields(b"u") + b"\x01\x01", "password exceeds"),
        (fields(b"u\0", b"p", b"s", b"r"), "a NUL"),
    ],
)  # fmt: skip
def test_bad_requests(data: bytes, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        Reader().receive(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_not(data: bytes) -> None:
    try:
        Reader().receive(data)
    except BadRequest:
        pass


def test_the_cache() -> None:
    now = [0.0]
    cache = Cache(1, 10, lambda: now[0])
    assert not cache.knows(GOOD)
    cache.add(GOOD)
    assert cache.knows(GOOD)
    assert not cache.knows(Request(b"alice", b"wrong", b"smtp", b"mail.test"))
    assert not cache.knows(Request(b"alice", b"secret", b"imap", b"mail.test"))
    now[0] = 11
    assert not cache.knows(GOOD)
    for number in range(10):
        cache.add(Request(b"%d" % number, b"x"))
    assert [number for number in range(10) if cache.knows(Request(b"%d" % number, b"x"))] == [8, 9]


def backend(request: Request) -> str | None:
    match request.login:
        case b"hang":
            time.sleep(60)
        case b"die":
            os._exit(1)
        case b"bug":
            raise RuntimeError
        case b"slow":
            time.sleep(0.3)
    return None if request.password == b"secret" else "incorrect password"


Serve = Callable[..., tuple[str, ListSink]]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    running: list[tuple[Server, threading.Thread]] = []
    monkeypatch.setattr(saslauthd_server, "CHECK_TIMEOUT", 2.0)
    monkeypatch.setattr(saslauthd_server, "READ_TIMEOUT", 2.0)

    def start(
        check: Backend = backend, cache: Cache | None = None, **options: object
    ) -> tuple[str, ListSink]:
        path, sink = str(tmp_path / "mux"), ListSink()
        listener = listen(path)
        own = Server(listener, check, cache, MailLog(sink, "saslauthd"), Options("test", **options))  # type: ignore[arg-type]
        thread = threading.Thread(target=own.run)
        with monkeypatch.context() as patch:
            patch.setattr(signal, "signal", lambda *_: None)
            thread.start()
        running.append((own, thread))
        return path, sink

    yield start
    for own, thread in running:
        own.stop()
        thread.join(10)


def ask(path: str, login: bytes, password: bytes = b"secret", realm: bytes = b"") -> tuple[bool, str]:
    return testsaslauthd.ask(path, login, password, b"smtp", realm)


@pytest.mark.filterwarnings("ignore:This process")
@pytest.mark.parametrize("helpers", [0, 2])
def test_served(serve: Serve, helpers: int) -> None:
    path, sink = serve(helpers=helpers, verbose=True)
    assert os.stat(path).st_mode & 0o777 == 0o777
    for _ in range(5):
        assert ask(path, b"alice") == (True, "")
        assert ask(path, b"alice", b"wrong") == (False, "incorrect password")
    assert ask(path, b"bug") == (False, "internal error (RuntimeError)")
    assert ask(path, b"x" * 300) == (False, "login exceeds MAX_REQ_LEN")
    assert ask(path, b"") == (False, "NULL login received")
    who = "[user=alice] [service=smtp] [realm=] [mech=test]"
    texts = [text for _, _, text in sink.lines]
    assert f"do_auth         : auth failure: {who} [reason=incorrect password]" in texts
    assert not any("secret" in text for _, _, text in sink.lines)


def test_a_helper_that_dies_or_hangs_is_replaced(serve: Serve) -> None:
    path, sink = serve(helpers=1)
    assert ask(path, b"die") == (False, "authentication helper died")
    assert ask(path, b"alice") == (True, "")
    assert ask(path, b"hang") == (False, "timed out")
    assert ask(path, b"alice") == (True, "")
    assert len([text for _, _, text in sink.lines if "helper" in text]) == 2


def test_a_helper_that_dies_while_a_request_comes(tmp_path: Path) -> None:
    """Both are told of in one go: the daemon goes on, and the dead helper is replaced once."""
    path, sink = str(tmp_path / "mux"), ListSink()
    own = Server(listen(path), backend, None, MailLog(sink, "saslauthd"), Options("test", 1))
    looked = own._selector.select

    def both_at_once(seconds: float) -> object:
        """The client first, and by then the helper is dead."""
        if own._clients and not killed:
            killed.extend(own._helpers)
            os.kill(killed[0].pid, signal.SIGKILL)
            while len(looked(1.0)) < 2:
                pass
        return sorted(looked(seconds), key=lambda each: each[0].fileobj in [h.socket for h in own._helpers])

    killed: list[Any] = []
    own._selector.select = both_at_once  # type: ignore[assignment,method-assign]
    thread = threading.Thread(target=own.run)
    thread.start()
    try:
        assert ask(path, b"alice") == (False, "authentication helper died")
        assert ask(path, b"alice") == (True, "")
    finally:
        own.stop()
        thread.join(10)


def test_slow_clients_hold_up_nobody(serve: Serve) -> None:
    path, _ = serve(helpers=1)
    idle = []
    for _ in range(20):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        connection.sendall(b"\0\5ali")
        idle.append(connection)
    assert ask(path, b"alice") == (True, "")
    assert not select.select(idle, [], [], 0)[0]
    assert idle[0].recv(100) == encode_answer("NO timed out")
    for connection in idle:
        connection.close()


def test_more_than_there_are_helpers(serve: Serve) -> None:
    path, _ = serve(helpers=3)
    results: list[tuple[bool, str]] = []
    threads = [threading.Thread(target=lambda: results.append(ask(path, b"slow"))) for _ in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(10)
    assert results == [(True, "")] * 6


def test_cached_and_joined(serve: Serve) -> None:
    def check(request: Request) -> str | None:
        return None if request.login == b"alice@mail.test" and request.password == b"secret" else "no"

    cache = Cache(100, 100)
    path, sink = serve(check, cache, helpers=1, join_realm=True, verbose=True)
    assert ask(path, b"alice", realm=b"mail.test") == (True, "")
    assert ask(path, b"alice", realm=b"mail.test") == (True, "")
    assert ask(path, b"alice", b"other", realm=b"mail.test") == (False, "no")
    assert len([text for _, _, text in sink.lines if "success (cached)" in text]) == 1
    # as long as a request may be
    assert ask(path, b"u" * 256, realm=b"r" * 256) == (False, "no")


def test_an_address_that_is_none(serve: Serve) -> None:
    path, _ = serve(helpers=1)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(fields(b"alice", b"secret", b"", b"", b"\xff" * 256))
        assert connection.recv(100) == encode_answer("OK")


def test_sasldb(tmp_path: Path) -> None:
    db = SaslDb(str(tmp_path / "db"))
    db.set("alice", "mail.test", b"secret")
    db.set("bob", "mail.test", b"{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=")
    check = Sasldb(db.path)
    assert check(GOOD) is None
    assert check(Request(b"bob", b"secret", b"", b"mail.test")) is None
    assert (
        check(Request(b"bob", b"{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", b"", b"mail.test"))
        == "incorrect password"
    )
    assert check(Request(b"alice", b"Secret", b"", b"mail.test")) == "incorrect password"
    assert check(Request(b"alice", b"secret", b"", b"other")) == "user not found"


def test_accounts() -> None:
    stored = {b"alice": b"$6$saltsalt$", b"locked": b"!", b"empty": b""}
    stored[b"alice"] = crypt(b"secret", stored[b"alice"])
    check = Accounts(stored.get)
    assert check(GOOD) is None
    assert check(Request(b"alice", b"bad")) == "incorrect password"
    assert check(Request(b"locked", b"!")) == "password cannot be compared"
    assert check(Request(b"empty", b"x")) == "user not found"
    assert check(Request(b"nobody", b"x")) == "user not found"


def test_rimap() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        seen: list[bytes] = []

        def imap() -> None:
            for answer in (b"* hi\r\nC01 OK done\r\n", b"C01 NO bad\r\n", b"C01 BAD what\r\n"):
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as lines:
                    connection.sendall(b"* OK ready\r\n")
                    seen.append(lines.readline())
                    connection.sendall(answer)

        thread = threading.Thread(target=imap)
        thread.start()
        check = Rimap(f"127.0.0.1/{listener.getsockname()[1]}")
        assert check(Request(b'al"ice', b"sec\\ret")) is None
        assert check(GOOD) == "remote server refused"
        assert "Unexpected response" in str(check(GOOD))
        thread.join(5)
        assert seen[0] == b'C01 LOGIN "al\\"ice" "sec\\\\ret"\r\n'
        assert check(Request(b"a\r\nC02 LOGOUT", b"x")) == "a line end in the login or password"


def test_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert saslauthd.main(["-v"]) == 0
    assert "authentication mechanisms: getpwent pam rimap sasldb shadow" in capsys.readouterr().err
    assert saslauthd.main(["-h"]) == 0
    for words in ([], ["-a", "kerberos5"], ["-a", "rimap"], ["-z"], ["-a", "sasldb", "-m", "relative"],
                  ["-a", "sasldb", "-m", str(tmp_path / "none")], ["-a", "sasldb", "-n", "x"]):  # fmt: skip
        assert saslauthd.main(words) == 1
    with pytest.raises(ConfigError):
        make("ldap", "")
