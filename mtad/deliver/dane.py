"""DANE: the TLSA records of a host, and what they make of the levels ``dane`` and ``dane-only``.

:meth:`Dane.apply` gives the level that a host really gets, the records to judge its certificate by and the
names that it may have; it raises :class:`PolicyError` where ``dane-only`` can't be had, or where a lookup
failed: then nobody may claim that there are no records.  An answer counts as secure where the name server
says so (AD bit) and ``/etc/resolv.conf`` says that it is to be believed (``options trust-ad``).

RFC 6698, RFC 7672.  Postfix counterpart: ``dane_init()`` in ``smtp_tls_policy.c``, ``tls_dane_resolve()``,
``dns_sec_probe()``.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtad.config.parameters import Parameters
from mtad.deliver.names import DNSSEC, dns_support
from mtad.deliver.nexthop import Host
from mtad.errors import MtadError
from mtad.maillog import ListSink, MailLog, printable
from mtad.net.dns import DnsError, DnsStatus, Resolver
from mtad.net.dns_message import Record
from mtad.net.lookup import is_address
from mtad.net.tls_context import Logging
from mtad.net.tls_policy import Tlsa
from mtad.net.tls_trust import END_ENTITY, TRUST_ANCHOR

#: The matching type that is left to private use; nobody may publish it.
_PRIVATE = 255


class PolicyError(MtadError):
    """No TLS policy for a host: it must not get the mail (now)."""

    def __init__(
        self, text: str = "client TLS configuration problem", dsn: str = "4.7.5", temporary: bool = True
    ) -> None:
        self.dsn = dsn
        self.text = text
        self.temporary = temporary
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Standing:
    """How an answer of the DNS stands: ``secure``, and the name that it is really about (after CNAMEs)."""

    secure: bool
    owner: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of the level.  Without ``records`` it is no DANE level any more."""

    level: str
    records: tuple[Tlsa, ...] = ()
    base_domain: str = ""
    names: tuple[str, ...] = ()


