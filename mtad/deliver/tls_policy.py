"""The TLS policy of a destination: main.cf's, a table's, DANE's or MTA-STS's.

:meth:`TlsPolicies.find` gives the :class:`~mtad.net.tls_policy.Policy` for one host of a next hop, and raises
:class:`~mtad.deliver.dane.PolicyError` where there is none to deliver by: an attribute that nobody
understands may be one that protects, so a mistake in a table defers the mail.  :meth:`TlsPolicies.authorized`
says whether a host is among those that an MTA-STS policy names.

``smtp_tls_policy_maps`` is asked for the next hop as it was written, with brackets and port; a plain domain's
parents are asked as ``.parent``.  A message that says ``TLS-Required: no`` is not held up by any policy.

RFC 8461 section 5, RFC 8689 section 4.2.  Postfix counterpart: ``smtp_tls_policy.c``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mtad.config.lines import split_assignment, tokens, unbraced
from mtad.config.parameters import Parameters
from mtad.deliver.dane import Dane, PolicyError
from mtad.deliver.mta_sts import MtaSts
from mtad.deliver.nexthop import Host
from mtad.errors import MtadError
from mtad.maillog import ListSink, MailLog
from mtad.net.certificates import FILE_LIMIT
from mtad.net.dns import Resolver, to_ascii, valid_hostname
from mtad.net.tls_context import Logging
from mtad.net.tls_policy import (
    DANE_LEVELS,
    PKIX_LEVELS,
    External,
    Policy,
    Tlsa,
    fingerprints,
    is_required,
    known_level,
    main_policy,
    rank,
    shown,
)
from mtad.net.tls_trust import CERTIFICATE, KEY, TRUST_ANCHOR, anchors_of
from mtad.tables.maps import Maps

_SITE_LEVEL = {"none": "none", "may": "may", "must_nopeermatch": "encrypt", "must": "verify"}
_KINDS = ("sts", "no-policy-found")
_FAILURES = ("sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid", "validation-failure")


@dataclass(slots=True)
class _Entry:
    """What a table says; None and empty: nothing."""

    level: str = ""
    ciphers: str | None = None
    protocols: str | None = None
    servername: str | None = None
    exclude: str | None = None
    match: list[str] | None = None
    anchors: list[Tlsa] = field(default_factory=list)
    reuse: bool | None = None
    ttl: str = ""
    kind: str = ""
    domain: str = ""
    strings: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    failure: str = ""


class TlsPolicies:
    """The policies of one transport."""

    def __init__(
        self, p: Parameters, main: Policy, resolver: Resolver, log: MailLog, sts: MtaSts | None = None
    ) -> None:
        """``main`` is the policy of main.cf."""
        self._p = p
        self._main = main
        self._log = log
        self._dane = Dane(p, resolver, log)
        unheard = MailLog(ListSink(), "")  # ClientTLS has warned already
        self._tell = Logging.parse(p, "smtp_tls_loglevel", unheard).dane
        self._sts = sts
        self._maps_name, self._sites_name = (p.written(f"smtp_tls_{n}") for n in ("policy_maps", "per_site"))
        self._maps = Maps(p["smtp_tls_policy_maps"], p.directory, title=self._maps_name, warn=log.warning)
        self._sites = Maps(p["smtp_tls_per_site"], p.directory, title=self._sites_name, warn=log.warning)
        if self._maps and self._sites:
            log.warning(f"{self._sites_name} ignored when {self._maps_name} is not empty.")
        self._wrapper = p.flag("smtp_tls_wrappermode")
        self._enforce_patterns = p.flag("smtp_tls_enforce_sts_mx_patterns")
        self._anchors: dict[str, tuple[tuple[int, int], tuple[Tlsa, ...]]] = {}
        # nothing is to be looked up, and nothing can be wrong
        self._plain = (
            not (self._maps or self._sites or sts or main.dane)
            and (main.level == "none" or not main.servername or valid_hostname(main.servername))
            and main.level not in (*PKIX_LEVELS, "fingerprint")
        )

    async def find(self, host: Host, not_required: bool = False) -> Policy:
        """The policy for ``host``; ``not_required``: the message says ``TLS-Required: no``."""
        if self._plain and not not_required:
            return self._main
        entry = _Entry()
        level = self._main.level
        if not_required:
            limit = "encrypt" if self._wrapper else "may"
            level = limit if rank(level) > rank(limit) else level
        elif self._maps:
            entry = await self._entry(host.destination.text) or entry
        elif self._sites:
            entry.level = await self._site(host)
        level = entry.level or level
        names: tuple[str, ...] = ()
        base = ""
        if level in DANE_LEVELS:
            applied = await self._dane.apply(level, host)
            level, names, base = applied.level, applied.names, applied.base_domain
            entry.anchors = list(applied.records)
        if self._sts is not None and not (entry.level or not_required) and level in ("may", "encrypt"):
            found = await self._sts_policy(host, level)
            if found is not None:
                return found
        return self._complete(host, level, entry, names, base)

    def authorized(self, policy: Policy, host: Host) -> bool:
        """Whether ``host`` may have mail by an MTA-STS policy's list of hosts; the log says if not."""
        external = policy.external
        if external is None or external.kind != "sts" or not external.patterns:
            return True
        names_matter = policy.level in PKIX_LEVELS or policy.dane
        if not (self._enforce_patterns and names_matter and policy.match):
            return True
        if matches_pattern(host.name, external.patterns):
            return True
        text = f"MX name '{host.name}' does not match STS MX pattern for '{external.domain}'"
        self._log.warning(text)
        return False

    # -- what is put together

    def _complete(self, host: Host, level: str, entry: _Entry, names: tuple[str, ...], base: str) -> Policy:
        main = main_policy(self._p, level)
        if level == "none":
            return main
        servername = main.servername if entry.servername is None else entry.servername
        if servername and not valid_hostname(servername):
            self._log.warning(
                f'"{self._p.written("smtp_tls_servername")} = {servername}" specifies an invalid hostname'
            )
            raise PolicyError
        match, anchors = main.match, tuple(entry.anchors)
        if level in DANE_LEVELS:
            match = names
        elif level == "fingerprint":
            match = self._fingerprints(host, entry)
        elif level in PKIX_LEVELS:
            match = main.match if entry.match is None else tuple(entry.match)
            files = () if anchors else self._p.words("smtp_tls_trust_anchor_file")
            anchors += tuple([anchor for file in files for anchor in self._load(file)])
        external = None
        if entry.kind:
            external = External(
                entry.kind, entry.domain, tuple(entry.strings), tuple(entry.patterns), entry.failure
            )
        return replace(
            main,
            protocols=main.protocols if entry.protocols is None else entry.protocols,
            ciphers=entry.ciphers or main.ciphers,
            exclude=main.exclude if entry.exclude is None else entry.exclude,
            match=match,
            servername=servername,
            anchors=anchors,
            base_domain=base,
            external=external,
            reuse=entry.reuse,
        )

    def _fingerprints(self, host: Host, entry: _Entry) -> tuple[str, ...]:
        words = self._p.words("smtp_tls_fingerprint_cert_match") if entry.match is None else entry.match
        good, bad = fingerprints(tuple(words))
        for word in bad:
            self._log.warning(
                f"malformed fingerprint value: {f'{word[:100]}...' if len(word) > 192 else word}"
            )
        if self._tell:
            for digest in good:
                for selector in (CERTIFICATE, KEY):
                    record = f"3 {selector} 255 {shown(digest)}"
                    self._log.info(f"fingerprint: digest as private-use TLSA record: {record}")
        if not good:
            self._log.warning(
                f"nexthop domain {host.destination.text}: configured at fingerprint security level, "
                "but with no fingerprints to match."
            )
            raise PolicyError
        return tuple(good)

    async def _sts_policy(self, host: Host, level: str) -> Policy | None:
        assert self._sts is not None
        domain = to_ascii(host.destination.host)
        if host.destination.literal or host.path or not valid_hostname(domain):
            return None
        found = await self._sts.policy(domain)
        if found is None:
            why = self._sts.failure(domain)  # to be reported, but no reason to keep the mail
            return (
                replace(main_policy(self._p, level), external=External("sts", domain, failure=why))
                if why
                else None
            )
        if found.mode == "none":
            return None
        testing = found.mode == "testing"
        main = main_policy(self._p, level if testing else "secure")
        external = External("sts", domain, found.strings, found.patterns, "", testing)
        return replace(main, match=("hostname",), servername="hostname", external=external)

    def _load(self, path: str) -> tuple[Tlsa, ...]:
        """The trust anchors of a file, read again when it changes; raises PolicyError."""
        try:
            status = os.stat(path)
            stamp = (status.st_mtime_ns, status.st_size)
            known = self._anchors.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            with open(path, "rb") as file:
                found = anchors_of(file.read(FILE_LIMIT))
        except OSError as error:
            self._log.warning(f"error opening trust anchor file: {path}: {error.strerror}")
            raise PolicyError from error
        if found is None:
            self._log.warning(f"error reading: {path}: malformed trust-anchor")
            raise PolicyError
        if self._tell:
            for anchor in found:
                what = "cert" if anchor.selector == CERTIFICATE else "pkey"
                if anchor.usage == TRUST_ANCHOR:
                    self._log.info(f"TA {what} as TLSA record: {path}: {anchor.shown}")
        self._anchors[path] = (stamp, found)
        return found

    # -- tables

    async def _site(self, host: Host) -> str:
        """``smtp_tls_per_site``: by next hop and by host, the stronger counts, but ``NONE`` against
        ``MAY``."""
        found = [await self._site_level(host.destination.text, "next-hop destination")]
        if host.name.lower() != host.destination.text.lower():
            found.append(await self._site_level(host.name, "server hostname"))
        levels = [level for level in found if level]
        if not levels:
            return ""
        strong = [level for level in levels if is_required(level)]
        if strong:
            return max(strong, key=rank)
        if "none" in levels:
            return "none"
        return self._main.level if rank(self._main.level) > rank("may") else "may"

    async def _site_level(self, name: str, what: str) -> str:
        try:
            value = await self._sites.lookup(name.encode())
        except MtadError as error:
            self._log.warning(f'{self._sites_name}: {what} "{name}": per-site table lookup error')
            raise PolicyError("Temporary lookup error", "4.3.0") from error
        if value is None:
            return ""
        level = _SITE_LEVEL.get(value.decode("utf-8", "replace").lower())
        if level is None:
            text = value.decode("utf-8", "replace")
            self._log.warning(f"{self._sites_name}: unknown TLS policy '{text}' for {what} {name}")
            raise PolicyError
        return level

    async def _entry(self, destination: str) -> _Entry | None:
        key = destination
        parents = valid_hostname(to_ascii(destination))
        while key:
            where = f'{self._maps_name}, next-hop destination "{key}"'
            try:
                value = await self._maps.lookup(key.encode())
            except MtadError as error:
                self._log.warning(f"{where}: policy table lookup error")
                raise PolicyError from error
            if value is not None:
                return self._parse(value.decode("utf-8", "replace"), where)
            dot = key.find(".", 1) if parents else -1
            key = key[dot:] if dot > 0 else ""
        return None

    def _parse(self, text: str, where: str) -> _Entry:
        words = tokens(text)
        if not words:
            raise self._invalid(f"{where}: invalid empty policy")
        entry = _Entry(known_level(words[0]))
        if not entry.level:
            raise self._invalid(f'{where}: invalid security level "{words[0]}"')
        for token in words[1:]:
            if entry.level == "none":
                self._log.warning(f'{where}: ignoring attribute "{token}" with TLS disabled')
                continue
            try:
                name, value = split_assignment(unbraced(token) if token.startswith("{") else token)
            except ValueError as error:
                shown = f'malformed attribute/value pair "{token}": {error}'
                raise self._invalid(f"{where}: {shown}") from error
            setter = _SETTERS.get(name.lower())
            if setter is None:
                raise self._invalid(f'{where}: invalid attribute name: "{name}"')
            problem = setter(self, entry, name, " ".join(value.split()))
            if problem:
                raise self._invalid(f"{where}: {problem}")
        if not entry.kind and (entry.ttl or entry.strings or entry.domain or entry.patterns or entry.failure):
            raise self._invalid(
                f"{where}: built-in policy has unexpected attribute policy_ttl, policy_domain, "
                "policy_string, mx_host_pattern or policy_failure"
            )
        if self._enforce_patterns and entry.kind == "sts" and entry.match and entry.patterns:
            entry.match = ["hostname"]
        return entry

    def _invalid(self, warning: str) -> PolicyError:
        self._log.warning(warning)
        return PolicyError()

    # -- attributes; each gives the problem that it has with its value

    def _text(self, entry: _Entry, name: str, value: str) -> str:
        """``ciphers``, ``protocols``, ``exclude``: once."""
        attribute = name.lower()
        if attribute == "ciphers" and not value:
            return f'attribute "{name}" has empty value'
        if getattr(entry, attribute) is not None:
            return f'attribute "{name}" is specified multiple times'
        setattr(entry, attribute, value)
        return ""

    def _servername(self, entry: _Entry, name: str, value: str) -> str:
        if entry.servername is not None:
            return f'attribute "{name}" is specified multiple times'
        if not valid_hostname(value):
            return f'"{name}={value}" specifies an invalid hostname'
        entry.servername = value
        return ""

    def _match(self, entry: _Entry, name: str, value: str) -> str:
        if not value:
            return f'attribute "{name}" has empty value'
        if entry.level != "fingerprint" and entry.level not in PKIX_LEVELS:
            return f'attribute "{name}" invalid at security level "{entry.level}"'
        separator = "|" if entry.level == "fingerprint" else ":"
        entry.match = [*(entry.match or []), *filter(None, value.split(separator))]
        return ""

    def _tafile(self, entry: _Entry, name: str, value: str) -> str:
        if entry.level not in PKIX_LEVELS:
            return f'attribute "{name}" invalid at security level "{entry.level}"'
        if not value:
            return f'attribute "{name}" has empty value'
        entry.anchors += self._load(value)
        return ""

    def _yes_no(self, entry: _Entry, name: str, value: str) -> str:
        """``connection_reuse``, ``enable_rpk``."""
        if value.lower() not in ("yes", "no"):
            return f'attribute "{name}" has bad value: "{value}"'
        if name.lower() == "connection_reuse":
            entry.reuse = value.lower() == "yes"
        return ""

    def _external(self, entry: _Entry, name: str, value: str) -> str:
        """``policy_ttl``, ``policy_type``, ``policy_domain``, ``policy_failure``: once, of a known form."""
        attribute = _EXTERNAL[name.lower()]
        if getattr(entry, attribute):
            return f'attribute "{name}" is specified multiple times'
        if attribute in ("kind", "failure"):
            value = value.lower()
        good: Callable[[str], bool] = {
            "ttl": lambda text: text.isascii() and text.isdecimal() and int(text) < 1 << 31,
            "kind": _KINDS.__contains__,
            "domain": valid_hostname,
            "failure": _FAILURES.__contains__,
        }[attribute]
        if not good(value):
            form = "an unexpected" if attribute in ("kind", "failure") else "a malformed"
            return f'attribute "{name}" has {form} value: "{value}"'
        setattr(entry, attribute, value)
        return ""

    def _listed(self, entry: _Entry, name: str, value: str) -> str:
        """``policy_string``, ``mx_host_pattern``: any number of them."""
        (entry.strings if name.lower() == "policy_string" else entry.patterns).append(value)
        return ""


_EXTERNAL = {
    "policy_ttl": "ttl",
    "policy_type": "kind",
    "policy_domain": "domain",
    "policy_failure": "failure",
}
_SETTERS: dict[str, Callable[[TlsPolicies, _Entry, str, str], str]] = {
    "ciphers": TlsPolicies._text,
    "protocols": TlsPolicies._text,
    "exclude": TlsPolicies._text,
    "servername": TlsPolicies._servername,
    "match": TlsPolicies._match,
    "tafile": TlsPolicies._tafile,
    "connection_reuse": TlsPolicies._yes_no,
    "enable_rpk": TlsPolicies._yes_no,
    "policy_string": TlsPolicies._listed,
    "mx_host_pattern": TlsPolicies._listed,
    **dict.fromkeys(_EXTERNAL, TlsPolicies._external),
}


def matches_pattern(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a host is one of those; ``*.example.com`` stands for one label (RFC 8461 section 4.1)."""
    host = to_ascii(name).lower()
    for pattern in patterns:
        wanted = pattern.lower()
        if host == wanted:
            return True
        label, dot, rest = host.partition(".")
        if wanted.startswith("*.") and wanted[2:] and label and dot and rest == wanted[2:]:
            return True
    return False
