"""A complete message before milters: shown, changed, and what is told of it.

:class:`Screening` is what it takes beside the filters themselves; :func:`screen` shows one message to a
:class:`~mtad.smtpd.milter.chain.Chain`, carries out the changes and gives the refusal, if there is one.
Holding and discarding are noted in the message's state.  What is logged is cleanup's.

Postfix counterpart: ``cleanup_milter_inspect()``, ``cleanup_milter_apply()``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from mtad.maillog import MailLog
from mtad.mime.checks import Checks, name_of
from mtad.mime.events import PRIMARY, Header
from mtad.queue.spool import queue_error
from mtad.smtpd.milter.client import DISCARD, HOLD, QUIET, SHUTDOWN, Response
from mtad.smtpd.milter.edits import Draft
from mtad.smtpd.milter.envelope import change_envelope
from mtad.wire.logtext import logged
from mtad.wire.reply import Reply

if TYPE_CHECKING:
    from mtad.queue.message import Message
    from mtad.smtpd.envelope import Envelope
    from mtad.smtpd.milter.chain import Chain
    from mtad.smtpd.state import MessageState, Origin

#: What the log says of a message that is held or discarded without another reason.
WORDS = {HOLD: "milter triggers HOLD action", DISCARD: "milter triggers DISCARD action"}

_SHUT_DOWN = Reply(421, b"Service unavailable", b"4.7.0")


@dataclass(frozen=True, slots=True)
class Screening:
    """How messages are shown.  Sizes in bytes; ``checks`` are those of ``milter_header_checks``."""

    checks: Checks
    log: MailLog
    open_spool: Callable[[], BinaryIO]
    size_limit: int
    header_limit: int


async def screen(
    how: Screening, chain: Chain, message: Message, envelope: Envelope, state: MessageState, origin: Origin
) -> Reply | None:
    """Show ``message`` to all filters.  ``message.recipients`` are those of ``envelope``."""

    async def check(text: bytes) -> list[bytes]:
        return await how.checks.header(Header(PRIMARY, name_of(text), text), state)

    draft = Draft(
        message.content,
        message.spool,
        how.open_spool,
        size_limit=how.size_limit,
        header_limit=how.header_limit,
        check=check if how.checks.headers else None,
    )
    try:
        response = await chain.message(draft, how.log)
        if draft.changed:
            old = message.spool
            message.content, message.spool, message.size = draft.finish()
            if old is not None:
                old.close()
    except OSError as problem:
        failure = queue_error(problem)
        how.log.warning(f"{message.queue_id}: {failure}")
        return Reply(failure.code, failure.text.encode(), failure.dsn.encode())
    finally:
        draft.close()
    if state.going_on and draft.envelope:
        await change_envelope(draft.envelope, message, envelope, how.log)
        message.sender = state.sender
    if not state.going_on:
        return state.refusal
    return verdict(how.log, response, message, state, origin) if response is not None else None


def verdict(
    log: MailLog,
    response: Response,
    message: Message,
    state: MessageState,
    origin: Origin,
    where: str = "END-OF-MESSAGE",
) -> Reply | None:
    """Do what filters want of a message, and log it; the reply to give, if it is one."""
    if response.action == QUIET:
        log.warning(f"{message.queue_id}: queue file size limit exceeded")
        return response.reply
    reply: Reply | None = None
    if response.action == HOLD:
        if state.held:
            return None
        state.held = True
    elif response.action == DISCARD:
        state.discarded = True
    else:
        reply = _SHUT_DOWN if response.action == SHUTDOWN else response.reply
    if reply is None:
        what, text = f"milter-{response.action}", response.text or WORDS[response.action]
    else:
        what, text = "milter-reject", (response.text or str(reply))[4:]
    line = f"{message.queue_id}: {what}: {where} from {origin.client}: {text};"
    line += f" from=<{logged(message.sender, log)}>"
    if message.recipients:
        line += f" to=<{logged(message.recipients[-1].address, log)}>"
    if origin.protocol:
        line += f" proto={origin.protocol}"
    if origin.helo:
        line += f" helo=<{origin.helo}>"
    log.info(line)
    return reply
