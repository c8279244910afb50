"""What became of recipients: Postfix's files below ``defer`` (why they wait), ``bounce`` (what the sender is
still to be told of failures) and ``trace`` (of successes).

Blocks of ``name=value`` lines, one for each recipient; addresses are in their quoted form.  Raises OSError.

Postfix counterpart: ``bounce_log(3)``, ``bounce_append_service.c``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mtad.maillog import printable
from mtad.queue.message import Outcome, Recipient
from mtad.queue.postfix.envelope import decoded_orcpt, encoded_orcpt, notify_mask, notify_words
from mtad.wire.tokens import quote, unquote

_MOST = 64 * 1024 * 1024
_NOBODY = b"<>"


def read_log(path: str, status: str) -> list[Outcome]:
    """What the file says, as outcomes with that ``status``; nothing where there is none."""
    try:
        with open(path, "rb") as file:
            text = file.read(_MOST)
    except FileNotFoundError:
        return []
    blocks = [
        dict(line.partition(b"=")[::2] for line in block.split(b"\n") if b"=" in line and line[:1] != b"<")
        for block in text.split(b"\n\n")
    ]
    return [_outcome(block, status) for block in blocks if b"recipient" in block]


def _outcome(values: dict[bytes, bytes], status: str) -> Outcome:
    def text(name: bytes) -> str:
        return printable(values.get(name, b""))

    address = values[b"recipient"]
    original = values.get(b"original_recipient", address)
    kind = text(b"diag_type")
    return Outcome(
        Recipient(
            b"" if address == _NOBODY else unquote(address),
            b"" if original == _NOBODY else unquote(original),
            notify_words(values.get(b"notify_flags", b"")),
            encoded_orcpt(values.get(b"dsn_orig_rcpt", b"")),
        ),
        status,
        text(b"status"),
        text(b"reason"),
        diagnostic=f"{kind}; {text(b'diag_text')}" if kind else "",
        remote_mta=text(b"mta_mname"),
        action=text(b"action"),
    )


def log_text(outcomes: Iterable[Outcome], offsets: Mapping[int, int]) -> bytes:
    """The content of a file for these, with their actions; may be empty.

    ``offsets``: where the recipients' records are in the queue file, by id."""
    return b"".join([_block(outcome, offsets.get(outcome.recipient.id, 0)) for outcome in outcomes])


def _block(outcome: Outcome, offset: int) -> bytes:
    one = outcome.recipient
    address, original = (quote(name) if name else b"" for name in (one.address, one.original))
    reason = printable(outcome.reason).encode()
    kind, _, diagnostic = printable(outcome.diagnostic).partition("; ")
    mask = notify_mask(one.notify)
    lines = [b"<%b>: %b" % (address, reason), b"recipient=%b" % (address or _NOBODY)]
    if original and original.lower() != address.lower():
        lines.append(b"original_recipient=%b" % original)
    if offset:
        lines.append(b"offset=%d" % offset)
    if one.orcpt:
        lines.append(b"dsn_orig_rcpt=%b" % decoded_orcpt(one.orcpt))
    if mask:
        lines.append(b"notify_flags=%d" % mask)
    lines += [b"status=%b" % (outcome.dsn or "4.0.0").encode(), b"action=%b" % outcome.action.encode()]
    if diagnostic:
        lines += [b"diag_type=%b" % kind.encode(), b"diag_text=%b" % diagnostic.encode()]
    if outcome.remote_mta:
        lines += [b"mta_type=dns", b"mta_mname=%b" % printable(outcome.remote_mta).encode()]
    return b"\n" + b"\n".join([*lines, b"reason=%b" % reason, b"", b""])
