"""The tokens of an account, kept in a file that all processes share.

:class:`StateFile` reads and replaces ``$mtad_queue_directory/oauth/NAME.json`` (mode 0600, by rename, on disk
before it returns) and holds a lock beside it while a token is renewed, since a provider may take a refresh
token once only.  A file that can not be read or understood holds nothing; writing raises ``OSError``.

Postfix counterpart: none.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from dataclasses import asdict, dataclass, field

from mtad.config.parameters import Parameters

#: Seconds before its end at which a token is renewed, at most; a short-lived one in its last fifth.
MARGIN = 300.0

_SIZE_LIMIT = 256 * 1024

#: What an access token may be (RFC 6750 section 2.1).
ACCESS = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, slots=True)
class TokenState:
    """What the provider gave.  Times are in seconds since the epoch; ``account`` is that of the file."""

    account: str
    obtained: float
    ends: float
    access: str = field(repr=False)
    refresh: str = field(repr=False)

    def fresh(self, now: float) -> bool:
        """Whether the access token may be used, and need not be renewed yet."""
        margin = min(MARGIN, (self.ends - self.obtained) / 5)
        return bool(self.access) and self.obtained - MARGIN <= now < self.ends - margin


class StateFile:
    """The file of one account."""

    def __init__(self, directory: str, name: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, f"{name}.json")
        self._lock_path = os.path.join(directory, f"{name}.lock")

    def read(self, account: str) -> TokenState | None:
        """The tokens of this version of the account, if there are any."""
        try:
            with open(self._path, "rb") as file:
                members = json.loads(file.read(_SIZE_LIMIT))
            texts = [members[name] for name in ("account", "access", "refresh")]
            obtained, ends = float(members["obtained"]), float(members["ends"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if not all(isinstance(text, str) for text in texts) or texts[0] != account:
            return None
        if texts[1] and ACCESS.fullmatch(texts[1]) is None:
            return None
        return TokenState(texts[0], obtained, ends, texts[1], texts[2])

    def write(self, state: TokenState) -> None:
        """Replace the tokens."""
        temporary = f"{self._path}.{os.getpid()}"
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "w") as file:
            json.dump(asdict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, self._path)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def lock(self) -> int | None:
        """A descriptor that holds the lock until it is closed; None while another process holds it."""
        os.makedirs(self._directory, 0o700, exist_ok=True)
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


def state_directory(p: Parameters) -> str:
    """Where the tokens are that outlive a restart."""
    return os.path.join(p["mtad_queue_directory"], "oauth")
