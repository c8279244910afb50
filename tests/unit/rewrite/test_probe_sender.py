"""Senders of probes, for a time and for good."""

from __future__ import annotations

import pytest

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.rewrite.address import Rewriter
from mtad.rewrite.probe_sender import ProbeSender

NOW = 1_790_000_000.5


def sender(value: str = "double-bounce", ttl: str = "0s") -> ProbeSender:
    values = {"address_verify_sender": value, "address_verify_sender_ttl": ttl, "myorigin": "x.test"}
    p = Parameters.from_mapping(values)
    return ProbeSender(p, Rewriter(p))


@pytest.mark.parametrize(
    ("value", "address"),
    [("double-bounce", b"double-bounce@x.test"), ("<>", b""), ("", b""), ("a@b.test", b"a@b.test")],
)
def test_lasting(value: str, address: bytes) -> None:
    made = sender(value)
    assert made.address(NOW) == made.address(NOW + 1e6) == address
    if address:
        assert made.lasting(address.upper(), NOW) == address
    assert made.lasting(b"", NOW) is None
    assert made.lasting(b"x" + address, NOW) is None


def test_for_a_time() -> None:
    """The digits are those of Postfix's safe_ultostr() with the base 31; NOW / 1000 is 1790000."""
    made = sender(ttl="1000s")
    address = made.address(NOW)
    assert address == b"double-bounce1Y2MY@x.test"
    assert 1 * 31**4 + 29 * 31**3 + 2 * 31**2 + 19 * 31**1 + 29 * 31**0 == 1_790_000
    lasting = b"double-bounce@x.test"
    assert [made.lasting(address, NOW + step * 1000) for step in (-2, -1, 0, 1, 2)] == [
        None, lasting, lasting, lasting, None,
    ]  # fmt: skip
    for other in (lasting, address.lower(), b"double-bounce@y.test", b"double-bounce1Y2MY", address + b"x"):
        assert made.lasting(other, NOW) is None
    assert made.lasting(address.replace(b"double", b"Double").replace(b"x.test", b"X.TEST"), NOW) == lasting


@pytest.mark.parametrize("value", ["@x.test", "x@"])
def test_no_address(value: str) -> None:
    with pytest.raises(ConfigError):
        sender(value)
