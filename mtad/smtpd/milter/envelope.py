"""Changes of the envelope that milters ask for: another sender, recipients more or less.

Addresses come in their external form, with or without ``<>``, and with parameters as those of MAIL and RCPT
(RFC 3461).  What is wrong about them is logged and left out.

Postfix counterpart: ``cleanup_chg_from()``, ``cleanup_add_rcpt_par()``, ``cleanup_del_rcpt()``.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtad.maillog import MailLog, printable
from mtad.queue.message import Message
from mtad.smtpd.envelope import Envelope
from mtad.smtpd.milter.edits import DELETE, SENDER
from mtad.wire.command import xtext_decode
from mtad.wire.tokens import addresses, internal, parse

_NOTIFY = frozenset((b"SUCCESS", b"FAILURE", b"DELAY"))
_NEVER = frozenset((b"NEVER",))
_LONGEST = 100


async def change_envelope(
    changes: Sequence[tuple[str, bytes, bytes]],
    message: Message,
    envelope: Envelope,
    log: MailLog,
) -> None:
    """Carry out ``changes`` (of :attr:`~mtad.smtpd.milter.edits.Draft.envelope`) in their order.

    ``message.recipients`` are those of ``envelope``; its sender is to be taken from there afterwards.
    """
    for what, text, arguments in changes:
        if what == SENDER:
            await envelope.set_sender(_address(text, "add multi-sender", message, log))
            _sender_arguments(arguments, message, log)
        elif what == DELETE:
            gone = _address(text, "drop multi-recipient", message, log)
            kept = [one for one in message.recipients if (one.original or one.address) != gone]
            message.recipients[:] = kept
        else:
            recipient = _address(text, "add multi-recipient", message, log)
            if not recipient:
                log.warning(f"{message.queue_id}: ignoring attempt from Milter to add null recipient")
                continue
            notify, orcpt = _recipient_arguments(arguments, message, log)
            await envelope.copy(recipient, notify, orcpt)


def _address(text: bytes, what: str, message: Message, log: MailLog) -> bytes:
    """The one address that ``text`` holds, in internal form; empty where it holds none."""
    found = addresses(parse(text))
    if len(found) > 1:
        log.warning(f'{message.queue_id}: Milter request to {what}: "{printable(text)}"')
    return internal(found[0]) if found else b""


def _sender_arguments(arguments: bytes, message: Message, log: MailLog) -> None:
    for argument in arguments.split():
        name, _, value = argument.partition(b"=")
        if name.upper() == b"RET" and value.upper() in (b"FULL", b"HDRS"):
            message.ret = value.upper()
        elif name.upper() == b"ENVID" and value and xtext_decode(value) is not None:
            message.envid = value
        else:
            shown = printable(argument[:_LONGEST])
            log.warning(f'Ignoring bad ESMTP parameter "{shown}" in SMFI_CHGFROM request')


def _recipient_arguments(arguments: bytes, message: Message, log: MailLog) -> tuple[frozenset[bytes], bytes]:
    notify: frozenset[bytes] = frozenset()
    orcpt = b""
    for argument in arguments.split():
        name, _, value = argument.partition(b"=")
        shown = f'"{printable(argument[:_LONGEST])}"'
        if name.upper() == b"NOTIFY":
            words = frozenset(value.upper().split(b","))
            if notify or not (words == _NEVER or (words and words <= _NOTIFY)):
                strange = printable(b",".join(words - _NOTIFY - _NEVER)[:_LONGEST])
                if strange:
                    log.warning(
                        f'unknown DSN NOTIFY command value "{strange}" in "{printable(value[:_LONGEST])}"'
                    )
                log.warning(
                    f"{message.queue_id}: Bad NOTIFY parameter from Milter or header/body_checks: {shown}"
                )
            else:
                notify = words
        elif name.upper() == b"ORCPT":
            kind, semicolon, text = value.partition(b";")
            if orcpt or not kind or not semicolon or xtext_decode(text) is None:
                log.warning(
                    f"{message.queue_id}: Bad ORCPT parameter from Milter or header/body_checks: {shown}"
                )
            else:
                orcpt = value
        else:
            log.warning(
                f"{message.queue_id}: ignoring ESMTP argument from Milter or header/body_checks: {shown}"
            )
    return notify, orcpt
