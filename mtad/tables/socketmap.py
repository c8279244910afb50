"""``socketmap:inet:host:port:name``, ``socketmap:unix:path:name``: a server of Sendmail's socketmap protocol.

A request is the netstring ``name key``; a reply is one, too: ``OK value``, ``NOTFOUND``, or one of the
errors, which are :class:`~mtad.errors.TableError`.  A connection that broke is made anew once.  Replies
are limited by ``socketmap_max_reply_size``.  Keys are the caller's whole ones and not folded
(``socketmap_table(5)``).

Postfix counterpart: ``dict_sockmap(3)``.
"""

from __future__ import annotations

import time

from mtad.config.endpoint import Endpoint
from mtad.errors import ConfigError, TableError
from mtad.maillog import printable
from mtad.tables.blocking import BlockingTable, IdlePool
from mtad.tables.settings import main_cf
from mtad.tables.streams import Stream, StreamError
from mtad.tables.table import Options

#: Seconds for an exchange; for a connection to be idle; for it to live.
TIMEOUT, MAX_IDLE, MAX_AGE = 100, 10, 100

_ERRORS = {b"TEMP": "temporary", b"TIMEOUT": "timeout", b"PERM": "permanent"}


class SocketmapTable(BlockingTable):
    """One map of a server."""

    fixed_key = False

    def __init__(self, spec: str, options: Options, name: str) -> None:
        super().__init__(spec, options)
        server, colon, self._map = name.rpartition(":")
        if not colon:
            raise ConfigError("socketmap requires server:socketmap argument")
        self._endpoint = Endpoint.parse(server)
        self._limit = main_cf(options).number("socketmap_max_reply_size")
        self._streams: IdlePool[Stream] = IdlePool(Stream.close, MAX_IDLE)

    def get(self, key: bytes) -> bytes | None:
        try:
            reply = self._ask(self._map.encode() + b" " + key)
        except StreamError as error:
            raise TableError(f"table {self.spec} lookup error: {error}") from error
        status, _, text = reply.partition(b" ")
        if status == b"OK":
            return text
        if status == b"NOTFOUND":
            return None
        shown = printable(text.strip()[:200])
        kind = _ERRORS.get(status, "unknown")
        raise TableError(f"{self.spec} socketmap server {kind} error{': ' if shown else ''}{shown}")

    def _ask(self, query: bytes) -> bytes:
        request = b"%d:%b," % (len(query), query)
        stream = self._streams.take()
        if stream is not None:
            try:
                return self._exchange(stream, request)
            except StreamError as error:
                if not error.again:
                    raise
                self._streams.clear()
        return self._exchange(Stream(self._endpoint, TIMEOUT), request)

    def _exchange(self, stream: Stream, request: bytes) -> bytes:
        try:
            stream.send(request)
            reply = self._netstring(stream)
        except BaseException:
            stream.close()
            raise
        if time.monotonic() - stream.born < MAX_AGE:
            self._streams.give(stream)
        else:
            stream.close()
        return reply

    def _netstring(self, stream: Stream) -> bytes:
        size = 0
        while (digit := stream.exactly(1)) != b":":
            if not digit.isdigit():
                raise StreamError("netstring format error")
            size = 10 * size + int(digit)
            if size > self._limit:
                raise StreamError("input exceeds size limit")
        data = stream.exactly(size + 1)
        if data[-1:] != b",":
            raise StreamError("netstring format error")
        return data[:-1]

    def release(self) -> None:
        self._streams.shut()
