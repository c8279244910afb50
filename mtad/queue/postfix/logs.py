"""Why recipients were not reached: Postfix's files below ``defer`` and ``bounce``.
Blocks of ``name=value`` lines, one for each recipient; addresses are in their quoted form.  Raises OSError.

Postfix counterpart: ``bounce_log(3)``, ``bounce_append_service.c``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mtad.maillog import printable
from mtad.queue.message import Recipient
from mtad.queue.postfix.envelope import encoded_orcpt, notify_words
from mtad.wire.tokens import quote, unquote

_MOST = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reason:
    """What is said of one recipient."""

    address: bytes
    original: bytes
    notify: frozenset[bytes]
    orcpt: bytes
    status: str
    reason: str


def read_log(path: str) -> list[Reason]:
    """What the file says; nothing where there is none."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST)
    except FileNotFoundError:
        return []
    found: list[Reason] = []
    for block in text.split(b"\n\n"):
        values = dict(line.partition(b"=")[::2] for line in block.split(b"\n") if b"=" in line)
        if b"recipient" not in values:
            continue
        address = unquote(values[b"recipient"])
        found.append(
            Reason(
                b"" if address == b"MAILER-DAEMON" else address,
                unquote(values.get(b"original_recipient", values[b"recipient"])),
                notify_words(values.get(b"notify_flags", b"")),
                encoded_orcpt(values.get(b"dsn_orig_rcpt", b"")),
                printable(values.get(b"status", b"")),
                printable(values.get(b"reason", b"")),
            )
        )
    return found


def log_text(recipients: Iterable[Recipient], offsets: Mapping[int, int]) -> bytes:
    """The content of a file below ``defer`` for those of ``recipients`` that have a reason; may be empty.

    ``offsets``: where their records are in the queue file."""
    blocks: list[bytes] = []
    for recipient in recipients:
        if not recipient.reason:
            continue
        address = quote(recipient.address)
        reason = printable(recipient.reason).encode()
        original = quote(recipient.original) if recipient.original else b""
        lines = [b"<%b>: %b" % (address, reason), b"recipient=%b" % address]
        if original and original != address:
            lines.append(b"original_recipient=%b" % original)
        if recipient.id in offsets:
            lines.append(b"offset=%d" % offsets[recipient.id])
        lines += [b"status=%b" % (recipient.dsn or "4.0.0").encode(), b"action=delayed"]
        lines += [b"reason=%b" % reason, b"", b""]
        blocks.append(b"\n" + b"\n".join(lines))
    return b"".join(blocks)
