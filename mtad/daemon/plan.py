"""The whole configuration, read and checked before any of it takes effect.

:func:`make_plan` is what ``check``, ``start`` and ``reload`` share: it raises
:class:`~mtad.errors.ConfigError` for whatever makes the configuration unusable, all of it in one, and gives
everything worth telling the operator as findings.

Postfix counterpart: what ``master(8)`` and each ``smtpd(8)`` do as they start, and ``postfix check``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from mtad.auth.authenticator import Authenticator
from mtad.config.lint import ERROR, WARNING, Finding, lint, ordered
from mtad.config.master_cf import Service, read_master_cf
from mtad.config.parameters import Parameters
from mtad.daemon import spawner
from mtad.daemon.audit import audit, exposure, filters, login, transports
from mtad.daemon.logs import maillog_path
from mtad.daemon.paths import Owner, owner
from mtad.errors import ConfigError
from mtad.maillog import ListSink, MailLog
from mtad.net.interfaces import facts
from mtad.net.listen import endpoints
from mtad.net.tls_server import ServerTLS
from mtad.net.tls_sessions import SessionContexts
from mtad.policy.evaluator import Evaluator
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.smtpd.rules import CleanupRules
from mtad.smtpd.service import ACTIONS, ServicePlan, plan_service


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration that can be taken."""

    p: Parameters
    owner: Owner
    services: list[Service]  # all of master.cf
    smtpd: list[ServicePlan]
    findings: list[Finding]


def read_parameters(directory: str) -> Parameters:
    """main.cf of ``directory`` with the facts of this host.  Raises ConfigError."""
    return Parameters.load(directory, facts(Parameters.load(directory)))


def is_listener(service: Service) -> bool:
    """Whether mtad serves this entry of master.cf."""
    return service.type == "inet" and os.path.basename(service.command) == "smtpd"


def inspect(directory: str) -> list[Finding]:
    """Everything worth telling about the configuration, what makes it unusable included."""
    return _examine(directory)[1]


def make_plan(directory: str, tls_sessions: SessionContexts | None = None) -> Plan:
    """Read and check the configuration in ``directory``.  Raises ConfigError.

    ``tls_sessions`` are the contexts that outlive it.
    """
    plan, findings = _examine(directory, tls_sessions)
    if plan is not None:
        return plan
    bad = [finding for finding in findings if finding.severity == ERROR]
    if len(bad) > 1:
        raise ConfigError("; ".join([str(finding) for finding in bad]))
    raise ConfigError(bad[0].text, path=bad[0].path, line=bad[0].line, parameter=bad[0].parameter)


def renewed(plan: Plan, tls_sessions: SessionContexts, log: MailLog) -> Plan:
    """``plan`` with certificates as they are in their files now.  Raises ConfigError."""
    services = [
        replace(each, tls=ServerTLS(each.p, log.named(each.settings.ident), tls_sessions))
        for each in plan.smtpd
    ]
    return replace(plan, smtpd=services)


def _examine(
    directory: str, tls_sessions: SessionContexts | None = None
) -> tuple[Plan | None, list[Finding]]:
    """The plan, unless one of the findings is an error; errors come first."""
    warnings: list[str] = []
    try:
        p = read_parameters(directory)
        services = read_master_cf(os.path.join(directory, "master.cf"), warnings)
    except ConfigError as problem:
        return None, [_error(problem)]
    sink = ListSink()
    trial = _Trial(p, services, MailLog(sink, "check"), tls_sessions)
    for service in services:
        if is_listener(service):
            trial.add(service)
    linted = lint(p, services, warnings)
    wrong = {_place(finding) for finding in linted if finding.severity == ERROR and finding.parameter}
    found = [finding for finding in trial.findings if _place(finding) not in wrong]
    found += audit(p, [plan.p for plan in trial.plans])
    found += linted
    found += _fresh(trial.warnings, found)
    found += _fresh(_logged(sink), found)
    try:
        maillog_path(p)
    except ConfigError as problem:
        found.append(_error(problem))
    who = None
    try:
        who = owner(p)
    except ConfigError as problem:
        found.append(_error(problem))
    findings = ordered(_distinct(found))
    if who is None or any(finding.severity == ERROR for finding in findings):
        return None, findings
    kept = transports.findings(p, services)  # whose errors are no reason not to start
    findings = ordered([*findings, *kept, *spawner.findings(p, services, who)])
    return Plan(p, who, services, trial.plans, findings), findings


def _error(problem: ConfigError, p: Parameters | None = None) -> Finding:
    return _finding(ERROR, problem, p)


