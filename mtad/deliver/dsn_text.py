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

from mtad.deliver.report import external
from mtad.queue.message import Message, Outcome

_WIDTH = 79
_INDENT = b"    "
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BLANK = re.compile(rb"[ \t]")
_XTEXT = re.compile(rb"\+([0-9A-F]{2})")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a notification is about."""

    subject: bytes
    copy_subject: bytes  # of the postmaster's copy
    text: bytes  # after the line that introduces the system
    action: bytes  # RFC 3464 section 2.3.3
    returned: bytes  # Content-Description of the returned message
    log: str


_HELP = b"""\
For further assistance, please send mail to postmaster.

If you do so, please include this problem report. You can
delete your own text from the attached returned message.
"""

FAILURE = Kind(
    b"Undelivered Mail Returned to Sender",
    b"Postmaster Copy: Undelivered Mail",
    b"""\
I'm sorry to have to inform you that your message could not
be delivered to one or more recipients. It's attached below.

"""
    + _HELP,
    b"failed",
    b"Undelivered Message",
    "non-delivery notification",
)

DELAY = Kind(
    b"Delayed Mail (still being retried)",
    b"Postmaster Warning: Delayed Mail",
    b"""\
####################################################################
# THIS IS A WARNING ONLY.  YOU DO NOT NEED TO RESEND YOUR MESSAGE. #
####################################################################

Your message could not be delivered for more than %(hours)b hour(s).
It will be retried until it is %(days)b day(s) old.

"""
    + _HELP,
    b"delayed",
    b"Undelivered Message",
    "delay notification",
)

SUCCESS = Kind(
    b"Successful Mail Delivery Report",
    b"",
    b"""\
Your message was successfully delivered to the destination(s)
listed below. If the message was delivered to mailbox you will
receive no further notifications. Otherwise you may still receive
notifications of mail delivery errors from other systems.
""",
    b"relayed",
    b"Message",
    "delivery status notification",
)


@dataclass(frozen=True, slots=True)
class Frame:
    """What the sending system says of itself."""

    hostname: bytes
    origin: bytes  # myorigin
    mail_name: bytes
    warning_hours: int
    lifetime: int  # seconds


def mail_date(when: float) -> bytes:
    """An RFC 5322 date with the name of the zone behind it."""
    t = time.localtime(int(when))
    hours, minutes = divmod(abs(t.tm_gmtoff) // 60, 60)
    sign = "-" if t.tm_gmtoff < 0 else "+"
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
        f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} {sign}{hours:02d}{minutes:02d} ({t.tm_zone})"
    ).encode("ascii", "replace")


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
    return re.sub(rb"[\x00-\x1f\x7f]", b"?", plain)


def compose(
    kind: Kind,
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
) -> bytes:
    """The notification ``queue_id`` to ``recipient`` about ``message``, lines ended by CRLF.

    ``returned`` is the message itself where ``whole``, else its header section (CRLF lines).
    """
    boundary = b"%b.%d/%b" % (message.queue_id.encode(), int(now), frame.hostname)
    utf8 = message.smtputf8
    encoding = b"7bit" if message.body == b"7BIT" and not utf8 else b"8bit"
    intro = b"" if postmaster else explanation(kind, frame)
    lines = b"".join(_for_people(kind, outcome) for outcome in outcomes)
    date = mail_date(now)
    head = b"""\
Received: by %b (%b)
\tid %b; %b
Date: %b
From: Mail Delivery System <MAILER-DAEMON@%b>
Subject: %b
To: %b
Auto-Submitted: %b
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary="%b"
Content-Transfer-Encoding: %b
Message-Id: %b

This is a MIME-encapsulated message.

--%b
Content-Description: Notification
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: %b

%b
%b--%b
Content-Description: Delivery report
Content-Type: message/%bdelivery-status
""" % (
        frame.hostname,
        frame.mail_name,
        queue_id.encode(),
        date,
        date,
        frame.origin,
        kind.copy_subject if postmaster else kind.subject,
        external(recipient),
        b"auto-generated" if postmaster else b"auto-replied",
        boundary,
        encoding,
        message_id(queue_id, frame.hostname, now),
        boundary,
        encoding,
        intro,
        lines,
        boundary,
        b"global-" if utf8 else b"",
    )
    if utf8:
        head += b"Content-Transfer-Encoding: %b\n" % encoding
    report = _report(kind, frame, message, outcomes)
    tail = b"""\

