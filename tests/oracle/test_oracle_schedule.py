"""When and in which order the queue manager has mail delivered: by Postfix and by mtad."""

from __future__ import annotations

import itertools
import json
import re
import smtplib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from live.daemon import Mtad, wait_until
from oracle.gated import Gated
from oracle.postfix import Postfix, free_port

LONG, MIDDLE = [f"r{n:02}" for n in range(60)], [f"m{n:02}" for n in range(24)]
#: What waits for one destination, in the order in which it came.
PLANS = {
    "small": [
        ("list", LONG), ("one", ["a"]), ("ten", MIDDLE[:10]), ("two", ["a"]), ("middle", MIDDLE),
        ("three", ["a"]), ("six", MIDDLE[:6]), *((f"x{n}", ["a"]) for n in range(6)),
    ],
    "lists": [
        ("list", LONG), ("other", LONG[:50]), ("middle", MIDDLE), ("one", ["a"]), ("two", ["a"]),
        ("third", LONG[:36]), *((f"x{n}", ["a", "b", "c"]) for n in range(5)),
    ],
    "short": [("four", LONG[:8]), ("one", ["a"]), ("ten", MIDDLE[:20]), ("two", ["a"])],
}  # fmt: skip
SERIAL = {"destination_concurrency_limit": "1", "destination_recipient_limit": "2"}
#: Slots and what they cost; the place of the message "one" behind a list of thirty deliveries.
SLOTS: dict[str, tuple[Mapping[str, str], int]] = {
    "usual": ({}, 1),
    "plain": ({"delivery_slot_cost": "0"}, 30),
    "dear": ({"delivery_slot_cost": "8"}, 1),
    "cheap": ({"delivery_slot_cost": "2", "delivery_slot_loan": "0"}, 2),
    "unlent": ({"delivery_slot_loan": "0", "delivery_slot_discount": "0"}, 5),
    "free": ({"delivery_slot_loan": "0", "delivery_slot_discount": "100"}, 1),
    "large": ({"minimum_delivery_slots": "10"}, 30),
}
ORDERS = [(name, "small") for name in SLOTS]
ORDERS += [(name, "lists") for name in ("usual", "dear", "cheap", "unlent")] + [("usual", "short")]

#: Transports with the parameters that they have for themselves.
TRANSPORTS: dict[str, Mapping[str, str]] = {
    **{f"{name}-{plan}": {**SERIAL, **SLOTS[name][0]} for name, plan in ORDERS},
    "window": {"initial_destination_concurrency": "2", "destination_concurrency_limit": "4"},
    "slowly": {
        "initial_destination_concurrency": "1",
        "destination_concurrency_positive_feedback": "1/concurrency",
    },
    "each": {"destination_recipient_limit": "1", "destination_concurrency_limit": "1"},
    "all": {"destination_recipient_limit": "0", "destination_concurrency_limit": "0"},
    "dead": {"initial_destination_concurrency": "1", "destination_recipient_limit": "2"},
    "cohorts": {
        "initial_destination_concurrency": "1",
        "destination_concurrency_failed_cohort_limit": "2",
        "destination_concurrency_negative_feedback": "1/8",
        "destination_recipient_limit": "2",
    },
    "never": {
        "initial_destination_concurrency": "1",
        "destination_recipient_limit": "2",
        "destination_concurrency_failed_cohort_limit": "0",
    },
    "clogged": {"destination_concurrency_limit": "1"},
    "roomy": {},
    "flushed": {"initial_destination_concurrency": "1"},
    "paced": {"destination_rate_delay": "2s"},
    "timed": {"transport_rate_delay": "2s"},
    "put-off": {},
}
#: In a house of its own, where no flush disturbs it.
AGAIN: Mapping[str, Mapping[str, str]] = {"again": {"destination_concurrency_failed_cohort_limit": "0"}}
#: Nobody listens there.
CLOSED = ("dead", "cohorts", "never", "flushed")
MAIN_CF = {
    "mynetworks": "127.0.0.0/8",
    "recipient_delimiter": "+",
    "destination_concurrency_feedback_debug": "yes",
    "defer_transports": "put-off",
    "minimal_backoff_time": "2s",
    "maximal_backoff_time": "2s",
    "queue_run_delay": "3s",
    "qmgr_message_active_limit": "300",
}


