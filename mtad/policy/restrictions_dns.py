"""Restrictions that ask the DNS about a host name, a HELO name or the domain of an address.

``reject_unknown_*``: there must be such a host or mail domain.  ``check_*_{a,mx,ns}_access``: access(5)
tables for the hosts, mail servers and name servers behind a name, by their names and addresses; ``OK`` is
not for them.  ``permit_mx_backup``: we are a backup mail server.  What the DNS can't tell now is no reason
to refuse for good: see :class:`~mtad.policy.check.Check` for what is kept in mind instead.

Postfix counterpart: ``reject_unknown_hostname()``, ``reject_unknown_mailhost()``, ``check_server_access()``,
``permit_mx_backup()`` in ``smtpd_check.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mtad.errors import MtadError
from mtad.maillog import printable
from mtad.net.dns import DnsError, DnsStatus, to_ascii
from mtad.net.dns_message import Record
from mtad.net.lookup import is_address, target
from mtad.policy.access import AccessTable, find_address, find_domain
from mtad.policy.check import (
    CLIENT,
    DUNNO,
    HELO,
    OK,
    RECIPIENT,
    REVERSE_CLIENT,
    SENDER,
    Check,
    Run,
    Scope,
)
from mtad.policy.request import Request
from mtad.policy.restrictions_address import invalid_literal
from mtad.rewrite.classes import DEFAULT, RELAY
from mtad.rewrite.hostnames import mailhost_address
from mtad.wire.events import Address

#: Most addresses of servers that are looked at (Postfix's ``dns_rr_list_limit``).
_ADDRESS_LIMIT = 100
_MAILHOST_END = frozenset((DnsStatus.MALFORMED, DnsStatus.NULL_MX, DnsStatus.POLICY))
_FILTERED = "DNS reply filter drops all results"


# -- unknown names


async def reject_unknown_helo_hostname(check: Check, scope: Scope) -> int:
    helo = check.request.helo
    if not helo:
        return DUNNO
    if helo[:1] == b"[":
        return invalid_literal(check, helo)
    name = helo.decode("utf-8", "replace")
    try:
        _tell(check, name, await check.lookup.first(name, ("A", "AAAA", "MX")))
    except DnsError as error:
        check.found("dns", helo + b" A, AAAA, MX", error.text.encode())
        if error.status is DnsStatus.NULL_MX:
            return DUNNO
        if error.status is DnsStatus.POLICY:
            check.setup.log.warning(f"{printable(helo)}: address or MX lookup error: {_FILTERED}")
            return DUNNO
        said = b"<%b>: %b rejected: %b" % (helo, HELO.encode(), _problem(error, b"Host not found"))
        if error.temporary:
            return check.temporary("unknown_helo_hostname_tempfail_action", b"4.7.1", said)
        return check.reject(check.setup.codes["unknown_hostname_reject_code"], b"4.7.1", said)
    return DUNNO


async def reject_unknown_sender_domain(check: Check, scope: Scope) -> int:
    sender = check.request.sender
    return await _mail_domain(check, sender, SENDER) if sender is not None and sender.text else DUNNO


async def reject_unknown_recipient_domain(check: Check, scope: Scope) -> int:
    recipient = check.request.recipient
    return await _mail_domain(check, recipient, RECIPIENT) if recipient is not None else DUNNO


async def _mail_domain(check: Check, address: Address, kind: str) -> int:
    """The domain of an address has a mail server."""
    found = await check.resolve(address)
    domain = found.domain
    if found.kind not in (DEFAULT, RELAY) or (domain[:1] == b"[" and domain[-1:] == b"]"):
        return DUNNO
    name = to_ascii(domain.decode("utf-8", "replace"))
    try:
        _tell(check, name, await check.lookup.first(name, ("MX", "A", "AAAA"), _MAILHOST_END))
    except DnsError as error:
        check.found("dns", f"{name} MX, A, AAAA".encode(), error.text.encode())
        return _bad_mail_domain(check, error, name, address.text, kind)
    return DUNNO


def _bad_mail_domain(check: Check, error: DnsError, name: str, address: bytes, kind: str) -> int:
    status = error.status
    if status is DnsStatus.POLICY:
        check.setup.log.warning(f"{name}: MX or address lookup error: {_FILTERED}")
        return DUNNO
    start = b"<%b>: %b rejected: " % (address, kind.encode())
    if status is DnsStatus.NULL_MX:  # RFC 7505 section 4
        text = start + f"Domain {name} does not accept mail (nullMX)".encode()
        return check.reject(550, b"4.7.27", text) if kind is SENDER else check.reject(556, b"4.1.10", text)
    dsn = b"4.1.8" if kind is SENDER else b"4.1.2"
    text = start + _problem(error, b"Domain not found")
    if error.temporary:
        return check.temporary("unknown_address_tempfail_action", dsn, text)
    return check.reject(check.setup.codes["unknown_address_reject_code"], dsn, text)


def _tell(check: Check, name: str, records: Sequence[Record]) -> None:
    """Tell the trace which records there are."""
    if check.trace is not None and records:
        found = " ".join(target(record) or str(record.data) for record in records)
        check.found("dns", f"{name} {records[0].type}".encode(), found.encode())


def _problem(error: DnsError, usual: bytes) -> bytes:
    return b"Malformed DNS server reply" if error.status is DnsStatus.MALFORMED else usual


# -- access by servers


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a ``check_*_{a,mx,ns}_access`` is about: its class, what to look up, and what to show."""

    kind: str
    name: Callable[[Request], bytes]  # empty: nothing to check
    shown: Callable[[Request], bytes]


