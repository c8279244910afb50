"""The sending side of SMTP, without a socket.

Bytes from the server go in by :meth:`ClientSession.receive`, events come out of
:meth:`ClientSession.next_event`, :meth:`ClientSession.data_to_send` gives the bytes for the server.
The shell acts on events::

    Greeting        (EHLO follows by itself when it was positive)
    Ready           starttls(), authenticate(), send(envelope) or quit()
    StartTLSAnswer  handshake, then tls_started(): a fresh EHLO, then Ready again
    Challenge       auth_response() or abort_auth()
    AuthAnswer      as after Ready
    MailAnswer, RcptAnswer ...
    SendBody        send_body() ..., end_body()
    MessageAnswer   the next send(), quit() or nothing
    TransactionDropped   the same, when it is usable

Where the server offers PIPELINING, MAIL, all RCPT and DATA go out at once; when nobody was accepted
and the server still says 354, a lone dot is sent (RFC 2920 section 3.1).  Otherwise one command at a
time.  A failed transaction is ended by RSET.  After anything malformed or unasked for, and after QUIT,
the session is ``closed``.  A 421 is a refusal like others: some servers say it and stay.

LMTP (RFC 2033) is the same but for LHLO, and one answer to the message for each accepted recipient.

Calls out of turn raise ``RuntimeError``; an address or parameter that cannot be sent on one line,
``ValueError``.  RFC 5321, 1870, 2920, 3207, 3461, 4954, 6152, 6531.  Postfix counterpart:
``smtp_proto.c``, ``smtp_sasl_glue.c``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

from mtad.wire.body import PIECE, Stuffer
from mtad.wire.client_commands import forward_commands, mail_command, offered_extensions, rcpt_command
from mtad.wire.client_events import (
    AuthAnswer,
    Challenge,
    ClientEvent,
    ClientSettings,
    DataRefused,
    Envelope,
    Extensions,
    ForwardAnswer,
    Greeting,
    HelloRefused,
    MailAnswer,
    MessageAnswer,
    ProtocolError,
    QuitAnswer,
    RcptAnswer,
    Ready,
    SendBody,
    StartTLSAnswer,
    TransactionDropped,
)
from mtad.wire.server_reply import (
    CHALLENGE_LIMIT,
    LINE_LIMIT,
    Listener,
    MalformedReply,
    Oddity,
    ReplyReader,
    ServerReply,
)

_UNSENDABLE = re.compile(rb"[\r\n\0]")

#: What the greeting of a PIX firewall consists of.
_PIX_BANNER = b"20 *\t\r\n"
#: The code of the greeting's first line; those of others count as words.
_FIRST = re.compile(rb"[- \t]*[^- \t]*[- \t]")

_Handler = Callable[[ServerReply], None]
_Step = tuple[bytes, str, _Handler]


class ClientSession:
    """One session with a server: see the module's text."""

    def __init__(self, settings: ClientSettings, tls: bool = False) -> None:
        """``tls``: TLS is active from the start."""
        self.settings = settings
        self.tls = tls
        self.extensions = Extensions()
        self.authenticated = False
        self.closed = False
        self.broke_lines = False  # a line of this message that is longer than line_length_limit was broken
        #: what the session waits for, in Postfix's words: "lost connection with H while <stage>"
        self.stage = "receiving the initial server greeting"
        self._reader = ReplyReader(settings.reply_filter, settings.ascii_replies)
        self._out: list[bytes] = []
        self._events: deque[ClientEvent] = deque()
        self._expected: deque[tuple[str, _Handler]] = deque([(self.stage, self._greeting)])
        self._ready = False  # no command or transaction is under way
        self._handshaking = False
        self._challenged = False
        self._envelope = Envelope(b"", ())
        self._accepted = self._answered = 0
        self._to_answer: deque[int] = deque()  # LMTP: accepted recipients that the message has no answer for
        self._mail_refused = self._in_transaction = False
        self._stuffer: Stuffer | None = None  # while the body is being sent
        self.is_pix = False  # it has greeted us like a PIX firewall
        self.pix: frozenset[str] = frozenset()  # work-arounds that this server needs

    # What the shell calls.

    @property
    def oddities(self) -> list[Oddity]:
        """What was strange about the server's replies; whoever tells of it clears the list."""
        return self._reader.oddities

    def listen(self, listener: Listener | None) -> None:
        """Tell ``listener`` of each line from now on."""
        self._reader.listener = listener

    def receive(self, data: bytes) -> None:
        """Bytes from the server."""
        # Plaintext between the reply to STARTTLS and the handshake is never looked at.
        if not (self.closed or self._handshaking):
            self._reader.add(data)

    @property
    def unread(self) -> bool:
        """The server has said something that nobody has looked at."""
        return bool(self._events) or bool(self._reader.buffer)

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
        self._command(b"STARTTLS", "receiving the STARTTLS response", self._starttls_answer)

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
        if initial is not None:
            command += b" " + (initial or b"=")
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
        settings, offered = self.settings, self.extensions
        commands = [mail_command(settings, offered, envelope, self.authenticated)]
        commands += [
            rcpt_command(self.settings, self.extensions, envelope, recipient)
            for recipient in envelope.recipients
        ]
        if any(_UNSENDABLE.search(command) for command in commands):
            raise ValueError("an envelope cannot hold CR, LF or NUL")
        self._begin()
        self._in_transaction = True
        self.broke_lines = False
        self._envelope = envelope
        self._accepted = self._answered = 0
        self._to_answer.clear()
        self._mail_refused = False
        forwards: list[_Step] = [
            (line, stage, self._forward_answer if "name" in stage[:24] else self._forward_answer_2)
            for line, stage in forward_commands(self.extensions, envelope)
        ]
        if forwards and not self.extensions.pipelining:
            self._queue_forwards(deque([*forwards, (commands[0], "sending MAIL FROM", self._mail_answer)]))
            return
        for line, stage, handler in forwards:
            self._command(line, stage, handler)
        self._command(commands[0], "sending MAIL FROM", self._mail_answer)
        if self.extensions.pipelining:
            for command in commands[1:]:
                self._command(command, "sending RCPT TO", self._rcpt_answer)
            if envelope.probe:
                self._drop()
            else:
                self._command(b"DATA", "sending DATA command", self._data_answer)

    def _queue_forwards(self, steps: deque[_Step]) -> None:
        """Without pipelining: one command, and the next when it is answered."""
        line, stage, handler = steps.popleft()
        if not steps:
            self._command(line, stage, handler)
            return

        def answered(reply: ServerReply) -> None:
            handler(reply)
            self._queue_forwards(steps)

        self._command(line, stage, answered)

    def _forward_answer(self, reply: ServerReply) -> None:
        self._events.append(ForwardAnswer(reply, "name/address"))

    def _forward_answer_2(self, reply: ServerReply) -> None:
        self._events.append(ForwardAnswer(reply, "helo/protocol"))

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
        if (listener := self._reader.listener) is not None:
            listener.sent(b".")
        self.broke_lines = self.broke_lines or self._stuffer.folded
        self._stuffer = None
        for _ in self._to_answer if self.settings.lmtp else (0,):
            self._expect("sending end of data -- message may be sent more than once", self._message_answer)

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
        if (listener := self._reader.listener) is not None:
            listener.sent(line)
        self._out.append(line + b"\r\n")
        self._expect(stage, handler)

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
        handler(reply)
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
        settings = self.settings
        self.is_pix = not b"".join(reply.lines).strip(_PIX_BANNER)
        if self.is_pix:
            self.pix = settings.pix
        text = b" ".join(reply.lines)
        code = _FIRST.match(text)
        words = text[code.end() if code else 0 :].upper().split()
        never = settings.never_ehlo or "disable_esmtp" in self.pix
        if settings.lmtp or (not never and (settings.always_ehlo or b"ESMTP" in words)):
            self._ehlo()
        else:
            self._helo()

    def _ehlo(self) -> None:
        word = "LHLO" if self.settings.lmtp else "EHLO"
        line = b"%b %b" % (word.encode(), self.settings.helo_name)
        self._command(line, f"performing the {word} handshake", self._ehlo_answer)

    def _helo(self) -> None:
        self._command(b"HELO " + self.settings.helo_name, "performing the HELO handshake", self._helo_answer)

    def _ehlo_answer(self, reply: ServerReply) -> None:
        if reply.positive:
            self.extensions = offered_extensions(reply, self.settings.discard, self.oddities)
            self._reader.pipelining = self.extensions.pipelining
            self._ready = True
            self._events.append(Ready(reply, self.extensions, True))
        elif reply.code == 421 or self.settings.lmtp:
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
            self._events.append(Challenge(reply.lines[-1][4:]))
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
        command = rcpt_command(self.settings, self.extensions, self._envelope, recipient)
        self._command(command, "sending RCPT TO", self._rcpt_answer)

    def _rcpt_answer(self, reply: ServerReply) -> None:
        index = self._answered
        self._answered += 1
        if not self._mail_refused:
            self._accepted += reply.positive
            if reply.positive:
                self._to_answer.append(index)
            self._events.append(RcptAnswer(index, reply))
        if self.extensions.pipelining:
            return
        if self._answered < len(self._envelope.recipients):
            self._next_rcpt()
        elif self._accepted and not self._envelope.probe:
            self._command(b"DATA", "sending DATA command", self._data_answer)
        else:
            self._drop()

    def _data_answer(self, reply: ServerReply) -> None:
        if reply.code // 100 != 3:
            if self._accepted:
                self._events.append(DataRefused(reply))
            self._drop()
        elif self._accepted:
            self._stuffer = Stuffer(self.settings.line_length_limit, self.settings.keep_cr)
            self.stage = "sending message body"
            self._events.append(SendBody(reply))
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
        index = self._to_answer.popleft() if self.settings.lmtp else -1
        if self.settings.lmtp and self._to_answer:
            self._events.append(MessageAnswer(reply, index=index))
            return
        self._ready = not any(handler == self._quit_answer for _, handler in self._expected)
        self._in_transaction = False
        self._events.append(MessageAnswer(reply, index=index))

    def _quit_answer(self, reply: ServerReply) -> None:
        self.closed = True
        self._events.append(QuitAnswer(reply))
