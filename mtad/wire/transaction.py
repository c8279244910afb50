"""MAIL, RCPT, DATA and BDAT: what may be said when, and how.

:class:`Transaction` holds what was said since MAIL and checks each command in the order in which
Postfix does, with Postfix's replies.  It answers with the event for the shell, or with a
:class:`~mtad.wire.events.Refused`; it changes only when the session tells it what was replied.

RFC 5321 sections 3.3 and 4.1.1; RFC 1870 (SIZE), 3030 (BDAT), 3461 (DSN), 4954 section 5 (AUTH=),
6152 (BODY), 6531 (SMTPUTF8).  Postfix counterpart: ``mail_cmd``, ``rcpt_cmd``, ``data_cmd`` and
``bdat_cmd`` in ``smtpd.c``.
"""

from __future__ import annotations

import enum
import re

from mtad.wire.address import parse_path
from mtad.wire.checks import (
    BAD_RECIPIENT,
    BAD_SENDER,
    NO_HELO,
    UNDECLARED,
    bad_recipient,
    bad_sender,
    refuse,
)
from mtad.wire.command import notify_conditions, split, utf8_xtext_decode, xtext_decode, xtext_encode
from mtad.wire.events import Address, Bdat, Data, Mail, Rcpt, Refused
from mtad.wire.extensions import Wishes, Wrong, take
from mtad.wire.logtext import printable
from mtad.wire.reply import Reply
from mtad.wire.settings import ServerSettings

_FROM = re.compile(rb" ?from: ?(<[^<>\"\\ \t]*>)", re.IGNORECASE)
_TO = re.compile(rb" ?to: ?(<[^<>\"\\ \t]*>)", re.IGNORECASE)
_UNPRINTABLE = re.compile(rb"[^ -~]")
_LARGEST = (1 << 63) - 1
_NO_CONDITIONS: frozenset[bytes] = frozenset()


class Chunking(enum.Enum):
    """Where BDAT stands: not used, going on, or failed so that chunks are thrown away."""

    NONE = 0
    OPEN = 1
    FAILED = 2


def words_after(keyword: re.Pattern[bytes], rest: bytes) -> tuple[list[bytes] | None, bool]:
    """The path and parameters after ``FROM:`` or ``TO:``; None when there is no such word or path.

    The flag tells that the path lacks its closing bracket or quote.
    """
    if (m := keyword.match(rest)) and (len(rest) == m.end() or rest[m.end()] == 32):
        more, bad = split(rest[m.end() :]) if len(rest) > m.end() else ([], False)
        return [m[1], *more], False
    words, bad = split(rest)
    wanted = b"from:" if keyword is _FROM else b"to:"
    if len(words) < 2 or words[0].lower() != wanted:
        return None, False
    return words[1:], bad and len(words) == 2


