from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.parameters import Parameters
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.rewrite.hostnames import literal_address, valid_address, valid_domain
from mtad.rewrite.resolve import Resolution, Resolver
from mtad.wire.address import from_text

BASE = {
    "compatibility_level": "3.6",
    "myhostname": "mx.example.com",
    "myorigin": "origin.example",
    "mydestination": "$myhostname, local.example",
    "relay_domains": "relay.example",
}


def resolver(**settings: str) -> Resolver:
    p = Parameters.from_mapping({**BASE, **settings})
    return Resolver(Rewriter(p), AddressClasses(p, own=["127.0.0.1"]))


def resolve(text: bytes, **settings: str) -> Resolution:
    return asyncio.run(resolver(**settings).resolve(from_text(text)))


@pytest.mark.parametrize(
    ("text", "expected", "kind", "routed"),
    [
        (b"u@remote.example", b"u@remote.example", "default", False),
        (b"U@Local.Example", b"U@Local.Example", "local", False),
        (b"u%remote.example@local.example", b"u@remote.example", "default", False),
        (b"remote.example!u@local.example", b"u@remote.example", "default", False),
        (b"u@remote.example@local.example", b"u@remote.example", "default", False),
        (b"u%relay.example%local.example@local.example", b"u@relay.example", "relay", False),
        (b"u%x@relay.example", b"u%x@relay.example", "relay", True),
        (b"u@x@relay.example", b"u@x@relay.example", "relay", True),
        (b"", b"MAILER-DAEMON@mx.example.com", "local", False),
        (b"@local.example", b"MAILER-DAEMON@local.example", "local", False),
        (b"u", b"u@origin.example", "default", False),
        (b"u@[127.0.0.1]", b"u@[127.0.0.1]", "local", False),
    ],
)
def test_final_form(text: bytes, expected: bytes, kind: str, routed: bool) -> None:
    found = resolve(text)
    assert (found.text, found.kind, found.routed, found.invalid) == (expected, kind, routed, False)
    assert found.key == expected.lower()


@pytest.mark.parametrize(
    "text", [b"u@1.2.3.4", b"u@", b"u@a..b", b"u@-a.b", b"-u@a.b", b"u@[x]", b"u@\xff.b"]
)
def test_invalid(text: bytes) -> None:
    assert resolve(text).invalid
    assert not asyncio.run(resolver().acceptable(from_text(text), True))


def test_settings() -> None:
    assert not resolve(b"-u@a.b", allow_min_user="yes").invalid
    assert resolve(b"u@1.2.3.4", resolve_numeric_domain="yes").text == b"u@[1.2.3.4]"
    assert resolve(b"u@127.0.0.1", resolve_numeric_domain="yes").kind == "local"
    assert resolve(b"u@", resolve_null_domain="yes").text == b"u@mx.example.com"
    crooked = resolve(b"u@remote.example@local.example", resolve_dequoted_address="no")
    assert (crooked.kind, crooked.routed) == ("local", True)


def test_utf8_domains_need_smtputf8() -> None:
    address = from_text("u@ü.example".encode())
    assert asyncio.run(resolver().acceptable(address, True))
    assert not asyncio.run(resolver().acceptable(address, False))
    assert resolve("u@ü.example".encode(), smtputf8_enable="no").invalid


def test_a_failing_table_is_no_objection() -> None:
    ours = resolver(mydestination="fail:x")
    assert asyncio.run(ours.acceptable(from_text(b"u@a.example"), False))


@given(st.text(alphabet='ab.@%!:"\\ [],-é', max_size=25))
def test_resolving_ends(text: str) -> None:
    found = resolve(text.encode())
    assert found.text.endswith(b"@" + found.domain)


def test_hostnames() -> None:
    assert valid_domain(b"a_b.c-d", False)
    assert not valid_domain(b"1.2.3", True)
    assert not valid_domain("é.example".encode(), False)
    assert valid_address(b"0.0.0.0")
    assert not valid_address(b"0.1.2.3")
    assert not valid_address(b"1.2.3.256")
    assert valid_address(b"::1")
    assert literal_address(b"[IPv6:::1]") == b"::1"
    assert literal_address(b"[::1]") is None
    assert literal_address(b"[1.2.3.4]x") is None
