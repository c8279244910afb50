"""Shared counts: as a plain dictionary would count, in any number of processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from mtad.policy.anvil import AUTH, CONNECTION, MESSAGE, NEW_TLS, RECIPIENT, Anvil, Session

UNIT = 60


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fresh(pairs: int = 1024) -> tuple[Anvil, Time]:
    time = Time()
    return Anvil(pairs=pairs, sessions=1024, clock=time, wall=lambda: 7.0), time


def in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process that dies at once; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


@dataclass
class Model:
    """What counts should be."""

    start: dict[str, int] = field(default_factory=dict)
    counts: dict[tuple[str, int], int] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)

    def event(self, ident: str, event: int, now: int) -> int:
        if ident not in self.start or self.start[ident] + UNIT < now:
            self.start[ident] = now
            self.counts = {key: count for key, count in self.counts.items() if key[0] != ident}
        self.counts[ident, event] = self.counts.get((ident, event), 0) + 1
        return self.counts[ident, event]


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("event"), st.sampled_from("abc"), st.sampled_from([MESSAGE, RECIPIENT, NEW_TLS, AUTH])
        ),
        st.tuples(st.just("connect"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("disconnect"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 70)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_as_a_dictionary_counts(steps: list[tuple[str, str, int]]) -> None:
    anvil, time = fresh()
    model = Model()
    opened: dict[str, list[Session]] = {ident: [] for ident in "abc"}
    for what, ident, number in steps:
        if what == "event":
            assert anvil.event(ident, number, UNIT) == model.event(ident, number, int(time.now))
            assert anvil.rate(ident, number, UNIT) == model.counts[ident, number]
        elif what == "connect":
            session = anvil.connect(ident, UNIT)
            assert session is not None
            opened[ident].append(session)
            assert session.rate == model.event(ident, CONNECTION, int(time.now))
            assert session.sessions == len(opened[ident])
        elif what == "disconnect" and opened[ident]:
            anvil.disconnect(opened[ident].pop())
        elif what == "wait":
            time.now += number


def test_a_window_ends_for_all_events_at_once() -> None:
    anvil, time = fresh()
    anvil.event("a", MESSAGE, UNIT)
    time.now += UNIT
    assert anvil.event("a", RECIPIENT, UNIT) == 1
    assert anvil.event("a", MESSAGE, UNIT) == 2  # the last second counts
    time.now += 1
    assert anvil.rate("a", MESSAGE, UNIT) == 0
    assert anvil.event("a", RECIPIENT, UNIT) == 1


def test_what_processes_count_adds_up() -> None:
    anvil, _ = fresh()

    def work() -> None:
        for _ in range(500):
            anvil.event("a", MESSAGE, UNIT)

    for pid in [in_child(work) for _ in range(3)]:
        assert os.waitpid(pid, 0)[1] == 0
    assert anvil.event("a", MESSAGE, UNIT) == 1501


def test_a_dead_process_leaves_no_sessions_behind() -> None:
    anvil, _ = fresh()
    mine = anvil.connect("a", UNIT)
    assert mine is not None

    def work() -> None:
        for _ in range(300):  # more than a block of rows
            anvil.connect("a", UNIT)
        kept = anvil.connect("b", UNIT)
        assert kept is not None
        anvil.disconnect(kept)

    pid = in_child(work)
    os.waitpid(pid, 0)
    more = anvil.connect("a", UNIT)
    assert more is not None and more.sessions == 302
    anvil.forget(pid)
    anvil.forget(pid)
    again = anvil.connect("a", UNIT)
    assert again is not None and again.sessions == 3
    assert again.rate == 303  # what has happened has happened


def test_rows_of_the_dead_are_used_again() -> None:
    anvil, _ = fresh()

    def work() -> None:
        for _ in range(700):
            anvil.connect("a", UNIT)

    for _ in range(6):
        pid = in_child(work)
        os.waitpid(pid, 0)
        anvil.forget(pid)
    session = anvil.connect("a", UNIT)
    assert session is not None and session.sessions == 1


def test_a_process_that_dies_in_the_middle_does_not_keep_the_lock() -> None:
    anvil, _ = fresh()

    def work() -> None:
        anvil._locked().__enter__()
        os._exit(1)

    os.waitpid(in_child(work), 0)
    assert anvil.event("a", MESSAGE, UNIT) == 1


def test_open_sessions_are_not_displaced_and_idle_clients_are() -> None:
    anvil, time = fresh(pairs=16)
    sessions = [anvil.connect(str(number), UNIT) for number in range(16)]
    assert all(sessions)
    assert anvil.connect("more", UNIT) is None
    assert anvil.event("more", MESSAGE, UNIT) == 0
    time.now += 1
    first = sessions[3]
    assert first is not None
    anvil.disconnect(first)
    assert anvil.event("more", MESSAGE, UNIT) == 1
    assert anvil.rate("3", CONNECTION, UNIT) == 0  # its place was taken


def test_peaks_are_told_once() -> None:
    anvil, _ = fresh()
    assert anvil.peaks() == []
    session = anvil.connect("smtp:192.0.2.1", UNIT)
    for _ in range(3):
        anvil.event("smtp:192.0.2.2", AUTH, UNIT)
    anvil.event("smtp:192.0.2.1", AUTH, UNIT)
    assert session is not None
    told = [(peak.what, peak.value, peak.ident, peak.when) for peak in anvil.peaks()]
    assert told == [
        ("connection rate", 1, "smtp:192.0.2.1", 7),
        ("connection count", 1, "smtp:192.0.2.1", 7),
        ("auth rate", 3, "smtp:192.0.2.2", 7),
    ]
    assert anvil.peaks() == []


def test_clients_are_forgotten_after_their_time() -> None:
    anvil, time = fresh()
    session = anvil.connect("a", UNIT)
    anvil.event("b", MESSAGE, UNIT)
    assert (anvil.size(UNIT), anvil.made) == (2, 2)
    time.now += UNIT + 1
    assert (anvil.size(UNIT), anvil.made) == (1, 2)
    assert session is not None
    anvil.disconnect(session)
    assert anvil.size(UNIT) == 0
