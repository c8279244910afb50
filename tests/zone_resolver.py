"""A resolver that answers from zone data in the form of :mod:`oracle.names`, at once and without network."""

from __future__ import annotations

from collections.abc import Sequence

from oracle.names import Zone, answer

from mtad.net.dns import DnsError, DnsStatus
from mtad.net.dns_message import MessageError, Record, decode, encode_query

_FAILURES = {
    2: (DnsStatus.RETRY, "Host not found, try again"),
    3: (DnsStatus.NOT_FOUND, "Host not found"),
    5: (DnsStatus.RETRY, "Host not found, try again"),
}
_NO_DATA = "Host found but no data record of requested type"
_GAI = {
    "Host not found, try again": "Temporary failure in name resolution",
    _NO_DATA: "No address associated with hostname",
}


class ZoneResolver:
    """What restrictions use of :class:`~mtad.net.dns.Resolver`."""

    def __init__(self, text: str) -> None:
        self.zone = Zone.parse(text)
        self.queries: list[tuple[str, str]] = []

    async def query(self, name: str, type_: str) -> tuple[Record, ...]:
        try:
            asked = encode_query(1, name, type_)
        except MessageError:
            raise _failed(DnsStatus.NOT_FOUND, name, type_, "Host not found") from None
        self.queries.append((name, type_))
        reply = answer(self.zone, asked, True)[2]
        if not reply:
            raise _failed(DnsStatus.RETRY, name, type_, "Host not found, try again")
        message = decode(reply)
        found = tuple(record for record in message.answers if record.type == type_)
        if message.rcode:
            status, reason = _FAILURES[message.rcode]
            raise _failed(status, name, type_, reason)
        if not found:
            raise _failed(DnsStatus.NOT_FOUND, name, type_, _NO_DATA)
        return found

    async def native_addresses(self, host: str, protocols: Sequence[str] = ("ipv4", "ipv6")) -> list[str]:
        found: list[str] = []
        worst: DnsError | None = None
        for protocol in protocols:
            try:
                records = await self.query(host, {"ipv4": "A", "ipv6": "AAAA"}[protocol])
                found += [record.data for record in records if isinstance(record.data, str)]
            except DnsError as error:
                worst = error
        if not found and worst is not None:
            reason = _GAI.get(worst.reason, "Name or service not known")
            raise DnsError(worst.status, f"unable to look up host {host}: {reason}", reason)
        return found


def _failed(status: DnsStatus, name: str, type_: str, reason: str) -> DnsError:
    text = f"Host or domain name not found. Name service error for name={name} type={type_}: {reason}"
    return DnsError(status, text, reason)
