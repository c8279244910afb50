"""The sending side of SMTP, without a socket.

Bytes from the server go in by :meth:`ClientSession.receive`, events come out of
:meth:`ClientSession.next_event`, :meth:`ClientSession.data_to_send` gives the bytes for the server.
The shell acts on events::

    Greeting        (EHLO follows by itself when it was positive)
    Ready           starttls(), authenticate(), send(envelope), reset() or quit()
    StartTLSAnswer  handshake, then tls_started(): a fresh EHLO, then Ready again
    Challenge       auth_response() or abort_auth()
    AuthAnswer      as after Ready
    MailAnswer, RcptAnswer ...
    SendBody        send_body() ..., end_body()
    MessageAnswer   the next send(), reset(), quit() or nothing
    TransactionDropped   the same, when it is usable

Where the server offers PIPELINING, MAIL, all RCPT and DATA go out at once; when nobody was accepted
and the server still says 354, a lone dot is sent (RFC 2920 section 3.1).  Otherwise one command at a
time.  A failed transaction is ended by RSET.  After a 421, after anything malformed or unasked for,
and after QUIT the session is ``closed``.

Calls out of turn raise ``RuntimeError``; an address or parameter that cannot be sent on one line,
``ValueError``.  RFC 5321, 1870, 2920, 3207, 3461, 4954, 6152, 6531.  Postfix counterpart:
``smtp_proto.c``, ``smtp_sasl_glue.c``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from mtad.wire.address import quote
from mtad.wire.body import PIECE, Stuffer
from mtad.wire.client_events import (
    AuthAnswer,
    Challenge,
    ClientEvent,
    ClientSettings,
    DataRefused,
    Envelope,
    EnvelopeRecipient,
    Extensions,
    Greeting,
    HelloRefused,
    MailAnswer,
    MessageAnswer,
    ProtocolError,
    QuitAnswer,
    RcptAnswer,
    Ready,
    ResetAnswer,
    SendBody,
    StartTLSAnswer,
    TransactionDropped,
)
from mtad.wire.command import utf8_xtext_encode, xtext_encode
from mtad.wire.server_reply import CHALLENGE_LIMIT, LINE_LIMIT, MalformedReply, ReplyReader, ServerReply

_UNSENDABLE = re.compile(rb"[\r\n\0]")
_BAD_DOMAIN = re.compile(rb"@[^@]*[<>\s][^@]*\Z")
#: An initial response that makes the command line longer is sent as the answer to a challenge.
#: NOTIFY's words in the order in which Postfix sends them.
_CONDITIONS = (b"NEVER", b"SUCCESS", b"FAILURE", b"DELAY")

_AUTH_LINE_LIMIT = 512

_Handler = Callable[[ServerReply], None]


class ClientSession:
    """One session with a server: see the module's text."""

    def __init__(self, settings: ClientSettings, tls: bool = False) -> None:
        """``tls``: TLS is active from the start."""
        self.settings = settings
        self.tls = tls
        self.extensions = Extensions()
        self.authenticated = False
        self.closed = False
        self.broke_lines = False  # a line longer than line_length_limit was sent, broken
        #: what the session waits for, in Postfix's words: "lost connection with H while <stage>"
        self.stage = "receiving the initial server greeting"
        self._reader = ReplyReader()
        self._out: list[bytes] = []
        self._events: deque[ClientEvent] = deque()
        self._expected: deque[tuple[str, _Handler]] = deque([(self.stage, self._greeting)])
        self._ready = False  # no command or transaction is under way
        self._handshaking = False
        self._greeted_esmtp = False
        self._deferred: bytes | None = None  # an initial response too long for the AUTH line
        self._challenged = False
        self._envelope = Envelope(b"", ())
        self._accepted = self._answered = 0
        self._mail_refused = self._in_transaction = False
        self._stuffer: Stuffer | None = None  # while the body is being sent

    # What the shell calls.

    def receive(self, data: bytes) -> None:
        """Bytes from the server."""
        # Plaintext between the reply to STARTTLS and the handshake is never looked at.
        if not (self.closed or self._handshaking):
            self._reader.buffer.add(data)

    def next_event(self) -> ClientEvent | None:
        """The next event; None: the server, or the shell, has to do something first."""
        while not self._events:
            if self.closed or self._handshaking:
                return None
            try:
                reply = self._reader.next(CHALLENGE_LIMIT if self._challenged else LINE_LIMIT)
            except MalformedReply as error:
                self._fail(ProtocolError(f"malformed reply: {error}"))
                break
            if reply is None:
                return None
            self._handle(reply)
        return self._events.popleft()

    def data_to_send(self) -> bytes:
        """The bytes for the server, given once."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    @property
    def ready(self) -> bool:
        """May a command or transaction begin now?"""
        return self._ready and not self.closed

    @property
    def idle(self) -> bool:
        """Is nothing under way, so that QUIT may be said, even if nothing else may?"""
        return not (self.closed or self._handshaking or self._in_transaction or self._expected)

    def starttls(self) -> None:
        """Ask for TLS."""
        self._begin()
        self._command(b"STARTTLS", "performing the STARTTLS handshake", self._starttls_answer)

    def tls_started(self) -> None:
        """The handshake is done: forget what was said before it and say EHLO again (RFC 3207 4.2)."""
        if not self._handshaking:
            raise RuntimeError("no TLS handshake was agreed")
        self._handshaking = False
        self.tls = True
        self.extensions = Extensions()
        self._reader.clear()
        self._ehlo()

    def authenticate(self, mechanism: bytes, initial: bytes | None = None) -> None:
        """AUTH; ``initial`` is the initial response in base64 (b"": an empty one)."""
        self._begin()
        command = b"AUTH " + mechanism
        self._deferred = None
        if initial is not None:
            with_response = command + b" " + (initial or b"=")
            if len(with_response) + 2 <= _AUTH_LINE_LIMIT:
                command = with_response
            else:
                self._deferred = initial
        self._challenged = True
        self._command(command, "performing the AUTH exchange", self._auth_answer)

    def auth_response(self, data: bytes) -> None:
        """Answer a challenge; ``data`` is base64."""
        if self._ready or self._expected or not self._challenged:
            raise RuntimeError("no challenge to answer")
        self._command(data, "performing the AUTH exchange", self._auth_answer)

    def abort_auth(self) -> None:
        """Give the exchange up; the server's answer comes as ``AuthAnswer``."""
        self.auth_response(b"*")

    def send(self, envelope: Envelope) -> None:
        """Begin a transaction."""
        if not envelope.recipients:
            raise ValueError("no recipients")
        commands = [self._mail_command(envelope)]
        commands += [self._rcpt_command(envelope, recipient) for recipient in envelope.recipients]
        if any(_UNSENDABLE.search(command) for command in commands):
            raise ValueError("an envelope cannot hold CR, LF or NUL")
        self._begin()
        self._in_transaction = True
        self._envelope = envelope
        self._accepted = self._answered = 0
        self._mail_refused = False
        self._command(commands[0], "sending MAIL FROM", self._mail_answer)
        if self.extensions.pipelining:
            for command in commands[1:]:
                self._command(command, "sending RCPT TO", self._rcpt_answer)
            self._command(b"DATA", "sending DATA command", self._data_answer)

    def send_body(self, chunk: bytes) -> None:
        """A piece of the message, lined with CRLF; it is dot-stuffed here."""
        if self._stuffer is None:
            raise RuntimeError("the server does not wait for a message")
        for at in range(0, len(chunk), PIECE):
            piece = chunk if len(chunk) <= PIECE else chunk[at : at + PIECE]
            self._out.append(self._stuffer.feed(piece))

    def end_body(self) -> None:
        """The message is complete."""
        if self._stuffer is None:
            raise RuntimeError("the server does not wait for a message")
        self._out.append(self._stuffer.finish())
        self.broke_lines = self.broke_lines or self._stuffer.folded
        self._stuffer = None
        self._expect("sending end of data -- message may be sent more than once", self._message_answer)

    def reset(self) -> None:
        """RSET, to see whether the session is still alive."""
        self._begin()
        self._command(b"RSET", "sending RSET probe", self._reset_answer)

    def quit(self) -> None:
        """QUIT; outside a transaction, or right behind the end of a message."""
        ending = bool(self._expected) and self._expected[0][1] == self._message_answer
        if self.closed or self._handshaking or (self._in_transaction and not ending):
            raise RuntimeError("QUIT cannot be sent now")
        self._ready = False
        self._command(b"QUIT", "sending QUIT", self._quit_answer)

    # Sending.

    def _begin(self) -> None:
        if not self.ready:
            raise RuntimeError("the session is not ready for a command")
        self._ready = False

    def _expect(self, stage: str, handler: _Handler) -> None:
        self._expected.append((stage, handler))
        self.stage = self._expected[0][0]

    def _command(self, line: bytes, stage: str, handler: _Handler) -> None:
        if self.closed:
            return
        if _UNSENDABLE.search(line):
            raise ValueError("a command cannot hold CR, LF or NUL")
        self._out.append(line + b"\r\n")
        self._expect(stage, handler)

    def _path(self, address: bytes) -> bytes:
        if _BAD_DOMAIN.search(address):
            raise ValueError("a domain cannot hold blanks or angle brackets")
        return b"<" + (quote(address) if self.settings.quote_envelope and address else address) + b">"

    def _mail_command(self, envelope: Envelope) -> bytes:
        offered = self.extensions
        words = [b"MAIL FROM:" + self._path(envelope.sender)]
        # where Postfix would turn 8 bits into 7 the size is not known
        if offered.size and (offered.eightbitmime or envelope.body == b"7BIT"):
            words.append(b"SIZE=%d" % envelope.size)
        if offered.eightbitmime and envelope.body:
            words.append(b"BODY=" + envelope.body)
        if offered.dsn and envelope.envid:
            words.append(b"ENVID=" + envelope.envid)
        if offered.dsn and envelope.ret:
            words.append(b"RET=" + envelope.ret)
        if offered.smtputf8 and envelope.smtputf8:
            words.append(b"SMTPUTF8")
        if offered.auth and self.settings.dummy_mail_auth:
            words.append(b"AUTH=<>")
        return b" ".join(words)

    def _rcpt_command(self, envelope: Envelope, recipient: EnvelopeRecipient) -> bytes:
        command = b"RCPT TO:" + self._path(recipient.address)
        if not self.extensions.dsn:
            return command
        orcpt = recipient.orcpt
        if not orcpt and recipient.original:
            original = quote(recipient.original)
            if envelope.smtputf8 and not original.isascii():
                orcpt = b"utf-8;" + utf8_xtext_encode(original)
            else:
                orcpt = b"rfc822;" + xtext_encode(original)
        if orcpt:
            command += b" ORCPT=" + orcpt
        if recipient.notify:
            command += b" NOTIFY=" + b",".join(word for word in _CONDITIONS if word in recipient.notify)
        return command

    # Receiving: one method for each kind of reply.

    def _handle(self, reply: ServerReply) -> None:
        if self._stuffer is not None:
            self._stuffer = None
            if reply.positive or reply.code < 400:
                self._fail(ProtocolError(f"a reply before the end of the message: {reply}", reply))
            else:
                self._fail(MessageAnswer(reply, early=True))
            return
        if not self._expected:
            self._fail(ProtocolError(f"a reply to no command: {reply}", reply))
            return
        _, handler = self._expected.popleft()
        self.closed = reply.code == 421
        handler(reply)
        if reply.code == 421:
            self._expected.clear()
            if self._in_transaction:
                self._transaction_dropped(False)
        if self._expected:
            self.stage = self._expected[0][0]

    def _fail(self, event: ClientEvent) -> None:
        self.closed = True
        self._reader.clear()
        self._expected.clear()
        self._events.append(event)

    def _greeting(self, reply: ServerReply) -> None:
        self._events.append(Greeting(reply))
        if not reply.positive:
            self._ready = False
            return
        words = b" ".join(reply.texts).upper().split()
        settings = self.settings
        if not settings.never_ehlo and (settings.always_ehlo or b"ESMTP" in words):
            self._ehlo()
        else:
            self._helo()

    def _ehlo(self) -> None:
        self._command(b"EHLO " + self.settings.helo_name, "performing the EHLO handshake", self._ehlo_answer)

    def _helo(self) -> None:
        self._command(b"HELO " + self.settings.helo_name, "performing the HELO handshake", self._helo_answer)

    def _ehlo_answer(self, reply: ServerReply) -> None:
        if reply.positive:
            self.extensions = _extensions(reply, self.settings.discard)
            self._ready = True
            self._events.append(Ready(reply, self.extensions, True))
        elif reply.code == 421:
            self._events.append(HelloRefused(reply))
        else:
            self._helo()

    def _helo_answer(self, reply: ServerReply) -> None:
        if reply.positive:
            self._ready = True
            self._events.append(Ready(reply, self.extensions, False))
        else:
            self._events.append(HelloRefused(reply))

    def _starttls_answer(self, reply: ServerReply) -> None:
        self._events.append(StartTLSAnswer(reply))
        if reply.positive:
            self._handshaking = True
            self._reader.clear()
        else:
            self._ready = True

    def _auth_answer(self, reply: ServerReply) -> None:
        if reply.code // 100 == 3:
            data = reply.lines[-1][4:]
            if self._deferred is None:
                self._events.append(Challenge(data))
            elif data:
                self._deferred = None
                self._fail(ProtocolError("a challenge where the initial response was due", reply))
            else:
                response, self._deferred = self._deferred, None
                self.auth_response(response)
            return
        self._challenged = False
        self.authenticated = reply.positive
        self._ready = True
        self._events.append(AuthAnswer(reply))

    def _mail_answer(self, reply: ServerReply) -> None:
        self._mail_refused = not reply.positive
        self._events.append(MailAnswer(reply))
        if not self.extensions.pipelining:
            if self._mail_refused:
                self._drop()
            else:
                self._next_rcpt()

    def _next_rcpt(self) -> None:
        recipient = self._envelope.recipients[self._answered]
        self._command(self._rcpt_command(self._envelope, recipient), "sending RCPT TO", self._rcpt_answer)

    def _rcpt_answer(self, reply: ServerReply) -> None:
        index = self._answered
        self._answered += 1
        if not self._mail_refused:
            self._accepted += reply.positive
            self._events.append(RcptAnswer(index, reply))
        if self.extensions.pipelining:
            return
        if self._answered < len(self._envelope.recipients):
            self._next_rcpt()
        elif self._accepted:
            self._command(b"DATA", "sending DATA command", self._data_answer)
        else:
            self._drop()

    def _data_answer(self, reply: ServerReply) -> None:
        if reply.code // 100 != 3:
            if self._accepted:
                self._events.append(DataRefused(reply))
            self._drop()
        elif self._accepted:
            self._stuffer = Stuffer(self.settings.line_length_limit)
            self.stage = "sending message body"
            self._events.append(SendBody())
        else:
            self._command(b".", "sending end of data -- message may be sent more than once", self._lone_dot)

    def _lone_dot(self, reply: ServerReply) -> None:
        """What the server says to a message for nobody does not matter."""
        self._transaction_dropped(True)

    def _drop(self) -> None:
        """End a transaction that failed."""
        self._command(b"RSET", "sending final RSET", self._dropped)

    def _dropped(self, reply: ServerReply) -> None:
        self._transaction_dropped(reply.positive)

    def _transaction_dropped(self, usable: bool) -> None:
        usable = usable and not self.closed
        self._ready, self._in_transaction = usable, False
        self._events.append(TransactionDropped(usable))

    def _message_answer(self, reply: ServerReply) -> None:
        self._ready = not any(handler == self._quit_answer for _, handler in self._expected)
        self._in_transaction = False
        self._events.append(MessageAnswer(reply))

    def _reset_answer(self, reply: ServerReply) -> None:
        self._ready = True
        self._events.append(ResetAnswer(reply))

    def _quit_answer(self, reply: ServerReply) -> None:
        self.closed = True
        self._events.append(QuitAnswer(reply))


def _extensions(reply: ServerReply, discard: frozenset[str]) -> Extensions:
    """Read the reply to EHLO; ``AUTH=`` counts as ``AUTH`` (an old draft's form)."""
    found: dict[str, list[bytes]] = {}
    for line in reply.texts[1:]:
        words = line.replace(b"=", b" ", 1).split()
        if words:
            found.setdefault(words[0].decode("ascii", "replace").lower(), []).extend(words[1:])
    offered = found.keys() - discard
    limit = found["size"][0] if "size" in offered and found["size"] else b""
    mechanisms = found["auth"] if "auth" in offered else []
    return Extensions(
        pipelining="pipelining" in offered,
        size="size" in offered,
        size_limit=int(limit) if limit.isdigit() and len(limit) < 20 else 0,
        starttls="starttls" in offered,
        auth=tuple(dict.fromkeys(word.upper() for word in mechanisms)),
        dsn="dsn" in offered,
        # Who offers SMTPUTF8 must take 8-bit content, whether it says so or not.
        eightbitmime="8bitmime" in offered or "smtputf8" in offered,
        smtputf8="smtputf8" in offered,
    )
