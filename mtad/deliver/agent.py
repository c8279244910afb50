"""Delivering over SMTP or LMTP: one agent per transport.

:meth:`Agent.deliver` uses an idle session where there is one; otherwise it goes through the hosts of the
next hop, and through ``smtp_fallback_relay`` when none could be reached, until each recipient is delivered,
refused for good, or out of hosts.  By LMTP the next hop may be ``unix:`` and a path.  Mail that would come
back to this host goes to ``best_mx_transport`` where there is one.  The agent logs an outcome line per
recipient and raises nothing but mistakes.

RFC 5321 section 5.1.  Postfix counterpart: ``smtp_connect.c``, ``smtp_trouble.c``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from twisted.internet.task import deferLater

from mtad.config.parameters import Parameters
from mtad.deliver.attempt import Attempt
from mtad.deliver.client_flags import NO_FLAGS, ClientFlags
from mtad.deliver.connection import Connection
from mtad.deliver.convert import ConversionFailed, Converter
from mtad.deliver.delivered import was_delivered_to
from mtad.deliver.eai import requires_utf8
from mtad.deliver.failure import SessionFailure
from mtad.deliver.job import Clean, Job, Result, as_it_is
from mtad.deliver.mta_sts import MtaSts
from mtad.deliver.names import ClientNames
from mtad.deliver.nexthop import Destination, HopError, Host, HostFinder, Hosts, numeric, parse_destination
from mtad.deliver.notices import Notices
from mtad.deliver.oddities import Oddities
from mtad.deliver.outcomes import Outcomes
from mtad.deliver.pool import Pool
from mtad.deliver.sessions import Sessions
from mtad.deliver.settings import SmtpSettings
from mtad.deliver.transaction import Transaction
from mtad.errors import TableError
from mtad.maillog import MailLog, printable
from mtad.net.dns import Resolver
from mtad.net.interfaces import OwnAddresses
from mtad.net.listen import port_number
from mtad.oauth.tokens import Accounts
from mtad.queue.message import Outcome, Recipient
from mtad.queue.store import QueueStore
from mtad.tables import StringList

_SMTPS_PORT = 465


class Agent:
    """The deliveries of one transport.  ``p`` are the parameters of its service."""

    immediate = False

    def __init__(
        self,
        p: Parameters,
        store: QueueStore,
        reactor: Any,
        log: MailLog,
        resolver: Resolver,
        rng: random.Random,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        accounts: Accounts,
        lmtp: bool = False,
        sts: MtaSts | None = None,
        flags: ClientFlags = NO_FLAGS,
        clean: Clean = as_it_is,
    ) -> None:
        self._flags = flags
        self._store = store
        self._clock = clock
        self._log = log
        self._settings = settings = SmtpSettings.of(p, lmtp)
        if settings.assume_final and not flags.final:
            log.warning('lmtp_assume_final is obsolete; instead, specify "flags=X" in master.cf')
        # what another host may do better
        self._again = frozenset(("deferred", "bounced") if settings.soft_bounce else ("deferred",))
        names = ClientNames(p, resolver, log)
        proxied = numeric(p.words("proxy_interfaces"))
        own = OwnAddresses(p)
        self._finder = HostFinder(p, names, lambda: proxied.union(own()), rng, lmtp=lmtp, log=log)
        self._outcomes = Outcomes(p, log)
        name = "smtp_connection_cache_destinations"
        self._cached = StringList(name, p[name], p.directory)
        self._port_of = lambda name: port_number(name, p)
        self._relayhosts = frozenset(p.words("relayhost"))
        prefix = "lmtp_" if lmtp else "smtp_"
        self._converter = Converter(p, log, lambda: deferLater(reactor, 0.0), prefix=prefix)
        self._oddities = Oddities(p, log, lmtp)
        self._pool = Pool(settings, clock)
        self._notices = Notices(p, log, new_id, clock, clean, lmtp)
        self._sessions = Sessions(
            p, settings, reactor, log, resolver, clock, accounts, sts, self._oddities, self._notices
        )
        self._security = self._sessions.security

    def close_idle(self) -> None:
        """End the sessions that nobody uses."""
        self._pool.close()

    def abort(self) -> None:
        """End all sessions, whatever they do."""
        self._pool.close()
        self._sessions.abort()

    async def deliver(self, job: Job) -> Result:
        """Make a delivery."""
        if self._flags.single and (refused := await self._refused(job)) is not None:
            return Result(refused)
        nexthop = job.route.nexthop
        sender = job.message.sender if self._sessions.by_sender else None
        utf8 = requires_utf8(job.message, job.recipients, self._store)
        key: Hashable = (nexthop, sender, self._security.wish(job.message), utf8)
        attempt = Attempt(job, key, utf8)
        attempt.keeps = job.busy and self._settings.cache_on_demand
        if not attempt.keeps and self._cached:
            attempt.keeps = await self._is_listed(nexthop)
        job.stamps.begun = job.stamps.connected = self._clock()
        while (connection := self._pool.take(key)) is not None:
            connection.log_reuse()
            connection.listen(self._notices.begin())
            if await self._use(connection, attempt, pooled=True):
                break  # else the server had hung up meanwhile
        if attempt.pending:
            await self._by_hosts(attempt)
        return attempt.result

    async def _is_listed(self, nexthop: str) -> bool:
        """``smtp_connection_cache_destinations``."""
        try:
            return await self._cached.matches(_domain(nexthop))
        except TableError as error:
            self._log.warning(str(error))
            return False

    async def _refused(self, job: Job) -> list[Outcome] | None:
        """The outcomes where ``flags=`` does not let this delivery be."""
        dsn, reason = "4.3.5", "mail system configuration error"
        one = job.recipients[0]
        if len(job.recipients) > 1:
            flags = self._flags
            self._log.warning(f"flag `{flags.single}' requires {flags.name}_destination_recipient_limit = 1")
        elif not self._flags.delivered_to:
            return None
        else:
            try:
                address = await self._converter.address(one.address)
            except ConversionFailed as error:
                dsn, reason = error.dsn, error.text
            else:
                if not was_delivered_to(self._store, job.message, address):
                    return None
                dsn, reason = "5.4.6", f"mail forwarding loop for {printable(one.address)}"
        status = "bounced" if dsn[0] == "5" else "deferred"
        job.stamps.begun = job.stamps.connected = job.stamps.done = self._clock()
        outcomes = [Outcome(each, status, dsn, reason, self._flags.name) for each in job.recipients]
        await self._outcomes.settle(job, outcomes)
        return outcomes

    async def _by_hosts(self, attempt: Attempt) -> None:
        """Go through the hosts until nobody is left to serve."""
        nexthop = attempt.job.route.nexthop
        if self._settings.lmtp and nexthop.startswith("unix:"):
            attempt.demands = await self._security.demands(attempt.job.message, self._settings.myhostname)
            await self._try_hosts(attempt, [self._socket(nexthop[5:])], True)
        else:
            await self._by_elements(attempt, nexthop)
        if attempt.pending and attempt.loops and self._settings.best_mx_transport:
            transport, queue_id = self._settings.best_mx_transport, attempt.job.message.queue_id
            for one in attempt.pending:
                self._log.info(f"{queue_id}: passing <{printable(one.address)}> to transport={transport}")
            attempt.result.passed[transport] = attempt.pending
            attempt.pending = []
        if attempt.pending:
            await self._fail(attempt)

    def _socket(self, path: str) -> Host:
        """The host behind a UNIX-domain socket: this one."""
        name = self._settings.myhostname
        return Host(name, path, 0, 0, Destination(path, name, 0, True))

    async def _by_elements(self, attempt: Attempt, nexthop: str) -> None:
        if self._settings.lmtp:
            nexthop = nexthop.removeprefix("inet:")
        elements = split_nexthop(nexthop)
        if not elements:
            attempt.failure = SessionFailure("4.3.5", f'null destination: "{nexthop}"', temporary=True)
            return
        elements += self._settings.fallback
        for number, element in enumerate(elements, 1):
            found = await self._find(attempt, element)
            if found is not None:
                last = number == len(elements) or found.final
                await self._try_hosts(attempt, self._left(attempt, found), last, found.best)
            refused = attempt.failure is not None and self._is_final(attempt.failure)
            if not attempt.pending or refused or (found.final if found else attempt.mine):
                break
        self._excuse(attempt, elements[0], number > len(elements) - len(self._settings.fallback))

    def _left(self, attempt: Attempt, found: Hosts) -> list[Host]:
        """The hosts to try."""
        hosts = [host for host in found.hosts if host.address != attempt.tried]
        return hosts[: self._settings.address_limit or None]

    async def _others(self, attempt: Attempt) -> bool:
        """Whether there are hosts to try besides the one whose session was used again."""
        elements = [*split_nexthop(attempt.job.route.nexthop), *self._settings.fallback]
        if len(elements) > 1 or elements[0].startswith("unix:"):
            return len(elements) > 1
        found = await self._find(attempt, elements[0].removeprefix("inet:"))
        return found is not None and self._settings.session_limit != 1 and bool(self._left(attempt, found))

    def _excuse(self, attempt: Attempt, first: str, fallback: bool) -> None:
        """What the operator has to mend is no reason to bounce; ``fallback``: the last try was at one."""
        failure = attempt.failure
        if not attempt.pending or failure is None or failure.temporary or failure.connected:
            return
        relayhost = first in self._relayhosts and not self._settings.lmtp
        if fallback or relayhost:
            self._log.warning(f"{'smtp_fallback_relay' if fallback else 'relayhost'} configuration problem")
            attempt.failure = SessionFailure("4.3.5", failure.text, temporary=True)
            attempt.loops = False

    def _is_final(self, failure: SessionFailure) -> bool:
        """Whether a server has said no so that none need be asked any more."""
        for_now = failure.temporary or failure.host_only or self._settings.soft_bounce
        return failure.connected and not for_now

    async def _find(self, attempt: Attempt, element: str) -> Hosts | None:
        """The addresses to try for one next hop, None when there is a failure."""
        settings = self._settings
        try:
            destination = parse_destination(element, settings.default_port, self._port_of)
            if destination.port == _SMTPS_PORT and settings.wrapper_hint:
                self._log.info(settings.wrapper_hint)
            attempt.demands = await self._security.demands(attempt.job.message, destination.host)
            return await self._finder.find(destination)
        except HopError as error:
            attempt.mine = error.mine
            attempt.loops = error.mine and not error.temporary
            attempt.failure = SessionFailure(error.dsn, error.text, temporary=error.temporary)
            return None

    async def _try_hosts(
        self, attempt: Attempt, hosts: Sequence[Host], last_site: bool, best: int = 0
    ) -> None:
        sessions, settings = 0, self._settings
        todo = [(host, False) for host in reversed(hosts)]
        while todo:
            host, plain = todo.pop()
            last = last_site and not todo
            try:
                connection = await self._sessions.open(attempt, host, best, plain)
            except SessionFailure as failure:
                if failure.tls:
                    todo.append((host, True))
                    last = False
                attempt.failure = (attempt.failure if failure.passed_over else None) or failure
                attempt.job.stamps.connected = self._clock()
                if not (failure.temporary or failure.host_only or settings.soft_bounce):
                    return
                if failure.connected and not last:
                    self._log.info(f"{attempt.job.message.queue_id}: {failure.text}")
                continue
            sessions += 1
            connection.last = last or (last_site and sessions == settings.session_limit)
            attempt.job.stamps.connected = self._clock()
            await self._use(connection, attempt)
            if attempt.pending and connection.again_plain:
                sessions -= 1
                todo.append((host, True))
            elif not attempt.pending or sessions == settings.session_limit:
                return

    async def _use(self, connection: Connection, attempt: Attempt, pooled: bool = False) -> bool:
        """Send the message to whoever is pending.  False when an idle session turned out to be dead."""
        job = attempt.job
        transaction = Transaction(
            connection,
            self._settings,
            job.message,
            attempt.pending,
            self._store,
            self._log,
            self._converter,
            self._flags,
        )
        try:
            await transaction.run()
        except Exception:
            connection.abort()
            raise
        self._tell(connection, attempt, transaction)
        if transaction.stale:
            connection.quit()
            return False
        job.stamps.done = self._clock()
        if pooled and any(outcome.status in self._again for outcome in transaction.outcomes):
            attempt.tried = connection.host.address
            connection.last = not await self._others(attempt)
        connection.again_plain = connection.tls_optional and transaction.lost
        connection.last = connection.last and not connection.again_plain
        outcomes = self._sorted(connection, attempt, transaction)
        await self._outcomes.settle(job, outcomes, connection.uses, self._tls_field(connection.tls_status))
        attempt.result.outcomes += outcomes
        if transaction.unreached is None:
            attempt.result.unreached = None
        elif connection.last:
            attempt.result.unreached = transaction.unreached
        self._trace(connection, attempt, outcomes)
        await self._part(connection, attempt, transaction)
        return True

    def _trace(self, connection: Connection, attempt: Attempt, outcomes: list[Outcome]) -> None:
        """No further server tells the sender what becomes of the mail, where this one has no DSN."""
        if connection.session.extensions.dsn:
            return
        final = self._settings.lmtp and (self._settings.assume_final or self._flags.final)
        for outcome in outcomes:
            if outcome.status == "sent":
                outcome.action = "delivered" if final else "relayed"
                attempt.result.traced.append(outcome)

    async def _part(self, connection: Connection, attempt: Attempt, transaction: Transaction) -> None:
        """Keep the session for others, or end it; and tell the postmaster what was wrong with it."""
        connection.tls_optional = False
        keeps = connection.keeps_tls if connection.keeps_tls is not None else self._settings.tls_reuse
        reusable = connection.tls is None or keeps
        self._pool.give(attempt.key, connection, reusable and attempt.keeps)
        if transaction.unreached is None:  # or the sessions of hosts that are less preferred would be used
            attempt.keeps = False
        history, errors, relay = connection.history, connection.errors, connection.host.relay
        connection.listen(None)  # at once: others may use it from here on
        attempt.result.forwards += await self._notices.of(history, errors, relay, attempt.job.message)

    def _sorted(self, connection: Connection, attempt: Attempt, transaction: Transaction) -> list[Outcome]:
        """The outcomes that count; the recipients of the others stay pending for the next host."""
        pending, attempt.pending = attempt.pending, []
        if connection.last:
            return transaction.outcomes
        queue_id = attempt.job.message.queue_id
        for status, reason in transaction.failures:
            if status in self._again:
                self._log.info(f"{queue_id}: {reason}")
        kept: list[Outcome] = []
        again: list[Recipient] = []
        for outcome in transaction.outcomes:
            if outcome.status in self._again:
                again.append(outcome.recipient)
                attempt.failure = SessionFailure(
                    outcome.dsn,
                    outcome.reason,
                    temporary=outcome.status == "deferred",
                    relay=outcome.relay,
                    diagnostic=outcome.diagnostic,
                    remote_mta=outcome.remote_mta,
                )
            else:
                kept.append(outcome)
        attempt.pending = [one for one in pending if one in again]
        return kept

    def _tell(self, connection: Connection, attempt: Attempt, transaction: Transaction) -> None:
        """Tell the log what there was to notice."""
        queue_id = attempt.job.message.queue_id
        self._oddities.tell(connection, queue_id)
        if transaction.broke_lines and not attempt.broke_lines:
            attempt.broke_lines = True
            limit = self._settings.line_limit
            self._log.info(f"{queue_id}: breaking line > {limit} bytes with <CR><LF>SPACE")

    def _tls_field(self, status: str) -> str:
        """``smtp_log_tls_feature_status``: what became of TLS, for the delivery line."""
        return f"tls={status}, " if status and self._settings.log_tls else ""

    async def _fail(self, attempt: Attempt) -> None:
        """The same failure for all that are still pending."""
        failure = attempt.failure or SessionFailure("4.4.4", "no host to try", temporary=True)
        job = attempt.job
        status = "deferred" if failure.temporary else "bounced"
        job.stamps.done = self._clock()
        rest = failure.text, failure.relay, failure.diagnostic, failure.remote_mta
        outcomes = [Outcome(recipient, status, failure.dsn, *rest) for recipient in attempt.pending]
        await self._outcomes.settle(job, outcomes, tls=self._tls_field(failure.tls_status))
        attempt.result.outcomes += outcomes
        waits = any(outcome.status == "deferred" for outcome in outcomes)
        if waits and not any(outcome.status == "sent" for outcome in attempt.result.outcomes):
            attempt.result.unreached = (outcomes[0].dsn, outcomes[0].reason)
        attempt.pending = []


def _domain(nexthop: str) -> bytes:
    """The domain or host that is the first element of a next hop."""
    first = nexthop.replace(",", " ").split()[:1]
    return (first[0] if first else "").strip("[").partition("]")[0].partition(":")[0].encode()


def split_nexthop(nexthop: str) -> list[str]:
    """The elements of a next hop, which may be a list."""
    return nexthop.replace(",", " ").split()
