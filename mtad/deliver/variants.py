"""What a session's engine is told that depends on the server: its address, or what it may say.

:meth:`Variants.of` gives the settings for one host: keywords of its EHLO reply to pass over
(``smtp_discard_ehlo_keyword_address_maps``), the work-arounds should it be a PIX firewall, and the filter of
its replies.  Where they can't be had it raises :class:`~mtad.deliver.failure.SessionFailure`.

Postfix counterpart: parts of ``smtp_helo``, ``smtp_chat_resp``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mtad.config.lines import tokens
from mtad.config.parameters import Parameters
from mtad.deliver.failure import SessionFailure
from mtad.deliver.nexthop import Host
from mtad.errors import TableError
from mtad.maillog import MailLog, printable
from mtad.tables.maps import Maps
from mtad.wire.client_events import ClientSettings
from mtad.wire.ehlo import discarding

#: Tables that answer at once.
_AT_ONCE = frozenset({"regexp", "pcre", "inline", "static", "texthash", "hash", "btree", "lmdb", "cdb"})


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings for one host; ``discarding``: a line for the log at each EHLO, may be empty."""

    settings: ClientSettings
    discarding: str


class Variants:
    """See the module.  ConfigError for a reply filter that can't be asked in passing."""

    def __init__(self, p: Parameters, log: MailLog) -> None:
        def maps(name: str) -> Maps:
            return Maps(p[name], p.directory, title=name, warn=log.warning)

        self._log = log
        self._discard = p.words("smtp_discard_ehlo_keywords")
        self._discard_maps = maps("smtp_discard_ehlo_keyword_address_maps")
        self._pix = _words(p["smtp_pix_workarounds"])
        self._pix_maps = maps("smtp_pix_workaround_maps")
        self._filter = maps("smtp_reply_filter")
        kinds = {spec.partition(":")[0] for spec in tokens(p["smtp_reply_filter"])}
        if not kinds <= _AT_ONCE:
            raise p.error(
                "smtp_reply_filter", "a table that asks a server", "use a local table, such as pcre:"
            )

    async def of(self, host: Host, settings: ClientSettings, queue_id: str) -> Variant:
        """The settings for this host."""
        address = host.address.encode()
        words = self._discard
        if self._discard_maps:
            value = await self._keywords(host, queue_id)
            words = words if value is None else tuple(_text(value).replace(",", " ").split())
        pix = self._pix
        if self._pix_maps:
            try:
                value = await self._pix_maps.lookup(address)
            except TableError as error:
                self._log.warning(str(error))
                value = None
            pix = pix if value is None else _words(_text(value))
        discard = frozenset(word.lower() for word in words)
        found = replace(settings, discard=discard, pix=pix, reply_filter=self._reply_filter(host))
        return Variant(found, discarding(words))

    async def _keywords(self, host: Host, queue_id: str) -> bytes | None:
        try:
            return await self._discard_maps.lookup(host.address.encode())
        except TableError as error:
            self._log.warning(str(error))
            self._log.warning(f"{queue_id}: {self._discard_maps.title} map lookup error for {host.address}")
            text = f"local data error while talking to {host.pair}"
            raise SessionFailure("4.3.0", text, temporary=True, relay=host.relay) from error

    def _reply_filter(self, host: Host) -> Callable[[bytes], bytes] | None:
        if not self._filter:
            return None

        def replaced(line: bytes) -> bytes:
            if not line:
                return line
            try:
                answer = _at_once(self._filter, line)
            except TableError as error:
                self._log.warning(str(error))
                raise
            if answer is None:
                return line
            said, new = printable(_text(line)), printable(_text(answer))
            self._log.info(f'{host.relay}: replacing server reply "{said}" with "{new}"')
            return answer

        return replaced


def _at_once(maps: Maps, key: bytes) -> bytes | None:
    """The value of a key in tables that never wait."""
    lookup = maps.lookup(key)
    try:
        lookup.send(None)
    except StopIteration as end:
        found: bytes | None = end.value
        return found
    lookup.close()
    raise TableError(f"{maps.title}: the table does not answer at once")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.lower().replace(",", " ").split())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
