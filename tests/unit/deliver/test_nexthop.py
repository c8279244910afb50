"""Next hops: their syntax, and the hosts they come to."""

from __future__ import annotations

import random

import pytest
from delivery_world import FakeResolver, finish
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.parameters import Parameters
from mtad.deliver.nexthop import Destination, HopError, Host, HostFinder, Hosts, numeric, parse_destination
from mtad.net.dns import DnsError, DnsStatus


def port_of(name: str) -> int | None:
    return (
        int(name) if name.isdecimal() and 0 < int(name) < 65536 else {"smtp": 25, "submission": 587}.get(name)
    )


@pytest.mark.parametrize(
    ("text", "host", "port", "literal"),
    [
        ("example.com", "example.com", 25, False),
        ("example.com:587", "example.com", 587, False),
        ("example.com:submission", "example.com", 587, False),
        ("[example.com]", "example.com", 25, True),
        ("[example.com]:submission", "example.com", 587, True),
        ("[192.0.2.1]:2525", "192.0.2.1", 2525, True),
        ("192.0.2.1", "192.0.2.1", 25, True),
        ("[ipv6:2001:db8::1]", "2001:db8::1", 25, True),
        ("[IPv6:2001:db8::1]:26", "2001:db8::1", 26, True),
        ("[2001:db8::1]:26", "2001:db8::1", 26, True),
        (" [mail.example.com] ", "mail.example.com", 25, True),
    ],
)
def test_destinations(text: str, host: str, port: int, literal: bool) -> None:
    found = parse_destination(text, "smtp", port_of)
    assert found == Destination(text.strip(), host, port, literal, found.service)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "[",
            "[]",
            "[a",
            "a:",
            "[a]:",
            "[a]b",
            "a:nosuch",
            "a:0",
            "a:65536",
            "a b",
            "-a",
            "::1",
            "[a]]",
        ),
        *("a..b", "a-.b", "a$b", "[a!b]", "123", "[fe80::1%lo]", "x" * 64),
    ],
)
def test_malformed_destinations_are_the_operators_fault(text: str) -> None:
    with pytest.raises(HopError) as caught:
        parse_destination(text, "smtp", port_of)
    assert caught.value.temporary and caught.value.dsn == "4.3.5"


@given(st.text(max_size=40))
def test_any_text_is_a_destination_or_malformed(text: str) -> None:
    try:
        found = parse_destination(text, "smtp", port_of)
    except HopError:
        return
    assert 0 < found.port < 65536
    assert found.host and "[" not in found.host and not any(char.isspace() for char in found.host)


@given(
    st.from_regex(r"[a-z]([a-z0-9-]{0,9}[a-z0-9])?(\.[a-z]{1,5}){0,3}", fullmatch=True), st.integers(1, 65535)
)
def test_what_is_written_is_what_is_found(host: str, port: int) -> None:
    for text, literal in ((f"{host}:{port}", False), (f"[{host}]:{port}", True)):
        assert parse_destination(text, "smtp", port_of) == Destination(text, host, port, literal, str(port))


def hosts(
    domain: str,
    resolver: FakeResolver,
    own: frozenset[str] = frozenset(),
    lmtp: bool = False,
    **settings: str,
) -> list[Host]:
    p = Parameters.from_mapping({"inet_protocols": "ipv4, ipv6", **settings})
    finder = HostFinder(p, resolver, lambda: own, random.Random(7), lmtp=lmtp)
    found: Hosts = finish(finder.find(parse_destination(domain, "smtp", port_of)))
    return list(found.hosts)


@pytest.fixture
def resolver() -> FakeResolver:
    made = FakeResolver()
    made.mx_records["d.test"] = [(10, "a.test"), (10, "b.test"), (20, "c.test")]
    made.address_records = {
        "a.test": ["192.0.2.1", "192.0.2.2"],
        "b.test": ["192.0.2.3"],
        "c.test": ["192.0.2.4"],
        "d.test": ["192.0.2.9"],
    }
    return made


