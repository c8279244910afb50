"""The Received header that the SMTP server puts on top of a message.

RFC 5321 section 4.4, RFC 3848 (``with`` keywords), RFC 6531 section 4.3.  Layout as Postfix writes it:
CRLF line ends, TAB continuation.  Postfix counterpart: the start of message content in ``smtpd(8)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtad.mime.date import mail_date
from mtad.wire.tokens import comment


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
            sender = comment(trace.authenticated_sender.decode("latin-1")).encode()
            out += b"\t(Authenticated sender: %b)\r\n" % sender
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
