"""``tcp:host:port``: a server that answers ``get KEY`` with ``200 VALUE``, ``500 reason`` or ``400 reason``.

In keys and values ``%`` , white space and what can't be printed are ``%XX``.  Keys are the caller's whole
ones and not folded (``tcp_table(5)``).  A server that is away is tried again for some seconds; then, and
when it answers 4xx or nonsense, the lookup is a :class:`~mtad.errors.TableError`.

Postfix counterpart: ``dict_tcp(3)``, ``hex_quote(3)``.
"""

from __future__ import annotations

import re
import time
from typing import ClassVar

from mtad.config.endpoint import Endpoint
from mtad.errors import TableError
from mtad.maillog import printable
from mtad.tables.blocking import BlockingTable, IdlePool
from mtad.tables.streams import Stream, StreamError
from mtad.tables.table import Options

_UNSAFE = re.compile(rb"[^\x21-\x24\x26-\x7e]")
_REPLY = re.compile(rb"([0-9])[0-9][0-9]\s(.*)", re.DOTALL)
_ENCODED = re.compile(rb"%(.{0,2})", re.DOTALL)
_HEX = re.compile(rb"[0-9A-Fa-f]{2}")


def encode(data: bytes) -> bytes:
    """A key or value as the protocol has it."""
    return _UNSAFE.sub(lambda match: b"%%%02X" % match.group()[0], data)


def decode(data: bytes) -> bytes:
    """The reverse; ValueError for what is no encoding."""
    if not all(_HEX.fullmatch(digits) for digits in _ENCODED.findall(data)):
        raise ValueError("bad encoding")
    return _ENCODED.sub(lambda match: bytes.fromhex(match.group(1).decode()), data)


class TcpTable(BlockingTable):
    """A server's table."""

    fixed_key = False

    #: Seconds for an exchange, how often it is tried, seconds between, bytes of a reply.
    timeout: ClassVar[float] = 100
    tries: ClassVar[int] = 10
    pause: ClassVar[float] = 1
    limit: ClassVar[int] = 4096

    def __init__(self, spec: str, options: Options, name: str) -> None:
        super().__init__(spec, options)
        self._endpoint = Endpoint.parse_inet(name)
        self._streams: IdlePool[Stream] = IdlePool(Stream.close)

    def get(self, key: bytes) -> bytes | None:
        stream, reply = self._ask(b"get " + encode(key) + b"\n")
        match = _REPLY.fullmatch(reply)
        try:
            text = decode(match.group(2)) if match else None
        except ValueError:
            text = None
        if match is None or text is None or match.group(1) not in b"245":
            stream.close()
            raise TableError(
                f"read TCP map reply from {self.spec}: malformed reply: {printable(reply[:100])}"
            )
        if match.group(1) == b"4":
            stream.close()
            raise TableError(f"{self.spec}: {printable(text[:200])}")
        self._streams.give(stream)
        return text if match.group(1) == b"2" else None

    def _ask(self, request: bytes) -> tuple[Stream, bytes]:
        for attempt in range(1, self.tries + 1):
            stream = self._streams.take()
            try:
                if stream is None:
                    stream = Stream(self._endpoint, self.timeout)
                stream.send(request)
                return stream, stream.line(self.limit)
            except StreamError as error:
                if stream is not None:
                    stream.close()
                self._streams.clear()
                self.warn(f"{self.spec}: {error}")
                if attempt == self.tries:
                    raise TableError(f"{self.spec}: {error}") from error
            time.sleep(self.pause)
        raise TableError(f"{self.spec}: never tried")

    def release(self) -> None:
        self._streams.shut()
