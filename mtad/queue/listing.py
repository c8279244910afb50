"""The queue as ``postqueue -p`` and ``postqueue -j`` show it.

Pure functions from messages with their pending recipients to lines without newline.  ``active`` are the ids
that the queue manager has in hand.  The text has two layouts, for short and for long queue ids.
Postfix counterpart: ``showq(8)``, ``showq_compat.c``, ``showq_json.c``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any

from mtad.maillog import printable
from mtad.queue.message import HOLD, Message, Recipient
from mtad.queue.untold import failed
from mtad.wire.address import quote

_NULL_SENDER = "MAILER-DAEMON"
_REASON_COLUMN = 76


@dataclass(frozen=True, slots=True)
class _Layout:
    head: str
    row: str
    recipient: str


_SHORT = _Layout(
    "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------",
    "{:<11} {:7d} {:>20.20} {}",
    " " * 41,
)
_LONG = _Layout(
    "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------",
    "{:<17} {:8d} {:>19.19} {}",
    " " * 47,
)


def text_listing(
    messages: Iterable[Message],
    active: Set[str],
    long_ids: bool,
    local: Callable[[float], time.struct_time] = time.localtime,
) -> Iterator[str]:
    """The listing of ``mailq``; ``local`` turns arrival times into the reader's."""
    layout = _LONG if long_ids else _SHORT
    count = size = 0
    for message in messages:
        yield "" if count else layout.head
        count += 1
        size += message.size
        mark = "*" if message.queue_id in active else "!" if message.state == HOLD else ""
        if message.expired:
            mark += "#"
        when = time.asctime(local(message.arrival))
        yield layout.row.format(message.queue_id + mark, message.size, when, _sender(message))
        yield from _recipients(_shown(message), layout)
    if not count:
        yield "Mail queue is empty"
    else:
        yield ""
        yield f"-- {size // 1024} Kbytes in {count} Request{'' if count == 1 else 's'}."


def _shown(message: Message) -> list[Recipient]:
    """The recipients that wait, behind those whose failure is still to be told."""
    return [*(outcome.recipient for outcome in failed(message)), *message.recipients]


def _recipients(recipients: Iterable[Recipient], layout: _Layout) -> Iterator[str]:
    """A line for each, below the reason where that is not the one before."""
    last = ""
    for recipient in recipients:
        if recipient.reason != last:
            last = recipient.reason
            reason = last or "reason unavailable"
            yield f"{' ' * (_REASON_COLUMN - len(reason.encode()))}({reason})"
        yield layout.recipient + _text(recipient.address)


def json_listing(messages: Iterable[Message], active: Set[str]) -> Iterator[str]:
    """A line of JSON for each message."""
    for message in messages:
        queue = "active" if message.queue_id in active else message.state
        entry: dict[str, Any] = {
            "queue_name": queue,
            "queue_id": message.queue_id,
            "arrival_time": int(message.arrival),
            "message_size": message.size,
            "forced_expire": message.expired,
            "sender": _sender(message),
            "recipients": [
                *(_entry(outcome.recipient, "bounce_reason") for outcome in failed(message)),
                *(_entry(recipient, "delay_reason") for recipient in message.recipients),
            ],
        }
        yield json.dumps(entry, ensure_ascii=False)


def _entry(recipient: Recipient, reason: str) -> dict[str, str]:
    address = recipient.address
    entry = {"orig_address": _text(recipient.original or address), "address": _text(address)}
    if recipient.reason:
        entry[reason] = recipient.reason
    return entry


def _sender(message: Message) -> str:
    return _text(message.sender) if message.sender else _NULL_SENDER


def _text(address: bytes) -> str:
    return printable(quote(address))
