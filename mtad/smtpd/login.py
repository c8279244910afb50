"""AUTH, step by step.

:class:`LoginCommands` is the part of a session that asks the authenticator.

RFC 4954.  Postfix counterpart: ``smtpd_sasl_proto.c``, ``smtpd_sasl_glue.c``.
"""

from __future__ import annotations

from mtad.auth.authenticator import AuthSession, Challenge, Denied
from mtad.smtpd.content import Content
from mtad.wire import events as ev
from mtad.wire.reply import Reply

AUTHENTICATED = Reply(235, b"Authentication successful", b"2.7.0")
ABORTED = Reply(501, b"Authentication aborted", b"5.7.0")


class LoginCommands(Content):
    """A session's answers to AUTH."""

    __slots__ = ()

    def _refused_by_milters(self) -> Reply | None:
        """What milters have said about the connection, for a command that they are not asked about."""
        return self.milters.other(self.verb) if self.milters is not None else None

    async def _auth(self, event: ev.Auth) -> Reply:
        request = self.request
        refusal = self._refused_by_milters()
        if refusal is not None:
            return refusal
        session = AuthSession(
            request.client_name, request.client_address, request.client_port, request.server_address,
            request.server_port, request.tls, self.channel,
        )  # fmt: skip
        authenticator = self.service.authenticator
        assert authenticator is not None  # the engine refuses AUTH where there is none
        self.auth = authenticator.begin(event.mechanism, session)
        return await self._auth_step(event.initial)

    async def _auth_response(self, event: ev.AuthResponse) -> Reply:
        return await self._auth_step(event.data)

    async def _auth_step(self, data: bytes | None) -> Reply:
        exchange = self.auth
        assert exchange is not None
        outcome = await exchange.step(data)
        if isinstance(outcome, Challenge):
            return Reply(334, outcome.data)
        self.auth = None
        if isinstance(outcome, Denied):
            self.log.warning(f"{self.client}: {outcome.log}")
            return outcome.reply
        request = self.request
        request.sasl_method = outcome.avatar.mechanism
        request.sasl_username = outcome.avatar.username
        return AUTHENTICATED

    def _auth_aborted(self, event: ev.AuthAborted) -> Reply:
        exchange, self.auth = self.auth, None
        mechanism = exchange.mechanism if exchange is not None else ""
        self.log.warning(f"{self.client}: SASL {mechanism} authentication aborted")
        return ABORTED
