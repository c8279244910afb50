"""Block lists and lists of good hosts in the DNS: DNSBL and RHSBL, DNSWL and RHSWL.

Each function takes the list as it is written (``zone`` or ``zone=pattern``) and gives what runs; a broken
pattern raises ValueError.  A listing is an A record, by address (reversed) or by domain name, that fits the
pattern; its TXT records are the reason.  Answers, failures too, are kept for the session.  A list that
doesn't answer blocks nobody; where mail was to pass because of one, a later refusal becomes temporary.

RFC 5782.  Postfix counterpart: ``find_dnsxl_addr()``, ``find_dnsxl_domain()``, ``rbl_reject_reply()`` in
``smtpd_check.c``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from mtad.config.expand import ExpansionError
from mtad.errors import MtadError
from mtad.maillog import printable
from mtad.net.dns import DnsError, DnsStatus, to_ascii, valid_hostname
from mtad.net.lookup import text_of
from mtad.policy import dsn
from mtad.policy.check import (
    CLIENT,
    DUNNO,
    HELO,
    RECIPIENT,
    REVERSE_CLIENT,
    SENDER,
    Check,
    Run,
    Scope,
)
from mtad.policy.reply_pattern import Pattern, matches, parse
from mtad.policy.request import RCPT, Request
from mtad.policy.restrictions_address import is_authorized
from mtad.wire.events import Address

#: Longest text of TXT records in a reply.
_REASON_LIMIT = 500
#: Answers that are kept in a session.
_KNOWN_LIMIT = 100
_REPLY = re.compile(rb"([45][0-9]{2}) ")


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list has: addresses, and the reason.  ``failed``: the list didn't answer."""

    addresses: tuple[str, ...] = ()
    reason: bytes = b""
    failed: bool = False


NOTHING, FAILED = Listing(), Listing(failed=True)


class DnsList:
    """A list as it is written: the zone, and the pattern of addresses that count."""

    __slots__ = ("pattern", "text", "zone")

    def __init__(self, text: str) -> None:
        self.text = text
        self.zone, equals, pattern = text.partition("=")
        self.pattern: Pattern | None = parse(pattern) if equals else None

    async def by_address(self, check: Check, address: str) -> Listing:
        """What the list has of an address."""
        try:
            reversed_ = ip_address(address).reverse_pointer
        except ValueError:  # a client whose address is not known
            reversed_ = f"{address}."
        return await self._ask(check, reversed_.removesuffix("in-addr.arpa").removesuffix("ip6.arpa"))

    async def by_domain(self, check: Check, what: bytes) -> Listing:
        """What the list has of a domain, or of that of a mail address.

        Names that end in a number are not asked for.
        """
        domain = what.rpartition(b"@")[2]
        if not domain or (domain[:1] == b"[" and b"@" in what) or domain.rpartition(b".")[2].isdigit():
            return NOTHING
        name = to_ascii(domain.decode("utf-8", "replace"))
        if not valid_hostname(name):
            return NOTHING
        return await self._ask(check, f"{name}.")

    async def _ask(self, check: Check, prefix: str) -> Listing:
        query = prefix + self.zone
        known = check.request.listings
        found = known.get(query)
        if found is None:
            if len(known) >= _KNOWN_LIMIT:
                known.clear()
            found = known[query] = await _look_up(check, query)
        if self.pattern is not None and not found.failed:
            pattern = self.pattern
            if not any(matches(pattern, address) for address in found.addresses):
                return NOTHING
        if found.addresses:
            check.found("dns", f"{query} A".encode(), " ".join(found.addresses).encode())
        return found


async def _look_up(check: Check, query: str) -> Listing:
    lookup = check.lookup
    try:
        records = await lookup.records(query, "A")
    except DnsError as error:
        if error.status is DnsStatus.NOT_FOUND:
            return NOTHING
        check.setup.log.warning(f"{query}: RBL lookup error: {error.text}")
        return FAILED
    addresses = tuple(record.data for record in records if isinstance(record.data, str))
    try:
        texts = [text_of(record) for record in await lookup.records(query, "TXT")]
    except DnsError as error:
        if error.status is DnsStatus.POLICY:
            text = "TXT lookup error: DNS reply filter drops all results"
            check.setup.log.warning(f"{query}: {text}")
        texts = []
    return Listing(addresses, _joined(texts))


def _joined(texts: list[bytes]) -> bytes:
    """Texts one after the other, as far as there is room."""
    joined = b""
    for nth, text in enumerate(texts, 1):
        joined += text[: _REASON_LIMIT - len(joined)]
        if nth < len(texts) and _REASON_LIMIT - len(joined) > 3:
            joined += b" / "
    return joined


# -- restrictions


