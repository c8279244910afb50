"""Changing a configuration file so that readers see the old one or the new one, and editors take turns.

:func:`rewrite` writes the new text beside the file, flushes it to disk and renames it over the old one, with
the old one's owner and mode.  The name of the new file is always the same, and its lock is Postfix's: neither
two of ours nor one of ours and Postfix's ``postconf(1)`` edit at the same time; who comes second reads what
the first has written.  Raises ConfigError when a file cannot be read or written.

Postfix counterpart: ``edit_file(3)``.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable

from mtad.config.lines import read_text
from mtad.errors import ConfigError

_SUFFIX = ".tmp"
_MODE = 0o600


def rewrite(path: str, change: Callable[[str], str]) -> None:
    """Put ``change`` of the file's text in its place, whole or not at all."""
    path = os.path.realpath(path)
    read_text(path)  # complain before a new file is made
    try:
        descriptor = _locked(path + _SUFFIX)
        try:
            _replace(path, descriptor, change(read_text(path)))
        except BaseException:
            if _same(path + _SUFFIX, os.fstat(descriptor)):
                os.unlink(path + _SUFFIX)
            raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigError(
            f"cannot write the file: {error.strerror}", path=path, remedy="check the directory's permissions"
        ) from error


def _locked(path: str) -> int:
    """The new file, empty, which nobody else writes."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            mine = os.fstat(descriptor)
            if _same(path, mine):
                if stat.S_ISREG(mine.st_mode) and mine.st_nlink == 1 and stat.S_IMODE(mine.st_mode) == _MODE:
                    os.ftruncate(descriptor, 0)
                    return descriptor
                os.unlink(path)  # left behind by a crash
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _same(path: str, mine: os.stat_result) -> bool:
    """Whether the file was not renamed or removed while we waited for its lock."""
    try:
        return os.path.samestat(os.stat(path), mine)
    except FileNotFoundError:
        return False


def _replace(path: str, descriptor: int, text: str) -> None:
    old = os.stat(path)
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(descriptor, old.st_uid, old.st_gid)
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[os.write(descriptor, data) :]
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    os.fsync(descriptor)
    os.rename(path + _SUFFIX, path)
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
