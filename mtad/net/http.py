"""A small HTTP client, for services that hand out tokens and keys.

:class:`HttpClient` makes one request a connection, by Twisted's ``Agent``; it never blocks.  A server's
certificate must be valid for its name, by the system's authorities or by those of a file.  Each request ends
within a time, an answer is at most :data:`SIZE_LIMIT` long, with its headers and all around them twice that,
and a redirection is not followed.  Plain ``http`` is for this host's own addresses alone.  Raises
:class:`HttpError`, whose text tells where and why but nothing of what was sent, and ConfigError for a file of
authorities that can not be used.

Most of ``twisted.web`` is imported when the first client is made, for those who need none.

RFC 9110, RFC 9525 (names in certificates).  Postfix counterpart: none.
"""

from __future__ import annotations

import codecs
import json
import os
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IConsumer, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError, MtadError
from mtad.maillog import printable

#: Longest answer.
SIZE_LIMIT = 512 * 1024

_OWN = ("localhost", "127.0.0.1", "::1")
_FORM = "application/x-www-form-urlencoded"


class HttpError(MtadError):
    """No answer, or none that can be used."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """Status and content of an answer.  ``where`` is for messages: the address, without its query; ``kind``:
    the media type of the content, lower case, as far as the server tells it."""

    where: str
    status: int
    body: bytes = field(repr=False)
    kind: str = ""

    def json(self) -> dict[str, Any]:
        """The content, an object in JSON; raises :class:`HttpError`."""
        try:
            members = json.loads(self.body)
        except (ValueError, RecursionError):
            members = None
        if not isinstance(members, dict):
            raise HttpError(f"{self.where} answered {self.status} and no JSON object")
        return members


def url_problem(url: str) -> str:
    """Why ``url`` can not be asked; empty when it can."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("https", "http") or not host:
        return "not an https: URL"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "a character that can not be in a URL"
    if parts.username is not None or parts.fragment:
        return "a user name or a fragment in the URL"
    if parts.scheme == "http" and host not in _OWN:
        return "not an https: URL, and not of this host"
    return ""


def basic(user: str, password: str) -> str:
    """The ``Authorization`` of an OAuth client (RFC 6749 section 2.3.1)."""
    pair = f"{quote_plus(user)}:{quote_plus(password)}"
    return "Basic " + b64encode(pair.encode()).decode()