def reject_rbl_client(text: str) -> Run:
    listed = DnsList(text)

    async def run(check: Check, scope: Scope) -> int:
        address = check.request.client_address
        found = await listed.by_address(check, address)
        if not found.addresses:
            return DUNNO
        return await _refuse(check, listed, found, address.encode(), CLIENT)

    return run


def permit_dnswl_client(text: str) -> Run:
    listed = DnsList(text)

    async def run(check: Check, scope: Scope) -> int:
        if not await _may_permit(check):
            return DUNNO
        address = check.request.client_address
        found = await listed.by_address(check, address)
        return await _permit(check, found, address.encode(), "permit_dnswl_client")

    return run


def permit_rhswl_client(text: str) -> Run:
    listed = DnsList(text)

    async def run(check: Check, scope: Scope) -> int:
        name = _client(check.request)
        if name is None or not await _may_permit(check):
            return DUNNO
        found = await listed.by_domain(check, name)
        return await _permit(check, found, name, "permit_rhswl_client")

    return run


def _client(request: Request) -> bytes | None:
    name = request.client_name
    return None if name.lower() == "unknown" else name.encode()


def _reverse_client(request: Request) -> bytes | None:
    name = request.reverse_name
    return None if name.lower() == "unknown" else name.encode()


def _text(address: Address | None) -> bytes:
    return b"" if address is None else address.text


def _rhsbl(kind: str, subject: Callable[[Request], bytes | None]) -> Callable[[str], Run]:
    def restriction(text: str) -> Run:
        listed = DnsList(text)

        async def run(check: Check, scope: Scope) -> int:
            what = subject(check.request)
            if not what:
                return DUNNO
            found = await listed.by_domain(check, what)
            return await _refuse(check, listed, found, what, kind) if found.addresses else DUNNO

        return run

    return restriction


reject_rhsbl_client = _rhsbl(CLIENT, _client)
reject_rhsbl_reverse_client = _rhsbl(REVERSE_CLIENT, _reverse_client)
reject_rhsbl_helo = _rhsbl(HELO, lambda request: request.helo)
reject_rhsbl_sender = _rhsbl(SENDER, lambda request: _text(request.sender))
reject_rhsbl_recipient = _rhsbl(RECIPIENT, lambda request: _text(request.recipient))


async def _may_permit(check: Check) -> bool:
    """A list of good hosts opens no relay."""
    request = check.request
    return request.state != RCPT or request.recipient is None or await is_authorized(check, request.recipient)


async def _permit(check: Check, found: Listing, what: bytes, action: str) -> int:
    if found.failed:
        text = b"<%b>: %b rejected: Service unavailable" % (what, CLIENT.encode())
        return check.hold_reject(450, b"4.7.1", text)
    return await check.permit_client(action) if found.addresses else DUNNO


# -- the reply


async def _refuse(check: Check, listed: DnsList, found: Listing, what: bytes, kind: str) -> int:
    """Refuse in the words of ``rbl_reply_maps``, or else of ``default_rbl_reply``."""
    setup = check.setup
    names = {
        "rbl_code": str(setup.codes["maps_rbl_reject_code"]),
        "rbl_domain": listed.zone,
        "rbl_reason": found.reason.decode("ascii"),
        "rbl_txt": found.reason.decode("ascii"),
        "rbl_what": what.decode("utf-8", "replace"),
        "rbl_class": kind,
    }
    template = await _template(check, listed)
    if template is not None:
        try:
            return _reply(check, setup.expander.expand(template, check.request, names, strict=True), kind)
        except ExpansionError:
            text = f"bad rbl reply template for domain {listed.text}: {printable(template)}"
            setup.log.warning(f"rbl_reject_reply: {text}")
    try:
        text = setup.expander.expand(setup.rbl_reply, check.request, names, strict=True)
    except ExpansionError:
        check.misconfigured(f"rbl_reject_reply: bad default rbl reply template: {setup.rbl_reply}")
    return _reply(check, text, kind)


async def _template(check: Check, listed: DnsList) -> str | None:
    maps = check.setup.rbl_replies
    for name in dict.fromkeys((listed.text, listed.zone)) if maps else ():
        try:
            value = await maps.lookup(name.encode())
        except MtadError as error:
            check.log_failure(error)
            check.misconfigured()
        if value is not None:
            check.found(maps.title, name.encode(), value)
            return value.decode("utf-8", "surrogateescape")
    return None


def _reply(check: Check, text: str, kind: str) -> int:
    said = text.encode("utf-8", "surrogateescape")
    match = _REPLY.match(said)
    if match is None:
        check.setup.log.warning(f"rbl response code configuration error: {printable(said)}")
        return check.reject(450, b"4.7.1", b"Service unavailable")
    status, rest = dsn.split(b"4.7.1", said[4:])
    status = dsn.fit(status, kind, check.setup.log)
    return check.reject(int(match[1]), status, rest or b"Service unavailable")
