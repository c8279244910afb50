"""The sessions of one transport: what a message needs to have one with a host.

:meth:`Sessions.open` asks for the TLS policy and the login of a host, and connects.  It raises
:class:`~mtad.deliver.failure.SessionFailure`; ConfigError comes when the transport is made.

RFC 4954, RFC 8689.  Postfix counterpart: ``smtp_connect_inet()`` for one address, and the conditions of
``PLAINTEXT_FALLBACK_OK`` in ``smtp.h``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mtad.config.parameters import Parameters
from mtad.deliver.attempt import Attempt
from mtad.deliver.connection import Connection
from mtad.deliver.connector import Connector
from mtad.deliver.credentials import Login, PasswordMaps
from mtad.deliver.failure import Purpose, SessionFailure
from mtad.deliver.mta_sts import MtaSts
from mtad.deliver.nexthop import Host
from mtad.deliver.notices import Notices
from mtad.deliver.oddities import Oddities
from mtad.deliver.requiretls import ENFORCE, STARTTLS
from mtad.deliver.security import Security
from mtad.deliver.settings import SmtpSettings
from mtad.errors import ConfigError, TableError
from mtad.maillog import MailLog
from mtad.net.dns import Resolver
from mtad.net.tls import ClientTLS, Policy
from mtad.oauth.tokens import Accounts


class Sessions:
    """See the module.  ``by_sender``: who sends a message has a say in how to log in."""

    def __init__(
        self,
        p: Parameters,
        settings: SmtpSettings,
        reactor: Any,
        log: MailLog,
        resolver: Resolver,
        clock: Callable[[], float],
        accounts: Accounts,
        sts: MtaSts | None,
        oddities: Oddities,
        notices: Notices,
    ) -> None:
        self._settings = settings
        self._log = log
        self._clock = clock
        self._passwords = PasswordMaps(p, settings.lmtp)
        self.by_sender = self._passwords.by_sender
        tls = ClientTLS(p, log)
        self.security = Security(p, tls.policy, resolver, log, sts, settings.lmtp)
        self._fallback_age = p.seconds("minimal_backoff_time")
        self._connector = Connector(settings, p, tls, reactor, log, clock, accounts, oddities)
        self._notices = notices
        self._open: set[Connection] = set()

    def abort(self) -> None:
        """End all sessions, whatever they do."""
        for connection in list(self._open):
            connection.abort()

    async def open(self, attempt: Attempt, host: Host, best: int, plain: bool) -> Connection:
        """A session with ``host``, without TLS where that has failed (``plain``) and may be left out.

        ``tls`` of the SessionFailure says whether the same host is to be tried once more, ``plain``; so does
        ``tls_optional`` of the session, where it breaks down.
        """
        message = attempt.job.message
        policy = await self.security.policy(host, attempt.demands, message.queue_id)
        login = await self._login(attempt, host)
        optional = login is None and self._is_optional(attempt, policy)
        if plain and optional:
            return await self._connect(attempt, host, replace(policy, level="none"), None, best, policy.level)
        try:
            connection = await self._connect(attempt, host, policy, login, best)
        except SessionFailure as failure:
            failure.tls = failure.tls and optional
            raise
        connection.tls_optional = optional and connection.tls is not None
        return connection

    async def _login(self, attempt: Attempt, host: Host) -> Login | None:
        """The login for ``host``, if there is one."""
        if not self._passwords:
            return None
        try:
            sender = attempt.job.message.sender
            return await self._passwords.find(sender, host.name, host.destination.text)
        except TableError as error:
            self._log.warning(str(error))
            text = f"local data error while talking to {host.pair}"
            raise SessionFailure("4.3.0", text, temporary=True, relay=host.relay) from error

    def _is_optional(self, attempt: Attempt, policy: Policy) -> bool:
        """Whether mail may go without TLS where TLS fails: not at the first attempt, unless it is a probe."""
        if policy.level != "may" or attempt.demands.requiretls in (ENFORCE, STARTTLS):
            return False
        message = attempt.job.message
        return message.probing or attempt.job.stamps.active - message.arrival >= self._fallback_age

    async def _connect(
        self, attempt: Attempt, host: Host, policy: Policy, login: Login | None, best: int, level: str = ""
    ) -> Connection:
        """``level``: the TLS level that was tried before, in vain."""
        job, demands = attempt.job, attempt.demands
        late = self._clock() - job.message.arrival >= self._settings.pix_threshold
        history = self._notices.begin()
        purpose = Purpose(
            job.message.queue_id,
            job.route.nexthop,
            host.preference == best,
            demands.requiretls,
            demands.report,
            level,
            late,
            history,
            attempt.utf8,
        )
        try:
            return await self._connector.open(host, policy, login, self._open, purpose)
        except ConfigError as error:
            self._log.warning(str(error))
            raise SessionFailure("4.7.5", "client TLS configuration problem", temporary=True) from error
        except SessionFailure as failure:
            errors = failure.errors
            attempt.result.forwards += await self._notices.of(history, errors, host.relay, job.message)
            raise
