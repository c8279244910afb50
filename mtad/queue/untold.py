"""What became of recipients, and nobody was told yet.

An alias may come to its end at intake, and a message that comes from Postfix may have recipients that were
given up though the notification was not sent.  Such outcomes travel in their message's attribute ``untold``,
as text, until the next attempt is over: :func:`packed` makes it, :func:`unpacked` reads it and takes what it
can't read for nothing.  Those that are ``bounced`` are told as failures, the others as successes.

RFC 3461 section 5.2.7.3.  Postfix counterpart: the logs ``bounce`` and ``trace``, ``cleanup_trace_append()``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from mtad.queue.message import Message, Outcome, Recipient

ATTRIBUTE = "untold"


def expanded(recipients: Iterable[Recipient]) -> list[Outcome]:
    """The outcomes for recipients that were aliases."""
    return [Outcome(one, "sent", "2.0.0", "alias expanded", action="expanded") for one in recipients]


def packed(outcomes: Iterable[Outcome]) -> str:
    """The attribute's value."""
    rows = [
        [
            [part.decode("latin-1") for part in (r.address, r.original, r.orcpt, *sorted(r.notify))],
            [o.status, o.dsn, o.reason, o.diagnostic, o.remote_mta, o.action],
        ]
        for o in outcomes
        for r in (o.recipient,)
    ]
    return json.dumps(rows, separators=(",", ":"))


def unpacked(message: Message) -> list[Outcome]:
    """The outcomes that a message brings with it."""
    text = message.attributes.get(ATTRIBUTE)
    if text is None:
        return []
    try:
        return [_outcome(*row) for row in json.loads(text)]
    except (ValueError, TypeError, AttributeError):
        return []


def failed(message: Message) -> list[Outcome]:
    """Those of them that are failures."""
    return [outcome for outcome in unpacked(message) if outcome.status == "bounced"]


def _outcome(who: list[str], what: list[Any]) -> Outcome:
    address, original, orcpt, *notify = [part.encode("latin-1") for part in who]
    status, dsn, reason, diagnostic, remote_mta, action = [str(part) for part in what]
    return Outcome(
        Recipient(address, original, frozenset(notify), orcpt, dsn=dsn, reason=reason), status, dsn, reason,
        diagnostic=diagnostic, remote_mta=remote_mta, action=action,
    )  # fmt: skip
