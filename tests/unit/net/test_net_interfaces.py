"""Own addresses, and what mynetworks is without being set."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from net_pki import parameters

from mtad.config.parameters import Facts, Parameters
from mtad.errors import ConfigError
from mtad.net.interfaces import (
    Interface,
    OwnAddresses,
    facts,
    interfaces,
    local_addresses,
    mynetworks,
    own_addresses,
    protocols,
)

LOCAL: list[Interface] = [
    (ip_address("127.0.0.1"), 8),
    (ip_address("10.1.2.3"), 24),
    (ip_address("172.16.5.6"), 20),
    (ip_address("192.0.2.7"), 28),
    (ip_address("192.0.2.8"), 28),
    (ip_address("::1"), 128),
    (ip_address("2001:db8::5"), 64),
]


@pytest.mark.parametrize(
    ("style", "wanted"),
    [
        ("class", "127.0.0.0/8 10.0.0.0/8 172.16.0.0/16 192.0.2.0/24 [::1]/128 [2001:db8::]/64"),
        ("subnet", "127.0.0.0/8 10.1.2.0/24 172.16.0.0/20 192.0.2.0/28 [::1]/128 [2001:db8::]/64"),
        (
            "host",
            "127.0.0.1/32 10.1.2.3/32 172.16.5.6/32 192.0.2.7/32 192.0.2.8/32 [::1]/128 [2001:db8::5]/128",
        ),
    ],
)
def test_styles(style: str, wanted: str) -> None:
    assert mynetworks(style, LOCAL) == wanted


def test_bad_style() -> None:
    with pytest.raises(ConfigError, match="mynetworks_style"):
        mynetworks("world", LOCAL)


def test_this_host() -> None:
    assert (ip_address("127.0.0.1"), 8) in local_addresses()
    assert "127.0.0.1" in own_addresses(parameters())
    assert own_addresses(parameters(inet_interfaces="127.0.0.1, [127.0.0.1]")) == ("127.0.0.1",)
    loopback = interfaces(parameters(inet_interfaces="loopback-only"))
    assert all(address.is_loopback for address, _ in loopback)
    assert own_addresses(parameters(inet_interfaces="localhost", inet_protocols="ipv4")) == ("127.0.0.1",)


@pytest.mark.parametrize("value", ["192.0.2.255", "no.such.host.invalid"])
def test_foreign_interfaces(value: str) -> None:
    with pytest.raises(ConfigError, match="inet_interfaces"):
        own_addresses(parameters(inet_interfaces=value, inet_protocols="ipv4"))


def test_own_addresses_are_believed_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now, answers = [0.0], iter(["", "192.0.2.1", "192.0.2.2", ""])

    def looked_up(p: Parameters) -> tuple[str, ...]:
        if answer := next(answers):
            return (answer,)
        raise ConfigError("no such interface")

    monkeypatch.setattr("mtad.net.interfaces.own_addresses", looked_up)
    own = OwnAddresses(parameters(), clock=lambda: now[0])
    with pytest.raises(ConfigError):
        own()
    for now[0], wanted in ((1, "192.0.2.1"), (60, "192.0.2.1"), (61, "192.0.2.2"), (121, "192.0.2.2")):
        assert own() == (wanted,)


def test_names_of_own_addresses_are_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    own = OwnAddresses(parameters(inet_interfaces="localhost", inet_protocols="ipv4"), lambda: now[0])
    monkeypatch.delattr("mtad.net.interfaces.resolve")
    for now[0] in (0.0, 1000.0):
        assert own() == ("127.0.0.1",)


def test_protocols() -> None:
    assert protocols(parameters(inet_protocols="ipv4")) == ("ipv4",)
    assert protocols(parameters(inet_protocols="ipv6, ipv4"))[0] == "ipv4"
    with pytest.raises(ConfigError, match="inet_protocols"):
        protocols(parameters(inet_protocols="ipx"))


def test_facts_fill_the_default() -> None:
    first = parameters(inet_interfaces="loopback-only", inet_protocols="ipv4", mynetworks_style="host")
    found: Facts = facts(first)
    p = Parameters.from_mapping({"mynetworks_style": "host"}, facts=found)
    assert p["mynetworks"] == "127.0.0.1/32"
    assert "127.0.0.0/8" in facts().mynetworks("subnet")