class House:
    """Postfix or mtad, with a server for each transport."""

    def __init__(
        self,
        kind: type[Postfix] | type[Mtad],
        stack: ExitStack,
        transports: Mapping[str, Mapping[str, str]] = TRANSPORTS,
    ) -> None:
        self.name = kind.__name__
        self.sinks: dict[str, Gated] = {}
        self.nexthops: dict[str, int] = {}  # ports
        maps, master, values = [], [], dict(MAIN_CF)
        for name, settings in transports.items():
            refused = b"450 4.2.1 later\r\n" if name == "again" else b""
            sink = self.sinks[name] = stack.enter_context(Gated(0, refused))
            port = self.nexthops[name] = free_port() if name in CLOSED else sink.port
            maps.append(f"{name}.test={name}:[127.0.0.1]:{port}")
            master.append(f"{name} unix - - n - - smtp\n")
            values |= {f"{name}_{key}": value for key, value in settings.items()}
        values["transport_maps"] = f"inline:{{ {', '.join(maps)} }}"
        self.server = stack.enter_context(kind(values, master_extra="".join(master)))
        (self.port,) = self.server.ports.values()
        self._seen = 0  # of the log
        self.sent: dict[str, float] = {}  # when the first mail for a transport was sent

    def send(self, transport: str, sender: str, *names: str) -> None:
        """Have a message in hand."""
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            recipients = [f"{name}@{transport}.test" for name in names]
            client.sendmail(f"{sender}@{transport}.example", recipients, b"Subject: x\n\nx\n")
        line = f"from=<{sender}@{transport}.example>".encode()
        deadline = time.monotonic() + 60
        while True:
            with self.server.maillog.open("rb") as log:
                log.seek(self._seen)
                if line in log.read():
                    self._seen = log.tell()
                    break
            assert time.monotonic() < deadline, f"no {line!r} in the log"
            time.sleep(0.005)

    def results(self, transport: str) -> dict[str, str]:
        """What first came of each recipient, without times and ports."""
        found: dict[str, str] = {}
        for line in self.server.log().splitlines():
            if match := re.search(rf"postfix/(\S+)\[\d+\]: \w+: to=<(\w+)@{transport}\.test>, (.*)", line):
                text = re.sub(r"delays?=[\d./]+|127\.0\.0\.1\]:\d+|tls=\S+, ", "", match[3])
                found.setdefault(match[2], f"{match[1]}: {text}")
        return found

    def deferred(self, transport: str) -> list[str]:
        """The senders of its mail that is deferred now."""
        listed = map(json.loads, self.server.command("postqueue", "-j").stdout.splitlines())
        senders = [one["sender"].split("@") for one in listed if one["queue_name"] == "deferred"]
        return sorted(name for name, domain in senders if domain == f"{transport}.example")

    def feedback(self, transport: str, count: int) -> list[str]:
        """What is logged of a destination's window, since it was mentioned first, until it has changed (or
        not) so often."""
        found: list[str] = []

        def told() -> bool:
            found[:], left = self._feedback(transport, count)
            return not left

        wait_until(told, lambda: f"{count} changes, not {found}")
        return found

    def _feedback(self, transport: str, count: int) -> tuple[list[str], int]:
        """The same as far as it is there; how many changes are not."""
        lines = re.findall(r"/qmgr\[\d+\]: (qmgr_queue_\w+: .*|\w+: \w+ feedback type .*)", self.server.log())
        found = [line for line in lines if line.startswith(f"{transport}: ")]
        name = f"queue [127.0.0.1]:{self.nexthops[transport]}:"
        for before, line in itertools.pairwise(lines):
            if name in line:
                found += [before] if ": feedback " in before else []
                found.append(line.replace(name, "queue DEST:"))
                count -= 1
            if not count:
                break
        return found, count


@pytest.fixture(scope="module")
def retrying() -> Iterator[list[House]]:
    """What takes longest: a message that is put off by its server each time."""
    with ExitStack() as stack:
        both = [House(Postfix, stack, AGAIN), House(Mtad, stack, AGAIN)]
        for house in both:
            house.sinks["again"].allow(100)
            house.send("again", "s", "a")
        yield both


