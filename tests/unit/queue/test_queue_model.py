"""Any sequence of operations leaves the store as a plain model of it says."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from conformance import NOBODY, make
from harness import SQLiteDriver
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mtad.queue.message import DEFERRED, HOLD, INCOMING, Outcome

_pick = st.integers(0, 50)
_status = st.lists(st.sampled_from(["sent", "bounced", "deferred", ""]), min_size=4, max_size=4)


class Model:
    """What is known of a message: its state, its time, and the addresses that are pending."""

    def __init__(self, pending: list[bytes]) -> None:
        self.state = INCOMING
        self.when = 0.0
        self.pending = pending


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.driver = SQLiteDriver(Path(self.directory))
        self.messages: dict[str, Model] = {}

    def teardown(self) -> None:
        self.driver.wait(self.driver.store.close())
        shutil.rmtree(self.directory)

    def _chosen(self, n: int) -> list[str]:
        names = list(self.messages)
        return [names[n % len(names)]] if names else ["NONE"]

    @rule(recipients=st.integers(1, 4), batch=st.integers(1, 3))
    def enqueue(self, recipients: int, batch: int) -> None:
        new = [make(recipients) for _ in range(batch)]
        for waiting in [self.driver.store.enqueue(m) for m in new]:
            self.driver.wait(waiting)
        for message in new:
            self.messages[message.queue_id] = Model([r.address for r in message.recipients])

    @rule(n=_pick, statuses=_status, when=st.integers(1, 9), bounce=st.booleans())
    def finish(self, n: int, statuses: list[str], when: int, bounce: bool) -> None:
        store = self.driver.store
        found = self.driver.wait(store.incoming(0, 99)) + self.driver.wait(store.due(99.0, 99, NOBODY))
        if not found:
            return
        message = found[n % len(found)]
        model = self.messages[message.queue_id]
        outcomes = [
            Outcome(r, status, "", "why")
            for r, status in zip(message.recipients, statuses, strict=False)
            if status
        ]
        bounces = [make()] if bounce else []
        gone = self.driver.wait(store.finish(message, outcomes, float(when), bounces))
        for outcome in outcomes:
            if outcome.status != "deferred":
                model.pending.remove(outcome.recipient.address)
        assert gone == (not model.pending)
        if gone:
            del self.messages[message.queue_id]
        else:
            model.state, model.when = DEFERRED, float(when)
        for message in bounces:
            self.messages[message.queue_id] = Model([r.address for r in message.recipients])

    @rule(n=_pick)
    def hold(self, n: int) -> None:
        names = self._chosen(n)
        self.driver.wait(self.driver.store.hold(names))
        for name in names:
            if name in self.messages:
                self.messages[name].state = HOLD

    @rule(n=_pick)
    def release(self, n: int) -> None:
        names = self._chosen(n)
        for name in self.driver.wait(self.driver.store.release(names)):
            assert self.messages[name].state == HOLD
            self.messages[name].state, self.messages[name].when = DEFERRED, 0.0

    @rule(n=_pick)
    def remove(self, n: int) -> None:
        for name in self.driver.wait(self.driver.store.remove(self._chosen(n))):
            del self.messages[name]

    @rule()
    def flush(self) -> None:
        deferred = [m for m in self.messages.values() if m.state == DEFERRED]
        assert self.driver.wait(self.driver.store.flush()) == len(deferred)
        for model in deferred:
            model.when = 0.0

    @rule()
    def reopen(self) -> None:
        self.driver.reopen()

    @invariant()
    def same(self) -> None:
        store = self.driver.store
        listed = {m.queue_id: (m.state, [r.address for r in m.recipients]) for m in store.listing()}
        assert listed == {name: (m.state, m.pending) for name, m in self.messages.items()}
        incoming = [m.queue_id for m in self.driver.wait(store.incoming(0, 99))]
        assert incoming == [name for name, m in self.messages.items() if m.state == INCOMING]
        deferred = {name: m.when for name, m in self.messages.items() if m.state == DEFERRED}
        due = self.driver.wait(store.due(5.0, 99, NOBODY))
        assert {m.queue_id for m in due} == {name for name, when in deferred.items() if when <= 5.0}
        assert [m.next_attempt for m in due] == sorted(m.next_attempt for m in due)
        later = [when for when in deferred.values() if when > 2.0]
        assert self.driver.wait(store.next_due(2.0)) == (min(later) if later else None)


TestModel = QueueMachine.TestCase
TestModel.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)
