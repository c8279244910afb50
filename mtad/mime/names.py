"""The headers that Postfix knows by name, and what it knows of them.

RFC 5322 section 3.6, RFC 2045 section 3.  Postfix counterpart: ``header_opts(3)``.
"""

from __future__ import annotations

#: What a header is about.
SENDER, RECIPIENT, RESENT, MIME = 1, 2, 4, 8

HEADERS: dict[bytes, int] = {
    b"apparently-to": RECIPIENT,
    b"bcc": RECIPIENT,
    b"cc": RECIPIENT,
    b"content-description": MIME,
    b"content-disposition": MIME,
    b"content-id": MIME,
    b"content-length": 0,
    b"content-transfer-encoding": MIME,
    b"content-type": MIME,
    b"delivered-to": 0,
    b"disposition-notification-to": SENDER,
    b"date": 0,
    b"errors-to": SENDER,
    b"from": SENDER,
    b"mail-followup-to": SENDER,
    b"message-id": 0,
    b"mime-version": MIME,
    b"received": 0,
    b"reply-to": SENDER,
    b"resent-bcc": RECIPIENT | RESENT,
    b"resent-cc": RECIPIENT | RESENT,
    b"resent-date": RESENT,
    b"resent-from": SENDER | RESENT,
    b"resent-message-id": RESENT,
    b"resent-reply-to": RECIPIENT | RESENT,
    b"resent-sender": SENDER | RESENT,
    b"resent-to": RECIPIENT | RESENT,
    b"return-path": SENDER,
    b"return-receipt-to": SENDER,
    b"sender": SENDER,
    b"to": RECIPIENT,
    b"tls-required": 0,
    b"require-tls-esmtp": 0,
}
