"""Addresses in tables: one for another, one for many, masquerading, addresses by their tokens."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.parameters import Parameters
from mtad.errors import MtadError
from mtad.rewrite.address import Rewriter
from mtad.rewrite.mapping import Limits, Mapper, Masquerade
from mtad.tables import Maps, StringList
from mtad.wire.tokens import quote, unquote

BASE = {"myhostname": "mail.example.com", "mydomain": "example.com", "myorigin": "example.com"}
REWRITER = Rewriter(Parameters.from_mapping(BASE))
MAPPER = Mapper(REWRITER, "+", lambda domain: domain == b"local.example")


class Told:
    """A trouble that writes down what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def lookup_failed(self, error: MtadError, text: str) -> None:
        self.texts.append(f"lookup: {text}")

    def expansion_failed(self, text: str, error: MtadError | None = None) -> None:
        self.texts.append(f"expansion: {text}")

    def odd(self, text: str) -> None:
        self.texts.append(text)


def maps(entries: dict[str, str]) -> Maps:
    return Maps(
        "inline:{" + ", ".join(f"{{{key}={value}}}" for key, value in entries.items()) + "}", title="t"
    )


@pytest.mark.parametrize(
    ("entries", "address", "wanted", "told"),
    [
        ({"a@b.c": "d@e.f"}, b"a@b.c", b"d@e.f", []),
        ({"a@b.c": "d@e.f"}, b"A@B.C", b"d@e.f", []),
        ({"a@b.c": "d@e.f"}, b"a+x@b.c", b"d+x@e.f", []),
        ({"@b.c": "@e.f"}, b"a@b.c", b"a@e.f", []),
        ({"a@b.c": "d"}, b"a@b.c", b"d@example.com", []),
        ({"a@b.c": "d@e.f", "d@e.f": "g@h.i"}, b"a@b.c", b"g@h.i", []),
        ({'"a b"@c.d': '"e f"@g.h'}, b'"a b"@c.d', b'"e f"@g.h', []),
        ({"a": "x@y.z"}, b"a@local.example", b"x@y.z", []),
        ({"a": "x@y.z"}, b"a@other.example", b"a@other.example", []),
        ({"a@b.c": "d@e.f, g@h.i"}, b"a@b.c", b"d@e.f", ["multi-valued t entry for a@b.c"]),
        (
            {"a@b.c": "d@e.f", "d@e.f": "a@b.c"},
            b"a@b.c",
            b"a@b.c",
            ["unreasonable t map nesting for a@b.c -- message not accepted, try again later"],
        ),
        (
            {"a@b.c": ","},
            b"a@b.c",
            b"a@b.c",
            ["lookup: t map lookup problem for a@b.c -- message not accepted, try again later"],
        ),
    ],
)
def test_one(entries: dict[str, str], address: bytes, wanted: bytes, told: list[str]) -> None:
    trouble = Told()
    found, changed = asyncio.run(MAPPER.one(maps(entries), address, True, trouble))
    assert found == wanted
    assert changed is (found != address or "nesting" in "".join(told))
    assert trouble.texts == told


@pytest.mark.parametrize(
    ("entries", "wanted", "told"),
    [
        ({"x@y.z": "d@e.f"}, [b"a@b.c"], []),
        ({"a@b.c": "d@e.f, g@h.i"}, [b"d@e.f", b"g@h.i"], []),
        ({"a@b.c": "a@b.c, g@h.i"}, [b"a@b.c", b"g@h.i"], []),
        ({"a@b.c": "d@e.f, a@b.c", "d@e.f": "x@y.z"}, [b"x@y.z", b"a@b.c"], []),
        (
            {"a@b.c": "d@e.f", "d@e.f": "a@b.c"},
            [b"a@b.c"],
            ["expansion: unreasonable t map nesting for a@b.c"],
        ),
        (
            {"a@b.c": ", ".join(f"u{n}@b.c" for n in range(9))},
            [b"a@b.c"],
            ["expansion: unreasonable t map expansion size for a@b.c"],
        ),
        (
            {"a@b.c": "x" * 50 + "@b.c"},
            [b"a@b.c"],
            ["expansion: unreasonable t result " + "x" * 50 + "@b.c..."],
        ),
        ({"a@b.c": "d@e.f", "d@e.f": ","}, [b"a@b.c"], ["expansion: t map lookup problem for a@b.c"]),
    ],
)
def test_many(entries: dict[str, str], wanted: list[bytes], told: list[str]) -> None:
    trouble, limits = Told(), Limits(expansion=8, recursion=5, address_length=40)
    assert asyncio.run(MAPPER.many(maps(entries), b"a@b.c", True, limits, trouble)) == wanted
    assert trouble.texts == told


@pytest.mark.parametrize(
    ("domains", "address", "wanted"),
    [
        ("example.com", b"a@host.example.com", b"a@example.com"),
        ("example.com", b"a@HOST.Example.COM", b"a@example.com"),
        ("example.com", b"a@example.com", b"a@example.com"),
        ("example.com", b"a@hostexample.com", b"a@hostexample.com"),
        ("!keep.example.com example.com", b"a@x.keep.example.com", b"a@x.keep.example.com"),
        ("a.example.com, example.com", b"b@x.a.example.com", b"b@a.example.com"),
        ("example.com", b"root@host.example.com", b"root@host.example.com"),
        ("! example.com", b"a@host.example.com", b"a@example.com"),
        ("example.com", b"no-domain", b"no-domain"),
    ],
)
def test_masquerading(domains: str, address: bytes, wanted: bytes) -> None:
    masquerade = Masquerade(domains, StringList("masquerade_exceptions", "root", "."))
    assert asyncio.run(masquerade.apply(address, Told())) == wanted


@pytest.mark.parametrize(
    ("text", "local", "remote"),
    [
        (b"a", b"a@example.com", b"a@elsewhere.example"),
        (b"a@b", b"a@b.example.com", b"a@b.elsewhere.example"),
        (b"a@b.c", b"a@b.c", b"a@b.c"),
        (b"b!a", b"a@b.example.com", b"a@b.elsewhere.example"),
        (b"a%b.c", b"a@b.c", b"a@b.c"),
        (b"@x,@y:a@b.c", b"a@b.c", b"a@b.c"),
        (b"a@b.c.", b"a@b.c", b"a@b.c"),
        (b"a@b.c..", b"a@b.c..", b"a@b.c.."),
        (b"a@[1.2.3.4]", b"a@[1.2.3.4]", b"a@[1.2.3.4]"),
        (b'"a b"@c.d', b'"a b"@c.d', b'"a b"@c.d'),
        (b'a."b c"@d.e', b'"a.b c"@d.e', b'"a.b c"@d.e'),
        (b"@", b'""', b'""'),
        (b'""', b'""', b'""'),
    ],
)
def test_addresses_by_their_tokens(text: bytes, local: bytes, remote: bytes) -> None:
    settings = {**BASE, "append_dot_mydomain": "yes", "remote_header_rewrite_domain": "elsewhere.example"}
    rewriter = Rewriter(Parameters.from_mapping(settings))
    assert rewriter.rewrite_external(text) == local
    assert rewriter.rewrite_external(text, remote=True) == remote


@given(st.binary(max_size=40))
def test_quotes_come_off_again(text: bytes) -> None:
    text = text.replace(b"\0", b"").lstrip(b"@")
    _, at, domain = text.rpartition(b"@")
    if at and (b'"' in domain or b"\\" in domain):
        return  # a domain is never quoted, and never unquoted
    if not at and not domain:
        return
    quoted = quote(text)
    if quoted != text:
        assert unquote(quoted) == text
