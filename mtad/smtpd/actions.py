"""What tables asked for, done to a message before the queue has it: FILTER, REDIRECT, HOLD.

Nothing is raised.  Postfix counterpart: the end of ``cleanup_envelope()``, and ``qmgr_message.c`` with its
records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtad.queue.message import HOLD, Message, Recipient
from mtad.tables.table import fold

if TYPE_CHECKING:
    from mtad.rewrite.address import Rewriter
    from mtad.smtpd.state import MessageState


def act(
    message: Message,
    state: MessageState,
    rewriter: Rewriter,
    *,
    filter: str = "",
    redirect: bytes = b"",
    hold: bool = False,
) -> None:
    """Do what the content asked for (``state``), else what access(5) results and services say."""
    redirect = state.redirect or redirect
    wanted = state.filter.decode("utf-8", "replace") or filter
    if redirect and message.recipients:  # one recipient is served in place of all
        first = min(message.recipients, key=_order)
        address = rewriter.rewrite_internal(redirect)
        message.recipients = [Recipient(address, first.original, first.notify, first.orcpt)]
    elif wanted:
        message.attributes["filter"] = wanted
    if hold or state.held:
        message.state = HOLD


def _order(recipient: Recipient) -> tuple[bool, bytes, bytes]:
    address = recipient.address
    return b"@" not in address, fold(address.rpartition(b"@")[2]), address
