"""OAuth in both directions: real clients with tokens, and mail to a smarthost that wants them."""

from __future__ import annotations

import base64
import json
import shutil
import smtplib
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.daemon import MTAD, Mtad, Sink, wait_until
from oauth_provider import AUDIENCE, CLIENT, ISSUER, SECRET, Provider

from mtad.net.certificates import make_self_signed

LOGIN = "alice@example.com"
NAME = "hop@example.com"


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


class House:
    """mtad, a provider that it knows, and a smarthost that wants that provider's tokens."""

    def __init__(self, root: Path, method: str = "jwks") -> None:
        make_self_signed("localhost", str(root / "id.pem"), str(root / "id.key"))
        self.provider = Provider((str(root / "id.pem"), str(root / "id.key")))
        self.provider.add_key("k1", "RS256")
        self.tokens = root / "tokens"
        self.tokens.write_text("")
        make_self_signed("localhost", str(root / "sink.pem"), str(root / "sink.key"))
        self.sink = Sink("--tokens", str(self.tokens), "--tls", f"{root}/sink.pem,{root}/sink.key")
        self.provider.granted = self.allow  # type: ignore[method-assign, assignment]
        checks = {
            "jwks": {"mtad_oauth_jwks": f"{self.provider.url}/jwks"},
            "introspection": {
                "mtad_oauth_introspection_url": f"{self.provider.url}/introspect",
                "mtad_oauth_client_id": CLIENT,
                "mtad_oauth_client_secret_file": "{dir}/secret",
            },
        }[method]
        values = {
            "relayhost": f"[127.0.0.1]:{self.sink.port}",
            "smtp_sasl_auth_enable": "yes",
            "smtp_sasl_password_maps": f"inline:{{ {{ [127.0.0.1]:{self.sink.port} = {NAME}:oauth:hop }} }}",
            "smtp_sasl_security_options": "noanonymous, noplaintext",
            "smtp_tls_security_level": "encrypt",
            "smtpd_tls_chain_files": "{dir}/key.pem, {dir}/cert.pem",
            "smtpd_tls_security_level": "may",
            "smtpd_sasl_auth_enable": "yes",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject_unauth_destination",
            "smtp_connection_cache_on_demand": "no",
            "mtad_oauth_CAfile": "{dir}/id.pem",
            "mtad_oauth_issuer": ISSUER,
            "mtad_oauth_audience": AUDIENCE,
            **checks,
        }
        self.mtad = Mtad(
            {name: value.replace("{dir}/", "$config_directory/") for name, value in values.items()},
            files={
                "sasl/smtpd.conf": "pwcheck_method: auxprop\nmech_list: OAUTHBEARER XOAUTH2 PLAIN\n"
                "sasldb_path: {dir}/none\n",
                "secret": SECRET,
                "id.pem": (root / "id.pem").read_text(),
                "oauth/hop": f"token_endpoint = {self.provider.url}/token\n"
                f"authorization_endpoint = https://id.example.com/authorize\n"
                f"device_endpoint = {self.provider.url}/device\ngrant = device_code\n"
                f"client_id = {CLIENT}\nclient_secret_file = {{dir}}/secret\n",
            },
        )
        directory = self.mtad.directory
        (directory / "secret").chmod(0o600)
        (directory / "oauth" / "hop").chmod(0o600)
        make_self_signed("localhost", str(directory / "cert.pem"), str(directory / "key.pem"))

    def allow(self, token: str) -> None:
        """Let the smarthost take this token and no other."""
        self.tokens.write_text(f"{NAME}:{token}\n")

    def log_in(self) -> None:
        done = self.mtad.command("oauth", "login", "hop")
        assert done.returncode == 0, done.stderr
        assert "enter the code ABCD-EFGH" in done.stdout

    def state(self) -> Path:
        return self.mtad.queue / "mtad" / "oauth" / "hop.json"

    def client(self) -> smtplib.SMTP:
        client = smtplib.SMTP("localhost", self.mtad.ports["submission"])
        client.starttls(context=ssl.create_default_context(cafile=str(self.mtad.directory / "cert.pem")))
        client.ehlo()
        return client

    def send(self, subject: str) -> None:
        token = self.provider.sign()
        with self.client() as client:
            login = base64.b64encode(f"user={LOGIN}\1auth=Bearer {token}\1\1".encode()).decode()
            code, text = client.docmd("AUTH", f"XOAUTH2 {login}")
            assert code == 235, text
            client.sendmail(
                LOGIN, ["bob@example.net"], f"From: {LOGIN}\r\nSubject: {subject}\r\n\r\nhello\r\n"
            )

    def arrived(self, subject: str) -> str:
        """The login by which mail of this subject came to the smarthost, when it has."""

        def found() -> list[str]:
            return [str(mail["X-Sink-Login"]) for mail in self.sink.mails() if mail["Subject"] == subject]

        wait_until(found, f"mail {subject!r} at the sink:\n{self.mtad.log()}")
        return found()[0]

    def refresh(self, name: str) -> subprocess.CompletedProcess[str]:
        return self.mtad.command("oauth", "refresh", name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(params=["jwks", "introspection"])
def house(root: Path, request: pytest.FixtureRequest) -> Iterator[House]:
    found = House(root, request.param)
    with found.provider, found.sink, found.mtad:
        yield found


@pytest.fixture
def client_house(root: Path) -> Iterator[House]:
    found = House(root)
    with found.provider, found.sink, found.mtad:
        yield found


def token_of(house: House, **changes: object) -> str:
    """A token that both ways of checking take."""
    token = house.provider.sign(**changes)
    if changes.get("aud", AUDIENCE) == AUDIENCE:
        house.provider.active[token] = {"active": True, **house.provider.claims()}
    return token


def no_token_in_log(house: House, *tokens: str) -> None:
    for token in tokens:
        assert token not in house.mtad.log()
        assert token.rpartition(".")[2] not in house.mtad.log()


# -- clients


def test_curl(house: House, tmp_path: Path) -> None:
    need("curl")
    mechanism = "OAUTHBEARER"  # it takes no other where this is offered
    good, bad = token_of(house), token_of(house, aud="web")
    mail = tmp_path / "mail"
    mail.write_text(f"From: {LOGIN}\r\nSubject: curl {mechanism}\r\n\r\nhello\r\n")

    def curl(token: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                "curl", "--silent", "--show-error", "--ssl-reqd",
                "--cacert", f"{house.mtad.directory}/cert.pem",
                "--url", f"smtp://localhost:{house.mtad.ports['submission']}", "--user", LOGIN,
                "--oauth2-bearer", token, "--login-options", f"AUTH={mechanism}",
                "--mail-from", LOGIN, "--mail-rcpt", "bob@example.net", "--upload-file", str(mail),
            ],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    done = curl(good)
    assert done.returncode == 0, done.stderr + house.mtad.log()
    house.mtad.wait_for_log(f"sasl_method={mechanism}, sasl_username={LOGIN}")
    done = curl(bad)
    assert done.returncode == 67, done.stderr
    log = house.mtad.wait_for_log(f"SASL {mechanism} authentication failed: authentication failure")
    assert "bearer token refused: " in log
    no_token_in_log(house, good, bad)


@pytest.mark.parametrize("mechanism", ["xoauth2", "oauthbearer"])
def test_msmtp(house: House, mechanism: str) -> None:
    need("msmtp")
    if mechanism not in subprocess.run(["msmtp", "--version"], capture_output=True, text=True).stdout:
        pytest.skip(f"this msmtp does not speak {mechanism}")

    def msmtp(token: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                "msmtp", "--file=/dev/null", "--host=localhost", f"--port={house.mtad.ports['submission']}",
                "--tls=on", f"--tls-trust-file={house.mtad.directory}/cert.pem", f"--auth={mechanism}",
                f"--user={LOGIN}", f"--passwordeval=echo {token}", f"--from={LOGIN}", "bob@example.net",
            ],
            input=f"From: {LOGIN}\nSubject: msmtp {mechanism}\n\nhello\n",
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    done = msmtp(token_of(house))
    assert done.returncode == 0, done.stderr + house.mtad.log()
    house.mtad.wait_for_log(f"sasl_method={mechanism.upper()}, sasl_username={LOGIN}")
    done = msmtp(token_of(house, aud="web"))
    assert done.returncode == 77, done.stderr
    house.mtad.wait_for_log("authentication failed: authentication failure")


def test_the_dialogue_of_a_refusal(house: House) -> None:
    bad = base64.b64encode(f"n,a={LOGIN},\1auth=Bearer {token_of(house, aud='web')}\1\1".encode()).decode()
    with house.client() as client:
        for _ in range(2):
            code, text = client.docmd("AUTH", f"OAUTHBEARER {bad}")
            assert code == 334
            assert json.loads(base64.b64decode(text))["status"] == "invalid_token"
            code, text = client.docmd("AQ==")
            assert (code, text) == (535, b"5.7.8 Error: authentication failed: authentication failure")
        good = base64.b64encode(f"user={LOGIN}\1auth=Bearer {token_of(house)}\1\1".encode()).decode()
        assert client.docmd("AUTH", "XOAUTH2")[0] == 334
        assert client.docmd(good)[0] == 235


def test_a_provider_that_is_down_is_a_temporary_failure(house: House) -> None:
    house.provider.down = True
    token = base64.b64encode(f"user={LOGIN}\1auth=Bearer {token_of(house)}\1\1".encode()).decode()
    with house.client() as client:
        code, text = client.docmd("AUTH", f"XOAUTH2 {token}")
        assert (code, text[:5]) == (454, b"4.7.0")
    house.mtad.wait_for_log("bearer token not checked: ")


def test_only_within_tls(house: House) -> None:
    with smtplib.SMTP("localhost", house.mtad.ports["submission"]) as client:
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["PLAIN"]
        assert client.docmd("AUTH", "XOAUTH2")[0] == 535
        client.starttls(context=ssl.create_default_context(cafile=str(house.mtad.directory / "cert.pem")))
        client.ehlo()
        assert client.esmtp_features["auth"].split() == ["OAUTHBEARER", "XOAUTH2", "PLAIN"]


# -- to the smarthost


def test_delivery(client_house: House) -> None:
    house = client_house
    # nobody has logged in yet: mail waits
    house.send("first")
    log, failed = house.mtad.wait_for_log("status=deferred"), time.monotonic()
    assert "dsn=4.7.0" in log
    assert "OAuth account hop: no token yet: run: mtad oauth login hop" in log
    house.log_in()
    state = house.state()
    assert state.stat().st_mode & 0o777 == 0o600
    assert state.parent.stat().st_mode & 0o777 == 0o700
    status = house.mtad.command("oauth", "status")
    assert status.returncode == 0
    assert "hop: grant device_code" in status.stdout
    assert "renewed by itself" in status.stdout
    wait_until(lambda: time.monotonic() > failed + 5, "the end of the pause after a failure")
    assert house.mtad.command("flush").returncode == 0
    assert house.arrived("first") == NAME

    # a token that is refused is replaced, in the same session
    kept = json.loads(state.read_text())
    state.write_text(json.dumps({**kept, "obtained": kept["obtained"] - 100}))
    house.allow("another")
    house.send("second")
    assert house.arrived("second") == NAME
    assert "refused the token of hop, trying a new one" in house.mtad.log()
    assert house.provider.issued == ["access-1", "access-2"]

    # a token that is about to end is renewed
    kept = json.loads(state.read_text())
    state.write_text(json.dumps({**kept, "ends": kept["obtained"] - 1}))
    house.send("third")
    assert house.arrived("third") == NAME
    assert house.provider.issued[-1] == "access-3"
    no_token_in_log(house, *house.provider.issued, "refresh-1", "refresh-2", "refresh-3")


def test_a_token_service_that_is_down_defers(client_house: House) -> None:
    house = client_house
    house.log_in()
    kept = json.loads(house.state().read_text())
    house.state().write_text(json.dumps({**kept, "ends": kept["obtained"] - 1}))
    house.provider.down = "/token"
    house.send("patience")
    log = house.mtad.wait_for_log("status=deferred")
    assert f"dsn=4.7.0, status=deferred (SASL authentication failed: OAuth account hop: {house.provider.url}/token answered 503)" in log  # fmt: skip # noqa: E501
    house.provider.down = False
    time.sleep(5)
    assert house.mtad.command("flush").returncode == 0
    assert house.arrived("patience") == NAME
    assert "bounced" not in house.mtad.log()


def test_client_credentials(root: Path) -> None:
    """Nobody has to log in at a terminal."""
    house = House(root)
    path = house.mtad.directory / "oauth" / "hop"
    path.write_text(path.read_text().replace("grant = device_code", "grant = client_credentials"))
    with house.provider, house.sink, house.mtad:
        house.send("by credentials")
        assert house.arrived("by credentials") == NAME
        assert house.provider.issued == ["access-1"]
        no_token_in_log(house, "access-1")
        house.provider.down = "/token"
        kept = json.loads(house.state().read_text())
        house.state().write_text(json.dumps({**kept, "ends": kept["obtained"] - 1}))
        house.send("later")
        assert "dsn=4.7.0" in house.mtad.wait_for_log("status=deferred")


def test_no_token_without_tls(root: Path) -> None:
    house = House(root)
    house.mtad.write_main_cf(smtp_tls_security_level="none")
    with house.provider, house.sink, house.mtad:
        house.log_in()
        house.send("secret")
        log = house.mtad.wait_for_log("status=deferred")
        assert "encryption needed to use mechanism" in log
        assert "an OAuth token is sent within TLS only" in log


def test_refresh_and_status(client_house: House) -> None:
    house = client_house
    done = house.refresh("hop")
    assert done.returncode == 1
    assert "no token yet" in done.stderr
    assert house.mtad.command("oauth", "status").returncode == 1
    house.provider.pending = 1
    house.log_in()
    done = house.refresh("hop")
    assert done.returncode == 0, done.stderr
    assert house.provider.issued == ["access-1", "access-2"]
    house.provider.refresh.clear()
    done = house.refresh("hop")
    assert done.returncode == 1
    assert "said invalid_grant: expired or revoked (run: mtad oauth login hop)" in done.stderr
    assert "no-such" in house.refresh("no-such").stderr


def test_login_by_browser(client_house: House) -> None:
    house = client_house
    words = [*MTAD, "-c", str(house.mtad.directory), "oauth", "login", "--browser", "hop"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = next(line.strip() for line in process.stdout if line.startswith("https://"))
        visitor = threading.Thread(target=house.provider.visit, args=(url,))
        visitor.start()
        rest = process.stdout.read()
        visitor.join()
    assert process.returncode == 0
    assert "hop: there is a token, valid until" in rest
    assert house.state().exists()


def test_both_processes_renew_once(client_house: House) -> None:
    house = client_house
    house.log_in()
    refreshes = [
        subprocess.Popen([*MTAD, "-c", str(house.mtad.directory), "oauth", "refresh", "hop"])
        for _ in range(3)
    ]
    assert [process.wait(60) for process in refreshes] == [0, 0, 0]
    assert len(house.provider.issued) <= 4
    assert json.loads(house.state().read_text())["access"] == house.provider.issued[-1]
