"""A content filter before the queue: ``smtpd_proxy_filter``.

The mail of a service with such a filter goes to it by SMTP while the client waits, and what the filter says
is what the client is told; nothing is queued here.  :class:`ProxyFilter` is what a service knows of it,
:class:`Filtering` the passage of one message: ``open`` with the first recipient that we accept,
``recipient``, ``begin``, ``feed``, ``end``; each reply that is given is the client's, None says to go on.
With ``speed_adjust`` the filter is spoken to when the message is complete.  All that the filter says is
bounded by ``line_length_limit``, all waiting by ``smtpd_proxy_timeout``; nothing is raised.

Postfix counterpart: ``smtpd_proxy.c``.  Other than there, ``Require-TLS-ESMTP`` is the topmost header.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from mtad.config.endpoint import Endpoint
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError, MtadError
from mtad.maillog import MailLog, printable
from mtad.net.connect import connect
from mtad.wire.body import PIECE, Stuffer
from mtad.wire.command import xtext_encode
from mtad.wire.reply import Reply

#: The client's answer where the filter has none, or none that fits.
NO_ANSWER = Reply(451, b"Error: queue file write error", b"4.3.0")

GOOD, MORE, ANY = "2", "3", ""

_UNAVAILABLE = "[UNAVAILABLE]"
#: What XFORWARD tells, in Postfix's order, and where it is found.
_FORWARDED = (
    ("NAME", "log_client_name"),
    ("ADDR", "log_client_address"),
    ("PORT", "log_client_port"),
    ("HELO", "log_helo_name"),
    ("IDENT", "log_ident"),
    ("PROTO", "log_protocol_name"),
)
_LONGEST = 512 - len("250 XFORWARD\r\n")
_REPLY = re.compile(rb"\d{3}([ -]|$)")
_MBOX = re.compile(rb">*From ")
_BINARY = re.compile(rb"(?i) BODY=BINARYMIME(?= |$)")
_REQUIRETLS = re.compile(rb"(?i) REQUIRETLS(?= |$)")


@dataclass(frozen=True, slots=True)
class ProxyFilter:
    """The filter of one service."""

    name: str  # as it is configured, and logged
    endpoint: Endpoint
    ehlo: str
    timeout: int
    speed_adjust: bool
    line_limit: int
    keep_cr: bool
    size_limit: int  # 0: none
    requiretls_header: bool

    @classmethod
    def of(cls, p: Parameters) -> ProxyFilter | None:
        """By the parameters of a service; None where it has no filter.  Raises ConfigError."""
        name = p["smtpd_proxy_filter"].strip()
        if not name:
            return None
        kind, _, rest = name.partition(":")
        if kind.lower() == "unix":
            endpoint = Endpoint(os.path.join(p["queue_directory"], rest))
        else:
            text = rest if kind.lower() == "inet" else name
            try:  # a lone word is a port, as inet_connect(3) has it
                endpoint = Endpoint.parse_inet(text if ":" in text else f":{text}")
            except ConfigError as problem:
                path, line = p.where("smtpd_proxy_filter")
                raise ConfigError(
                    problem.reason,
                    path=path,
                    line=line,
                    parameter="smtpd_proxy_filter",
                    remedy=problem.remedy,
                ) from None
        return cls(
            name=name,
            endpoint=endpoint,
            ehlo=p["smtpd_proxy_ehlo"],
            timeout=p.seconds("smtpd_proxy_timeout"),
            speed_adjust="speed_adjust" in p.words("smtpd_proxy_options"),
            line_limit=p.number("line_length_limit"),
            keep_cr=not p.flag("cleanup_replace_stray_cr_lf"),
            size_limit=p.number("message_size_limit"),
            requiretls_header=p.flag("requiretls_esmtp_header"),
        )


class _Link(Protocol):
    """The connection to a filter: lines that wait to be read, and whether it takes more."""

    transport: Any

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = b""
        self._skipping = False
        self._waiting: Deferred[None] | None = None
        self.lines: list[tuple[bytes, bool]] = []  # with whether they were longer than the limit
        self.lost = False
        self.choked = False

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        *lines, self._data = (self._data + data).split(b"\n")
        for line in lines:
            if not self._skipping:
                line = line.removesuffix(b"\r")
                self.lines.append((line[: self._limit], len(line) > self._limit))
            self._skipping = False
        if len(self._data) > self._limit + 1:
            if not self._skipping:
                self.lines.append((self._data[: self._limit], True))
            self._data, self._skipping = b"", True
        if len(self.lines) > 1000:  # nobody has this much to say
            self.transport.abortConnection()
        self._wake()

    def pauseProducing(self) -> None:
        self.choked = True

    def resumeProducing(self) -> None:
        self.choked = False
        self._wake()

    def stopProducing(self) -> None:
        pass

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.lost = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def wait(self, reactor: Any, seconds: float) -> bool:
        """Wait until something happens; False: nothing did."""
        waiting: Deferred[None] = Deferred()
        self._waiting = waiting
        timer = reactor.callLater(seconds, self._give_up, waiting)
        await waiting
        if timer.active():
            timer.cancel()
            return True
        return False

    def _give_up(self, waiting: Deferred[None]) -> None:
        if self._waiting is waiting:
            self._wake()


class Filtering:
    """One message on its way through a filter.

    ``said`` is the filter's last reply, for the log; ``failure`` what the client is told where the filter is
    lost; ``taken`` the bytes of the content so far.  ``mail`` is the client's command; ``attributes``: what
    XFORWARD is to tell, by their names in queued messages, and ``local``, that the client is one of ours.
    """

    def __init__(
        self,
        proxy: ProxyFilter,
        reactor: Any,
        log: MailLog,
        mail: bytes,
        *,
        attributes: Mapping[str, str],
        local: bool,
        requiretls: bool,
        spool: Callable[[], BinaryIO],
    ) -> None:
        self._proxy = proxy
        self._reactor = reactor
        self._log = log
        self._open_spool = spool
        self._mail = _REQUIRETLS.sub(b"", _BINARY.sub(b" BODY=8BITMIME", mail))
        self._attributes = attributes
        self._local = local
        self._top = b"Require-TLS-ESMTP: yes\r\n" if requiretls and proxy.requiretls_header else b""
        self._link: _Link | None = None
        self._stuffer = Stuffer(keep_cr=proxy.keep_cr)
        self._mbox = False
        self._first: bytes | None = b""  # the beginning of the content, until it is known what it is
        self._later: list[
            tuple[bytes, str]
        ] = []  # with speed_adjust: commands and what they are to be answered
        self._spool: BinaryIO | None = None
        self._within = False  # the content
        self.failure: Reply | None = None
        self.said = b""
        self.taken = 0
        self.too_big = False

    # -- the envelope

    async def open(self) -> Reply | None:
        """The filter gets to know the client and the sender."""
        if not self._proxy.speed_adjust:
            return await self._connect()
        try:
            self._spool = self._open_spool()
        except (OSError, MtadError) as problem:
            return self._spool_failed(problem)
        return None

    async def recipient(self, line: bytes) -> Reply | None:
        """The client's RCPT, which we accept."""
        return await self._command(line, GOOD)

    async def begin(self, top: bytes, mbox: bool) -> Reply | None:
        """DATA; ``top`` are headers of ours.  ``mbox``: the content may begin with mbox's envelope."""
        refusal = await self._command(b"DATA", MORE)
        if refusal is None:
            self._within, self._mbox = not self._proxy.speed_adjust, mbox
            self._send(self._top + top)
        return refusal

    # -- the content

    def feed(self, data: bytes) -> Coroutine[Any, Any, None] | None:
        """A piece of the content.  What this gives is to be awaited before the next one."""
        self.taken += len(data)
        limit = self._proxy.size_limit
        if self.too_big or self.failure is not None:
            return None
        if limit and self.taken > limit:
            self.too_big = True
            return None
        if self._first is not None:
            data = self._beginning(self._first + data)
        self._send(data)
        return self._room() if self._link is not None and self._link.choked else None

    async def end(self) -> Reply:
        """The message is complete: what the client is told."""
        if self._first:
            self._send(self._beginning(self._first, final=True))
        if self.failure is not None:
            return self.failure
        if self._spool is not None:
            refusal = await self._replay(self._spool)
            if refusal is not None:
                return refusal
        link = self._link
        assert link is not None
        link.transport.write(self._stuffer.finish())
        self._within = False
        return await self._answer(b".", ANY) or self._reply()

    def discard(self) -> None:
        """The transaction is over; the filter is not asked any more."""
        self.failure = self.failure or NO_ANSWER
        link, self._link = self._link, None
        if link is not None and not link.lost:
            if not self._within:
                link.transport.write(b"QUIT\r\n")
            link.transport.unregisterProducer()  # which would keep the connection
            link.transport.loseConnection()
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _beginning(self, data: bytes, final: bool = False) -> bytes:
        """The first line: it may be an envelope of mbox, or begin the body."""
        if b"\n" not in data and len(data) < self._proxy.line_limit and not final:
            self._first = data
            return b""
        self._first = None
        if self._mbox and _MBOX.match(data):
            return b"X-Mailbox-Line: " + data
        return b"\r\n" + data if data[:1] in (b" ", b"\t") else data

    def _send(self, data: bytes) -> None:
        if self._spool is not None:
            try:
                self._spool.write(data)
            except OSError as problem:
                self.failure = self._spool_failed(problem)
        elif self._link is not None and not self._link.lost:
            for at in range(0, len(data), PIECE):
                self._link.transport.write(self._stuffer.feed(data[at : at + PIECE]))
        elif data:
            self.failure = self._trouble("lost connection with proxy")

    async def _room(self) -> None:
        link = self._link
        while link is not None and link.choked and not link.lost:
            if not await link.wait(self._reactor, self._proxy.timeout):
                self.failure = self._trouble("timeout talking to proxy")
                link.transport.abortConnection()
                return

    # -- the conversation

    async def _connect(self) -> Reply | None:
        proxy = self._proxy
        try:
            self._link = await connect(self._reactor, proxy.endpoint, _Link(proxy.line_limit), proxy.timeout)
        except OSError as problem:
            self._log.warning(f"connect to proxy filter {proxy.name}: {problem.strerror}")
            return self._no_answer()
        if await self._answer(b"", GOOD) or await self._say(b"EHLO %b" % proxy.ehlo.encode(), GOOD):
            return self._no_answer()
        for line in self._xforward(self.said):
            if await self._say(line, GOOD):
                return self._no_answer()
        return await self._say(self._mail, GOOD)

    def _xforward(self, offers: bytes) -> list[bytes]:
        """XFORWARD commands for what the filter's answer to EHLO asks for."""
        words: set[str] = set()
        for line in offers.decode("ascii", "replace").upper().split("\r\n"):
            offer = line[4:].split()
            if offer[:1] == ["XFORWARD"]:
                words.update(offer[1:])
        values = [(name, self._attributes.get(key, "")) for name, key in _FORWARDED]
        values.append(("SOURCE", "LOCAL" if self._local else "REMOTE"))
        commands: list[bytes] = []
        held = b""
        for name, value in values:
            if name not in words:
                continue
            known = value and (value != "unknown" or name in ("HELO", "IDENT"))
            text = b" %b=%b" % (name.encode(), xtext_encode((value if known else _UNAVAILABLE).encode()))
            if held and len(held) + len(text) > _LONGEST:
                commands.append(b"XFORWARD" + held)
                held = b""
            held += text
        return [*commands, b"XFORWARD" + held] if held else commands

    async def _command(self, line: bytes, wanted: str) -> Reply | None:
        if self._proxy.speed_adjust:
            self._later.append((line, wanted))
            return self.failure
        return await self._say(line, wanted)

    async def _replay(self, spool: BinaryIO) -> Reply | None:
        """Say all that was kept."""
        self._spool = None
        try:
            refusal = await self._connect()
            for line, wanted in self._later:
                refusal = refusal or await self._say(line, wanted)
            if refusal is not None:
                return refusal
            spool.seek(0)
            self._within = True
            while data := spool.read(PIECE):
                self._send(data)
                await self._room()
                if self.failure is not None:
                    break
            return self.failure
        except OSError as problem:
            return self._spool_failed(problem)
        finally:
            spool.close()

    async def _say(self, line: bytes, wanted: str) -> Reply | None:
        """A command; None where the answer is as wanted, else what the client is told."""
        link = self._link
        if link is None or link.lost or self.failure is not None:
            return self._no_answer() if link is None or self.failure is not None else self._lost()
        link.transport.write(line + b"\r\n")
        return await self._answer(line, wanted)

    async def _answer(self, line: bytes, wanted: str) -> Reply | None:
        proxy, link = self._proxy, self._link
        assert link is not None
        kept: list[bytes] = []
        while True:
            while not link.lines:
                if link.lost:
                    return self._lost()
                if not await link.wait(self._reactor, proxy.timeout):
                    link.transport.abortConnection()
                    self.failure = self._trouble("timeout talking to proxy")
                    return self.failure
            said, cut = link.lines.pop(0)
            text = printable(said)
            if cut:
                self._log.warning(f"{proxy.name}: response longer than {proxy.line_limit}: {text[:30]}...")
            if not _REPLY.match(said):
                self._log.warning(f"received garbage from proxy {proxy.name}: {text[:100]}")
                continue
            if sum(map(len, kept)) < proxy.line_limit:
                kept.append(text.encode("utf-8", "surrogateescape"))
            if said[3:4] != b"-":
                break
        self.said = b"\r\n".join(kept)
        if wanted == ANY or self.said[:1] == wanted.encode():
            return None
        what = printable(line) if line else "connection request"
        self._log.warning(f'proxy {proxy.name} rejected "{what}": "{printable(self.said)}"')
        return self._no_answer() if self.said[:1] in (b"2", b"3") else self._reply()

    def _reply(self) -> Reply:
        """The filter's reply, as the client's; one of success where none was wanted is no answer."""
        code = self.said[:3]
        first = code[:1] if code.isdigit() and len(code) == 3 else b""
        if first not in (b"2", b"4", b"5"):
            return self._no_answer()
        text = b"\n".join(line[4:] for line in self.said.split(b"\r\n"))
        return Reply(int(code), text)

    def _lost(self) -> Reply:
        if self.failure is None:
            self.failure = self._trouble("lost connection with proxy")
        return self.failure

    def _trouble(self, what: str) -> Reply:
        self._log.warning(f"{what} {self._proxy.name}")
        return self._no_answer()

    def _spool_failed(self, problem: Exception) -> Reply:
        self._log.warning(f"proxy speed-adjust log I/O error: {problem}")
        return self._no_answer()

    def _no_answer(self) -> Reply:
        self.said = str(NO_ANSWER).encode()
        return NO_ANSWER
