"""The envelope of a message on its way into the queue: addresses completed, mapped, expanded, copied.

:class:`Envelope` takes the sender, then recipients, in the order in which they came, and gathers what the
queue is to have.  Where no table is set nothing waits.  Errors are in the
:class:`~mtad.smtpd.state.MessageState`.

RFC 3461 section 5.2.7 (aliases of several recipients).  Postfix counterpart: ``cleanup_addr.c``,
``cleanup_out_recipient.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mtad.errors import MtadError
from mtad.queue.message import Recipient
from mtad.rewrite.mapping import AGAIN
from mtad.smtpd.rules import ENVELOPE_RECIPIENT, ENVELOPE_SENDER, CleanupRules
from mtad.tables.table import fold, is_utf8
from mtad.wire.command import orcpt_of, xtext_encode
from mtad.wire.tokens import quote, unquote

if TYPE_CHECKING:
    from mtad.smtpd.state import MessageState
    from mtad.tables.maps import Maps

_NEVER = frozenset((b"NEVER",))
_MAILER_DAEMON = b"MAILER-DAEMON"


class Envelope:
    """See the module.

    ``expanded`` are recipients whose delivery was to be notified, and that were aliases: they have come
    to their end here.
    """

    __slots__ = ("_known", "_rules", "_state", "expanded", "recipients")

    def __init__(self, rules: CleanupRules, state: MessageState) -> None:
        self._rules = rules
        self._state = state
        self._known: set[bytes] = set()
        self.recipients: list[Recipient] = []
        self.expanded: list[Recipient] = []

    async def set_sender(self, text: bytes) -> None:
        """The sender, in internal form."""
        rules, state = self._rules, self._state
        address = rules.rewriter.rewrite_internal(text)
        if fold(address[:14]) == b"mailer-daemon@":
            daemon = rules.rewriter.rewrite_internal(_MAILER_DAEMON)
            if fold(address) == fold(daemon):
                address = b""
        if state.mapping and rules.rewrites[ENVELOPE_SENDER]:
            address = await self._mapped(address, ENVELOPE_SENDER)
        self._note_utf8(address)
        state.sender = address
        if state.copying and address and rules.sender_bcc:
            await self._copy_by(rules.sender_bcc, address)

    async def add(
        self, text: bytes, notify: frozenset[bytes] = frozenset(), orcpt: bytes = b"", original: bytes = b""
    ) -> None:
        """A recipient, in internal form; ``orcpt`` as it was sent, ``original`` what it was before."""
        rules, state = self._rules, self._state
        if not state.going_on:
            return
        address = await self._completed(text or rules.empty_recipient)
        if not orcpt and address:
            orcpt = orcpt_of(address, state.smtputf8)
        await self._out(address, original or text, notify, orcpt)
        state.recipient = address
        if state.copying and address and rules.recipient_bcc:
            await self._copy_by(rules.recipient_bcc, address)

    async def finish(self) -> None:
        """All recipients were added: the copies that the message itself asked for."""
        rules, state = self._rules, self._state
        if state.recipient is None or not state.going_on:
            return
        if state.copying and rules.always_bcc:
            await self.copy(rules.always_bcc)
        for address in state.copies:
            await self.copy(address)

    async def copy(self, text: bytes, notify: frozenset[bytes] = _NEVER, orcpt: bytes = b"") -> None:
        """One more recipient, of whom nobody is told unless ``notify`` says so."""
        address = await self._completed(text)
        if not orcpt and address and notify != _NEVER:
            orcpt = b"rfc822;" + xtext_encode(address)
        await self._out(address, address, notify, orcpt)

    async def _copy_by(self, maps: Maps, address: bytes) -> None:
        rules = self._rules
        try:
            found = await rules.mapper.find(maps, address)
        except MtadError as error:
            self._state.lookup_failed(error, f"{maps.title} map lookup problem -- {AGAIN}")
            return
        if found is not None:
            await self.copy(unquote(found))

    async def _completed(self, text: bytes) -> bytes:
        rules = self._rules
        address = rules.rewriter.rewrite_internal(text)
        if self._state.mapping and rules.rewrites[ENVELOPE_RECIPIENT]:
            address = await self._mapped(address, ENVELOPE_RECIPIENT)
        self._note_utf8(address)
        return address

    async def _mapped(self, address: bytes, place: str) -> bytes:
        """The address by canonical tables and masquerading."""
        rules, state = self._rules, self._state
        text = quote(address)
        for maps in rules.mapped[place]:
            text, _ = await rules.mapper.one(maps, text, rules.propagate_canonical, state)
        if place in rules.masked and rules.masquerade is not None:
            text = await rules.masquerade.apply(text, state)
        return unquote(text)

    async def _out(self, address: bytes, original: bytes, notify: frozenset[bytes], orcpt: bytes) -> None:
        rules, state = self._rules, self._state
        found = [address]
        if state.mapping and rules.virtual:
            limits, propagate = rules.alias_limits, rules.propagate_virtual
            found = await rules.mapper.many(rules.virtual, address, propagate, limits, state)
            if b"SUCCESS" in notify and found != [address]:
                self.expanded.append(Recipient(address, original, notify, orcpt))
                notify = notify - {b"SUCCESS"} or _NEVER
        for each in found:
            if self._is_new(each, original, notify, orcpt):
                self.recipients.append(Recipient(each, original, notify, orcpt))

    def _is_new(self, address: bytes, original: bytes, notify: frozenset[bytes], orcpt: bytes) -> bool:
        rules = self._rules
        key = fold(address)
        if rules.original_recipient:
            key += b"\n%b\n%b\n%b" % (fold(orcpt), b",".join(sorted(notify)), fold(original))
        if key in self._known:
            return False
        if len(self._known) < rules.duplicate_limit or rules.duplicate_limit == 0:
            self._known.add(key)
        return True

    def _note_utf8(self, address: bytes) -> None:
        rules, state = self._rules, self._state
        if not address.isascii() and rules.smtputf8 and state.detect_utf8 and is_utf8(address):
            state.smtputf8 = True
