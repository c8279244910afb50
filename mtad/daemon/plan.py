"""The whole configuration, read and checked before any of it takes effect.

:func:`make_plan` is what ``check``, ``start`` and ``reload`` share: it raises
:class:`~mtad.errors.ConfigError` for the first thing that makes the configuration unusable, and gives
everything worth telling the operator as findings.

Postfix counterpart: what ``master(8)`` and each ``smtpd(8)`` do as they start, and ``postfix check``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from mtad.auth.authenticator import Authenticator
from mtad.config.lint import ERROR, WARNING, Finding, lint
from mtad.config.master_cf import Service, read_master_cf
from mtad.config.parameters import Parameters
from mtad.daemon.paths import Owner, owner
from mtad.errors import ConfigError
from mtad.maillog import ListSink, MailLog
from mtad.net.interfaces import facts
from mtad.policy.evaluator import Evaluator
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
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
    try:
        return make_plan(directory).findings
    except ConfigError as problem:
        fatal = Finding(ERROR, problem.path, problem.line, problem.parameter, _reason(problem))
    try:
        p = read_parameters(directory)
        warnings: list[str] = []
        services = read_master_cf(os.path.join(directory, "master.cf"), warnings)
        rest = lint(p, services, warnings)
    except ConfigError:
        rest = []
    same = [each for each in rest if each.severity == ERROR and each.text == fatal.text]
    return rest if same else [fatal, *rest]


def _reason(problem: ConfigError) -> str:
    return f"{problem.reason} ({problem.remedy})" if problem.remedy else problem.reason


def make_plan(directory: str) -> Plan:
    """Read and check the configuration in ``directory``.  Raises ConfigError."""
    p = read_parameters(directory)
    warnings: list[str] = []
    services = read_master_cf(os.path.join(directory, "master.cf"), warnings)
    findings = lint(p, services, warnings)
    sink = ListSink()
    log = MailLog(sink, "check")
    errors = p.check()
    if errors:
        raise errors[0]
    bad = next((finding for finding in findings if finding.severity == ERROR), None)
    if bad is not None:
        raise ConfigError(bad.text, path=bad.path, line=bad.line, parameter=bad.parameter)
    smtpd = [plan_service(service, p, log) for service in services if is_listener(service)]
    if not smtpd:
        raise ConfigError(
            "no service for mtad: no inet service runs smtpd",
            path=os.path.join(directory, "master.cf"),
            remedy="enable the submission and submissions entries",
        )
    for plan in smtpd:
        _try_out(plan, p, log)
    seen = {(finding.path, finding.line, finding.text) for finding in findings}
    for _, _, text in sink.lines:
        finding = Finding(WARNING, "", 0, "", text.removeprefix("warning: "))
        if (finding.path, finding.line, finding.text) not in seen:
            seen.add((finding.path, finding.line, finding.text))
            findings.append(finding)
    return Plan(p, owner(p), services, smtpd, findings)


async def _no_sleep(seconds: float) -> None:
    """Nothing is evaluated while a configuration is only tried out."""


def _try_out(plan: ServicePlan, main: Parameters, log: MailLog) -> None:
    """Build what a worker will build, and let go of it."""
    classes = AddressClasses(main)
    evaluator = Evaluator(plan.p, log, Rewriter(main), classes, sleep=_no_sleep, actions=ACTIONS)
    for warning in evaluator.warnings:
        log.warning(warning)
    evaluator.close()
    classes.close()
    if plan.p.flag("smtpd_sasl_auth_enable"):
        Authenticator.build(plan.p, None, log)  # type: ignore[arg-type]
