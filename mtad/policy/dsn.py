"""Enhanced status codes in access(5) results (RFC 3463).

Postfix counterpart: ``dsn_util(3)``, ``smtpd_dsn_fix(3)``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mtad.policy.check import RECIPIENT, SENDER

if TYPE_CHECKING:
    from mtad.maillog import MailLog

_CODE = re.compile(rb"\s*([245]\.[0-9]{1,3}\.[0-9]{1,3})(?=\s|\Z)")

#: Last number of an address status (X.1.N) to what it is when a sender or a recipient was refused.
_SENDER = {b"2": b"8", b"3": b"7", b"5": b"0", b"7": b"7", b"8": b"8", b"1": b"7", b"4": b"7", b"6": b"7"}
_RECIPIENT = {b"7": b"3", b"8": b"2", **{n: n for n in (b"1", b"2", b"3", b"4", b"5", b"6")}}


def split(default: bytes, text: bytes) -> tuple[bytes, bytes]:
    """The status code at the start of ``text``, or ``default``, and the rest of the text."""
    match = _CODE.match(text)
    if match is None:
        return default, text.lstrip()
    return match.group(1), text[match.end() :].lstrip()


def fit(dsn: bytes, kind: str, log: MailLog) -> bytes:
    """An address status made to say what ``kind`` was refused; others stay."""
    if dsn[1:4] != b".1.":
        return dsn
    number = dsn[4:]
    if kind == SENDER:
        fitted = b".1." + _SENDER.get(number, b"0")
    elif kind == RECIPIENT:
        fitted = b".1." + _RECIPIENT.get(number, b"0")
    else:
        fitted = b".0.0"
    if fitted != dsn[1:]:
        log.info(f"mapping DSN status {dsn.decode()} into {kind} status {dsn[:1].decode()}{fitted.decode()}")
    return dsn[:1] + fitted
