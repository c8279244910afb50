"""A stub resolver: MX, addresses, names and texts from the name servers of /etc/resolv.conf.

:class:`Resolver` asks by UDP, each time from a new port with a new id, and by TCP where an answer is cut
short.  It tries servers and waits as the C library does, never appends a search domain (Postfix's
default), follows at most ten CNAMEs, and keeps answers, negative ones too, for their TTL in a bounded
cache.  Answers from the cache, /etc/hosts and address literals come without waiting.

Raises :class:`DnsError` with Postfix's words.  RFC 1035, RFC 2308 (negative answers), RFC 7505 (null MX).
Postfix counterpart: ``dns_lookup.c``, the lookups of ``smtp_addr.c``; glibc's ``res_send.c``.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from enum import Enum
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTCP, IReactorTime, IReactorUDP

from mtad.errors import MtadError
from mtad.idn import to_ascii as to_ascii
from mtad.net.dns_message import (
    NOERROR,
    NOTIMP,
    NXDOMAIN,
    REFUSED,
    SERVFAIL,
    Message,
    MessageError,
    Record,
    decode,
    encode_query,
)
from mtad.net.dns_transport import ask_tcp, ask_udp
from mtad.net.hosts_file import HostsFile
from mtad.net.resolv_conf import ResolvConf, Server

#: Bounds of the cache: entries, seconds of an answer, seconds of a negative one
CACHE_LIMIT = 2000
TTL_LIMIT = 3600
NEGATIVE_TTL_LIMIT = 300
_CNAME_LIMIT = 10
_GARBLED = 15  # stands for the code of an answer that can't be read; nobody has it

# in the words of herror(3), and those of gai_strerror(3) for the same
_NO_HOST, _TRY_AGAIN, _FAILED = "Host not found", "Host not found, try again", "Non-recoverable error"
_NO_DATA = "Host found but no data record of requested type"
_GAI = {
    _TRY_AGAIN: "Temporary failure in name resolution",
    _FAILED: "Non-recoverable failure in name resolution",
    _NO_DATA: "No address associated with hostname",
}

_NATIVE_DSN = {_TRY_AGAIN: "4.4.4", _FAILED: "5.3.0", _NO_DATA: "5.3.0"}
_ADDRESS_TYPE = {"ipv4": "A", "ipv6": "AAAA"}
_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")

Reactor = Any  # IReactorUDP, IReactorTCP and IReactorTime in one


class DnsStatus(Enum):
    """Why there is no answer."""

    NOT_FOUND = 1
    FAILED = 2
    MALFORMED = 3
    RETRY = 4
    NULL_MX = 5
    POLICY = 6  # a reply filter has dropped all there was


_DSN = {
    DnsStatus.NOT_FOUND: "5.4.4",
    DnsStatus.FAILED: "5.4.3",
    DnsStatus.MALFORMED: "5.4.4",
    DnsStatus.RETRY: "4.4.3",
    DnsStatus.NULL_MX: "5.1.0",
    DnsStatus.POLICY: "4.7.0",
}


class DnsError(MtadError):
    """No answer.  ``status`` tells why, ``text`` says it, ``dsn`` is the code for the mail.

    ``reason`` is the end of ``text``, in the words of herror(3) or gai_strerror(3).
    """

    def __init__(self, status: DnsStatus, text: str, reason: str = "Host not found") -> None:
        self.status = status
        self.temporary = status is DnsStatus.RETRY
        self.text = text
        self.reason = reason
        self.dsn = _DSN[status]
        super().__init__(text)


def valid_hostname(name: str) -> bool:
    """Letters, digits, hyphens and underscores in labels of at most 63, and not a number."""
    return len(name) <= 255 and _HOSTNAME.fullmatch(name) is not None and not name.replace(".", "").isdigit()


def reverse_name(address: str) -> str:
    """The name whose PTR record names the host of an address."""
    return ip_address(address).reverse_pointer


#: kept in the cache: records, or why there are none
_Outcome = tuple[Record, ...] | DnsError


class Resolver:
    """Asks name servers.  One for each process; no thread, nothing blocks."""

    def __init__(
        self,
        reactor: Reactor,
        servers: Sequence[Server] | None = None,
        *,
        resolv_conf: str = "/etc/resolv.conf",
        hosts: HostsFile | None = None,
        timeout: float = 5.0,
        attempts: int = 2,
        randbelow: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        """``servers`` (with ``timeout`` and ``attempts``) stand in for what resolv.conf says."""
        assert IReactorUDP.providedBy(reactor) and IReactorTCP.providedBy(reactor)
        assert IReactorTime.providedBy(reactor)
        self._reactor = reactor
        self._fixed = (
            None if servers is None else ResolvConf(tuple(servers), timeout, attempts, trust_ad=True)
        )
        #: ask for DNSSEC: answers that the name server has validated are ``secure``
        self.dnssec = False
        self._path = resolv_conf
        self._stamp: tuple[int, int, int] | None = None
        self._conf = ResolvConf.parse("")
        self._turn = 0
        self.hosts = hosts or HostsFile()
        self._randbelow = randbelow
        self._cache: OrderedDict[tuple[str, str], tuple[float, _Outcome]] = OrderedDict()
        self._pending: dict[tuple[str, str], list[Deferred[_Outcome]]] = {}

    @property
    def search(self) -> tuple[str, ...]:
        """The domains of resolv.conf that complete a name; nothing here does so."""
        return self._configuration().search

    # -- what is asked

    async def srv(self, name: str) -> list[tuple[int, int, int, str]]:
        """The hosts of a service ``_service._tcp.domain``: priority, weight, port and name, in no order.

        DnsError where there are none, or where the domain has no such service (RFC 2782).
        """
        found: list[tuple[int, int, int, str]] = []
        for record in await self.query(name, "SRV"):
            data = record.data
            if not isinstance(data, tuple) or len(data) != 4 or not isinstance(data[0], int):
                continue
            priority, weight, port, target = data
            if target == "":
                raise DnsError(DnsStatus.NULL_MX, f"Domain {name} does not support SRV requests")
            if isinstance(target, str) and valid_hostname(target):
                found.append((priority, weight, port, target))
        if not found:
            raise _malformed(name, "SRV")
        return found

    async def addresses(
        self, host: str, protocols: Sequence[str] = ("ipv4", "ipv6"), ways: Sequence[str] = ("dns",)
    ) -> list[str]:
        """The addresses of a host, found in these ways (``smtp_host_lookup``); never none, DnsError."""
        try:
            literal = ip_address(host)
        except ValueError:
            pass
        else:
            if f"ipv{literal.version}" in protocols:
                return [str(literal)]
        if "dns" in ways:
            try:
                return await self.dns_addresses(host, protocols)
            except DnsError as error:
                if error.status is not DnsStatus.NOT_FOUND or "native" not in ways:
                    raise
        return await self.native_addresses(host, protocols)

    async def native_addresses(self, host: str, protocols: Sequence[str] = ("ipv4", "ipv6")) -> list[str]:
        """As the system's resolver does it: /etc/hosts, then the DNS."""
        found = [a for a in self.hosts.addresses(host) if ("ipv6" if ":" in a else "ipv4") in protocols]
        if found:
            return found
        try:
            return await self.dns_addresses(host, protocols)
        except DnsError as error:
            reason = _GAI.get(error.reason, "Name or service not known")
            failure = DnsError(error.status, f"unable to look up host {host}: {reason}", reason)
            failure.dsn = _NATIVE_DSN.get(error.reason, "5.4.4")
            raise failure from error

    async def dns_addresses(self, host: str, protocols: Sequence[str] = ("ipv4", "ipv6")) -> list[str]:
        """The A and AAAA records of a host; where both lookups fail, the graver status is reported."""
        asked = [ensureDeferred(self.query(host, _ADDRESS_TYPE[protocol])) for protocol in protocols]
        found: list[str] = []
        worst: DnsError | None = None
        for deferred in asked:
            try:
                found += [record.data for record in await deferred if isinstance(record.data, str)]
            except DnsError as error:
                if worst is None or error.status.value >= worst.status.value:
                    worst = error
        if found:
            return found
        raise worst or _malformed(host, "A")

    async def canonical(self, host: str) -> str:
        """The name that the CNAMEs of a host lead to; its own where there are none, or no address."""
        for type_ in _ADDRESS_TYPE.values():
            try:
                return (await self.query(host, type_))[0].name
            except DnsError:
                continue
        return host

    async def ptr(self, address: str) -> str:
        """The name of an address's host, as its PTR record says (unchecked); DnsError."""
        name = reverse_name(address)
        records = await self.query(name, "PTR")
        for record in records:
            if isinstance(record.data, str) and valid_hostname(record.data):
                return record.data
        raise _malformed(name, "PTR")

    async def txt(self, name: str) -> list[bytes]:
        """The TXT records of a name, the strings of each joined; DnsError."""
        records = await self.query(name, "TXT")
        return [
            b"".join(part for part in record.data if isinstance(part, bytes))
            for record in records
            if isinstance(record.data, tuple)
        ]

    async def query(self, name: str, type_: str) -> tuple[Record, ...]:
        """The records of a name and type, at least one, CNAMEs followed; DnsError."""
        host = to_ascii(name).removesuffix(".")  # of the root, which has no mail, nothing is left
        if not valid_hostname(host) and (name, type_) not in ((".", "NS"), (".", "SOA")):
            text = f"Name service error for {name}: invalid host or domain name"
            raise DnsError(DnsStatus.NOT_FOUND, text)
        key = (host.lower(), type_)
        outcome = self._cached(key)
        if outcome is None:
            waiting = self._pending.get(key)
            if waiting is None:
                outcome = await self._lead(key, self._resolve(host, type_))
            else:
                deferred: Deferred[_Outcome] = Deferred()
                waiting.append(deferred)
                outcome = await deferred
        if isinstance(outcome, DnsError):
            raise DnsError(outcome.status, _as_asked(outcome.text, host), outcome.reason)
        return outcome

    # -- the cache, and one question for all who ask it at a time

    def _cached(self, key: tuple[str, str]) -> _Outcome | None:
        found = self._cache.get(key)
        if found is None:
            return None
        if found[0] > self._reactor.seconds():
            return found[1]
        del self._cache[key]
        return None

    def _keep(self, name: str, type_: str, ttl: int, outcome: _Outcome) -> None:
        if ttl > 0:
            self._cache[name.lower(), type_] = (self._reactor.seconds() + ttl, outcome)
            if len(self._cache) > CACHE_LIMIT:
                self._cache.popitem(last=False)

    async def _lead(self, key: tuple[str, str], work: Coroutine[Any, Any, tuple[Record, ...]]) -> _Outcome:
        self._pending[key] = []
        outcome: _Outcome = _no_answer(*key)
        try:
            outcome = await work
        except DnsError as error:
            outcome = error
        finally:
            for deferred in self._pending.pop(key):
                deferred.callback(outcome)
        return outcome

    # -- asking

    async def _resolve(self, host: str, type_: str) -> tuple[Record, ...]:
        name, ttl = host, TTL_LIMIT
        secure = self.dnssec
        for _ in range(_CNAME_LIMIT):
            message = await self._exchange(name, type_)
            secure = secure and message.authentic and self._configuration().trust_ad
            if message.rcode == _GARBLED:
                raise DnsError(DnsStatus.RETRY, _malformed(name, type_).text)
            if message.rcode not in (NOERROR, NXDOMAIN):
                raise _failure(name, type_)
            owner, records, ttl = _answers(message, name, type_, ttl)
            if records:
                if secure:
                    records = tuple([replace(record, secure=True) for record in records])
                self._keep(host, type_, ttl, records)
                return records
            if owner == name or message.rcode == NXDOMAIN:
                error = _not_found(owner, type_, message.rcode)
                self._keep(host, type_, min(ttl, _negative_ttl(message)), error)
                raise error
            name = owner
        raise DnsError(DnsStatus.NOT_FOUND, f"Name server loop for {name}")

    async def _exchange(self, name: str, type_: str) -> Message:
        """One question to one server after the other."""
        conf = self._configuration()
        servers = conf.servers
        if conf.rotate:
            self._turn = (self._turn + 1) % len(servers)
            servers = servers[self._turn :] + servers[: self._turn]
        for _ in range(conf.attempts):
            for index, server in enumerate(servers):
                timeout = conf.timeout * (1 << index) / (len(servers) if index else 1)
                message = await self._ask(server, name, type_, max(timeout, 1.0 if index else 0.0))
                if message is not None and message.rcode not in (SERVFAIL, NOTIMP, REFUSED):
                    return message
        raise _no_answer(name, type_)

    async def _ask(self, server: Server, name: str, type_: str, timeout: float) -> Message | None:
        identifier = self._randbelow(1 << 16)
        try:
            query = encode_query(identifier, name, type_, self.dnssec and self._configuration().trust_ad)
        except MessageError:
            text = f"Name service error for {name}: invalid host or domain name"
            raise DnsError(DnsStatus.NOT_FOUND, text) from None

        def accept(data: bytes) -> Message | None:
            try:
                message = decode(data)
            except MessageError:
                mine = data[:2] == identifier.to_bytes(2, "big") and data[2:3] >= b"\x80"
                return Message(identifier, _GARBLED, name, type_, (), ()) if mine else None
            mine = message.id == identifier and message.is_response and message.type == type_
            return message if mine and message.name.lower() == name.lower() else None

        message = await ask_udp(self._reactor, server, query, accept, timeout)
        if message is not None and message.truncated:
            message = await ask_tcp(self._reactor, server, query, accept, timeout)
        return message

    def _configuration(self) -> ResolvConf:
        if self._fixed is not None:
            return self._fixed
        try:
            status = os.stat(self._path)
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp != self._stamp:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    self._conf = ResolvConf.parse(file.read(1 << 16))
                self._stamp = stamp
        except OSError:
            pass
        return self._conf


