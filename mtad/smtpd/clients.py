"""What a service grants to some clients and not to others: the engine's settings, client by client.

:class:`ClientRules` knows the lists ``smtpd_authorized_xclient_hosts``, ``_xforward_hosts`` and
``_verp_clients``, ``smtpd_forbid_bare_newline_exclusions`` and ``smtpd_discard_ehlo_keyword_address_maps``.
Each combination that occurs has one :class:`~mtad.wire.settings.ServerSettings`, shared by its clients.

A list that cannot be read grants nothing, and the log says so.  Postfix counterpart: ``smtpd_service()``,
``ehlo_cmd()``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.maillog import MailLog
from mtad.tables.maps import Maps
from mtad.tables.match import AddressList
from mtad.wire.settings import ServerSettings


def keywords(text: str) -> frozenset[str]:
    """The EHLO keywords that ``text`` names, in lower case."""
    return frozenset(word.lower() for word in text.replace(",", " ").split())


class ClientRules:
    """The lists of one service."""

    def __init__(self, p: Parameters, log: MailLog, usual: ServerSettings) -> None:
        self._log = log
        self._usual = usual
        self._variants: dict[tuple[Any, ...], ServerSettings] = {}
        self._delimiters = p["default_verp_delimiters"].encode()
        self._xclient = self._list(p, "smtpd_authorized_xclient_hosts")
        self._xforward = self._list(p, "smtpd_authorized_xforward_hosts")
        self._verp = self._list(p, "smtpd_authorized_verp_clients")
        self._lenient = self._list(p, "smtpd_forbid_bare_newline_exclusions")
        name = "smtpd_discard_ehlo_keyword_address_maps"
        self._discard = Maps(p[name], p.directory, title=name, warn=log.warning)

    def _list(self, p: Parameters, name: str) -> AddressList:
        return AddressList(name, p[name], p.directory, warn=self._log.warning)

    async def settings(self, address: str, name: str, before: ServerSettings | None = None) -> ServerSettings:
        """For a client; ``before``: those of the client that has called itself this one by XCLIENT."""
        usual = self._usual
        lenient = usual.bare_newline != "no" and await self._in(self._lenient, address, name)
        xclient = await self._in(self._xclient, address, name)
        xforward = before.xforward if before else await self._in(self._xforward, address, name)
        verp = await self._in(self._verp, address, name)
        discard = await self._discarded(address) if self._discard else None
        if not (lenient or xclient or xforward or verp) and discard is None:
            return usual
        key = (lenient, xclient, xforward, verp, discard)
        variant = self._variants.get(key)
        if variant is None:
            variant = self._variants[key] = dataclasses.replace(
                usual,
                bare_newline="no" if lenient else usual.bare_newline,
                xclient=xclient,
                xforward=xforward,
                verp_delimiters=self._delimiters if verp else b"",
                discard=usual.discard if discard is None else discard,
            )
        return variant

    async def _in(self, clients: AddressList, address: str, name: str) -> bool:
        if not clients:
            return False
        try:
            return await clients.matches(address, name)
        except TableError as problem:
            self._log.warning(str(problem))
            return False

    async def _discarded(self, address: str) -> frozenset[str] | None:
        try:
            found = await self._discard.lookup(address.encode())
        except TableError as problem:
            self._log.warning(str(problem))
            return None
        return None if found is None else keywords(found.decode("utf-8", "replace"))
