"""``smtpd_sasl_type = dovecot``: clients authenticated by Dovecot's daemon.

``smtpd_sasl_path`` is ``inet:host:port``, ``unix:/path``, or a path (below ``queue_directory`` if it is
relative). Mechanisms are those that the server tells, as far as the security options and
``smtpd_sasl_mechanism_filter`` let them through; exchanges are passed on step by step.  One connection is
kept up for all sessions; when it is lost, a new request makes it anew, once.  What keeps the server from
deciding is a temporary failure.

Making a :class:`DovecotAuthenticator` raises ConfigError; everything later is answered with a reply.

Postfix counterpart: ``xsasl_dovecot_server.c``.
"""

from __future__ import annotations

import os
import re
from typing import Any

from twisted.cred.error import LoginFailed
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from mtad.auth.authenticator import Authenticator, AuthSession, Challenge, Denied, Exchange, Granted, Outcome
from mtad.auth.auxprop import Chain
from mtad.auth.checkers import ProvenChecker
from mtad.auth.credentials import SASLProven
from mtad.auth.dovecot_wire import (
    Answer,
    Handshake,
    Lines,
    ProtocolError,
    auth_line,
    cont_line,
    greeting,
    parse_answer,
)
from mtad.auth.failures import FailureLimit
from mtad.auth.interfaces import ISubmitter
from mtad.auth.realm import Login, SubmissionRealm
from mtad.auth.setup import filtered, security_options
from mtad.config.endpoint import Endpoint
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import MailLog, printable
from mtad.net.connect import connect, port_number
from mtad.net.shared import SharedWork
from mtad.sasl.encoding import Malformed, decode
from mtad.sasl.mechanism import Property, Reason, ServerContext

#: Seconds for the connection and the handshake, and for an answer: Dovecot delays those that are no.
CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 30.0

#: Requests under way at once; more are told to come back later.
PENDING_LIMIT = 500

_BASE64 = re.compile(rb"[A-Za-z0-9+/=]*")

_CANT_CONNECT = "Can't connect to authentication server"
_LOST = "Connection lost to authentication server"
_GARBAGE = "Authentication backend error"


class Unavailable(Exception):
    """The server can't be asked now; the text is for the client."""


