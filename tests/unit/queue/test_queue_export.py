"""Messages of each state find a queue of Postfix's."""

from __future__ import annotations

import os
from pathlib import Path

from mtad.config.parameters import Parameters
from mtad.queue.blocking import BlockingStore
from mtad.queue.message import DEFERRED, HOLD, INCOMING, Message, Recipient
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
