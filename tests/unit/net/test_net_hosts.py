"""Clients' names, from /etc/hosts and from the DNS."""

from __future__ import annotations

from pathlib import Path

import pytest
from net_reactor import NameServer, Turned
from twisted.internet.defer import ensureDeferred

from mtad.net.dns import Resolver, reverse_name
from mtad.net.hosts import PeerName, PeerStatus, client_address, peername
from mtad.net.hosts_file import HostsFile


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text(
        "127.0.0.1 localhost # comment\n127.0.0.1 other\n::1 ip6-localhost localhost\n"
        "#192.0.2.3 commented\n192.0.2.9 bad..name\nnonsense\n192.0.2.8\n"
    )
    return path


@pytest.fixture
def resolver(reactor: Turned, server: NameServer, hosts: Path) -> Resolver:
    return Resolver(reactor, [server.address], hosts=HostsFile(str(hosts)))


def now(resolver: Resolver, address: str) -> PeerName:
    """The answer that comes without waiting."""
    deferred = ensureDeferred(peername(resolver, address))
    assert deferred.called
    result = deferred.result
    assert isinstance(result, PeerName)
    return result


def test_hosts_file(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    found = now(resolver, "127.0.0.1")
    assert (found.name, found.reverse_name, found.status) == (
        "localhost",
        "localhost",
        PeerStatus.OK,
    )
    assert now(resolver, "::1").name == "ip6-localhost"
    assert now(resolver, "192.0.2.9").name == "unknown"
    assert server.asked == []


def test_hosts_file_changes(resolver: Resolver, hosts: Path) -> None:
    assert now(resolver, "127.0.0.1").name == "localhost"
    hosts.write_text("127.0.0.1 here.example.com localhost\n")
    assert now(resolver, "127.0.0.1").name == "here.example.com"
    hosts.unlink()
    assert resolver.hosts.name("127.0.0.1") is None
    assert resolver.hosts.addresses("localhost") == []


def test_forward_confirmed(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone[reverse_name("192.0.2.1")] = {"PTR": ["mail.example.com"]}
    server.zone["mail.example.com"] = {"A": ["192.0.2.5", "192.0.2.1"]}
    found = reactor.finish(peername(resolver, "192.0.2.1"))
    assert found == PeerName(
        "192.0.2.1", "mail.example.com", "mail.example.com", PeerStatus.OK, PeerStatus.OK, ""
    )
    assert now(resolver, "192.0.2.1") == found


def test_ipv6(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone[reverse_name("2001:db8::1")] = {"PTR": ["six.example.com"]}
    server.zone["six.example.com"] = {"AAAA": ["2001:db8::1"]}
    assert reactor.finish(peername(resolver, "2001:db8::1")).name == "six.example.com"


def test_no_name(reactor: Turned, resolver: Resolver) -> None:
    found = reactor.finish(peername(resolver, "192.0.2.1"))
    assert (found.name, found.reverse_name) == ("unknown", "unknown")
    assert (found.status, found.reverse_status, found.warning) == (PeerStatus.UNKNOWN, PeerStatus.UNKNOWN, "")


def test_name_service_down(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.codes[reverse_name("192.0.2.1")] = 2
    found = reactor.finish(peername(resolver, "192.0.2.1"))
    assert (found.name, found.status, found.reverse_status) == ("unknown", 4, 4)


@pytest.mark.parametrize(
    ("zone", "code", "status", "reason"),
    [
        ({"A": ["192.0.2.77"]}, 0, PeerStatus.FORGED, ""),
        ({}, 0, PeerStatus.FORGED, ": No address associated with hostname"),
        ({}, 2, PeerStatus.TEMPORARY, ": Temporary failure in name resolution"),
    ],
)
def test_name_that_does_not_lead_back(
    reactor: Turned,
    server: NameServer,
    resolver: Resolver,
    zone: dict[str, list[str]],
    code: int,
    status: PeerStatus,
    reason: str,
) -> None:
    server.zone[reverse_name("192.0.2.1")] = {"PTR": ["forged.example.com"]}
    server.zone["forged.example.com"] = zone
    server.codes["forged.example.com"] = code
    found = reactor.finish(peername(resolver, "192.0.2.1"))
    assert (found.name, found.reverse_name, found.status) == ("unknown", "forged.example.com", status)
    assert found.reverse_status is PeerStatus.OK
    assert found.warning == f"hostname forged.example.com does not resolve to address 192.0.2.1{reason}"


@pytest.mark.parametrize("name", ["1.2.3.4", "bad name.example"])
def test_numeric_and_malformed_names(
    reactor: Turned, server: NameServer, resolver: Resolver, name: str
) -> None:
    server.zone[reverse_name("192.0.2.1")] = {"PTR": [name]}
    found = reactor.finish(peername(resolver, "192.0.2.1"))
    assert (found.name, found.reverse_name, found.status) == ("unknown", "unknown", PeerStatus.UNKNOWN)


def test_without_lookup(resolver: Resolver) -> None:
    deferred = ensureDeferred(peername(resolver, "127.0.0.1", lookup=False))
    assert deferred.result == PeerName("127.0.0.1")


def test_client_address() -> None:
    assert client_address("fe80::1%eth0") == "fe80::1"
    assert client_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert client_address("192.0.2.1") == "192.0.2.1"
