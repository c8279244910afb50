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

from mtad.wire import checks, xclient
from mtad.wire import events as ev
from mtad.wire.command import BEFORE_TLS, ENDS_GROUP, VERBS, first_word, is_header, is_utf8
from mtad.wire.ehlo import ehlo_reply, helo_reply
from mtad.wire.logtext import escaped, printable
from mtad.wire.reply import Reply
from mtad.wire.server_body import Body
from mtad.wire.settings import ServerSettings, forbidden_by_default

__all__ = ["HELP", "ServerSession", "ServerSettings", "ehlo_reply", "forbidden_by_default", "helo_reply"]

SYNCHRONIZATION = Reply(554, b"Error: SMTP protocol synchronization", b"5.5.0")
#: The reply to HELP.
HELP = Reply(214, b"Commands: " + b" ".join(sorted(VERBS)), b"2.0.0")

_NEUTER = bytes.maketrans(b' <>()\\";@', b"?????????")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_UNPRINTABLE = re.compile(rb"[^ -~]")


def harmless(name: bytes, smtputf8: bool) -> bytes:
    """A HELO name for headers and logs: what could break out of them becomes ``?``, and without ``smtputf8``
    what is not ASCII, too."""
    return (_CONTROL if smtputf8 else _UNPRINTABLE).sub(b"?", name).translate(_NEUTER)