class _Connection(TwistedProtocol):
    """A connection: ready after the handshake, then as many requests at once as there are."""

    def __init__(self) -> None:
        self.ready: Deferred[Handshake] = Deferred()
        self.lost = False
        self._handshake = Handshake()
        self._lines = Lines()
        self._waiting: dict[int, Deferred[Answer]] = {}
        self._last = 0

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(greeting(os.getpid()))

    def dataReceived(self, data: bytes) -> None:
        try:
            for fields in self._lines.receive(data):
                self._line(fields)
        except ProtocolError as error:
            self.close(Unavailable(f"authentication server: {error}"))

    def _line(self, fields: list[bytes]) -> None:
        if not self.ready.called:
            if self._handshake.line(fields):
                self.ready.callback(self._handshake)
            return
        answer = parse_answer(fields)
        waiting = self._waiting.pop(answer.number, None) if answer is not None else None
        if waiting is not None and answer is not None:
            waiting.callback(answer)

    def next_number(self) -> int:
        self._last += 1
        return self._last

    def ask(self, number: int, line: bytes) -> Deferred[Answer]:
        """The answer to a line of request ``number``; :class:`Unavailable` when there will be none."""
        if self.lost or self.transport is None:
            raise Unavailable(_LOST)
        if len(self._waiting) >= PENDING_LIMIT:
            raise Unavailable("too many requests wait for the authentication server")
        answer: Deferred[Answer] = Deferred(lambda _: self._forget(number))
        self._waiting[number] = answer
        self.transport.write(line)
        return answer

    def _forget(self, number: int) -> None:
        self._waiting.pop(number, None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.close(Unavailable(_LOST))

    def close(self, why: Unavailable) -> None:
        """End the connection, and tell all who wait."""
        self.lost = True
        if self.transport is not None:
            self.transport.loseConnection()
        if not self.ready.called:
            self.ready.errback(why)
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            each.errback(why)


class Server:
    """Dovecot, at the other end of one connection that is made when it is needed."""

    def __init__(self, p: Parameters, reactor: Any, log: MailLog) -> None:
        self.path = p["smtpd_sasl_path"]
        self._reactor = reactor
        self._log = log
        self._endpoint = self._read_endpoint(p)
        self._connection: _Connection | None = None
        self._connected = SharedWork(self._connect)
        self.mechanisms: dict[bytes, Property] = {}
        self._complained = False

    def _read_endpoint(self, p: Parameters) -> Endpoint:
        kind, colon, name = self.path.partition(":")
        if colon and kind == "inet":
            try:
                endpoint = Endpoint.parse_inet(name)
                port_number(endpoint.port or "")
            except (ConfigError, OSError):
                raise p.error("smtpd_sasl_path", f"not inet:host:port: {self.path}") from None
            return endpoint
        path = os.path.join(p["queue_directory"], name if colon and kind == "unix" else self.path)
        if not os.path.basename(path):
            raise p.error("smtpd_sasl_path", f"not the path of a socket: {self.path}")
        return Endpoint(path)

    async def connection(self) -> _Connection:
        """The connection, ready for requests; raises :class:`Unavailable`."""
        if self._connection is None or self._connection.lost:
            self._connection = await self._connected()
        return self._connection

    async def _connect(self) -> _Connection:
        try:
            connection = await connect(self._reactor, self._endpoint, _Connection(), CONNECT_TIMEOUT)
        except OSError as error:
            self._complain(f"connect to {self.path}: {error.strerror}")
            raise Unavailable(_CANT_CONNECT) from error
        ready = connection.ready.addTimeout(CONNECT_TIMEOUT, self._reactor)
        try:
            handshake = await ready
        except (Unavailable, TimeoutError) as error:
            connection.close(Unavailable(_LOST))
            why = str(error) if isinstance(error, Unavailable) else "no handshake in time"
            self._complain(f"{self.path}: {why}")
            raise Unavailable(_CANT_CONNECT) from error
        self.mechanisms = handshake.mechanisms
        self._complained = False
        return connection

    def _complain(self, text: str) -> None:
        if not self._complained:
            self._complained = True
            self._log.warning(f"SASL: {text}")

    async def begin(self, make: Any) -> tuple[_Connection, int, Answer]:
        """A new request, its line by ``make(number)``: on a new connection if the one there breaks."""
        for last in (False, True):
            connection = await self.connection()
            number = connection.next_number()
            try:
                return connection, number, await self.ask(connection, number, make(number))
            except Unavailable:
                if last or not connection.lost:
                    raise
        raise AssertionError

    async def ask(self, connection: _Connection, number: int, line: bytes) -> Answer:
        """The answer to a line of a request; raises :class:`Unavailable`, when it takes too long, too."""
        try:
            return await connection.ask(number, line).addTimeout(ANSWER_TIMEOUT, self._reactor)
        except TimeoutError:
            raise Unavailable("authentication server did not answer in time") from None


class DovecotAuthenticator(Authenticator):
    """Clients authenticated by Dovecot.  The portal's realm still decides what they become."""

    def __init__(self, p: Parameters, reactor: Any, log: MailLog) -> None:
        super().__init__(
            Portal(SubmissionRealm(), [ProvenChecker()]),
            Chain(()),
            log,
            ServerContext(p["myhostname"].encode(), lambda: b""),
            p["smtpd_sasl_local_domain"].encode(),
            (),
            (
                security_options(p, "smtpd_sasl_security_options"),
                security_options(p, "smtpd_sasl_tls_security_options"),
            ),
            ((), (), ()),
            limit=FailureLimit(p, log),
        )
        self.server = Server(p, reactor, log)
        self.service = p["smtpd_sasl_service"]
        self._p = p
        self._known: dict[bytes, Property] = {}
        filtered(p, ())  # that the filter can be read at all

    async def prepare(self) -> None:
        """Know what the server offers; while it is away, what it offered before."""
        try:
            await self.server.connection()
        except Unavailable:
            return
        if self._known is not self.server.mechanisms:
            self._known = self.server.mechanisms
            without, within = (filtered(self._p, self._usable(tls)) for tls in (False, True))
            self._announced = (without, within, within)

    def _usable(self, tls: bool) -> tuple[bytes, ...]:
        wanted = self._options[tls]
        return tuple(name for name, has in self.server.mechanisms.items() if not wanted & ~has)

    def usable(self, name: bytes, tls: bool) -> bool:
        """Whether a client may use that mechanism."""
        return name in self._usable(tls)

    def begin(self, mechanism: bytes, session: AuthSession) -> Exchange:
        return DovecotExchange(self, mechanism, session)


class DovecotExchange(Exchange):
    """One AUTH command, passed on to Dovecot."""

    __slots__ = ("_connection", "_dovecot", "_number")

    def __init__(self, authenticator: DovecotAuthenticator, name: bytes, session: AuthSession) -> None:
        super().__init__(authenticator, name, session)
        self._dovecot = authenticator
        self._connection: _Connection | None = None
        self._number = 0

    async def step(self, data: bytes | None) -> Outcome:
        server = self._dovecot.server
        try:
            if self._connection is None:
                answer = await self._first(data)
            else:
                response = data or b""
                if not _BASE64.fullmatch(response):
                    return self._denial("Invalid base64 data in continued response", temporary=False)
                answer = await server.ask(self._connection, self._number, cont_line(self._number, response))
        except Unavailable as problem:
            return self._denial(str(problem), temporary=True)
        return answer if isinstance(answer, Denied) else await self._judge_answer(answer)

    async def _first(self, data: bytes | None) -> Answer | Denied:
        server, session = self._dovecot.server, self._session
        await server.connection()
        name = self._name.upper()
        if not self._dovecot.usable(name, session.tls):
            told = f"Invalid authentication mechanism: '{printable(self._name)}'"
            return self._denial(told, temporary=False)
        if data is not None and not _BASE64.fullmatch(data):
            return self._denial("Invalid base64 data in initial response", temporary=False)
        response = b"" if data == b"=" else data

        def line(number: int) -> bytes:
            return auth_line(
                number, name, service=self._dovecot.service, local=session.server_address,
                remote=session.client_address, secured=session.tls, response=response,
            )  # fmt: skip

        self._connection, self._number, answer = await server.begin(line)
        return answer

    async def _judge_answer(self, answer: Answer) -> Outcome:
        if answer.kind == b"CONT":
            return self._challenge(answer.data)
        user = self._user = self._guess = answer.fields.get(b"user") or None
        if answer.kind == b"FAIL":
            reason = answer.fields.get(b"reason")
            if not answer.temporary and not self._settled(right=False):
                return self._denied(Reason.LOCKED)
            told = printable(reason) if reason else "(reason unavailable)"
            return self._denial(told, temporary=answer.temporary)
        if user is None:
            return self._denial(_GARBAGE, temporary=False)
        if not self._settled(right=True):
            return self._denied(Reason.LOCKED)
        authenticator = self._dovecot
        realm = authenticator.local_domain or authenticator.context.hostname
        mind = Login(self.mechanism, realm, self._session)
        try:
            _, avatar, _ = await authenticator.portal.login(
                SASLProven(user, user, self._session), mind, ISubmitter
            )
        except LoginFailed:
            return self._denial(Reason.BADAUTH.text, temporary=False)
        return Granted(ISubmitter(avatar))

    def _challenge(self, data: bytes | None) -> Outcome:
        """What the server asks, if that is base64: the client gets it as it is."""
        try:
            decode(data or b"")
        except Malformed:
            data = None
        return self._denial(_GARBAGE, temporary=False) if data is None else Challenge(data)
