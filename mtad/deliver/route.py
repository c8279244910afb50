"""Where to a recipient's mail goes: a transport and a next hop.

:class:`Router` follows the address classes, ``relayhost`` and its sister by sender, the transports of the
classes, ``transport_maps`` and ``relocated_maps``.  What no table is needed for is answered without waiting.
A table that fails raises :class:`~mtad.errors.TableError`.  With ``verify`` it is the router of address
probes, which have parameters of their own (``address_verify_*``).

Postfix counterpart: ``resolve_addr`` of ``trivial-rewrite(8)``, ``transport(5)``, ``relocated(5)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import DEFAULT, LOCAL, RELAY, VIRTUAL_ALIAS, VIRTUAL_MAILBOX, AddressClasses
from mtad.rewrite.hostnames import valid_domain
from mtad.rewrite.resolve import Resolver, usual_domain
from mtad.tables.maps import Find, Maps
from mtad.tables.table import no_warning

#: Transports whose next hop is a text.
ERROR, RETRY = "error", "retry"
_UNDELIVERABLE = "Address is undeliverable"
_BAD_SYNTAX = "5.1.3 bad address syntax"

#: Routes that are remembered.
_CACHE_LIMIT = 10_000

#: The transport of each class that has one of its own.
_TRANSPORT = {
    LOCAL: "local_transport",
    VIRTUAL_MAILBOX: "virtual_transport",
    RELAY: "relay_transport",
    DEFAULT: "default_transport",
}


@dataclass(frozen=True, slots=True)
class Route:
    """A transport by its name in master.cf, and its next hop as written (for ``error``: the text).

    ``address``: what the recipient's address was resolved to, empty where that changed nothing.  ``local``:
    it is of the class of local domains.
    """

    transport: str
    nexthop: str
    address: bytes = b""
    local: bool = False


class Router:
    """The routing rules of one configuration."""

    def __init__(
        self,
        p: Parameters,
        classes: AddressClasses,
        warn: Callable[[str], None] = no_warning,
        verify: bool = False,
    ) -> None:
        prefix = "address_verify_" if verify else ""

        def maps(name: str) -> Maps:
            return Maps(p[name], p.directory, title=name, warn=warn)

        self._classes = classes
        self._myorigin = p["myorigin"].encode()
        self._resolver = Resolver(Rewriter(p), classes)
        self._warn = warn
        self._names = {kind: prefix + name for kind, name in _TRANSPORT.items()}
        self._relayhost = p[f"{prefix}relayhost"]
        self._delimiter = p["recipient_delimiter"]
        self._utf8 = p.flag("smtputf8_enable")
        self._dash = p.flag("allow_min_user")
        unknown = "User unknown in virtual alias table"
        if not p.flag("show_user_unknown_table_name"):
            unknown = "User unknown"
        self._transports = {kind: split_transport(p[name]) for kind, name in self._names.items()}
        self._transports[VIRTUAL_ALIAS] = Route(ERROR, f"5.1.1 {unknown}")
        self._transport_maps = maps(f"{prefix}transport_maps")
        self._sender_relayhost = maps(f"{prefix}sender_dependent_relayhost_maps")
        self._sender_transport = maps(f"{prefix}sender_dependent_default_transport_maps")
        self._relocated = maps("relocated_maps")
        self._moved = p.flag("relocated_prefix_enable")
        self._null_relayhost = p["empty_address_relayhost_maps_lookup_key"].encode()
        self._null_transport = p["empty_address_default_transport_maps_lookup_key"].encode()
        self._parents = (
            Find.PARENTS
            if "transport_maps" in p.words("parent_domain_matches_subdomains")
            else Find.DOT_PARENTS
        )
        self._fixed = not (
            self._transport_maps or self._sender_relayhost or self._sender_transport or self._relocated
        )
        self._known: dict[bytes, Route] = {}  # by domain, where no table has a say

    def known(self, address: bytes) -> Route | None:
        """The route where it takes no table to tell, else None."""
        if not self._fixed:
            return None
        domain = usual_domain(address)
        if not domain or (address[:1] == b"-" and not self._dash):
            return None
        return self._known.get(domain) or self._learn(domain)

    def _learn(self, domain: bytes) -> Route | None:
        """The route for a domain that was not asked for before."""
        kind = self._classes.known(domain)
        if kind is None or not valid_domain(domain, self._utf8):
            return None
        transport = self._transports[kind]
        nexthop = transport.nexthop
        if not nexthop and kind in (DEFAULT, RELAY):
            nexthop = self._relayhost
        if not transport.transport:
            return None
        route = Route(transport.transport, nexthop or _text(domain), local=kind == LOCAL)
        if len(self._known) >= _CACHE_LIMIT:
            self._known.clear()
        self._known[domain] = route
        return route

    async def resolve(self, sender: bytes, address: bytes) -> Route:
        """The route of ``address`` for mail from ``sender``."""
        found = self.known(address)
        if found is not None:
            return found
        resolution = await self._resolver.resolve_completed(address)
        if resolution.invalid and not resolution.option:
            return Route(ERROR, _BAD_SYNTAX)
        text, domain, kind = resolution.text, resolution.domain, resolution.kind
        route = await self._by_class(sender, kind, _text(domain))
        if not route.transport:
            name = self._names.get(kind, "transport")
            raise TableError(f"parameter {name}: null transport is not allowed")
        if self._transport_maps and kind != VIRTUAL_ALIAS:
            route = await self._override(text, domain, route)
        if self._relocated:
            route = await self._has_moved(text, route)
        if resolution.option:  # tables that fail go before
            return Route(ERROR, _BAD_SYNTAX)
        changed = text if text != address else b""
        return Route(route.transport, route.nexthop, changed, kind == LOCAL)

    async def _by_class(self, sender: bytes, kind: str, domain: str) -> Route:
        """What the class of the domain, and the sender, come to."""
        route = self._transports[kind]
        relay = ""
        if kind == DEFAULT and self._sender_transport:
            value = await self._by_sender(self._sender_transport, sender, self._null_transport)
            route = split_transport(value) if value else route
        if kind in (DEFAULT, RELAY):
            relay = await self._by_sender(self._sender_relayhost, sender, self._null_relayhost)
            relay = relay or self._relayhost
        return Route(route.transport, route.nexthop or relay or domain)

    async def _by_sender(self, maps: Maps, sender: bytes, null_key: bytes) -> str:
        if not maps:
            return ""
        value = await self._find(maps, sender or null_key)
        return "" if value is None or value.upper() == b"DUNNO" else _text(value)

    async def _find(self, maps: Maps, address: bytes) -> bytes | None:
        """What a table says about an address; a key without domain is one of ours."""
        return await maps.find_address(
            address, self._delimiter, self._classes.is_local_domain, self._myorigin
        )

    async def _override(self, address: bytes, domain: bytes, route: Route) -> Route:
        """What ``transport_maps`` says.  An empty field changes nothing, but a transport without next
        hop goes to the recipient's domain."""
        strategy = Find.FULL | Find.NO_EXTENSION | Find.DOMAIN | self._parents
        value = await self._transport_maps.find_address(address, self._delimiter, strategy=strategy)
        if value is None:
            value = await self._transport_maps.lookup(b"*")
        if value is None:
            return route
        found = split_transport(_text(value))
        if not found.transport:
            return Route(route.transport, found.nexthop or route.nexthop)
        usual = _UNDELIVERABLE if found.transport in (ERROR, RETRY) else _text(domain)
        return Route(found.transport, found.nexthop or usual)

    async def _has_moved(self, address: bytes, route: Route) -> Route:
        """What ``relocated_maps`` says."""
        value = await self._find(self._relocated, address)
        if value is None:
            return route
        text = _text(value)
        if self._moved:
            return Route(ERROR, f"5.1.6 User has moved to {text}")
        status, _, rest = text.partition(" ")
        if status.count(".") != 2 or not rest.strip():
            self._warn(f"relocated_maps result must contain RFC 3463 status and text: '{text[:100]}'")
            return Route(ERROR, "5.2.0 Mailbox is unavailable")
        return Route(ERROR, text)


def split_transport(text: str) -> Route:
    """``transport:nexthop``."""
    transport, _, nexthop = text.partition(":")
    return Route(transport, nexthop)


def content_filter(value: str, default_nexthop: str, address: bytes, myhostname: str) -> Route:
    """The route by a content filter ``transport:nexthop``, which overrides all others."""
    route = split_transport(value)
    nexthop = route.nexthop or default_nexthop or _text(address.rpartition(b"@")[2]) or myhostname
    return Route(route.transport, nexthop)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
