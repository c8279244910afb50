from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.parameters import Parameters
from mtad.rewrite.address import Rewriter
from mtad.wire.address import from_text

BASE = {"compatibility_level": "3.6", "myhostname": "mx.example.com", "myorigin": "origin.example"}


def rewriter(**settings: str) -> Rewriter:
    return Rewriter(Parameters.from_mapping({**BASE, **settings}))


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        ("", {}, ""),
        ("user", {}, "user@origin.example"),
        ("user", {"append_at_myorigin": "no"}, "user"),
        ("user@a.example", {}, "user@a.example"),
        ("user@host", {}, "user@host"),
        ("user@host", {"append_dot_mydomain": "yes"}, "user@host.example.com"),
        ("user@[1.2.3.4]", {"append_dot_mydomain": "yes"}, "user@[1.2.3.4]"),
        ("user", {"append_dot_mydomain": "yes", "myorigin": "host"}, "user@host.example.com"),
        ("user@a.example.", {}, "user@a.example"),
        ("user@a.example..", {}, "user@a.example.."),
        ("user@.", {}, "user@."),
        ("a!b", {}, "b@a"),
        ("a!b!c", {}, "b!c@a"),
        ("a!b", {"swap_bangpath": "no"}, "a!b@origin.example"),
        ("a%b", {}, "a@b"),
        ("a%b%c", {}, "a%b@c"),
        ("a%b", {"allow_percent_hack": "no"}, "a%b@origin.example"),
        ("a!b%c", {}, "b%c@a"),
        ("a!b%c", {"swap_bangpath": "no"}, "a!b@c"),
        ("a!b@c.example", {}, "a!b@c.example"),
        ("a b%c", {}, "a b%c@origin.example"),
        ("@a,@b:user@c.example", {}, "user@c.example"),
    ],
)
def test_local_context(text: str, settings: dict[str, str], expected: str) -> None:
    assert rewriter(**settings).rewrite(from_text(text.encode())).text.decode() == expected


def test_remote_context() -> None:
    plain = rewriter(append_dot_mydomain="yes")
    assert not plain.rewrites_remote
    assert plain.rewrite(from_text(b"user"), remote=True).text == b"user"
    assert plain.rewrite(from_text(b"user@host"), remote=True).text == b"user@host"
    named = rewriter(append_dot_mydomain="yes", remote_header_rewrite_domain="domain.invalid")
    assert named.rewrites_remote
    assert named.rewrite(from_text(b"user"), remote=True).text == b"user@domain.invalid"
    assert named.rewrite(from_text(b"user@host"), remote=True).text == b"user@host.domain.invalid"


def test_complete_address_is_returned_as_it_is() -> None:
    address = from_text(b"user@a.example")
    assert rewriter().rewrite(address) is address


def test_wire_form_is_quoted() -> None:
    assert rewriter().rewrite(from_text(b"a b")).wire == b'"a b"@origin.example'


@given(st.binary(max_size=40))
def test_rewriting_settles(text: bytes) -> None:
    """Rewriting ends, never raises, and twice is as good as once for addresses with a domain."""
    ours = rewriter()
    once = ours.rewrite(from_text(text))
    if b"@" in text and not text.startswith(b"@") and not text.endswith(b"."):
        assert ours.rewrite(once) == once
