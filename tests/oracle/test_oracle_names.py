"""The name server of the tests, seen by the C library and by the installed Postfix."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracle.names import Names, Zone, answer
from oracle.postfix import AVAILABLE as POSTFIX

from mtad.net.dns_message import decode, encode_query

ZONE = """
example.com         MX    10 mx.example.com      ; a remark
example.com         MX    20 192.0.2.9.in-addr.example
mx.example.com  300 A     192.0.2.25
mx.example.com      AAAA  2001:db8::25
www.example.com     CNAME mx.example.com
out.example.com     CNAME nothing.example.com
192.0.2.9           PTR   client.example.net
client.example.net  A     192.0.2.9
*.list.example      A     127.0.0.2
*.list.example      TXT   "two strings" "in one record"
example.com         SECURE
broken.example      SERVFAIL
half.example        A     192.0.2.7
half.example        SERVFAIL MX
large.example       A     192.0.2.8
large.example       TRUNCATED
_25._tcp.mx.example.com TLSA 3 1 1 00ff
"""


@pytest.fixture(scope="module")
def names() -> Iterator[Names]:
    with Names(ZONE) as names:
        yield names


def _libc(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import socket; print({code})"], capture_output=True, text=True
    )
    return (done.stdout or done.stderr).strip().splitlines()[-1]


def test_the_c_library_asks_it(names: Names) -> None:
    with names.asked() as asked:
        assert _libc("socket.gethostbyname('www.example.com')") == "192.0.2.25"
        assert _libc("socket.gethostbyaddr('192.0.2.9')[0]") == "client.example.net"
        assert "Name or service not known" in _libc("socket.getaddrinfo('no.example.com', 1)")
        assert "Temporary failure" in _libc("socket.getaddrinfo('broken.example', 1)")
        assert _libc("socket.gethostbyname('large.example')") == "192.0.2.8"
        assert ("9.2.0.192.in-addr.arpa", "PTR") in asked()


def test_its_addresses_are_ours(names: Names) -> None:
    with socket.socket() as listener:
        listener.bind(("192.0.2.25", 25))
        listener.listen()
        with socket.create_connection(("192.0.2.25", 25), source_address=("198.51.100.7", 0)):
            assert listener.accept()[1][0] == "198.51.100.7"


@pytest.mark.skipif(not POSTFIX, reason="needs Debian's postfix package")
def test_postfix_asks_it(names: Names, tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    # any program of Postfix's that looks up a name
    command = ["postmap", "-c", str(tmp_path), "-q", "x", "tcp:mx.example.com:1"]
    with names.asked() as asked:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert ("mx.example.com", "A") in asked(), done.stderr


def test_the_rest_of_the_process_stays_where_it_was() -> None:
    before = Path("/etc/resolv.conf").read_text()
    seen: list[str] = []
    inside, done = threading.Event(), threading.Event()

    def elsewhere() -> None:
        inside.wait(60)
        seen.append(Path("/etc/resolv.conf").read_text())
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    here = Path.cwd()
    with Names(ZONE):
        assert "127.0.0.1" in Path("/etc/resolv.conf").read_text()
        inside.set()
        done.wait(60)
    thread.join()
    assert seen == [before]
    assert Path("/etc/resolv.conf").read_text() == before
    assert Path.cwd() == here


@pytest.mark.parametrize(
    ("name", "kind", "rcode", "found"),
    [
        ("example.com", "MX", 0, [(10, "mx.example.com"), (20, "192.0.2.9.in-addr.example")]),
        ("EXAMPLE.com", "A", 0, []),
        ("com", "A", 0, []),
        ("nothing.example.com", "A", 3, []),
        ("www.example.com", "AAAA", 0, ["mx.example.com", "2001:db8::25"]),
        ("out.example.com", "A", 3, ["nothing.example.com"]),
        ("1.2.3.list.example", "A", 0, ["127.0.0.2"]),
        ("x.list.example", "TXT", 0, [(b"two strings", b"in one record")]),
        ("broken.example", "A", 2, []),
        ("half.example", "MX", 2, []),
        ("half.example", "A", 0, ["192.0.2.7"]),
    ],
)
def test_answers(name: str, kind: str, rcode: int, found: list[object]) -> None:
    asked, type_, reply = answer(Zone.parse(ZONE), encode_query(7, name, kind), False)
    message = decode(reply)
    assert (asked, type_) == (name.lower(), kind)
    assert (message.id, message.rcode, [record.data for record in message.answers]) == (7, rcode, found)
    assert bool(message.authority) == (rcode == 3 or (rcode == 0 and not found))


def test_secure_and_truncated() -> None:
    zone = Zone.parse(ZONE)

    def flags(name: str, ad: bool, stream: bool = False) -> int:
        query = bytearray(encode_query(7, name, "A"))
        query[3] |= 0x20 if ad else 0
        return decode(answer(zone, bytes(query), stream)[2]).flags

    assert flags("mx.example.com", True) & 0x20
    assert not flags("mx.example.com", False) & 0x20
    assert not flags("half.example", True) & 0x20
    assert flags("large.example", False) & 0x200
    assert not flags("large.example", False, True) & 0x200
