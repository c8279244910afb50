"""Credentials that were right a short while ago (``saslauthd -c``).

An entry is a keyed hash with a salt of its own, of login, realm, service and password; it ends after
``timeout`` seconds; the longest unused go first when there is no more room.  A wrong password is never
kept, so that a new one works at once; an old one may work until its entry ends.

Counterpart: ``saslauthd/cache.c``.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from mtad.daemon.saslauthd.wire import Request

#: Cyrus' defaults: kilobytes, seconds.
SIZE = 1711
TIMEOUT = 28800

#: What an entry takes, about.
_ENTRY = 512

_Key = tuple[bytes, bytes, bytes]


class Cache:
    """At most ``kilobytes`` of credentials."""

    def __init__(self, kilobytes: int, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = max(1, kilobytes * 1024 // _ENTRY)
        self._timeout = timeout
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._entries: OrderedDict[_Key, tuple[float, bytes, bytes]] = OrderedDict()

    def knows(self, request: Request) -> bool:
        """Whether the same was right, not long ago."""
        key = (request.login, request.realm, request.service)
        entry = self._entries.get(key)
        if entry is None:
            return False
        until, salt, digest = entry
        if until < self._clock():
            del self._entries[key]
            return False
        self._entries.move_to_end(key)
        return hmac.compare_digest(digest, self._digest(salt, request.password))

    def add(self, request: Request) -> None:
        """It was right."""
        key = (request.login, request.realm, request.service)
        salt = secrets.token_bytes(16)
        self._entries[key] = (self._clock() + self._timeout, salt, self._digest(salt, request.password))
        self._entries.move_to_end(key)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        self._entries.clear()

    def _digest(self, salt: bytes, password: bytes) -> bytes:
        return hashlib.blake2b(password, key=self._secret, salt=salt).digest()