def _known(name: str) -> bytes:
    return b"" if name.lower() == "unknown" else name.encode()


def _text(address: Address | None) -> bytes:
    return b"" if address is None else address.text


_SUBJECTS = {
    "client": _Subject(CLIENT, lambda r: _known(r.client_name), lambda r: r.client.encode()),
    "reverse_client_hostname": _Subject(
        REVERSE_CLIENT, lambda r: _known(r.reverse_name), lambda r: r.reverse_name.encode()
    ),
    "helo": _Subject(HELO, lambda r: r.helo, lambda r: r.helo),
    "sender": _Subject(SENDER, lambda r: _text(r.sender), lambda r: _text(r.sender)),
    "recipient": _Subject(RECIPIENT, lambda r: _text(r.recipient), lambda r: _text(r.recipient)),
}


def server_access(what: str, type_: str) -> Callable[[AccessTable], Run]:
    """``check_<what>_<type_>_access``."""
    subject = _SUBJECTS[what]
    restriction = f"check_{what}_{type_.lower()}_access"

    def with_table(table: AccessTable) -> Run:
        async def run(check: Check, scope: Scope) -> int:
            request = check.request
            name = subject.name(request)
            if not name:
                return DUNNO
            inner = Scope(subject.shown(request), subject.kind, scope.table)
            status = await _by_servers(check, table, name, type_, inner) or DUNNO
            if status == OK and not request.actions.discard:
                check.misconfigured(
                    f"restriction {restriction} returns OK for {printable(name)}",
                    "this is not allowed for security reasons",
                    "use DUNNO instead of OK if you want to make an exception",
                )
            return status

        return run

    return with_table


async def _by_servers(check: Check, table: AccessTable, name: bytes, type_: str, scope: Scope) -> int | None:
    """The status for the first server of a domain, or of a mail address's domain, that the table knows."""
    domain = name.rpartition(b"@")[2]
    if domain[:1] == b"[":
        address = mailhost_address(domain[1:-1]) if type_ != "NS" and domain[-1:] == b"]" else None
        return None if address is None else await find_address(check, table, address.decode(), scope)
    host = to_ascii(domain.decode("utf-8", "replace"))
    servers = (host,) if type_ == "A" else await _servers(check, host, type_, name)
    count = 0
    for server in servers:
        if is_address(server):
            status = await find_address(check, table, server, scope)
            if status is not None:
                return status
            continue
        if type_ != "A":
            status = await find_domain(check, table, server.encode(), scope)
            if status is not None:
                return status
        for address_text in await _addresses(check, server, type_, scope):
            count += 1
            if count > _ADDRESS_LIMIT:
                check.setup.log.warning(
                    f"check_server_access: {type_} server address count limit ({_ADDRESS_LIMIT}) exceeded"
                    f" for {scope.kind} {printable(scope.name)} -- ignoring the remainder"
                )
                return None
            status = await find_address(check, table, address_text, scope)
            if status is not None:
                return status
    return None


async def _servers(check: Check, host: str, type_: str, name: bytes) -> tuple[str, ...]:
    """The mail or name servers of a domain.  Without MX it is its own; NS are those of a parent domain."""
    domain = host
    while True:
        try:
            records = await check.lookup.records(domain, type_)
            _tell(check, domain, records)
            return tuple(target(record) for record in records)
        except DnsError as error:
            if error.status is DnsStatus.NULL_MX:
                return ()
            missing = error.status is DnsStatus.NOT_FOUND
            if missing and type_ == "MX":
                return (domain,)
            parent = domain.partition(".")[2]
            if missing and parent:
                domain = parent
                continue
            reason = "DNS reply filter policy" if error.status is DnsStatus.POLICY else error.reason
            shown = printable(name) if missing else domain
            check.setup.log.warning(f"Unable to look up {type_} host for {shown}: {reason}")
            return ()


