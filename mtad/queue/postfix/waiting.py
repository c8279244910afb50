"""What waits in the maildrop, as messages for a listing."""

from __future__ import annotations

from collections.abc import Iterator

from mtad.config.parameters import Parameters
from mtad.errors import QueueError
from mtad.queue.message import Message
from mtad.queue.postfix.envelope import QueueFile
from mtad.queue.postfix.files import MAILDROP, QueueDirectory, open_plain, ready


def waiting(p: Parameters) -> Iterator[Message]:
    """The messages in the maildrop, without content; none where this user may not look."""
    try:
        for entry in QueueDirectory.of(p).files(MAILDROP):
            try:
                status = entry.stat(follow_symlinks=False)
                if not ready(status.st_mode):
                    continue
                with open_plain(entry.path) as file:
                    message = QueueFile(file).read_envelope().message(entry.name)
            except (QueueError, OSError):
                continue  # it has gone, or is a trap
            message.size, message.state = status.st_size, MAILDROP
            yield message
    except OSError:
        return
