"""Lookups with checks and a filter."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from zone_resolver import ZoneResolver

from mtad.errors import TableError
from mtad.net.dns import DnsError, DnsStatus
from mtad.net.lookup import Lookup, record_text, target, text_of

ZONE = """
example.com        MX   10 mx.example.com
example.com        MX   20 bad!name.example.com
mx.example.com     A    192.0.2.1
mx.example.com     AAAA 2001:db8::1
null.example       MX   0 .
null.example       A    192.0.2.2
number.example     MX   10 192.0.2.3
only.example       MX   10 bad!name.example.com
text.example       TXT  "some text"
failing.example    SERVFAIL MX
failing.example    A    192.0.2.4
example.com        NS   ns.example.com
"""


class Log:
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.infos: list[str] = []


def lookup(log: Log, filter: Any = None) -> Lookup:
    resolver: Any = ZoneResolver(ZONE)
    return Lookup(resolver, log.warnings.append, log.infos.append, ("ipv4", "ipv6"), filter, "the_filter")


def run(awaitable: Any) -> Any:
    return asyncio.run(awaitable)


def fails(awaitable: Any) -> DnsError:
    with pytest.raises(DnsError) as caught:
        run(awaitable)
    return caught.value


def test_names_that_are_none_are_left_out() -> None:
    log = Log()
    records = run(lookup(log).records("example.com", "MX"))
    assert [target(record) for record in records] == ["mx.example.com"]
    (warning,) = log.warnings
    assert warning.startswith("malformed domain name in resource data of MX record for example.com: bad")
    assert fails(lookup(log).records("only.example", "MX")).status is DnsStatus.MALFORMED


def test_numbers_for_names() -> None:
    log = Log()
    (record,) = run(lookup(log).records("number.example", "MX"))
    assert target(record) == "192.0.2.3"
    assert log.warnings == ["numeric domain name in resource data of MX record for number.example: 192.0.2.3"]


def test_addresses_and_null_mx() -> None:
    log = Log()
    assert fails(lookup(log).records("192.0.2.1", "A")).status is DnsStatus.NOT_FOUND
    error = fails(lookup(log).records("null.example", "MX"))
    assert (error.status, error.text) == (
        DnsStatus.NULL_MX,
        "Domain null.example does not accept mail (nullMX)",
    )
    assert run(lookup(log).host("192.0.2.9")) == ["192.0.2.9"]
    assert run(lookup(log).host("mx.example.com")) == ["192.0.2.1", "2001:db8::1"]


def test_first_of_several_types() -> None:
    log = Log()
    (record,) = run(lookup(log).first("failing.example", ("MX", "A")))
    assert record.data == "192.0.2.4"
    (record,) = run(lookup(log).first("null.example", ("MX", "A")))
    assert record.data == "192.0.2.2"
    assert fails(lookup(log).first("null.example", ("MX", "A"), frozenset((DnsStatus.NULL_MX,)))).text
    assert fails(lookup(log).first("failing.example", ("MX", "TXT"))).temporary
    assert fails(lookup(log).first("none.example", ("MX", "TXT"))).status is DnsStatus.NOT_FOUND


def test_all_types() -> None:
    log = Log()
    found = run(lookup(log).all("mx.example.com", ("A", "AAAA", "TXT")))
    assert [record.data for record in found] == ["192.0.2.1", "2001:db8::1"]
    assert fails(lookup(log).all("text.example", ("A", "AAAA"))).status is DnsStatus.NOT_FOUND
    assert lookup(log).address_types == ("A", "AAAA")


def test_the_filter() -> None:
    log = Log()
    seen: list[bytes] = []

    async def drop_six(text: bytes) -> bytes | None:
        seen.append(text)
        return b"ignore this" if b" AAAA " in text else None

    there = lookup(log, drop_six)
    assert [r.data for r in run(there.all("mx.example.com", ("A", "AAAA")))] == ["192.0.2.1"]
    assert seen == [b"mx.example.com. 60 IN A 192.0.2.1", b"mx.example.com. 60 IN AAAA 2001:db8::1"]
    assert log.infos == ["ignoring DNS RR: mx.example.com. 60 IN AAAA 2001:db8::1"]
    error = fails(there.records("mx.example.com", "AAAA"))
    assert error.status is DnsStatus.POLICY and not error.temporary
    assert error.text == "Error looking up name=mx.example.com type=AAAA: DNS reply filter drops all results"


def test_a_filter_that_fails_or_says_nonsense() -> None:
    log = Log()

    async def nonsense(text: bytes) -> bytes | None:
        return b"oops"

    async def broken(text: bytes) -> bytes | None:
        raise TableError("no table")

    for filter in (nonsense, broken):
        error = fails(lookup(log, filter).records("mx.example.com", "A"))
        assert error.temporary
        assert error.text.endswith("Invalid DNS reply filter syntax")
    assert log.warnings == ['the_filter: unknown DNS filter action: "oops"', "no table"]


def test_records_as_text() -> None:
    log = Log()
    there = lookup(log)
    (text,) = run(there.records("text.example", "TXT"))
    assert text_of(text) == b"some text"
    assert record_text(text) == b"text.example. 60 IN TXT some text"
    (name,) = run(there.records("example.com", "NS"))
    assert record_text(name) == b"example.com. 60 IN NS ns.example.com."
    (mx,) = run(there.records("example.com", "MX"))
    assert record_text(mx) == b"example.com. 60 IN MX 10 mx.example.com."