def _answers(message: Message, name: str, type_: str, ttl: int) -> tuple[str, tuple[Record, ...], int]:
    """Follow the CNAMEs in one message: the last name, its records, the lowest TTL on the way."""
    owner = name
    for _ in range(_CNAME_LIMIT):
        mine = [record for record in message.answers if record.name.lower() == owner.lower()]
        records = tuple(record for record in mine if record.type == type_)
        alias = next((record for record in mine if record.type == "CNAME"), None)
        ttl = min([ttl, *(record.ttl for record in records)])
        if records or alias is None or not isinstance(alias.data, str) or not valid_hostname(alias.data):
            return owner, records, ttl
        owner = alias.data
        ttl = min(ttl, alias.ttl)
    raise DnsError(DnsStatus.NOT_FOUND, f"Name server loop for {name}")


def _negative_ttl(message: Message) -> int:
    """How long to believe that there is nothing (RFC 2308 section 5)."""
    for record in message.authority:
        if record.type == "SOA" and isinstance(record.data, int):
            return min(record.ttl, record.data, NEGATIVE_TTL_LIMIT)
    return 0


def _error(status: DnsStatus, name: str, type_: str, reason: str) -> DnsError:
    text = "Host or domain name not found. Name service error for "
    return DnsError(status, f"{text}name={name} type={type_}: {reason}", reason)


def _as_asked(text: str, name: str) -> str:
    """An error's text that names ``name`` as who asks has written it, and not who asked before."""
    begin = text.lower().find(f"name={name.lower()} ") + len("name=")
    return text if begin < len("name=") else text[:begin] + name + text[begin + len(name) :]


def _not_found(name: str, type_: str, rcode: int) -> DnsError:
    return _error(DnsStatus.NOT_FOUND, name, type_, _NO_HOST if rcode == NXDOMAIN else _NO_DATA)


def _no_answer(name: str, type_: str) -> DnsError:
    return _error(DnsStatus.RETRY, name, type_, _TRY_AGAIN)


def _failure(name: str, type_: str) -> DnsError:
    return _error(DnsStatus.FAILED, name, type_, _FAILED)


def _malformed(name: str, type_: str) -> DnsError:
    text = f"Name service error for name={name} type={type_}: Malformed or unexpected name server reply"
    return DnsError(DnsStatus.MALFORMED, text)
