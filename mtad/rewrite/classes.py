"""The address classes: whose domain is it?

:class:`AddressClasses` sorts domains into ``local`` (``mydestination``, and literals of our own addresses),
``virtual_alias``, ``virtual_mailbox``, ``relay`` and ``default``, in this order.  What no table is needed for
is answered at once (:meth:`AddressClasses.known`); a table that fails raises
:class:`~mtad.errors.TableError`.

Postfix counterpart: ``resolve_class()``, ``resolve_local(3)``; ADDRESS_CLASS_README.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from mtad.config.lines import tokens
from mtad.errors import MtadError
from mtad.net.interfaces import own_addresses
from mtad.rewrite.hostnames import literal_address
from mtad.tables import DomainList, StringList
from mtad.tables.network import parse_address
from mtad.tables.source import to_bytes
from mtad.tables.table import fold, no_warning

if TYPE_CHECKING:
    from mtad.config.parameters import Parameters

LOCAL, VIRTUAL_ALIAS, VIRTUAL_MAILBOX = "local", "virtual_alias", "virtual_mailbox"
RELAY, DEFAULT = "relay", "default"


class _Domains:
    """A match list of domains that knows what it can answer at once."""

    def __init__(
        self, p: Parameters, name: str, parent_matches: bool | None, warn: Callable[[str], None]
    ) -> None:
        text = p[name]
        items = tokens(text)
        self.plain = not any(item[0] in "!/#" or (":" in item and item[0] != "[") for item in items)
        self._names = frozenset(fold(to_bytes(item)) for item in items) if self.plain else frozenset()
        self._parents = parent_matches if any(self._names) else None
        self.list = (
            StringList(name, text, p.directory, warn=warn)
            if parent_matches is None
            else DomainList(name, text, p.directory, parent_matches=parent_matches, warn=warn)
        )

    def known(self, name: bytes) -> bool | None:
        """Whether a folded name is in the list; None: a table has to be asked."""
        if not self.plain:
            return None
        if name in self._names:
            return True
        if self._parents is not None:
            dot = name.find(b".", 0 if self._parents else 1)
            while dot >= 0:
                if name[dot + self._parents :] in self._names:
                    return True
                dot = name.find(b".", dot + 1)
        return False


class AddressClasses:
    """The domains of one configuration.

    ``own`` are the host's addresses as text (default: those of ``inet_interfaces``).
    """

    def __init__(
        self,
        p: Parameters,
        *,
        own: Iterable[str] | None = None,
        warn: Callable[[str], None] = no_warning,
    ) -> None:
        parents = {word.lower() for word in p.words("parent_domain_matches_subdomains")}
        self._lists = (
            (LOCAL, _Domains(p, "mydestination", None, warn)),
            (VIRTUAL_ALIAS, _Domains(p, "virtual_alias_domains", None, warn)),
            (VIRTUAL_MAILBOX, _Domains(p, "virtual_mailbox_domains", None, warn)),
            (RELAY, _Domains(p, "relay_domains", "relay_domains" in parents, warn)),
        )
        self._local = self._lists[0][1]
        self._fixed = all(domains.plain for _, domains in self._lists)
        own = own_addresses(p) if own is None else own
        self._own = _numbers(own)
        self._proxied = _numbers(p.words("proxy_interfaces"))

    @property
    def fixed(self) -> bool:
        """Whether no table has a say: a domain's class never changes."""
        return self._fixed

    @property
    def problems(self) -> list[tuple[str, MtadError]]:
        """The tables that can't be opened, each with its parameter."""
        return [
            (domains.list.name, problem) for _, domains in self._lists for problem in domains.list.problems
        ]

    def close(self) -> None:
        """Let go of the tables."""
        for _, domains in self._lists:
            domains.list.close()

    def is_own_address(self, address: str) -> bool:
        """Whether a client's address is one of ours (``inet_interfaces``)."""
        return parse_address(address) in self._own

    def is_own_or_proxied(self, address: str) -> bool:
        """Whether an address leads to us (``inet_interfaces``, ``proxy_interfaces``)."""
        number = parse_address(address)
        return number in self._own or number in self._proxied

    def is_local_domain(self, domain: bytes) -> bool | Awaitable[bool]:
        """Whether mail for ``domain`` is for this host; awaitable where a table has to be asked."""
        name = _name(domain)
        if not name:
            return False
        known = self._local.known(name)
        if known is None:
            return self._ask_local(name)
        return known or self._own_literal(name)

    def known(self, domain: bytes) -> str | None:
        """The class of a domain; None where a table has to be asked."""
        name = _name(domain)
        if not name:
            return DEFAULT
        for kind, domains in self._lists:
            found = domains.known(name)
            if found is None:
                return None
            if found or (kind is LOCAL and self._own_literal(name)):
                return kind
        return DEFAULT

    async def classify_domain(self, domain: bytes) -> str:
        """The class of a domain."""
        found = self.known(domain)
        if found is not None:
            return found
        name = _name(domain)
        for kind, domains in self._lists:
            if await domains.list.matches(name) or (kind is LOCAL and self._own_literal(name)):
                return kind
        return DEFAULT

    async def _ask_local(self, name: bytes) -> bool:
        return await self._local.list.matches(name) or self._own_literal(name)

    def _own_literal(self, name: bytes) -> bool:
        if name[:1] != b"[":
            return False
        bare = literal_address(name)
        if bare is None:
            return False
        number = parse_address(bare.decode("ascii", "replace"))
        return number is not None and (number in self._own or number in self._proxied)


def _name(domain: bytes) -> bytes:
    """The domain folded, without the dot at its end; empty for what can be no domain."""
    name = domain.lower() if domain.isascii() else fold(domain)
    if name[-1:] == b".":
        name = name[:-1]
        if name[-1:] == b".":
            return b""
    return name


def _numbers(addresses: Iterable[str]) -> frozenset[tuple[int, int] | None]:
    return frozenset(number for text in addresses if (number := parse_address(text.strip("[]"))) is not None)
