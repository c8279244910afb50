"""Authentication of SMTP clients: which mechanisms there are, and one exchange at a time.

An :class:`Exchange` lives from AUTH to its outcome; each :meth:`Exchange.step` takes one response
as it came over the wire (base64) and gives :class:`Challenge`, :class:`Granted` or
:class:`Denied`.  A step that needs no back end finishes without ever waiting; one that waits
may be cancelled.  The way from an exchange to the right to send leads through the cred ``Portal``
alone, so that any realm or checker can take the place of ours.

:meth:`Authenticator.build` raises ConfigError; :meth:`Exchange.step` raises nothing that a
client or a back end could cause.

RFC 4954.  Postfix counterpart: ``smtpd_sasl_glue.c``, ``xsasl_cyrus_server.c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from twisted.cred.credentials import ICredentials
from twisted.cred.error import LoginFailed
from twisted.cred.portal import Portal

from mtad.auth.auxprop import Auxprop
from mtad.auth.credentials import AuthSession, Refused, SASLPassword, SASLProven
from mtad.auth.external import CertificateLogins
from mtad.auth.failures import FailureLimit
from mtad.auth.interfaces import ISubmitter
from mtad.auth.names import canonical, printable_name
from mtad.auth.offload import HASHES, offload
from mtad.auth.realm import Login
from mtad.auth.setup import Announced, read_setup, server_type
from mtad.auth.tokens import TokenVerifier
from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.maillog import MailLog, printable
from mtad.sasl import encoding, server
from mtad.sasl import mechanism as sasl
from mtad.sasl.mechanism import CheckPassword, Property, Reason, SaslFailure, ServerContext, ServerMechanism
from mtad.wire.reply import Reply

__all__ = ("AuthSession", "Authenticator", "Challenge", "Denied", "Exchange", "Granted")

#: Longest mechanism and longest name in a log line, as in Postfix.
_LOG_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Challenge:
    """Answer ``334 data`` (base64, maybe empty) and pass on what the client sends."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Granted:
    """Answer ``235 2.7.0 Authentication successful``."""

    avatar: ISubmitter


@dataclass(frozen=True, slots=True)
class Denied:
    """Answer ``reply`` and log ``warning: name[addr]: `` + ``log``."""

    reply: Reply
    log: str
    username: str


Outcome = Challenge | Granted | Denied


class Namer(Protocol):
    """``canon_user_plugin``."""

    async def canonical(self, user: bytes) -> bytes:
        """The canonical name; raises :class:`SaslFailure` and :class:`TableError`."""


