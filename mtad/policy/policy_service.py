"""``check_policy_service``: the question goes to a server of the operator's.

A service is written ``inet:host:port`` or ``unix:path``, or with settings of its own as
``{ inet:host:port, timeout=10s, default_action=DUNNO }``.  The request has all attributes of Postfix 3.11, in
its order; the first ``action`` of the answer is an access(5) result.  A server that does not answer is tried
``try_limit`` times, each failure is logged in Postfix's words, and then ``default_action`` is the result.

Sockets are somebody else's: a :class:`Channel`, handed in, takes a request and gives the answer, or raises
:class:`ExchangeFailed`.  :func:`parse_service` raises ValueError for what cannot be a service.

Postfix counterpart: ``check_policy_service()``, ``policy_client_register()``, ``attr_clnt(3)``.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from mtad.config import types
from mtad.config.lines import split_assignment, tokens, unbraced
from mtad.config.parameters import table
from mtad.maillog import printable
from mtad.policy.access import AccessTable, apply
from mtad.policy.check import Check, Run, Scope
from mtad.policy.request import DATA, END_OF_MESSAGE, ETRN, MAIL, Request
from mtad.tables import Maps
from mtad.wire.command import xtext_encode

if TYPE_CHECKING:
    from mtad.config.parameters import Parameters

_PREFIX = "smtpd_policy_service_"
_TIMES = ("timeout", "max_idle", "max_ttl", "retry_delay")
_NUMBERS = ("request_limit", "try_limit")
_TEXTS = ("default_action", "policy_context")
_TRANSPORTS = ("inet", "unix", "local")

#: What a failing service comes to where even its default action asks a failing service.
_LAST_RESORT = "451 4.3.5 Server configuration problem"

#: Failures that are logged only when no more attempts follow.
_COMMON = (0, errno.EPIPE, errno.ENOENT, errno.ECONNRESET)

#: What Postfix says of error number 0.
_NO_ERROR = "Application error"

#: Bytes that would end a line of the request.
_LINE_ENDS = bytes.maketrans(b"\n\r\0", b"???")


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """A service and its settings.  ``name`` is how it is written, ``endpoint`` what follows ``inet:`` and the
    like; times are seconds, 0 for ``request_limit`` is none."""

    name: str
    transport: str
    endpoint: str
    timeout: int = 100
    max_idle: int = 300
    max_ttl: int = 1000
    retry_delay: int = 1
    request_limit: int = 0
    try_limit: int = 2
    default_action: str = _LAST_RESORT
    policy_context: str = ""


class ExchangeFailed(Exception):
    """No answer.  ``code`` is an errno, 0: the server hung up; ``connecting``: it could not be reached;
    ``partial``: it had begun to answer."""

    def __init__(self, code: int = 0, *, connecting: bool = False, partial: bool = False, reason: str = ""):
        super().__init__(code)
        self.code = code
        self.connecting = connecting
        self.partial = partial
        self.reason = reason or (os.strerror(code) if code else _NO_ERROR)


class Channel(Protocol):
    """The way to a server."""

    def exchange(self, request: bytes, accept: Callable[[bytes], bool]) -> Awaitable[bytes]:
        """The answer, up to and with its empty line.  Where ``accept`` says no to it, its connection is not
        used again.  Raises :class:`ExchangeFailed`."""

    def close(self) -> None:
        """Let go of the connections."""


Dial = Callable[[PolicyOptions], Channel]
Sleep = Callable[[float], Awaitable[None]]


class NoWay:
    """A :class:`Channel` that leads nowhere: for where configurations are only tried out."""

    def __init__(self, options: PolicyOptions) -> None:
        pass

    async def exchange(self, request: bytes, accept: Callable[[bytes], bool]) -> bytes:
        raise ExchangeFailed(connecting=True, reason="no services are asked here")

    def close(self) -> None:
        pass


def parse_service(word: str, p: Parameters) -> PolicyOptions:
    """The service that ``word`` stands for, with the settings of ``smtpd_policy_service_*``."""
    name, own = word, []
    if word.startswith("{"):
        first, *own = tokens(unbraced(word)) or [""]
        if not first:
            raise ValueError(f'empty policy service: "{word}"')
        name = first
    transport, colon, endpoint = name.partition(":")
    if not colon or not transport or not endpoint:
        raise ValueError(f'need service transport:endpoint instead of "{name}"')
    if transport not in _TRANSPORTS:
        raise ValueError(f"invalid transport name: {transport} in service: {name}")
    options = PolicyOptions(
        word,
        transport,
        endpoint,
        timeout=p.seconds("smtpd_policy_service_timeout"),
        max_idle=p.seconds("smtpd_policy_service_max_idle"),
        max_ttl=p.seconds("smtpd_policy_service_max_ttl"),
        retry_delay=p.seconds("smtpd_policy_service_retry_delay"),
        request_limit=p.number("smtpd_policy_service_request_limit"),
        try_limit=p.number("smtpd_policy_service_try_limit"),
        default_action=p["smtpd_policy_service_default_action"],
        policy_context=p["smtpd_policy_service_policy_context"],
    )
    for option in own:
        options = _override(options, unbraced(option) if option.startswith("{") else option)
    return options


def _override(options: PolicyOptions, text: str) -> PolicyOptions:
    """``options`` with one ``name=value`` of the service's own."""
    key, value = split_assignment(text)
    if key not in (*_TIMES, *_NUMBERS, *_TEXTS):
        raise ValueError(f'unknown option: "{key} = {value}"')
    changed: dict[str, Any] = {key: value}
    of = types.parse_type(table()[_PREFIX + key].type)
    if key in _TIMES:
        changed[key] = types.seconds(key, value, of)
    elif key in _NUMBERS:
        changed[key] = types.integer(key, value, of)
    elif not value:
        raise ValueError(f"bad string length 0 < 1: {key} =")
    return replace(options, **changed)


