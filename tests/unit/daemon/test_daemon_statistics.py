"""The log lines of peaks."""

from __future__ import annotations

import re

from twisted.internet.task import Clock

from mtad.config.parameters import Parameters
from mtad.daemon.statistics import Statistics
from mtad.maillog import ListSink, MailLog
from mtad.policy.anvil import MESSAGE, Anvil


def test_lines() -> None:
    clock, sink = Clock(), ListSink()
    anvil = Anvil(pairs=64, sessions=256, clock=lambda: 1000 + clock.seconds(), wall=lambda: 1700000000)
    p = Parameters.from_mapping({"anvil_rate_time_unit": "10s", "anvil_status_update_time": "25s"})
    statistics = Statistics(p, anvil, MailLog(sink, "postfix/anvil"), clock)
    statistics.start()

    def told() -> list[str]:
        lines = [text for _, _, text in sink.lines]
        sink.lines.clear()
        return [re.sub(r" at \w{3} [ \d]\d \d\d:\d\d:\d\d$", " at WHEN", line) for line in lines]

    session = anvil.connect("smtps:192.0.2.1", 10)
    anvil.event("smtps:192.0.2.1", MESSAGE, 10)
    anvil.event("smtps:192.0.2.7", MESSAGE, 10)
    clock.pump([5] * 4)
    assert told() == []
    clock.pump([5] * 1)
    assert told() == [
        "statistics: max connection rate 1/10s for (smtps:192.0.2.1) at WHEN",
        "statistics: max connection count 1 for (smtps:192.0.2.1) at WHEN",
        "statistics: max message rate 1/10s for (smtps:192.0.2.1) at WHEN",
        "statistics: max cache size 2 at WHEN",
    ]
    clock.pump([5] * 5)
    assert told() == []
    anvil.event("smtps:192.0.2.1", MESSAGE, 10)
    statistics.stop()
    statistics.stop()
    assert told() == ["statistics: max message rate 1/10s for (smtps:192.0.2.1) at WHEN"]
    assert clock.getDelayedCalls() == []
    assert session is not None
