"""One SMTP session with a server: the Twisted protocol around :class:`~mtad.wire.client.ClientSession`.

A :class:`Connection` feeds the engine, sends what it has to say, and keeps time: each stage of the session
has its own timeout.  :meth:`Connection.next_event` gives the engine's events and raises
:class:`ConnectionBroken`, with Postfix's words, when the server is gone or silent.  The body of a message is
sent by :meth:`Connection.send_body` at the speed at which the server takes it.

Postfix counterpart: ``smtp_chat.c``, ``smtp_stream.c``, ``smtp_session.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mtad.deliver.nexthop import Host
from mtad.deliver.notices import DATA, PROTOCOL, History
from mtad.deliver.settings import Timeouts
from mtad.errors import MtadError, TableError
from mtad.net.tls import Handshake, TLSInfo
from mtad.wire.client import ClientSession
from mtad.wire.client_events import ClientEvent
from mtad.wire.server_reply import ServerReply

#: Seconds for a server to take our QUIT and to close TLS.
_FAREWELL = 10


class ConnectionBroken(MtadError):
    """The server is gone or does not answer; ``text`` says at which stage."""

    def __init__(self, text: str, dsn: str = "4.4.2", errors: frozenset[str] = frozenset()) -> None:
        self.text = text
        self.dsn = dsn
        self.errors = errors  # words of notify_classes
        super().__init__(text)


class HandshakeFailed(MtadError):
    """TLS could not be set up; ``problems`` are the TLS library's, if it has any."""

    dsn = "4.7.5"

    def __init__(self, text: str, problems: tuple[str, ...] = ()) -> None:
        self.text = text
        self.problems = problems
        super().__init__(text)

    @classmethod
    def because(cls, reason: Failure) -> HandshakeFailed:
        """Of a connection that ended in the handshake."""
        if not reason.check(SSL.Error):
            return cls("lost connection")
        arguments = getattr(reason.value, "args", ())
        entries = arguments[0] if arguments else ()
        return cls("-1", tuple([":".join(map(str, entry)) for entry in entries]))


def _stage_timeouts(timeouts: Timeouts) -> dict[str, int]:
    return {
        "receiving the initial server greeting": timeouts.helo,
        "receiving the STARTTLS response": timeouts.starttls,
        "sending XFORWARD name/address": timeouts.xforward,
        "sending XFORWARD protocol/helo_name": timeouts.xforward,
        "sending MAIL FROM": timeouts.mail,
        "sending RCPT TO": timeouts.rcpt,
        "sending DATA command": timeouts.data_init,
        "sending message body": timeouts.data_xfer,
        "sending end of data -- message may be sent more than once": timeouts.data_done,
        "sending final RSET": timeouts.rset,
        "sending QUIT": timeouts.quit,
    }


