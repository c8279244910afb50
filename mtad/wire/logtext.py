"""What others said, made fit for a log line."""

from __future__ import annotations

import re

from mtad import maillog
from mtad.wire.tokens import quote

_UNPRINTABLE = re.compile(rb"[^ -~]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 92: "\\\\"}


def printable(data: bytes, limit: int = 0) -> str:
    """At most ``limit`` bytes, with ``?`` for control characters and what is no UTF-8."""
    data = data[:limit] if limit else data
    try:
        return _CONTROL.sub("?", data.decode("utf-8"))
    except UnicodeDecodeError:
        return _UNPRINTABLE.sub(b"?", data).decode("ascii")


def escaped(data: bytes) -> str:
    """The first 100 bytes, what is not printable as C escapes."""
    return "".join(_ESCAPES.get(c) or (chr(c) if 32 <= c < 127 else f"\\{c:03o}") for c in data[:100])


def logged(address: bytes, log: maillog.MailLog) -> str:
    """An address (internal form) as ``log`` has it: quoted where it must be, unless none is."""
    return maillog.printable(quote(address) if address and not log.internal_addresses else address)
