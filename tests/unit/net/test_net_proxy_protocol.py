"""PROXY headers, whole and in pieces."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.net.proxy_protocol import LONGEST, Proxied, ProxyError, ProxyHeader

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
ENDS = Proxied("192.0.2.7", "4711", "198.51.100.2", "587")
FOUR = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 4711, 587)


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


GOOD = {
    b"PROXY TCP4 192.0.2.7 198.51.100.2 4711 587\r\n": ENDS,
    b"PROXY tcp6 ::ffff:192.0.2.7 2001:DB8::1 1 65535\r\n": Proxied("192.0.2.7", "1", "2001:db8::1", "65535"),
    v2(0x21, 0x11, FOUR): ENDS,
    v2(0x21, 0x11, FOUR + b"\x04\x00\x02xx"): ENDS,
    v2(0x20, 0x00, b""): None,
    v2(0x20, 0x11, FOUR): None,
}


def feed(header: ProxyHeader, data: bytes, size: int) -> bytes:
    """Show ``data`` bit by bit, as a socket does that is looked at; gives what was left alone."""
    shown = 0
    while not header.complete and shown < len(data):
        shown = min(shown + size, len(data))
        taken = header.take(data[:shown])
        data, shown = data[taken:], shown - taken
    return data


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize(("data", "ends"), GOOD.items())
def test_good_headers_are_taken_and_nothing_more(data: bytes, ends: Proxied | None, size: int) -> None:
    header = ProxyHeader()
    assert feed(header, data + b"EHLO x\r\n", size) == b"EHLO x\r\n"
    assert header.complete
    assert header.ends == ends


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"EHLO x\r\n", "short protocol header"),
        (b"EHLO client.example\r\n", "unrecognized protocol header"),
        (b"PROXY UNKNOWN\r\n", "bad or missing protocol type"),
        (b"PROXY TCP4 fe80::1%eth0 1.2.3.4 1 1\r\n", "bad or missing client address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3 1 1\r\n", "bad or missing server address"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n", "bad or missing client port"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", "bad or missing server port"),
        (b"PROXY " + b"x" * 110, "missing protocol header terminator"),
        (v2(0x11, 0x11, FOUR), "unrecognized protocol version"),
        (v2(0x2F, 0x11, FOUR), "bad command in proxy header"),
        (v2(0x21, 0x00, b""), "unsupported network protocol"),
        (v2(0x21, 0x11, FOUR[:-1]), "short address field"),
        (v2(0x21, 0x21, FOUR), "short address field"),
        (v2(0x21, 0x11, bytes(LONGEST)), "short version 2 protocol header"),
    ],
)
def test_bad_headers(data: bytes, problem: str) -> None:
    with pytest.raises(ProxyError, match=problem):
        ProxyHeader().take(data)


@pytest.mark.parametrize(("data", "ends"), GOOD.items())
def test_addresses_that_are_not_used_here(data: bytes, ends: Proxied | None) -> None:
    header = ProxyHeader(ipv4=False, ipv6=False)
    if ends is None:
        header.take(data)
        assert header.complete
    else:
        with pytest.raises(ProxyError):
            header.take(data)


@given(
    st.one_of(st.binary(max_size=200), st.binary(max_size=60).map(lambda end: SIGNATURE + end)),
    st.integers(1, 9),
)
def test_any_bytes(data: bytes, size: int) -> None:
    header = ProxyHeader()
    try:
        rest = feed(header, data, size)
    except ProxyError:
        return
    assert header.data + rest == data
