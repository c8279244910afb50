"""Does a delivery need a server that speaks SMTPUTF8?

RFC 6531 section 3.4.  Postfix counterpart: ``DELIVERY_REQUIRES_SMTPUTF8``.
"""

from __future__ import annotations

from collections.abc import Iterable

from mtad.queue.message import Message, Recipient
from mtad.queue.store import QueueStore


def requires_utf8(message: Message, recipients: Iterable[Recipient], store: QueueStore) -> bool:
    """Whether its sender has asked for it, and an address or a header is not ASCII."""
    if not message.smtputf8:
        return False
    if not message.sender.isascii() or any(not one.address.isascii() for one in recipients):
        return True
    content = message.content
    start = next(iter(store.read(message)), b"") if content is None else content
    end = start.find(b"\r\n\r\n")
    return not (start if end < 0 else start[:end]).isascii()
