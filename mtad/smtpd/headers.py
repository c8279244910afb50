"""The headers of a message on their way into the queue.

:class:`HeaderCleaner` is given each header and gives what is to be kept of it: checked by tables, addresses
completed and mapped, folded, cut at ``header_size_limit``; at the end of the headers it gives those that are
missing.  Errors are in the :class:`~mtad.smtpd.state.MessageState`.

RFC 5322 sections 2.2 and 3.6.  Postfix counterpart: ``cleanup_message.c``, ``cleanup_out_header()``.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from mtad.errors import MtadError
from mtad.maillog import printable
from mtad.mime.checks import name_of
from mtad.mime.date import mail_date
from mtad.mime.events import PRIMARY, Fault, Header
from mtad.mime.folding import folded, limited
from mtad.mime.names import HEADERS, RECIPIENT, RESENT, SENDER
from mtad.mime.phrase import full_name
from mtad.rewrite.mapping import AGAIN
from mtad.smtpd.rules import HEADER_RECIPIENT, HEADER_SENDER, CleanupRules
from mtad.smtpd.state import Error, MessageState
from mtad.wire.tokens import Token, addresses, header_text, parse, quote, scan, written

#: Values whose addresses all are complete, so that rewriting changes nothing: bare, or in <> behind a name.
_WORD = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ADDRESS = _WORD + rb"(?:\." + _WORD + rb")*@[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+"
_NAME = rb"(?:(?:\"[^\"\\\n]*\"|[A-Za-z0-9!#$&'*+/=?^_`{}~\x80-\xff-]+)[ \t\n]+)*"
_ONE = rb"[ \t\n]*(?:" + _ADDRESS + rb"|" + _NAME + rb"<" + _ADDRESS + rb">)[ \t\n]*"
_COMPLETE = re.compile(_ONE + rb"(?:," + _ONE + rb")*")

_ADDRESSES = SENDER | RECIPIENT
_EIGHT_BIT = (b"8bit", b"binary")
_SPACE = b" \t\n\v\f\r"


@dataclass(frozen=True, slots=True)
class Birth:
    """Of what missing headers are made: when the queue id was given, when the transaction began, who sends.

    ``context``: by whose rules addresses are completed, ``local``, ``remote``, or not at all (empty).
    """

    created: float
    arrival: float
    context: str
    full_name: bytes = b""


class HeaderCleaner:
    """See the module."""

    __slots__ = ("_birth", "_resent", "_rules", "_says_requiretls", "_seen", "_state", "hops")

    def __init__(self, rules: CleanupRules, state: MessageState, birth: Birth) -> None:
        self._rules = rules
        self._state = state
        self._birth = birth
        self._seen: set[bytes] = set()
        self._resent = b""
        self._says_requiretls = False
        self.hops = 0

    def at_once(self, header: Header) -> bytes | None:
        """What is kept of a header of the usual form, for which nothing is to be looked up; None for one that
        :meth:`header` has to be asked about."""
        rules = self._rules
        name, text = header.name, header.text
        if name in rules.special or header.kind != PRIMARY or not text.isascii():
            return None
        about = HEADERS.get(name)
        if about is not None:
            if about & _ADDRESSES and not self._is_complete(name, text, about):
                return None
            if name == b"message-id":
                self._note(name, text)
            elif name == b"content-transfer-encoding":
                self._note_encoding(name, text)
            self._seen.add(name)
        if b"\n" in text or len(text) > rules.limits.header_size:
            return limited(text, rules.limits.header_size)
        return text + b"\r\n"

    def _is_complete(self, name: bytes, text: bytes, about: int) -> bool:
        """Whether the addresses of this header stay what they are."""
        if not self._birth.context:
            return True
        place = HEADER_SENDER if about & SENDER else HEADER_RECIPIENT
        if self._rules.rewrites[place] and self._state.mapping:
            return False
        return len(text) <= self._rules.token_limit and _COMPLETE.fullmatch(text, len(name) + 1) is not None

    async def header(self, header: Header) -> bytes:
        """What is kept of a header."""
        rules, state = self._rules, self._state
        if header.name == b"received":
            self.hops += 1
        if not (state.filtering and rules.checks.headers):
            return await self._keep(header)
        try:
            texts = await rules.checks.header(header, state)
        except MtadError as error:
            state.lookup_failed(error, f"{_table(header)} map lookup problem -- {AGAIN}")
            return b""
        out = b""
        if not texts:
            return out
        for text in texts[:-1]:
            out += self._out(text)
        if texts[-1] != header.text:
            header = Header(header.kind, name_of(texts[-1]), texts[-1])
        return out + await self._keep(header)

    async def _keep(self, header: Header) -> bytes:
        state, name, text = self._state, header.name, header.text
        about = HEADERS.get(name)
        if about is None:
            return b"" if name in self._rules.drop and header.kind == PRIMARY else self._out(text)
        if name == b"content-transfer-encoding":
            self._note_encoding(name, text)
        if header.kind != PRIMARY:
            return self._out(text)
        self._note(name, text)
        if not state.going_on:
            return b""
        if about & RESENT:
            self._resent = b"Resent-"
        dropped = name in self._rules.drop
        if about & (SENDER | RECIPIENT) and self._birth.context:
            text, rewritten = await self._addresses(name, text, about)
            if rewritten:
                text = folded(text)
        return b"" if dropped else self._out(text)

    def _out(self, text: bytes) -> bytes:
        if not self._state.going_on:
            return b""
        if not text.isascii() and self._rules.smtputf8 and self._state.detect_utf8:
            self._state.smtputf8 = True
        return limited(text, self._rules.limits.header_size)

    def _note_encoding(self, name: bytes, text: bytes) -> None:
        value = text[len(name) + 1 :].lstrip(_SPACE).lower()
        self._state.eight_bit |= value in _EIGHT_BIT and self._rules.detect_8bit

    def _note(self, name: bytes, text: bytes) -> None:
        """What a known header tells."""
        state = self._state
        self._seen.add(name)
        if name == b"message-id":
            value = text[len(name) + 1 :].lstrip(_SPACE)
            if not state.announced:
                state.log.info(f"{state.queue_id}: message-id={printable(value)}")
            state.message_id = state.message_id or _within_brackets(value)
        elif name == b"resent-message-id":
            value = text[len(name) + 1 :].lstrip(_SPACE)
            state.log.info(f"{state.queue_id}: resent-message-id={printable(value)}")
        elif name == b"received" and self.hops >= self._rules.hopcount_limit:
            state.odd("message rejected: hopcount exceeded")
            state.errors |= Error.HOPS
        elif name in (b"tls-required", b"require-tls-esmtp"):
            self._wish(name, text)

    def _wish(self, name: bytes, text: bytes) -> None:
        """What a header says about TLS on the way (RFC 8689 section 5; Postfix's own)."""
        rules, state = self._rules, self._state
        value = text[len(name) + 1 :].lstrip(_SPACE).lower()
        if name == b"require-tls-esmtp":
            if rules.requiretls_header and value == b"yes":
                state.wishes["requiretls"] = "yes"
                self._says_requiretls = True
        elif rules.tls_required and value == b"no":
            state.wishes["tls_required_no"] = "yes"
        elif rules.tls_required:
            state.log.warning(f"ignoring malformed header: '{printable(text[:100])}'")

    # -- addresses

    async def _addresses(self, name: bytes, text: bytes, about: int) -> tuple[bytes, bool]:
        """A header with its addresses completed and mapped, and whether that changed it."""
        rules, state = self._rules, self._state
        place = HEADER_SENDER if about & SENDER else HEADER_RECIPIENT
        mapped = state.mapping and rules.rewrites[place]
        value = text[len(name) + 1 :]
        if not mapped and len(text) <= rules.token_limit and _COMPLETE.fullmatch(value):
            return text, False
        tokens = parse(value, rules.token_limit)
        changed = False
        for address in addresses(tokens):
            changed |= self._complete(address)
            if mapped:
                changed |= await self._map(address, place)
        if not changed:
            return text, False
        return text[: len(name)] + b": " + header_text(tokens, state.log.warning), True

    def _complete(self, address: Token) -> bool:
        before = written(address)
        after = self._rules.rewriter.rewrite_external(before, self._birth.context == "remote")
        address.parts, address.loose = scan(after), True
        return after != before

    async def _map(self, address: Token, place: str) -> bool:
        rules, state = self._rules, self._state
        before = text = written(address)
        changed = False
        for maps in rules.mapped[place]:
            text, mapped = await rules.mapper.one(maps, text, rules.propagate_canonical, state)
            changed |= mapped
        if place in rules.masked and rules.masquerade is not None:
            masked = await rules.masquerade.apply(text, state)
            changed |= masked != text
            text = masked
        if text != before:
            address.parts, address.loose = scan(text), True
        return changed

    # -- the end of the headers

    def missing(self, faults: Fault) -> bytes:
        """The headers that a complete message has and this one has not."""
        rules, state, birth = self._rules, self._state, self._birth
        if not state.going_on:
            return b""
        complete = bool(birth.context) or rules.always_complete
        resent, of_kind = self._resent, self._resent.lower()
        out = b""
        if complete and of_kind + b"message-id" not in self._seen:
            out += self._make_message_id()
        if b"message-id" not in self._seen:
            state.log.info(f"{state.queue_id}: message-id=<>")
        if complete:
            if of_kind + b"date" not in self._seen:
                out += resent + b"Date: %b\r\n" % mail_date(birth.arrival)
            if of_kind + b"from" not in self._seen:
                out += self._out(folded(self._make_from()))
            if rules.undisclosed and not self._seen & {b"to", b"cc", b"resent-to", b"resent-cc"}:
                out += self._undisclosed()
        if "requiretls" in state.wishes and rules.requiretls_header and not self._says_requiretls:
            out += b"Require-TLS-ESMTP: yes\r\n"  # for the way through a content filter
        if faults & Fault.END_OF_HEADERS and rules.end_of_headers == "add_header":
            out += b"MIME-Error: message header was not terminated by empty line\r\n"
        return out

    def _undisclosed(self) -> bytes:
        text = self._rules.undisclosed
        if self._rules.undisclosed_fits:
            return text + b"\r\n"
        shown = f'bad undisclosed_recipients_header header text "{printable(text)}"'
        self._state.log.warning(f'{shown} -- need "headername: headervalue"')
        return b""

    def _make_message_id(self) -> bytes:
        rules, state = self._rules, self._state
        made = f"{state.queue_id}@{rules.myhostname}"
        if not rules.long_queue_ids:
            made = f"{time.strftime('%Y%m%d%H%M%S', time.gmtime(self._birth.created))}.{made}"
        state.log.info(f"{state.queue_id}: {self._resent.decode().lower()}message-id=<{made}>")
        self._seen.add(self._resent.lower() + b"message-id")
        if not self._resent and not state.message_id:
            state.message_id = f"<{made}>".encode()
        return b"%bMessage-Id: <%b>\r\n" % (self._resent, made.encode())

    def _make_from(self) -> bytes:
        rules, state = self._rules, self._state
        address = quote(state.sender or b"MAILER-DAEMON")
        name = b""
        if state.sender and self._birth.full_name:
            obsolete, charset = rules.obsolete_from, rules.full_name_charset
            name = full_name(self._birth.full_name, charset, comment=obsolete, warn=state.log.warning)
        if not name:
            return self._resent + b"From: " + address
        if rules.obsolete_from:
            return self._resent + b"From: %b\n(%b)" % (address, name)
        return self._resent + b"From: %b\n<%b>" % (name, address)


def _within_brackets(text: bytes) -> bytes:
    """``text`` up to the ``>`` that belongs to the ``<`` at its beginning."""
    level = 0
    for found in re.finditer(rb"[<>]", text if text[:1] == b"<" else b""):
        level += 1 if found[0] == b"<" else -1
        if not level:
            return text[: found.end()]
    return b""


def _table(header: Header) -> str:
    return {PRIMARY: "header_checks", "nested": "nested_header_checks"}.get(header.kind, "mime_header_checks")
