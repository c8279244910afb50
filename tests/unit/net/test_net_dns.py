"""The resolver against a name server in the same process."""

from __future__ import annotations

import gc
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from net_pki import parameters
from net_reactor import NameServer, Turned
from twisted.internet.defer import ensureDeferred

from mtad.deliver.names import ClientNames
from mtad.maillog import ListSink, MailLog
from mtad.net.dns import DnsError, DnsStatus, Resolver, to_ascii, valid_hostname
from mtad.net.hosts_file import HostsFile
from mtad.net.resolv_conf import ResolvConf


@pytest.fixture
def resolver(reactor: Turned, server: NameServer, tmp_path: Path) -> Resolver:
    return Resolver(reactor, [server.address], hosts=HostsFile(str(tmp_path / "hosts")), timeout=5.0)


def mx(resolver: Resolver, domain: str) -> Coroutine[Any, Any, list[tuple[int, str]]]:
    """The mail exchangers, as the SMTP client asks for them."""
    return ClientNames(parameters(), resolver, MailLog(ListSink(), "smtp")).mx(domain)


def fails(reactor: Turned, work: object) -> DnsError:
    with pytest.raises(DnsError) as caught:
        reactor.finish(work)  # type: ignore[arg-type]
    return caught.value


def test_mx(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone["example.com"] = {"MX": [(20, "b.example.com"), (10, "a.example.com"), (10, "c.example.com")]}
    wanted = [(10, "a.example.com"), (10, "c.example.com"), (20, "b.example.com")]
    assert reactor.finish(mx(resolver, "Example.com")) == wanted
    assert reactor.finish(mx(resolver, "example.COM")) == wanted
    assert len(server.asked) == 1  # the second came from the cache


def test_cached_answers_do_not_wait(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone["example.com"] = {"MX": [(10, "a.example.com")]}
    reactor.finish(mx(resolver, "example.com"))
    assert ensureDeferred(mx(resolver, "example.com")).called


def test_one_question_for_all_who_ask(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone["example.com"] = {"TXT": [(b"a", b"b"), (b"c",)]}
    both = [ensureDeferred(resolver.txt("example.com")) for _ in range(3)]
    assert [reactor.finish(deferred) for deferred in both] == [[b"ab", b"c"]] * 3
    assert len(server.asked) == 1


def test_an_error_names_what_was_asked_for(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    for name in ("nowhere.example.com", "Nowhere.EXAMPLE.com", "nowhere.example.com"):
        assert f" name={name} type=TXT: Host not found" in fails(reactor, resolver.txt(name)).text


def test_no_mx(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone["example.com"] = {"A": ["192.0.2.1"]}
    assert reactor.finish(mx(resolver, "example.com")) == []
    assert reactor.finish(mx(resolver, "nowhere.example.com")) == []


def test_null_mx(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone["example.com"] = {"MX": [(0, "")]}
    error = fails(reactor, mx(resolver, "example.com"))
    assert (error.status, error.dsn, error.temporary) == (DnsStatus.NULL_MX, "5.1.0", False)
    assert error.text == "Domain example.com does not accept mail (nullMX)"


def test_addresses(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone["h.example.com"] = {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"]}
    assert reactor.finish(resolver.addresses("h.example.com")) == ["192.0.2.1", "192.0.2.2", "2001:db8::1"]
    assert reactor.finish(resolver.addresses("h.example.com", ("ipv6",))) == ["2001:db8::1"]
    server.zone["four.example.com"] = {"A": ["192.0.2.4"]}
    assert reactor.finish(resolver.addresses("four.example.com")) == ["192.0.2.4"]
    assert ensureDeferred(resolver.addresses("192.0.2.9")).called


@pytest.mark.parametrize(
    ("name", "zone", "reason"),
    [
        ("none.example.com", False, "Host not found"),
        ("empty.example.com", True, "Host found but no data record of requested type"),
    ],
)
def test_postfix_words(
    reactor: Turned, server: NameServer, resolver: Resolver, name: str, zone: bool, reason: str
) -> None:
    if zone:
        server.zone[name] = {"TXT": [(b"x",)]}
    for _ in range(2):  # from the server, from the cache
        error = fails(reactor, resolver.addresses(name))
        assert (error.status, error.dsn, error.temporary) == (DnsStatus.NOT_FOUND, "5.4.4", False)
        head = "Host or domain name not found. Name service error for"
        assert error.text == f"{head} name={name} type=AAAA: {reason}"
    assert len(server.asked) == 2


def test_server_failure(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.codes["bad.example.com"] = 2
    error = fails(reactor, mx(resolver, "bad.example.com"))
    assert (error.status, error.dsn, error.temporary) == (DnsStatus.RETRY, "4.4.3", True)
    assert error.text == (
        "Host or domain name not found. "
        "Name service error for name=bad.example.com type=MX: Host not found, try again"
    )
    assert len(server.asked) == 2
    server.codes["worse.example.com"] = 1
    error = fails(reactor, mx(resolver, "worse.example.com"))
    assert (error.status, error.dsn) == (DnsStatus.FAILED, "5.4.3")


def test_the_next_server_is_asked(reactor: Turned, server: NameServer, tmp_path: Path) -> None:
    """A port where nobody listens answers by ICMP; the next server answers the question."""
    other = NameServer(reactor)
    other.stop()
    reactor.iterate(0)
    server.zone["example.com"] = {"MX": [(10, "a.example.com")]}
    resolver = Resolver(reactor, [other.address, server.address])
    assert reactor.finish(mx(resolver, "example.com")) == [(10, "a.example.com")]


def test_a_server_that_there_is_no_way_to_costs_no_descriptors(reactor: Turned) -> None:
    resolver = Resolver(reactor, [("255.255.255.255", 53)])
    before = len(os.listdir("/proc/self/fd"))
    gc.disable()
    try:
        for number in range(20):
            assert fails(reactor, mx(resolver, f"x{number}.example.com")).temporary
        reactor.iterate(0)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        gc.enable()


def test_silence_ends(reactor: Turned, server: NameServer) -> None:
    server.silent.add("example.com")
    resolver = Resolver(reactor, [server.address], timeout=0.02)
    assert fails(reactor, mx(resolver, "example.com")).temporary
    assert len(server.asked) == 2


def test_truncated_answers_come_by_tcp(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.truncate = True
    server.zone["example.com"] = {"TXT": [(b"x" * 200,)] * 10}
    assert reactor.finish(resolver.txt("example.com")) == [b"x" * 200] * 10
    assert [way for _, _, way in server.asked] == ["udp", "tcp"]


def test_cnames_are_followed(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone["www.example.com"] = {"CNAME": ["h.example.com"]}
    server.zone["h.example.com"] = {"A": ["192.0.2.1"]}
    assert reactor.finish(resolver.addresses("www.example.com", ("ipv4",))) == ["192.0.2.1"]


def test_cname_loop(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone["a.example.com"] = {"CNAME": ["b.example.com"]}
    server.zone["b.example.com"] = {"CNAME": ["a.example.com"]}
    error = fails(reactor, resolver.query("a.example.com", "MX"))
    assert error.status is DnsStatus.NOT_FOUND


def test_answers_to_other_questions_are_passed_over(reactor: Turned, server: NameServer) -> None:
    server.zone["example.com"] = {"MX": [(10, "a.example.com")]}
    resolver = Resolver(reactor, [server.address], timeout=0.02)
    for spoil in (
        lambda reply: bytes((reply[0] ^ 1,)) + reply[1:],  # another id
        lambda reply: reply[:2] + b"\x01" + reply[3:],  # no answer but a query
        lambda reply: reply.replace(b"\x07example", b"\x07exbmple", 1),  # another name
        lambda reply: reply[:20],
    ):
        server.garble = spoil
        assert fails(reactor, mx(resolver, "example.com")).temporary


def test_each_question_has_a_port_and_an_id_of_its_own(reactor: Turned, server: NameServer) -> None:
    ids = iter(range(1, 100))
    resolver = Resolver(reactor, [server.address], randbelow=lambda bound: next(ids) % bound)
    for number in range(4):
        server.zone[f"d{number}.example.com"] = {"MX": [(10, "a.example.com")]}
        reactor.finish(mx(resolver, f"d{number}.example.com"))
    assert len(set(server.ports)) > 1
    assert next(ids) == 5


def test_bad_names_are_not_asked(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    for name in ("", ".", "a..b", "a b", "-a.example", "192.0.2.1", "x" * 64 + ".example", "12.34"):
        with pytest.raises(DnsError, match="invalid host or domain name"):
            reactor.finish(resolver.query(name, "MX"))
    assert server.asked == []


def test_secure_answers(reactor: Turned, server: NameServer, resolver: Resolver, tmp_path: Path) -> None:
    """An answer is secure where it was asked for, said, and resolv.conf lets us believe it."""
    server.zone["example.com"] = {"TLSA": [b"\3\1\1x"]}
    server.authentic = True
    resolver.dnssec = True
    assert reactor.finish(resolver.query("example.com", "TLSA"))[0].secure
    conf = tmp_path / "resolv.conf"
    host = server.address[0]
    for text, wanted in (("options trust-ad\n", True), ("", False)):
        conf.write_text(f"nameserver {host}\n{text}")
        other = Resolver(reactor, resolv_conf=str(conf))
        other.dnssec = True
        other._conf = other._configuration()
        assert other._conf.trust_ad is wanted
    plain = Resolver(reactor, [server.address])
    assert not reactor.finish(plain.query("example.com", "TLSA"))[0].secure
    server.authentic = False
    fresh = Resolver(reactor, [server.address])
    fresh.dnssec = True
    assert not reactor.finish(fresh.query("example.com", "TLSA"))[0].secure


def test_the_name_that_counts_after_aliases(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone["www.example.com"] = {"CNAME": ["host.example.com"]}
    server.zone["host.example.com"] = {"A": ["192.0.2.1"]}
    assert reactor.finish(resolver.canonical("www.example.com")) == "host.example.com"
    assert reactor.finish(resolver.canonical("host.example.com")) == "host.example.com"
    assert reactor.finish(resolver.canonical("none.example.com")) == "none.example.com"


def test_malformed_mx(reactor: Turned, server: NameServer, resolver: Resolver) -> None:
    server.zone["example.com"] = {"MX": [(10, "under_score.example.com"), (5, "192.0.2.1"), (1, "-x")]}
    wanted = [(5, "192.0.2.1"), (10, "under_score.example.com")]
    assert reactor.finish(mx(resolver, "example.com")) == wanted
    server.zone["bad.example.com"] = {"MX": [(5, "-x.example.com")]}
    error = fails(reactor, mx(resolver, "bad.example.com"))
    assert error.text.endswith("type=MX: Malformed or unexpected name server reply")


def test_native_lookup(reactor: Turned, server: NameServer, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.7 inside.example.com inside\n")
    server.zone["inside.example.com"] = {"A": ["192.0.2.1"]}
    file = HostsFile(str(hosts))
    native = Resolver(reactor, [server.address], hosts=file)
    assert ensureDeferred(native.addresses("Inside", ways=("native",))).result == ["192.0.2.7"]  # type: ignore[comparison-overlap]
    error = fails(reactor, native.addresses("gone.example.com", ways=("native",)))
    assert error.text == "unable to look up host gone.example.com: Name or service not known"
    dns = Resolver(reactor, [server.address], hosts=file)
    assert reactor.finish(dns.addresses("inside.example.com", ("ipv4",))) == ["192.0.2.1"]
    both = Resolver(reactor, [server.address], hosts=file)
    assert reactor.finish(both.addresses("inside", ("ipv4",), ("dns", "native"))) == ["192.0.2.7"]


def test_resolv_conf(reactor: Turned, tmp_path: Path) -> None:
    text = "# c\nsearch x\nnameserver 192.0.2.1\nnameserver ::1\nnameserver junk\n"
    text += "options timeout:2 attempts:9 rotate\noptions trust-ad\n"
    conf = ResolvConf.parse(text)
    assert conf == ResolvConf((("192.0.2.1", 53), ("::1", 53)), 2.0, 5, True, ("x",), True)
    assert ResolvConf.parse("") == ResolvConf((("127.0.0.1", 53),))
    path = tmp_path / "resolv.conf"
    resolver = Resolver(reactor, resolv_conf=str(path))
    assert resolver._configuration().servers == (("127.0.0.1", 53),)
    path.write_text("nameserver 192.0.2.53\n")
    assert resolver._configuration().servers == (("192.0.2.53", 53),)


def test_names() -> None:
    assert to_ascii("bücher.example") == "xn--bcher-kva.example"
    assert to_ascii(".bücher.example") == ".xn--bcher-kva.example"
    assert to_ascii("mail.example.com") == "mail.example.com"
    assert valid_hostname("1.0.0.127.in-addr.arpa")
    assert not valid_hostname("a_-.example")