class Transaction:
    """The state of one mail transaction and the rules for its commands."""

    __slots__ = (
        "_overshoot",
        "_sasl_sender",
        "_size",
        "binary",
        "chunking",
        "received",
        "recipients",
        "sender",
        "settings",
        "smtputf8",
    )

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.reset()

    def reset(self) -> None:
        """Forget the transaction (RSET, HELO, end of message...)."""
        self.sender: Address | None = None
        self.smtputf8 = False
        self.binary = False  # BODY=BINARYMIME
        self.recipients = 0  # accepted ones
        self.chunking = Chunking.NONE
        self.received = 0  # bytes of BDAT chunks, also of those thrown away
        self._overshoot = 0
        # Like Postfix, these outlive a refused MAIL.
        self._size = 0
        self._sasl_sender: bytes | None = None

    def mail(self, line: bytes, rest: bytes, helo: bool, client: str, tls: bool = False) -> Mail | Refused:
        """MAIL FROM; ``client`` is ``name[addr]`` for warnings."""
        if self.settings.helo_required and not helo:
            return refuse(b"MAIL", line, 503, b"5.5.1", NO_HELO)
        if self.sender is not None:
            return refuse(b"MAIL", line, 503, b"5.5.1", b"Error: nested MAIL command")
        if self.chunking is not Chunking.NONE:
            return refuse(b"MAIL", line, 503, b"5.5.1", b"Error: MAIL after BDAT")
        words, bad = words_after(_FROM, rest)
        if words is None:
            return refuse(b"MAIL", line, 501, b"5.5.4", b"Syntax: MAIL FROM:<address>")
        if bad:
            return Refused(BAD_SENDER, b"MAIL", line)
        utf8 = self._utf8_offered() and any(word.upper() == b"SMTPUTF8" for word in words[1:])
        self.smtputf8 = utf8
        sender = parse_path(words[0], allow_empty=True, strict=self.settings.strict_envelopes, smtputf8=utf8)
        if sender is None:
            return bad_sender(line, words[0], client)
        body, ret, envid = b"", b"", b""
        wishes: Wishes | None = None
        if len(words) > 1:
            try:
                body, ret, envid, wishes = self._mail_parameters(words, tls)
            except Wrong as wrong:
                return Refused(wrong.reply, b"MAIL", line)
        limit = self.settings.size_limit
        if limit and self._size > limit:
            text = b"Message size exceeds fixed limit"
            return Refused(Reply(552, text, b"5.3.4"), b"MAIL", line, reject=True, sender=sender)
        if wishes is not None and wishes.verp and not sender.text:
            return refuse(b"MAIL", line, 503, b"5.5.4", b"Error: XVERP requires non-null sender")
        if self._undeclared_utf8(sender):
            return refuse(b"MAIL", line, 553, b"5.6.7", UNDECLARED)
        self.binary = body == b"BINARYMIME"
        return Mail(sender, self._size, body, utf8, self._sasl_sender, ret, envid, line, wishes)

    def _mail_parameters(self, words: list[bytes], tls: bool) -> tuple[bytes, bytes, bytes, Wishes | None]:
        body, ret, envid = b"", b"", b""
        wishes = Wishes()
        wished = False
        have_envid = False
        for word in words[1:]:
            key, equals, value = word.partition(b"=")
            key, upper = key.upper(), value.upper()
            if key == b"BODY" and upper in (b"8BITMIME", b"7BIT"):
                body = upper
            elif key == b"SIZE" and equals:
                if not (value.isdigit() and value.isascii()):
                    raise Wrong(501, b"5.5.4", b"Bad message size syntax")
                if len(value) > 40 or int(value) > _LARGEST:
                    raise Wrong(552, b"5.3.4", b"Message size exceeds file system imposed limit")
                self._size = int(value)
            elif key == b"SMTPUTF8" and not equals and self._utf8_offered():
                pass
            elif key == b"AUTH" and equals:
                if self._sasl_sender is not None:
                    raise Wrong(503, b"5.5.4", b"Error: multiple AUTH= options")
                if value != b"<>":
                    self._sasl_sender = value
            elif key == b"RET" and equals:
                self._require_dsn()
                if ret or upper not in (b"FULL", b"HDRS"):
                    raise Wrong(501, b"5.5.4", b"Bad RET parameter syntax")
                ret = upper
            elif key == b"ENVID" and equals:
                self._require_dsn()
                decoded = xtext_decode(value)
                if have_envid or not decoded or _UNPRINTABLE.search(decoded):
                    raise Wrong(501, b"5.5.4", b"Bad ENVID parameter syntax")
                have_envid, envid = True, xtext_encode(decoded.strip())
            elif key == b"BODY" and upper == b"BINARYMIME" and self.settings.offers_binary:
                body = upper
            elif take(self.settings, tls, word, wishes):
                wished = True
            else:
                raise Wrong(555, b"5.5.4", b"Unsupported option: " + word)
        return body, ret, envid, wishes if wished else None

    def rcpt(self, line: bytes, rest: bytes, client: str) -> Rcpt | Refused:
        """RCPT TO."""
        if self.sender is None:
            return refuse(b"RCPT", line, 503, b"5.5.1", b"Error: need MAIL command")
        if self.chunking is not Chunking.NONE:
            return refuse(b"RCPT", line, 503, b"5.5.1", b"Error: RCPT after BDAT")
        words, bad = words_after(_TO, rest)
        if words is None:
            return refuse(b"RCPT", line, 501, b"5.5.4", b"Syntax: RCPT TO:<address>")
        if bad:
            return Refused(BAD_RECIPIENT, b"RCPT", line)
        settings = self.settings
        recipient = parse_path(words[0], strict=settings.strict_envelopes, smtputf8=self.smtputf8)
        if recipient is None:
            return bad_recipient(b"RCPT", line, words[0], client)
        notify, orcpt = _NO_CONDITIONS, b""
        if len(words) > 1:
            try:
                notify, orcpt = self._rcpt_parameters(words)
            except Wrong as wrong:
                return Refused(wrong.reply, b"RCPT", line)
        if settings.recipient_limit and self.recipients >= settings.recipient_limit:
            self._overshoot += 1
            over = self._overshoot > settings.recipient_overshoot_limit
            reply = Reply(452, b"Error: too many recipients", b"4.5.3")
            return Refused(reply, b"RCPT", line, error=over)
        if self._undeclared_utf8(recipient):
            return refuse(b"RCPT", line, 553, b"5.6.7", UNDECLARED)
        argument = words[0]
        if argument.startswith(b"<") and argument.endswith(b">"):
            argument = argument[1:-1]
        return Rcpt(recipient, notify, orcpt, argument, line)

    def _rcpt_parameters(self, words: list[bytes]) -> tuple[frozenset[bytes], bytes]:
        notify, orcpt = _NO_CONDITIONS, b""
        for word in words[1:]:
            key, equals, value = word.partition(b"=")
            key = key.upper()
            if key == b"NOTIFY" and equals:
                self._require_dsn()
                conditions = None if notify else notify_conditions(value)
                if conditions is None:
                    raise Wrong(501, b"5.5.4", b"Error: Bad NOTIFY parameter syntax")
                notify = conditions
            elif key == b"ORCPT" and equals:
                self._require_dsn()
                kind, semicolon, address = value.partition(b";")
                decode = utf8_xtext_decode if kind.lower() == b"utf-8" else xtext_decode
                if orcpt or not kind or not semicolon or decode(address) is None:
                    raise Wrong(501, b"5.5.4", b"Error: Bad ORCPT parameter syntax")
                orcpt = value
            else:
                raise Wrong(555, b"5.5.4", b"Unsupported option: " + word)
        return notify, orcpt

    def data(self, line: bytes, rest: bytes) -> Data | Refused:
        """DATA."""
        if self.chunking is not Chunking.NONE:
            return refuse(b"DATA", line, 503, b"5.5.1", b"Error: DATA after BDAT")
        if not self.recipients:
            return self._no_recipients(b"DATA", line)
        if rest and split(rest)[0]:
            return refuse(b"DATA", line, 501, b"5.5.4", b"Syntax: DATA")
        if self.binary:  # RFC 3030 section 3
            return refuse(b"DATA", line, 503, b"5.5.1", b"Error: BINARYMIME requires BDAT")
        return Data()

    def bdat(self, line: bytes, rest: bytes, client: str) -> tuple[Bdat | Refused, int, bool]:
        """BDAT: the event, and the size of the chunk that follows in any case, and whether it is the last.

        A size of -1: the session cannot go on.
        """
        settings = self.settings
        if settings.discards("chunking"):
            return refuse(b"BDAT", line, 521, b"5.5.1", b"Error: command not implemented"), -1, False
        words, _ = split(rest)
        size = int(words[0]) if words and words[0].isdigit() and len(words[0]) <= 40 else -1
        last = len(words) == 2
        if not 0 <= size <= _LARGEST or len(words) > 2 or (last and words[1].upper() != b"LAST"):
            warning = f"NOQUEUE: malformed BDAT command syntax from {client}: {printable(line, 100)}"
            reply = Reply(521, b"Syntax: BDAT count [LAST]", b"5.5.4")
            return Refused(reply, b"BDAT", line, warning, hang_up=True), -1, False
        return self._chunk(line, size, last, client), size, last

    def _chunk(self, line: bytes, size: int, last: bool, client: str) -> Bdat | Refused:
        limit = self.settings.size_limit
        if not size and not last:
            reply = Reply(551, b"Null BDAT request", b"5.7.1")
            return Refused(reply, b"BDAT", line, f"NOQUEUE: null BDAT request from {client}")
        if self.chunking is Chunking.FAILED:
            text = b"Discarded %d bytes after earlier error" % size
            return refuse(b"BDAT", line, 551, b"5.0.0", text)
        if self.chunking is Chunking.NONE and not self.recipients:
            return self._no_recipients(b"BDAT", line)
        if limit and self.received > limit - size:
            warning = f"NOQUEUE: BDAT request from {client} exceeds message size limit"
            return Refused(Reply(552, b"Chunk exceeds message size limit", b"5.3.4"), b"BDAT", line, warning)
        return Bdat(size, last, self.chunking is Chunking.NONE)

    def _no_recipients(self, verb: bytes, line: bytes) -> Refused:
        if self.sender is None:
            return refuse(verb, line, 503, b"5.5.1", b"Error: need RCPT command")
        return refuse(verb, line, 554, b"5.5.1", b"Error: no valid recipients")

    def may_skip(self, size: int) -> bool:
        """May a refused chunk of this size be skipped?  Up to 1.5 times the size limit in all."""
        limit = self.settings.size_limit
        return not limit or (self.received + size) * 2 <= limit * 3

    def _utf8_offered(self) -> bool:
        return self.settings.smtputf8 and "smtputf8" not in self.settings.discard

    def _undeclared_utf8(self, address: Address) -> bool:
        return self.settings.strict_smtputf8 and not self.smtputf8 and not address.text.isascii()

    def _require_dsn(self) -> None:
        if "dsn" in self.settings.discard:
            raise Wrong(501, b"5.7.1", b"DSN support is disabled")
