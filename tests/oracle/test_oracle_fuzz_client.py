"""The kept seeds of random mail to random servers: the same from Postfix and from mtad.

``make fuzz SEEDS="1000 9000"`` tries others; those that showed something join :data:`SEEDS`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from oracle import fuzz_client
from oracle.scripted import Script

#: The first hundreds have found nearly all; the others have found something once.
SEEDS = [*range(130), 174, 275, 292, 376]


@pytest.fixture(scope="module")
def bench() -> Iterator[fuzz_client.Bench]:
    with fuzz_client.bench() as bench:
        yield bench


def test_kept_seeds(bench: fuzz_client.Bench) -> None:
    problems = list(fuzz_client.differences(bench, SEEDS))
    assert not problems, "\n".join(problems)
    assert "Traceback" not in bench.house.mtad.log()


def test_a_seed_makes_one_case() -> None:
    for seed in range(20):
        one, other = fuzz_client.case(seed), fuzz_client.case(seed)
        assert (one.service, one.commands, one.content) == (other.service, other.commands, other.content)
        said = [Script(seed).say(0, 0, stage, 1) for stage in ("connect", "ehlo", "rcpt", "dot")]
        assert said == [Script(seed).say(0, 0, stage, 1) for stage in ("connect", "ehlo", "rcpt", "dot")]
