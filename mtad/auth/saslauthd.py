"""``pwcheck_method: saslauthd``: passwords checked by Cyrus' daemon over its UNIX socket.

A request is four counted strings (unsigned 16-bit, network order): login, password, service, realm;
the answer is one counted string that begins with ``OK`` or not.  One request a connection.  A fifth string,
the client's address, is sent where ``mtad_saslauthd_client_address`` says so: Cyrus' daemon of 2.2 and
``mtad saslauthd`` know it, older ones do not.  A request whose connection ends before any answer, as when the
daemon starts anew, is sent once more.

:class:`Saslauthd` never blocks: at most :data:`CONCURRENCY` requests are under way, at most
:data:`QUEUE_LIMIT` wait for a turn, and each ends within :data:`TIMEOUT` seconds, its wait
included.  Whatever keeps the daemon from answering is ``Verdict.DOWN`` and logged in ``libsasl``'s words.

Postfix counterpart: ``saslauthd_verify_password`` of ``libsasl``.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredSemaphore, TimeoutError
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from mtad.auth.checkers import Verdict
from mtad.auth.names import split_last
from mtad.config.endpoint import Endpoint
from mtad.maillog import MailLog
from mtad.net.connect import connect

#: Requests under way at once; below the backlog of a saslauthd that accepts none.
CONCURRENCY = 16

#: Requests that wait for a turn; more are refused at once.
QUEUE_LIMIT = 500

#: Seconds for a request.  PAM modules delay a failure by some seconds, and five processes share the work.
TIMEOUT = 30.0

#: Longest request and longest answer, as in libsasl.
REQUEST_LIMIT = 8192 - 30
ANSWER_LIMIT = 1023

_CANT_CONNECT = "cannot connect to saslauthd server"


class SaslauthdError(Exception):
    """No verdict; the text is libsasl's."""


class Unanswered(SaslauthdError):
    """The connection ended before any answer."""


def encode_request(*fields: bytes) -> bytes:
    """The counted strings of a request; raises :class:`SaslauthdError` when they are too long."""
    if sum(map(len, fields)) > REQUEST_LIMIT:
        raise SaslauthdError("saslauthd request too large")
    return b"".join(len(field).to_bytes(2, "big") + field for field in fields)


class AnswerReader:
    """Puts the answer together from pieces of any size."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    def receive(self, data: bytes) -> bool | None:
        """True for ``OK``, False for anything else, None while the answer is not complete."""
        self._data = (self._data + data)[: 2 + ANSWER_LIMIT]
        if len(self._data) < 2:
            return None
        size = int.from_bytes(self._data[:2], "big")
        if size < 2:
            raise SaslauthdError("bad response from saslauthd")
        if len(self._data) < 2 + min(size, ANSWER_LIMIT):
            return None
        return self._data[2:4] == b"OK"

    def end(self) -> SaslauthdError:
        """What the end of the connection means before the answer was complete."""
        if not self._data:
            return Unanswered("size read failed")
        return SaslauthdError("size read failed" if len(self._data) < 2 else "read failed")


class _Request(TwistedProtocol):
    """One connection: sends the request, fires ``answer``."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._reader = AnswerReader()
        self.answer: Deferred[bool] = Deferred(lambda _: self._hang_up())

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)
        self._request = b""

    def dataReceived(self, data: bytes) -> None:
        if self.answer.called:
            return
        try:
            verdict = self._reader.receive(data)
        except SaslauthdError as error:
            self._hang_up()
            self.answer.errback(error)
            return
        if verdict is not None:
            self._hang_up()
            self.answer.callback(verdict)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answer.called:
            self.answer.errback(self._reader.end())

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


class Saslauthd:
    """``Verifier`` that asks the first of ``paths`` that there is."""

    name = "saslauthd"

    def __init__(
        self,
        reactor: Any,
        log: MailLog,
        paths: Sequence[str],
        service: bytes,
        realm: bytes,
        tell_address: bool = False,
    ) -> None:
        self._reactor = reactor
        self._log = log
        self._paths = tuple(paths)
        self._service = service
        self._realm = realm
        self._tell_address = tell_address
        self._turns = DeferredSemaphore(CONCURRENCY)
        self._path = ""

    async def verify(self, user: bytes, password: bytes, address: str = "") -> Verdict:
        login, realm = split_last(user, self._realm)
        try:
            further = (address.encode(),) if self._tell_address else ()
            request = encode_request(login, password, self._service, realm, *further)
            if len(self._turns.waiting) >= QUEUE_LIMIT:
                raise SaslauthdError(f"more than {QUEUE_LIMIT} requests wait for saslauthd")
            answer = Deferred.fromCoroutine(self._ask(request))
            answer.addTimeout(TIMEOUT, self._reactor)
            return Verdict.OK if await answer else Verdict.BAD_PASSWORD
        except SaslauthdError as error:
            self._log.warning(f"SASL authentication failure: {error}")
        except TimeoutError:
            self._log.warning(
                f"SASL authentication failure: saslauthd did not answer within {TIMEOUT:.0f} seconds"
            )
        return Verdict.DOWN

    async def _ask(self, request: bytes) -> bool:
        await self._turns.acquire()
        try:
            try:
                return await self._ask_once(request)
            except Unanswered:
                return await self._ask_once(request)
        finally:
            self._turns.release()

    async def _ask_once(self, request: bytes) -> bool:
        return await (await self._connect(request)).answer

    async def _connect(self, request: bytes) -> _Request:
        """A request on its way to the first path that exists."""
        absent = ""
        for path in self._paths:
            try:
                asked = await connect(self._reactor, Endpoint(path), _Request(request), TIMEOUT)
            except OSError as problem:
                if problem.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                    raise SaslauthdError(f"{_CANT_CONNECT}: {problem.strerror}") from problem
                absent = absent or problem.strerror or ""
                continue
            if path != self._path:
                self._path = path
                self._log.info(f"passwords are checked by saslauthd at {path}")
            return asked
        raise SaslauthdError(f"{_CANT_CONNECT}: {absent}")
