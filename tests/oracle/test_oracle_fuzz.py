"""The kept seeds of random sessions: the same codes from Postfix and from mtad.

``make fuzz SEEDS="1000 9000"`` tries others; those that showed something join :data:`SEEDS`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from oracle import fuzz
from oracle.dialogue import House

#: The first hundreds cover the grammar; the others have found something once.
SEEDS = [*range(294), 919, 1158, 1653, 2029, 2227, 3431]


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with fuzz.both() as house:
        yield house


@pytest.mark.parametrize("first", range(0, len(SEEDS), 50))
def test_kept_seeds(house: House, first: int) -> None:
    problems = [problem for seed in SEEDS[first : first + 50] if (problem := fuzz.differ(house, seed))]
    assert not problems, "\n".join(problems)
    assert "Traceback" not in house.mtad.log()


def test_a_seed_makes_one_session() -> None:
    for seed in range(20):
        (service, steps), (other, again) = fuzz.session(seed), fuzz.session(seed)
        assert (service, [step(250) for step in steps]) == (other, [step(250) for step in again])
