"""The SMTP server's shell: bytes, time and TLS around an engine and a session.

:class:`SubmissionProtocol` feeds what arrives to :class:`mtad.wire.server.ServerSession`, lets
:class:`mtad.smtpd.session.Session` answer its events one after the other, and writes what the engine has
to say.  It keeps Postfix's time limits and its tarpit, reads no more while an answer is worked on or not
taken, and logs the beginning and the end of each session.

RFC 5321 sections 3.1, 4.5.3.2; RFC 3207.  Postfix counterpart: ``smtpd_proto()``, ``smtpd_chat.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mtad.errors import TableError
from mtad.net.drive import drive
from mtad.net.tls_channel import TLSChannel
from mtad.policy.check import HANG_UP
from mtad.smtpd.arrival import arrive
from mtad.smtpd.endings import log_end, log_handshake, log_reason
from mtad.smtpd.session import Session
from mtad.wire import events as ev
from mtad.wire.reply import Reply
from mtad.wire.server import SYNCHRONIZATION, ServerSession

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall

    from mtad.smtpd.notices import History
    from mtad.smtpd.service import SmtpdService

#: Unread input beyond which we stop reading while an answer is being worked on.
_BUFFER = 65536

#: How much of what a client said before the greeting is looked at.
_EARLY = 4096

#: Seconds that a client has to take the last reply before it is cut off.
_LINGER = 5.0

_BUG = Reply(451, b"Error: internal error", b"4.3.0")


@implementer(IHandshakeListener, IPushProducer)
class SubmissionProtocol(Protocol):
    """One connection.  See the module."""

    transport: Any

    def __init__(self, service: SmtpdService) -> None:
        self.service = service
        self.session: Session | None = None
        self._engine: ServerSession | None = None
        self._busy = True  # an answer is being worked on
        self._pumping = False
        self._choked = False  # the client does not take our replies
        self._not_reading = False
        self._handshaking = False
        self._closing = False
        self._reason = "lost connection"  # why the session ended, where nobody said QUIT
        self._timer: IDelayedCall | None = None
        self._event: ev.Event | None = None
        self._history: History | None = None  # what the postmaster may be told
        self._aborted = ""  # the reason, once it has

    # -- from Twisted

    def connectionMade(self) -> None:
        service = self.service
        service.sessions.add(self)
        service.stress.connected()
        self._timer = service.reactor.callLater(service.settings.timeout, self._timed_out)
        self.transport.registerProducer(self, True)
        if not drive(self._arrive(), lambda _: None, self._failed):
            # What the client says while its name is looked up stays where it is: it may be TLS already.
            self._not_reading = True
            self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        engine = self._engine
        assert engine is not None  # nothing is read before
        self._give_time(engine, len(data))
        engine.receive(data)
        if not self._busy:
            self._pump()
        if engine.buffered > _BUFFER and (self._busy or self._choked) and not self._not_reading:
            self._not_reading = True
            self.transport.pauseProducing()

    def _give_time(self, engine: ServerSession, received: int) -> None:
        """The client has said something.  With a deadline, only content buys time."""
        timer, settings = self._timer, self.service.settings
        if timer is None:
            return
        if not settings.per_request_deadline:
            timer.reset(settings.timeout)
        elif engine.where.endswith(b" content"):
            left = timer.getTime() - self.service.reactor.seconds()
            timer.reset(min(left + received / settings.min_data_rate, settings.timeout))

    def handshakeCompleted(self) -> None:
        """TLS is on (IHandshakeListener)."""
        session, engine, service = self.session, self._engine, self.service
        assert session is not None and engine is not None
        self._handshaking = False
        connection = self.transport.getHandle()
        info = service.tls.describe(connection)
        service.tls.log_established(info, session.client)
        counts = session.counts
        if counts is not None and not info.reused and (too_many := counts.new_tls()) is not None:
            self._write(too_many.encode())
            self._close()
            return
        session.tls_started(info, TLSChannel(connection, info, server=True))
        refusal = service.tls.certificate_refusal(info)
        if service.tls.wrapper:
            drive(self._greet(refusal), lambda _: None, self._failed)
            return
        engine.tls_started()
        self._event = None
        self._busy = False
        if refusal:
            service.log.info(f"NOQUEUE: abort: TLS from {session.client}: {refusal}")
            self._write(
                Reply(421, f"{service.settings.myhostname} Error: {refusal}".encode(), b"4.7.1").encode()
            )
            self._close()
            return
        self._pump()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.service.sessions.discard(self)
        self.service.stress.disconnected()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        session = self.session
        if session is None:
            return
        if not self._closing and self._handshaking:
            log_handshake(session, reason, self._reason)
            if session.counts is not None:
                session.counts.new_tls()
        if not self._closing:
            self._aborted = self._reason
            log_reason(session, self._reason)
        log_end(session)
        if self._history is not None and self.service.notices is not None:
            self.service.notices.tell(self._history, session.client, self._aborted)
        self._closing = True
        session.forget()

    # -- back-pressure: we are our transport's producer

    def pauseProducing(self) -> None:
        self._choked = True

    def resumeProducing(self) -> None:
        self._choked = False
        if not self._busy and not self._closing:
            self._pump()

    def stopProducing(self) -> None:
        self._choked = True

    # -- beginning

    async def _arrive(self) -> None:
        service = self.service
        session, problem = await arrive(self.transport, service)
        if self._closing or self._timer is None:
            return  # nobody waits any more
        self.session, self._engine, counts = session, session.engine, session.counts
        service.log.info(f"connect from {session.client}")
        if problem:
            self._reason = ""
            self._hang_up("Server local error", "4.3.0")
        elif not service.tls.wrapper:
            await self._greet("")
        elif service.tls.available:
            if counts is not None and counts.begin_tls(True) is not None:
                self._close()
            else:
                self._start_tls()
        else:
            service.log.warning(
                f"Wrapper-mode request dropped from {session.client} for service {service.settings.service}."
                " TLS context initialization failed. For details see earlier warnings in your logs."
            )
            self._close()

    async def _greet(self, refusal: str) -> None:
        session, engine, service = self.session, self._engine, self.service
        assert session is not None and engine is not None
        engine.receive(self._said_early())
        early = engine.spoke_early()
        if refusal:
            text = f"{service.settings.myhostname} Error: {refusal}"
            reply = Reply(421, text.encode(), b"4.7.1")
        else:
            reply = SYNCHRONIZATION if early else await session.begin()
        # what milters say of a connection is said to its commands too, but does not forbid them
        engine.greet(reply, lasting=session.milters is None)
        if session.transcript is not None:
            session.transcript.replied(reply)
        if service.notices is not None and (service.notices.always or reply.code >= 400):
            self._note(reply)
        self._busy = False
        self._notes()
        self._go_on(session, engine)

    def _said_early(self) -> bytes:
        """What the client has said before it was greeted."""
        connection = getattr(self.transport, "socket", None)
        if connection is None or self.service.tls.wrapper:
            return b""
        try:
            data: bytes = connection.recv(_EARLY)
        except OSError:
            return b""
        return data

    # -- the conversation

    def _pump(self) -> None:
        """Answer what was said, until there is nothing more or an answer takes its time."""
        session, engine = self.session, self._engine
        if self._pumping or session is None or engine is None:
            return
        self._pumping = True
        while not (self._busy or self._choked or self._closing or engine.closed):
            event = engine.next_event()
            if engine.notes:
                self._notes()
            if event is None:
                break
            if type(event) is ev.BodyChunk:
                work = session.chunk(event.data)
                if work is not None:
                    self._busy = True
                    drive(work, self._taken, self._chunk_failed)
                continue
            self._event = event
            self._busy = True
            if type(event) is ev.CommandLine:
                drive(
                    self.service.command_filter.filtered(event.line, session.client),
                    self._obey, self._failed,
                )  # fmt: skip
                continue
            answer = session.handle(event)
            if isinstance(answer, Reply):
                self._answer(answer)
            else:
                drive(answer, self._answer, self._failed)
        self._pumping = False
        data = engine.data_to_send()
        if data and not self._closing:
            self._write(data)
        if engine.closed and not self._busy:
            self._close()
        elif self._not_reading and not self._busy and not self._closing and engine.buffered <= _BUFFER:
            self._not_reading = False
            self.transport.resumeProducing()

    def _taken(self, _: None) -> None:
        """A chunk was dealt with."""
        self._busy = False
        self._pump()

    def _chunk_failed(self, failure: Failure) -> None:
        """A mistake of ours in the middle of a message, which can't be taken now."""
        self.service.report_bug(failure)
        if self.session is not None:
            self.session.chunk_failed()
        self._taken(None)

    def _answer(self, reply: Reply | None) -> None:
        """Give ``reply``, at once or, to a client with too many errors, after a while.

        None: the chunk that BDAT announced may come.
        """
        session, service = self.session, self.service
        if self._closing or session is None:
            return
        if reply is HANG_UP:
            self._close()
        elif reply is not None and reply.code >= 400 and service.refusals.changes:
            drive(
                service.refusals.changed(reply, session.request, session.last_recipient),
                self._delayed,
                self._failed,
            )
        else:
            self._delayed(reply)

    def _delayed(self, reply: Reply | None) -> None:
        session, service = self.session, self.service
        if self._closing or session is None:
            return
        if session.error_count >= service.settings.soft_error_limit and reply is not None:
            service.reactor.callLater(service.settings.error_sleep_time, self._say, reply)
        else:
            self._say(reply)

    def _obey(self, line: bytes) -> None:
        """Go on with what smtpd_command_filter has made of a command line."""
        engine = self._engine
        if self._closing or engine is None:
            return
        self._busy = False
        engine.command(line)
        self._pump()

    def _say(self, reply: Reply | None) -> None:
        session, engine = self.session, self._engine
        if self._closing or session is None or engine is None:
            return
        self._busy = False
        if reply is None:
            if self._history is not None:
                self._note(None)
            engine.begin_chunk()
            self._pump()
            return
        if reply.code >= 500:
            reply = self.service.refusals.soften(reply)
        if self._history is not None or reply.code >= 400:
            self._note(reply)
        session.answered(reply)
        engine.reply(reply)
        if engine.notes:
            self._notes()
        if self._timer is not None and self.service.settings.per_request_deadline:
            self._timer.reset(self.service.settings.timeout)
        if type(self._event) is ev.StartTLS and reply.code == 220:
            self._write(engine.data_to_send())
            self._start_tls()
            return
        self._go_on(session, engine)

    def _go_on(self, session: Session, engine: ServerSession) -> None:
        """Hear the next command, unless there were too many errors."""
        settings = self.service.settings
        if session.error_count < settings.hard_error_limit or engine.closed:
            self._pump()
            return
        self._busy = True
        self._reason = "too many errors"
        self._write(engine.data_to_send())
        slow = session.error_count >= settings.soft_error_limit
        delay = settings.error_sleep_time if slow else 0
        self.service.reactor.callLater(delay, self._hang_up, "Error: too many errors", "4.7.0")

    def _note(self, reply: Reply | None) -> None:
        """Keep what was said, for the postmaster, where that is wanted."""
        notices, session, event = self.service.notices, self.session, self._event
        if notices is not None and session is not None:
            if self._history is None and reply is not None:
                self._history = notices.begin(event, reply)
            if self._history is not None:
                notices.heard(self._history, session.client, event, reply)

    def _hang_up(self, text: str, dsn: str) -> None:
        """Say 421 and end the session."""
        if self._closing:
            return
        reply = Reply(421, f"{self.service.settings.myhostname} {text}".encode(), dsn.encode())
        session, refusals = self.session, self.service.refusals
        if session is not None and refusals.changes:
            drive(refusals.changed(reply, session.request, session.last_recipient), self._part, self._failed)
        else:
            self._part(reply)

    def _part(self, reply: Reply) -> None:
        if self._closing:
            return
        self._write(reply.encode())
        self._event, self._aborted = None, self._reason
        self._note(reply)
        if self.session is not None:
            log_reason(self.session, self._reason)
        self._close()

    def _write(self, data: bytes) -> None:
        self.transport.write(data)

    def _notes(self) -> None:
        """Log what the engine noted."""
        engine = self._engine
        assert engine is not None
        for note in engine.notes:
            if note.startswith("warning: "):
                text = note.removeprefix("warning: ")
                self.service.log.warning(self.session.named(text) if self.session is not None else text)
            else:
                self.service.log.info(note)
        engine.notes.clear()

    def _start_tls(self) -> None:
        self._busy = True
        self._handshaking = True
        if self._timer is not None:
            self._timer.reset(self.service.settings.starttls_timeout)
        assert self.session is not None
        self.transport.startTLS(self.service.tls.creator(self.session.client))
        if self._not_reading:
            self._not_reading = False
            self.transport.resumeProducing()

    # -- ends

    def shut_down(self) -> None:
        """The service stops: end this session as soon as no mail is on its way into the queue."""
        if self._busy and not self._handshaking:
            self.service.reactor.callLater(0.1, self.shut_down)
        elif not self._closing:
            self._hang_up("Server local error", "4.3.0")

    def _close(self) -> None:
        if self._closing:
            return
        self._closing = True
        transport = self.transport
        assert transport is not None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = self.service.reactor.callLater(_LINGER, transport.abortConnection)
        transport.unregisterProducer()
        transport.loseConnection()

    def _timed_out(self) -> None:
        if self._busy and not self._handshaking and not self._choked and self.session is not None:
            # it is our answer that takes its time
            assert self._timer is not None
            self._timer = self.service.reactor.callLater(self.service.settings.timeout, self._timed_out)
            return
        self._reason = "timeout"
        if self._handshaking or self.session is None:
            self.transport.abortConnection()
        else:
            self._hang_up("Error: timeout exceeded", "4.4.2")

    def _failed(self, failure: Failure) -> None:
        """A table that can't be asked, or a mistake of ours: the client may try again, the log tells us."""
        session = self.session
        if session is not None and not self._closing and failure.check(TableError):
            self._local_data_error(session)
            return
        self.service.report_bug(failure)
        if session is None or self._closing:
            self.transport.abortConnection()
            return
        self._delayed(_BUG)

    def _local_data_error(self, session: Session) -> None:
        text = f"421 4.3.0 {self.service.settings.myhostname} Server local data error"
        where = session.engine.where.decode()
        session.log.info(
            f"{session.request.queue_id or 'NOQUEUE'}: reject: {where} from {session.client}: {text}"
        )
        self._reason = ""
        self._hang_up("Server local data error", "4.3.0")
