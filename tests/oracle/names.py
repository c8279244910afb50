"""A name server with the test's own data, in a network of the test's own.

::

    @pytest.fixture(scope="module", autouse=True)
    def names() -> Iterator[Names]:
        with Names(ZONE) as names:
            yield names

Within the ``with``, the thread that entered it, and each process, thread and socket that it begins, is in a
network namespace with nothing but loopback, and sees an ``/etc/resolv.conf`` and ``/etc/hosts`` that know
only this server: so do ``Postfix(...)``, ``Mtad(...)``, ``House(...)``, ``Upstream()`` and test clients,
without a change.  All addresses of :data:`NETWORKS` are this host's own there: a test may listen on
``192.0.2.25`` port 25 or connect from ``198.51.100.7``.  Leave it in the thread that entered it, after
ending what was started.  The test is skipped where that is not allowed.

Data is a line a record, ``name [ttl] TYPE data``; the TTL is 60 unless given; ``;`` and ``#`` begin remarks::

    example.com         MX    10 mx.example.com
    mx.example.com      A     192.0.2.25
    _25._tcp.mx.example.com TLSA 3 1 1 0123ab...
    9.2.0.192.in-addr.arpa PTR client.example.net   ; or, shorter:
    192.0.2.9           PTR   client.example.net
    null.example        MX    0 .
    *.list.example      A     127.0.0.2             ; stands for all names below that are not there
    text.example        TXT   "two strings" "in one record"
    example.com         SECURE                      ; and all below: answers have the AD bit, if asked for
    broken.example      SERVFAIL                    ; to all questions; ``SERVFAIL MX``: to those for MX
    silent.example      SILENT                      ; no answer
    odd.example         REFUSED
    junk.example        GARBAGE MX                  ; an answer with a record that makes no sense
    large.example       TRUNCATED                   ; by UDP; whole by TCP

Names are followed through CNAMEs as a recursive server does.  ``names.queries`` lists what was asked:
``(name, type)``, lower case.  ``names.load(text)`` puts other data in place at any time (the caches of the
programs that asked are their own).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import socket
import socketserver
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

import pytest


def _possible() -> bool:
    """Whether we may have a namespace: root in a container may not."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    command = ["unshare", "--net", "--mount", "ip", "link", "set", "lo", "up"]
    return (
        shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0
    )


AVAILABLE = _possible()
WHY_NOT = "needs root, iproute2 and the right to a network namespace"

#: Documentation networks (RFC 5737, RFC 3849); all their addresses are ours within the namespace.
NETWORKS = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")

TYPES = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33, "OPT": 41,
    "DS": 43, "RRSIG": 46, "DNSKEY": 48, "TLSA": 52, "ANY": 255,
}  # fmt: skip
_NUMBERS = {number: name for name, number in TYPES.items()}
_RCODES = {"SERVFAIL": 2, "NXDOMAIN": 3, "NOTIMP": 4, "REFUSED": 5}
_MODES = (*_RCODES, "SILENT", "GARBAGE", "TRUNCATED")
_TTL = 60
_AD, _DO = 0x20, 0x8000

_NSSWITCH = (
    "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"
)

# of <sched.h> and <sys/mount.h>
_CLONE_FS, _CLONE_NEWNS, _CLONE_NEWNET = 0x200, 0x20000, 0x40000000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000


# -- data


