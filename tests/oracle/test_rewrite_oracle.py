"""The installed Postfix's trivial-rewrite(8) and ours, asked about the same addresses."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postfix import AVAILABLE, WHY_NOT, Postfix

from mtad.config.parameters import Parameters
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.rewrite.resolve import Resolver
from mtad.tables.table import fold
from mtad.wire.address import from_text, quote, valid_literal

pytestmark = pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)

SETTINGS = {
    "compatibility_level": "3.6",
    "myhostname": "mail.example.com",
    "mydomain": "example.com",
    "myorigin": "origin.example",
    "mydestination": "$myhostname, localhost, local.example, inline:{{tabled.example=x}}",
    "virtual_alias_domains": "alias.example",
    "virtual_mailbox_domains": "inline:{{box.example=x}}",
    "relay_domains": "relay.example, .dotted.example",
    "inet_interfaces": "127.0.0.1",
    "proxy_interfaces": "192.0.2.7",
}

VARIANTS: list[dict[str, str]] = [
    {},
    {"append_dot_mydomain": "yes", "resolve_null_domain": "yes", "resolve_numeric_domain": "yes"},
    {"swap_bangpath": "no", "allow_percent_hack": "no", "append_at_myorigin": "no"},
    {"resolve_dequoted_address": "no", "allow_min_user": "yes", "smtputf8_enable": "no"},
]

CLASSES = {256: "local", 512: "virtual_alias", 1024: "virtual_mailbox", 2048: "relay", 4096: "default"}
ROUTED, ERROR = 2, 4

LOCALS = ["user", "u+x", "a.b", "", "-dash", "a b", 'q"t', "a..b", "ü", "a%b", "a!b", "a%local.example"]
LOCALS += ["x!y!z", "remote!a%b", "a@b", "a@local.example", "a b%c", "a b!c", "a b@local.example", "%", "!"]
LOCALS += ["a%b%local.example", "@a:b", "@a,@b:c", "a%b.", "b!", "a@b.c.", "U%LOCAL.Example", "x%"]
DOMAINS = ["local.example", "LOCALHOST", "Mail.Example.com", "tabled.example", "alias.example", "box.example"]
DOMAINS += [
    "relay.example",
    "sub.relay.example",
    "x.dotted.example",
    "remote.example",
    "host",
    "local.example.",
]
DOMAINS += ["remote.example.", "", ".", "a..b", "1.2.3.4", "[127.0.0.1]", "[1.2.3.4]", "[192.0.2.7]", "[x]"]
DOMAINS += ["[IPv6:::1]", "[ipv6:2001:db8::1]", "[127.0.0.1", "-x.example", "x_y.example", "ü.example"]
DOMAINS += ["xn--tda.example", "0.0.0.0", "127.0.0.1"]


class Service:
    """A client of the ``rewrite`` service."""

    def __init__(self, postfix: Postfix) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(Path(postfix.queue) / "private" / "rewrite"))
        self._socket.settimeout(20)
        self._buffer = b""
        self._answer()  # the protocol's name

    def ask(self, **attributes: bytes) -> dict[str, bytes]:
        text = b"".join(name.encode() + b"\0" + value + b"\0" for name, value in attributes.items())
        self._socket.sendall(text + b"\0")
        return self._answer()

    def _answer(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        while (name := self._word()) != b"":
            key = name.decode()
            found["server_flags" if not found and key == "flags" else key] = self._word()
        return found

    def _word(self) -> bytes:
        while b"\0" not in self._buffer:
            data = self._socket.recv(4096)
            if not data:
                raise EOFError
            self._buffer += data
        word, _, self._buffer = self._buffer.partition(b"\0")
        return word


@pytest.fixture(scope="module", params=range(len(VARIANTS)))
def both(request: Any) -> Iterator[tuple[Service, Parameters]]:
    settings = {**SETTINGS, **VARIANTS[request.param]}
    with Postfix(settings) as postfix:
        yield Service(postfix), Parameters.from_mapping(settings)


def addresses() -> list[bytes]:
    texts = [f"{local}@{domain}" for local in LOCALS for domain in DOMAINS if local or domain] + LOCALS
    letters = random.Random(7)
    alphabet = ["a", "b.c", "local.example", "remote.example", "@", "%", "!", ".", ":", "-", "1"]
    texts += ["".join(letters.choices(alphabet, k=letters.randint(1, 7))) for _ in range(1500)]
    return [text.encode() for text in dict.fromkeys(texts) if text]


def plain(text: bytes) -> bool:
    """What a client can bring so far: routes are stripped, domains are tokens without quotes."""
    _, at, domain = text.rpartition(b"@")
    if (text[:1] == b"@" and b":" in text) or (at and any(c in b' "\\:%!,' for c in domain)):
        return False
    return valid_literal(domain) or not (set(domain) & set(b"[]"))


def drive(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def test_rewrite(both: tuple[Service, Parameters]) -> None:
    service, p = both
    rewriter = Rewriter(p)
    wrong = []
    for text in addresses():
        if not plain(text):
            continue
        theirs = service.ask(request=b"rewrite", rule=b"local", address=quote(text))["address"]
        ours = quote(rewriter.rewrite(from_text(text)).text)
        if theirs != ours:
            wrong.append((text, theirs, ours))
    assert not wrong, "\n".join(map(str, wrong[:40]))


def test_resolve(both: tuple[Service, Parameters]) -> None:
    service, p = both
    rewriter = Rewriter(p)
    resolver = Resolver(rewriter, AddressClasses(p, own=["127.0.0.1"]))
    wrong = []
    for text in addresses():
        if not plain(text):
            continue
        rewritten = rewriter.rewrite(from_text(text)).text
        answer = service.ask(request=b"resolve", sender=b"", address=rewritten)
        flags = int(answer["flags"])
        ours = drive(resolver.resolve(from_text(text)))
        if flags & ERROR or ours.invalid:
            same = bool(flags & ERROR) == ours.invalid
        else:
            kind = next(name for bit, name in CLASSES.items() if flags & bit)
            same = (fold(answer["recipient"]), kind, bool(flags & ROUTED)) == (
                ours.key,
                ours.kind,
                ours.routed,
            )
        if not same:
            wrong.append((text, answer["recipient"], flags, ours.text, ours.kind, ours.routed, ours.invalid))
    assert not wrong, "\n".join(map(str, wrong[:40]))
