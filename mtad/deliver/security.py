"""What a message and a next hop ask of the connections that the message goes by.

:class:`Security` is for one transport: :meth:`Security.demands` says what counts for a message at a next hop,
:meth:`Security.policy` gives the TLS policy for one of its hosts, and raises
:class:`~mtad.deliver.failure.SessionFailure` where that host must not get the mail.

RFC 8689.  Postfix counterpart: ``smtp_get_effective_tls_level()`` in ``smtp_connect.c``.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtad.config.parameters import Parameters
from mtad.deliver.dane import PolicyError
from mtad.deliver.failure import UNAVAILABLE, SessionFailure
from mtad.deliver.mta_sts import MtaSts
from mtad.deliver.nexthop import Host
from mtad.deliver.requiretls import DISABLE, ENFORCE, ERROR, STARTTLS, RequireTls
from mtad.deliver.starttls import TlsStatus
from mtad.deliver.tls_policy import TlsPolicies
from mtad.deliver.tlsrpt import Report, Reporter
from mtad.maillog import MailLog
from mtad.net.dns import Resolver
from mtad.net.tls import Policy
from mtad.queue.message import Message


@dataclass(frozen=True, slots=True)
class Wish:
    """What a message says about TLS: whoever wishes the same may have the same connection."""

    not_required: bool = False  # TLS-Required: no
    requiretls: bool = False


@dataclass(frozen=True, slots=True)
class Demands:
    """What counts for a message at a next hop: its wish, how strictly REQUIRETLS is taken, and a report."""

    wish: Wish = Wish()
    requiretls: str = DISABLE
    report: Report | None = None


_NOTHING = Demands()


class Security:
    """See the module."""

    def __init__(
        self, p: Parameters, main: Policy, resolver: Resolver, log: MailLog, sts: MtaSts | None, lmtp: bool
    ) -> None:
        """``main`` is main.cf's policy."""
        self._log = log
        self._policies = TlsPolicies(p, main, resolver, log, None if lmtp else sts)
        self._requiretls = RequireTls(p, log)
        self._reporter = None if lmtp else Reporter.build(p, main.level, resolver, log)
        self._honours_no = p.flag("tls_required_enable")
        self._honours_require = p.flag("requiretls_enable")

    def wish(self, message: Message) -> Wish:
        """What ``message`` asks for; REQUIRETLS goes before ``TLS-Required: no``."""
        attributes = message.attributes
        require = self._honours_require and "requiretls" in attributes
        not_required = self._honours_no and not require and "tls_required_no" in attributes
        return Wish(not_required, require)

    async def demands(self, message: Message, domain: str) -> Demands:
        """What counts for ``message`` at a next hop, which is a bare domain or host."""
        wish = self.wish(message)
        report = None
        if self._reporter is not None and not wish.not_required:
            report = await self._reporter.report(domain)
        if report is None and not (wish.not_required or wish.requiretls):
            return _NOTHING
        return Demands(wish, await self._requiretls.level(domain, wish.requiretls), report)

    async def policy(self, host: Host, demands: Demands, queue_id: str) -> Policy:
        """The policy for ``host``."""
        where = f" for {host.destination.text}/{host.name}"
        if host.path:
            where = f" error for {host.name}/{host.address}"
        try:
            policy = await self._policies.find(host, demands.wish.not_required)
        except PolicyError as error:
            self._log.warning(f"TLS policy lookup{where}: {error.text}")
            failure = SessionFailure(error.dsn, error.text, temporary=error.temporary)
            failure.tls_status = str(TlsStatus("unknown", demands.requiretls))
            raise failure from error
        if demands.requiretls != DISABLE:
            self._check(host, policy, demands, queue_id)
        if not self._policies.authorized(policy, host):
            raise SessionFailure("4.3.0", UNAVAILABLE, temporary=True, passed_over=True)
        return policy

    def _check(self, host: Host, policy: Policy, demands: Demands, queue_id: str) -> None:
        """Raise SessionFailure where the policy can't satisfy REQUIRETLS."""
        status = TlsStatus(policy.level, demands.requiretls)
        level = f"my configured TLS security level '{policy.level}'"
        last = f"The last attempted server was {host.name}"
        dsn, text = "5.7.10", ""
        if demands.requiretls == ERROR:
            dsn, text = "4.7.10", f"REQUIRETLS policy configuration error. {last}"
        elif demands.requiretls == ENFORCE and not policy.must_match:
            status.decide_requiretls("nocertmatch", False)
            text = f"Sender requested REQUIRETLS, but {level} disables certificate matching. {last}"
        elif demands.requiretls == STARTTLS and policy.level == "none":
            status.decide_requiretls("noencryption", False)
            text = f"Sender requested REQUIRETLS, but {level} disables encryption. {last}"
        elif demands.requiretls == STARTTLS and not policy.must_match:
            text = f"Sender requested REQUIRETLS, but {level} disables certificate matching. {last}"
            self._log.info(f"{queue_id}: {text}")
            return
        if not text:
            return
        self._log.warning(f"TLS policy lookup for {host.destination.text}/{host.name}: {text}")
        failure = SessionFailure(dsn, text, temporary=dsn.startswith("4"), host_only=True)
        failure.tls_status = str(status)
        raise failure