@implementer(IPushProducer, IHandshakeListener)
class Connection(Protocol):
    """See the module.  ``last``: no other host is tried after this one; ``uses``: messages carried."""

    transport: Any

    def __init__(self, host: Host, session: ClientSession, timeouts: Timeouts, reactor: Any) -> None:
        self.host = host
        self.session = session
        self.uses = 0
        self.last = False
        self.opened = 0.0
        self.discarding = ""  # a line for the log at each EHLO
        self.tls: TLSInfo | None = None
        self.tls_optional = False  # the first message may go without TLS where that breaks down
        self.again_plain = False  # TLS broke down, and the same host is to be tried without it
        self.requiretls = False  # the sender of what it carries has asked for REQUIRETLS
        self.keeps_tls: bool | None = None  # may carry further messages within TLS; None: as main.cf has it
        self.history: History | None = None
        self.errors: frozenset[str] = frozenset()  # words of notify_classes; it is not used again
        self.tls_status = ""  # for log lines: "may", "may:none", "encrypt?", "!encrypt" (3.11's tls=)
        self.made: Callable[[], None] | None = None  # called when the connection is there
        self.closed: Callable[[], None] | None = None  # called once when it is gone
        self._timeouts = _stage_timeouts(timeouts)
        self._pix_delay = timeouts.pix_delay
        self._lingers = timeouts.lingers
        self._per_request = timeouts.per_request
        self._data_rate = timeouts.data_rate
        self._deadline = 0.0  # of the request under way; 0: not set
        self._patience = timeouts.helo
        self._limit = 0.0  # of what is waited for
        self._left = 0  # then unsent
        self._carrier: Any = None  # the transport below TLS
        self._reactor = reactor
        self._timer: IDelayedCall | None = None
        self._waiter: Deferred[None] | None = None
        self._broken: MtadError | None = None
        self._handshake: Handshake | None = None
        self._shaking = False
        self._paused = False
        self._spoke = False  # bytes came in
        self._quitting = False
        self._gone: Callable[[], None] | None = None  # set while idle

    # -- for those who use it

    @property
    def usable(self) -> bool:
        """Whether another transaction may begin."""
        return self._broken is None and self.session.ready

    def check(self) -> None:
        """Raise what has broken the connection, if something has."""
        if self._broken is not None:
            raise self._broken

    def listen(self, history: History | None) -> None:
        """Have ``history`` hear what is said from now on."""
        self.history = history
        self.session.listen(history)

    def judge(self, reply: ServerReply) -> None:
        """Something was refused."""
        if reply.strange:
            self.errors |= PROTOCOL

    async def next_event(self) -> ClientEvent | None:
        """The engine's next event; None when the session is closed and has no more."""
        session = self.session
        self._deadline = 0.0
        while (event := self._event()) is None:
            self.flush()
            if session.closed:
                return None
            await self._wait(self._timeouts.get(session.stage, self._patience))
        return event

    def _event(self) -> ClientEvent | None:
        try:
            return self.session.next_event()
        except TableError as error:  # of smtp_reply_filter
            text = f"local data error while talking to {self.host.pair}"
            self._broken = ConnectionBroken(text, "4.3.0", DATA)
            self.transport.abortConnection()
            raise self._broken from error

    def flush(self) -> None:
        """Send what the engine has to say."""
        data = self.session.data_to_send()
        if data and self._broken is None:
            self.transport.write(data)

    async def send_body(self, chunks: Iterable[bytes], slow_end: bool = False) -> None:
        """Send a message whole; returns early when the server answers before its end.

        ``slow_end``: with a pause before the end (``smtp_pix_workaround_delay_time``)."""
        session = self.session
        iterator = iter(chunks)
        chunk = next(iterator, b"")
        ahead = next(iterator, None)
        self._deadline = 0.0
        if ahead is None and not slow_end:  # the usual case: small, one write
            session.send_body(chunk)
            session.end_body()
            return
        self._spoke = False
        self.transport.registerProducer(self, True)
        try:
            while True:
                session.send_body(chunk)
                self.flush()
                if self._paused:
                    await self._wait(self._timeouts["sending message body"])
                if self._broken is not None or self._spoke:
                    return
                if self._deadline:
                    self._deadline += len(chunk) / self._data_rate
                if ahead is None:
                    if slow_end:
                        await self._pause()
                    session.end_body()
                    return
                chunk, ahead = ahead, next(iterator, None)
        finally:
            if self._broken is None:
                self.transport.unregisterProducer()

    async def _pause(self) -> None:
        """Wait for a while, whatever happens."""
        over: Deferred[None] = Deferred()
        self._reactor.callLater(self._pix_delay, over.callback, None)
        await over

    async def start_tls(self, handshake: Handshake, limit: int) -> TLSInfo:
        """Do a TLS handshake; raises HandshakeFailed."""
        self._handshake = handshake
        self._shaking = True
        # the transport of a UNIX-domain socket is one that normally is the server
        self.transport.startTLS(handshake, not self.host.path)
        while self._shaking:
            await self._wait(limit)
        self.tls = handshake.finish(self.transport.getHandle())
        return self.tls

    def log_reuse(self) -> None:
        """Say that TLS serves once more."""
        if self._handshake is not None and self.tls is not None:
            self._handshake.log_reused(self.tls)

    def quit(self) -> None:
        """End the session in good manners; nobody has to wait for it.

        The connection waits for the answer where ``smtp_skip_quit_response`` is off.
        """
        if self._broken is None and not self._quitting:
            self._quitting = True
            self._gone = None
            if self.session.idle:
                self.session.quit()
                self.flush()
            elif self.tls is not None and not self.session.tls:  # after the handshake nothing was said yet
                self.transport.write(b"QUIT\r\n")
            if self._handshake is not None and self.tls is not None:
                self._handshake.keep(self.transport.getHandle())
            if self._lingers and self.session.stage == "sending QUIT":
                self._arm(self._timeouts["sending QUIT"])
            else:
                self._arm(_FAREWELL)
                self.transport.loseConnection()

    def abort(self) -> None:
        """End the connection now."""
        if self._broken is None and self.transport is not None:
            self.transport.abortConnection()

    def idle(self, seconds: float, gone: Callable[[], None]) -> None:
        """Wait for the next message; ``gone`` is called when the session ends before that."""
        self._gone = gone
        self._arm(seconds)

    def busy(self) -> None:
        """The next message is there."""
        self._gone = None

    # -- time

    def _arm(self, seconds: float) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.reset(seconds)
        else:
            self._timer = self._reactor.callLater(seconds, self._timed_out)

    async def _wait(self, limit: float) -> None:
        """Wait for something to happen; raises what broke the connection before."""
        self.check()
        if self._per_request:
            now = self._reactor.seconds()
            self._deadline = self._deadline or now + limit
            limit = max(0.0, self._deadline - now)
        self._limit, self._left = limit, self._unsent if self._paused else 0
        self._arm(limit)
        self._waiter = waiter = Deferred[None]()
        await waiter

    @property
    def _unsent(self) -> int:
        return getattr(self._carrier, "unsent", 0)

    def _moves(self) -> bool:
        """Whether the server has taken some of a message meanwhile, which is all that is asked of it."""
        left, self._left = self._left, self._unsent
        return self._left < left and self._paused and not self._per_request

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    def _timed_out(self) -> None:
        if self._gone is not None:
            gone = self._gone
            self.quit()
            gone()
        elif self._quitting:
            self.transport.abortConnection()
        elif self._waiter is not None and self._moves():
            self._arm(self._limit)
        elif self._waiter is not None:
            stage = _worded(self.session.stage)
            if self._shaking:
                self._broken = HandshakeFailed("Connection timed out")
            else:
                self._broken = ConnectionBroken(f"conversation with {self.host.pair} timed out while {stage}")
            self.transport.abortConnection()
            self._wake()

    # -- what Twisted calls

    def connectionMade(self) -> None:
        self._carrier = self.transport
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        if self.made is not None:
            self.made()

    def dataReceived(self, data: bytes) -> None:
        if self._quitting:
            if self._lingers:  # once: nobody holds us up by going on to talk
                self._lingers = False
                self._arm(_FAREWELL)
                self.transport.loseConnection()
            return
        self.session.receive(data)
        self._spoke = True
        if self._gone is not None:  # an idle server has nothing to say but good bye
            gone = self._gone
            self.quit()
            gone()
            return
        self._wake()

    def handshakeCompleted(self) -> None:
        self._shaking = False
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._broken is None:
            if self._shaking:
                self._broken = HandshakeFailed.because(reason)
            else:
                stage = _worded(self.session.stage)
                self._broken = ConnectionBroken(f"lost connection with {self.host.pair} while {stage}")
        gone, self._gone = self._gone, None
        if gone is not None:
            gone()
        if self.closed is not None:
            self.closed()
        self._wake()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._wake()

    def stopProducing(self) -> None:
        self._paused = False


def _worded(stage: str) -> str:
    """Postfix takes the login for a part of the handshake."""
    return "performing the EHLO handshake" if stage == "performing the AUTH exchange" else stage
