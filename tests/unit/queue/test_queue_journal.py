"""What is known of deliveries after their process was killed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import SQLiteDriver

from mtad.errors import QueueError, QueueFull
from mtad.queue.claims import Claims
from mtad.queue.journal import Journal, Left, left_behind, remove
from mtad.queue.message import Message, Outcome, Recipient
from mtad.queue.repair import repair

SIZE = 1024 * 1024


def abandoned(directory: Path, work: list[tuple[str, list[int]]]) -> list[Left]:
    """What a process leaves that notes these things and is killed."""
    pid = os.fork()
    if pid == 0:
        journal = Journal(Claims(str(directory)))
        for mark, ids in work:
            if mark == "?":
                journal.in_doubt(ids)
            elif mark == "=":
                journal.recorded(ids)
            else:
                journal.answered(ids, mark == "+")
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    return list(left_behind(str(directory)))


def journals(directory: Path) -> list[Path]:
    return list(directory.glob("journal.*"))


def test_what_is_left(tmp_path: Path) -> None:
    (left,) = abandoned(tmp_path, [("?", [1, 2]), ("?", [3]), ("?", [4]), ("+", [1, 2]), ("-", [3])])
    assert (left.delivered, left.doubtful) == ({1, 2}, {4})


def test_nothing_is_lost_when_a_file_is_full(tmp_path: Path) -> None:
    work: list[tuple[str, list[int]]] = [("?", [5]), ("?", [6]), ("+", [6])]
    many = list(range(10**9, 10**9 + 10_000))
    for _ in range(30):
        work += [("?", many), ("-", many)]
    (left,) = abandoned(tmp_path, [*work, ("?", [7])])
    assert (left.delivered, left.doubtful) == ({6}, {5, 7})
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == SIZE


def test_what_the_queue_knows_is_not_kept(tmp_path: Path) -> None:
    many = list(range(10**9, 10**9 + 10_000))
    work = [("?", [5]), ("+", [5]), ("=", [5])] + [("?", many), ("+", many), ("=", many)] * 30
    (left,) = abandoned(tmp_path, work)
    assert 5 not in left.delivered


def test_journals_of_the_living_are_left_alone(tmp_path: Path) -> None:
    journal = Journal(Claims(str(tmp_path)))
    journal.in_doubt([1])
    assert list(left_behind(str(tmp_path))) == []
    journal.answered([1], True)
    journal.close()
    assert [left.delivered for left in left_behind(str(tmp_path))] == [{1}]
    other = Journal(Claims(str(tmp_path)))
    other.in_doubt([2])
    other.answered([2], False)
    other.close()
    assert len(journals(tmp_path)) == 1


def failing(after: int = 0) -> Callable[..., Any]:
    """A system call that finds a full disk, once it was made so often."""
    left = [after]

    def fail(*_: object) -> int:
        if left[0]:
            left[0] -= 1
            return 0
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return fail


def test_a_full_disk_stops_no_journal_that_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    journal = Journal(Claims(str(tmp_path)), said.append)
    monkeypatch.setattr(os, "posix_fallocate", failing())
    many = list(range(10**9, 10**9 + 10_000))
    journal.in_doubt([5])
    for _ in range(40):
        journal.in_doubt(many)
        journal.answered(many, False)
    journal.answered([5], True)
    journal.close()
    (left,) = left_behind(str(tmp_path))
    assert (left.delivered, left.doubtful, said) == ({5}, set(), [])


def test_a_journal_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for calls in (0, 1):
        monkeypatch.setattr(os, "posix_fallocate", failing(calls))
        with pytest.raises(QueueFull):
            Journal(Claims(str(tmp_path)))
        assert journals(tmp_path) == []


def test_what_cannot_be_noted_is_not_to_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    journal = Journal(Claims(str(tmp_path)), said.append)
    journal.in_doubt([1, 2])
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", failing())
        with pytest.raises(QueueError):
            journal.in_doubt([3])
        journal.answered([3], False)
        journal.answered([1], True)
        assert len(said) == 1
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", lambda fd, data, at: 1)  # the rest did not fit
        with pytest.raises(QueueError):
            journal.in_doubt([3])
    journal.in_doubt([4])
    journal.close()
    (left,) = left_behind(str(tmp_path))
    assert (left.delivered, left.doubtful) == (set(), {1, 2, 4})


def test_a_journal_of_the_living_is_not_removed(tmp_path: Path) -> None:
    journal = Journal(Claims(str(tmp_path)))
    journal.in_doubt([1])
    for path in journals(tmp_path):
        remove(str(path))
    assert len(journals(tmp_path)) == 2
    journal.answered([1], False)
    journal.close()
    assert journals(tmp_path) == []


def test_anything_in_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "journal.0").write_bytes(b"? 1 2\n+ x\n\xff\n+ 1\n? 3\n+ 99")
    (left,) = left_behind(str(tmp_path))
    assert (left.delivered, left.doubtful) == ({1}, {2, 3})


@pytest.mark.parametrize("repaired", [True, False], ids=["repaired", "made anew"])
def test_what_is_left_is_not_taken_for_that_of_new_mail(tmp_path: Path, repaired: bool) -> None:
    driver = SQLiteDriver(tmp_path)
    driver.wait(driver.store.enqueue(Message("A", b"s", [Recipient(b"a@x")], 1.0, content=b"x")))
    (message,) = driver.wait(driver.store.incoming(0, 10))
    (recipient,) = message.recipients
    left = abandoned(tmp_path, [("?", [recipient.id]), ("+", [recipient.id])])
    assert [one.delivered for one in left] == [{recipient.id}]
    driver.wait(driver.store.finish(message, [Outcome(recipient, "sent", "2.0.0", "ok")], 0.0))
    driver.wait(driver.store.close())
    if repaired:
        repair(str(tmp_path))
    else:
        for path in tmp_path.glob("queue.db*"):
            path.unlink()
    driver = SQLiteDriver(tmp_path)
    driver.wait(driver.store.enqueue(Message("B", b"s", [Recipient(b"b@x")], 1.0, content=b"x")))
    for recovering in driver.store.recover():
        driver.wait(recovering)
    assert [one.queue_id for one in driver.store.listing()] == ["B"]
    driver.wait(driver.store.close())


def test_the_queue_after_it(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path)
    people = [[Recipient(b"a@x"), Recipient(b"b@x")], [Recipient(b"c@x")], [Recipient(b"d@x")]]
    for name, recipients in zip("ABC", people, strict=True):
        driver.wait(driver.store.enqueue(Message(name, b"s", recipients, 1.0, content=b"x")))
    one, two, three = driver.wait(driver.store.incoming(0, 10))
    ids = [recipient.id for recipient in one.recipients]
    abandoned(
        tmp_path, [("?", ids), ("+", ids[:1]), ("?", [two.recipients[0].id]), ("+", [two.recipients[0].id])]
    )
    driver.wait(driver.store.finish(three, [Outcome(three.recipients[0], "sent", "2.0.0", "ok")], 0.0))
    (recovering,) = driver.store.recover()
    path = str(tmp_path / "journal.0")
    assert driver.wait(recovering) == (["B"], [("A", b"b@x")], path)
    (again,) = driver.store.recover()  # until it was told of
    assert driver.wait(again) == ([], [("A", b"b@x")], path)
    remove(path)
    assert driver.store.recover() == []
    (left,) = driver.store.listing()
    assert [recipient.address for recipient in left.recipients] == [b"b@x"]
    driver.store.in_doubt([left.recipients[0].id])
    driver.store.answered([left.recipients[0].id], True)
    driver.wait(driver.store.finish(left, [Outcome(left.recipients[0], "sent", "2.0.0", "ok")], 0.0))
    driver.wait(driver.store.close())
    assert journals(tmp_path) == []
