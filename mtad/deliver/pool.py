"""Connections that are idle for a moment, to be used again.

:class:`Pool` keeps sessions by key (next hop and, where the login depends on it, the sender), each for
``smtp_connection_cache_time_limit`` seconds; a session ends after ``smtp_connection_reuse_time_limit`` or
``smtp_connection_reuse_count_limit``.  All is in one process, so sessions with TLS are kept as well.  Nothing
is raised.

Postfix counterpart: ``scache(8)``, ``smtp_reuse.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from mtad.deliver.connection import Connection
from mtad.deliver.settings import SmtpSettings

#: Idle sessions of one transport, at most.
_LIMIT = 100


class Pool:
    """The idle sessions of one transport."""

    def __init__(self, settings: SmtpSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._idle: dict[Hashable, list[Connection]] = {}
        self._count = 0

    def take(self, key: Hashable) -> Connection | None:
        """An idle session for ``key``, the one used last."""
        idle = self._idle.get(key)
        if not idle:
            return None
        connection = idle.pop()
        self._count -= 1
        if not idle:
            del self._idle[key]
        connection.busy()
        return connection

    def give(self, key: Hashable, connection: Connection, wanted: bool) -> None:
        """Keep a session that has done its work where it is ``wanted``, or end it."""
        if not (wanted and self._good(connection)):
            connection.quit()
            return
        self._idle.setdefault(key, []).append(connection)
        self._count += 1
        connection.idle(self._settings.cache_time, lambda: self._gone(key, connection))

    def _good(self, connection: Connection) -> bool:
        settings = self._settings
        return (
            connection.usable
            and not connection.session.unread  # it would be taken for the answer to the next command
            and not connection.errors
            and self._count < _LIMIT
            and self._clock() - connection.opened < settings.reuse_time
            and not 0 < settings.reuse_count < connection.uses
        )

    def _gone(self, key: Hashable, connection: Connection) -> None:
        idle = self._idle.get(key)
        if idle and connection in idle:
            idle.remove(connection)
            self._count -= 1
            if not idle:
                del self._idle[key]

    def close(self) -> None:
        """End all idle sessions."""
        for idle in list(self._idle.values()):
            for connection in list(idle):
                connection.quit()
        self._idle.clear()
        self._count = 0