def addresses(found: list[Host]) -> list[str]:
    return [host.address for host in found]


def test_hosts_are_ordered_by_preference_and_shuffled_within(resolver: FakeResolver) -> None:
    found = addresses(hosts("d.test", resolver))
    assert sorted(found[:3]) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"] and found[3] == "192.0.2.4"
    assert addresses(hosts("d.test", resolver, smtp_randomize_addresses="no")) == [
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
        "192.0.2.4",
    ]


def test_brackets_and_addresses_need_no_mx(resolver: FakeResolver) -> None:
    assert addresses(hosts("[d.test]", resolver)) == ["192.0.2.9"]
    assert addresses(hosts("[192.0.2.77]", resolver)) == ["192.0.2.77"]


def test_a_domain_without_mx_is_its_own_host(resolver: FakeResolver) -> None:
    del resolver.mx_records["d.test"]
    assert addresses(hosts("d.test", resolver)) == ["192.0.2.9"]


def test_a_host_without_address_does_not_spoil_the_others(resolver: FakeResolver) -> None:
    del resolver.address_records["a.test"]
    assert addresses(hosts("d.test", resolver)) == ["192.0.2.3", "192.0.2.4"]


def test_the_family_that_is_preferred_comes_first(resolver: FakeResolver) -> None:
    resolver.address_records["a.test"] = ["192.0.2.1", "2001:db8::1"]
    settings = {"smtp_randomize_addresses": "no"}
    found = addresses(hosts("[a.test]", resolver, smtp_address_preference="IPv6", **settings))
    assert found == ["2001:db8::1", "192.0.2.1"]
    found = addresses(hosts("[a.test]", resolver, smtp_address_preference="ipv4", **settings))
    assert found == ["192.0.2.1", "2001:db8::1"]


def test_hosts_no_better_than_ourselves_are_left_out(resolver: FakeResolver) -> None:
    assert set(addresses(hosts("d.test", resolver, frozenset({"192.0.2.4"})))) == {
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
    }
    with pytest.raises(HopError, match=r"mail for d\.test loops back to myself") as caught:
        hosts("d.test", resolver, frozenset({"192.0.2.3"}))
    assert caught.value.dsn == "5.4.6" and not caught.value.temporary
    assert len(hosts("d.test:26", resolver, frozenset({"192.0.2.3"}))) == 4


def test_failures_of_the_name_servers(resolver: FakeResolver) -> None:
    again = DnsError(DnsStatus.RETRY, "try again")
    resolver.mx_records["d.test"] = again
    with pytest.raises(HopError) as caught:
        hosts("d.test", resolver)
    assert (caught.value.dsn, caught.value.text, caught.value.temporary) == ("4.4.3", "try again", True)
    assert addresses(hosts("d.test", resolver, ignore_mx_lookup_error="yes")) == ["192.0.2.9"]
    resolver.mx_records["d.test"] = DnsError(DnsStatus.NULL_MX, "Domain d.test does not accept mail (nullMX)")
    with pytest.raises(HopError) as caught:
        hosts("d.test", resolver)
    assert (caught.value.dsn, caught.value.temporary) == ("5.1.0", False)
    resolver.mx_records["d.test"] = [(1, "nosuch.test"), (2, "again.test")]
    resolver.address_records["again.test"] = again
    with pytest.raises(HopError) as caught:
        hosts("d.test", resolver)
    assert caught.value.dsn == "4.4.3"
    with pytest.raises(HopError) as caught:
        hosts("[nosuch.test]", resolver)
    assert (caught.value.dsn, caught.value.temporary) == ("5.4.4", False)


def test_a_backup_does_not_try_what_is_no_better(resolver: FakeResolver) -> None:
    resolver.address_records["a.test"] = resolver.address_records["b.test"] = []
    with pytest.raises(HopError, match=r"unable to find primary relay for d\.test") as caught:
        hosts("d.test", resolver, frozenset({"192.0.2.4"}))
    assert caught.value.dsn == "4.4.4" and caught.value.mine