@dataclass
class Zone:
    """What the server knows."""

    records: dict[str, dict[str, list[tuple[int, bytes, str]]]] = field(default_factory=dict)
    modes: dict[str, dict[str, str]] = field(default_factory=dict)  # by name, then by type or "ANY"
    secure: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)  # those with something below them, too

    @classmethod
    def parse(cls, text: str) -> Zone:
        zone = cls()
        for line in text.splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
            lexer.whitespace_split, lexer.commenters = True, ";#"
            words = list(lexer)
            if words:
                zone._add(words)
        return zone

    def _add(self, words: list[str]) -> None:
        name = _canonical(words.pop(0))
        with contextlib.suppress(ValueError):
            name = ip_address(name).reverse_pointer
        ttl = int(words.pop(0)) if words[0].isdigit() else _TTL
        kind, *data = words
        labels = name.split(".")
        self.names.update(".".join(labels[at:]) for at in range(len(labels)))
        if kind == "SECURE":
            self.secure.add(name)
        elif kind in _MODES:
            self.modes.setdefault(name, {})[data[0] if data else "ANY"] = kind
        else:
            target = _canonical(data[0]) if kind == "CNAME" else ""
            record = (ttl, _data(kind, data), target)
            self.records.setdefault(name, {}).setdefault(kind, []).append(record)

    def find(self, name: str) -> dict[str, list[tuple[int, bytes, str]]] | None:
        """The records of a name, or of the wildcard that stands for it; None: there is no such name."""
        if name in self.names:
            return self.records.get(name, {})
        parent = name
        while "." in parent:
            parent = parent.partition(".")[2]
            if f"*.{parent}" in self.records:
                return self.records[f"*.{parent}"]
            if parent in self.names:
                return None
        return None

    def mode(self, name: str, kind: str) -> str:
        modes = self.modes.get(name, {})
        return modes.get(kind) or modes.get("ANY", "")

    def is_secure(self, name: str) -> bool:
        labels = name.split(".")
        return any(".".join(labels[at:]) in self.secure for at in range(len(labels)))


def _canonical(name: str) -> str:
    return name.lower().removesuffix(".")


def _wire_name(name: str) -> bytes:
    labels = [label.encode("latin-1") for label in name.removesuffix(".").split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def _data(kind: str, words: list[str]) -> bytes:
    match kind:
        case "A" | "AAAA":
            return ip_address(words[0]).packed
        case "NS" | "CNAME" | "PTR":
            return _wire_name(words[0])
        case "MX":
            return struct.pack("!H", int(words[0])) + _wire_name(words[1])
        case "SRV":
            return struct.pack("!3H", *map(int, words[:3])) + _wire_name(words[3])
        case "TXT":
            parts = [word.encode("latin-1") for word in words]
            return b"".join(bytes((len(part),)) + part for part in parts)
        case "TLSA":
            return bytes(map(int, words[:3])) + bytes.fromhex("".join(words[3:]))
    raise ValueError(f"record type {kind}")


# -- answers


def _question(query: bytes) -> tuple[str, int, int]:
    """The name and type that are asked for, and where the question ends."""
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1"))
        at += 1 + query[at]
    return ".".join(labels), int.from_bytes(query[at + 1 : at + 3], "big"), at + 5


def answer(zone: Zone, query: bytes, stream: bool) -> tuple[str, str, bytes]:
    """What is asked (name, type), and the answer; no answer if it is empty."""
    identifier, flags = struct.unpack_from("!HH", query)
    asked, number, end = _question(query)
    name, kind = _canonical(asked), _NUMBERS.get(number, f"TYPE{number}")
    edns = query[end:] if query[10:12] != b"\0\0" else b""
    wants_ad = bool(flags & _AD) or (len(edns) >= 9 and bool(int.from_bytes(edns[7:9], "big") & _DO))
    limit = 65535 if stream else max(512, int.from_bytes(edns[3:5], "big") if edns else 512)
    mode = zone.mode(name, kind)
    if mode == "SILENT":
        return name, kind, b""
    rcode, found, secure = _look_up(zone, name, kind)
    rcode = _RCODES.get(mode, rcode)
    if mode == "GARBAGE":
        found = [(name, kind, 60, b"\x07")]
    records = [] if mode in _RCODES else found
    body = b"".join(
        _wire_name(owner) + struct.pack("!HHIH", TYPES[type_], 1, ttl, len(data)) + data
        for owner, type_, ttl, data in records
    )
    authority = b""
    if rcode in (0, 3) and not any(record[1] == kind for record in records):
        data = _wire_name("ns.test") + _wire_name("root.test") + struct.pack("!5I", 1, 600, 60, 86400, _TTL)
        authority = b"\0" + struct.pack("!HHIH", TYPES["SOA"], 1, _TTL, len(data)) + data
    extra = b"\0" + struct.pack("!HHIH", TYPES["OPT"], 4096, 0, 0) if edns else b""
    short = (mode == "TRUNCATED" and not stream) or end + len(body) + len(authority) + len(extra) > limit
    counts = (1, len(records), int(bool(authority)), int(bool(extra)))
    if short:
        body, authority, counts = b"", b"", (1, 0, 0, int(bool(extra)))
    bits = 0x8080 | (flags & 0x0110) | (0x0200 if short else 0) | (_AD if secure and wants_ad else 0) | rcode
    out = struct.pack("!6H", identifier, bits, *counts) + query[12:end] + body + authority + extra
    return name, kind, out


def _look_up(zone: Zone, name: str, kind: str) -> tuple[int, list[tuple[str, str, int, bytes]], bool]:
    found: list[tuple[str, str, int, bytes]] = []
    secure = True
    for _ in range(20):
        secure = secure and zone.is_secure(name)
        if zone.mode(name, kind) in _RCODES:
            return _RCODES[zone.mode(name, kind)], [], secure
        here = zone.find(name)
        if here is None:
            return 3, found, secure
        if kind in here:
            found += [(name, kind, ttl, data) for ttl, data, _ in here[kind]]
        elif "CNAME" in here:
            ttl, data, target = here["CNAME"][0]
            found.append((name, "CNAME", ttl, data))
            name = target
            continue
        break
    return 0, found, secure


class _Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        reply = self.server.respond(data, False)  # type: ignore[attr-defined]
        if reply:
            sock.sendto(reply, self.client_address)


class _Tcp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError, struct.error):
            (length,) = struct.unpack("!H", self.request.recv(2, socket.MSG_WAITALL))
            reply = self.server.respond(self.request.recv(length, socket.MSG_WAITALL), True)  # type: ignore[attr-defined]
            if reply:
                self.request.sendall(struct.pack("!H", len(reply)) + reply)


