"""Messages of each state find a queue of Postfix's; an export that was killed leaves nothing there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtad.config.parameters import Parameters
from mtad.queue.blocking import BlockingStore
from mtad.queue.message import DEFERRED, HOLD, INCOMING, Message, Outcome, Recipient
from mtad.queue.postfix.envelope import QueueFile
from mtad.queue.postfix.files import QueueDirectory
from mtad.queue.transfer import Export


def test_all_states(tmp_path: Path) -> None:
    (tmp_path / "mtad").mkdir()
    p = Parameters.from_mapping({"queue_directory": str(tmp_path), "hash_queue_names": ""})
    with BlockingStore(str(tmp_path / "mtad")) as queue:
        for queue_id, state in (("A1", INCOMING), ("B2", DEFERRED), ("C3", HOLD), ("D4", INCOMING)):
            message = Message(queue_id, b"a@b.example", [Recipient(b"c@d.example")], 1.0, state=state)
            message.content, message.size = b"Subject: x\r\n\r\nx\r\n", 17
            queue.wait(queue.store.enqueue(message))
        queue.wait(queue.store.requeue(["D4"]))  # and nobody has taken it since
        assert Export(queue, QueueDirectory.of(p), 0.0).run().moved == 4
        assert not list(queue.store.listing())
    found = {name: len(os.listdir(tmp_path / name)) for name in ("incoming", "deferred", "hold", "maildrop")}
    assert found == {"incoming": 1, "deferred": 1, "hold": 1, "maildrop": 1}


def test_what_a_killed_process_has_delivered_is_not_exported(tmp_path: Path) -> None:
    """Its journal tells of the one; of the other nobody knows."""
    (tmp_path / "mtad").mkdir()
    p = Parameters.from_mapping({"queue_directory": str(tmp_path), "hash_queue_names": ""})
    people = [Recipient(b"had@it.example"), Recipient(b"perhaps@it.example"), Recipient(b"waits@it.example")]
    with BlockingStore(str(tmp_path / "mtad")) as queue:
        message = Message("A1", b"a@b.example", people, 1.0, content=b"x\r\n", size=3, state=HOLD)
        queue.wait(queue.store.enqueue(message))
        kept = queue.store.find("A1")
        assert kept is not None
        first, second, _ = [one.id for one in kept.recipients]
        (tmp_path / "mtad" / "journal.0").write_bytes(b"? %d\n+ %d\n? %d\n" % (first, first, second))
        count = Export(queue, QueueDirectory.of(p), 0.0).run()
    assert count.doubtful == [("A1", b"perhaps@it.example")]
    (path,) = (tmp_path / "hold").iterdir()
    with open(path, "rb") as file:
        envelope = QueueFile(file).read_envelope()
    assert [one.address for one in envelope.recipients] == [b"perhaps@it.example", b"waits@it.example"]
    assert not (tmp_path / "mtad" / "journal.0").exists()


class Killed(BaseException):
    """What ends the program where nothing is caught."""


def _killed() -> None:
    raise Killed


@pytest.mark.parametrize("where", ["os.sync", "mtad.queue.transfer.write_message"])
def test_what_was_left_unfinished_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    (tmp_path / "mtad").mkdir()
    p = Parameters.from_mapping({"queue_directory": str(tmp_path), "hash_queue_names": "deferred defer"})
    with BlockingStore(str(tmp_path / "mtad")) as queue:
        waits = Recipient(b"c@d.example")
        message = Message("A1B2C3", b"a@b.example", [waits], 1.0, content=b"x\r\n", size=3, state=DEFERRED)
        queue.wait(queue.store.enqueue(message))
        kept = queue.store.find("A1B2C3")
        assert kept is not None
        late = [Outcome(kept.recipients[0], "deferred", "4.4.1", "nobody there")]
        queue.wait(queue.store.finish(kept, late, 2000000000.0))
        with monkeypatch.context() as patch:
            patch.setattr(where, lambda *_, **__: _killed())
            with pytest.raises(Killed):
                Export(queue, QueueDirectory.of(p), 0.0).run()
            monkeypatch.setattr("os.getpid", lambda: 1)  # it is another process that goes on
            (tmp_path / "takes the number of the file that goes").touch()
        assert Export(queue, QueueDirectory.of(p), 0.0).run().moved == 1
    for name in ("deferred", "defer"):
        found = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert len(found) == 1, found
