"""What waits in the maildrop, as messages for a listing."""

from __future__ import annotations

import time
from collections.abc import Iterator

from mtad.config.parameters import Parameters
from mtad.errors import QueueError
from mtad.queue.message import Message
from mtad.queue.postfix.envelope import QueueFile
from mtad.queue.postfix.files import MAILDROP, QueueDirectory, open_plain, public_name, ready
from mtad.queue.postfix.submitted import Submitted


def waiting(p: Parameters, *, secret: bool = False) -> Iterator[Message]:
    """The messages in the maildrop, without content; none where this user may not look.  ``secret``: the
    reader is not to know the names by which files in a directory for everybody can be read."""
    delimiters = p["verp_delimiter_filter"].encode()
    try:
        for entry in QueueDirectory.of(p).files(MAILDROP):
            try:
                status = entry.stat(follow_symlinks=False)
                if not ready(status.st_mode):
                    continue
                with open_plain(entry.path) as file:
                    name = public_name(entry.name) if secret else entry.name
                    written = Submitted(now=time.time(), delimiters=delimiters)
                    message = QueueFile(file, written).read_envelope().message(name)
            except (QueueError, OSError):
                continue  # it has gone, or is a trap
            message.arrival = message.arrival or status.st_mtime
            message.size, message.state = status.st_size, MAILDROP
            yield message
    except OSError:
        return
