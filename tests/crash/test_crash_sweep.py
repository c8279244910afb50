"""The whole program is stopped at every write, sync and commit from a message's first byte to ``removed``.

After each stop it is started again, and must deliver what it had acknowledged, each recipient once; twice
only the one whose delivery was in doubt, and then the log names it.  ``CRASH_SWEEP=all`` (``make crash``)
stops at every call, before it and half way through; otherwise at some of them, others each time.
"""

from __future__ import annotations

import os
import random
import re
import smtplib
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from faulty import AVAILABLE, KILL_BEFORE, KILL_HALFWAY, WHY_NOT, Faulty
from live.daemon import MTAD, Sink, wait_until

pytestmark = pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)

ALL = os.environ.get("CRASH_SWEEP") == "all"
#: Stops of each scenario where not all are made.
SOME = 6


@dataclass(frozen=True)
class Scenario:
    """A way for a message into the queue and out of it.  ``send`` answers whether it was acknowledged."""

    name: str
    send: Callable[[Faulty, str], bool]
    recipients: tuple[str, ...]


def acknowledged(mtad: Faulty, subject: str, recipients: tuple[str, ...], padding: bytes = b"") -> bool:
    """By hand: only the answer to the last dot counts, whatever becomes of QUIT."""
    (port,) = mtad.ports.values()
    client: smtplib.SMTP | None = None
    try:
        client = smtplib.SMTP("127.0.0.1", port, timeout=20)
        client.ehlo("client.example")
        client.mail("alice@example.com")
        for name in recipients:
            client.rcpt(f"{name}@example.net")
        code, _ = client.data(f"Subject: {subject}\r\n\r\nhi\r\n".encode() + padding)
        return code == 250
    except (smtplib.SMTPException, OSError):
        return False
    finally:
        if client is not None:
            client.close()


def by_sendmail(mtad: Faulty, subject: str) -> bool:
    done = subprocess.run(
        [*MTAD, "sendmail", "-C", str(mtad.directory), "-f", "alice@example.com", "one@example.net"],
        input=f"Subject: {subject}\n\nhi\n".encode(), capture_output=True, timeout=30,
    )  # fmt: skip
    return done.returncode == 0


SCENARIOS = [
    Scenario("small", lambda mtad, subject: acknowledged(mtad, subject, ("one",)), ("one",)),
    Scenario("two", lambda mtad, subject: acknowledged(mtad, subject, ("one", "two")), ("one", "two")),
    Scenario(
        "large",
        lambda mtad, subject: acknowledged(mtad, subject, ("one",), b"x" * 70 + b"\r\n" * 3000),
        ("one",),
    ),
    Scenario("maildrop", by_sendmail, ("one",)),
]


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


def arrived(sink: Sink, subject: str) -> Counter[str]:
    """How often each recipient got the message."""
    found: Counter[str] = Counter()
    for mail in sink.mails():
        if mail["Subject"] == subject:
            found.update(name.partition("@")[0] for name in mail.get_all("X-Sink-Recipient", []))
    return found


class Sweep:
    """One scenario, stopped again and again."""

    def __init__(self, scenario: Scenario, mtad: Faulty, sink: Sink) -> None:
        self.scenario, self.mtad, self.sink = scenario, mtad, sink
        self.doubts = self.unacknowledged = 0

    def count(self) -> int:
        """How many calls there are when nothing happens."""
        mtad = self.mtad
        mtad.plan.arm(0, KILL_BEFORE)
        before = mtad.log().count(": removed")
        assert self.scenario.send(mtad, "nothing happens")
        wait_until(lambda: mtad.log().count(": removed") > before and not mtad.queued(), "the delivery")
        mtad.plan.disarm()
        return mtad.plan.get("calls")

    def stop_at(self, call: int, how: int) -> None:
        mtad = self.mtad
        subject = f"{self.scenario.name} {call} {how}"
        logged = len(mtad.log())
        mtad.plan.arm(call, how)
        removed = mtad.log().count(": removed")
        said = self.scenario.send(mtad, subject)
        wait_until(
            lambda: mtad.plan.get("ended") or mtad.log().count(": removed") > removed,
            f"the end at call {call}",
        )
        mtad.kill()
        mtad.sound()
        mtad.start()
        wait_until(
            lambda: not mtad.queued() and not list((mtad.queue / "maildrop").iterdir()),
            f"an empty queue after {subject}:\n{mtad.log()[logged:]}",
        )
        self.check(subject, said, mtad.log()[logged:])

    def check(self, subject: str, said: bool, log: str) -> None:
        came = arrived(self.sink, subject)
        doubtful = set(re.findall(r"to=<(\w+)@example.net>: delivery was interrupted", log))
        self.doubts += len(doubtful)
        self.unacknowledged += not said
        for name in self.scenario.recipients:
            assert came[name] <= 1 + (name in doubtful), f"{subject}: {name} repeated\n{log}"
            assert came[name] >= said, f"{subject}: {name} lost\n{log}"
        assert "Traceback" not in log and "panic" not in log, log


@pytest.mark.timeout(3600 if ALL else 120)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_stopped_at_every_call(scenario: Scenario, sink: Sink) -> None:
    seed = random.randrange(1 << 32)
    dice = random.Random(seed)
    with Faulty({"relayhost": f"[127.0.0.1]:{sink.port}", "mynetworks": "127.0.0.0/8"}) as mtad:
        sweep = Sweep(scenario, mtad, sink)
        calls = sweep.count()
        stops = [(call, how) for call in range(1, calls + 1) for how in (KILL_BEFORE, KILL_HALFWAY)]
        if not ALL:
            stops = sorted(dice.sample(stops, SOME))
        for call, how in stops:
            sweep.stop_at(call, how)
        print(
            f"seed {seed}: {scenario.name}: {calls} calls, {len(stops)} stops, "
            f"{sweep.unacknowledged} messages not acknowledged, {sweep.doubts} deliveries in doubt"
        )
        assert calls > 20
