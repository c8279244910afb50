from __future__ import annotations

import pytest

from mtad.queue.schedule import expired, lifetime, next_attempt, warning_due


@pytest.mark.parametrize(("age", "delay"), [(0, 300), (299, 300), (1000, 1000), (4000, 4000), (90000, 4000)])
def test_time_between_attempts_follows_the_age(age: int, delay: int) -> None:
    assert next_attempt(10_000.0 + age, 10_000.0, 300, 4000) == 10_000.0 + age + delay


def test_clock_that_went_back() -> None:
    assert next_attempt(5.0, 900.0, 300, 4000) == 305.0


@pytest.mark.parametrize(
    ("sender", "queue", "bounce", "limit"),
    [(b"a@b", 500, 100, 500), (b"", 500, 100, 100), (b"", 100, 500, 100), (b"a@b", 0, 5, 0)],
)
def test_lifetime(sender: bytes, queue: int, bounce: int, limit: int) -> None:
    assert lifetime(sender, queue, bounce) == limit


def test_expired() -> None:
    assert expired(10.0, 10.0, 0)
    assert not expired(99.0, 0.0, 100)
    assert expired(100.0, 0.0, 100)


def test_warning() -> None:
    assert warning_due(100.0, 0.0, 100, False)
    assert not warning_due(99.0, 0.0, 100, False)
    assert not warning_due(100.0, 0.0, 100, True)
    assert not warning_due(1e9, 0.0, 0, False)
