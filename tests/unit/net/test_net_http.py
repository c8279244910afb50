"""The HTTP client: what it asks, whom it trusts, how it fails."""

from __future__ import annotations

import datetime
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from oauth_provider import CLIENT, SECRET, Provider
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mtad.net.certificates import make_self_signed
from mtad.net.http import HttpAnswer, HttpClient, HttpError, basic, url_problem
from mtad.net.shared import SharedWork

Ask = Callable[..., HttpAnswer]


@pytest.fixture(scope="module")
def reactor() -> Iterator[Any]:
    """The one reactor, turned by hand: Twisted's TLS leans on it, whatever reactor a connection is of."""
    from twisted.internet import reactor as installed

    own: Any = installed
    own.getThreadPool().start()
    yield own
    own.getThreadPool().stop()


@pytest.fixture
def ask(reactor: Any) -> Ask:
    """``ask(url, timeout, authorities)``; raises what the client raises."""

    def run(url: str, timeout: float = 5.0, authorities: str = "", **form: str) -> HttpAnswer:
        client = HttpClient(reactor, timeout, authorities)
        results: list[Any] = []
        work = client.post(url, form, basic(CLIENT, SECRET)) if form else client.get(url)
        Deferred.fromCoroutine(work).addBoth(results.append)
        deadline = time.monotonic() + 10
        while not results:
            assert time.monotonic() < deadline, "it takes too long"
            reactor.iterate(0.02)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        assert isinstance(results[0], HttpAnswer)
        return results[0]

    return run


def named_otherwise(path: str, key_path: str) -> None:
    """A certificate for other.example alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("other.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    Path(path).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    Path(key_path).write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))


def test_tls(ask: Ask, tmp_path: Path) -> None:
    good, other = str(tmp_path / "good.pem"), str(tmp_path / "other.pem")
    make_self_signed("localhost", good, str(tmp_path / "good.key"))
    named_otherwise(other, str(tmp_path / "other.key"))
    with Provider((good, str(tmp_path / "good.key"))) as provider:
        provider.active["t"] = {"active": True}
        answer = ask(f"{provider.url}/introspect?x=secret", authorities=good, token="t")
        assert (answer.status, answer.json()) == (200, {"active": True})
        assert "secret" not in answer.where
        for authorities in ("", other):
            with pytest.raises(
                HttpError, match=r"cannot ask https://localhost:\d+/introspect: TLS: .*verify"
            ):
                ask(f"{provider.url}/introspect?x=secret", authorities=authorities)
    with Provider((other, str(tmp_path / "other.key"))) as provider:
        for url in (provider.url, f"https://127.0.0.1:{provider.port}"):
            with pytest.raises(HttpError, match=r"cannot ask https://.*/jwks: .*[Mm]ismatch"):
                ask(f"{url}/jwks", authorities=other)


def test_a_server_that_says_nothing(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(HttpError, match=r"did not answer within 0 seconds"):
            ask(f"http://127.0.0.1:{listener.getsockname()[1]}/x", timeout=0.2)
        closed = listener.getsockname()[1]
    with pytest.raises(HttpError, match="Connection refused"):
        ask(f"http://127.0.0.1:{closed}/x")


def test_answers_that_can_not_be_used(ask: Ask) -> None:
    with Provider() as provider:
        provider.raw = b"x" * (512 * 1024 + 1)
        with pytest.raises(HttpError, match="longer than"):
            ask(f"{provider.url}/jwks")
        for raw in (b"", b"[]", b"\xff", b"[" * 100_000):
            provider.raw = raw
            with pytest.raises(HttpError, match="answered 200 and no JSON object"):
                ask(f"{provider.url}/jwks").json()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://id.example.com/x?y=z", ""),
        ("http://127.0.0.1:8080/x", ""),
        ("http://[::1]/x", ""),
        ("http://id.example.com/", "not an https: URL, and not of this host"),
        ("ftp://x/", "not an https: URL"),
        ("https:///x", "not an https: URL"),
        ("https://x:port/", "Port could not be cast to integer value as 'port'"),
        ("https://u:p@x/", "a user name or a fragment in the URL"),
        ("https://x/#y", "a user name or a fragment in the URL"),
        ("https://x/\r\nHost: y", "a character that can not be in a URL"),
        ("https://ü.example/", "a character that can not be in a URL"),
    ],
)
def test_urls(url: str, problem: str) -> None:
    assert url_problem(url) == problem


def test_basic_is_encoded_first() -> None:
    assert basic("a b", "c:%") == "Basic YStiOmMlM0ElMjU="


def test_shared_work() -> None:
    inner: list[Deferred[int]] = []

    async def work() -> int:
        inner.append(Deferred())
        return await inner[-1]

    shared = SharedWork(work)
    results: list[Any] = []
    first, second = shared().addBoth(results.append), shared().addBoth(results.append)
    first.cancel()
    assert len(inner) == 1
    inner[0].callback(7)
    assert results[1:] == [7]
    third = shared()
    failures: list[Any] = []
    third.addErrback(failures.append)
    inner[1].errback(ValueError())
    assert failures[0].check(ValueError)
    assert second.called


@pytest.mark.parametrize("forever", [b"X: " + b"x" * 60 + b"\r\n", b"X: y\r\n" + b" " + b"x" * 60 + b"\r\n"])
def test_headers_without_end(ask: Ask, forever: bytes) -> None:
    """They are no part of the answer's content, and as bounded."""
    sent = [0]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                try:
                    while sent[0] < 50_000_000:
                        sent[0] += connection.send(forever * 1000)
                except OSError:
                    pass

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(HttpError, match="longer than"):
            ask(f"http://127.0.0.1:{listener.getsockname()[1]}/x")
        server.join(10)
    assert sent[0] < 20_000_000  # what the kernel holds on the way is among it
