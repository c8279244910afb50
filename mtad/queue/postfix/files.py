"""Where Postfix keeps its queue: directories, names of files, and what kept mail from going out.

:class:`QueueDirectory` finds the files of a queue and says where one belongs.  :func:`read_reasons` and
:func:`write_reasons` are for the files below ``defer``.  Raises OSError.

Postfix counterpart: ``mail_queue(3)``, ``dir_forest(3)``, ``bounce_log(3)``.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from mtad.config.parameters import Parameters
from mtad.maillog import printable
from mtad.queue.ids import from_base
from mtad.queue.message import Recipient
from mtad.wire.address import quote

MAILDROP, INCOMING, ACTIVE, DEFERRED, HOLD, CORRUPT = (
    "maildrop", "incoming", "active", "deferred", "hold", "corrupt",
)  # fmt: skip
#: The queues that have mail, in the order in which it moves through them.
QUEUES = (MAILDROP, INCOMING, ACTIVE, DEFERRED, HOLD)
DEFER = "defer"

#: Permissions: the file is whole; the operator has it returned.
READY, EXPIRED = stat.S_IRWXU, stat.S_IXGRP

_ID = re.compile(r"[0-9A-Za-z_]{1,255}")
_LONG = re.compile(r".{6,}(.{4})z[^z]*")


def valid_id(name: str) -> bool:
    """Whether this can be the name of a queue file."""
    return _ID.fullmatch(name) is not None


def reformatted(queue_id: str) -> str:
    """What of a queue id says where its file is: a long one is known by its microseconds."""
    match = _LONG.fullmatch(queue_id)
    if match is None:
        return queue_id
    return f"{from_base(match[1], 52):05X}"


@dataclass(frozen=True, slots=True)
class QueueDirectory:
    """``queue_directory``; ``hashed``: the queues that have subdirectories, ``depth`` levels of them."""

    path: str
    hashed: frozenset[str]
    depth: int

    @classmethod
    def of(cls, p: Parameters) -> QueueDirectory:
        """The directories as main.cf has them."""
        hashed = frozenset(name.lower() for name in p.words("hash_queue_names"))
        return cls(p["queue_directory"], hashed, p.number("hash_queue_depth"))

    def relative(self, queue: str, queue_id: str) -> str:
        """Where the file belongs, below ``queue_directory``."""
        if queue not in self.hashed:
            return f"{queue}/{queue_id}"
        name = reformatted(queue_id)
        levels = [name[n] if n < len(name) else "_" for n in range(self.depth)]
        return "/".join([queue, *levels, queue_id])

    def file(self, queue: str, queue_id: str) -> str:
        """Where the file belongs."""
        return os.path.join(self.path, self.relative(queue, queue_id))

    def files(self, queue: str) -> Iterator[os.DirEntry[str]]:
        """The regular files of a queue, whole or not, in any order."""
        todo = [os.path.join(self.path, queue)]
        while todo:
            try:
                entries = os.scandir(todo.pop())
            except FileNotFoundError:
                continue
            with entries:
                for entry in entries:
                    if len(entry.name) == 1 and entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    elif valid_id(entry.name) and entry.is_file(follow_symlinks=False):
                        yield entry


def open_plain(path: str) -> BinaryIO:
    """A regular file that may be somebody's trap: no links, no devices.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file with one name", path)
    return os.fdopen(fd, "rb")


def ready(mode: int) -> bool:
    """Whether the file is whole: its writer says so by its permissions."""
    return mode & READY == READY


def read_reasons(path: str) -> dict[bytes, tuple[str, str]]:
    """Status and reason by quoted address, from a file below ``defer``; none where there is no file."""
    try:
        with open(path, "rb") as file:
            text = file.read(64 * 1024 * 1024)
    except FileNotFoundError:
        return {}
    found: dict[bytes, tuple[str, str]] = {}
    for block in text.split(b"\n\n"):
        values = dict(line.partition(b"=")[::2] for line in block.split(b"\n") if b"=" in line)
        address = values.get(b"recipient")
        if address is not None:
            status = printable(values.get(b"status", b""))
            found[address] = status, printable(values.get(b"reason", b""))
    return found


def reasons_text(recipients: Iterable[Recipient], offsets: Mapping[int, int]) -> bytes:
    """The content of a file below ``defer`` for those of ``recipients`` that have a reason; may be empty."""
    blocks: list[bytes] = []
    for recipient in recipients:
        if not recipient.reason:
            continue
        address = quote(recipient.address)
        reason = printable(recipient.reason).encode()
        original = quote(recipient.original) if recipient.original else b""
        lines = [b"<%b>: %b" % (address, reason), b"recipient=%b" % address]
        if original and original != address:
            lines.append(b"original_recipient=%b" % original)
        if recipient.id in offsets:
            lines.append(b"offset=%d" % offsets[recipient.id])
        lines += [b"status=%b" % (recipient.dsn or "4.0.0").encode(), b"action=delayed"]
        lines += [b"reason=%b" % reason, b"", b""]
        blocks.append(b"\n" + b"\n".join(lines))
    return b"".join(blocks)
