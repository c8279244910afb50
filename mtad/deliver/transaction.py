"""One message over an open session: MAIL, RCPT, DATA, the body, and what the server said to it.

:class:`Transaction` gives an outcome for each recipient, in Postfix's words, and never raises for what a
server does.  Long lines are folded on the way (``smtp_line_length_limit``).

RFC 5321 section 3.3, RFC 1870, RFC 3461, RFC 6531.  Postfix counterpart: ``smtp_proto.c``,
``smtp_trouble.c``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

from mtad.deliver.client_flags import ClientFlags
from mtad.deliver.connection import Connection, ConnectionBroken
from mtad.deliver.convert import ConversionFailed, Converter
from mtad.deliver.notices import DATA, PROTOCOL
from mtad.deliver.settings import SmtpSettings
from mtad.errors import QueueError
from mtad.maillog import MailLog
from mtad.queue.message import DONE, Message, Outcome, Recipient
from mtad.queue.store import QueueStore
from mtad.wire.client_events import (
    ClientEvent,
    DataRefused,
    Envelope,
    EnvelopeRecipient,
    ForwardAnswer,
    MailAnswer,
    MessageAnswer,
    ProtocolError,
    RcptAnswer,
    SendBody,
    TransactionDropped,
)
from mtad.wire.server_reply import ServerReply

#: What XFORWARD tells, and the attributes of a message that have it.
_FORWARDED = (
    (b"NAME", "client_name"),
    (b"ADDR", "client_address"),
    (b"PORT", "client_port"),
    (b"PROTO", "protocol_name"),
    (b"HELO", "helo_name"),
    (b"IDENT", "ident"),
    (b"SOURCE", "rewrite_context"),
)


class Transaction:
    """See the module.  Run once.

    ``outcomes`` are complete after :meth:`run`, unless ``stale``: a session that had been idle turned out to
    be dead, and nothing happened.  ``unreached`` is set where the session broke, ``lost`` where the server
    went away or fell silent.  ``failures``: the statuses and reasons that the outcomes have, one for all that
    failed at once, or for nobody.  ``broke_lines``: long lines were broken on the way
    (``smtp_line_length_limit``).
    """

    __slots__ = (
        "_accepted",
        "_connection",
        "_converter",
        "_doubtful",
        "_flags",
        "_log",
        "_message",
        "_open",
        "_probe",
        "_settings",
        "_store",
        "broke_lines",
        "failures",
        "lost",
        "outcomes",
        "stale",
        "unreached",
    )

    def __init__(
        self,
        connection: Connection,
        settings: SmtpSettings,
        message: Message,
        recipients: Sequence[Recipient],
        store: QueueStore,
        log: MailLog,
        converter: Converter,
        flags: ClientFlags,
    ) -> None:
        self._flags = flags
        self._connection = connection
        self._converter = converter
        self._settings = settings
        self._message = message
        self._store = store
        self._log = log
        self._open: dict[int, Recipient] = dict(enumerate(recipients))  # who has no outcome yet
        self._accepted = 0
        self._probe = message.probing
        self._doubtful: list[int] = []  # the keys of recipients for whom the end of the message was sent
        self.outcomes: list[Outcome] = []
        self.unreached: tuple[str, str] | None = None
        self.lost = False
        self.broke_lines = False
        self.failures: list[tuple[str, str]] = []
        self.stale = False

    async def run(self) -> None:
        """Do it."""
        connection = self._connection
        if self._impossible() or self._spoke_early():
            return
        try:
            connection.session.send(await self._envelope())
        except ConversionFailed as error:
            self._unconverted(error)
            return
        except ValueError as error:
            self._local("5.1.3", f"bad address syntax: {error}")
            return
        connection.uses += 1
        answered = False
        try:
            while (event := await connection.next_event()) is not None:
                answered = True
                if await self._heard(event):
                    break
        except ConnectionBroken as error:
            if not answered and connection.uses > 1:
                self.stale = True
                return
            connection.errors |= error.errors
            self.lost = not error.errors
            if self._open:
                self._broke(error.text, error.dsn)
            elif connection.session.stage != "sending final RSET":
                self.failures.append(("deferred", error.text))
        except ConversionFailed as error:
            connection.abort()
            self._unconverted(error)
        except QueueError as error:  # in the middle of the body
            connection.abort()
            self._log.warning(f"{self._message.queue_id}: {error}")
            self._defer("4.3.0", "queue file read error")
        finally:
            if self._doubtful:
                self._store.answered(self._doubtful, False)
        if self._open and not self.stale:
            self._broke(f"lost connection with {connection.host.pair}")

    async def _heard(self, event: ClientEvent) -> bool:
        """Take what the server has said, or is to be said next; whether the transaction is over."""
        connection = self._connection
        match event:
            case RcptAnswer(index, reply):
                if reply.positive and self._probe and not self._settings.probe_data:
                    self._message_answered(reply, index)
                elif reply.positive:
                    self._accepted += 1
                else:
                    self._said(reply, "RCPT TO command", [index])
            case SendBody(reply) if self._probe:
                connection.abort()
                self._would_deliver(reply)
                return True
            case SendBody():
                self._doubtful = [one.id for one in self._open.values()]
                self._store.in_doubt(self._doubtful)
                await connection.send_body(await self._body(), self._slow_end())
                self.broke_lines = connection.session.broke_lines
            case MessageAnswer(reply, _, index):
                self._message_answered(reply, index)
                return index < 0 or not self._open
            case MailAnswer(reply):
                self.stale = reply.code == 421 and connection.uses > 1  # it had been idle for too long
                if self.stale:
                    return True
                if not reply.positive:
                    self._said(reply, "MAIL FROM command", list(self._open))
            case DataRefused(reply):
                self._said(reply, "DATA command", list(self._open))
            case ForwardAnswer(reply, what) if not reply.positive:
                self._log.warning(reply.said(connection.host.relay, f"XFORWARD {what} command"))
            case ProtocolError(text):
                connection.errors |= PROTOCOL
                self._broke(f"bad response from {connection.host.pair}: {text}")
            case TransactionDropped():
                return True
            case _:
                pass
        return False

    def _spoke_early(self) -> bool:
        """``smtp_tls_block_early_mail_reply``: whether there is an answer to MAIL before we have said it.

        It would answer what somebody else has put before our session (CVE-2009-3555).  As documented;
        Postfix's own check comes to nothing, since it asks for a flag that is cleared after the handshake.
        """
        session = self._connection.session
        if not (self._settings.block_early_reply and session.tls and session.unread):
            return False
        pair = self._connection.host.pair
        side = "lmtp" if self._settings.lmtp else "smtp"
        self._log.warning(f"server {pair} violates {side}_tls_block_early_mail_reply policy")
        self._connection.abort()
        self.unreached = ("4.7.0", "unexpected server message")
        self._defer("4.7.0", "unexpected server message")
        return True

    def _impossible(self) -> bool:
        """Whether this server can't take this message at all."""
        extensions, message = self._connection.session.extensions, self._message
        pair = self._connection.host.pair
        limit = extensions.size_limit
        if limit and message.size > limit:
            self._local("5.3.4", f"message size {message.size} exceeds size limit {limit} of server {pair}")
        else:
            return False
        return True

    async def _envelope(self) -> Envelope:
        message, converter = self._message, self._converter
        recipients = tuple(
            [
                EnvelopeRecipient(one.address, one.notify, one.orcpt, one.original or one.address)
                for one in self._open.values()
            ]
        )
        sender = message.sender
        if converter.maps_addresses:
            sender = await converter.address(sender)
            recipients = tuple(
                [replace(one, address=await converter.address(one.address)) for one in recipients]
            )
        wished = self._connection.requiretls
        session = self._connection.session
        offered = session.tls and session.extensions.requiretls
        return Envelope(
            sender,
            recipients,
            0 if converter.downgrades(message, session.extensions) else message.size,
            message.body,
            message.smtputf8,
            b"HDRS" if wished and not offered else message.ret,  # its content is not for all eyes
            message.envid,
            self._forward(),
            probe=self._probe and not self._settings.probe_data,
            requiretls=wished and offered,
        )

    def _forward(self) -> tuple[tuple[bytes, bytes], ...]:
        """What XFORWARD may tell of the message's client."""
        if not self._settings.xforward:
            return ()
        attributes = self._message.attributes
        said: list[tuple[bytes, bytes]] = []
        for name, attribute in _FORWARDED:
            value = attributes.get(f"log_{attribute}", attributes.get(attribute, ""))
            if name == b"IDENT" and "client_address" in attributes:
                value = value or self._message.queue_id
            if name == b"SOURCE":
                said.append((name, b"REMOTE" if value == "remote" else b"LOCAL"))
            elif value and (value.lower() != "unknown" or name in (b"HELO", b"IDENT")):
                said.append((name, value.encode()))
        return tuple(said)

    def _slow_end(self) -> bool:
        """Whether the firewall before the server wants the end of a message in a packet of its own."""
        if "delay_dotcrlf" not in self._connection.session.pix:
            return False
        return self._connection.opened - self._message.arrival >= self._settings.pix_threshold

    def _content(self) -> Iterable[bytes]:
        content = self._message.content
        return self._store.read(self._message) if content is None else (content,)

    async def _body(self) -> Iterable[bytes]:
        """The content as it is to go out."""
        message, extensions = self._message, self._connection.session.extensions
        content = self._content()
        if self._flags.headers:
            one = next(iter(self._open.values()))
            content = chain([await self._flags.head(message, one, self._converter.address)], content)
        if self._converter.needed(message, extensions):
            return await self._converter.content(message, content, extensions)
        return content

    # -- outcomes

    def _message_answered(self, reply: ServerReply, index: int) -> None:
        """``index``: it is the answer for this recipient only."""
        if not reply.positive:
            self._said(reply, "end of DATA command", list(self._open) if index < 0 else [index])
            return
        text, dsn, host = str(reply), reply.dsn.decode(), self._connection.host
        relay, name, diagnostic = host.relay, host.name, f"smtp; {text}"
        served = [*self._open.values()] if index < 0 else [self._open[index]]
        ids = [one.id for one in served]
        self._store.answered(ids, True)
        for one in served:
            one.state = DONE  # whatever becomes of us
        self._doubtful = [] if index < 0 else [one for one in self._doubtful if one not in ids]
        self.outcomes += [Outcome(one, "sent", dsn, text, relay, diagnostic, name) for one in served]
        if index < 0:
            self._open.clear()
        else:
            del self._open[index]

    def _would_deliver(self, reply: ServerReply) -> None:
        """The server waits for a message, which there is none of."""
        host, text = self._connection.host, str(reply)
        rest = text, host.relay, f"smtp; {text}", host.name
        self.outcomes += [Outcome(one, "sent", "2.0.0", *rest) for one in self._open.values()]
        self._open.clear()

    def _said(self, reply: ServerReply, command: str, indexes: Iterable[int]) -> None:
        """The server refused these recipients."""
        self._connection.judge(reply)
        host = self._connection.host
        dsn = reply.dsn.decode()
        reason = reply.said(host.pair, command)
        if dsn[0] not in "45":
            self._connection.errors |= PROTOCOL
            dsn, reason = "5.5.0", f"Protocol error: {reason}"
        status = "bounced" if dsn[0] == "5" else "deferred"
        self.failures.append((status, reason))
        diagnostic = f"smtp; {reply}"
        for index in indexes:
            one = self._open.pop(index)
            self.outcomes.append(Outcome(one, status, dsn, reason, host.relay, diagnostic, host.name))

    def _local(self, dsn: str, reason: str) -> None:
        """We refuse all recipients ourselves."""
        relay = self._connection.host.relay
        self.failures.append(("bounced", reason))
        self.outcomes += [Outcome(one, "bounced", dsn, reason, relay) for one in self._open.values()]
        self._open.clear()

    def _unconverted(self, error: ConversionFailed) -> None:
        """The message can't go out as this transport would have it."""
        if error.temporary:
            self._connection.errors |= DATA
            self._defer(error.dsn, f"{error.text} while talking to {self._connection.host.pair}")
        else:
            self._local(error.dsn, error.text)

    def _broke(self, reason: str, dsn: str = "4.4.2") -> None:
        """The session broke: who has no outcome yet must wait."""
        self.unreached = (dsn, reason)
        self._defer(dsn, reason)

    def _defer(self, dsn: str, reason: str) -> None:
        relay = self._connection.host.relay
        self.failures.append(("deferred", reason))
        self.outcomes += [Outcome(one, "deferred", dsn, reason, relay) for one in self._open.values()]
        self._open.clear()