def test_a_host_that_is_this_one_is_a_loop_too(resolver: FakeResolver) -> None:
    with pytest.raises(HopError, match=r"mail for a\.test loops back to myself") as caught:
        hosts("[a.test]", resolver, frozenset({"192.0.2.2"}))
    assert caught.value.dsn == "5.4.6" and caught.value.mine
    assert addresses(hosts("[a.test]", resolver, frozenset({"192.0.2.2"}), lmtp=True))


def test_addresses_have_one_form(resolver: FakeResolver) -> None:
    (host,) = hosts("[ipv6:2001:DB8:0::1]:2525", resolver)
    assert host.relay == "2001:DB8:0::1[2001:db8::1]:2525"
    with pytest.raises(HopError, match="loops back"):
        hosts("[2001:db8:0::1]", resolver, frozenset({"2001:db8::1"}))
    assert numeric(["[2001:DB8:0::1]", "192.0.2.1", "a.test", ""]) == {"2001:db8::1", "192.0.2.1"}


def test_an_address_of_the_other_family_is_none(resolver: FakeResolver) -> None:
    with pytest.raises(HopError, match="name=2001:db8::1"):
        hosts("[2001:db8::1]", resolver, inet_protocols="ipv4")


def test_a_list_of_services_that_fails_has_none(resolver: FakeResolver) -> None:
    resolver.srv_records["_submission._tcp.d.test"] = SRV
    assert {host.port for host in hosts("d.test:submission", resolver, use_srv_lookup="fail:x")} == {587}


SRV = [(10, 0, 587, "a.test"), (5, 1, 5870, "b.test"), (5, 0, 5871, "c.test")]


def test_services_by_srv(resolver: FakeResolver) -> None:
    resolver.srv_records["_submission._tcp.d.test"] = SRV
    use = {"use_srv_lookup": "submission"}
    found = hosts("d.test:submission", resolver, **use)
    assert {(host.address, host.port) for host in found[:2]} == {("192.0.2.3", 5870), ("192.0.2.4", 5871)}
    assert {host.port for host in found[2:]} == {587}
    assert len(hosts("d.test", resolver, **use)) == 4  # another service: by MX
    assert addresses(hosts("[d.test]:submission", resolver, **use)) == ["192.0.2.9"]
    assert len(hosts("d.test:submission", resolver)) == 4


def test_services_without_srv(resolver: FakeResolver) -> None:
    use = {"use_srv_lookup": "submission"}
    with pytest.raises(HopError) as caught:
        hosts("d.test:submission", resolver, **use)
    assert caught.value.dsn == "5.4.4"
    assert len(hosts("d.test:submission", resolver, allow_srv_lookup_fallback="yes", **use)) == 4
    fallback = {"allow_srv_lookup_fallback": "yes"}
    assert addresses(hosts("d.test:submission", resolver, lmtp=True, **use, **fallback)) == ["192.0.2.9"]
    resolver.srv_records["_submission._tcp.d.test"] = DnsError(DnsStatus.RETRY, "try again")
    with pytest.raises(HopError, match="try again"):
        hosts("d.test:submission", resolver, **use)
    assert len(hosts("d.test:submission", resolver, ignore_srv_lookup_error="yes", **use)) == 4


@given(st.integers(0, 8), st.integers(0, 8), st.integers(1, 8))
def test_both_protocols_have_their_share(four: int, six: int, limit: int) -> None:
    resolver = FakeResolver()
    resolver.address_records["h.test"] = [f"192.0.2.{n}" for n in range(four)]
    resolver.address_records["h.test"] += [f"2001:db8::{n}" for n in range(six)]
    if not four + six:
        return
    found = addresses(hosts("[h.test]", resolver, smtp_mx_address_limit=str(limit)))
    kept = sum(":" in address for address in found)
    if four and six and four + six > limit:
        assert len(found) == limit
        assert kept >= min(six, limit // 2) and limit - kept >= min(four, limit // 2)
    else:
        assert len(found) == four + six
