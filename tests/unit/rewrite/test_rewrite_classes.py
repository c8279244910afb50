from __future__ import annotations

import asyncio
import inspect

import pytest

from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.rewrite.classes import AddressClasses

BASE = {
    "compatibility_level": "3.6",
    "myhostname": "mx.example.com",
    "mydestination": "$myhostname, localhost",
    "virtual_alias_domains": "alias.example, both.example",
    "virtual_mailbox_domains": "box.example, both.example",
    "relay_domains": "relay.example",
    "proxy_interfaces": "192.0.2.1",
}


def classes(**settings: str) -> AddressClasses:
    p = Parameters.from_mapping({**BASE, **settings})
    return AddressClasses(p, own=["127.0.0.1", "2001:db8::1"])


@pytest.mark.parametrize(
    ("domain", "kind"),
    [
        ("mx.example.com", "local"),
        ("MX.Example.COM", "local"),
        ("localhost.", "local"),
        ("localhost..", "default"),
        ("", "default"),
        ("[127.0.0.1]", "local"),
        ("[IPv6:2001:db8::1]", "local"),
        ("[ipv6:2001:DB8:0::1]", "local"),
        ("[192.0.2.1]", "local"),
        ("[192.0.2.2]", "default"),
        ("[2001:db8::1]", "default"),
        ("127.0.0.1", "default"),
        ("alias.example", "virtual_alias"),
        ("both.example", "virtual_alias"),
        ("box.example", "virtual_mailbox"),
        ("relay.example", "relay"),
        ("sub.relay.example", "relay"),
        ("sub.alias.example", "default"),
        ("xrelay.example", "default"),
        ("remote.example", "default"),
    ],
)
def test_at_once(domain: str, kind: str) -> None:
    ours = classes()
    assert ours.known(domain.encode()) == kind
    assert ours.is_local_domain(domain.encode()) is (kind == "local")
    assert asyncio.run(ours.classify_domain(domain.encode())) == kind


def test_dot_patterns_without_parent_matching() -> None:
    ours = classes(parent_domain_matches_subdomains="", relay_domains="relay.example, .dotted.example")
    assert ours.known(b"sub.relay.example") == "default"
    assert ours.known(b"a.b.dotted.example") == "relay"
    assert ours.known(b"dotted.example") == "default"


def test_tables_are_asked() -> None:
    ours = classes(mydestination="inline:{{t.example=x}}", relay_domains="!no.relay.example, relay.example")
    assert ours.known(b"t.example") is None
    assert asyncio.run(ours.classify_domain(b"T.example")) == "local"
    assert asyncio.run(ours.classify_domain(b"[127.0.0.1]")) == "local"
    assert asyncio.run(ours.classify_domain(b"no.relay.example")) == "default"
    assert asyncio.run(ours.classify_domain(b"x.relay.example")) == "relay"
    answer = ours.is_local_domain(b"t.example")
    assert inspect.isawaitable(answer)

    async def ask() -> bool:
        return await answer

    assert asyncio.run(ask()) is True


def test_a_table_that_fails() -> None:
    with pytest.raises(TableError):
        asyncio.run(classes(virtual_alias_domains="fail:x").classify_domain(b"x.example"))


def test_own_addresses() -> None:
    assert classes().is_own_address("::ffff:127.0.0.1")
    assert not classes().is_own_address("127.0.0.2")
    assert not classes().is_own_address("unknown")


def test_problems_are_told() -> None:
    ours = classes(mydestination="texthash:/nonexistent")
    assert [name for name, _ in ours.problems] == ["mydestination"]
    ours.close()
