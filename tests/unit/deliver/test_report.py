"""Delays as Postfix prints them, and the folding of long lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.deliver.report import Stamps, external, seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-1, "0"),
        (0.004, "0"),
        (0.006, "0.01"),
        (0.02, "0.02"),
        (0.1, "0.1"),
        (0.194, "0.19"),
        (0.999, "1"),
        (1.04, "1"),
        (1.25, "1.3"),
        (3.1, "3.1"),
        (9.97, "10"),
        (12.3, "12"),
        (40.2, "40"),
        (432000.4, "432000"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text


def test_the_resolution_can_be_changed() -> None:
    assert seconds(0.012345, 6) == "0.012"
    assert seconds(0.5, 0) == "1"
    assert seconds(1.25, 0) == "1"


@given(st.floats(0, 1e7), st.integers(0, 6))
def test_seconds_are_near_and_short(value: float, digits: int) -> None:
    text = seconds(value, digits)
    assert abs(float(text) - value) <= max(0.5001 * 10**-digits, value * 0.051, 1e-6)
    assert len(text.partition(".")[2]) <= digits
    assert not text.endswith(".") and not ("." in text and text.endswith("0"))


def test_delays_where_nothing_was_connected() -> None:
    stamps = Stamps(arrival=100.0, active=101.0)
    stamps.done = 101.5
    assert stamps.delays(2) == "delay=1.5, delays=1/0/0/0.5"
    stamps.begun, stamps.connected = 101.1, 101.4
    assert stamps.delays(2) == "delay=1.5, delays=1/0.1/0.3/0.1"


def test_addresses_in_external_form() -> None:
    assert external(b"") == b""
    assert external(b"odd one@dest.test") == b'"odd one"@dest.test'