async def _addresses(check: Check, server: str, type_: str, scope: Scope) -> list[str]:
    try:
        found = await check.lookup.host(server)
    except DnsError as error:
        if type_ != "A":
            check.setup.log.warning(
                f"Unable to look up {type_} host {server} for {scope.kind} {printable(scope.name)}: "
                f"{error.reason}"
            )
        return []
    if check.trace is not None:
        check.found("dns", f"{server} A, AAAA".encode(), " ".join(found).encode())
    return found


# -- permit_mx_backup


async def permit_mx_backup(check: Check, scope: Scope) -> int:
    setup = check.setup
    recipient = check.request.recipient
    if recipient is None:
        return DUNNO
    if not setup.mx_backup_noted:
        setup.mx_backup_noted = True
        setup.log.warning(
            'support for restriction "permit_mx_backup" will be removed from '
            f'{setup.p["mail_name"]}; instead, specify "relay_domains"'
        )
    found = await check.resolve(recipient)
    if found.routed and not setup.untrusted_routing:
        return DUNNO
    domain = found.domain
    if found.kind != DEFAULT or await _is_backup(check, domain, Scope(recipient.text, RECIPIENT, "")):
        return await check.permit("permit_mx_backup", RECIPIENT, recipient.text)
    return DUNNO


async def _is_backup(check: Check, domain: bytes, scope: Scope) -> bool:
    """Whether we are a mail server of the domain, and none of its best."""
    if domain[:1] == b"[" and domain[-1:] == b"]":
        return False
    try:
        records = await check.lookup.records(to_ascii(domain.decode("utf-8", "replace")), "MX")
    except DnsError as error:
        if error.status in (DnsStatus.RETRY, DnsStatus.POLICY):
            text = f"Unable to look up mail exchanger information: {_reason(error)}"
            _defer_if_reject(check, scope, text)
        return False
    pairs = [(_preference(record.data), target(record)) for record in records]
    best = min(preference for preference, _ in pairs)
    primaries = [name for preference, name in pairs if preference == best]
    others = [name for preference, name in sorted(pairs, key=_first) if preference != best]
    if await _are_we(check, primaries, scope) or not others or not await _are_we(check, others, scope):
        return False
    networks = check.setup.mx_backup_networks
    if networks is None:
        return True
    for host in primaries:
        if not await _in_networks(check, host, scope):
            return False
    return True


def _first(pair: tuple[int, str]) -> int:
    return pair[0]


def _preference(data: object) -> int:
    return data[0] if isinstance(data, tuple) and isinstance(data[0], int) else 0


def _reason(error: DnsError) -> str:
    return "DNS reply filter policy" if error.status is DnsStatus.POLICY else error.reason


def _defer_if_reject(check: Check, scope: Scope, text: str) -> None:
    check.hold_reject(
        450, b"4.4.4", b"<%b>: %b rejected: " % (scope.name, scope.kind.encode()) + text.encode()
    )


async def _are_we(check: Check, hosts: list[str], scope: Scope) -> bool:
    """Whether one of these names is ours, or has an address of ours."""
    classes = check.setup.classes
    for host in hosts:
        try:
            answer = classes.is_local_domain(host.encode())
            if answer if isinstance(answer, bool) else await answer:
                return True
        except MtadError:
            continue
    for host in hosts:
        try:
            addresses = await check.lookup.host(host)
        except DnsError as error:
            _defer_if_reject(check, scope, f"Unable to look up mail exchanger host {host}: {error.reason}")
            continue
        if any(classes.is_own_or_proxied(address) for address in addresses):
            return True
    return False


async def _in_networks(check: Check, host: str, scope: Scope) -> bool:
    """Whether all addresses of a mail server are in ``permit_mx_backup_networks``."""
    networks = check.setup.mx_backup_networks
    assert networks is not None
    try:
        records = await check.lookup.all(host, check.lookup.address_types)
    except DnsError as error:
        _defer_if_reject(check, scope, f"Unable to look up host {host} as mail exchanger: {_reason(error)}")
        return False
    for record in records:
        address = str(record.data)
        try:
            if not await networks.matches(address, host):
                return False
        except MtadError as error:
            check.log_failure(error)
            check.setup.log.warning(
                f"all_auth_mx_addr: permit_mx_backup_networks lookup error for address {address} for {host}"
            )
            _defer_if_reject(check, scope, f"Unable to verify host {host} as mail exchanger")
            return False
    return True