@pytest.fixture(scope="module")
def houses(retrying: list[House]) -> Iterator[list[House]]:
    with ExitStack() as stack:
        both = [House(Postfix, stack), House(Mtad, stack)]
        for house in both:  # what takes its time; the tests look at it in the end
            for transport, count in (("paced", 3), ("timed", 3)):
                house.sinks[transport].allow(100)
                house.sent[transport] = time.monotonic()
                for number in range(count):
                    house.send(transport, f"s{number}", "a")
        yield both


def compare(houses: list[House], ask: Callable[[House], Any]) -> Any:
    """Ask both the same at the same time."""
    with ThreadPoolExecutor(2) as pool:
        theirs, ours = pool.map(ask, houses)
    assert ours == theirs
    return ours


@pytest.fixture(scope="module")
def orders(houses: list[House]) -> list[dict[str, list[tuple[str, int]]]]:
    """The deliveries of all plans by all transports: the first takes its time, and all waits behind it."""

    def ask(house: House) -> dict[str, list[tuple[str, int]]]:
        names = [(f"{name}-{plan}", plan) for name, plan in ORDERS]
        for transport, plan in names:
            for sender, recipients in PLANS[plan]:
                house.send(transport, sender, *recipients)
        time.sleep(2)  # who came in the same second or in the next makes no difference then
        found = {}
        for transport, plan in names:
            sink = house.sinks[transport]
            sink.allow(1_000_000)
            sink.wait_for(sum(len(recipients) for _, recipients in PLANS[plan]))
            found[transport] = [(sender.partition("@")[0], n) for sender, n in sink.order()]
        return found

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(ask, houses))


@pytest.mark.parametrize(("name", "plan"), ORDERS)
def test_the_order_of_deliveries(
    orders: list[dict[str, list[tuple[str, int]]]], name: str, plan: str
) -> None:
    theirs, ours = (found[f"{name}-{plan}"] for found in orders)
    assert ours == theirs
    if plan == "small":
        assert ours.index(("one", 1)) == SLOTS[name][1]


@pytest.mark.parametrize(
    ("transport", "windows", "feedback"),
    [
        ("window", (2, 3, 4, 4, 3, 2, 1), "feedback type 0 value at 5: 1"),
        ("slowly", (1, 2, 2, 3, 3, 2, 1), "feedback type 1"),
    ],
)
def test_how_many_at_a_time(
    houses: list[House], transport: str, windows: Sequence[int], feedback: str
) -> None:
    """What is under way after each success, and the numbers behind it."""

    def ask(house: House) -> list[str]:
        sink = house.sinks[transport]
        for number in range(7):
            house.send(transport, f"s{number}", "a")
        for done, window in enumerate(windows):
            sink.settled(lambda done=done: len(sink.order()) - len(sink.waiting()) == done, window)
            sink.allow(1)
        sink.wait_for(7)
        return house.feedback(transport, 7)

    lines = compare(houses, ask)
    assert lines[0].startswith(f"{transport}: ") and feedback in lines[0]
    assert lines[-1].startswith("qmgr_queue_unthrottle: queue DEST: limit ")


def test_one_recipient_at_a_time(houses: list[House]) -> None:
    """The limit of one recipient makes the concurrency one of recipients; extensions are the same one."""

    def ask(house: House) -> object:
        sink = house.sinks["each"]
        house.send("each", "x", "a", "b", "c")
        house.send("each", "y", "a", "a+z", "d")
        house.send("each", "z", "d+q")
        seen = sink.settled(lambda: len(sink.order()) == 4, 4)
        sink.allow(4)
        sink.settled(lambda: len(sink.order()) == 6, 2)
        sink.allow(100)
        sink.wait_for(7)
        return seen

    assert compare(houses, ask) == [f"{name}@each.test" for name in "abcd"]


def test_no_limits(houses: list[House]) -> None:
    def ask(house: House) -> object:
        sink = house.sinks["all"]
        house.send("all", "x", *LONG)
        for number in range(7):
            house.send("all", f"y{number}", "a")
        sink.settled(lambda: len(sink.order()) == 5, 5)
        sink.allow(100)
        sink.wait_for(67)
        return max(number for _, number in sink.order())

    assert compare(houses, ask) == 60


