"""Recipients who were aliases and came to their end at intake, and whose success is to be told.

They travel in their message's attribute ``aliased``, as text: :func:`packed` makes it, :func:`unpacked` reads
it and takes what it can't read for nothing.

RFC 3461 section 5.2.7.3.  Postfix counterpart: ``cleanup_trace_append()``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from mtad.queue.message import Recipient


def packed(recipients: Iterable[Recipient]) -> str:
    """The attribute's value."""
    rows = [[part.decode("latin-1") for part in (r.address, r.original, r.orcpt)] for r in recipients]
    return json.dumps(rows, separators=(",", ":"))


def unpacked(text: str) -> list[Recipient]:
    """The recipients in the attribute's value, all to be told of."""
    try:
        rows = json.loads(text)
        return [_recipient(*[part.encode("latin-1") for part in row]) for row in rows]
    except (ValueError, TypeError, AttributeError):
        return []


def _recipient(address: bytes, original: bytes, orcpt: bytes) -> Recipient:
    return Recipient(address, original, frozenset((b"SUCCESS",)), orcpt)
