"""What the higher TLS log levels tell: OpenSSL's steps and alerts, and the bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from net_pki import Issued, handshake, log, parameters, texts
from OpenSSL import SSL

from mtad.net.tls_client import ClientTLS
from mtad.net.tls_context import Logging
from mtad.net.tls_trace import Trace

SERVER = Issued("mx.test", names=("mx.test",))


def server(minimum: int = 0) -> SSL.Connection:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_privatekey(SERVER.key)
    context.use_certificate(SERVER.certificate)
    context.set_min_proto_version(minimum)
    return SSL.Connection(context, None)


def said(level: str, servername: str = "") -> list[str]:
    """What a client logs of a handshake, and of ten bytes that it gets after it."""
    maillog, lines = log()
    tls = ClientTLS(parameters(smtp_tls_loglevel=level, smtp_tls_security_level="may"), maillog)
    policy = replace(tls.policy, servername=servername)
    shake = tls.start(policy, nexthop="test", host="mx.test", address="192.0.2.1", port=25)
    connection = shake.connection()
    handshake(server(), connection)
    shake.finish(connection)
    lines.append(("", "", "-- done"))
    connection.bio_write(b"\x17\x03\x03\x00\x05hello")
    return texts(lines)


@pytest.mark.parametrize(
    ("level", "steps", "dumped", "later"),
    [
        ("1", False, False, False),
        ("2", True, False, False),
        ("ssl-debug", True, False, False),
        ("3", True, True, False),
        ("1, ssl-handshake-packet-dump", False, True, False),
        ("4", True, True, True),
        ("9", True, True, True),
        ("ssl-session-packet-dump", False, True, True),
    ],
)
def test_levels(level: str, steps: bool, dumped: bool, later: bool) -> None:
    found = said(level)
    done = found.index("-- done")
    during, after = found[:done], found[done + 1 :]
    assert ("SSL_connect:SSLv3/TLS write client hello" in during) is steps
    assert any(text.startswith("write to ") for text in during) is dumped
    assert ("0000 17 03 03 00 05 68 65 6c|6c 6f                    .....hel lo" in after) is later
    assert any(text.startswith("read from ") for text in after) is later


def test_verbose() -> None:
    found = said("verbose", servername="hostname")
    assert found[:2] == [
        "initializing the client-side TLS engine",
        "setting up TLS connection to mx.test[192.0.2.1]:25",
    ]
    assert "mx.test[192.0.2.1]:25: depth=0 verify=0 subject=/CN=mx.test" in found
    assert not any("SNI hostname" in text or text.startswith("SSL_connect:") for text in found)
    assert "mx.test[192.0.2.1]:25: SNI hostname: mx.test" in said("debug", servername="hostname")


def test_an_alert_is_told() -> None:
    maillog, lines = log()
    trace = Trace(
        Logging.parse(parameters(smtp_tls_loglevel="2"), "smtp_tls_loglevel", maillog), maillog, "x", "S"
    )
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    client, old = trace.connection(context), server(SSL.TLS1_3_VERSION)
    client.set_connect_state()
    old.set_accept_state()
    with pytest.raises(SSL.WantReadError):
        client.do_handshake()
    old.bio_write(client.bio_read(9999))
    with pytest.raises(SSL.Error):
        old.do_handshake()
    client.bio_write(old.bio_read(9999))
    with pytest.raises(SSL.Error):
        client.do_handshake()
    found = texts(lines)
    assert "SSL3 alert read:fatal:protocol version" in found
    assert found[-1].startswith("S:error in ")


def test_rows() -> None:
    """As Postfix writes them."""
    maillog, lines = log()
    Trace(
        Logging.parse(parameters(smtp_tls_loglevel="4"), "smtp_tls_loglevel", maillog), maillog, "x", "S"
    )._packet(
        0x557288CFBFA0,
        0x557288D590B0,
        True,
        bytes.fromhex("160301020001000 1fc0303557c3fbabd".replace(" ", "")) + b"\0 \0",
    )
    assert texts(lines) == [
        "write to 557288CFBFA0 [557288D590B0] (19 bytes => 19 (0x13))",
        "0000 16 03 01 02 00 01 00 01|fc 03 03 55 7c 3f ba bd  ........ ...U|?..",
        "0010 - <SPACES/NULLS>",
    ]