# -- what is asked


class Instances:
    """Names for messages, the same for all questions about one."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._count = 0

    def of(self, request: Request) -> str:
        """The name of the message in hand; empty before MAIL is accepted."""
        if not request.instance and request.sender is not None and request.state != MAIL:
            seconds, fraction = divmod(self._now(), 1)
            request.instance = f"{os.getpid():x}.{int(seconds):x}.{int(fraction * 1e6):x}.{self._count:x}"
            self._count += 1
        return request.instance


def encode(request: Request, instance: str, context: str, p: Parameters) -> bytes:
    """The lines of a request."""
    state = request.state
    counted = state in (DATA, END_OF_MESSAGE)
    trusted = request.tls and request.cert_trusted
    fields: tuple[tuple[bytes, bytes | str | int], ...] = (
        (b"request", b"smtpd_access_policy"),
        (b"protocol_state", state),
        (b"protocol_name", request.protocol),
        (b"client_address", request.client_address),
        (b"client_name", request.client_name),
        (b"client_port", request.client_port),
        (b"reverse_client_name", request.reverse_name),
        (b"server_address", request.server_address),
        (b"server_port", request.server_port),
        (b"helo_name", request.helo),
        (b"sender", request.sender.text if request.sender else b""),
        (b"recipient", request.recipient.text if request.recipient else b""),
        (b"recipient_count", request.recipient_count if counted else 0),
        (b"queue_id", request.queue_id),
        (b"instance", instance),
        (b"size", request.size),
        (b"etrn_domain", request.etrn_domain if state == ETRN else b""),
        (b"stress", p["stress"]),
        (b"sasl_method", request.sasl_method),
        (b"sasl_username", printable(request.sasl_username)),
        (b"sasl_sender", request.sasl_sender),
        (b"ccert_subject", _quoted(request.cert_name) if trusted else b""),
        (b"ccert_issuer", _quoted(request.cert_issuer_name) if trusted else b""),
        (b"ccert_fingerprint", request.cert_fingerprint),
        (b"ccert_pubkey_fingerprint", request.pubkey_fingerprint),
        (b"encryption_protocol", request.tls_protocol),
        (b"encryption_cipher", request.tls_cipher),
        (b"encryption_keysize", request.tls_bits),
        (b"policy_context", context),
        (b"compatibility_level", p["compatibility_level"]),
        (b"mail_version", p["mail_version"]),
    )
    return b"".join([b"%b=%b\n" % (name, _value(value)) for name, value in fields]) + b"\n"


def _value(value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return b"%d" % value
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    return data.translate(_LINE_ENDS)


def _quoted(text: str) -> bytes:
    return xtext_encode(text.encode("utf-8", "surrogateescape"))


# -- what is answered


def read_action(answer: bytes, endpoint: str) -> tuple[bytes | None, str]:
    """The action of a complete answer; None and what is wrong where it has none."""
    for line in answer.split(b"\n"):
        name, equals, value = line.partition(b"=")
        if not line:
            break
        if name == b"action":
            if equals:
                return value.partition(b"\0")[0], ""
            return None, f"missing value for string attribute action from {endpoint}"
    return None, f"missing attribute action in input from {endpoint}"


class PolicyServices:
    """The policy services of one smtpd service.  ``dial`` makes the way to one."""

    def __init__(self, p: Parameters, warn: Callable[[str], None], dial: Dial) -> None:
        self._p = p
        self._warn = warn
        self._dial = dial
        self._utf8 = p.flag("smtputf8_enable")
        self._instances = Instances()
        self._channels: dict[PolicyOptions, Channel] = {}
        self._failing: set[Check] = set()  # evaluations that are at a default action

    def restriction(self, options: PolicyOptions, sleep: Sleep | None) -> Run:
        """What asks this service."""
        channel = self._channels.get(options)
        if channel is None:
            channel = self._channels[options] = self._dial(options)
        service = AccessTable(options.name, Maps("", "", title=options.name))

        async def run(check: Check, scope: Scope) -> int:
            request = check.request
            instance = self._instances.of(request)
            question = encode(request, instance, options.policy_context, self._p)
            action = await self._ask(options, channel, question, sleep)
            if action is not None and self._utf8 and not _is_utf8(action):
                shown = printable(action).replace("\ufffd", "?")
                self._warn(f'malformed UTF-8 in policy server {options.name} response: "{shown}"')
                action = None
            if action is not None:
                check.found(options.name, b"policy query", action)
                return await apply(check, service, action, b"policy query", scope)
            return await self._without(check, service, options, scope)

        return run

    async def _without(self, check: Check, service: AccessTable, options: PolicyOptions, scope: Scope) -> int:
        """The server does not answer: its default action."""
        nested = check in self._failing
        action = (_LAST_RESORT if nested else options.default_action).encode()
        check.found(options.name, b"default_action", action)
        self._failing.add(check)
        try:
            return await apply(check, service, action, b"policy query", scope)
        finally:
            if not nested:
                self._failing.discard(check)

    async def _ask(
        self,
        options: PolicyOptions,
        channel: Channel,
        question: bytes,
        sleep: Sleep | None,
    ) -> bytes | None:
        """The action that the server gives, None where it gives none."""
        endpoint = options.endpoint
        for left in reversed(range(options.try_limit)):
            code, reason = 0, _NO_ERROR
            try:
                answer = await channel.exchange(question, lambda said: read_action(said, "")[0] is not None)
            except ExchangeFailed as failure:
                code, reason = failure.code, failure.reason
                if failure.connecting:
                    self._warn(f"connect to {endpoint}: {reason}")
                elif failure.partial:
                    what = "timeout" if code == errno.ETIMEDOUT else "premature end-of-input"
                    self._warn(f"{what} on {endpoint} while reading input attribute name")
            else:
                action, problem = read_action(answer, endpoint)
                if action is not None:
                    return action
                self._warn(printable(problem))
            if not left or code not in _COMMON:
                self._warn(f"problem talking to server {endpoint}: {reason}")
            if left and sleep is not None:
                await sleep(options.retry_delay)
        return None

    def close(self) -> None:
        """Let go of all connections."""
        for channel in self._channels.values():
            channel.close()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
