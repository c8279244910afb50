"""The text of delivery status notifications, as Postfix words it.

:func:`compose` makes the whole message: headers, the explanation for people, the report for programs
(RFC 3464; RFC 6533 for SMTPUTF8 mail), and what is returned of the message.  Nothing is raised.

Postfix counterpart: ``bounce_notify_util``, ``bounce_template(3)``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mtad.deliver.bounce_template import Template
from mtad.deliver.report import external
from mtad.mime.date import mail_date
from mtad.queue.message import Message, Outcome, Recipient
from mtad.wire.command import is_utf8, utf8_xtext_decode

#: By what the client said of its content; nothing is said of what it left open.
_ENCODING = {b"": b"", b"7BIT": b"7bit"}
_WIDTH = 79
_INDENT = b"    "
_BLANK = re.compile(rb"[ \t]")
#: The address in a From header: in angle brackets, or the first word.
_ADDRESS = re.compile(rb"(?<=<)[^<>]+(?=>)|^[^\s()<>]+(?=\s*(?:\(.*)?$)")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_XTEXT = re.compile(rb"\+([0-9A-F]{2})")


@dataclass(frozen=True, slots=True)
class Frame:
    """What the sending system says of itself."""

    hostname: bytes
    origin: bytes  # myorigin
    mail_name: bytes
    lifetime: int  # seconds
    old_from: bool = False  # header_from_format = obsolete
    eight_bits: bool = True  # smtputf8_enable: addresses may have them


@dataclass(frozen=True, slots=True)
class Letter:
    """A notification of one kind, its text expanded (lines end in LF)."""

    template: Template
    text: bytes


def message_id(queue_id: str, hostname: bytes, now: float) -> bytes:
    """The Message-Id of a message made here."""
    stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(now))
    return f"<{stamp}.{queue_id}@".encode() + hostname + b">"


def wrap(text: bytes) -> bytes:
    """``text`` folded at blanks, so that lines have at most 79 bytes where words allow."""
    lines: list[bytes] = []
    indent, width = b"", _WIDTH
    start = word = 0  # of the line, and of the word
    while True:
        blank = _BLANK.search(text, word)
        end = blank.start() if blank else len(text)
        if word > start and end - start > width:
            lines.append(indent + text[start:word].rstrip())
            indent, width = _INDENT, _WIDTH - len(_INDENT)
            start = len(text) - len(text[word:].lstrip())
        if blank is None:
            break
        word = end + 1
    lines.append(indent + text[start:].rstrip())
    return b"\n".join(lines)


def xtext_decode(data: bytes) -> bytes:
    """RFC 3461 section 4 xtext; control characters come out as ``?``."""
    plain = _XTEXT.sub(lambda match: bytes([int(match[1], 16)]), data)
    return _CONTROL.sub(b"?", plain)


def compose(
    letter: Letter,
    frame: Frame,
    message: Message,
    outcomes: Sequence[Outcome],
    returned: bytes,
    *,
    whole: bool,
    queue_id: str,
    recipient: bytes,
    now: float,
    postmaster: bool = False,
    thread: bytes = b"",
) -> bytes:
    """The notification ``queue_id`` to ``recipient`` about ``message``, lines ended by CRLF.

    ``returned`` is the message itself where ``whole``, else its header section (CRLF lines).  ``thread`` is
    the Message-Id that the notification refers to.
    """
    template = letter.template
    boundary = b"%b.%d/%b" % (message.queue_id.encode(), int(now), frame.hostname)
    encoding = b"8bit" if frame.eight_bits else _ENCODING.get(message.body, b"8bit")
    described = b"Content-Transfer-Encoding: 8bit\n" if encoding == b"8bit" else b""
    charset = template.charset.encode()
    if charset.lower() == b"us-ascii" and encoding == b"8bit":
        charset = b"utf-8"
    utf8 = message.smtputf8
    head = b"".join(
        [
            _headers(letter, frame, message, queue_id, recipient, now, postmaster, thread),
            b"MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status;\n",
            b'\tboundary="%b"\n' % boundary,
            b"Content-Transfer-Encoding: %b\n" % encoding if encoding else b"",
            b"Message-Id: %b\n\nThis is a MIME-encapsulated message.\n\n"
            % message_id(queue_id, frame.hostname, now),
            b"--%b\nContent-Description: Notification\n" % boundary,
            b"Content-Type: text/plain; charset=%b\n%b\n" % (charset, described),
            (b"" if postmaster else letter.text) + b"\n",
            *[_for_people(template, outcome) for outcome in outcomes],
            b"--%b\nContent-Description: Delivery report\n" % boundary,
            b"Content-Type: message/%bdelivery-status\n" % (b"global-" if utf8 else b""),
            described if utf8 else b"",
            b"\n",
            _report(template, frame, message, outcomes),
            b"\n--%b\nContent-Description: %b%b\n"
            % (boundary, template.description, b"" if whole else b" Headers"),
            b"Content-Type: %b\n%b\n" % (_returned_type(whole, utf8), described),
            b"Return-Path: <%b>\n" % _sender(frame, message),
        ]
    )
    text = head.replace(b"\n", b"\r\n")
    return b"%b%b%b\r\n--%b--\r\n" % (text, returned, b"" if returned.endswith(b"\n") else b"\r\n", boundary)


def _headers(
    letter: Letter,
    frame: Frame,
    message: Message,
    queue_id: str,
    recipient: bytes,
    now: float,
    postmaster: bool,
    thread: bytes,
) -> bytes:
    """The headers up to those of MIME."""
    template = letter.template
    date = mail_date(now)
    sender = template.old_sender if frame.old_from else template.sender
    subject = template.copy_subject if postmaster else template.subject
    lines = [
        b"Received: by %b (%b)" % (frame.hostname, frame.mail_name),
        b"\tid %b; %b" % (queue_id.encode(), date),
        b"Date: %b" % date,
        b"From: %b" % with_origin(sender.encode(), frame.origin),
        b"Subject: %b" % subject.encode(),
        b"To: %b" % external(recipient),
    ]
    if thread:
        lines += [b"References: %b" % thread, b"In-Reply-To: %b" % thread]
    if message.attributes.get("tls_required_no"):
        lines.append(b"TLS-Required: no")
    lines.append(b"Auto-Submitted: %b" % (b"auto-generated" if postmaster else b"auto-replied"))
    return b"\n".join(lines) + b"\n"


def with_origin(mailbox: bytes, origin: bytes) -> bytes:
    """``Name <user>`` or ``user (Name)`` with ``@origin`` behind a user without domain."""
    match = _ADDRESS.search(mailbox)
    if match is None or b"@" in match[0]:
        return mailbox
    return mailbox[: match.end()] + b"@" + origin + mailbox[match.end() :]


def _returned_type(whole: bool, utf8: bool) -> bytes:
    if whole:
        return b"message/global" if utf8 else b"message/rfc822"
    return b"message/global-headers" if utf8 else b"text/rfc822-headers"


def _for_people(template: Template, outcome: Outcome) -> bytes:
    recipient = outcome.recipient
    origin = b""
    if _expanded(recipient):
        origin = b" (expanded from <%b>)" % external(recipient.original)
    reason = _reason(template, outcome).encode("utf-8", "replace")
    return wrap(b"<%b>%b: %b" % (external(recipient.address), origin, reason)) + b"\n\n"


def _reason(template: Template, outcome: Outcome) -> str:
    """The reason; of a success with the way it took."""
    traced = template.name in ("success", "verify") and outcome.relay != "none"
    return f"delivery via {outcome.relay}: {outcome.reason}" if traced else outcome.reason


def _report(template: Template, frame: Frame, message: Message, outcomes: Sequence[Outcome]) -> bytes:
    lines = [b"Reporting-MTA: dns; %b" % frame.hostname]
    if message.envid:
        lines.append(b"Original-Envelope-Id: %b" % xtext_decode(message.envid))
    x = b"X-%b-" % frame.mail_name
    lines.append(b"%bQueue-ID: %b" % (x, message.queue_id.encode()))
    kind = _address_type(message.sender, message.smtputf8)
    lines.append(b"%bSender: %b; %b" % (x, kind, _sender(frame, message)))
    lines.append(b"Arrival-Date: %b" % mail_date(message.arrival))
    for outcome in outcomes:
        recipient = outcome.recipient
        kind = _address_type(recipient.address, message.smtputf8)
        lines += [b"", b"Final-Recipient: %b; %b" % (kind, external(recipient.address))]
        if recipient.orcpt:
            lines.append(b"Original-Recipient: %b" % _original(recipient.orcpt))
        elif _expanded(recipient):
            original = recipient.original
            kind = _address_type(original, message.smtputf8)
            lines.append(b"Original-Recipient: %b; %b" % (kind, external(original)))
        action = template.action if template.name == "failure" else outcome.action.encode() or template.action
        lines += [b"Action: %b" % action, b"Status: %b" % outcome.dsn.encode()]
        if outcome.remote_mta:
            lines.append(b"Remote-MTA: dns; %b" % outcome.remote_mta.encode("utf-8", "replace"))
        reason = _reason(template, outcome)
        diagnostic = outcome.diagnostic or f"X-{frame.mail_name.decode()}; {reason}"
        lines.append(wrap(b"Diagnostic-Code: " + diagnostic.encode("utf-8", "replace")))
        if template.name == "delay":
            lines.append(b"Will-Retry-Until: %b" % mail_date(message.arrival + frame.lifetime))
    return b"\n".join(lines) + b"\n"


def _sender(frame: Frame, message: Message) -> bytes:
    """Who a message is from; without a sender it is from the system."""
    return external(message.sender) or b"MAILER-DAEMON@%b" % frame.hostname


def _expanded(recipient: Recipient) -> bool:
    """Whether an address stands for another one that the sender has named."""
    return bool(recipient.original) and recipient.original.lower() != recipient.address.lower()


def _original(orcpt: bytes) -> bytes:
    """The value of ORCPT as people write it (RFC 3461 section 4.2, RFC 6533 section 3)."""
    kind, _, address = orcpt.partition(b";")
    if kind.lower() == b"utf-8":
        return _CONTROL.sub(b"?", b"%b;%b" % (kind, utf8_xtext_decode(address) or address))
    return xtext_decode(orcpt)


def _address_type(address: bytes, utf8: bool) -> bytes:
    """``utf8``: the sender has asked for SMTPUTF8."""
    return b"utf-8" if utf8 and not address.isascii() and is_utf8(address) else b"rfc822"
