"""TLS on a connection to a server: from the policy to a session that satisfies it, or none.

:meth:`Encryption.wrap` does the handshake of a connection that begins with TLS, :meth:`Encryption.upgrade`
what is due after the first EHLO: STARTTLS, and the greeting once more.  Where the policy requires TLS, or the
sender does (REQUIRETLS), neither returns without it: they raise
:class:`~mtad.deliver.failure.SessionFailure`. What becomes of it is noted in ``connection.tls_status``, as
Postfix's delivery lines have it in ``tls=``, and in the report for the domain, if it wants one.

RFC 3207, RFC 8314, RFC 8689 section 4.  Postfix counterpart: ``smtp_start_tls()``, the TLS part of
``smtp_helo()``, ``pol_stats(3)``.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtad.deliver.connection import Connection, ConnectionBroken, HandshakeFailed
from mtad.deliver.failure import Purpose, SessionFailure, failure_by, malformed
from mtad.deliver.greeting import Greetings
from mtad.deliver.requiretls import DISABLE, ENFORCE, OPPORTUNISTIC, STARTTLS
from mtad.deliver.settings import SmtpSettings
from mtad.errors import ConfigError
from mtad.maillog import MailLog, printable
from mtad.net.tls import ClientTLS, Handshake, Policy
from mtad.wire.client_events import ProtocolError, StartTLSAnswer
from mtad.wire.server_reply import ServerReply


@dataclass(slots=True)
class Feature:
    """What was wanted, what came of it, and whether that does; ``?``: that is not known yet."""

    wanted: str
    got: str = ""
    mark: str = "?"

    def decide(self, got: str, good: bool) -> None:
        """What has come of it, and whether that will do."""
        self.got, self.mark = got, "" if good else "!"

    def __str__(self) -> str:
        got = f":{self.got}" if self.got and self.got != self.wanted else ""
        return f"{'!' if self.mark == '!' else ''}{self.wanted}{got}{'?' if self.mark == '?' else ''}"


class TlsStatus:
    """The features of a connection that delivery lines tell of: the level, and REQUIRETLS if it is wished."""

    def __init__(self, level: str, requiretls: str = DISABLE) -> None:
        self.level = Feature(level)
        self.requiretls = Feature("requiretls") if requiretls not in (DISABLE, "") else None

    def decide_requiretls(self, got: str, good: bool) -> None:
        if self.requiretls is not None:
            self.requiretls.decide(got, good)

    def __str__(self) -> str:
        return str(self.level) if self.requiretls is None else f"{self.level}/{self.requiretls}"


class Encryption:
    """TLS with the servers of one transport."""

    def __init__(
        self, settings: SmtpSettings, tls: ClientTLS, greetings: Greetings, log: MailLog, note_offers: bool
    ) -> None:
        self._settings = settings
        self._tls = tls
        self._greetings = greetings
        self._log = log
        self._note_offers = note_offers

    async def wrap(self, connection: Connection, policy: Policy, purpose: Purpose) -> TlsStatus:
        """TLS before anything else.  What it gives is for :meth:`upgrade`."""
        status = TlsStatus(purpose.level or policy.level, purpose.requiretls)
        await self._handshake(connection, policy, purpose, status)
        return status

    async def upgrade(
        self,
        connection: Connection,
        policy: Policy,
        purpose: Purpose,
        extended: bool,
        wrapped: TlsStatus | None = None,
    ) -> None:
        """STARTTLS, if it is to be; ``extended``: the server has answered to EHLO; ``wrapped``: TLS is on."""
        if wrapped is not None:
            self._check_requiretls(connection, purpose, wrapped)
            return
        status = TlsStatus(purpose.level or policy.level, purpose.requiretls)
        offered = extended and connection.session.extensions.starttls
        if offered and policy.level == "none" and self._note_offers:
            self._log.info(f"Host offered STARTTLS: [{connection.host.name}]")
        if offered and policy.level != "none":
            connection.session.starttls()
            match await connection.next_event():
                case StartTLSAnswer(reply) if reply.positive:
                    await self._handshake(connection, policy, purpose, status)
                    connection.session.tls_started()
                    await self._greetings.heard(connection, purpose)
                    self._check_requiretls(connection, purpose, status)
                    return
                case StartTLSAnswer(reply):
                    self._no_tls(connection, policy, purpose, status, reply)
                    if not connection.session.ready:  # 421: it goes
                        pair = connection.host.pair
                        raise ConnectionBroken(f"lost connection with {pair} while sending MAIL FROM")
                case ProtocolError(text):
                    raise malformed(connection, text)
                case _:
                    raise ConnectionBroken(f"lost connection with {connection.host.pair}")
        else:
            self._no_tls(connection, policy, purpose, status, None)
        status.level.decide("none", True)
        status.decide_requiretls("none", True)
        connection.tls_status = str(status)

    def _no_tls(
        self,
        connection: Connection,
        policy: Policy,
        purpose: Purpose,
        status: TlsStatus,
        reply: ServerReply | None,
    ) -> None:
        """There is no TLS: the server refused (by ``reply``) or did not offer it.  Raise where it must be."""
        wished = purpose.requiretls in (ENFORCE, STARTTLS)
        if purpose.report is not None and (reply is not None or policy.required or wished):
            purpose.report.failure("starttls-not-supported")
        if not (policy.required or wished):
            return
        host = connection.host
        if wished:
            status.decide_requiretls("nostarttls", False)
        if policy.required:
            status.level.decide("", False)
        connection.tls_status = str(status)
        if wished:
            what = f"but host {host.pair} refused to start TLS: {reply}"
            if reply is None:
                what = f"but TLS service was not offered by host {host.pair}"
            text = f"Sender requested REQUIRETLS, {what}"
            raise _required(connection, "5.7.30" if reply is None else "5.7.10", text)
        if reply is not None:
            connection.judge(reply)
            text = f"TLS is required, but host {host.pair} refused to start TLS: {reply}"
            raise failure_by(connection, reply, text, False)
        text = f"TLS is required, but was not offered by host {host.pair}"
        raise SessionFailure("4.7.4", text, temporary=True, relay=host.relay)

    async def _handshake(
        self, connection: Connection, policy: Policy, purpose: Purpose, status: TlsStatus
    ) -> None:
        host, report = connection.host, purpose.report
        failed_text = "Cannot start TLS: handshake failure"
        try:
            handshake = self._tls.start(
                policy, nexthop=host.destination.host, host=host.name, address=host.address, port=host.port
            )
        except ConfigError as error:
            self._log.warning(f"{host.relay}: {error.reason}")
            raise SessionFailure("4.7.5", failed_text, temporary=True, relay=host.relay, tls=True) from error
        if report is not None and handshake.unusable:
            report.failure("tlsa-invalid" if policy.dane else "validation-failure", handshake.unusable)
        try:
            info = await connection.start_tls(handshake, self._settings.timeouts.starttls)
        except HandshakeFailed as failed:
            self._log.info(f"SSL_connect error to {host.relay}: {failed.text}")
            for problem in failed.problems:
                self._log.warning(f"TLS library problem: {printable(problem)}")
            handshake.failed()
            if report is not None:
                report.failure("validation-failure", "tls-handshake-failure")
            raise SessionFailure("4.7.5", failed_text, temporary=True, relay=host.relay, tls=True) from failed
        connection.keeps_tls = policy.reuse
        refusal = handshake.refusal(info)
        if report is not None:
            self._report(handshake, policy, purpose, connection)
        if not refusal:
            status.level.decide(handshake.level, True)
            connection.tls_status = str(status)
            return
        status.level.decide("", False)
        status.decide_requiretls("nocertmatch", purpose.requiretls != ENFORCE)
        connection.tls_status = str(status)
        if purpose.requiretls == ENFORCE:
            which = "matching" if info.trusted else "trusted"
            text = f"Sender requested REQUIRETLS, but no {which} server certificate was found. "
            raise _required(connection, "5.7.10", f"{text}The last attempted server was {host.pair}")
        raise SessionFailure("4.7.5", refusal, temporary=True, relay=host.relay)

    def _report(self, handshake: Handshake, policy: Policy, purpose: Purpose, connection: Connection) -> None:
        report, info = purpose.report, connection.tls
        assert report is not None and info is not None
        external = policy.external
        testing = external is not None and external.testing
        problem = external.failure if external is not None else ""
        report.finished(info, testing or handshake.must_match, problem)

    def _check_requiretls(self, connection: Connection, purpose: Purpose, status: TlsStatus) -> None:
        """Whether the server offers REQUIRETLS where it must; TLS is on."""
        if purpose.requiretls not in (ENFORCE, STARTTLS, OPPORTUNISTIC):
            return
        pair, info = connection.host.pair, connection.tls
        if connection.session.extensions.requiretls:
            matched = info is not None and info.verified
            status.decide_requiretls("requiretls" if matched else "nocertmatch", True)
        elif purpose.requiretls == ENFORCE:
            status.decide_requiretls("none", False)
        else:
            status.decide_requiretls("none", True)
            text = f"Sender requested REQUIRETLS, but REQUIRETLS support was not offered by host {pair}"
            self._log.info(f"{purpose.queue_id}: {text}")
        connection.tls_status = str(status)
        if status.requiretls is not None and status.requiretls.mark == "!":
            text = "Sender requested REQUIRETLS, but no server was found that supports REQUIRETLS. "
            raise _required(connection, "5.7.30", f"{text}The last attempted server was {pair}")


def _required(connection: Connection, dsn: str, text: str) -> SessionFailure:
    """The failure of a host that can't do what REQUIRETLS asks for: for good, if no other host can."""
    return SessionFailure(dsn, text, temporary=False, relay=connection.host.relay, host_only=True)
