"""A server's greeting and its answer to EHLO: may we go on, and is it perhaps ourselves?

:meth:`Greetings.heard` raises :class:`~mtad.deliver.failure.SessionFailure`, and ConnectionBroken.

RFC 5321 section 3.1.  Postfix counterpart: ``smtp_helo``.
"""

from __future__ import annotations

from mtad.deliver.connection import Connection, ConnectionBroken
from mtad.deliver.failure import Purpose, SessionFailure, failure_by, malformed
from mtad.deliver.settings import SmtpSettings
from mtad.maillog import MailLog
from mtad.wire.client_events import Greeting, HelloRefused, ProtocolError, Ready
from mtad.wire.server_reply import ServerReply

_SMTP_PORT = 25
#: The work-arounds in the order in which the log has them.
_PIX = ("disable_esmtp", "delay_dotcrlf")


class Greetings:
    """Hears the servers of one transport out."""

    def __init__(self, settings: SmtpSettings, log: MailLog) -> None:
        self._settings = settings
        self._log = log

    async def heard(self, connection: Connection, purpose: Purpose) -> bool:
        """Wait until EHLO or HELO is accepted; whether it was EHLO."""
        while True:
            match await connection.next_event():
                case Ready(reply, extensions, extended):
                    if extended and connection.discarding:
                        self._log.info(connection.discarding)
                    self._check_name(connection, reply, extended, purpose)
                    if purpose.utf8 and not extensions.smtputf8:
                        raise _without_utf8(connection)
                    if purpose.report is not None and connection.tls is None:
                        lines = [line.decode("utf-8", "replace") for line in reply.lines]
                        purpose.report.greeted("\r\n".join(lines))
                    return extended
                case Greeting(reply) if not reply.positive:
                    raise self._refused(connection, reply, self._settings.skip_5xx_greeting)
                case Greeting(reply):
                    self._look_at(connection, reply, purpose)
                case HelloRefused(reply):
                    raise self._refused(connection, reply, False)
                case ProtocolError(text):
                    raise malformed(connection, text)
                case None:
                    raise ConnectionBroken(f"lost connection with {connection.host.pair}")
                case _:
                    pass

    def _look_at(self, connection: Connection, reply: ServerReply, purpose: Purpose) -> None:
        """Say what is strange about a greeting."""
        if connection.session.is_pix and connection.session.settings.pix:
            known = [name for name in _PIX if name in connection.session.pix]
            if not purpose.late and "delay_dotcrlf" in known:
                known.remove("delay_dotcrlf")
            where = connection.host.relay
            self._log.info(f"{purpose.queue_id}: enabling PIX workarounds: {' '.join(known)} for {where}")
        if self._is_me(connection, reply):
            name = self._settings.myhostname
            self._log.warning(f"host {connection.host.relay} greeted me with my own hostname {name}")

    def _check_name(
        self, connection: Connection, reply: ServerReply, extended: bool, purpose: Purpose
    ) -> None:
        """Raise SessionFailure where the server has our own name: the mail would come back."""
        if not extended or not self._is_me(connection, reply):
            return
        host = connection.host
        name = self._settings.myhostname
        self._log.warning(f"host {host.relay} replied to HELO/EHLO with my own hostname {name}")
        dsn = "5.4.6" if purpose.best else "4.4.6"
        text = f"mail for {purpose.nexthop} loops back to myself"
        raise SessionFailure(dsn, text, temporary=not purpose.best, relay=host.relay)

    def _is_me(self, connection: Connection, reply: ServerReply) -> bool:
        if self._settings.lmtp or connection.host.destination.port != _SMTP_PORT:
            return False
        words = reply.texts[0].split() if reply.texts else []
        return (
            bool(words) and words[0].decode("utf-8", "replace").lower() == self._settings.myhostname.lower()
        )

    def _refused(self, connection: Connection, reply: ServerReply, soft: bool) -> SessionFailure:
        connection.judge(reply)
        text = f"host {connection.host.pair} refused to talk to me: {reply}"
        return failure_by(connection, reply, text, soft)


def _without_utf8(connection: Connection) -> SessionFailure:
    pair, relay = connection.host.pair, connection.host.relay
    text = "message requires SMTPUTF8, but no server was found that supports SMTPUTF8. "
    text += f"The last attempted server was {pair}"
    return SessionFailure("5.6.7", text, temporary=False, relay=relay, host_only=True)
