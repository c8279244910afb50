"""Postfix's own tests, replayed through mtad.

They are read from a checkout of Postfix's source whose top directory ``POSTFIX_SOURCE`` names (the one that
has ``src/``); without it all are skipped.  Nothing of them is kept here.  ``pytest tests/peer -rA`` lists
each; the last lines of any run count them by suite.
"""

from __future__ import annotations

from collections import Counter

import pytest

_outcomes: Counter[tuple[str, str]] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "tests/peer/" in report.nodeid and (report.when == "call" or report.outcome == "skipped"):
        suite = report.nodeid.partition("test_peer_")[2].partition(".")[0]
        _outcomes[suite, report.outcome] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for suite in sorted({suite for suite, _ in _outcomes}):
        counts = {outcome: count for (name, outcome), count in _outcomes.items() if name == suite}
        text = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        terminalreporter.write_line(f"Postfix's own {suite} tests: {text}")
