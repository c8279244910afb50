"""The DNS as the SMTP client of one transport sees it.

:class:`Names` is what a :class:`~mtad.deliver.nexthop.HostFinder` asks: mail exchangers, hosts of a service,
addresses.  :class:`ClientNames` is a resolver by the rules of one transport: ``smtp_host_lookup``,
``smtp_dns_support_level``, ``smtp_dns_reply_filter``, ``smtp_dns_resolver_options``.  It raises
:class:`~mtad.net.dns.DnsError`.

Postfix counterpart: ``dns_lookup(3)`` with ``smtp_dns_res_opt`` and ``dns_rr_filter_maps``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mtad.config.parameters import Parameters
from mtad.maillog import MailLog
from mtad.net.dns import DnsError, DnsStatus, Resolver
from mtad.net.interfaces import protocols
from mtad.net.lookup import Lookup, is_address, target
from mtad.tables.maps import Maps

#: priority, weight, port, name
Srv = tuple[int, int, int, str]


DISABLED, ENABLED, DNSSEC = "disabled", "enabled", "dnssec"


def dns_support(p: Parameters) -> str:
    """``smtp_dns_support_level``; where that is empty, what ``disable_dns_lookups`` comes to."""
    level = p.choice("smtp_dns_support_level")
    return level or (DISABLED if p.flag("disable_dns_lookups") else ENABLED)


class Names(Protocol):
    """See :class:`~mtad.net.dns.Resolver`."""

    async def mx(self, domain: str) -> list[tuple[int, str]]: ...

    async def srv(self, name: str) -> list[Srv]: ...

    async def addresses(self, host: str, protocols: Sequence[str] = ...) -> list[str]: ...

    async def canonical(self, host: str) -> str: ...


class ClientNames:
    """See the module."""

    def __init__(self, p: Parameters, resolver: Resolver, log: MailLog) -> None:
        title = "smtp_dns_reply_filter"
        self._maps = Maps(p[title], p.directory, title=title, warn=log.warning)
        self._resolver = resolver
        reply_filter = self._maps.lookup if self._maps else None
        self._lookup = Lookup(resolver, log.warning, log.info, protocols(p), reply_filter, title)
        self._options = frozenset(word.lower() for word in p.words("smtp_dns_resolver_options"))
        self._ways = ("native",) if dns_support(p) == DISABLED else p.words("smtp_host_lookup")

    async def mx(self, domain: str) -> list[tuple[int, str]]:
        """The mail exchangers; none where there is no MX record."""
        try:
            records = await self._lookup.records(domain, "MX")
        except DnsError as error:
            if error.status is DnsStatus.NOT_FOUND:
                return []
            raise
        found: list[tuple[int, str]] = []
        for record in records:
            data = record.data
            if isinstance(data, tuple) and isinstance(data[0], int):
                found.append((data[0], target(record)))
        return sorted(found, key=lambda pair: pair[0])

    async def srv(self, name: str) -> list[Srv]:
        """The hosts of a service.  The filter knows nothing of their records."""
        return await self._resolver.srv(name)

    async def addresses(self, host: str, protocols: Sequence[str] = ("ipv4", "ipv6")) -> list[str]:
        """The addresses of a host."""
        names = [host]
        if self._options and "." not in host:
            names = [*(f"{host}.{domain}" for domain in self._search()), host]
        failure: DnsError | None = None
        for name in names:
            try:
                return await self._of_one(name, protocols)
            except DnsError as error:
                if failure is None or error.dsn.startswith("4"):
                    failure = error
        assert failure is not None
        raise failure

    async def canonical(self, host: str) -> str:
        """The name that the CNAMEs of a host lead to."""
        return await self._resolver.canonical(host)

    async def _of_one(self, host: str, protocols: Sequence[str]) -> list[str]:
        if not self._maps or "dns" not in self._ways or is_address(host):
            return await self._resolver.addresses(host, protocols, self._ways)
        try:
            records = await self._lookup.all(host, self._lookup.address_types)
        except DnsError as error:
            if error.status is not DnsStatus.NOT_FOUND or "native" not in self._ways:
                raise
            return await self._resolver.native_addresses(host, protocols)
        return [record.data for record in records if isinstance(record.data, str)]

    def _search(self) -> Sequence[str]:
        """The domains that complete a name: all of resolv.conf's with ``res_dnsrch``, else the first."""
        found = self._resolver.search
        return found if "res_dnsrch" in self._options else found[:1]