class Authenticator:
    """What a service's clients authenticate by.

    ``mechanisms`` are all that a client may use, in order; ``options`` what the security options
    demand, without and with TLS; ``announced`` what is told in EHLO; ``tokens`` knows bearer tokens, where
    they are taken, ``certificates`` whose login a client certificate is, ``limit`` who has failed too often,
    ``namer`` the canonical name where that is not the usual one.
    """

    def __init__(
        self,
        portal: Portal,
        store: Auxprop,
        log: MailLog,
        context: ServerContext,
        local_domain: bytes,
        mechanisms: Sequence[ServerMechanism],
        options: tuple[Property, Property],
        announced: Announced,
        tokens: TokenVerifier | None = None,
        certificates: CertificateLogins | None = None,
        limit: FailureLimit | None = None,
        namer: Namer | None = None,
    ) -> None:
        self.portal = portal
        self.store = store
        self.log = log
        self.context = context
        self.local_domain = local_domain
        self._mechanisms = {each.name: each for each in mechanisms}
        self._options = options
        self._announced = announced
        self.tokens = tokens
        self.certificates = certificates
        self.limit = limit
        self.namer = namer
        self._bindable = any(each.for_binding and each.name in announced[1] for each in mechanisms)

    @classmethod
    def build(cls, p: Parameters, reactor: Any, log: MailLog) -> Authenticator:
        """The authenticator that ``p`` and Cyrus' ``smtpd.conf`` ask for; raises ConfigError.

        Without a ``reactor`` it can be looked at, but nobody can log in."""
        if server_type(p) == "dovecot":
            from mtad.auth.dovecot import DovecotAuthenticator  # built on this module

            return DovecotAuthenticator(p, reactor, log)
        setup = read_setup(p, reactor, log)
        return cls(
            setup.portal, setup.store, log, setup.context, setup.local_domain, setup.mechanisms,
            setup.options, setup.announced, setup.tokens, setup.certificates, setup.limit, setup.namer,
        )  # fmt: skip

    async def prepare(self) -> None:
        """Before mechanisms are announced: know what there is to announce."""

    def mechanisms(self, tls: bool, certificate: bool = False) -> tuple[bytes, ...]:
        """The names to announce; ``certificate``: the client has shown one that is trusted."""
        return self._announced[tls + (tls and certificate)]

    def begin(self, mechanism: bytes, session: AuthSession) -> Exchange:
        """An exchange by ``mechanism`` as the client named it; its first step may find it unknown."""
        return Exchange(self, mechanism, session)

    def context_of(self, session: AuthSession) -> ServerContext:
        """What a mechanism may know in this session."""
        if session.channel is None:
            return self.context
        return replace(self.context, channel=sasl.Channel(session.channel.binding, self._bindable))

    def _certified(self, session: AuthSession) -> bool:
        """The client's certificate may be a login."""
        return bool(self.certificates) and session.certificate

    def takes_nothing(self, name: bytes, session: AuthSession) -> bool:
        """``=`` stands for an empty initial response (RFC 4954 section 4): where Postfix knows no better."""
        return name.upper() == b"EXTERNAL" and name.upper() in self._mechanisms and self._certified(session)

    def find(self, name: bytes, session: AuthSession) -> ServerMechanism:
        """The mechanism of that name; raises :class:`SaslFailure`.  What is announced is no matter."""
        found = self._mechanisms.get(name.upper())
        if found is None:
            raise SaslFailure(Reason.NOMECH, f"Couldn't find mech {printable(name)}")
        reason = server.refusal(found, self._options[session.tls], session.tls, self._certified(session))
        if reason is not None:
            raise SaslFailure(reason)
        return found


