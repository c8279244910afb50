"""``memcache:``: a memcached server, with another table behind it if there is ``backup``.

What the backup answers is put into the cache; while the cache is away, the backup alone answers.
Settings as in ``memcache_table(5)``: ``memcache``, ``backup``, ``flags``, ``ttl``, ``key_format``,
``key_digest``, ``domain``, ``data_size_limit``, ``line_size_limit``, ``max_try``, ``retry_pause``,
``timeout``.  Raises :class:`~mtad.errors.TableError` when neither answers.

Postfix counterpart: ``dict_memcache(3)``; memcached's text protocol.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from mtad.config.endpoint import Endpoint
from mtad.errors import TableError
from mtad.tables.blocking import IdlePool
from mtad.tables.registry import open_with
from mtad.tables.settings import Settings
from mtad.tables.streams import Stream, StreamError
from mtad.tables.table import Options, Table
from mtad.tables.templated import TemplatedTable

T = TypeVar("T")

_VALUE = re.compile(rb"VALUE \S+ \S+ ([0-9]{1,10})(?: .*)?")
_IMPOSSIBLE = re.compile(rb"[\x00-\x20\x7f]")


class MemcacheTable(TemplatedTable):
    """A cache."""

    def __init__(self, spec: str, options: Options, name: str) -> None:
        settings = Settings(options, name)
        super().__init__(spec, options, settings)
        self._format = self.templates.query(settings.text("key_format") or "%s")
        self._digest = settings.text("key_digest")
        if self._digest and self._digest.lower() not in hashlib.algorithms_available:
            raise settings.error("key_digest", f"key digest {self._digest} is not available")
        self._timeout = settings.number("timeout", 2) or float("inf")
        self._ttl, self._flags = settings.number("ttl", 3600), settings.number("flags", 0)
        self._pause = settings.number("retry_pause", 1, 1)
        self._tries = settings.number("max_try", 2, 1)
        self._max_line = settings.number("line_size_limit", 1024, 1)
        self._max_data = settings.number("data_size_limit", 10240, 1)
        self._endpoint = Endpoint.parse(settings.text("memcache") or "inet:localhost:11211")
        backup = settings.text("backup")
        self._backup: Table | None = open_with(backup, options) if backup else None
        self._streams: IdlePool[Stream] = IdlePool(Stream.close)

    async def lookup(self, key: bytes) -> bytes | None:
        folded = self.folded(key)
        if folded is None or b"\0" in folded or not await self.eligible(folded):
            return None
        name = self._cache_key(folded)
        if _IMPOSSIBLE.search(name):
            return None
        try:
            value = await self.elsewhere(partial(self._get, name))
        except TableError:
            if self._backup is None:
                raise
            value = None
        if value is None and self._backup is not None:
            value = await self._backup.lookup(key)
            if value is not None:
                await self.elsewhere(partial(self._set, name, value))
        return self.checked(key, value)

    def get(self, key: bytes) -> bytes | None:
        return self._get(self._cache_key(key))

    def _cache_key(self, key: bytes) -> bytes:
        name = self._format.fill(self.values(key), None).encode("utf-8", "surrogateescape")
        if not self._digest:
            return name
        return hashlib.new(self._digest.lower(), name).hexdigest().encode()

    def _get(self, name: bytes) -> bytes | None:
        def exchange(stream: Stream) -> bytes | None:
            stream.send(b"get " + name + b"\r\n")
            line = stream.line(self._max_line)
            if line == b"END":
                return None
            match = _VALUE.fullmatch(line)
            if match is None or int(match.group(1)) > self._max_data:
                raise StreamError(f"unexpected memcache server reply: {line[:30]!r}", again=True)
            value = stream.exactly(int(match.group(1)))
            if stream.exactly(2) != b"\r\n" or stream.line(self._max_line) != b"END":
                raise StreamError("unexpected memcache server reply", again=True)
            return value

        return self._converse(exchange)

    def _set(self, name: bytes, value: bytes) -> None:
        """Have it remembered; that this fails is no trouble."""
        if len(value) > self._max_data:
            self.warn(
                f"database {self.spec}: data for key {name.decode('utf-8', 'replace')} is too long "
                f"(data_size_limit={self._max_data}) -- not stored"
            )
            return
        head = b"set %b %d %d %d\r\n" % (name, self._flags, self._ttl, len(value))

        def exchange(stream: Stream) -> None:
            stream.send(head + value + b"\r\n")
            line = stream.line(self._max_line)
            if line != b"STORED":
                raise StreamError(f"update failed: {line[:100]!r}", again=True)

        try:
            self._converse(exchange)
        except TableError as error:
            self.warn(str(error))

    def _converse(self, exchange: Callable[[Stream], T]) -> T:
        """An exchange, tried ``max_try`` times; a server that accepts no connection is not tried again."""
        problem: StreamError | None = None
        for attempt in range(self._tries):
            stream = self._streams.take()
            if attempt and stream is None:
                time.sleep(self._pause)
            try:
                stream = stream or Stream(self._endpoint, self._timeout)
            except StreamError as error:
                raise TableError(f"database {self.spec}: {error}") from error
            try:
                result = exchange(stream)
            except StreamError as error:
                stream.close()
                problem = error
                continue
            except BaseException:
                stream.close()
                raise
            self._streams.give(stream)
            return result
        raise TableError(f"database {self.spec}: {problem}")

    def release(self) -> None:
        super().release()
        self._streams.shut()
        if self._backup is not None:
            self._backup.close()
