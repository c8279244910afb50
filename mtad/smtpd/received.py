"""The Received header that the SMTP server puts on top of a message.

RFC 5321 section 4.4, RFC 3848 (``with`` keywords), RFC 6531 section 4.3.  Layout as Postfix writes it:
CRLF line ends, TAB continuation.  Postfix counterpart: the start of message content in ``smtpd(8)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtad.mime.date import mail_date


def comment(text: bytes) -> bytes:
    """``text`` made safe inside a header comment: printable ASCII, parentheses balanced.

    Postfix counterpart: ``comment_sanitize``.
    """
    out = bytearray(text)
    depth = 0
    for at, char in enumerate(out):
        if char < 0x20 or char > 0x7E or char == 0x5C:
            out[at] = 0x3F
        elif char == 0x28:
            depth += 1
        elif char == 0x29:
            if depth:
                depth -= 1
            else:
                out[at] = 0x3F
    if depth:
        for at in range(len(out) - 1, -1, -1):
            if out[at] == 0x28:
                out[at] = 0x3F
                depth -= 1
                if not depth:
                    break
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Trace:
    """What the Received header says; all fields as they go on the wire."""

    helo: bytes
    client_name: bytes
    client_address: bytes  # RFC 5321 form: an IPv6 address carries "IPv6:"
    by: bytes
    mail_name: bytes
    protocol: bytes  # "SMTP" or "ESMTP"
    smtputf8: bool
    tls: bool
    tls_lines: Sequence[bytes]  # the "(using ..." lines, each with its TAB; empty: not asked for
    authenticated: bool
    authenticated_sender: bytes  # empty: smtpd_sasl_authenticated_header is off
    hide_client: bool  # smtpd_hide_client_session


def received(trace: Trace, queue_id: str, recipient: bytes, arrival: float) -> bytes:
    """The header.  ``recipient`` (quoted form) is empty unless it is the only one, ``queue_id`` where mail
    is not queued here."""
    out = bytearray(b"Received: ")
    protocol = b""
    if not trace.hide_client:
        out += b"from %b (%b [%b])\r\n" % (trace.helo, trace.client_name, trace.client_address)
        for line in trace.tls_lines:
            out += line + b"\r\n"
        if trace.authenticated_sender:
            out += b"\t(Authenticated sender: %b)\r\n" % comment(trace.authenticated_sender)
        out += b"\t"
        protocol = b"UTF8SMTP" if trace.smtputf8 else trace.protocol
        if trace.protocol == b"ESMTP":  # RFC 3848 is about ESMTP
            protocol += (b"S" if trace.tls else b"") + (b"A" if trace.authenticated else b"")
        protocol = b" with " + protocol
    out += b"by %b (%b)%b" % (trace.by, trace.mail_name, protocol)
    if queue_id:
        out += b" id " + queue_id.encode()
    if recipient:
        out += b"\r\n\tfor <%b>; %b\r\n" % (recipient, mail_date(arrival))
    else:
        out += b";\r\n\t%b\r\n" % mail_date(arrival)
    return bytes(out)
