"""Paths of MAIL FROM and RCPT TO: what Postfix takes and how it reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.wire.address import from_text, parse_path, quote, valid_hostname, valid_literal
from mtad.wire.events import NULL_ADDRESS

LABEL63 = b"x" * 63
LONG = b".".join([b"x" * 50] * 6)

# argument, internal form (None: refused), the same when strict
CASES: list[tuple[bytes, bytes | None, bytes | None]] = [
    (b"<a@b.c>", b"a@b.c", b"a@b.c"),
    (b"<A.b@C>", b"A.b@C", b"A.b@C"),
    (b"a@b.c", b"a@b.c", None),
    (b"<a>", b"a", b"a"),
    (b"<@x,@y:a@b>", b"a@b", b"a@b"),
    (b'<"a b"@c>', b"a b@c", b"a b@c"),
    (b'<"a\\"b"@c>', b'a"b@c', b'a"b@c'),
    (b'<"a@b"@c>', b"a@b@c", b"a@b@c"),
    (b"<a\\ b@c>", b"a b@c", b"a b@c"),
    (b"<a b@c>", None, None),
    (b"<a@b c>", None, None),
    (b"<a(comment)@b>", b"a@b", None),
    (b"<a@b>(comment (nested))", b"a@b", None),
    (b"<<a@b>>", b"a@b", b"a@b"),
    (b"Foo <a@b>", b"a@b", None),
    (b"<group:a@b;>", b"a@b", None),
    (b"<x:a@b,c@d;>", None, None),
    (b"<a@b>,<c@d>", None, None),
    (b"<a@b><c@d>", None, None),
    (b"<a@[192.0.2.1]>", b"a@[192.0.2.1]", b"a@[192.0.2.1]"),
    (b"<a@[IPv6:2001:db8::1]>", b"a@[IPv6:2001:db8::1]", b"a@[IPv6:2001:db8::1]"),
    (b"<a@[::1]>", None, None),
    (b"<a@[192.0.2]>", None, None),
    (b"<a@192.0.2.1>", None, None),
    (b"<a@123>", None, None),
    (b"<a@1-2>", b"a@1-2", b"a@1-2"),
    (b"<a@b.>", b"a@b.", b"a@b."),
    (b"<a@b..>", None, None),
    (b"<a@-b>", None, None),
    (b"<a@b->", None, None),
    (b"<a@b*c>", None, None),
    (b"<a@" + LABEL63 + b">", b"a@" + LABEL63, b"a@" + LABEL63),
    (b"<a@" + LABEL63 + b"x>", None, None),
    (b"<a@" + LONG + b">", None, None),
    (b"<a..b@c>", b"a..b@c", b"a..b@c"),
    (b"<a%b@c>", b"a%b@c", b"a%b@c"),
    (b"<@b>", b"@b", None),
    (b"<a@>", None, None),
    (b"<>", None, None),
    (b"<(c)>", None, None),
    (b"<-a@b>", None, None),
    (b"-a", None, None),
    (b"<\xc3\xa4@b>", b"\xc3\xa4@b", b"\xc3\xa4@b"),
    (b"<a@\xc3\xa4.example>", None, None),
    (b"<a@b\\>", b"a@b", b"a@b"),
]


@pytest.mark.parametrize(("argument", "loose", "strict"), CASES)
def test_paths(argument: bytes, loose: bytes | None, strict: bytes | None) -> None:
    found = parse_path(argument)
    assert (found.text if found else None) == loose
    found = parse_path(argument, strict=True)
    assert (found.text if found else None) == strict


def test_the_null_address_is_for_senders() -> None:
    assert parse_path(b"<>", allow_empty=True) is NULL_ADDRESS
    assert parse_path(b"<(nobody)>", allow_empty=True) is NULL_ADDRESS
    assert parse_path(b"<>") is None


def test_domains_beyond_ascii_need_smtputf8() -> None:
    found = parse_path("<a@bücher.example>".encode(), smtputf8=True)
    assert found is not None
    assert found.domain == "bücher.example".encode()
    assert parse_path("<a@bücher.example>".encode()) is None
    assert parse_path("<a@b\u200bx..example>".encode(), smtputf8=True) is None


def test_the_parts_of_an_address() -> None:
    found = parse_path(b'<"a b"@example.com>')
    assert found is not None
    assert (found.local, found.domain) == (b"a b", b"example.com")
    assert found.wire == b'"a b"@example.com'
    assert from_text(b"user").domain == b""


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        (b"a@b", b"a@b"),
        (b"a.b@c", b"a.b@c"),
        (b"a..b@c", b'"a..b"@c'),
        (b".a@c", b'".a"@c'),
        (b"a.@c", b'"a."@c'),
        (b"a b@c", b'"a b"@c'),
        (b'a"b\\@c', b'"a\\"b\\\\"@c'),
        (b"a@b@c", b'"a@b"@c'),
        (b"@c", b'""@c'),
        (b"user", b"user"),
        (b"a\x7f@c", b'"a\x7f"@c'),
        (b"\xc3\xa4@c", b"\xc3\xa4@c"),
    ],
)
def test_quoting(text: bytes, wire: bytes) -> None:
    assert quote(text) == wire


LOCAL = st.text(
    st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="@"), min_size=1, max_size=12
)


@given(LOCAL)
def test_quoting_is_undone_by_reading(local: str) -> None:
    text = local.encode() + b"@example.com"
    found = parse_path(b"<" + quote(text) + b">")
    if local.startswith("-"):
        assert found is None
    else:
        assert found is not None
        assert found.text == text


@given(st.binary(max_size=40))
def test_nothing_breaks_the_reader(argument: bytes) -> None:
    found = parse_path(argument)
    if found is not None and b"@" in found.text:
        assert found.local + b"@" + found.domain == found.text


@pytest.mark.parametrize(
    "argument", [b"<" + b"(" * 2000, b"<" + b'"' * 2001, b"@" * 2000 + b":", b"<a@" + b"-" * 2000]
)
def test_long_junk_is_read_fast(argument: bytes) -> None:
    parse_path(argument)


def test_host_names() -> None:
    assert valid_hostname(b"a_b.example-1.com")
    assert not valid_hostname(b"")
    assert not valid_hostname(b"a..b")
    assert not valid_hostname(b"1.2.3.4")
    assert valid_literal(b"[IPv6:::1]")
    assert not valid_literal(b"[IPv6:fe80::1%eth0]")
    assert not valid_literal(b"[\xff]")
