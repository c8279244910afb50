"""Where Postfix keeps its queue: directories and names of files.

:class:`QueueDirectory` finds the files of a queue and says where one belongs.  Raises OSError.

Postfix counterpart: ``mail_queue(3)``, ``dir_forest(3)``.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mtad.config.parameters import Parameters
from mtad.queue.ids import from_base, in_base

MAILDROP, INCOMING, ACTIVE, DEFERRED, HOLD, CORRUPT = (
    "maildrop", "incoming", "active", "deferred", "hold", "corrupt",
)  # fmt: skip
#: The queues that have mail, in the order in which it moves through them.
QUEUES = (MAILDROP, INCOMING, ACTIVE, DEFERRED, HOLD)
#: What became of recipients.
LOGS = DEFER, BOUNCE, TRACE = "defer", "bounce", "trace"

#: Permissions: the file is whole; the operator has it returned.
READY, EXPIRED = stat.S_IRWXU, stat.S_IXGRP

#: Random digits at the end of a name that others are not to guess.
SECRET = 32
_ID = re.compile(r"[0-9A-Za-z_]{1,255}")
#: Digits of a short id that are microseconds.
_MICROSECONDS = 5
_LONG = re.compile(r".{6,}(.{4})z[^z]*")


def valid_id(name: str) -> bool:
    """Whether this can be the name of a queue file."""
    return _ID.fullmatch(name) is not None


def public_name(name: str) -> str:
    """What of a file's name everybody may know."""
    return name[:-SECRET] if len(name) > SECRET else name


def reformatted(queue_id: str) -> str:
    """What of a queue id says where its file is: a long one is known by its microseconds."""
    match = _LONG.fullmatch(queue_id)
    if match is None:
        return queue_id
    return f"{from_base(match[1], 52):05X}"


def with_inode(queue_id: str, inode: int) -> str:
    """The queue id of the same moment for a file with this number, which Postfix wants to be part of it."""
    match = _LONG.fullmatch(queue_id)
    if match is None:
        return f"{queue_id[:_MICROSECONDS]}{inode:X}"
    return f"{queue_id[: queue_id.rindex('z') + 1]}{in_base(inode, 51)}"


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