class _TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


# -- the place


class Names:
    """The namespace and its server; see the module."""

    def __init__(self, text: str, resolv_conf: str = "options timeout:1 attempts:1 trust-ad\n") -> None:
        self.queries: list[tuple[str, str]] = []
        self._resolv_conf = "nameserver 127.0.0.1\n" + resolv_conf
        self._servers: list[socketserver.BaseServer] = []
        self._home: tuple[int, int, str] | None = None
        self._files: Path | None = None
        self.load(text)

    def load(self, text: str) -> None:
        """From now on this is the data."""
        self._zone = Zone.parse(text)

    def __enter__(self) -> Names:
        if not AVAILABLE:
            pytest.skip(WHY_NOT)
        self._home = (
            os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC),
            os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC),
            os.getcwd(),
        )
        _call("unshare", _CLONE_NEWNET | _CLONE_NEWNS)
        try:
            self._furnish()
            self._serve()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers.clear()
        assert self._home is not None
        net, mounts, directory = self._home
        _call("unshare", _CLONE_FS)  # what is shared with other threads can't be moved
        _call("setns", mounts, _CLONE_NEWNS)
        _call("setns", net, _CLONE_NEWNET)
        os.close(net)
        os.close(mounts)
        os.chdir(directory)
        if self._files is not None:
            shutil.rmtree(self._files, ignore_errors=True)

    def _furnish(self) -> None:
        _call("mount", b"none", b"/", None, _MS_REC | _MS_SLAVE, None)
        self._files = Path(tempfile.mkdtemp(prefix="names-"))
        self._files.chmod(0o755)
        for path, text in (
            ("/etc/resolv.conf", self._resolv_conf),
            ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
            ("/etc/nsswitch.conf", _NSSWITCH),
        ):
            file = self._files / Path(path).name
            file.write_text(text)
            file.chmod(0o644)
            _call("mount", bytes(file), path.encode(), None, _MS_BIND, None)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for network in NETWORKS:
            family = "-6" if ":" in network else "-4"
            command = ["ip", family, "route", "add", "local", network, "dev", "lo"]
            subprocess.run(command, check=family == "-4", capture_output=True)

    def _serve(self) -> None:
        udp = socketserver.ThreadingUDPServer(("127.0.0.1", 53), _Udp)
        udp.daemon_threads = True
        for server in (udp, _TcpServer(("127.0.0.1", 53), _Tcp)):
            server.respond = self._respond  # type: ignore[union-attr]
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def _respond(self, query: bytes, stream: bool) -> bytes:
        name, kind, reply = answer(self._zone, query, stream)
        self.queries.append((name, kind))
        return reply

    @contextlib.contextmanager
    def asked(self) -> Iterator[Callable[[], list[tuple[str, str]]]]:
        """Gives what has been asked since."""
        start = len(self.queries)
        yield lambda: self.queries[start:]


def _call(name: str, *arguments: object) -> None:
    """A system call of the C library; OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
