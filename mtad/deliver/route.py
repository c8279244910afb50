"""Where to a recipient's mail goes: a transport and a next hop.

:class:`Router` follows the address classes, ``relayhost`` and its sister by sender, the transports of the
classes, and ``transport_maps``.  What no table is needed for is answered without waiting.  A table that
fails raises :class:`~mtad.errors.TableError`.

Postfix counterpart: ``resolve_addr`` of ``trivial-rewrite(8)``, ``transport(5)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtad.config.parameters import Parameters
from mtad.rewrite.classes import DEFAULT, LOCAL, RELAY, VIRTUAL_ALIAS, VIRTUAL_MAILBOX, AddressClasses
from mtad.tables.maps import Find, Maps
from mtad.tables.table import no_warning

_UNKNOWN_ALIAS = "5.1.1 User unknown in virtual alias table"

#: Routes that are remembered.
_CACHE_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Route:
    """A transport by its name in master.cf, and its next hop as written (for ``error``: the text)."""

    transport: str
    nexthop: str


class Router:
    """The routing rules of one configuration."""

    def __init__(
        self, p: Parameters, classes: AddressClasses, warn: Callable[[str], None] = no_warning
    ) -> None:
        def maps(name: str) -> Maps:
            return Maps(p[name], p.directory, title=name, warn=warn)

        self._classes = classes
        self._relayhost = ", ".join(p.words("relayhost"))
        self._delimiter = p["recipient_delimiter"]
        self._myhostname = p["myhostname"].encode()
        self._transports = {
            LOCAL: _split(p["local_transport"]),
            VIRTUAL_MAILBOX: _split(p["virtual_transport"]),
            VIRTUAL_ALIAS: Route("error", _UNKNOWN_ALIAS),
            RELAY: _split(p["relay_transport"]),
            DEFAULT: _split(p["default_transport"]),
        }
        self._transport_maps = maps("transport_maps")
        self._sender_relayhost = maps("sender_dependent_relayhost_maps")
        self._sender_transport = maps("sender_dependent_default_transport_maps")
        self._null_relayhost = p["empty_address_relayhost_maps_lookup_key"].encode()
        self._null_transport = p["empty_address_default_transport_maps_lookup_key"].encode()
        self._null_recipient = p["empty_address_recipient"].encode()
        self._parents = (
            Find.PARENTS
            if "transport_maps" in p.words("parent_domain_matches_subdomains")
            else Find.DOT_PARENTS
        )
        self._fixed = not (self._transport_maps or self._sender_relayhost or self._sender_transport)
        self._known: dict[bytes, Route] = {}  # by domain, where no table has a say
        self._constant = {kind: self._constant_route(kind) for kind in self._transports}

    def known(self, address: bytes) -> Route | None:
        """The route where it takes no table to tell, else None."""
        if not self._fixed:
            return None
        domain = address[address.rfind(b"@") + 1 :] if b"@" in address else self._myhostname
        route = self._known.get(domain)
        if route is None:
            kind = self._classes.known(domain)
            if kind is None:
                return None
            route = self._constant[kind] or Route(self._transports[kind].transport, _text(domain).lower())
            if len(self._known) >= _CACHE_LIMIT:
                self._known.clear()
            self._known[domain] = route
        return route

    async def resolve(self, sender: bytes, address: bytes) -> Route:
        """The route of ``address`` for mail from ``sender``."""
        found = self.known(address)
        if found is not None:
            return found
        domain = address[address.rfind(b"@") + 1 :] if b"@" in address else self._myhostname
        kind = await self._classes.classify_domain(domain)
        route = self._transports[kind]
        nexthop = route.nexthop
        if kind == DEFAULT and self._sender_transport:
            value = await self._by_sender(self._sender_transport, sender, self._null_transport)
            if value:
                route = _split(value)
                nexthop = route.nexthop
        if not nexthop and kind in (DEFAULT, RELAY):
            value = await self._by_sender(self._sender_relayhost, sender, self._null_relayhost)
            nexthop = value or self._relayhost
        return await self._override(address, domain, route.transport, nexthop or _text(domain).lower())

    def _constant_route(self, kind: str) -> Route | None:
        """The route of a whole class, where it doesn't depend on the domain."""
        route = self._transports[kind]
        if route.nexthop:
            return route
        return (
            Route(route.transport, self._relayhost) if self._relayhost and kind in (DEFAULT, RELAY) else None
        )

    async def _by_sender(self, maps: Maps, sender: bytes, null_key: bytes) -> str:
        if not maps:
            return ""
        value = await maps.find_address(sender or null_key, self._delimiter)
        return "" if value is None or value.upper() == b"DUNNO" else _text(value).strip()

    async def _override(self, address: bytes, domain: bytes, transport: str, nexthop: str) -> Route:
        """What ``transport_maps`` says.  An empty field changes nothing, but a transport without next
        hop goes to the recipient's domain."""
        if self._transport_maps:
            strategy = Find.FULL | Find.NO_EXTENSION | Find.DOMAIN | self._parents
            key = address or self._null_recipient
            value = await self._transport_maps.find_address(key, self._delimiter, strategy=strategy)
            if value is None:
                value = await self._transport_maps.lookup(b"*", fixed_only=True)
            if value is not None:
                found = _split(_text(value).strip())
                if found.transport:
                    return Route(found.transport, found.nexthop or _text(domain).lower())
                return Route(transport, found.nexthop or nexthop)
        return Route(transport, nexthop)


def _split(text: str) -> Route:
    transport, _, nexthop = text.partition(":")
    return Route(transport.strip(), nexthop.strip())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
