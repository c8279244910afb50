"""A shell around the server session that takes everything, for dialogues."""

from __future__ import annotations

import dataclasses

from mtad.wire import events as ev
from mtad.wire.reply import Reply
from mtad.wire.server import HELP, SYNCHRONIZATION, ServerSession, ServerSettings, helo_reply

OK = Reply(250, b"Ok", b"2.0.0")
CLIENT = "client.example[192.0.2.7]"
BASE = ServerSettings(hostname=b"mail.example.com", forbid_unauth_pipelining=False)
SYNC = ServerSettings(hostname=b"mail.example.com")
AUTH = dataclasses.replace(BASE, auth_enabled=True)

EHLO = b"EHLO me"
MAIL = b"MAIL FROM:<a@example.com>"
RCPT = b"RCPT TO:<b@example.org>"
MAIL_OK, RCPT_OK = b"250 2.1.0 Ok", b"250 2.1.5 Ok"
GO = b"354 End data with <CR><LF>.<CR><LF>"
QUEUED = b"250 2.0.0 Ok: queued as ID"


def answer(session: ServerSession, event: ev.Event) -> Reply | None:
    """A shell that takes everything, but no recipient whose local part is ``reject``."""
    match event:
        case ev.Refused():
            return event.reply
        case ev.Helo():
            return session.ehlo_reply((b"PLAIN",)) if event.extended else helo_reply(session.settings)
        case ev.Mail():
            return Reply(250, b"Ok", b"2.1.0")
        case ev.Rcpt() if event.recipient.local == b"reject":
            return Reply(554, b"Relay access denied", b"5.7.1")
        case ev.Rcpt():
            return Reply(250, b"Ok", b"2.1.5")
        case ev.Data():
            return Reply(354, b"End data with <CR><LF>.<CR><LF>")
        case ev.Bdat():
            return None
        case ev.BdatEnd():
            return Reply(250, b"Ok: %d bytes" % event.size, b"2.0.0")
        case ev.BodyEnd():
            text = b"Ok: %d bytes queued as ID" % event.size if event.chunked else b"Ok: queued as ID"
            return Reply(250, text, b"2.0.0")
        case ev.StartTLS():
            return Reply(220, b"Ready to start TLS", b"2.0.0")
        case ev.Auth():
            done = event.initial == b"good"
            return Reply(235, b"Authentication successful", b"2.7.0") if done else Reply(334, b"")
        case ev.AuthResponse():
            return Reply(535, b"Error: authentication failed: authentication failure", b"5.7.8")
        case ev.AuthAborted():
            return Reply(501, b"Authentication aborted", b"5.7.0")
        case ev.Vrfy():
            return Reply(252, event.argument, b"2.0.0")
        case ev.Etrn():
            return Reply(459, b"<" + event.domain + b">: service unavailable")
        case ev.Xclient():
            helo = (event.values.get("HELO") or "").encode()
            kept = session.restart(session.settings, "other", helo=helo, esmtp=False, authenticated=False)
            return Reply(220, b"again") if kept else SYNCHRONIZATION
        case ev.Help():
            return HELP
        case ev.Quit():
            return Reply(221, b"Bye", b"2.0.0")
    return OK


class Dialogue:
    """A session, its shell, and what came of it."""

    def __init__(self, settings: ServerSettings = BASE, tls: bool = False) -> None:
        self.session = ServerSession(settings, CLIENT, tls)
        self.session.greet(Reply(220, b"mail.example.com ESMTP"))
        self.session.data_to_send()
        self.events: list[ev.Event] = []
        self.bodies: list[bytes] = []
        self.notes: list[str] = []
        self.body = b""
        self.replaced: dict[bytes, bytes] = {}  # by smtpd_command_filter

    def say(self, data: bytes) -> bytes:
        self.session.receive(data)
        while (event := self.session.next_event()) is not None:
            if isinstance(event, ev.BodyChunk):
                assert 0 < len(event.data) <= 65536
                self.body += event.data
                continue
            if isinstance(event, ev.BodyEnd):
                assert event.size == len(self.body)
                self.bodies.append(self.body)
                self.body = b""
            self.events.append(event)
            if isinstance(event, ev.CommandLine):
                self.session.command(self.replaced.get(event.line, event.line))
                continue
            reply = answer(self.session, event)
            if reply is None:
                self.session.begin_chunk()
            else:
                self.session.reply(reply)
        self.notes += self.session.notes
        self.session.notes.clear()
        return self.session.data_to_send()

    def line(self, line: bytes) -> bytes:
        return self.say(line + b"\r\n").removesuffix(b"\r\n")
