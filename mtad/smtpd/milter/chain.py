"""All filters of one session, in their order: the first that says anything but go on ends an event.

Macros are looked up once an event, by the function that the session gives; a filter that has asked for
macros of its own gets those.

Postfix counterpart: ``milter.c``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mtad.maillog import MailLog
from mtad.smtpd.milter import wire
from mtad.smtpd.milter.client import Milter, Response
from mtad.smtpd.milter.edits import Draft
from mtad.smtpd.milter.specs import Filter, Filters
from mtad.smtpd.milter.wire import Event

#: The value of the macro ``{name}``, or None where there is none.
Lookup = Callable[[str], Awaitable[bytes | None]]


class Chain:
    """See the module."""

    def __init__(
        self,
        filters: Filters,
        specs: Sequence[Filter],
        reactor: Any,
        log: MailLog,
        lookup: Lookup,
        *,
        soft_bounce: bool,
    ) -> None:
        self._filters = filters
        self._lookup = lookup
        self._milters = [Milter(spec, reactor, log, soft_bounce=soft_bounce) for spec in specs]
        self._known: dict[str, bytes] = {}  # macros of the event in hand, by stage

    async def connect(self, name: str, address: str, port: str) -> Response | None:
        """A client has come."""
        shown = f"[{address}]" if name == "unknown" and address != "unknown" else name
        family = b"6" if ":" in address else b"4"
        number = int(port) if port.isdigit() and int(port) < 65536 else 0
        data = wire.terminated(shown.encode()) + family + number.to_bytes(2, "big")
        data += wire.terminated(address.encode())
        self._known.clear()
        for milter in self._milters:
            response = await milter.connected(data, self._macros(milter))
            if response is not None:
                return response
        return None

    async def helo(self, name: bytes) -> Response | None:
        """HELO or EHLO."""
        return await self._tell(wire.HELO, wire.terminated(name))

    async def mail(self, words: Sequence[bytes]) -> Response | None:
        """MAIL: the address as the client gave it, and its parameters."""
        return await self._tell(wire.MAIL, wire.terminated(*words))

    async def rcpt(self, words: Sequence[bytes], *, rejected: bool) -> Response | None:
        """RCPT; ``rejected``: we have refused it, which only those who want to know are told."""
        return await self._tell(wire.RCPT, wire.terminated(*words), rejected)

    async def data(self) -> Response | None:
        """DATA, or the first BDAT."""
        return await self._tell(wire.DATA, b"")

    async def unknown(self, line: bytes) -> Response | None:
        """A command that we don't know."""
        return await self._tell(wire.UNKNOWN, wire.terminated(line))

    def other(self) -> Response | None:
        """What is to be said to any other command: a refusal of the connection stays."""
        for milter in self._milters:
            response = milter.other()
            if response is not None:
                return response
        return None

    async def message(self, draft: Draft, log: MailLog) -> Response | None:
        """Show the message to all filters; each sees what those before it have changed."""
        self._known.clear()
        for milter in self._milters:
            response = await milter.message(draft, self._macros(milter), log)
            if response is not None:
                return response
        return None

    def abort(self) -> None:
        """The transaction is over."""
        for milter in self._milters:
            milter.abort()

    def quit(self) -> None:
        """The client has gone."""
        for milter in self._milters:
            milter.quit()

    # -- inside

    async def _tell(self, event: Event, data: bytes, rejected: bool = False) -> Response | None:
        self._known.clear()
        for milter in self._milters:
            if rejected and not milter.wants_rejected:
                continue
            response = await milter.tell(event, data, self._macros(milter))
            if response is not None:
                return response
        return None

    def _macros(self, milter: Milter) -> Callable[[str], Awaitable[bytes]]:
        async def values(stage: str) -> bytes:
            names = milter.macro_names(stage)
            if names is not None:
                return await self._values(names)
            known = self._known.get(stage)
            if known is None:
                known = self._known[stage] = await self._values(self._filters.macros.get(stage, ()))
            return known

        return values

    async def _values(self, names: Sequence[str]) -> bytes:
        found: list[bytes] = []
        for name in names:
            key = name if name.startswith("{") else f"{{{name}}}"
            value = self._system(key)
            if value is None:
                value = await self._lookup(key)
            if value is None:
                value = self._filters.macro_defaults.get(key)
            if value is not None:
                found += (name.encode(), value)
        return wire.terminated(*found)

    def _system(self, key: str) -> bytes | None:
        if key == "{daemon_name}":
            return self._filters.daemon_name
        return self._filters.version_text if key == "{v}" else None