def _finding(severity: str, problem: ConfigError, p: Parameters | None = None) -> Finding:
    """A problem as a finding; where it names only a parameter, ``p`` knows the line."""
    text = f"{problem.reason} ({problem.remedy})" if problem.remedy else problem.reason
    path, line = problem.path, problem.line
    if not path and problem.parameter and p is not None:
        path, line = p.where(problem.parameter)
    return Finding(severity, path, line, problem.parameter, text)


def _place(finding: Finding) -> tuple[str, int, str]:
    return finding.path, finding.line, finding.parameter


def _core(text: str) -> str:
    """A finding's text without what to do about it."""
    return text.partition("; mail that needs ")[0].partition(" (")[0]


def _distinct(found: list[Finding]) -> list[Finding]:
    """Without errors told twice: at the line that makes them and at a default that mentions it, or with
    and without a remedy."""
    errors = [finding for finding in found if finding.severity == ERROR]
    placed = {_core(finding.text) for finding in errors if finding.line}
    longest: dict[tuple[tuple[str, int, str], str], Finding] = {}
    for finding in errors:
        key = (_place(finding), _core(finding.text))
        other = longest.get(key)
        if other is None or len(finding.text) > len(other.text):
            longest[key] = finding
    dropped = {finding for finding in errors if not finding.line and _core(finding.text) in placed}
    kept = set(longest.values()) - dropped
    return [finding for finding in found if finding.severity != ERROR or finding in kept]


def _fresh(warnings: Iterable[Finding], found: list[Finding]) -> list[Finding]:
    """Each once, without what is among the findings already."""
    texts = {_core(finding.text) for finding in found}
    return [
        warning
        for warning in dict.fromkeys(warnings)
        if not any(known in warning.text or warning.text in known for known in texts)
    ]


def _logged(sink: ListSink) -> Iterator[Finding]:
    """What would have been logged."""
    for severity, _, line in sink.lines:
        if severity != "info" and "is older than source" not in line:
            yield Finding(WARNING, "", 0, "", line.removeprefix("warning: "))


class _Trial:
    """Builds what a worker will build of each service, and lets go of it."""

    def __init__(
        self, p: Parameters, services: list[Service], log: MailLog, tls_sessions: SessionContexts | None
    ) -> None:
        self.p = p
        self._services = services
        self.log = log
        self._tls_sessions = tls_sessions
        self.plans: list[ServicePlan] = []
        self.findings: list[Finding] = []
        self.warnings: list[Finding] = []  # which others may tell better

    def add(self, service: Service) -> None:
        """Try out one service."""
        own = self.p.for_service(service)
        try:
            self._plan(service, own)
        except ConfigError as problem:
            self.findings.append(_error(problem, own))
        self.findings += login.findings(own)
        self.findings += filters.findings(own, self._services)

    def _plan(self, service: Service, own: Parameters) -> None:
        try:
            plan = plan_service(service, self.p, self.log, self._tls_sessions, self._services)
        except ConfigError:
            with suppress(ConfigError), self._evaluator(own):
                pass  # what is wrong with its lists is told all the same
            raise
        self.plans.append(plan)
        self._serve(plan)

    def _serve(self, plan: ServicePlan) -> None:
        listening = endpoints(plan.service, plan.p)
        with self._evaluator(plan.p) as (evaluator, classes):
            CleanupRules(plan.cleanup, Rewriter(plan.rewrite), classes, self.log).close()
            if evaluator.errors:
                return
            authenticator = None
            if plan.p.flag("smtpd_sasl_auth_enable"):
                authenticator = Authenticator.build(plan.p, None, self.log)
            self.findings += exposure.findings(plan, listening, evaluator, authenticator)

    @contextmanager
    def _evaluator(self, p: Parameters) -> Iterator[tuple[Evaluator, AddressClasses]]:
        """The restrictions of a service, whose findings are noted."""
        with ExitStack() as stack:
            classes = AddressClasses(self.p)
            stack.callback(classes.close)
            evaluator = Evaluator(
                p, self.log, Rewriter(self.p), classes, sleep=_no_sleep, actions=ACTIONS, trial=True
            )
            stack.callback(evaluator.close)
            self.findings += [_finding(ERROR, error, p) for error in evaluator.errors]
            self.warnings += [_finding(WARNING, warning, p) for warning in evaluator.warnings]
            yield evaluator, classes


async def _no_sleep(seconds: float) -> None:
    """Nothing is evaluated while a configuration is only tried out."""