@pytest.mark.parametrize(
    ("transport", "suspended", "changes"),
    [("dead", "cdefgh", 1), ("cohorts", "efgh", 2), ("never", "", 4), ("put-off", "abcdefgh", 0)],
)
def test_destinations_that_are_left_alone(
    houses: list[House], transport: str, suspended: str, changes: int
) -> None:
    """One delivery after the other, each of which fails or is not even tried."""

    def ask(house: House) -> object:
        house.send(transport, "x", *"abcdefgh")
        wait_until(lambda: len(house.results(transport)) == 8, "all to be deferred")
        return house.results(transport), house.feedback(transport, changes) if changes else []

    results, _ = compare(houses, ask)
    texts = ("delivery temporarily suspended: connect to", "deferred transport")
    left = [name for name in results if any(text in results[name] for text in texts)]
    assert "".join(sorted(left)) == suspended
    assert all("status=deferred" in text for text in results.values())


def test_a_flush_tries_those_that_were_left_alone(houses: list[House]) -> None:
    def ask(house: House) -> object:
        house.send("flushed", "x", "a")
        wait_until(lambda: "a" in house.results("flushed"), "it to be deferred")
        with Gated(port=house.nexthops["flushed"]) as sink:
            house.send("flushed", "y", "b")
            wait_until(lambda: house.deferred("flushed") == ["x", "y"], "both to be deferred")
            assert house.server.command("postqueue", "-f").returncode == 0
            sink.wait_for(2)
        return house.results("flushed")

    results = compare(houses, ask)
    assert "suspended" not in results["a"] and "suspended" in results["b"]


@pytest.mark.parametrize(
    ("transport", "advice"),
    [
        ("clogged", "increase the main.cf clogged_destination_concurrency_limit from 1"),
        ("roomy", "reduce roomy connect and helo timeouts"),
    ],
)
def test_warnings_of_a_destination_that_takes_up_the_queue(
    houses: list[House], transport: str, advice: str
) -> None:
    """More than a fifth of what may be in hand; Postfix speaks of its limit of processes, too."""

    def ask(house: House) -> list[str]:
        for number in range(62):
            house.send(transport, f"s{number}", "a")
        house.sinks[transport].allow(100)
        house.sinks[transport].wait_for(62)
        lines = re.findall(r"/qmgr\[\d+\]: warning: (.*)", house.server.log())
        text = f"mail for [127.0.0.1]:{house.nexthops[transport]} is using up 61 of "
        start = next(n for n, line in enumerate(lines) if line.startswith(text))
        end = next(n for n, line in enumerate(lines) if n > start and "qmgr_clog_warn_time = 0" in line)
        return [line for line in lines[start + 1 : end + 1] if "process limit" not in line]

    lines = compare(houses, ask)
    assert f"you may need to {advice}" in lines


#: When three deliveries begin, seconds after the mail came, if timers know whole seconds, as Postfix's.
PACES = {"paced": [0, 1, 3], "timed": [1, 2.5, 4]}


@pytest.mark.parametrize("transport", PACES)
def test_rate_delays(houses: list[House], transport: str) -> None:
    """Each destination's own delay; the delay of all of a transport, which counts from the first mail on."""
    for house in houses:
        sink = house.sinks[transport]
        sink.wait_for(3)
        begun = [one.begun - house.sent[transport] for one in sink.deliveries]
        assert all(least <= at < least + 20 for least, at in zip(PACES[transport], begun, strict=True)), begun


def test_the_time_between_attempts(retrying: list[House]) -> None:
    """Due after two seconds, and looked for every three (Postfix counts whole ones, and begins early)."""
    for house in retrying:
        sink = house.sinks["again"]
        wait_until(lambda sink=sink: len(sink.deliveries) >= 6, f"six attempts by {house.name}")
        pauses = [
            after - before for before, after in itertools.pairwise(one.begun for one in sink.deliveries)
        ]
        assert 2.2 < statistics.median(pauses) < 3.8, (house.name, pauses)
