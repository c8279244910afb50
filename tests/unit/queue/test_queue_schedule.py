from __future__ import annotations

import pytest

from mtad.queue.schedule import expired, lifetime, next_attempt, queue_run, warning_due


@pytest.mark.parametrize(("age", "delay"), [(0, 300), (299, 300), (1000, 1000), (4000, 4000), (90000, 4000)])
def test_time_between_attempts_follows_the_age(age: int, delay: int) -> None:
    assert next_attempt(10_000.0 + age, 10_000.0, 300, 4000) == 10_000.0 + age + delay


def test_clock_that_went_back() -> None:
    assert next_attempt(5.0, 900.0, 300, 4000) == 305.0


@pytest.mark.parametrize(
    ("due", "now", "tried"),
    [
        (1300.0, 1000.0, 1300.0),
        (1300.9, 1000.9, 1300.0),  # a second early is good enough
        (1301.1, 1001.1, 1600.0),
        (1001.0, 1000.0, 1300.0),  # not at once
        (500.5, 200.5, 700.0),  # the clock went back
    ],
)
def test_what_is_due_is_tried_at_the_next_run(due: float, now: float, tried: float) -> None:
    assert queue_run(due, now, 1000.0, 300) == tried


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
    assert warning_due(99.0, 0.0, 100, False)
    assert not warning_due(98.9, 0.0, 100, False)
    assert not warning_due(100.0, 0.0, 100, True)
    assert not warning_due(1e9, 0.0, 0, False)
