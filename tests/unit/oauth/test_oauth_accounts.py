"""Accounts at token services: files, grants, the shared state."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oauth_provider import CLIENT, SECRET, Provider
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.python.failure import Failure

from mtad.cli.oauth import _from_browser, read_code
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import ListSink, MailLog
from mtad.oauth.account import Account, account_names, read_account
from mtad.oauth.grants import USUAL_LIFETIME, OAuthError, Request
from mtad.oauth.state import StateFile, TokenState, state_directory
from mtad.oauth.tokens import PAUSE, YOUNG, Accounts

NOW = 1_700_000_000.0


class World:
    """A configuration, a provider, and a reactor turned by hand."""

    def __init__(self, root: Path, provider: Provider, reactor: EPollReactor) -> None:
        self.provider = provider
        self.reactor = reactor
        self.sink = ListSink()
        self.now = time.time()
        self.p = Parameters.from_mapping({"mtad_queue_directory": str(root / "queue")}, str(root))
        self.directory = root / "oauth"
        self.directory.mkdir()

    def write(self, name: str = "hop", **values: str) -> None:
        usual = {
            "token_endpoint": f"{self.provider.url}/token",
            "device_endpoint": f"{self.provider.url}/device",
            "authorization_endpoint": "https://id.example.com/authorize?x=1",
            "client_id": CLIENT,
            "client_secret": SECRET,
            "refresh_token": "seed",
        }
        lines = (f"{key} = {value}\n" for key, value in {**usual, **values}.items() if value)
        (self.directory / name).write_text("# an account\n" + "".join(lines))

    def accounts(self) -> Accounts:
        found = Accounts(self.p, self.reactor, MailLog(self.sink, "postfix/smtp"), lambda: self.now)
        found.load()
        return found

    def run(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        results: list[Any] = []
        for each in work:
            Deferred.fromCoroutine(each).addBoth(results.append)
        deadline = time.monotonic() + 10
        while len(results) < len(work):
            assert time.monotonic() < deadline, "it takes too long"
            self.reactor.iterate(0.02)
        return results

    def token(self, accounts: Accounts, rejected: bytes = b"") -> bytes:
        result = self.run(accounts.token("hop", rejected))[0]
        if isinstance(result, Failure):
            result.raiseException()
        assert isinstance(result, bytes)
        return result

    def state(self) -> TokenState | None:
        return StateFile(state_directory(self.p), "hop").read(read_account(self.p, "hop").digest)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    reactor = EPollReactor()
    reactor.getThreadPool().start()
    with Provider() as provider:
        yield World(tmp_path, provider, reactor)
    reactor.getThreadPool().stop()
    reactor.disconnectAll()


# -- files


def test_presets(world: World) -> None:
    (world.directory / "gm").write_text("provider = gmail\nclient_id = x\nclient_secret = y\n")
    gmail = read_account(world.p, "gm")
    assert gmail.token_endpoint == "https://oauth2.googleapis.com/token"
    assert gmail.grant == "authorization_code"
    (world.directory / "ms").write_text("provider = microsoft\nclient_id = x\ntenant = contoso.example\n")
    microsoft = read_account(world.p, "ms")
    assert microsoft.device_endpoint.startswith("https://login.microsoftonline.com/contoso.example/oauth2/")
    assert (microsoft.grant, microsoft.scope) == (
        "device_code",
        "https://outlook.office.com/SMTP.Send offline_access",
    )
    (world.directory / "app").write_text(
        "provider = microsoft\ntenant = t\ngrant = client_credentials\nclient_id = x\nclient_secret = y\n"
    )
    assert read_account(world.p, "app").scope == "https://outlook.office365.com/.default"
    (world.directory / "app~").write_text("")
    (world.directory / ".hidden").write_text("")
    assert account_names(world.p) == ["app", "gm", "ms"]
    assert "y" not in [part.split("=")[-1].strip("')") for part in repr(gmail).split(", ")]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"tokn_endpoint": "x"}, r"line \d: unknown name tokn_endpoint \(did you mean"),
        ({"provider": "hotmail"}, "unknown provider hotmail"),
        ({"grant": "password"}, "unknown grant password"),
        ({"client_auth": "tls"}, "unknown client_auth"),
        ({"token_endpoint": "http://id.example.com/"}, "not an https: URL"),
        ({"token_endpoint": ""}, "no token_endpoint"),
        ({"client_id": ""}, "no client_id"),
        ({"refresh_token": ""}, "no refresh_token, which grant refresh_token needs"),
        ({"grant": "device_code", "device_endpoint": ""}, "no device_endpoint"),
        ({"grant": "client_credentials", "client_secret": ""}, "no client_secret"),
        ({"client_secret_file": "/nonexistent"}, "No such file"),
        ({"provider": "microsoft", "tenant": "a/b"}, "not a tenant"),
        (
            {"provider": "microsoft", "grant": "client_credentials", "token_endpoint": "https://x/{tenant}"},
            "no tenant, which grant client_credentials needs",
        ),
    ],
)
def test_broken_files(world: World, values: dict[str, str], reason: str) -> None:
    world.write(**values)
    with pytest.raises(ConfigError, match=reason):
        world.accounts()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "a\n", "x" * 101])
def test_names(world: World, name: str) -> None:
    with pytest.raises(ConfigError, match="can not be the name"):
        read_account(world.p, name)


# -- tokens


def test_a_token_is_got_once_and_renewed_before_its_end(world: World) -> None:
    world.write()
    accounts = world.accounts()
    assert world.run(*(accounts.token("hop") for _ in range(5))) == [b"access-1"] * 5
    assert world.token(world.accounts()) == b"access-1"  # another process
    state = world.state()
    assert state is not None
    path = Path(state_directory(world.p)) / "hop.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(path.parent)) == ["hop.json", "hop.lock"]
    world.now += 3600 - 300 - 1
    assert world.token(accounts) == b"access-1"
    world.now += 2
    assert world.token(accounts) == b"access-2"
    assert [form["refresh_token"] for _, form in world.provider.requests] == ["seed", "refresh-1"]
    assert all("access-" not in text and "refresh-" not in text for _, _, text in world.sink.lines)


def test_a_lifetime_that_can_be_no_number_of_seconds(world: World) -> None:
    world.write()
    world.provider.lifetime = 10**400
    assert world.token(world.accounts()) == b"access-1"
    state = world.state()
    assert state is not None and state.ends - state.obtained == USUAL_LIFETIME


def test_a_refused_token_is_replaced_unless_it_is_young(world: World) -> None:
    world.write()
    accounts = world.accounts()
    token = world.token(accounts)
    assert world.token(accounts, token) == token
    world.now += YOUNG
    assert world.token(accounts, token) == b"access-2"
    assert world.token(accounts, token) == b"access-2"


def test_failures_are_temporary_and_not_repeated_at_once(world: World) -> None:
    world.write()
    accounts = world.accounts()
    world.provider.down = True
    for _ in range(3):
        with pytest.raises(OAuthError, match=r"OAuth account hop: http://.*/token answered 503") as caught:
            world.token(accounts)
        assert caught.value.temporary
    assert world.provider.count("/token") == 1
    world.now += PAUSE
    world.provider.down = False
    assert world.token(accounts) == b"access-1"
    world.provider.refresh.clear()
    world.now += 4000
    with pytest.raises(OAuthError, match=r"said invalid_grant: expired or .*run: mtad oauth login hop"):
        world.token(accounts)
    with pytest.raises(OAuthError, match="no OAuth account other in"):
        world.run(accounts.token("other"))[0].raiseException()


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b'{"access_token": 1}', b'{"access_token": "a b"}',
     b'{"access_token": "a\\r\\nRSET"}',
     b'{"access_token": "a", "token_type": "mac"}', b"x" * 600_000],
)  # fmt: skip
def test_broken_answers(world: World, raw: bytes) -> None:
    world.write()
    accounts = world.accounts()
    world.provider.raw = raw
    with pytest.raises(OAuthError):
        world.token(accounts)


def test_client_credentials(world: World) -> None:
    world.write(grant="client_credentials", refresh_token="", client_auth="basic", scope="mail")
    assert world.token(world.accounts()) == b"access-1"
    form = world.provider.requests[0][1]
    assert (form["grant_type"], form["scope"], form["by"]) == ("client_credentials", "mail", "basic")


def test_a_changed_account_forgets_its_tokens(world: World) -> None:
    world.write()
    world.token(world.accounts())
    world.provider.refresh.add("seed2")
    world.write(refresh_token="seed2")
    assert world.state() is None
    assert world.token(world.accounts()) == b"access-2"
    assert world.provider.requests[-1][1]["refresh_token"] == "seed2"


def test_a_token_that_can_not_be_kept_serves_on(world: World) -> None:
    world.write()
    accounts = world.accounts()
    path = Path(state_directory(world.p)) / "hop.json"
    path.mkdir(parents=True)
    for number in (1, 2):
        assert world.token(accounts) == b"access-%d" % number
        assert world.token(accounts) == b"access-%d" % number
        assert "cannot keep the new token" in world.sink.lines[-2][2]
        world.now += 4000
    path.rmdir()
    assert world.token(accounts) == b"access-3"
    assert world.token(world.accounts()) == b"access-3"


def test_another_process_holds_the_lock(world: World) -> None:
    world.write()
    file = StateFile(state_directory(world.p), "hop")
    lock = file.lock()
    assert lock is not None
    assert file.lock() is None
    digest = read_account(world.p, "hop").digest
    file.write(TokenState(digest, world.now, world.now + 3600, "theirs", "r"))
    accounts = world.accounts()
    waiting: list[Any] = []
    Deferred.fromCoroutine(accounts.keeper("hop").renew()).addBoth(waiting.append)
    for _ in range(5):
        world.reactor.iterate(0.02)
    assert waiting == []
    os.close(lock)
    assert world.token(accounts) == b"theirs"
    while not waiting:
        world.reactor.iterate(0.02)
    assert waiting == ["theirs"]
    assert world.provider.requests == []


def test_device_and_code(world: World) -> None:
    world.write(grant="device_code", refresh_token="")
    service = world.accounts().keeper("hop").service
    code = world.run(service.device())[0]
    assert (code.code, code.interval) == ("ABCD-EFGH", 1.0)
    assert "device-secret" not in repr(code)
    world.provider.pending = 1
    pending = world.run(service.device_token(code))[0]
    assert pending.value.error == "authorization_pending"
    assert world.run(service.device_token(code))[0].access == "access-1"
    request = service.request("http://127.0.0.1:9/")
    query = parse_qs(urlsplit(request.url).query)
    assert query["x"] == ["1"]
    world.provider._codes["c"] = query["code_challenge"][0]
    assert world.run(service.exchange(request, "c"))[0].refresh == "refresh-2"
    assert world.run(service.exchange(request, "d"))[0].value.error == "invalid_grant"


# -- the state, and addresses that come back


@given(st.binary(max_size=100) | st.sampled_from([b"{}", b"[]", b'{"account": 1}', b"[" * 10000]))
def test_any_state_file_is_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.getbasetemp()
    (directory / "x.json").write_bytes(data)
    assert StateFile(str(directory), "x").read("a") is None


def test_fresh() -> None:
    def at(lifetime: float) -> Callable[[float], bool]:
        return TokenState("", NOW, NOW + lifetime, "t", "").fresh

    assert at(3600)(NOW + 3299)
    assert not at(3600)(NOW + 3300)
    assert at(100)(NOW + 79)
    assert not at(100)(NOW + 80)
    assert not at(3600)(NOW - 301)  # the clock was wrong
    assert not at(float("nan"))(NOW)


REQUEST = Request("https://id.example.com/", "http://127.0.0.1:9/", "state-1", "verifier")


def test_the_address_that_comes_back() -> None:
    assert read_code("http://127.0.0.1:9/?code=abc&state=state-1", REQUEST) == "abc"
    for address, reason in (
        ("?error=access_denied&state=state-1", "the provider said access_denied"),
        ("?code=abc&state=other", "does not belong to this login"),
        ("?code=abc", "does not belong"),
        ("?state=state-1", "no code"),
        ("http://[", "does not belong"),
        ("", "does not belong"),
    ):
        with pytest.raises(OAuthError, match=reason):
            read_code(address, REQUEST)


def test_an_account_shows_no_secret() -> None:
    account = Account("n", "p", "g", "t", "a", "", "d", "c", "post", "s", "SECRET", "REFRESH")
    assert "SECRET" not in repr(account)
    assert "REFRESH" not in repr(account)


def test_strangers_who_visit_do_not_end_a_login() -> None:
    """Any page that the browser shows can send it to a port of this host."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        visitors = []
        for target in (
            "/?error=no&state=x",
            "http://[/?state=x",
            "/?code=x&state=x",
            "/?code=abc&state=state-1",
        ):
            visitor = socket.create_connection(listener.getsockname())
            visitor.sendall(f"GET {target} HTTP/1.1\r\n\r\n".encode())
            visitors.append(visitor)
        assert [_from_browser(listener, REQUEST) for _ in visitors] == ["", "", "", "abc"]
        assert [visitor.recv(12) for visitor in visitors] == [b"HTTP/1.1 404"] * 3 + [b"HTTP/1.1 200"]
        for visitor in visitors:
            visitor.close()
