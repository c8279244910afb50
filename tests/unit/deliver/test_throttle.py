"""How wide the window of a destination is after successes and failures: the numbers are those of Postfix."""

from __future__ import annotations

import re

import pytest

from mtad.config.parameters import Parameters
from mtad.deliver.limits import Limits
from mtad.deliver.throttle import Throttle

PER = "1/concurrency"

#: Positive and negative feedback, limit, initial concurrency, cohorts; then per delivery how many are under
#: way and success or failure; then what ``qmgr_queue.c`` of Postfix 3.11 makes of it: the window, where the
#: cycles of success and failure are, failed cohorts.
SEQUENCES = [
    ("1 1 20 5 1", "5f5f5f5f", "3/0/1/0.2 2/0/1/0.533333 0/0/1/1.03333 0/0/1/1.03333"),
    (
        "1 1 20 5 1",
        "5s5s5s5s5s5s5s",
        "6/0/0/0 7/0/0/0 8/0/0/0 9/0/0/0 10/0/0/0 10/0/0/0 10/0/0/0",
    ),
    ("1 1 7 5 1", "5s5s5s5s5f6s", "6/0/0/0 7/0/0/0 7/0/0/0 7/0/0/0 5/0/1/0.142857 6/0/0/0"),
    (
        f"{PER} {PER} 20 5 0",
        "5f5f5f5f5f5f5f5s5s5s5s5s5s5s5s5s",
        "4/0/0.8/0.2 4/0/0.55/0.45 4/0/0.3/0.7 3/0/1.05/0.95 3/0/0.716667/1.28333 3/0/0.383333/1.61667 "
        "2/0/1.05/1.95 2/0.5/1.05/0 3/0/0/0 3/0.333333/0/0 3/0.666667/0/0 4/0/0/0 4/0.25/0/0 4/0.5/0/0 "
        "4/0.75/0/0 5/0/0/0",
    ),
    (
        "1 1 20 5 1",
        "5f5f5f2s2s2f",
        "3/0/1/0.2 2/0/1/0.533333 0/0/1/1.03333 2/0/0/0 3/0/0/0 1/0/1/0.333333",
    ),
    (
        "0.3 0.7 20 3 2",
        "3s3s3s3f3s3f3f3s3f3f3f3f2s",
        "3/0.3/0/0 3/0.6/0/0 4/-0.1/0/0 2/0/1.3/0.25 2/0.3/1.3/0 2/0.3/0.6/0.5 1/0/0.9/1 1/0.3/0.9/0 "
        "1/0/1.2/1 0/0/1.2/2 0/0/1.2/2 0/0/1.2/2 2/0/0/0",
    ),
    (
        "1/8 1/3 0 2 1",
        "2s3s4s4s4s4s4s4s4f4f4s4f",
        "2/0.125/0/0 2/0.25/0/0 2/0.375/0/0 2/0.5/0/0 2/0.625/0/0 2/0.75/0/0 2/0.875/0/0 3/0/0/0 "
        "2/0/0.666667/0.333333 2/0/0.333333/0.833333 2/0.125/0.333333/0 1/0/1/0.5",
    ),
    (
        "1/4 1/2 20 1 3",
        "1f1s1f1f1f",
        "1/0/0.5/1 1/0.25/0.5/0 1/0/1/1 1/0/0.5/2 0/0/0.5/3",
    ),
    (
        f"{PER} 1 10 5 2",
        "5s5s5s5s5s5f6s6s6s6f6f6f6f6f6f",
        "5/0.2/0/0 5/0.4/0/0 5/0.6/0/0 5/0.8/0/0 6/0/0/0 4/0/1/0.166667 4/0.25/1/0 4/0.5/1/0 4/0.75/1/0 "
        "3/0/1/0.25 2/0/1/0.583333 1/0/1/1.08333 0/0/1/2.08333 0/0/1/2.08333 0/0/1/2.08333",
    ),
    (
        "0 0 20 5 1",
        "5s5f5f5f5f5f5f",
        "5/0/0/0 5/0/0/0.2 5/0/0/0.4 5/0/0/0.6 5/0/0/0.8 0/0/0/1 0/0/0/1",
    ),
    ("2/hours x/y 20 5 1", "5s5f5f5f", "6/0/0/0 4/0/1/0.166667 3/0/1/0.416667 2/0/1/0.75"),
    ("1 1 1 5 1", "1s1f", "1/0/0/0 0/0/0/1"),
    (
        "1 0.2 20 10 1",
        "10f10f10f10s10f10f10f10f10f10f10f10f",
        "9/0/0.8/0.1 9/0/0.6/0.211111 9/0/0.4/0.322222 10/0/0/0 9/0/0.8/0.1 9/0/0.6/0.211111 "
        "9/0/0.4/0.322222 9/0/0.2/0.433333 8/0/1/0.544444 8/0/0.8/0.669444 8/0/0.6/0.794444 8/0/0.4/0.919444",
    ),
]
NAMES = (
    "smtp_destination_concurrency_positive_feedback",
    "default_destination_concurrency_negative_feedback",
    "default_destination_concurrency_limit",
    "smtp_initial_destination_concurrency",
    "smtp_destination_concurrency_failed_cohort_limit",
)


