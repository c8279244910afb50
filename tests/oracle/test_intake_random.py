"""Random mail through random rules: the same envelopes, bytes, replies and log lines from Postfix and mtad.

``make fuzz SEEDS="1000 9000"`` tries others.  What such runs have found is kept as cases of
``test_intake_content.py`` and ``test_intake_addresses.py``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from oracle import fuzz_intake
from oracle.dialogue import House

SEEDS = range(200)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with fuzz_intake.both(0) as house:
        yield house


@pytest.mark.parametrize("first", range(0, len(SEEDS), fuzz_intake.BATCH))
def test_kept_seeds(house: House, first: int) -> None:
    found = fuzz_intake.differences(house, SEEDS[first : first + fuzz_intake.BATCH])
    assert not found, "\n".join(fuzz_intake.shown(seed, text) for seed, text in found.items())
    assert "Traceback" not in house.mtad.log()


def test_a_seed_makes_one_mail() -> None:
    assert all(fuzz_intake.case(seed) == fuzz_intake.case(seed) for seed in SEEDS)
    assert fuzz_intake.config(3).cleanups == fuzz_intake.config(3).cleanups
    contents = [fuzz_intake.case(seed)[1].content for seed in SEEDS]
    for word in (b"multipart/", b"message/", b"Resent-", b"\0", b"To:", "\u00fc".encode(), b"\n--", b"\n\t"):
        assert sum(word in content for content in contents) >= 5, word