--%b
Content-Description: %b%b
Content-Type: %b
Content-Transfer-Encoding: %b

Return-Path: <%b>
""" % (
        boundary,
        kind.returned,
        b"" if whole else b" Headers",
        _returned_type(whole, utf8),
        encoding,
        _sender(frame, message),
    )
    text = (head + b"\n" + report + tail).replace(b"\n", b"\r\n")
    return b"%b%b%b\r\n--%b--\r\n" % (text, returned, b"" if returned.endswith(b"\n") else b"\r\n", boundary)


def explanation(kind: Kind, frame: Frame) -> bytes:
    """What a notification says to people before it comes to the recipients."""
    days = frame.lifetime // 86400
    return _letter(kind, frame.hostname, b"%d" % frame.warning_hours, b"%d" % days)


def template(kind: Kind) -> bytes:
    """The same, with the names of parameters as a bounce(5) template has them."""
    return _letter(kind, b"$myhostname", b"$delay_warning_time_hours", b"$maximal_queue_lifetime_days")


def _letter(kind: Kind, hostname: bytes, hours: bytes, days: bytes) -> bytes:
    text = kind.text
    if b"%(" in text:
        text %= {b"hours": hours, b"days": days}
    return b"This is the mail system at host %b.\n\n%b\n                   The mail system\n" % (
        hostname,
        text,
    )


def _returned_type(whole: bool, utf8: bool) -> bytes:
    if whole:
        return b"message/global" if utf8 else b"message/rfc822"
    return b"message/global-headers" if utf8 else b"text/rfc822-headers"


def _for_people(kind: Kind, outcome: Outcome) -> bytes:
    recipient = outcome.recipient
    origin = b""
    if recipient.original and recipient.original.lower() != recipient.address.lower():
        origin = b" (expanded from <%b>)" % external(recipient.original)
    via = f"delivery via {outcome.relay}: " if kind is SUCCESS else ""
    reason = (via + outcome.reason).encode("utf-8", "replace")
    return wrap(b"<%b>%b: %b" % (external(recipient.address), origin, reason)) + b"\n\n"


def _report(kind: Kind, frame: Frame, message: Message, outcomes: Sequence[Outcome]) -> bytes:
    lines = [b"Reporting-MTA: dns; %b" % frame.hostname]
    if message.envid:
        lines.append(b"Original-Envelope-Id: %b" % xtext_decode(message.envid))
    x = b"X-%b-" % frame.mail_name
    lines.append(b"%bQueue-ID: %b" % (x, message.queue_id.encode()))
    lines.append(b"%bSender: %b; %b" % (x, _address_type(message.sender), _sender(frame, message)))
    lines.append(b"Arrival-Date: %b" % mail_date(message.arrival))
    for outcome in outcomes:
        recipient = outcome.recipient
        lines += [
            b"",
            b"Final-Recipient: %b; %b" % (_address_type(recipient.address), external(recipient.address)),
        ]
        if recipient.orcpt:
            lines.append(b"Original-Recipient: %b" % xtext_decode(recipient.orcpt))
        elif original := recipient.original or recipient.address:
            lines.append(b"Original-Recipient: %b;%b" % (_address_type(original), external(original)))
        lines += [b"Action: %b" % kind.action, b"Status: %b" % outcome.dsn.encode()]
        if outcome.remote_mta:
            lines.append(b"Remote-MTA: dns; %b" % outcome.remote_mta.encode())
        diagnostic = outcome.diagnostic or f"X-{frame.mail_name.decode()}; {outcome.reason}"
        lines.append(wrap(b"Diagnostic-Code: " + diagnostic.encode("utf-8", "replace")))
        if kind is DELAY:
            lines.append(b"Will-Retry-Until: %b" % mail_date(message.arrival + frame.lifetime))
    return b"\n".join(lines) + b"\n"


def _sender(frame: Frame, message: Message) -> bytes:
    """Who a message is from; without a sender it is from the system."""
    return external(message.sender) or b"MAILER-DAEMON@%b" % frame.hostname


def _address_type(address: bytes) -> bytes:
    return b"rfc822" if address.isascii() else b"utf-8"
