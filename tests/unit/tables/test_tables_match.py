"""Match lists, with Postfix's semantics."""

import asyncio
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.errors import ConfigError, TableError
from mtad.tables import AddressList, DomainList, StringList
from mtad.tables.network import parse_address, parse_network


def run(awaitable):
    return asyncio.run(awaitable)


@pytest.mark.parametrize(
    ("patterns", "address", "expected"),
    [
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.0/8", "128.0.0.1", False),
        ("127.0.0.0/8", "::ffff:127.0.0.1", True),
        ("127.0.0.0/8 [::ffff:127.0.0.0]/104 [::1]/128", "::1", True),
        ("[::ffff:127.0.0.0]/104", "127.0.0.1", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("[10.0.0.1]", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("[2001:db8::]/32", "2001:db8:0::5", True),
        ("[2001:db8::/32]", "2001:db8:0::5", True),
        ("[2001:db8::1]", "2001:DB8:0:0::1", True),
        ("[2001:db8::]/32", "10.0.0.1", False),
        ("!10.0.0.1, 10.0.0.0/8", "10.0.0.1", False),
        ("!10.0.0.1, 10.0.0.0/8", "10.0.0.2", True),
        ("!!10.0.0.1", "10.0.0.1", True),
        ("inline:{10.0.0.1=x}", "10.0.0.1", True),
        ("!inline:{10.0.0.1=x} 10.0.0.0/8", "10.0.0.1", False),
        ("cidr:{{10.0.0.0/8 x}}", "10.9.9.9", True),
        ("0.0.0.0/0", "1.2.3.4", True),
        ("", "1.2.3.4", False),
        ("10.0.0.0/8", "unknown", False),
        ("10.0.0.0/8x", "10.0.0.1", False),
    ],
)
def test_addresses(patterns, address, expected):
    assert run(AddressList("mynetworks", patterns).matches(address)) is expected


@pytest.mark.parametrize(
    ("patterns", "parent", "name", "expected"),
    [
        ("example.com", False, "Example.COM", True),
        ("example.com", False, "a.example.com", False),
        (".example.com", False, "a.example.com", True),
        (".example.com", False, "example.com", False),
        ("example.com", True, "a.example.com", True),
        (".example.com", True, "a.example.com", False),
        ("example.com", True, "badexample.com", False),
        ("!a.example.com .example.com", False, "a.example.com", False),
        ("inline:{example.com=x}", True, "a.b.example.com", True),
        ("inline:{example.com=x}", False, "a.b.example.com", False),
        ("inline:{.example.com=x}", False, "a.b.example.com", True),
        ("regexp:{{/^example/ x}}", True, "a.example.com", False),
        ("Straße.de", False, "strasse.de", True),
    ],
)
def test_names(patterns, parent, name, expected):
    domains = DomainList("relay_domains", patterns, parent_matches=parent)
    assert run(domains.matches(name.encode())) is expected
    clients = AddressList("mynetworks", patterns, parent_matches=parent)
    assert run(clients.matches("192.0.2.1", name)) is expected


def test_strings():
    strings = StringList("x", "!external, static:rest")
    assert run(strings.matches(b"PLAIN"))
    assert not run(strings.matches(b"EXTERNAL"))
    assert not run(StringList("x", "a").matches(b"b"))


@pytest.mark.parametrize(
    ("pattern", "address", "message"),
    [
        (
            "10.0.0.1/8",
            "10.0.0.1",
            'mynetworks: non-null host address bits in "10.0.0.1/8", '
            'perhaps you should use "10.0.0.0/8" instead',
        ),
        ("10.0.0.0/33", "10.0.0.1", 'mynetworks: bad mask length in "10.0.0.0/33"'),
        ("10.0.0.0/abc", "10.0.0.1", 'mynetworks: bad mask value in "10.0.0.0/abc"'),
        ("10.0.0/8", "10.0.0.1", 'mynetworks: bad network value in "10.0.0/8"'),
        ("[2001:db8::1]/32", "2001:db8::1", "mynetworks: non-null host address bits"),
        ("[2001:db8::1", "2001:db8::2", "mynetworks: missing ']' character after \"[2001:db8::1\""),
    ],
)
def test_bad_networks_fail_when_the_search_gets_there(pattern, address, message):
    networks = AddressList("mynetworks", f"192.0.2.0/24 {pattern}")
    assert run(networks.matches("192.0.2.1"))
    assert not run(networks.matches("::1" if "." in address else "10.0.0.1"))
    assert len(networks.problems) == 1
    with pytest.raises(TableError) as caught:
        run(networks.matches(address))
    assert str(caught.value).startswith(message)


def test_a_failing_table_fails_the_search():
    for patterns in ("fail:x", "foo:bar", "2001:db8::/32", "/no/such/file"):
        networks = AddressList("mynetworks", f"127.0.0.1 {patterns}")
        assert run(networks.matches("127.0.0.1"))
        with pytest.raises(TableError, match="table lookup problem"):
            run(networks.matches("127.0.0.2"))


def test_files(tmp_path):
    inner = tmp_path / "inner"
    inner.write_text("b.example\n  c.example # not a comment here\n")
    outer = tmp_path / "outer"
    outer.write_text(f"# comment\na.example, {inner}\n!d.example\n")
    warnings = []
    domains = DomainList("x", f"{outer} e.example", warn=warnings.append)
    found = [name for name in "abcde" if run(domains.matches(f"{name}.example".encode()))]
    assert found == ["a", "b", "c", "e"]
    assert len(warnings) == 1 and "#comment" in warnings[0]
    excluded = DomainList("x", f"!{outer} example static:yes", parent_matches=True)
    assert not run(excluded.matches(b"a.example"))
    assert run(excluded.matches(b"d.example"))


def test_files_in_a_circle(tmp_path):
    path = tmp_path / "x"
    path.write_text(f"{path}\n")
    assert DomainList("x", str(path)).problems


def test_nothing_after_negation():
    with pytest.raises(ConfigError, match="no pattern after '!'"):
        DomainList("x", "a !")


addresses = st.ip_addresses()


@given(addresses, st.integers(0, 128), addresses)
def test_networks_agree_with_the_standard_library(address, bits, other):
    bits = min(bits, address.max_prefixlen)
    network = ipaddress.ip_network((address, bits), strict=False)
    mine = parse_network(f"[{network.network_address}]/{bits}")
    assert mine == parse_network(f"[{network.network_address}/{bits}]")
    for one in (address, other):
        if one.version == 6 and one.ipv4_mapped:
            continue
        parsed = parse_address(str(one))
        assert parsed == (one.version, int(one))
        assert mine.contains(*parsed) == (one in network)


@given(st.text(alphabet="0123456789abcdef.:/[]x", max_size=30))
def test_any_pattern_gives_a_network_or_a_reason(text):
    try:
        parse_network(text)
    except ConfigError:
        pass
    AddressList("x", text.replace("!", ""))
