"""``sendmail -bs``: SMTP on standard input and output, each message into the maildrop.

Who calls it is the client, so no restriction is asked, and there is no TLS and no AUTH; the addresses and
headers are completed as for any other mail of this host once it is picked up.  Whose first line ends in a
lone LF ends all lines so.  Ends with QUIT, the end of input, or too many errors.  RFC 5321.

Postfix counterpart: ``smtpd -S``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace

from mtad.cli.voice import Fatal
from mtad.config.parameters import Parameters
from mtad.daemon.authorized import sender_refused
from mtad.errors import QueueError
from mtad.maillog import printable
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.envelope import content_records, decoded_orcpt, notify_mask
from mtad.queue.postfix.maildrop import Drop, open_drop
from mtad.queue.postfix.records import attribute, pack
from mtad.smtpd.engine import engine_settings
from mtad.smtpd.received import Trace, received
from mtad.wire import events as ev
from mtad.wire.command import xtext_decode, xtext_encode
from mtad.wire.ehlo import ehlo_reply, helo_reply
from mtad.wire.reply import Reply
from mtad.wire.server import HELP, ServerSession

_READ = 65536
_RETURN = {b"FULL": 1, b"HDRS": 2}
_ENCODING = {b"7BIT": "7bit", b"8BITMIME": "8bit"}
_OK = Reply(250, b"Ok", b"2.0.0")
_JUNK = (ev.Helo, ev.Rset, ev.Noop, ev.Vrfy, ev.Etrn, ev.Ignored)


class _Dialogue:
    """One session."""

    def __init__(self, p: Parameters) -> None:
        self._p = p
        self._limit = p.number("message_size_limit")
        self._settings = replace(
            engine_settings(p, p, "", False),
            auth_enabled=False,
            bare_newline="no",
            keep_cr=True,  # until it is picked up
            extensions=frozenset(),
            filter_commands=False,
            forbid_unauth_pipelining=False,
        )
        self._errors = self._junk = 0
        self._engine = ServerSession(self._settings)
        self._mail: ev.Mail | None = None
        self._recipients: list[ev.Rcpt] = []
        self._helo = ev.Helo(b"localhost", False)
        self._bare: bool | None = None
        self._drop: Drop | None = None
        self._pieces = _Pieces()
        self._failure: Reply | None = None

    def run(self) -> None:
        engine = self._engine
        engine.greet(Reply(220, self._p["smtpd_banner"].encode()))
        while True:
            os.write(1, engine.data_to_send())
            if engine.closed:
                break
            data = os.read(0, _READ)
            if not data:
                break
            engine.receive(self._with_returns(data))
            if not self._go_on():
                break

    def _go_on(self) -> bool:
        """Answer what has been said; False: there were too many errors."""
        engine, p = self._engine, self._p
        while (event := engine.next_event()) is not None:
            if isinstance(event, ev.BodyChunk):
                self._write(self._pieces.feed(event.data))
                continue
            reply = self._answer(event)
            if self._errors >= p.number("smtpd_soft_error_limit") and reply is not None:
                os.write(1, engine.data_to_send())
                time.sleep(p.seconds("smtpd_error_sleep_time"))
            if reply is None:
                engine.begin_chunk()
            else:
                engine.reply(reply)
                self._count(event, reply)
            if self._errors >= p.number("smtpd_hard_error_limit") and not engine.closed:
                text = self._settings.hostname + b" Error: too many errors"
                os.write(1, engine.data_to_send() + Reply(421, text, b"4.7.0").encode())
                return False
        return True

    def _count(self, event: ev.Event, reply: Reply) -> None:
        """Note what the client does wrong, or too often; all is forgiven with a message."""
        if isinstance(event, ev.BodyEnd) and reply.positive:
            self._errors = self._junk = 0
        elif event.error if isinstance(event, ev.Refused) else reply.code >= 400:
            self._errors += 1
        if isinstance(event, _JUNK):
            self._junk += 1
            self._errors += self._junk > self._p.number("smtpd_junk_command_limit") + 1

    def _with_returns(self, data: bytes) -> bytes:
        """Input as SMTP has it."""
        if self._bare is None and b"\n" in data:
            self._bare = not data.partition(b"\n")[0].endswith(b"\r")
        return data.replace(b"\n", b"\r\n") if self._bare else data

    def _answer(self, event: ev.Event) -> Reply | None:
        """The reply; None: let the chunk come."""
        match event:
            case ev.Refused():
                return event.reply
            case ev.Helo():
                self.forget()
                self._helo = event
                return ehlo_reply(self._settings, False, ()) if event.extended else helo_reply(self._settings)
            case ev.Mail():
                self.forget()
                if reason := sender_refused(self._p, os.getuid(), event.sender.text):
                    return Reply(553, b"Sender address rejected: " + reason.encode(), b"5.7.1")
                self._mail = event
                return Reply(250, b"Ok", b"2.1.0")
            case ev.Rcpt():
                self._recipients.append(event)
                return Reply(250, b"Ok", b"2.1.5")
            case ev.Data():
                return self._begin() or Reply(354, b"End data with <CR><LF>.<CR><LF>")
            case ev.Bdat():
                return self._begin() if event.first else None
            case ev.BdatEnd():
                return Reply(250, b"Ok: %d bytes" % event.size, b"2.0.0")
            case ev.BodyEnd():
                return self._end(b"%d bytes " % event.size if event.chunked else b"")
            case ev.Rset():
                self.forget()
                return _OK
            case ev.Vrfy():
                return Reply(252, event.argument, b"2.0.0")
            case ev.Etrn():
                return Reply(458, b"Unable to queue messages")
            case ev.Help():
                return HELP
            case ev.Quit():
                return Reply(221, b"Bye", b"2.0.0")
        return _OK

    def forget(self) -> None:
        """Give up the message that is under way, if there is one."""
        if self._drop is not None:
            self._drop.abandon()
        self._drop, self._mail, self._failure = None, None, None
        self._recipients = []
        self._pieces = _Pieces()

    def _begin(self) -> Reply | None:
        """Open the maildrop's file and write the envelope; the refusal where that fails."""
        mail = self._mail
        assert mail is not None
        try:
            self._drop = open_drop(self._p)
            for record in self._envelope(mail):
                self._drop.write(record)
            for record in content_records((self._received(mail, self._drop.name),)):
                self._drop.write(record)
        except QueueError as error:
            return Reply(451, b"Error: queue file write error: " + printable(str(error)).encode(), b"4.3.0")
        return None

    def _envelope(self, mail: ev.Mail) -> Iterator[bytes]:
        if mail.smtputf8:
            yield pack(rec.SIZE, b"%15d %15d %15d %15d %15d %15d" % (-1, -1, -1, -1, -1, 1))
        if mail.envid:
            yield attribute("envelope_id", xtext_decode(mail.envid) or b"")
        if mail.ret in _RETURN:
            yield attribute("ret_flags", _RETURN[mail.ret])
        yield attribute("rewrite_context", "local")
        yield pack(rec.SENDER, mail.sender.text)
        if mail.body in _ENCODING:
            yield attribute("encoding", _ENCODING[mail.body])
        for recipient in self._recipients:
            if recipient.notify:
                yield attribute("notify_flags", notify_mask(recipient.notify))
            orcpt = recipient.orcpt or b"rfc822;" + xtext_encode(recipient.argument)
            yield attribute("dsn_orig_rcpt", decoded_orcpt(orcpt))
            yield pack(rec.RECIPIENT, recipient.recipient.text)
        yield pack(rec.MESSAGE, b"")

    def _received(self, mail: ev.Mail, queue_id: str) -> bytes:
        trace = Trace(
            helo=self._helo.name, client_name=b"localhost", client_address=b"127.0.0.1",
            by=self._settings.hostname, mail_name=self._p["mail_name"].encode(),
            protocol=b"ESMTP" if self._helo.extended else b"SMTP", smtputf8=mail.smtputf8, tls=False,
            tls_lines=(), authenticated=False, authenticated_sender=b"",
            hide_client=self._p.flag("smtpd_hide_client_session"),
        )  # fmt: skip
        only = self._recipients[0].recipient.wire if len(self._recipients) == 1 else b""
        return received(trace, queue_id, only, time.time())

    def _write(self, data: bytes) -> None:
        if self._drop is None or self._failure is not None:
            return
        try:
            if self._limit and self._pieces.size > self._limit:
                raise Fatal("message file too big")
            self._drop.write(data)
        except Fatal:
            self._failure = Reply(552, b"Error: message file too big", b"5.3.4")
        except QueueError:
            self._failure = Reply(451, b"Error: queue file write error", b"4.3.0")

    def _end(self, size: bytes) -> Reply:
        self._write(self._pieces.finish() + pack(rec.EXTRACTED, b"") + pack(rec.END, b""))
        drop, failure, queued = self._drop, self._failure, ""
        assert drop is not None
        if failure is None:
            try:
                drop.commit()
                queued, self._drop = drop.name, None
            except QueueError:
                failure = Reply(451, b"Error: queue file write error", b"4.3.0")
        self.forget()
        return failure or Reply(250, b"Ok: %bqueued as %b" % (size, queued.encode()), b"2.0.0")


class _Pieces:
    """Content as records, whatever the pieces in which it comes."""

    def __init__(self) -> None:
        self._rest = b""
        self.size = 0

    def feed(self, data: bytes) -> bytes:
        self.size += len(data)
        data = self._rest + data
        end = data.rfind(b"\r\n") + 2
        if end < 2:
            self._rest = data
            return b""
        self._rest = data[end:]
        return b"".join(content_records((data[:end],)))

    def finish(self) -> bytes:
        return b"".join(content_records((self._rest,)))


def serve(p: Parameters) -> int:
    """Speak with whoever has our standard input and output; the exit status."""
    dialogue = _Dialogue(p)
    try:
        dialogue.run()
    finally:
        dialogue.forget()
    return 0
