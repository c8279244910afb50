"""A filter before the queue that misbehaves, and clients that leave it alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live.daemon import Mtad, wait_until
from live.talk import Talk
from oracle.upstream import OFFERS, Heard, Upstream

BODY = b"Subject: x\r\n\r\n" + (b"0123456789" * 99 + b"\r\n") * 1000


class Client(Talk):
    """A session up to the content."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        for line in ("EHLO c.example", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "DATA"):
            self.reply = self.say(line)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream((*OFFERS, "XFORWARD NAME PORT")) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def mtad(upstream: Upstream) -> Iterator[Mtad]:
    proxy = {"smtpd_proxy_filter": f"[127.0.0.1]:{upstream.port}", "smtpd_proxy_timeout": "1s"}
    services = [
        ("submission", proxy),
        ("adjusted", {**proxy, "smtpd_proxy_options": "speed_adjust"}),
        ("small", {**proxy, "message_size_limit": "1000"}),
    ]
    with Mtad({"mtad_smtpd_extensions": "binarymime"}, services) as mtad:
        yield mtad


@pytest.fixture(params=["submission", "adjusted"])
def port(mtad: Mtad, request: pytest.FixtureRequest) -> int:
    return mtad.ports[request.param]


def _last(upstream: Upstream) -> Heard:
    heard = upstream.sessions[-1]
    wait_until(lambda: heard.over, "the end of the filter's session")
    return heard


def test_a_large_message_passes_whole(port: int, upstream: Upstream) -> None:
    upstream.rules = {}
    client = Client(port)
    assert client.say(BODY + b".\r\n").startswith(b"250 2.0.0 Ok: kept")
    client.close()
    content = _last(upstream).lines[-2]
    assert content.endswith(BODY + b".\r\n") and content.startswith(b"Received: from c.example")


def test_what_is_not_complete_has_no_end(mtad: Mtad, upstream: Upstream) -> None:
    upstream.rules = {}
    client = Client(mtad.ports["submission"])
    client.socket.sendall(b"Subject: x\r\n\r\nhal")
    client.close()
    assert _last(upstream).lines[-1].endswith(b"(cut)\r\n.\r\n")


def test_what_is_too_large_has_no_end(mtad: Mtad, upstream: Upstream) -> None:
    upstream.rules = {}
    client = Client(mtad.ports["small"])
    assert client.say(BODY + b".\r\n") == b"552 5.3.4 Error: message file too big\r\n"
    client.close()
    assert _last(upstream).lines[-1].endswith(b"(cut)\r\n.\r\n")
    assert "NOQUEUE: queue file size limit exceeded" in mtad.log()
    assert "proxy-reject: END-OF-MESSAGE: 354 Go on; from=<a@example.com>" in mtad.log()


def test_garbage_is_no_answer(port: int, mtad: Mtad, upstream: Upstream) -> None:
    upstream.rules = {"dot": b"what\n99 is this\n250-2.0.0 one\n250 2.0.0 two"}
    client = Client(port)
    assert client.say(b"Subject: x\r\n\r\n.\r\n") == b"250-2.0.0 one\r\n250 2.0.0 two\r\n"
    client.close()
    assert f"warning: received garbage from proxy [127.0.0.1]:{upstream.port}: 99 is this" in mtad.log()


@pytest.mark.parametrize("stage", ["connect", "dot"])
def test_a_filter_that_says_nothing(port: int, mtad: Mtad, upstream: Upstream, stage: str) -> None:
    upstream.rules = {stage: b"250-go"}
    client = Client(port)
    reply = client.reply if client.reply.startswith(b"5") else client.say(b"Subject: x\r\n\r\n.\r\n")
    assert reply.startswith(
        (b"451 4.3.0 Error: queue file write error", b"554 5.5.1 Error: no valid recipients")
    )
    client.close()
    mtad.wait_for_log(f"timeout talking to proxy [127.0.0.1]:{upstream.port}")


def test_binary_content_is_announced_as_what_it_became(mtad: Mtad, upstream: Upstream) -> None:
    upstream.rules = {}
    client = Talk(mtad.ports["submission"])
    client.say("EHLO c.example")
    content = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: application/x-y\r\n"
    content += b"Content-Transfer-Encoding: binary\r\n\r\n\x00\n\xff\r"
    for said in (
        "MAIL FROM:<a@example.com> BODY=BINARYMIME",
        "RCPT TO:<b@example.net>",
        b"BDAT %d LAST\r\n%b" % (len(content), content),
    ):
        assert client.say(said).startswith(b"250")
    client.close()
    lines = _last(upstream).lines
    assert b"MAIL FROM:<a@example.com> BODY=8BITMIME" in lines
    assert b"\0" not in lines[-2] and b"base64" in lines[-2]
