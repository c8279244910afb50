"""One smtpd service of master.cf, ready to serve in this process.

:class:`SmtpdService` is the Twisted factory of its connections and holds what they share: settings, TLS,
authentication, policy, queue, log.  Its TLS contexts are made before the fork (:class:`ServicePlan`), so that
sessions can be resumed in any worker; all else is made here.

Postfix counterpart: one entry of ``master.cf`` and ``smtpd(8)``'s initialisation.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mtad.auth.authenticator import Authenticator
from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters
from mtad.maillog import MailLog
from mtad.net.dns import Resolver
from mtad.net.hosts import PeerName, PeerStatus, client_address, peername
from mtad.net.tls_server import ServerTLS
from mtad.net.tls_sessions import SessionContexts
from mtad.policy.anvil import Anvil
from mtad.policy.client_limits import ClientLimits
from mtad.policy.evaluator import Evaluator
from mtad.policy.login_limits import LoginLimits
from mtad.policy.policy_service import PolicyOptions
from mtad.policy.request import Request
from mtad.policy.setup import Verify
from mtad.queue.ids import QueueIds
from mtad.queue.message import Message
from mtad.queue.pressure import Pressure
from mtad.queue.spool import open_spool
from mtad.queue.store import QueueStore
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.rewrite.probe_sender import ProbeSender
from mtad.smtpd.clients import ClientRules
from mtad.smtpd.commands import CommandFilter
from mtad.smtpd.engine import engine_settings
from mtad.smtpd.etrn import Etrn
from mtad.smtpd.internal import InternalMail
from mtad.smtpd.milter.service import Route, milter_service
from mtad.smtpd.notices import Notices
from mtad.smtpd.policy_client import PolicyConnections
from mtad.smtpd.protocol import SubmissionProtocol
from mtad.smtpd.refusals import Refusals
from mtad.smtpd.rules import CleanupRules, service_parameters
from mtad.smtpd.settings import SmtpdSettings, read_settings
from mtad.smtpd.stress import Stress
from mtad.smtpd.tls_names import ServerNames
from mtad.smtpd.watching import Watching
from mtad.tables.match import AddressList
from mtad.wire.settings import ServerSettings

#: Clients whose names are remembered, and for how many seconds: those that come again and again.
_NAMES, _NAME_LIFETIME = 1000, 5.0

#: The access(5) actions on messages that intake carries out.
ACTIONS = frozenset(("BCC", "DISCARD", "FILTER", "HOLD", "PREPEND", "REDIRECT"))


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """A service as it will be: its master.cf entry, parameters (its own, and those of the internal services
    that it leads to) and TLS context."""

    service: Service
    p: Parameters
    cleanup: Parameters
    rewrite: Parameters
    settings: SmtpdSettings
    stressed: SmtpdSettings  # the same under stress
    tls: ServerTLS


def plan_service(
    service: Service,
    p: Parameters,
    log: MailLog,
    tls_sessions: SessionContexts | None = None,
    services: Sequence[Service] = (),
) -> ServicePlan:
    """Read what one service needs; ``services`` are all of master.cf.  Raises ConfigError."""
    own = p.for_service(service)
    cleanup = service_parameters(p, services, own["cleanup_service_name"])
    rewrite = service_parameters(p, services, cleanup["rewrite_service_name"])
    settings = read_settings(own, service.name)
    stressed = settings if own["stress"] else read_settings(own.replaced("stress", "yes"), service.name)
    tls = ServerTLS(own, log.named(settings.ident), tls_sessions)
    return ServicePlan(service, own, cleanup, rewrite, settings, stressed, tls)


class SmtpdService(Factory):
    """See the module.  ``queued`` is called with each message that is in the queue."""

    noisy = False

    def __init__(
        self,
        plan: ServicePlan,
        *,
        reactor: Any,
        store: QueueStore,
        log: MailLog,
        resolver: Resolver,
        ids: QueueIds,
        spool_directory: str,
        main: Parameters,
        queued: Callable[[Message], None],
        now: Callable[[], float],
        route: Route,
        verify: Verify,
        control: str,
        anvil: Anvil,
        pressure: Pressure,
    ) -> None:
        p = plan.p
        self.plan = plan
        self.settings = plan.settings
        self.tls = plan.tls
        self.reactor = reactor
        self.store = store
        self.pressure = pressure
        self._resolver = resolver
        self._names: dict[str, tuple[float, PeerName]] = {}
        self.ids = ids
        self.spool_directory = spool_directory
        self._queue_directory = p["queue_directory"]
        self.queued = queued
        self.now = now
        self.log = log.named(plan.settings.ident)
        # cleanup(8) knows nothing of the service's own syslog_name
        self.cleanup_log = log.named(f"{plan.cleanup['syslog_name']}/cleanup")
        # trivial-rewrite(8) knows nothing of -o
        self.rewriter = Rewriter(main)
        self.sessions: set[SubmissionProtocol] = set()
        classes = AddressClasses(main)
        self._open_sessions(p, route)
        self._open_intake(p, classes)
        self.evaluator = Evaluator(
            p,
            self.log,
            self.rewriter,
            classes,
            sleep=self.sleep,
            actions=ACTIONS,
            dial=self._dial,
            resolver=resolver,
            route=route,
            verify=verify,
        )
        self.etrn = Etrn(p, self.log, control, reactor)
        self.client_limits = ClientLimits(p, self.settings.service, anvil, self.log)

    def _open_sessions(self, p: Parameters, route: Route) -> None:
        """What sessions go by: TLS, logins, filters, lists of clients and commands."""
        names = ServerNames(p, self.log) if p["tls_server_sni_maps"] else None
        self.tls.serve(self.log, None if names is None else names.find)
        self.engine_settings: ServerSettings = engine_settings(
            p, self.plan.cleanup, self.tls.level, self.tls.offered
        )
        self.authenticator: Authenticator | None = None
        if self.engine_settings.auth_enabled:
            self.authenticator = Authenticator.build(p, self.reactor, self.log)
        name = "smtpd_sasl_exceptions_networks"
        self._spared_clients = AddressList(name, p[name], p.directory) if p[name] else None
        self.milters = milter_service(p, self.log, route)
        self.clients = ClientRules(p, self.log, self.engine_settings)
        self.login_limits = LoginLimits.build(p, self.settings.service, self.log)
        self.watching = Watching.build(p, self.log)
        self.refusals = Refusals(p, self.log)
        self.command_filter = CommandFilter(p, self.log)
        self.stress = Stress(self, self.plan.stressed)

    def _open_intake(self, p: Parameters, classes: AddressClasses) -> None:
        """What messages go by."""
        plan, log = self.plan, self.cleanup_log
        milters = self.milters is not None
        self.probe_sender = ProbeSender(p, self.rewriter)
        self.cleanup = CleanupRules(plan.cleanup, Rewriter(plan.rewrite), classes, log, milters=milters)
        self.own_mail = InternalMail(p, plan.cleanup, self.cleanup, log, self.reactor, self.spool_directory)
        self.notices = Notices.build(p, self)

    def buildProtocol(self, addr: IAddress | None) -> SubmissionProtocol:
        return SubmissionProtocol(self)

    def _dial(self, options: PolicyOptions) -> PolicyConnections:
        return PolicyConnections(self.reactor, options, self._queue_directory)

    async def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        await deferLater(self.reactor, seconds)

    async def peer_name(self, address: str) -> PeerName:
        """Who ``address`` says it is."""
        address = client_address(address)
        known = self._names.get(address)
        now = self.reactor.seconds()
        if known is not None and known[0] > now:
            return known[1]
        name = await peername(self._resolver, address, lookup=self.settings.peername_lookup)
        if name.status == PeerStatus.OK:
            if len(self._names) >= _NAMES:
                self._names.clear()
            self._names[address] = (now + _NAME_LIFETIME, name)
        return name

    async def mechanisms(self, request: Request, certificate: bool) -> tuple[bytes, ...]:
        """What EHLO announces to this client; ``certificate``: it has shown one that is trusted."""
        if self.authenticator is None:
            return ()
        spared = self._spared_clients
        if spared and await spared.matches(request.client_address, request.client_name):
            return ()
        await self.authenticator.prepare()
        return self.authenticator.mechanisms(request.tls, certificate)

    def open_spool(self) -> BinaryIO:
        """A file without a name for the content of a large message."""
        return open_spool(self.spool_directory)

    def report_bug(self, failure: Failure) -> None:
        """Log the traceback of a mistake of ours."""
        text = "".join(traceback.format_exception(failure.type, failure.value, failure.getTracebackObject()))
        for part in text.strip().split("\n"):
            self.log.error(part)

    def shut_down(self) -> None:
        """End all sessions, each as soon as it has no mail on its way."""
        for protocol in list(self.sessions):
            protocol.shut_down()
