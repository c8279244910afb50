"""What milters mean for a session: when they are asked, what the client and the log are told.

:class:`SessionMilters` is a session's end of its :class:`~mtad.smtpd.milter.chain.Chain`.  Each method is
called where the session is about to accept something, and gives the reply that refuses it, or None.  Holding
and discarding become actions on the message, as access(5) results do.

Postfix counterpart: ``smtpd_milter.c``, ``check_milter_reply()``, ``cleanup_milter_apply()``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from mtad.policy import report
from mtad.smtpd.milter.chain import Chain
from mtad.smtpd.milter.client import HOLD, SHUTDOWN, Response
from mtad.smtpd.milter.message import WORDS, screen
from mtad.smtpd.milter.specs import Filter
from mtad.wire import events as ev
from mtad.wire.address import quote
from mtad.wire.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mtad.queue.message import Message
    from mtad.smtpd.envelope import Envelope
    from mtad.smtpd.milter.service import MilterService
    from mtad.smtpd.session import Session
    from mtad.smtpd.state import MessageState

#: The words of a command's arguments: blanks in quotes and in ``<>`` part nothing.
_WORD = re.compile(rb'(?:<[^>]*>|"(?:\\.|[^"\\])*"|[^\s"<]|["<])+')

_CLOSING = Reply(421, b"Server closing connection", b"4.7.0")
_LATER = Reply(454, b"Try again later", b"4.3.0")


def command_words(line: bytes) -> list[bytes]:
    """The address of a MAIL or RCPT command as it was written, and its parameters."""
    return _WORD.findall(line.partition(b":")[2])


class SessionMilters:
    """See the module."""

    def __init__(self, session: Session, milters: MilterService, specs: Sequence[Filter]) -> None:
        service = session.service
        self._session: Session = session
        self._route = milters.route
        self._screening = milters.screening(service)
        self._refused: Reply | None = None  # why we refuse the recipient in hand
        self._in_mail = False
        self._in_message = False
        self.chain = Chain(
            milters.filters,
            specs,
            service.reactor,
            service.log,
            self._macro,
            soft_bounce=milters.soft_bounce,
        )

    # -- commands

    async def connect(self) -> Reply | None:
        """A client has come: None, or what is said in place of the greeting."""
        request = self._session.request
        refusal = self._take(
            await self.chain.connect(request.client_name, request.client_address, request.client_port),
            "CONNECT",
        )
        host = self._host()
        if refusal is None:
            return None
        if refusal.code >= 500:
            return Reply(554, host + b" ESMTP not accepting connections")
        if refusal.code == 421:
            return Reply(421, host + b" Service unavailable - try again later")
        return None

    async def helo(self, name: bytes, verb: str) -> Reply | None:
        """HELO or EHLO.  Only the end of the session is said at once; other refusals come later, but nothing
        is offered to a client that is refused for good."""
        if self._skipped:
            return None
        refusal = self._take(await self.chain.helo(name), verb)
        if refusal is None or (refusal.code < 500 and refusal.code != 421):
            return None
        if refusal.code == 421 or verb == "HELO":
            return refusal if refusal.code == 421 else None
        return Reply(250, self._host() + b"\nENHANCEDSTATUSCODES")

    async def mail(self, event: ev.Mail) -> Reply | None:
        """MAIL."""
        if self._skipped:
            return None
        self._in_mail = True
        return self._take(await self.chain.mail(command_words(event.line)), "MAIL")

    async def rcpt(self, event: ev.Rcpt, refused: Reply | None) -> Reply | None:
        """RCPT; ``refused``: what we say to it, which stays whatever filters say."""
        if self._skipped:
            return None
        self._refused = refused
        try:
            response = await self.chain.rcpt(command_words(event.line), rejected=refused is not None)
        finally:
            self._refused = None
        return None if refused is not None else self._take(response, "RCPT")

    async def data(self) -> Reply | None:
        """DATA or BDAT."""
        return None if self._skipped else self._take(await self.chain.data(), "DATA")

    async def unknown(self, line: bytes) -> Reply | None:
        """A command that is not known: only a temporary refusal takes the place of our own."""
        response = await self.chain.unknown(line.split(maxsplit=1)[0] if line.strip() else b"")
        if response is None or response.reply is None or response.reply.code >= 500:
            return None
        return response.reply

    def other(self, verb: bytes) -> Reply | None:
        """STARTTLS, AUTH, VRFY, ETRN: what was said about the connection stays."""
        response = self.chain.other()
        reply = response.reply if response is not None else None
        if reply is None or reply.code >= 500 or verb in (b"VRFY", b"ETRN"):
            return reply
        return _LATER

    def abort(self) -> None:
        """The transaction, if there was one, is over."""
        if self._in_mail:
            self._in_mail = False
            self.chain.abort()

    def quit(self) -> None:
        """The session is over."""
        self.chain.quit()

    @property
    def _skipped(self) -> bool:
        return self._session.request.actions.discard

    def _take(self, response: Response | None, where: str) -> Reply | None:
        """Do what filters want; the reply to give, if it is one."""
        if response is None:
            return None
        request = self._session.request
        if response.action in WORDS:
            if not self._act(response):
                return None
            text, what, reply = response.text or WORDS[response.action], f"milter-{response.action}", None
        else:
            reply = _CLOSING if response.action == SHUTDOWN else response.reply
            text, what = response.text or str(reply), "milter-reject"
        self._session.log.info(report.filter_line(request, what, text, where))
        return reply

    def _act(self, response: Response) -> bool:
        """Have the message held or discarded; False when it is already."""
        actions = self._session.request.actions
        name = "hold" if response.action == HOLD else "discard"
        if getattr(actions, name):
            return False
        setattr(actions, name, True)
        return True

    # -- content

    async def message(self, message: Message, envelope: Envelope, state: MessageState) -> Reply | None:
        """Show the complete message to filters, which may change it; the refusal, or None.

        ``message.recipients`` are those of ``envelope``.
        """
        state.held |= self._session.request.actions.hold
        self._in_message = True
        try:
            return await screen(self._screening, self.chain, message, envelope, state, state.origin)
        finally:
            self._in_message = False

    # -- macros

    async def _macro(self, key: str) -> bytes | None:
        known = _MACROS.get(key)
        if known is not None:
            return known(self)
        if key.startswith(("{mail_", "{rcpt_")) and not self._in_message:
            return await self._address_macro(key)
        return None

    async def _address_macro(self, key: str) -> bytes | None:
        """``{mail_addr}`` and the like: an address, where it goes, and by which transport."""
        request = self._session.request
        stage, _, what = key[1:-1].partition("_")
        address = request.sender if stage == "mail" else request.recipient
        if address is None:
            return None
        if stage == "rcpt" and self._refused is not None:
            refused = self._refused
            return {"addr": refused.text, "host": refused.dsn, "mailer": b"error"}.get(what)
        if what == "addr" and not address.text:
            return b""
        found = await self._route(b"", address.text)
        parts = {
            "addr": quote(found.address or address.text),
            "host": found.nexthop.encode(),
            "mailer": found.transport.encode(),
        }
        return parts.get(what)

    def _host(self) -> bytes:
        return self._session.service.settings.myhostname.encode()

    def _peer(self) -> bytes:
        request = self._session.request
        forged = " (may be forged)" if request.client_name.lower() != request.reverse_name.lower() else ""
        return f"{request.reverse_name} [{request.client_address}]{forged}".encode()

    def _resolved(self) -> bytes:
        request = self._session.request
        if request.client_name != "unknown":
            return b"OK"
        if request.name_temporary:
            return b"TEMP"
        return b"FORGED" if request.reverse_name != "unknown" else b"FAIL"

    def _port(self) -> bytes:
        port = self._session.request.client_port
        return b"0" if port == "unknown" else port.encode()

    def _certificate(self, field: str) -> bytes | None:
        tls = self._session.tls
        return str(getattr(tls, field)).encode() if tls is not None and tls.trusted else None

    def _cipher(self, field: str) -> bytes | None:
        tls = self._session.tls
        return str(getattr(tls, field)).encode() if tls is not None else None


def _text(value: str) -> bytes | None:
    return value.encode() or None


_MACROS: dict[str, Callable[[SessionMilters], bytes | None]] = {
    "{_}": SessionMilters._peer,
    "{j}": SessionMilters._host,
    "{client_addr}": lambda s: s._session.request.client_address.encode(),
    "{client_name}": lambda s: s._session.request.client_name.encode(),
    "{client_port}": SessionMilters._port,
    "{client_ptr}": lambda s: s._session.request.reverse_name.encode(),
    "{client_resolve}": SessionMilters._resolved,
    "{daemon_addr}": lambda s: s._session.request.server_address.encode(),
    "{daemon_port}": lambda s: s._session.request.server_port.encode(),
    "{tls_version}": lambda s: s._cipher("protocol"),
    "{cipher}": lambda s: s._cipher("cipher"),
    "{cipher_bits}": lambda s: s._cipher("secret_bits"),
    "{cert_subject}": lambda s: s._certificate("peer_cn"),
    "{cert_issuer}": lambda s: s._certificate("issuer_cn"),
    "{i}": lambda s: _text(s._session.request.queue_id),
    "{auth_type}": lambda s: _text(s._session.request.sasl_method),
    "{auth_authen}": lambda s: _text(s._session.request.sasl_username),
    "{auth_author}": lambda s: _text(s._session.request.sasl_sender),
}
