"""The whole program is stopped at every write, sync and commit from a message's first byte to ``removed``.

After each stop it is started again, and must deliver what it had acknowledged, each recipient once; twice
only the one whose delivery was in doubt, and then the log names it.  It is stopped before every call and half
way through it, whether it writes to a file or to a client or server.
"""

from __future__ import annotations

import errno
import random
import re
import smtplib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.parser import BytesParser

import pytest
from faulty import AVAILABLE, KILL_BEFORE, KILL_HALFWAY, SYNCS, WHY_NOT, WRITES, Faulty, soon
from live.daemon import Sink
from oracle.gated import Gated

pytestmark = pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)


@dataclass(frozen=True)
class Scenario:
    """A way for a message into the queue and out of it.  ``send`` answers whether it was acknowledged."""

    name: str
    send: Callable[[Faulty, str], bool]
    recipients: tuple[str, ...]


def acknowledged(
    mtad: Faulty,
    subject: str,
    recipients: tuple[str, ...],
    padding: bytes = b"",
    sender: str = "alice@example.com",
) -> bool:
    """By hand: only the answer to the last dot counts, whatever becomes of QUIT."""
    (port,) = mtad.ports.values()
    client: smtplib.SMTP | None = None
    try:
        client = smtplib.SMTP("127.0.0.1", port, timeout=60)
        client.ehlo("client.example")
        client.mail(sender)
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
    words = ("sendmail", "-C", str(mtad.directory), "-f", "alice@example.com", "one@example.net")
    return mtad.child(*words, text=f"Subject: {subject}\n\nhi\n") == 0


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


class Arrivals:
    """What the sink got."""

    def __init__(self, sink: Sink) -> None:
        self._directory = sink.root / "Maildir" / "new"
        self._known: set[str] = set()
        self._found: dict[str, Counter[str]] = {}

    def of(self, subject: str) -> Counter[str]:
        """How often each recipient got the message."""
        for path in self._directory.iterdir():
            if path.name not in self._known:
                self._known.add(path.name)
                mail = BytesParser().parsebytes(path.read_bytes(), headersonly=True)
                names = (name.partition("@")[0] for name in mail.get_all("X-Sink-Recipient", []))
                self._found.setdefault(str(mail["Subject"]), Counter()).update(names)
        return self._found.get(subject, Counter())


class Sweep:
    """One scenario, stopped again and again."""

    def __init__(self, scenario: Scenario, mtad: Faulty, sink: Sink) -> None:
        self.scenario, self.mtad = scenario, mtad
        self.arrivals = Arrivals(sink)
        self.stops = self.doubts = self.unacknowledged = 0

    def count(self) -> int:
        """How many calls there are when nothing happens."""
        mtad = self.mtad
        here = mtad.mark()
        mtad.plan.arm(0, KILL_BEFORE)
        assert self.scenario.send(mtad, "nothing happens")
        soon(lambda: ": removed" in mtad.since(here) and not mtad.queued(), lambda: "the delivery")
        mtad.plan.disarm()
        return mtad.plan.get("calls")

    def stop_at(self, call: int, how: int, which: int = 0) -> None:
        """``how``: a way to be killed, or the error that calls of that kind (``which``) end with from that
        one on, before it is killed."""
        mtad = self.mtad
        subject = f"{self.scenario.name} {call} {how}"
        here = mtad.mark()
        mtad.plan.arm(call, how, which)
        said = self.scenario.send(mtad, subject)
        soon(
            lambda: mtad.plan.get("ended") or ": removed" in mtad.since(here),
            lambda: f"the end at call {call}:\n{mtad.since(here)}",
        )
        self.stops += mtad.plan.get("ended")
        mtad.kill()
        mtad.sound()
        mtad.start()
        soon(
            lambda: not list((mtad.queue / "maildrop").iterdir()) and not mtad.queued(),  # in that order
            lambda: f"an empty queue after {subject}:\n{mtad.since(here)}",
        )
        self.check(subject, said, mtad.since(here))

    def check(self, subject: str, said: bool, log: str) -> None:
        came = self.arrivals.of(subject)
        doubtful = Counter(re.findall(r"to=<(\w+)@example.net>: delivery was interrupted", log))
        self.doubts += doubtful.total()
        self.unacknowledged += not said
        for name in self.scenario.recipients:
            assert came[name] <= 1 + doubtful[name], f"{subject}: {name} repeated\n{log}"
            assert came[name] >= said, f"{subject}: {name} lost\n{log}"
        assert "Traceback" not in log and "panic" not in log, log


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_stopped_at_every_call(scenario: Scenario, sink: Sink) -> None:
    settings = {"relayhost": f"[127.0.0.1]:{sink.port}", "mynetworks": "127.0.0.0/8", "notify_classes": ""}
    with Faulty(settings) as mtad:
        sweep = Sweep(scenario, mtad, sink)
        calls = sweep.count()
        for call in range(1, calls + 1):
            for how in (KILL_BEFORE, KILL_HALFWAY):
                sweep.stop_at(call, how)
        print(
            f"{scenario.name}: {calls} calls, {sweep.stops} stops, "
            f"{sweep.unacknowledged} messages not acknowledged, {sweep.doubts} deliveries in doubt"
        )
        assert calls > 20
        assert sweep.stops > 1.6 * calls  # the last ones come when the message is removed
        assert 0 < sweep.doubts <= 9 * len(scenario.recipients)  # between the last dot and its answer
        assert (sweep.unacknowledged > 0) == (scenario.name != "maildrop")


