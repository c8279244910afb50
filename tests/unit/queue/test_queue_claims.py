"""Who has what of the queue, and what is passed from one queue manager to the next."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from live.forked import process

from mtad.errors import QueueError
from mtad.queue.claims import Claims


def test_the_queue_is_passed_on_with_what_is_in_hand(tmp_path: Path) -> None:
    old, new = Claims(str(tmp_path)), Claims(str(tmp_path))
    assert old.take() and not new.take()
    old.pass_on([0, 1, 2, 7, 1_000_000_007, 5])
    old.release(1)
    assert new.kept_by_others() == {0, 2, 5, 7, 1_000_000_007}
    assert new.take()
    assert new.kept_by_others() == {0, 2, 5, 7, 1_000_000_007}
    assert old.kept_by_others() == set()
    old.close()
    assert new.kept_by_others() == set()
    new.close()


def test_several_that_leave(tmp_path: Path) -> None:
    new, *leaving = [Claims(str(tmp_path)) for _ in range(3)]
    for number, one in enumerate(leaving):
        assert one.take()
        one.pass_on(range(number, 3000, 3))
        assert one.take_journal(number)
    assert new.kept_by_others() == {n for n in range(3000) if n % 3 != 2}
    for one in (new, *leaving):
        one.close()


def test_a_journal_is_had_once(tmp_path: Path) -> None:
    one, other = Claims(str(tmp_path)), Claims(str(tmp_path))
    assert one.take_journal(3)
    assert not one.take_journal(3) and not other.take_journal(3)
    assert other.take_journal(4)
    one.leave_journal(3)
    assert other.take_journal(3)
    one.close()
    other.close()


def test_who_is_killed_claims_nothing_from_one_moment_on(tmp_path: Path) -> None:
    new = Claims(str(tmp_path))

    def old() -> None:
        claims = Claims(str(tmp_path))
        assert claims.take() and claims.take_journal(1)
        for number in range(200):
            os.open(tmp_path / f"{number}", os.O_CREAT | os.O_RDWR)
        assert claims.take_journal(2)

    for _ in range(30):
        with process(old) as pid:
            assert not new.take()
            os.kill(pid, signal.SIGKILL)
            while not new.take():
                pass
            assert new.take_journal(1) and new.take_journal(2)
        new.leave_journal(1)
        new.leave_journal(2)
        new.pass_on([])
    new.close()


def test_to_be_alone_is_waited_for(tmp_path: Path) -> None:
    old, new = Claims(str(tmp_path)), Claims(str(tmp_path))
    assert old.take()
    with pytest.raises(QueueError, match="still delivers"):
        new.be_alone(0.1)
    old.pass_on([7])
    with pytest.raises(QueueError, match="still delivers"):
        new.be_alone(0.1)
    leaving = threading.Timer(0.1, old.release, [7])
    leaving.start()
    new.be_alone(60)
    leaving.join()
    assert not old.take()
    new.close()
    old.close()
