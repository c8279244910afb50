"""A DNS lookup as the SMTP server and client make it: checked, and passed through a reply filter.

:class:`Lookup` asks a :class:`~mtad.net.dns.Resolver` and takes no answer as it comes: names in records must
be host names, one empty name of an MX record means that the domain takes no mail (null MX), and records for
which the filter says ``IGNORE`` do not exist.  All raise :class:`~mtad.net.dns.DnsError`; a filter that fails
is a temporary error, one that drops all records is ``DnsStatus.POLICY``.

RFC 1035, RFC 7505 (null MX).  Postfix counterpart: ``dns_lookup_x()``, ``dns_lookup_rl()``,
``dns_rr_filter.c``, ``hostname_to_sockaddr()``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address

from mtad.errors import MtadError
from mtad.net.dns import DnsError, DnsStatus, Resolver, to_ascii, valid_hostname
from mtad.net.dns_message import Record

#: What a record's text is given to; the action for it, or None.
Filter = Callable[[bytes], Awaitable[bytes | None]]

#: The graver status wins where several lookups fail.
_GRAVITY = {
    DnsStatus.NOT_FOUND: 0,
    DnsStatus.NULL_MX: 1,
    DnsStatus.FAILED: 2,
    DnsStatus.MALFORMED: 3,
    DnsStatus.RETRY: 4,
    DnsStatus.POLICY: 5,
}


def is_address(text: str) -> bool:
    """An IPv4 or IPv6 address, bare."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


class Lookup:
    """Lookups with one filter.  ``title`` is the filter's parameter, for the log."""

    def __init__(
        self,
        resolver: Resolver,
        warn: Callable[[str], None],
        info: Callable[[str], None],
        protocols: Sequence[str] = ("ipv4", "ipv6"),
        filter: Filter | None = None,
        title: str = "",
    ) -> None:
        self._resolver = resolver
        self._warn = warn
        self._info = info
        self.protocols = tuple(protocols)
        self._filter = filter
        self._title = title

    async def records(self, name: str, type_: str) -> tuple[Record, ...]:
        """The records of a name and type, at least one."""
        host = to_ascii(name)
        if is_address(host):
            raise DnsError(DnsStatus.NOT_FOUND, f"Name service error for {host}: invalid host or domain name")
        try:
            found = await self._resolver.query(host, type_)
        except DnsError as error:
            if error.text.startswith("Name server loop"):
                self._warn(f"dns_lookup: {error.text}")
            raise
        if type_ in ("MX", "NS", "PTR"):
            found = self._named(host, type_, found)
        if self._filter is not None:
            found = await self._filtered(host, type_, found, self._filter)
        return found

    async def first(
        self, name: str, types: Sequence[str], ending: frozenset[DnsStatus] = frozenset()
    ) -> tuple[Record, ...]:
        """The records of the first type that has some; an error in ``ending`` ends the search, too."""
        worst: DnsError | None = None
        for type_ in types:
            try:
                return await self.records(name, type_)
            except DnsError as error:
                if worst is None or _GRAVITY[error.status] >= _GRAVITY[worst.status]:
                    worst = error
                if error.status in ending and (error.status is not DnsStatus.POLICY or type_ == "MX"):
                    raise
        assert worst is not None
        raise worst

    async def all(self, name: str, types: Sequence[str]) -> tuple[Record, ...]:
        """The records of all types; DnsError, the gravest, where there are none."""
        found: tuple[Record, ...] = ()
        worst: DnsError | None = None
        for type_ in types:
            try:
                found += await self.records(name, type_)
            except DnsError as error:
                if worst is None or _GRAVITY[error.status] >= _GRAVITY[worst.status]:
                    worst = error
        if not found:
            assert worst is not None
            raise worst
        return found

    async def host(self, name: str) -> list[str]:
        """The addresses of a host, as the system finds them (/etc/hosts, then the DNS; no filter)."""
        if is_address(name):
            return [name]
        return await self._resolver.native_addresses(name, self.protocols)

    @property
    def address_types(self) -> tuple[str, ...]:
        """The types of address records by ``inet_protocols``."""
        return tuple({"ipv4": "A", "ipv6": "AAAA"}[protocol] for protocol in self.protocols)

    def _named(self, host: str, type_: str, found: tuple[Record, ...]) -> tuple[Record, ...]:
        """The records whose names are names."""
        good: list[Record] = []
        for record in found:
            name = target(record)
            if not name and type_ == "MX":
                text = f"Domain {host} does not accept mail (nullMX)"
                raise DnsError(DnsStatus.NULL_MX, text, "Host found but no data record of requested type")
            gripe = "numeric" if is_address(name) else "malformed" if not valid_hostname(name) else ""
            if gripe:
                where = f"{gripe} domain name in resource data of {type_} record for {host}"
                self._warn(f"{where}: {name[:100]}")
            if gripe != "malformed":
                good.append(record)
        if not good:
            text = (
                f"Name service error for name={host} type={type_}: Malformed or unexpected name server reply"
            )
            raise DnsError(DnsStatus.MALFORMED, text, "Unknown error 0")
        return tuple(good)

    async def _filtered(
        self, host: str, type_: str, found: tuple[Record, ...], filter: Filter
    ) -> tuple[Record, ...]:
        good: list[Record] = []
        what = f"Error looking up name={host} type={type_}"
        for record in found:
            text = record_text(record)
            try:
                action = await filter(text)
            except MtadError as error:
                self._warn(str(error))
                action = b""
            if action is None:
                good.append(record)
            elif action[:6].upper() == b"IGNORE" and (len(action) == 6 or action[6:7] in b" \t"):
                self._info(f"ignoring DNS RR: {text.decode('utf-8', 'replace')}")
            else:
                if action:
                    shown = action.decode("utf-8", "replace")
                    self._warn(f'{self._title}: unknown DNS filter action: "{shown}"')
                raise DnsError(DnsStatus.RETRY, f"{what}: Invalid DNS reply filter syntax", "Unknown error 0")
        if not good:
            raise DnsError(DnsStatus.POLICY, f"{what}: DNS reply filter drops all results", "Unknown error 0")
        return tuple(good)


def target(record: Record) -> str:
    """The name that an MX, NS or PTR record holds."""
    data = record.data
    name = data[1] if isinstance(data, tuple) and len(data) == 2 else data
    return name if isinstance(name, str) else ""


def text_of(record: Record) -> bytes:
    """A TXT record's strings, joined; bytes that can't be printed are blanks."""
    parts = record.data if isinstance(record.data, tuple) else ()
    joined = b"".join(part for part in parts if isinstance(part, bytes))
    return bytes(byte if 32 <= byte < 127 else 32 for byte in joined)


def record_text(record: Record) -> bytes:
    """A record as the filter sees it: ``name. TTL IN TYPE data``."""
    data = record.data
    if record.type == "TXT":
        shown = text_of(record)
    elif isinstance(data, tuple) and isinstance(data[0], int):
        shown = f"{data[0]} {target(record)}.".encode()
    elif record.type in ("NS", "PTR", "CNAME"):
        shown = f"{target(record)}.".encode()
    elif isinstance(data, str):
        shown = data.encode()
    else:
        shown = b""
    return f"{record.name}. {record.ttl} IN {record.type} ".encode() + shown
