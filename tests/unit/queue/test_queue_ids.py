from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from mtad.queue.ids import QueueIds, in_base

ALPHABET = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"


def number(text: str, base: int) -> int:
    value = 0
    for digit in text:
        value = value * base + ALPHABET.index(digit)
    return value


@given(st.integers(0, 1 << 64), st.sampled_from([51, 52]), st.integers(1, 8))
def test_base(value: int, base: int, width: int) -> None:
    text = in_base(value, base, width)
    assert number(text, base) == value
    assert len(text) >= width
    assert base == 52 or "z" not in text


def test_short_id_holds_the_microseconds() -> None:
    name = QueueIds(False, 0x2A, lambda: 1_700_000_000.25).next()
    assert re.fullmatch(r"[0-9A-F]{6,12}", name)
    assert int(name[:5], 16) == 250_000
    assert int(name[5:], 16) & 0xFF == 0x2A


def test_long_id_holds_the_time() -> None:
    name = QueueIds(True, 200, lambda: 1_700_000_000.25).next()
    assert re.fullmatch(r"[0-9BCDFGHJ-NP-TV-Zbcdfghj-np-tv-y]{10}z[0-9A-Za-y]+", name)
    assert number(name[:6], 52) == 1_700_000_000
    assert number(name[6:10], 52) == 250_000
    assert number(name[11:], 51) == 200


def test_unlike_on_a_clock_that_stands_or_goes_back() -> None:
    for long in (False, True):
        times = [5.0] * 500 + [4.0] * 500 + [6.0]
        ids = QueueIds(long, 1, iter(times).__next__)
        assert len({ids.next() for _ in times}) == len(times)


def test_unlike_in_processes_at_the_same_time() -> None:
    for long in (False, True):
        names = {QueueIds(long, slot, lambda: 1e9).next() for slot in range(256)}
        assert len(names) == 256


def test_unlike_for_twelve_days() -> None:
    """The same microsecond in other seconds."""
    names = {QueueIds(False, 7, (1e9 + second).__float__).next() for second in range(0, 12 * 86400, 997)}
    assert len(names) == len(range(0, 12 * 86400, 997))