class Exchange:
    """One AUTH command and what follows it."""

    __slots__ = ("_authenticator", "_granted", "_guess", "_name", "_session", "_steps", "_user")

    def __init__(self, authenticator: Authenticator, name: bytes, session: AuthSession) -> None:
        self._authenticator = authenticator
        self._name = name
        self._session = session
        self._steps: sasl.Steps | None = None
        self._user: bytes | None = None  # the canonical name, once the client gave it
        self._granted: Granted | None = None  # told once the client has heard our last word
        self._guess: bytes | None = None  # whose secret the client may be guessing

    @property
    def mechanism(self) -> str:
        """The mechanism's name as the client wrote it, for ``sasl_method=``."""
        return printable(self._name)

    async def step(self, data: bytes | None) -> Outcome:
        """Go on with a response of the client, in base64; None for AUTH without initial response."""
        try:
            return await self._advance(data)
        except SaslFailure as failure:
            return self._denied(failure.reason, failure.note)
        except TableError:
            return self._denied(Reason.FAIL)

    async def _advance(self, data: bytes | None) -> Outcome:
        if self._granted is not None:
            _decode(data or b"")
            return self._granted
        try:
            request = self._start(data) if self._steps is None else self._steps.send(_decode(data or b""))
            while not isinstance(request, sasl.Challenge):
                assert self._steps is not None
                request = self._steps.send(await self._answer(request))
        except StopIteration as end:
            return await self._login(end.value)
        return Challenge(encoding.encode(request.data))

    def _start(self, data: bytes | None) -> sasl.Request:
        authenticator, session = self._authenticator, self._session
        nothing = data == b"=" and authenticator.takes_nothing(self._name, session)
        response = b"" if nothing else _decode(data) if data is not None else None
        found = authenticator.find(self._name, session)
        self._steps = server.begin(found, authenticator.context_of(session), response)
        return next(self._steps)

    async def _answer(self, request: sasl.Request) -> sasl.Answer:
        """What the mechanism wants to know, of all that is not the client's to say."""
        authenticator, session = self._authenticator, self._session
        match request:
            case sasl.NeedSecret(user, names, authzid):
                name = self._user = await self._canonical(user)
                self._suspect(name)
                self._user = await self._canonical(authzid) if authzid else name
                return await authenticator.store.fetch(name, names)
            case sasl.StoreSecret(user, name, old, new):
                return await authenticator.store.replace(await self._canonical(user), name, old, new)
            case sasl.NeedIdentity():
                certificate = session.channel.certificate() if session.channel is not None else None
                logins = authenticator.certificates
                return b"" if certificate is None or logins is None else await logins.login(certificate)
            case sasl.Work(do):
                return await offload(HASHES, do)
            case sasl.CheckToken():
                return await self._judge(request)
            case _:
                raise AssertionError(request)

    async def _judge(self, request: sasl.CheckToken) -> sasl.TokenVerdict:
        if request.user:
            self._user = await self._canonical(request.user)
        tokens = self._authenticator.tokens
        if tokens is None:
            raise SaslFailure(Reason.NOMECH)
        return await tokens.verify(request.token)

    async def _login(self, result: sasl.Result) -> Outcome:
        authcid = self._user = await self._canonical(result.authcid)
        same = result.authzid == result.authcid
        authzid = authcid if same else await self._canonical(result.authzid)
        authenticator = self._authenticator
        credentials: ICredentials
        if isinstance(result, CheckPassword):
            self._suspect(authcid)
            credentials = SASLPassword(authcid, authzid, result.password, self._session)
        else:
            credentials = SASLProven(authcid, authzid, self._session)
        mind = Login(
            self.mechanism, authenticator.local_domain or authenticator.context.hostname, self._session
        )
        try:
            _, avatar, _ = await authenticator.portal.login(credentials, mind, ISubmitter)
            granted = Granted(ISubmitter(avatar))
        except LoginFailed as failure:
            refused = failure if isinstance(failure, Refused) else Refused(Reason.BADAUTH)
            self._user = refused.user or authcid
            return self._denied(refused.reason, refused.note or result.note)
        if not self._settled(right=True):
            return self._denied(Reason.LOCKED)
        if isinstance(result, CheckPassword) or result.final is None:
            return granted
        self._granted = granted
        return Challenge(encoding.encode(result.final))

    async def _canonical(self, user: bytes) -> bytes:
        namer = self._authenticator.namer
        if namer is not None:
            return await namer.canonical(user)
        return canonical(user, self._authenticator.local_domain)

    def _suspect(self, user: bytes) -> None:
        """The client is about to prove that it knows the secret of ``user``: unless that is locked."""
        self._guess = user
        limit = self._authenticator.limit
        if limit and limit.locked(user, self._session.client_address):
            raise SaslFailure(Reason.LOCKED)

    def _settled(self, *, right: bool) -> bool:
        """Count the guess, if it was one; whether the client may hear how it ended."""
        limit = self._authenticator.limit
        if not limit or self._guess is None:
            return True
        return limit.settle(self._guess, self._session.client_address, right=right)

    def _denied(self, reason: Reason, note: str = "") -> Denied:
        if reason is Reason.BADAUTH and not self._settled(right=False):
            reason = Reason.LOCKED
        if note:
            self._authenticator.log.warning(f"SASL authentication failure: {note}")
        return self._denial(reason.text, temporary=reason.temporary)

    def _denial(self, text: str, *, temporary: bool) -> Denied:
        """What client and log are told of a failure."""
        if temporary:
            reply = Reply(454, f"Temporary authentication failure: {text}".encode(), b"4.7.0")
        else:
            reply = Reply(535, f"Error: authentication failed: {text}".encode(), b"5.7.8")
        username = printable_name(self._user) if self._user else "(unavailable)"
        line = (
            f"SASL {self.mechanism[:_LOG_LIMIT]} authentication failed: {text}, "
            f"sasl_username={username[:_LOG_LIMIT]}"
        )
        return Denied(reply, line, username)


def _decode(data: bytes) -> bytes:
    try:
        return encoding.decode(data)
    except encoding.Malformed as malformed:
        raise SaslFailure(Reason.INCOMPLETE if malformed.partial else Reason.BADPROT) from None