class ServerSession(Body):
    """One client's session: see the module's text."""

    def __init__(self, settings: ServerSettings, client: str = "", tls: bool = False) -> None:
        """``client`` is ``name[addr]`` for the log; ``tls``: TLS has been active from the start."""
        super().__init__(settings, client)
        self.tls = tls
        self.helo = b""  # as given, made harmless for headers and logs; empty before HELO
        self.esmtp = False  # EHLO was said in this session
        self.authenticated = False
        self.improper_pipelining = False  # for reject_unauth_pipelining
        self._greeted = False
        self._early: bool | None = None
        self._denied = False

    # What the shell calls.

    def greet(self, reply: Reply, *, lasting: bool = True) -> bool:
        """Send the greeting: 220, or the refusal of connect-time policy.

        After a 4xx or 5xx each command but QUIT gets 503 (RFC 5321 section 3.1), unless the refusal is not
        ``lasting``.  False: the client spoke before the greeting and is sent away with another reply.
        """
        if self._greeted:
            raise RuntimeError("greeted already")
        self._greeted = True
        early = self.spoke_early()
        self._denied = lasting and not reply.positive
        self.reply(SYNCHRONIZATION if early else reply)
        if early:
            self._close()
        return not early

    def spoke_early(self) -> bool:
        """Did the client speak before the greeting, and is that not forgiven?

        For a shell that has more to do before the greeting: what comes after the first question is no fault.
        """
        if self._early is None:
            self._early = not self.tls and self._improper()
        return self._early

    def receive(self, data: bytes) -> None:
        """Bytes from the client."""
        # Plaintext between STARTTLS and the handshake is never looked at.
        if not (self.closed or self._handshaking):
            self._input.add(data)

    def next_event(self) -> ev.Event | None:
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

    def restart(
        self, settings: ServerSettings, client: str, *, helo: bytes, esmtp: bool, authenticated: bool
    ) -> bool:
        """XCLIENT was taken: begin again with another client; its greeting is the reply.

        False: the client did not wait for it, and is sent away by :data:`SYNCHRONIZATION`.
        """
        self._reset()
        self.settings = self._transaction.settings = settings
        self.client = client
        self.helo, self.esmtp, self.authenticated = helo, esmtp, authenticated
        early = self._improper()
        self._answer = self._hang_up if early else self._regreeted
        return not early

    def _regreeted(self, reply: Reply) -> None:
        self._denied = not reply.positive

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

    def ehlo_reply(self, mechanisms: tuple[bytes, ...] = (), latest: bytes = b"") -> Reply:
        """The reply to EHLO now; ``mechanisms``: what to announce to this client; ``latest``: the last date
        until which mail may be held."""
        return ehlo_reply(self.settings, self.tls, mechanisms, latest)

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

    # Commands: one line each.

    def _command(self) -> ev.Event | None:
        received = self._input
        line = self._line(self.settings.line_length_limit)
        if line is None:
            return None
        self._waiting = True
        if (received.bare or received.cut) and (refused := self._odd_line(line)) is not None:
            return refused
        whole = line
        if b"\0" in line:
            line = line.partition(b"\0")[0]
        if not line.isascii() and self.settings.smtputf8 and not is_utf8(line):
            self.where = b"UNKNOWN"
            return checks.refuse(b"unknown", line, 500, b"5.5.2", b"Error: bad UTF-8 syntax")
        if self.settings.filter_commands:
            return ev.CommandLine(line)
        return self._parsed(line, whole)

    def command(self, line: bytes) -> None:
        """What stands for the line of the last ``CommandLine`` event."""
        self._waiting = False
        self._read = lambda: self._replaced(line)

    def _replaced(self, line: bytes) -> ev.Event:
        self._waiting, self._read = True, self._command
        return self._parsed(line, line)

    def _parsed(self, line: bytes, whole: bytes) -> ev.Event:
        word, _, rest = line.partition(b" ")
        verb = word.upper()
        handler = _HANDLERS.get(verb)
        if handler is None:
            word, rest = first_word(line)
            verb = word.upper()
            handler = _HANDLERS.get(verb)
            if not word:
                self.where = b"UNKNOWN"
                return checks.refuse(b"unknown", line, 500, b"5.5.2", b"Error: bad syntax")
        if self.settings.noop_command(word):
            return ev.Ignored(line)
        if handler is None:
            return self._unknown(word, line, whole)
        if self._denied and verb != b"QUIT":
            return self._access_denied(verb, line)
        if self.settings.tls_required and not self.tls and verb not in BEFORE_TLS:
            return checks.refuse(verb, line, 530, b"5.7.0", b"Must issue a STARTTLS command first")
        self.where = verb
        if (not self.esmtp or verb in ENDS_GROUP) and len(self._input) and self._improper():
            self._answer = self._hang_up
            return ev.Refused(SYNCHRONIZATION, verb, line, hang_up=True)
        return handler(self, line, rest)

    def _odd_line(self, line: bytes) -> ev.Refused | None:
        """A line that is too long, or ended by a lone LF."""
        if self._input.cut:
            self._note_long_line(line, self.settings.line_length_limit)
        elif self.settings.bare_newline == "reject":
            text = self.settings.hostname + b" Error: bare <LF> received"
            self._answer = self._hang_up
            reply = Reply(self.settings.bare_newline_code, text, b"5.5.2")
            reason = "bare <LF> received"
            return ev.Refused(reply, b"", line, hang_up=True, reject=True, reason=reason)
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

    def _unknown(self, word: bytes, line: bytes, whole: bytes) -> ev.Refused:
        self.where = b"UNKNOWN"
        if is_header(word) or self.settings.forbidden_command(word):
            self._answer = self._hang_up
            warning = f"non-SMTP command from {self.client}: {escaped(whole)[:100]}"
            reply = Reply(221, b"Error: I can break rules, too. Goodbye.", b"2.7.0")
            return ev.Refused(reply, b"unknown", line, warning, hang_up=True)
        if self._denied:
            return self._access_denied(b"unknown", line)
        return checks.refuse(b"unknown", line, 500, b"5.5.2", b"Error: command not recognized")

    def _access_denied(self, verb: bytes, line: bytes) -> ev.Refused:
        text = b"Error: access denied for " + self.client.encode("utf-8", "replace")
        return checks.refuse(verb, line, 503, b"5.7.0", text)

    def _helo(self, line: bytes, rest: bytes) -> ev.Event:
        return self._hello(checks.hello(b"HELO", line, rest))

    def _ehlo(self, line: bytes, rest: bytes) -> ev.Event:
        return self._hello(checks.hello(b"EHLO", line, rest))

    def _hello(self, event: ev.Helo | ev.Refused) -> ev.Event:
        if isinstance(event, ev.Helo):
            helo = event

            def answered(reply: Reply) -> None:
                if reply.positive:
                    self._reset()
                    self.helo = harmless(helo.name, self.settings.smtputf8)
                    self.esmtp = self.esmtp or helo.extended

            self._answer = answered
        return event

    def _starttls(self, line: bytes, rest: bytes) -> ev.Event:
        event = checks.starttls(self.settings, line, rest, self.tls)
        if isinstance(event, ev.StartTLS):
            self._answer = self._starttls_answered
        return event

    def _starttls_answered(self, reply: Reply) -> None:
        if reply.positive:
            self._handshaking = self._waiting = True
            self._input.clear()

    def _auth(self, line: bytes, rest: bytes) -> ev.Event:
        event = checks.auth(
            self.settings,
            line,
            rest,
            tls=self.tls,
            helo=bool(self.helo),
            busy=self.in_transaction,
            done=self.authenticated,
        )
        if isinstance(event, ev.Auth):
            self._answer = self._auth_answered
        return event

    def _auth_answered(self, reply: Reply) -> None:
        self._read = self._auth_response if reply.code == 334 else self._command
        self.authenticated = reply.code == 235

    def _auth_response(self) -> ev.Event | None:
        limit = self.settings.sasl_response_limit
        line = self._line(limit)
        if line is None:
            return None
        self._waiting = True
        self._read = self._command
        if self._input.cut:
            self._note_long_line(b"", limit)
            return checks.refuse(b"AUTH", b"", 500, b"5.5.6", b"SASL response limit exceeded")
        if line == b"*":
            return ev.AuthAborted()
        self._answer = self._auth_answered
        return ev.AuthResponse(line)

    def _mail(self, line: bytes, rest: bytes) -> ev.Event:
        event = self._transaction.mail(line, rest, bool(self.helo), self.client, self.tls)
        if isinstance(event, ev.Mail):
            sender = event.sender

            def answered(reply: Reply) -> None:
                if reply.positive:
                    self._transaction.sender = sender

            self._answer = answered
        return event

    def _rcpt(self, line: bytes, rest: bytes) -> ev.Event:
        event = self._transaction.rcpt(line, rest, self.client)
        if isinstance(event, ev.Rcpt):
            self._answer = self._rcpt_answered
        return event

    def _rcpt_answered(self, reply: Reply) -> None:
        if reply.positive:
            self._transaction.recipients += 1

    def _rset(self, line: bytes, rest: bytes) -> ev.Event:
        event = checks.rset(line, rest)
        if isinstance(event, ev.Rset):
            self._answer = self._transaction_over
        return event

    def _noop(self, line: bytes, rest: bytes) -> ev.Event:
        return ev.Noop()

    def _help(self, line: bytes, rest: bytes) -> ev.Event:
        return ev.Help()

    def _quit(self, line: bytes, rest: bytes) -> ev.Event:
        self._answer = self._hang_up
        return ev.Quit()

    def _vrfy(self, line: bytes, rest: bytes) -> ev.Event:
        return checks.vrfy(self.settings, line, rest, self.client)

    def _etrn(self, line: bytes, rest: bytes) -> ev.Event:
        return checks.etrn(self.settings, line, rest, helo=bool(self.helo), busy=self.in_transaction)

    def _xclient(self, line: bytes, rest: bytes) -> ev.Event:
        return xclient.xclient(self.settings, line, rest, busy=self.in_transaction)

    def _xforward(self, line: bytes, rest: bytes) -> ev.Event:
        return xclient.xforward(self.settings, line, rest, busy=self.in_transaction)


_HANDLERS: dict[bytes, Callable[[ServerSession, bytes, bytes], ev.Event]] = {
    verb: getattr(ServerSession, f"_{verb.decode('ascii').lower()}") for verb in VERBS
}