def limits(warnings: list[str] | None = None, /, **settings: str) -> Limits:
    warn = ([] if warnings is None else warnings).append
    return Limits.of(Parameters.from_mapping(settings), "smtp", warn)


@pytest.mark.parametrize(("settings", "events", "expected"), SEQUENCES)
def test_the_window_is_that_of_postfix(settings: str, events: str, expected: str) -> None:
    said: list[str] = []
    values = dict(zip(NAMES, settings.split(), strict=True))
    made = Throttle(limits(**values), "dest", said.append)
    for busy, event in re.findall(r"(\d+)([sf])", events):
        made.busy = int(busy)
        before = len(said)
        if event == "s":
            made.succeeded()
        else:
            made.failed(0.0)
        if len(said) == before:  # what failed after the destination was dead is no news
            said.append(said[-1])
    pattern = r"window (\S+) success (\S+) failure (\S+) fail_cohorts (\S+)$"
    found = ["/".join(match.groups()) for line in said if (match := re.search(pattern, line))]
    assert [text.replace("-0/", "0/") for text in found] == expected.split()


def test_feedback_is_logged_for_those_who_ask() -> None:
    asked = limits(
        destination_concurrency_feedback_debug="yes",
        smtp_destination_concurrency_negative_feedback=PER,
    )
    assert asked.told == (
        "smtp: default_destination_concurrency_positive_feedback feedback type 0 value at 5: 1",
        "smtp: smtp_destination_concurrency_negative_feedback feedback type 1 value at 5: 0.2",
    )
    said: list[str] = []
    made = Throttle(asked, "dest", said.append)
    made.failed(0.0)
    assert said == [
        "qmgr_queue_throttle: feedback 0.2",
        "qmgr_queue_throttle: queue dest: limit 20 window 4 success 0 failure 0.8 fail_cohorts 0.2",
    ]
    assert limits().told == ()


@pytest.mark.parametrize(
    ("text", "value", "at_4"),
    [
        ("1", 1.0, 1.0),
        (" 0.5 ", 0.5, 0.5),
        (".25", 0.25, 0.25),
        ("1/8", 0.125, 0.125),
        ("1 / 8", 0.125, 0.125),
        ("1/Concurrency", 1.0, 0.25),
        ("0.5/concurrency", 0.5, 0.125),
        ("1 x", 1.0, 1.0),
        ("2/4", 0.5, 0.5),
        ("1/sqrt_concurrency", None, 1.0),
        ("2", None, 1.0),
        ("-1", None, 1.0),
        ("1/0", None, 1.0),
        ("1/", None, 1.0),
        ("1/8 x", None, 1.0),
        ("x", None, 1.0),
    ],
)
def test_values_of_feedback(text: str, value: float | None, at_4: float) -> None:
    warnings: list[str] = []
    name = "smtp_destination_concurrency_positive_feedback"
    made = limits(warnings, **{name: text}).positive
    assert made.at(4) == at_4
    if value is None:
        assert warnings == [f"{name}: ignoring malformed or unreasonable feedback: {text.strip()}"]
    else:
        assert made.base == value and not warnings


def test_the_initial_concurrency_is_not_above_the_limit() -> None:
    assert limits(default_destination_concurrency_limit="3").initial == 3
    assert limits(default_destination_concurrency_limit="0").initial == 5
    assert limits(initial_destination_concurrency="2").initial == 2


def test_a_rate_delay_means_one_delivery_at_a_time() -> None:
    assert limits(smtp_destination_rate_delay="1s").concurrency == 1
    assert limits(smtp_destination_rate_delay="1s").initial == 1


def test_a_dead_destination_lives_again_after_the_minimal_backoff_time() -> None:
    made = Throttle(limits(minimal_backoff_time="70s", initial_destination_concurrency="1"))
    assert made.failed(10.0)
    assert made.dead_until == 80.0
    made.revive()
    assert made.window == 1 and not made.dead_until