class Dane:
    """The DANE of one transport."""

    def __init__(self, p: Parameters, resolver: Resolver, log: MailLog) -> None:
        self._resolver = resolver
        self._log = log
        self._insecure_mx = p.choice("smtp_tls_dane_insecure_mx_policy")
        self._force = p.flag("smtp_tls_force_insecure_host_tlsa_lookup")
        self._probe = p["dnssec_probe"]
        self._probed = False
        unheard = MailLog(ListSink(), "")  # ClientTLS has warned already
        self._tell = Logging.parse(p, "smtp_tls_loglevel", unheard).dane
        self._obstacle = ""
        if dns_support(p) != DNSSEC or "dns" not in p.words("smtp_host_lookup"):
            self._obstacle = "{dest}: {level} configured with dnssec lookups disabled"
        elif p.flag("ignore_mx_lookup_error"):
            self._obstacle = "{dest}: {level} configured with MX lookup errors ignored"
        elif p.words("smtp_dns_resolver_options"):
            self._obstacle = "{dest}: dns resolver options incompatible with {level} TLS"

    async def apply(self, level: str, host: Host) -> Applied:
        """See the module; ``level`` is ``dane`` or ``dane-only``."""
        if host.path:
            text = 'the "dane" security level is invalid for delivery via unix-domain sockets'
            self._log.warning(f"{host.destination.text}: {text}")
            raise PolicyError
        if self._obstacle:
            self._log.warning(self._obstacle.format(dest=host.destination.text, level=level))
            if level == "dane":
                return Applied("may")
            raise PolicyError
        if is_address(host.name):
            return _without(level, "may", "no TLSA records found")
        mx = await self._standing(host.asked, host.by, host) if host.by else None
        insecure_mx = mx is not None and not mx.secure
        if insecure_mx and (level == "dane-only" or self._insecure_mx == "may"):
            return _without(level, "may", "non DNSSEC destination")
        base, records, found = await self._resolve(host)
        if not found:
            return _without(level, "may", "no TLSA records found")
        if not records:
            return _without(level, "encrypt", "TLSA records unusable")
        if insecure_mx:
            if self._insecure_mx == "encrypt":
                return Applied("encrypt")
            level = "halfdane"
        names = [base]
        if mx is not None:
            names += dict.fromkeys((mx.owner, host.asked))
        return Applied(level, records, base, tuple(dict.fromkeys(names)))

    async def _resolve(self, host: Host) -> tuple[str, tuple[Tlsa, ...], bool]:
        """Where the host's records are, those that are of use, and whether there are any (secure ones)."""
        address = await self._standing(host.name, "AAAA" if ":" in host.address else "A", host)
        standing = address or Standing(False, host.name)
        alias = standing.owner.lower() != host.name.lower()
        if not (self._force or standing.secure) and not (alias and await self._secure_alias(host)):
            return "", (), False
        if standing.secure:
            records, found = await self._records(standing.owner, host)
            if found or not alias:
                return standing.owner, records, found
        records, found = await self._records(host.name, host)
        return host.name, records, found

    async def _secure_alias(self, host: Host) -> bool:
        try:
            return (await self._query(host.name, "CNAME"))[0].secure
        except DnsError as error:
            text = "no longer a CNAME" if error.status is DnsStatus.NOT_FOUND else error.text
            self._log.warning(f"DNSSEC status lookup error for {host.name}: {text}")
            raise _lookup_error(host) from error

    async def _records(self, name: str, host: Host) -> tuple[tuple[Tlsa, ...], bool]:
        try:
            answers = await self._query(f"_{host.port}._tcp.{name}", "TLSA")
        except DnsError as error:
            if error.status is DnsStatus.NOT_FOUND:
                return (), False
            self._log.warning(f"DANE TLSA lookup problem: {error.text}")
            raise _lookup_error(host) from error
        if not answers[0].secure:
            return (), False
        asked = f"_{host.port}._tcp.{name}"
        found = [self._parsed(record, asked) for record in answers]
        return tuple(record for record in found if record is not None), True

    def _parsed(self, record: Record, asked: str) -> Tlsa | None:
        data = record.data
        alias = "" if record.name.lower() == asked.lower() else f"{asked} -> "
        if not isinstance(data, bytes) or len(data) <= 3:
            size = len(data) if isinstance(data, bytes) else 0
            self._log.warning(f"{alias}{record.name}: truncated TLSA RR length == {size}")
            return None
        tlsa = Tlsa(data[0], data[1], data[2], data[3:])
        problem = ""
        if tlsa.usage not in (TRUST_ANCHOR, END_ENTITY):
            problem = "unsupported TLSA certificate usage"
        elif tlsa.matching == _PRIVATE:
            problem = "reserved private-use matching type"
        if problem:
            self._log.warning(f"{alias}{record.name} {problem}: {tlsa.shown}")
            return None
        if self._tell:
            self._log.info(f"DNSSEC-signed TLSA record: {record.name}: {tlsa.shown}")
        return tlsa

    async def _standing(self, name: str, type_: str, host: Host) -> Standing | None:
        """How what is known of ``name`` stands; None: there is no such record.  Who can make a lookup fail
        must not have us take that for an answer (RFC 7672 section 2.1.1)."""
        try:
            first = (await self._query(name, type_))[0]
        except DnsError as error:
            if error.status is DnsStatus.NOT_FOUND:
                return None
            self._log.warning(f"DNSSEC status lookup error for {name}: {error.text}")
            raise _lookup_error(host) from error
        return Standing(first.secure, first.name)

    async def _query(self, name: str, type_: str) -> tuple[Record, ...]:
        records = await self._resolver.query(name, type_)
        if not records[0].secure:
            await self._probe_once()
        else:
            self._probed = True
        return records

    async def _probe_once(self) -> None:
        """Tell the operator, once, where no answer is ever secure."""
        if self._probed:
            return
        self._probed = True
        type_, colon, name = self._probe.partition(":")
        if not colon or not name:
            return
        try:
            records = await self._resolver.query(name, type_.upper())
        except DnsError as error:
            reason = f"received no response: {printable(error.text)}"
        else:
            if records[0].secure:
                return
            reason = "received a response that is not DNSSEC validated"
        self._log.warning("DNSSEC validation may be unavailable")
        self._log.warning(f"reason: dnssec_probe '{self._probe}' {reason}")


def _without(level: str, instead: str, text: str) -> Applied:
    """No DANE: ``dane`` becomes a lower level, ``dane-only`` nothing."""
    if level == "dane":
        return Applied(instead)
    raise PolicyError(text)


def _lookup_error(host: Host) -> PolicyError:
    return PolicyError(f"TLSA lookup error for {host.name}:{host.port}")
