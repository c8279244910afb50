"""Queue ids: short ones as Postfix has always had, and long ones (``enable_long_queue_ids``).

A short id is five hexadecimal digits of microseconds and a number that plays the inode's part; a long one
is seconds and microseconds in base 52, a ``z``, and a number in base 51.  The number holds ``slot``, which
tells processes that live at the same time apart, and in a short id the seconds too, so that no id comes
again for twelve days, longer than any message stays.  Should two processes have the same slot, the store
refuses the second of two equal ids.  Nothing is raised.

Postfix counterpart: ``mail_queue.h``, ``safe_ultostr(3)``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

#: Digits and consonants: no id spells a word.  Base 51 goes without the separator ``z``.
_ALPHABET = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
_SEPARATOR = "z"
_SECONDS_DIGITS, _MICROSECONDS_DIGITS = 6, 4

_SLOT_BITS, _SECONDS_BITS = 8, 20


def in_base(number: int, base: int, width: int = 1) -> str:
    """``number`` in the alphabet's first ``base`` digits, at least ``width`` of them."""
    digits = ""
    while number:
        number, digit = divmod(number, base)
        digits = _ALPHABET[digit] + digits
    return digits.rjust(width, "0")


def from_base(digits: str, base: int) -> int:
    """The number that :func:`in_base` wrote, 0 for what it would not write."""
    number = 0
    for digit in digits:
        value = _ALPHABET.find(digit)
        if not 0 <= value < base:
            return 0
        number = number * base + value
    return number


class QueueIds:
    """Makes queue ids for one process: ``long`` or short, ``slot`` by default from the process id."""

    __slots__ = ("_clock", "_last", "_long", "_slot")

    def __init__(self, long: bool, slot: int | None = None, clock: Callable[[], float] = time.time) -> None:
        self._long = long
        self._slot = (os.getpid() if slot is None else slot) & ((1 << _SLOT_BITS) - 1)
        self._clock = clock
        self._last = 0

    def next(self) -> str:
        """The next id.  A clock that stands still or goes back does not make one come twice."""
        self._last = now = max(int(self._clock() * 1_000_000), self._last + 1)
        seconds, microseconds = divmod(now, 1_000_000)
        if not self._long:
            number = (seconds & ((1 << _SECONDS_BITS) - 1)) << _SLOT_BITS | self._slot
            return f"{microseconds:05X}{number:X}"
        return (
            in_base(seconds, 52, _SECONDS_DIGITS)
            + in_base(microseconds, 52, _MICROSECONDS_DIGITS)
            + _SEPARATOR
            + in_base(self._slot, 51)
        )
