"""TLS of the client over more than one message: connections and sessions that serve again."""

from __future__ import annotations

import smtplib
from pathlib import Path

import pytest
from live.daemon import Mtad, wait_until
from oracle.upstream import Upstream

from mtad.net.certificates import make_self_signed

MAIN = {
    "mynetworks": "127.0.0.0/8",
    "smtp_tls_loglevel": "1",
    "smtp_connection_cache_destinations": "127.0.0.1",
    "smtp_connection_cache_time_limit": "20s",
}
WHO = "TLS connection"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    directory: Path = tmp_path_factory.mktemp("upstream")
    names = str(directory / "cert.pem"), str(directory / "key.pem")
    make_self_signed("localhost", *names)
    return names


def deliver(mtad: Mtad, number: int) -> None:
    with smtplib.SMTP("127.0.0.1", mtad.ports["submission"], timeout=60) as client:
        client.sendmail("a@example.com", ["b@example.net"], "Subject: x\r\n\r\nx\r\n")
    wait_until(lambda: mtad.log().count("status=sent") == number, "a delivery")


@pytest.mark.parametrize(
    ("settings", "sessions"),
    [
        ({"smtp_tls_security_level": "encrypt"}, 1),
        ({"smtp_tls_security_level": "encrypt", "smtp_tls_connection_reuse": "yes"}, 1),
        ({"smtp_tls_security_level": "encrypt", "smtp_tls_connection_reuse": "no"}, 2),
        ({"smtp_tls_policy_maps": "static:{encrypt connection_reuse=no}"}, 2),
        (
            {
                "smtp_tls_policy_maps": "static:{encrypt connection_reuse=yes}",
                "smtp_tls_connection_reuse": "no",
            },
            1,
        ),
    ],
)
def test_connections_are_used_again(
    upstream: tuple[str, str], settings: dict[str, str], sessions: int
) -> None:
    with Upstream(tls=upstream) as server:
        main = {**MAIN, "relayhost": f"[127.0.0.1]:{server.port}", **settings}
        with Mtad(main) as mtad:
            deliver(mtad, 1)
            deliver(mtad, 2)
            log = mtad.log()
    assert len(server.sessions) == sessions
    where = f"to 127.0.0.1[127.0.0.1]:{server.port}"
    assert log.count(f"{WHO} established {where}") == sessions
    assert log.count(f"{WHO} reused {where}") == 2 - sessions
    if sessions == 2:  # then at least the handshake is short
        assert "Untrusted TLS connection established" in log


def test_an_answer_before_the_question(upstream: tuple[str, str]) -> None:
    """smtp_tls_block_early_mail_reply; Postfix's own looks for it when it is too late."""
    with Upstream(tls=upstream) as server:
        server.rules = {"ehlo-tls": b"250-x\n250 DSN\n250 2.1.0 Ok"}
        main = {
            **MAIN,
            "relayhost": f"[127.0.0.1]:{server.port}",
            "smtp_tls_security_level": "encrypt",
            "smtp_tls_block_early_mail_reply": "yes",
        }
        with Mtad(main) as mtad:
            with smtplib.SMTP("127.0.0.1", mtad.ports["submission"], timeout=60) as client:
                client.sendmail("a@example.com", ["b@example.net"], "Subject: x\r\n\r\nx\r\n")
            wait_until(lambda: "status=" in mtad.log(), "a delivery")
            log = mtad.log()
    assert "dsn=4.7.0, status=deferred (unexpected server message)" in log
    pair = "127.0.0.1[127.0.0.1]"
    assert f"warning: server {pair} violates smtp_tls_block_early_mail_reply policy" in log
    assert not any(line.startswith(b"MAIL") for session in server.sessions for line in session.lines)
