"""Servers with TLS, good and bad, for many domains at once, and what a client's log says of each.

A :class:`Scene` is a domain ``NAME.example`` whose mail exchanger ``mx.NAME.example`` has an address and an
:class:`~oracle.upstream.Upstream` of its own.  :class:`Scenes` serves them, sends one message to all of them
by a daemon that is running, and gives what it logged about each, with what differs by nature masked.  To be
used in the namespace of :mod:`oracle.names`.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from live.daemon import wait_until
from oracle.upstream import OFFERS, Upstream


@dataclass(frozen=True, eq=False)
class Scene:
    """``certificate``: the name of one of the PKI, empty: no STARTTLS.  ``policy``: its line in the policy
    table, if any; ``zone``: its DNS data, if not an MX record and an address; ``transport``: its line in the
    transport table, if any; ``key``: what stands in the policy table for it, if not the next hop.  In all of
    these {name} and {address} stand for its own.  ``rules``, ``offers``, ``ciphers`` and ``authorities`` are
    the upstream's.  ``domain``: mail goes there instead."""

    name: str
    certificate: str = "good"
    policy: str = ""
    zone: str = ""
    rules: Mapping[str, bytes] = field(default_factory=dict)
    offers: Sequence[str] = OFFERS
    domain: str = ""
    transport: str = ""
    key: str = ""
    ciphers: str = ""
    authorities: str = ""

    @property
    def nexthop(self) -> str:
        """What it has in the policy table."""
        hop = self.transport.partition(":")[2].removeprefix("inet:")
        return self.key or hop or "{name}.example"

    @property
    def recipient(self) -> str:
        return f"bob@{self.domain or self.name + '.example'}"


#: What differs by nature.
MASKS = (
    (r"^[0-9A-Za-z]{6,}: ", "ID: "),
    (r"delay=[\d.]+, delays=[\d./]+, ", ""),
    (r"(tls=\S+), ", ""),
    (r"key-exchange \S+( \([^)]*\))?", "key-exchange K"),
    (r"(TLS library problem: )(?:error:\w+:)?(SSL routines:[^:]*:[^:]*).*", r"\1\2"),
    (r"(SSL_connect error to \S+): -?\d+", r"\1: N"),
    (r"/\S*/(?=[\w.]+\.pem)", "DIR/"),
    (r"(session \w+&\S*)&[0-9A-F]{64}", r"\1&DIGEST"),
    (r"save session .*", ""),  # a ticket comes when it comes
)
_LINE = re.compile(r"\w{3} [ \d]\d [\d:]{8} \S+ postfix/(?:smtp|lmtp)\[(\d+)\]: (.*)")
_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")


class Scenes:
    """The servers of all scenes; a context manager."""

    def __init__(self, scenes: Sequence[Scene], pki: Mapping[str, tuple[str, str]]) -> None:
        """``pki``: the files of certificate (with its chain) and key by name."""
        self.scenes = scenes
        self._pki = pki
        self._stack = contextlib.ExitStack()
        self.upstreams: dict[str, Upstream] = {}

    def zone(self) -> str:
        """The DNS data of all of them."""
        lines = []
        for number, scene in enumerate(self.scenes):
            text = scene.zone or "{name}.example MX 10 mx.{name}.example\nmx.{name}.example A {address}\n"
            lines.append(text.format(name=scene.name, address=self.address(number)))
        return "\n".join(lines)

    def policies(self) -> str:
        """The text of the policy table."""
        return self._table((scene.nexthop, scene.policy) for scene in self.scenes)

    def transports(self) -> str:
        """The text of the transport table."""
        return self._table((f"{scene.name}.example", scene.transport) for scene in self.scenes)

    def _table(self, lines: Iterable[tuple[str, str]]) -> str:
        return "".join(
            f"{key} {value}\n".replace("{name}", scene.name).replace("{address}", self.address(number))
            for number, (scene, (key, value)) in enumerate(zip(self.scenes, lines, strict=True))
            if value
        )

    def address(self, number: int) -> str:
        return f"{_NETWORKS[number // 200]}.{number % 200 + 1}"

    def __enter__(self) -> Scenes:
        for number, scene in enumerate(self.scenes):
            tls = self._pki[scene.certificate] if scene.certificate else None
            address = (self.address(number), 25)
            more = {"ciphers": scene.ciphers, "authorities": scene.authorities}
            upstream = Upstream(scene.offers, tls=tls, address=address, **more)
            upstream.rules = scene.rules
            self.upstreams[scene.name] = self._stack.enter_context(upstream)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, daemon: Any, send: Callable[[], None] | None = None) -> dict[str, list[str]]:
        """Send a message to all of them by ``daemon`` (mtad or Postfix), or have it sent; what its client
        logged, by scene."""
        for upstream in self.upstreams.values():
            upstream.server_names.clear()
            upstream.client_certificates.clear()
        if send is not None:
            send()
        else:
            with smtplib.SMTP("127.0.0.1", daemon.ports["submission"], timeout=60) as client:
                recipients = [scene.recipient for scene in self.scenes]
                client.sendmail("a@example.com", recipients, "Subject: x\r\n\r\nx\r\n")
        wait_until(lambda: self._statuses(daemon.log()) >= len(self.scenes), "all deliveries")
        texts = [(m[1], m[2]) for line in daemon.log().splitlines() if (m := _LINE.match(line))]
        return {scene.name: self._about(scene, texts) for scene in self.scenes}

    def names(self) -> dict[str, str]:
        """The TLS server names that the client has sent last, by scene."""
        return {name: each.server_names[-1] for name, each in self.upstreams.items() if each.server_names}

    def certificates(self) -> dict[str, bytes]:
        """The client certificates that were shown last, by scene."""
        return {
            name: shown[-1] for name, each in self.upstreams.items() if (shown := each.client_certificates)
        }

    def _statuses(self, log: str) -> int:
        return sum(f"to=<{scene.recipient}>" in log for scene in self.scenes)

    def _about(self, scene: Scene, texts: Sequence[tuple[str, str]]) -> list[str]:
        """The lines about a scene, among them what the TLS library says after a failed handshake."""
        address = re.escape(self.address(self.scenes.index(scene)))
        names = rf"{re.escape(scene.name)}\.example|{re.escape(scene.recipient)}|{address}"
        mine = re.compile(rf"(?<![\w-])({names})(?![\w-])")
        found = []
        failing: dict[str, bool] = {}  # by process: its last line was that a handshake of ours failed
        for process, text in texts:
            more = failing.get(process, False) and text.startswith("warning: TLS library problem")
            about = bool(mine.search(text))
            failing[process] = more or (about and text.startswith("SSL_connect error"))
            if not (about or more):
                continue
            for pattern, substitute in MASKS:
                text = re.sub(pattern, substitute, text)
            found.append(text)
        return sorted({text for text in found if text})  # another process warns again