class HttpClient:
    """See the module.  ``timeout``: seconds for a request; ``authorities``: a PEM file, or empty."""

    def __init__(self, reactor: Any, timeout: float, authorities: str = "") -> None:
        # now, while we may read all modules
        from twisted.web import client, http

        for codec in ("charmap", "idna"):  # of requests, of names of hosts
            codecs.lookup(codec)
        self._web = client
        self._ends = (client.ResponseDone, http.PotentialDataLoss)
        self._reactor = reactor
        self._timeout = timeout
        self._trust = _read_authorities(authorities) if authorities else platformTrust()
        self._agent: Any = None

    @classmethod
    def build(cls, p: Parameters, reactor: Any) -> HttpClient:
        """The client that ``mtad_oauth_timeout`` and ``mtad_oauth_CAfile`` describe."""
        try:
            return cls(reactor, p.seconds("mtad_oauth_timeout"), p["mtad_oauth_CAfile"])
        except ConfigError as error:
            if error.parameter:
                raise
            raise p.error("mtad_oauth_CAfile", f"{error.path}: {error.reason}") from error

    async def get(self, url: str, accept: str = "application/json") -> HttpAnswer:
        """The answer to GET; ``accept``: the kind of content."""
        return await self._request(b"GET", url, {"Accept": accept}, None)

    async def post(self, url: str, form: Mapping[str, str], authorization: str = "") -> HttpAnswer:
        """The answer to a form."""
        headers = {"Content-Type": _FORM}
        if authorization:
            headers["Authorization"] = authorization
        return await self._request(b"POST", url, headers, urlencode(form).encode())

    async def _request(
        self, method: bytes, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> HttpAnswer:
        problem = url_problem(url)
        parts = urlsplit(url) if not problem else None
        if parts is None:
            raise HttpError(f"cannot ask {printable(url.partition('?')[0][:200])}: {problem}")
        where = f"{parts.scheme}://{parts.netloc}{parts.path}"
        answer = Deferred.fromCoroutine(self._ask(method, url, headers, body))
        answer.addTimeout(self._timeout, self._reactor, _late)
        try:
            status, content, kind = await answer
        except TimeoutError:
            raise HttpError(f"{where} did not answer within {self._timeout:.0f} seconds") from None
        except CancelledError:
            raise
        except Exception as error:
            raise HttpError(f"cannot ask {where}: {_reason(error)}") from error
        return HttpAnswer(where, status, content, kind)

    async def _ask(
        self, method: bytes, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes, str]:
        if self._agent is None:
            endpoints = _Endpoints(self._reactor, self._trust, self._timeout)
            self._agent = self._web.Agent.usingEndpointFactory(self._reactor, endpoints)
        sent = Headers({"User-Agent": ["mtad"], "Accept": ["application/json"]})
        for name, value in headers.items():
            sent.setRawHeaders(name, [value])
        response = await self._agent.request(
            method, url.encode("ascii"), sent, None if body is None else _Body(body)
        )
        reader = _Reader(self._ends)
        response.deliverBody(reader)
        kind = next(iter(response.headers.getRawHeaders("Content-Type") or ()), "")
        return response.code, await reader.done, kind.partition(";")[0].strip().lower()


def _late(result: Any, timeout: float) -> Any:
    """What came of a request that took too long, whatever its cancellation led to."""
    return Failure(TimeoutError()) if isinstance(result, Failure) else result


class _TooLong(Exception):
    """More than anybody wants to read."""

    def __init__(self) -> None:
        super().__init__(f"the answer is longer than {SIZE_LIMIT} bytes")


class _Reader(Protocol):
    """Collects a body, which ends by one of ``ends``; ``done`` may be cancelled."""

    def __init__(self, ends: tuple[type[Exception], ...]) -> None:
        self._ends = ends
        self._parts: list[bytes] = []
        self._size = 0
        self.done: Deferred[bytes] = Deferred(lambda _: self._hang_up())

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= SIZE_LIMIT:
            self._parts.append(data)
        elif not self.done.called:
            self._hang_up()
            self.done.errback(_TooLong())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(*self._ends):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(reason)

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Connections to servers whose certificates are right, and who don't talk without end."""

    def __init__(self, reactor: Any, trust: Any, timeout: float) -> None:
        self._reactor = reactor
        self._trust = trust
        self._timeout = timeout

    def endpointForURI(self, uri: Any) -> Any:
        host = uri.host.decode("ascii")
        endpoint: Any = HostnameEndpoint(self._reactor, host, uri.port, self._timeout)
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(optionsForClientTLS(host, trustRoot=self._trust), endpoint)
        return _Bounded(endpoint)


@implementer(IStreamClientEndpoint)
class _Bounded:
    """A connection on which the server may say so much and no more, headers included."""

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        counting = WrappingFactory(factory)
        counting.noisy = False
        counting.protocol = _Counted
        made: Deferred[Any] = self._endpoint.connect(counting)
        return made.addCallback(lambda counted: counted.wrappedProtocol)


class _Counted(ProtocolWrapper):
    transport: Any
    _left = 2 * SIZE_LIMIT

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left >= 0:
            self.wrappedProtocol.dataReceived(data)
        else:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        lost: Any = super().connectionLost
        lost(reason if self._left >= 0 else Failure(_TooLong()))


@implementer(IBodyProducer)
class _Body:
    """A short body, written at once."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """All is written already."""

    resumeProducing = stopProducing = pauseProducing


def _read_authorities(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            text = file.read()
        mark = b"-----BEGIN CERTIFICATE-----"
        found = [Certificate.loadPEM(mark + part) for part in text.split(mark)[1:]]
    except OSError as problem:
        raise ConfigError(f"cannot read: {problem.strerror}", path=path) from problem
    except (SSL.Error, ValueError) as problem:
        raise ConfigError("not a PEM file of certificates", path=path) from problem
    if not found:
        raise ConfigError("no certificate in it", path=path)
    return trustRootFromCertificates(found)


def _reason(error: BaseException) -> str:
    """Why a request failed, in few words."""
    reasons = getattr(error, "reasons", None)
    if isinstance(reasons, list) and reasons and isinstance(reasons[0], Failure) and reasons[0].value:
        return _reason(reasons[0].value)
    if isinstance(error, SSL.Error):
        # a list of (library, function, reason)
        told = [entry[-1] for entry in (error.args[0] if error.args else ()) if isinstance(entry, tuple)]
        return f"TLS: {printable(', '.join(map(str, told))[:200])}" if told else "TLS failure"
    if isinstance(error, DNSLookupError):
        return "no such host"
    if isinstance(error, ConnectError) and isinstance(error.osError, int):
        return os.strerror(error.osError)
    return printable((str(error) or type(error).__name__)[:200])
