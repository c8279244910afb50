"""``sendmail -bs``: SMTP on standard input and output, each message into the maildrop.

Who calls it is the client, so no restriction is asked; the addresses and headers are completed as for any
other mail of this host once it is picked up.  Ends with QUIT or the end of input.  RFC 5321.

Postfix counterpart: ``smtpd -S``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from mtad.cli.voice import Fatal
from mtad.config.parameters import Parameters
from mtad.daemon.authorized import sender_refused
from mtad.errors import QueueError
from mtad.maillog import printable
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.envelope import content_records
from mtad.queue.postfix.maildrop import Drop, open_drop
from mtad.queue.postfix.records import attribute, pack
from mtad.wire import events as ev
from mtad.wire.command import xtext_decode
from mtad.wire.ehlo import ehlo_reply, helo_reply
from mtad.wire.reply import Reply
from mtad.wire.server import HELP, ServerSession
from mtad.wire.settings import ServerSettings

_READ = 65536
_NOTIFY = {b"NEVER": 1, b"SUCCESS": 2, b"FAILURE": 4, b"DELAY": 8}
_RETURN = {b"FULL": 1, b"HDRS": 2}
_ENCODING = {b"7BIT": "7bit", b"8BITMIME": "8bit"}
_OK = Reply(250, b"Ok", b"2.0.0")


class _Dialogue:
    """One session."""

    def __init__(self, p: Parameters) -> None:
        self._p = p
        self._limit = p.number("message_size_limit")
        self._settings = ServerSettings(
            hostname=p["myhostname"].encode(),
            size_limit=self._limit,
            smtputf8=p.flag("smtputf8_enable"),
            recipient_limit=0,
            forbid_unauth_pipelining=False,
        )
        self._engine = ServerSession(self._settings)
        self._mail: ev.Mail | None = None
        self._recipients: list[ev.Rcpt] = []
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
            engine.receive(data)
            while (event := engine.next_event()) is not None:
                if isinstance(event, ev.BodyChunk):
                    self._write(self._pieces.feed(event.data))
                    continue
                reply = self._answer(event)
                if reply is None:
                    engine.begin_chunk()
                else:
                    engine.reply(reply)
        self._forget()

    def _answer(self, event: ev.Event) -> Reply | None:
        """The reply; None: let the chunk come."""
        match event:
            case ev.Refused():
                return event.reply
            case ev.Helo():
                self._forget()
                return ehlo_reply(self._settings, False, ()) if event.extended else helo_reply(self._settings)
            case ev.Mail():
                self._forget()
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
                return self._end()
            case ev.Rset():
                self._forget()
                return _OK
            case ev.Vrfy():
                return Reply(252, event.argument, b"2.0.0")
            case ev.Etrn():
                return Reply(459, b"<%b>: service unavailable" % event.domain)
            case ev.Help():
                return HELP
            case ev.Quit():
                return Reply(221, b"Bye", b"2.0.0")
        return _OK

    def _forget(self) -> None:
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
                yield attribute("notify_flags", sum(_NOTIFY[word] for word in recipient.notify))
            yield pack(rec.RECIPIENT, recipient.recipient.text)
        yield pack(rec.MESSAGE, b"")

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

    def _end(self) -> Reply:
        self._write(self._pieces.finish() + pack(rec.EXTRACTED, b"") + pack(rec.END, b""))
        drop, failure = self._drop, self._failure
        assert drop is not None
        if failure is None:
            try:
                drop.commit()
                self._drop = None
            except QueueError:
                failure = Reply(451, b"Error: queue file write error", b"4.3.0")
        self._forget()
        return failure or Reply(250, b"Ok: queued", b"2.0.0")


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
    _Dialogue(p).run()
    return 0
