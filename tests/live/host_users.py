"""The host's users are used by one test and changed by another, at the same time, in processes of their own.

``useradd`` and ``userdel`` replace ``/etc/passwd`` and ``/etc/shadow``; a file that is replaced loses what is
mounted over it in all mount namespaces.  So who mounts something there holds :func:`kept`, and who changes
users :func:`changed`.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = os.path.join(tempfile.gettempdir(), "mtad-tests-host-users")


@contextmanager
def kept() -> Iterator[None]:
    """Nobody changes users meanwhile."""
    with open(_LOCK, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


@contextmanager
def changed() -> Iterator[None]:
    """Nobody has mounted anything over the files of users."""
    with open(_LOCK, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
