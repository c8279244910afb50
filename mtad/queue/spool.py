"""Spool files: where content beyond a few kilobytes waits on its way into the store.

A spool file has no name from the start, so that it goes away with the process that filled it.
:func:`queue_error` says what a failure to write one means to the client.
Postfix counterpart: the file below ``incoming`` with mode 0600.
"""

from __future__ import annotations

import errno
import tempfile
from typing import BinaryIO, cast

from mtad.errors import QueueError, QueueFull

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def open_spool(directory: str) -> BinaryIO:
    """A new, empty spool file in ``directory``.  Raises QueueError."""
    try:
        return cast(BinaryIO, tempfile.TemporaryFile(dir=directory, buffering=65536))
    except OSError as error:
        raise queue_error(error) from error


def queue_error(error: OSError) -> QueueError:
    """The QueueError for an error of the operating system."""
    text = f"write queue file: {error.strerror or error}"
    return QueueFull(text) if error.errno in _NO_ROOM else QueueError(text)
