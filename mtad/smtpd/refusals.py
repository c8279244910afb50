"""What becomes of a refusal on its way to the client: a filter, a footer, ``soft_bounce``.

:class:`Refusals` is asked for each 4xx and 5xx reply where one of ``smtpd_reject_filter_maps``,
``smtpd_reject_footer`` and ``smtpd_reject_footer_maps`` is set (``changes``), and always by ``soften``.  The
log has the reply as it was before.

A table that fails counts as one that has nothing to say.  Postfix counterpart: ``smtpd_chat_reply()``,
``smtp_reply_footer.c``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from mtad.config.expand import ExpansionError
from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.maillog import MailLog
from mtad.policy.expansion import Expander
from mtad.policy.request import Request
from mtad.tables.maps import Maps
from mtad.wire.events import Address
from mtad.wire.reply import Reply

_REPLY = re.compile(rb"([45][0-9]{2})[ -](?:([0-9]\.[0-9]{1,3}\.[0-9]{1,3})(?: |$))?(.*)", re.DOTALL)


def soft(reply: Reply) -> Reply:
    """The same, but only for now."""
    if reply.code < 500:
        return reply
    return Reply(reply.code - 100, reply.text, b"4" + reply.dsn[1:] if reply.dsn else b"")


def with_footer(reply: Reply, lines: Sequence[str]) -> Reply:
    """The reply and more lines; the first goes on with the reply's last where it begins with ``\\c``."""
    footer = "\n".join(lines)
    more = footer[2:] if footer.startswith("\\c") else "\n" + footer
    return dataclasses.replace(reply, text=reply.text + more.encode("utf-8", "replace"))


class Refusals:
    """The changes that one service makes."""

    def __init__(self, p: Parameters, log: MailLog) -> None:
        self._log = log
        self._expander = Expander(p, log)
        self._filter = self._maps(p, "smtpd_reject_filter_maps")
        self._footers = self._maps(p, "smtpd_reject_footer_maps")
        self._footer = p["smtpd_reject_footer"]
        self._soft = p.flag("soft_bounce")
        self.changes = bool(self._filter or self._footers or self._footer)

    def _maps(self, p: Parameters, name: str) -> Maps:
        return Maps(p[name], p.directory, title=name, warn=self._log.warning)

    def soften(self, reply: Reply) -> Reply:
        """With ``soft_bounce``, a refusal for now in place of one for good."""
        return soft(reply) if self._soft else reply

    async def changed(self, reply: Reply, request: Request, last: Address | None) -> Reply:
        """The reply that the client gets.  ``last``: the last recipient accepted, for ``$recipient``."""
        if self._filter:
            reply = await self._filtered(reply, request.queue_id or "NOQUEUE")
        footer = await self._found(self._footers, reply)
        text = self._footer if footer is None else footer.decode("utf-8", "replace")
        if not text or reply.code < 400:
            return reply
        before, request.recipient = request.recipient, last
        try:
            lines = [self._expander.expand(line, request) for line in text.split("\\n")]
        except ExpansionError as problem:
            self._log.warning(str(problem))
            return reply
        finally:
            request.recipient = before
        return with_footer(reply, lines)

    async def _found(self, maps: Maps, reply: Reply) -> bytes | None:
        if not maps:
            return None
        try:
            return await maps.lookup(reply.encode()[:-2])
        except TableError as problem:
            for text in (str(problem), *getattr(problem, "__notes__", ())):
                self._log.warning(text)
            return None

    async def _filtered(self, reply: Reply, queue_id: str) -> Reply:
        found = await self._found(self._filter, reply)
        if found is None:
            return reply
        shown = found.decode("utf-8", "replace")
        match = _REPLY.fullmatch(found)
        if match is None or (match[2] and match[2][:1] != found[:1]):
            self._log.warning(f"{queue_id}: ignoring invalid reject filter result: {shown}")
            return reply
        before = reply.encode()[:-2].decode("utf-8", "replace")
        self._log.info(f"{queue_id}: reply filter in: {before}")
        self._log.info(f"{queue_id}: reply filter out: {shown}")
        return Reply(int(match[1]), match[3], match[2] or b"")
