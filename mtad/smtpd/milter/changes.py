"""The changes that one filter asks for at the end of a message.

:class:`Changes` carries each out in the :class:`~mtad.smtpd.milter.edits.Draft`.  What the filter may not ask
for raises the error that ``misuse`` makes of it, a packet that can't be read
:class:`~mtad.smtpd.milter.wire.BadPacket`.

Postfix counterpart: the end of ``milter8_event()``, ``cleanup_milter.c``.
"""

from __future__ import annotations

from collections.abc import Callable

from mtad.smtpd.milter import wire
from mtad.smtpd.milter.edits import ADD, DELETE, SENDER, Draft, TooBig

#: Changes that are read, and not carried out, of a message that can't be taken.
_PATIENCE = 1000

#: Number of strings, at least and at most, and what they do.
_ENVELOPE = {
    wire.CHANGE_FROM: (1, 2, SENDER),
    wire.ADD_RCPT: (1, 1, ADD),
    wire.ADD_RCPT_ARGS: (1, 2, ADD),
    wire.DELETE_RCPT: (1, 1, DELETE),
}
_ALL = frozenset((wire.CHANGE_HEADER, wire.INSERT_HEADER, wire.ADD_HEADER, *_ENVELOPE))


class Changes:
    """See the module.  ``spaced``: values of headers come with the space before them."""

    def __init__(self, misuse: Callable[[str], Exception], draft: Draft, spaced: bool) -> None:
        self._misuse = misuse
        self._draft = draft
        self._space = b"" if spaced else b" "
        self._body = ""  # a new body: "begun", "done"
        self._ignored = 0
        self.too_big = False  # what the message would become; nothing more is changed

    async def take(self, code: bytes, data: bytes) -> bool:
        """Carry out a change; False when the packet is none."""
        if code == wire.REPLACE_BODY:
            self._replace(data)
            return True
        try:
            if self._body == "begun":
                self._body = "done"
                self._draft.end_body()
            if code not in _ALL:
                return False
            if self.too_big:
                self._ignore()
            else:
                await self._change(code, data)
        except TooBig:
            self.too_big = True
        return code in _ALL

    async def _change(self, code: bytes, data: bytes) -> None:
        draft = self._draft
        if code in (wire.CHANGE_HEADER, wire.INSERT_HEADER):
            index, data = wire.number(data)
            name, value = wire.strings(data, 2, 2)
            if index >= 1 << 31:
                what = "change" if code == wire.CHANGE_HEADER else "insert"
                raise self._misuse(f"bad {what} header index: {index}")
            text = name + b":" + self._space + value
            if code == wire.INSERT_HEADER:
                await draft.insert_header(index + 1, text)
            elif not name:
                raise self._misuse("null change header name")
            elif value:
                await draft.change_header(index or 1, name, text)
            else:
                draft.delete_header(index or 1, name)
        elif code == wire.ADD_HEADER:
            name, value = wire.strings(data, 2, 2)
            await draft.add_header(name + b":" + self._space + value)
        else:
            least, most, what = _ENVELOPE[code]
            address, *arguments = wire.strings(data, least, most)
            draft.envelope.append((what, address, arguments[0] if arguments else b""))

    def _ignore(self) -> None:
        """The decision is still to come, but not for ever."""
        self._ignored += 1
        if self._ignored > _PATIENCE:
            raise self._misuse("changes without end")

    def _replace(self, data: bytes) -> None:
        if self._body == "done":
            raise self._misuse("body replacement requests can't currently be mixed with other requests")
        if self.too_big:
            self._ignore()
            return
        if not self._body:
            self._body = "begun"
            self._draft.begin_body()
        try:
            self._draft.add_body(data)
        except TooBig:
            self.too_big = True
