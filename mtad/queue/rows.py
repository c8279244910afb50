"""Messages as rows, and rows as messages.

An :class:`Entry` is a message ready to be written: made in the caller's thread, so that a message that
cannot be written fails before it meets others, and read by the writer's.
Raises :class:`mtad.errors.QueueError` for a message whose content is not what it says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

from mtad.errors import QueueError
from mtad.queue.message import PENDING, Message, Recipient
from mtad.queue.schema import PENDING_NUMBER, PIECE, STATE, STATE_NAME
from mtad.queue.spool import queue_error

Row = tuple[Any, ...]

#: In the order of :class:`Entry`'s rows, after the keys that the writer gives.
MESSAGE_COLUMNS = (
    "seq", "content", "queue_id", "state", "arrival", "size", "recipients", "next_attempt", "warned",
    "expired", "smtputf8", "sender", "body", "ret", "envid", "attributes",
)  # fmt: skip
RECIPIENT_COLUMNS = ("id", "state", "address", "original", "notify", "orcpt", "dsn", "reason", "relay")
PIECE_COLUMNS = ("id", "data")

encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(slots=True, eq=False)
class Entry:
    """One message to be written.  ``pieces`` holds its content, or ``spool`` does."""

    message: Row  # without seq and content
    recipients: list[Row]  # without id
    size: int
    pieces: list[bytes]
    spool: BinaryIO | None
    content: int = 0  # the number of the pieces from the spool
    staged: int = 0  # bytes of the spool that are durable
    taken: str = ""  # the file that it was made of


def entry(message: Message) -> Entry:
    """``message`` as rows.  Content in the spool that is small is read."""
    size, spool, content = message.size, message.spool, message.content
    if content is not None:
        size, spool = len(content), None
    elif spool is None:
        raise QueueError(f"{message.queue_id}: no content")
    elif size <= PIECE:
        content = read_spool(spool, 0, size)
        spool = None
    if content is None:
        pieces = []
    elif size <= PIECE:
        pieces = [content]
    else:
        pieces = [content[at : at + PIECE] for at in range(0, size, PIECE)]
    recipients = message.recipients
    row = (
        message.queue_id, STATE[message.state], message.arrival, size, len(recipients), message.next_attempt,
        message.warned, message.expired, message.smtputf8, message.sender, message.body, message.ret,
        message.envid, encode(message.attributes),
    )  # fmt: skip
    return Entry(row, [_recipient_row(r) for r in recipients], size, pieces, spool)


def _recipient_row(r: Recipient) -> Row:
    notify = b",".join(sorted(r.notify)).decode("ascii") if r.notify else ""
    return (
        PENDING_NUMBER,
        r.address,
        r.original,
        notify,
        r.orcpt,
        r.dsn,
        storable(r.reason),
        storable(r.relay),
    )


def storable(text: str) -> str:
    """``text`` without what is no character: names in main.cf may hold any bytes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def read_spool(spool: BinaryIO, at: int, size: int) -> bytes:
    """``size`` bytes of a spool file from ``at``."""
    try:
        spool.seek(at)
        data = spool.read(size)
    except OSError as error:
        raise queue_error(error) from error
    if len(data) != size:
        raise QueueError("spool file is shorter than the message")
    return data


#: What :func:`message` and :func:`recipient` read, in their order.
MESSAGE_FIELDS = (
    "m.seq, m.queue_id, m.state, m.arrival, m.size, m.recipients, m.next_attempt, m.warned, m.expired,"
    " m.smtputf8, m.sender, m.body, m.ret, m.envid, m.attributes"
)
RECIPIENT_FIELDS = "r.id, r.address, r.original, r.notify, r.orcpt, r.dsn, r.reason, r.relay"


def message(row: Sequence[Any], content: bytes | None) -> Message:
    """The message of a row of ``MESSAGE_FIELDS``, without recipients."""
    (seq, queue_id, state, arrival, size, count, next_attempt, warned, expired,
     smtputf8, sender, body, ret, envid, attributes) = row  # fmt: skip
    return Message(
        queue_id, sender, [], arrival, size, content, None, STATE_NAME[state], body, bool(smtputf8), ret,
        envid, json.loads(attributes), seq, next_attempt, bool(warned), bool(expired), count,
    )  # fmt: skip


def recipient(row: Sequence[Any]) -> Recipient:
    """The pending recipient of a row of ``RECIPIENT_FIELDS``."""
    number, address, original, notify, orcpt, dsn, reason, relay = row
    return Recipient(
        address,
        original,
        _notify(notify) if notify else frozenset(),
        orcpt,
        number,
        PENDING,
        dsn,
        reason,
        relay,
    )


@lru_cache(maxsize=32)
def _notify(text: str) -> frozenset[bytes]:
    return frozenset(text.encode("ascii").split(b","))
