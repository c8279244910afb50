"""The kept seeds of random routing rules: the same transport, next hop and recipient from Postfix and mtad.

``make fuzz`` tries others.
"""

from __future__ import annotations

import pytest
from oracle import fuzz_resolve
from oracle.postfix import AVAILABLE, WHY_NOT

SEEDS = range(60)


@pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)
def test_kept_seeds() -> None:
    problems = list(fuzz_resolve.differences(SEEDS))
    assert not problems, "\n".join(problems)


def test_a_seed_makes_one_configuration() -> None:
    for seed in range(20):
        assert fuzz_resolve.rules(seed) == fuzz_resolve.rules(seed)
        assert fuzz_resolve.questions(seed) == fuzz_resolve.questions(seed)