def stopped_at_start(server: Gated, mtad: Faulty, call: int) -> bool:
    """Have a delivery in doubt, and stop the start that follows at that call: whether there was one."""
    sender = f"s{call}@example.com"
    server.hold()
    assert acknowledged(mtad, "in doubt", ("one",), sender=sender)
    soon(lambda: any(one.complete for one in server.of(sender)), lambda: "the whole message at the server")
    mtad.kill()
    server.allow(1_000_000)
    here = mtad.mark()
    mtad.plan.arm(call, KILL_BEFORE)
    mtad.begin()
    soon(
        lambda: mtad.plan.get("ended") or ": removed" in mtad.since(here),
        lambda: f"the end at call {call} of the start:\n{mtad.since(here)}",
    )
    stopped = bool(mtad.plan.get("ended"))
    mtad.kill()
    mtad.sound()
    mtad.start()
    soon(lambda: not mtad.queued(), lambda: f"an empty queue after {call}:\n{mtad.since(here)}")
    log = mtad.since(here)
    doubts = log.count("to=<one@example.net>: delivery was interrupted")
    assert 2 <= sum(one.complete for one in server.of(sender)) <= 1 + doubts, log
    assert "Traceback" not in log and "panic" not in log, log
    return stopped


def test_stopped_again_while_it_starts() -> None:
    """At every second call of a start that finds a delivery in doubt, at others each time."""
    settings = {"mynetworks": "127.0.0.0/8", "notify_classes": ""}
    with Gated() as server, Faulty({**settings, "relayhost": f"[127.0.0.1]:{server.port}"}) as mtad:
        call = random.randrange(1, 3)
        while stopped_at_start(server, mtad, call):
            call += 2
        assert call > 20


@pytest.mark.parametrize(
    ("number", "which", "step"),
    [(errno.ENOSPC, WRITES, 3), (errno.EROFS, WRITES | SYNCS, 5), (errno.EIO, SYNCS, 1)],
    ids=["no room", "read-only", "syncs fail"],
)
def test_the_disk_fails_from_any_call_on(number: int, which: int, step: int, sink: Sink) -> None:
    """And then it is killed; when it is started again, all is well."""
    settings = {"relayhost": f"[127.0.0.1]:{sink.port}", "mynetworks": "127.0.0.0/8", "notify_classes": ""}
    with Faulty(settings) as mtad:
        sweep = Sweep(SCENARIOS[0], mtad, sink)
        call, reached = 1, True
        while reached:
            before = sweep.stops
            sweep.stop_at(call, number, which)
            reached = sweep.stops > before
            call += step
        print(f"{sweep.stops} stops, {sweep.unacknowledged} messages not acknowledged")
        assert sweep.stops >= 2 and sweep.unacknowledged > 0
