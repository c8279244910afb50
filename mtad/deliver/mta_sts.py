"""MTA-STS: the policy by which a domain says which hosts take its mail, and that they have valid
certificates.

:meth:`MtaSts.policy` gives the policy of a domain, or None where it has none that is known.  It is found by
the TXT record ``_mta-sts.domain`` and fetched from ``https://mta-sts.domain/.well-known/mta-sts.txt``, and
kept on disk (:class:`PolicyStore`) as long as it says (``max_age``): who can suppress DNS answers or HTTPS
can not make us forget it.  It is fetched anew when the record's id changes and, so that it does not end, once
a day when it is used.  A fetch that failed is not tried again for some minutes.

:func:`parse_policy` and :func:`parse_record` read both formats, bounded, and raise ValueError.

RFC 8461.  Postfix counterpart: none; a plug-in that answers ``smtp_tls_policy_maps``.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass

from twisted.internet.defer import Deferred

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import MailLog
from mtad.net.dns import DnsError, DnsStatus, Resolver, valid_hostname
from mtad.net.http import HttpClient, HttpError

#: Longest policy, longest life of one (RFC 8461 section 3.2)
SIZE_LIMIT = 64 * 1024
MAX_AGE_LIMIT = 31_557_600
#: Most hosts in a policy, most policies in memory and on disk
PATTERN_LIMIT = 200
MEMORY_LIMIT = 1000
DISK_LIMIT = 20_000
#: Seconds before a failed fetch is tried again, and before a policy in use is fetched anew
PATIENCE = 300
REFRESH = 86_400

_ID = re.compile(r"[A-Za-z0-9]{1,32}")
_MODES = ("enforce", "testing", "none")


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """A policy, with the id of its record and when it was fetched (by the clock of the epoch)."""

    mode: str
    patterns: tuple[str, ...]
    max_age: int
    id: str
    fetched: float

    @property
    def ends(self) -> float:
        return self.fetched + self.max_age

    @property
    def strings(self) -> tuple[str, ...]:
        """Its lines, for reports."""
        hosts = [f"mx: {pattern}" for pattern in self.patterns]
        return ("version: STSv1", f"mode: {self.mode}", *hosts, f"max_age: {self.max_age}")


def parse_record(texts: list[bytes]) -> str:
    """The id in the TXT records of ``_mta-sts.domain``; empty where the domain has no policy.

    More than one record of our kind counts as none (RFC 8461 section 3.1).
    """
    ours = [text.decode("ascii", "replace") for text in texts if text.startswith(b"v=STSv1;")]
    if len(ours) != 1:
        return ""
    for part in ours[0].split(";"):
        name, _, value = part.strip().partition("=")
        if name == "id" and _ID.fullmatch(value):
            return value
    return ""


def parse_policy(body: bytes, identifier: str, now: float) -> StsPolicy:
    """The policy of a file; ValueError says what is wrong with it."""
    if len(body) > SIZE_LIMIT:
        raise ValueError("it is too long")
    values: dict[str, str] = {}
    patterns: list[str] = []
    for line in body.decode("utf-8", "replace").splitlines():
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            continue
        if name == "mx":
            patterns.append(value.lower().removesuffix("."))
        else:
            values.setdefault(name, value)
    age = values.get("max_age", "")
    if values.get("version") != "STSv1":
        raise ValueError("it has no version: STSv1")
    if values.get("mode") not in _MODES:
        raise ValueError("it has no known mode")
    if not (age.isascii() and age.isdecimal()) or len(age) > 10:
        raise ValueError("it has no max_age")
    mode = values["mode"]
    if any(not valid_hostname(pattern.removeprefix("*.")) for pattern in patterns):
        raise ValueError("one of its hosts is no host name")
    if mode != "none" and not patterns:
        raise ValueError("it names no host")
    if len(patterns) > PATTERN_LIMIT:
        raise ValueError("it names too many hosts")
    return StsPolicy(mode, tuple(patterns), min(int(age), MAX_AGE_LIMIT), identifier, now)


class PolicyStore:
    """Policies in files, one for each domain, in a directory of their own."""

    def __init__(self, directory: str, log: MailLog) -> None:
        self._directory = directory
        self._log = log

    def load(self, domain: str) -> StsPolicy | None:
        """What was kept; None for what is not there or makes no sense."""
        try:
            with open(self._path(domain), "rb") as file:
                found = json.loads(file.read(2 * SIZE_LIMIT))
            policy = StsPolicy(
                str(found["mode"]),
                tuple(str(pattern) for pattern in found["patterns"]),
                int(found["max_age"]),
                str(found["id"]),
                float(found["fetched"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            self._log.warning(f"MTA-STS: cannot read {self._path(domain)}")
            return None
        return policy if policy.mode in _MODES else None

    def keep(self, domain: str, policy: StsPolicy) -> None:
        """Write a policy; what stands in the way is only told to the log."""
        path = self._path(domain)
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            if not os.path.exists(path):
                self._make_room(policy.fetched)
            with open(f"{path}.tmp", "wb") as file:
                file.write(json.dumps(asdict(policy)).encode())
            os.replace(f"{path}.tmp", path)
        except OSError as error:
            self._log.warning(f"MTA-STS: cannot write {path}: {error.strerror}")

    def _make_room(self, now: float) -> None:
        names = os.listdir(self._directory)
        if len(names) < DISK_LIMIT:
            return
        aged = sorted((os.stat(os.path.join(self._directory, name)).st_mtime, name) for name in names)
        for _, name in aged[: DISK_LIMIT // 10]:
            os.unlink(os.path.join(self._directory, name))

    def _path(self, domain: str) -> str:
        return os.path.join(self._directory, f"{domain}.json")


class MtaSts:
    """The policies of all domains."""

    def __init__(
        self,
        resolver: Resolver,
        http: HttpClient,
        store: PolicyStore,
        log: MailLog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._resolver = resolver
        self._http = http
        self._store = store
        self._log = log
        self._clock = clock
        self._known: OrderedDict[str, StsPolicy | None] = OrderedDict()
        self._failed: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._fetching: dict[str, list[Deferred[None]]] = {}

    @classmethod
    def build(cls, p: Parameters, resolver: Resolver, reactor: object, log: MailLog) -> MtaSts | None:
        """What ``mtad_mta_sts`` asks for.  Raises ConfigError."""
        if not p.flag("mtad_mta_sts"):
            return None
        try:
            http = HttpClient(reactor, p.seconds("mtad_mta_sts_timeout"), p["mtad_mta_sts_CAfile"])
        except ConfigError as error:
            raise p.error("mtad_mta_sts_CAfile", f"{error.path}: {error.reason}") from error
        store = PolicyStore(os.path.join(p["mtad_queue_directory"], "mta-sts"), log)
        return cls(resolver, http, store, log)

    async def policy(self, domain: str) -> StsPolicy | None:
        """The policy to deliver by to ``domain``, a host name in ASCII form."""
        domain = domain.lower().removesuffix(".")
        known = self._recall(domain)
        identifier = await self._identifier(domain)
        if not identifier:
            self._failed.pop(domain, None)
        stale = known is None or (identifier not in ("", known.id))
        old = known is not None and self._clock() - known.fetched > REFRESH
        if identifier and (stale or old):
            await self._fetch(domain, identifier)
            known = self._recall(domain)
        return known

    def failure(self, domain: str) -> str:
        """Why there is no policy although there should be one, as RFC 8460 names it; or nothing."""
        failed = self._failed.get(domain)
        return failed[1] if failed is not None and self._recall(domain) is None else ""

    def _recall(self, domain: str) -> StsPolicy | None:
        if domain not in self._known:
            self._remember(domain, self._store.load(domain))
        known = self._known[domain]
        return known if known is not None and known.ends > self._clock() else None

    def _remember(self, domain: str, policy: StsPolicy | None) -> None:
        self._known[domain] = policy
        self._known.move_to_end(domain)
        if len(self._known) > MEMORY_LIMIT:
            self._known.popitem(last=False)

    async def _identifier(self, domain: str) -> str:
        try:
            return parse_record(await self._resolver.txt(f"_mta-sts.{domain}"))
        except DnsError as error:
            if error.status is not DnsStatus.NOT_FOUND:
                self._log.warning(f"MTA-STS: record lookup failed for {domain}: {error.text}")
            return ""

    async def _fetch(self, domain: str, identifier: str) -> None:
        """Fetch a policy, once for all who want it at a time."""
        failed = self._failed.get(domain)
        if failed is not None and failed[0] > self._clock():
            return
        waiting = self._fetching.get(domain)
        if waiting is not None:
            turn: Deferred[None] = Deferred()
            waiting.append(turn)
            await turn
            return
        self._fetching[domain] = []
        try:
            await self._fetch_now(domain, identifier)
        finally:
            for turn in self._fetching.pop(domain):
                turn.callback(None)

    async def _fetch_now(self, domain: str, identifier: str) -> None:
        url = f"https://mta-sts.{domain}/.well-known/mta-sts.txt"
        try:
            answer = await self._http.get(url, accept="text/plain")
        except HttpError as error:
            webpki = "TLS" in str(error)
            self._fail(domain, str(error), "sts-webpki-invalid" if webpki else "sts-policy-fetch-error")
            return
        if answer.status != 200:
            self._fail(domain, f"{answer.where} answered {answer.status}", "sts-policy-fetch-error")
            return
        if answer.kind not in ("", "text/plain"):  # RFC 8461 section 3.2: what others have put there
            self._fail(domain, f"{answer.where} is no text/plain", "sts-policy-invalid")
            return
        try:
            policy = parse_policy(answer.body, identifier, self._clock())
        except ValueError as error:
            self._fail(domain, f"{answer.where}: {error}", "sts-policy-invalid")
            return
        self._failed.pop(domain, None)
        self._remember(domain, policy)
        self._store.keep(domain, policy)

    def _fail(self, domain: str, text: str, kind: str) -> None:
        self._log.warning(f"MTA-STS: no policy for {domain}: {text}")
        self._failed[domain] = (self._clock() + PATIENCE, kind)
        if len(self._failed) > MEMORY_LIMIT:
            self._failed.popitem(last=False)
