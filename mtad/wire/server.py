"""The receiving side of SMTP, without a socket.

Bytes go in by :meth:`ServerSession.receive`, events come out of :meth:`ServerSession.next_event`,
each command event is answered by one :meth:`ServerSession.reply`, and
:meth:`ServerSession.data_to_send` gives the bytes for the client.  A session goes like this::

    session = ServerSession(settings, client="name[addr]")
    session.greet(Reply(220, banner))
    session.receive(data)
    while (event := session.next_event()) is not None:
        ...                      # session.reply(...), or nothing after BodyChunk
    transport.write(session.data_to_send())

``next_event`` gives None while a command awaits its answer and while more input is needed, so
replies are in order by construction.  The engine does all syntax and order checks, in Postfix's
order and with its words, as :class:`~mtad.wire.events.Refused` events: the shell logs and counts
them, and passes their reply on.  After each event look at ``notes`` (lines for the log), after each
reply at ``closed`` (hang up once everything is sent).

Memory: what was received and not yet taken is ``buffered``; the shell stops reading while a
command is being answered.  A line longer than ``line_length_limit`` is cut, its rest thrown away.

Raises ``RuntimeError`` when the shell replies out of turn.  RFC 5321, 2920 (PIPELINING), 3207
(STARTTLS), 4954 (AUTH), 3030 (BDAT).  Postfix counterpart: ``smtpd_proto`` in ``smtpd.c``,
``smtpd_chat.c``, ``smtpd_sasl_proto.c``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mtad.wire.address import parse_path, valid_hostname, valid_literal
from mtad.wire.body import PIECE, ChunkDecoder, DataDecoder
from mtad.wire.command import BEFORE_TLS, ENDS_GROUP, VERBS, first_word, is_header, split
from mtad.wire.ehlo import ehlo_reply, helo_reply
from mtad.wire.events import (
    Auth,
    AuthAborted,
    AuthResponse,
    BdatEnd,
    BodyChunk,
    BodyEnd,
    Etrn,
    Event,
    Helo,
    Help,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Refused,
    Rset,
    StartTLS,
    Vrfy,
)
from mtad.wire.linebuffer import LineBuffer
from mtad.wire.reply import Reply
from mtad.wire.settings import ServerSettings, forbidden_by_default
from mtad.wire.transaction import UNDECLARED, Chunking, Transaction, printable

__all__ = ["HELP", "ServerSession", "ServerSettings", "ehlo_reply", "forbidden_by_default", "helo_reply"]

SYNCHRONIZATION = Reply(554, b"Error: SMTP protocol synchronization", b"5.5.0")
#: The reply to HELP.
HELP = Reply(214, b"Commands: " + b" ".join(sorted(VERBS)), b"2.0.0")

_NEUTER = bytes.maketrans(b' <>()\\";@', b"?????????")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 92: "\\\\"}


def escaped(data: bytes) -> str:
    """At most 100 characters for the log, what is not printable as C escapes."""
    text = (_ESCAPES.get(c) or (chr(c) if 32 <= c < 127 else f"\\{c:03o}") for c in data[:100])
    return "".join(text)[:100]


class ServerSession:
    """One client's session: see the module's text."""

    def __init__(self, settings: ServerSettings, client: str = "", tls: bool = False) -> None:
        """``client`` is ``name[addr]`` for the log; ``tls``: TLS has been active from the start."""
        self.settings = settings
        self.client = client
        self.tls = tls
        self.helo = b""  # as given, made harmless for headers and logs; empty before HELO
        self.esmtp = False  # EHLO was said in this session
        self.authenticated = False
        self.closed = False  # nothing more will be heard: hang up when all is sent
        self.improper_pipelining = False  # for reject_unauth_pipelining
        self.saw_bare_newline = False  # smtpd_forbid_bare_newline = note, for "notes=bare_lf"
        self.where = b"CONNECT"  # what the client last said, for "lost connection after ..."
        self.notes: list[str] = []  # lines for the log; the shell takes and clears them
        self._transaction = Transaction(settings)
        self._input = LineBuffer()
        self._out: list[bytes] = []
        self._waiting = True  # for the shell: first of all for the greeting
        self._greeted = False
        self._denied = False
        self._handshaking = False
        self._read: Callable[[], Event | None] = self._command
        self._answer: Callable[[Reply], None] | None = None
        self._body = DataDecoder()
        self._chunks: ChunkDecoder | None = None
        self._chunk_left = self._chunk_size = 0
        self._chunk_last = False
        self._after_chunk = b""  # the reply to a refused BDAT, due behind its chunk

    # What the shell calls.

    def greet(self, reply: Reply) -> bool:
        """Send the greeting: 220, or the refusal of connect-time policy.

        After a 4xx or 5xx each command but QUIT gets 503 (RFC 5321 section 3.1).  False: the client
        spoke before the greeting and is sent away with another reply.
        """
        if self._greeted:
            raise RuntimeError("greeted already")
        self._greeted = True
        early = not self.tls and self._improper()
        self._denied = not reply.positive
        self.reply(SYNCHRONIZATION if early else reply)
        if early:
            self._close()
        return not early

    def receive(self, data: bytes) -> None:
        """Bytes from the client."""
        # Plaintext between STARTTLS and the handshake is never looked at.
        if not (self.closed or self._handshaking):
            self._input.add(data)

    def next_event(self) -> Event | None:
        """The next event, or None: a command awaits its reply, or more input is needed."""
        return None if self._waiting else self._read()

    def reply(self, reply: Reply) -> None:
        """Answer the last command event (the greeting: :meth:`greet`)."""
        if not self._waiting or self.closed or self._handshaking or not self._greeted:
            raise RuntimeError("no command awaits a reply")
        self._waiting = False
        self._out.append(reply.encode())
        if (answer := self._answer) is not None:
            self._answer = None
            answer(reply)
        if reply.hangs_up or self._input.deaf:
            self._close()

    def begin_chunk(self) -> None:
        """Accept the chunk that the last ``Bdat`` event announced; its bytes come next."""
        if not self._waiting or self._answer != self._bdat_refused:
            raise RuntimeError("no BDAT awaits an answer")
        self._waiting, self._answer = False, None
        self._transaction.chunking = Chunking.OPEN
        if self._chunks is None:
            self._chunks = ChunkDecoder()
        self._read = self._chunk

    def data_to_send(self) -> bytes:
        """The bytes for the client, given once."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def tls_started(self) -> None:
        """The handshake is done: forget all that was said before it (RFC 3207 section 4.2)."""
        if not self._handshaking:
            raise RuntimeError("no STARTTLS was accepted")
        self._reset()
        self._input.clear()
        self.helo = b""
        self.authenticated = False
        self.tls = True
        self._handshaking = self._waiting = False

    def ehlo_reply(self, mechanisms: tuple[bytes, ...] = ()) -> Reply:
        """The reply to EHLO now; ``mechanisms``: what to announce to this client."""
        return ehlo_reply(self.settings, self.tls, mechanisms)

    @property
    def buffered(self) -> int:
        """How many bytes were received and are not yet taken."""
        return len(self._input)

    @property
    def in_transaction(self) -> bool:
        """Was MAIL accepted, and nothing has ended the transaction?"""
        return self._transaction.sender is not None

    @property
    def recipients(self) -> int:
        """How many recipients of this transaction were accepted."""
        return self._transaction.recipients

    @property
    def body_size(self) -> int:
        """How many bytes of the current message have come out."""
        return self._chunks.size if self._chunks is not None else self._body.size

    # Commands: one line each.

    def _command(self) -> Event | None:
        received = self._input
        line = received.line(self.settings.line_length_limit)
        if line is None:
            return None
        self._waiting = True
        if (received.bare or received.cut) and (refused := self._odd_line(line)) is not None:
            return refused
        if b"\0" in line:
            line = line.partition(b"\0")[0]
        if not line.isascii() and self.settings.smtputf8 and not _is_utf8(line):
            self.where = b"UNKNOWN"
            return self._refuse(b"unknown", line, 500, b"5.5.2", b"Error: bad UTF-8 syntax")
        word, _, rest = line.partition(b" ")
        verb = word.upper()
        handler = _HANDLERS.get(verb)
        if handler is None:
            word, rest = first_word(line)
            verb = word.upper()
            handler = _HANDLERS.get(verb)
            if not word:
                self.where = b"UNKNOWN"
                return self._refuse(b"unknown", line, 500, b"5.5.2", b"Error: bad syntax")
        if self.settings.noop_command(word):
            return Refused(Reply(250, b"Ok", b"2.0.0"), b"", line, error=False)
        if handler is None:
            return self._unknown(word, line)
        if self._denied and verb != b"QUIT":
            return self._access_denied(verb, line)
        if self.settings.tls_required and not self.tls and verb not in BEFORE_TLS:
            return self._refuse(verb, line, 530, b"5.7.0", b"Must issue a STARTTLS command first")
        self.where = verb
        if (not self.esmtp or verb in ENDS_GROUP) and len(received) and self._improper():
            self._answer = self._hang_up
            return Refused(SYNCHRONIZATION, verb, line, hang_up=True)
        return handler(self, line, rest)

    def _odd_line(self, line: bytes) -> Refused | None:
        """A line that is too long, or ended by a lone LF."""
        if self._input.cut:
            self._note_long_line(line, self.settings.line_length_limit)
        elif self.settings.bare_newline == "reject":
            text = self.settings.hostname + b" Error: bare <LF> received"
            self._answer = self._hang_up
            reply = Reply(self.settings.bare_newline_code, text, b"5.5.2")
            return Refused(reply, b"", line, hang_up=True, reject=True)
        elif self.settings.bare_newline == "note":
            self.saw_bare_newline = True
        return None

    def _note_long_line(self, line: bytes, limit: int) -> None:
        if self._input.deaf:
            self.notes.append(f"warning: disabling input from {self.client}")
        start = printable(line, 30)
        self.notes.append(f"warning: {self.client}: request longer than {limit}: {start}...")

    def _improper(self) -> bool:
        """More input where the client must wait: note it once; True when that is not forgiven."""
        if self.improper_pipelining or not len(self._input):
            return False
        self.improper_pipelining = True
        said = escaped(self._input.data[self._input.at : self._input.at + 100])
        where = self.where.decode("ascii")
        self.notes.append(f"improper command pipelining after {where} from {self.client}: {said}")
        return self.settings.forbid_unauth_pipelining

    def _unknown(self, word: bytes, line: bytes) -> Refused:
        self.where = b"UNKNOWN"
        if is_header(word) or self.settings.forbidden_command(word):
            self._answer = self._hang_up
            warning = f"non-SMTP command from {self.client}: {escaped(line)}"
            reply = Reply(221, b"Error: I can break rules, too. Goodbye.", b"2.7.0")
            return Refused(reply, b"unknown", line, warning, hang_up=True)
        if self._denied:
            return self._access_denied(b"unknown", line)
        return self._refuse(b"unknown", line, 500, b"5.5.2", b"Error: command not recognized")

    def _access_denied(self, verb: bytes, line: bytes) -> Refused:
        text = b"Error: access denied for " + self.client.encode("utf-8", "replace")
        return self._refuse(verb, line, 503, b"5.7.0", text)

    def _refuse(self, verb: bytes, line: bytes, code: int, dsn: bytes, text: bytes) -> Refused:
        return Refused(Reply(code, text, dsn), verb, line)

    def _helo(self, line: bytes, rest: bytes) -> Event:
        return self._hello(b"HELO", line, rest)

    def _ehlo(self, line: bytes, rest: bytes) -> Event:
        return self._hello(b"EHLO", line, rest)

    def _hello(self, verb: bytes, line: bytes, rest: bytes) -> Event:
        words, _ = split(rest)
        if not words:
            return self._refuse(verb, line, 501, b"", b"Syntax: " + verb + b" hostname")
        name = words[0] if len(words) == 1 else b" ".join(words)
        extended = verb == b"EHLO"

        def answered(reply: Reply) -> None:
            if reply.positive:
                self._reset()
                self.helo = _CONTROL.sub(b"?", name).translate(_NEUTER)
                self.esmtp = self.esmtp or extended

        self._answer = answered
        return Helo(name, extended)

    def _starttls(self, line: bytes, rest: bytes) -> Event:
        if rest and split(rest)[0]:
            return self._refuse(b"STARTTLS", line, 501, b"5.5.4", b"Syntax: STARTTLS")
        if self.tls:
            return self._refuse(b"STARTTLS", line, 554, b"5.5.1", b"Error: TLS already active")
        if not self.settings.tls_offered or self.settings.discards("starttls"):
            return self._refuse(b"STARTTLS", line, 502, b"5.5.1", b"Error: command not implemented")
        self._answer = self._starttls_answered
        return StartTLS()

    def _starttls_answered(self, reply: Reply) -> None:
        if reply.positive:
            self._handshaking = self._waiting = True
            self._input.clear()

    def _auth(self, line: bytes, rest: bytes) -> Event:
        settings = self.settings
        enabled = settings.auth_enabled and (self.tls or not settings.auth_tls_only)
        if settings.helo_required and not self.helo:
            return self._refuse(b"AUTH", line, 503, b"5.5.1", b"Error: send HELO/EHLO first")
        if not enabled or settings.discards("auth"):
            return self._refuse(b"AUTH", line, 503, b"5.5.1", b"Error: authentication not enabled")
        if self.in_transaction:
            return self._refuse(b"AUTH", line, 503, b"5.5.1", b"Error: MAIL transaction in progress")
        if self.authenticated:
            return self._refuse(b"AUTH", line, 503, b"5.5.1", b"Error: already authenticated")
        words, _ = split(rest)
        if not 1 <= len(words) <= 2:
            return self._refuse(b"AUTH", line, 501, b"5.5.4", b"Syntax: AUTH mechanism")
        self._answer = self._auth_answered
        return Auth(words[0], words[1] if len(words) == 2 else None)

    def _auth_answered(self, reply: Reply) -> None:
        self._read = self._auth_response if reply.code == 334 else self._command
        self.authenticated = reply.code == 235

    def _auth_response(self) -> Event | None:
        limit = self.settings.sasl_response_limit
        line = self._input.line(limit)
        if line is None:
            return None
        self._waiting = True
        self._read = self._command
        if self._input.cut:
            self._note_long_line(b"", limit)
            return self._refuse(b"AUTH", b"", 500, b"5.5.6", b"SASL response limit exceeded")
        if line == b"*":
            return AuthAborted()
        self._answer = self._auth_answered
        return AuthResponse(line)

    def _mail(self, line: bytes, rest: bytes) -> Event:
        event = self._transaction.mail(line, rest, bool(self.helo), self.client)
        if isinstance(event, Mail):
            sender = event.sender

            def answered(reply: Reply) -> None:
                if reply.positive:
                    self._transaction.sender = sender

            self._answer = answered
        return event

    def _rcpt(self, line: bytes, rest: bytes) -> Event:
        event = self._transaction.rcpt(line, rest, self.client)
        if isinstance(event, Rcpt):
            self._answer = self._rcpt_answered
        return event

    def _rcpt_answered(self, reply: Reply) -> None:
        if reply.positive:
            self._transaction.recipients += 1

    def _rset(self, line: bytes, rest: bytes) -> Event:
        if rest and split(rest)[0]:
            return self._refuse(b"RSET", line, 501, b"5.5.4", b"Syntax: RSET")
        self._answer = self._transaction_over
        return Rset()

    def _transaction_over(self, reply: Reply) -> None:
        self._reset()

    def _reset(self) -> None:
        self._transaction.reset()
        self._chunks = None

    def _noop(self, line: bytes, rest: bytes) -> Event:
        return Noop()

    def _help(self, line: bytes, rest: bytes) -> Event:
        return Help()

    def _quit(self, line: bytes, rest: bytes) -> Event:
        self._answer = self._hang_up
        return Quit()

    def _vrfy(self, line: bytes, rest: bytes) -> Event:
        settings = self.settings
        if settings.disable_vrfy:
            return self._refuse(b"VRFY", line, 502, b"5.5.1", b"VRFY command is disabled")
        words, _ = split(rest)
        utf8 = settings.smtputf8 and not settings.discards("smtputf8")
        utf8 = utf8 and bool(words) and words[-1].upper() == b"SMTPUTF8"
        if utf8:
            words.pop()
        if not words:
            text = b"Syntax: VRFY address" + (b" [SMTPUTF8]" if settings.smtputf8 else b"")
            return self._refuse(b"VRFY", line, 501, b"5.5.4", text)
        argument = b" ".join(words)
        recipient = parse_path(argument, smtputf8=utf8)
        if recipient is None:
            return self._transaction.bad_recipient(b"VRFY", line, argument, self.client)
        if settings.strict_smtputf8 and not utf8 and not recipient.text.isascii():
            return self._refuse(b"VRFY", line, 553, b"5.6.7", UNDECLARED)
        return Vrfy(recipient, line, argument)

    def _etrn(self, line: bytes, rest: bytes) -> Event:
        if self.settings.helo_required and not self.helo:
            return self._refuse(b"ETRN", line, 503, b"", b"Error: send HELO/EHLO first")
        if self.in_transaction:
            return self._refuse(b"ETRN", line, 503, b"", b"Error: MAIL transaction in progress")
        words, _ = split(rest)
        if len(words) != 1:
            return self._refuse(b"ETRN", line, 500, b"", b"Syntax: ETRN domain")
        domain = words[0][1:] if words[0][:1] in (b"@", b"#") else words[0]
        if not valid_hostname(domain) and not valid_literal(domain):
            return self._refuse(b"ETRN", line, 501, b"", b"Error: invalid parameter syntax")
        return Etrn(domain)

    def _xclient(self, line: bytes, rest: bytes) -> Event:
        return self._unauthorized(b"XCLIENT", line, rest)

    def _xforward(self, line: bytes, rest: bytes) -> Event:
        return self._unauthorized(b"XFORWARD", line, rest)

    def _unauthorized(self, verb: bytes, line: bytes, rest: bytes) -> Event:
        if self.in_transaction:
            return self._refuse(verb, line, 503, b"5.5.1", b"Error: MAIL transaction in progress")
        if not split(rest)[0]:
            return self._refuse(verb, line, 501, b"5.5.4", b"Syntax: " + verb + b" attribute=value...")
        return self._refuse(verb, line, 550, b"5.7.0", b"Error: insufficient authorization")

    # The body: DATA.

    def _data(self, line: bytes, rest: bytes) -> Event:
        event = self._transaction.data(line, rest)
        if not isinstance(event, Refused):
            self._answer = self._data_answered
        return event

    def _data_answered(self, reply: Reply) -> None:
        if reply.code == 354:
            self._body = DataDecoder()
            self._read = self._body_data

    def _body_data(self) -> Event | None:
        received, body = self._input, self._body
        while len(received):
            content, received.at = body.feed(received.data, received.at)
            if body.ended:
                self._read = self._body_end
            if content:
                return BodyChunk(content)
            if body.ended:
                return self._body_end()
        return None

    def _body_end(self) -> Event:
        self._waiting, self._read, self._answer = True, self._command, self._transaction_over
        self.where = b"END-OF-MESSAGE"
        body = self._body
        self._note_bare_newline(body.bare_newline)
        return BodyEnd(body.size, bare_newline=body.bare_newline)

    def _note_bare_newline(self, seen: bool) -> None:
        if seen and self.settings.bare_newline == "note":
            self.saw_bare_newline = True

    # The body: BDAT.

    def _bdat(self, line: bytes, rest: bytes) -> Event:
        event, size, last = self._transaction.bdat(line, rest, self.client)
        if size >= 0:
            self._chunk_size = self._chunk_left = size
            self._chunk_last = last
            self._answer = self._bdat_refused
        return event

    def _bdat_refused(self, reply: Reply) -> None:
        """The chunk's bytes come in any case; the reply is due behind them (RFC 3030 section 2)."""
        if not self._transaction.may_skip(self._chunk_size):
            text = f"too much BDAT content -- disabling further input from {self.client}"
            self.notes.append(f"warning: NOQUEUE: {text}")
            self._close()
            return
        self._transaction.received += self._chunk_size
        self._after_chunk = self._out.pop()
        self._read = self._swallow

    def _swallow(self) -> Event | None:
        received = self._input
        skipped = min(self._chunk_left, len(received))
        received.at += skipped
        self._chunk_left -= skipped
        if self._chunk_left:
            return None
        self._out.append(self._after_chunk)
        if self._chunk_last:
            self._reset()
        else:
            self._transaction.chunking = Chunking.FAILED
        self._read = self._command
        return self._command()

    def _chunk(self) -> Event | None:
        received, chunks = self._input, self._chunks
        assert chunks is not None
        while self._chunk_left and len(received):
            at = received.at
            piece = received.data[at : at + min(self._chunk_left, PIECE)]
            received.at += len(piece)
            self._chunk_left -= len(piece)
            if content := chunks.feed(piece):
                return BodyChunk(content)
        if self._chunk_left:
            return None
        if self._chunk_last and (content := chunks.finish()):
            return BodyChunk(content)
        self._waiting, self._read = True, self._command
        self._transaction.received = chunks.size
        self._note_bare_newline(chunks.bare_newline)
        if self._chunk_last:
            self.where = b"END-OF-MESSAGE"
            self._answer = self._transaction_over
            return BodyEnd(chunks.size, True, self._chunk_size, chunks.bare_newline)
        self._answer = self._chunk_answered
        return BdatEnd(self._chunk_size)

    def _chunk_answered(self, reply: Reply) -> None:
        if not reply.positive:
            self._reset()
            self._transaction.chunking = Chunking.FAILED

    # The end.

    def _hang_up(self, reply: Reply) -> None:
        self._close()

    def _close(self) -> None:
        self.closed = self._waiting = True
        self._input.clear()


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


_HANDLERS: dict[bytes, Callable[[ServerSession, bytes, bytes], Event]] = {
    b"HELO": ServerSession._helo,
    b"EHLO": ServerSession._ehlo,
    b"STARTTLS": ServerSession._starttls,
    b"AUTH": ServerSession._auth,
    b"MAIL": ServerSession._mail,
    b"RCPT": ServerSession._rcpt,
    b"DATA": ServerSession._data,
    b"BDAT": ServerSession._bdat,
    b"RSET": ServerSession._rset,
    b"NOOP": ServerSession._noop,
    b"VRFY": ServerSession._vrfy,
    b"ETRN": ServerSession._etrn,
    b"QUIT": ServerSession._quit,
    b"HELP": ServerSession._help,
    b"XCLIENT": ServerSession._xclient,
    b"XFORWARD": ServerSession._xforward,
}
