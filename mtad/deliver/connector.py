"""From a host to a session that is ready for mail: connect, greeting, EHLO, STARTTLS, AUTH.

:meth:`Connector.open` raises :class:`SessionFailure` with the status and the words that Postfix would have.

RFC 5321 section 3.1, RFC 3207, RFC 4954, RFC 8314.  Postfix counterpart: ``smtp_connect_sock``,
``smtp_helo``, ``smtp_start_tls``, ``smtp_sasl_authenticate``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IConnector
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from mtad.auth import gssapi
from mtad.auth.offload import offload
from mtad.config.endpoint import Endpoint
from mtad.config.parameters import Parameters
from mtad.deliver.auth_cache import RefusedLogins
from mtad.deliver.connection import Connection, ConnectionBroken
from mtad.deliver.credentials import Login
from mtad.deliver.dial import connector_of
from mtad.deliver.failure import UNAVAILABLE, Purpose, SessionFailure, failure_by, malformed
from mtad.deliver.greeting import Greetings
from mtad.deliver.nexthop import Host
from mtad.deliver.oddities import Oddities
from mtad.deliver.requiretls import DISABLE
from mtad.deliver.settings import SmtpSettings
from mtad.deliver.starttls import Encryption, TlsStatus
from mtad.deliver.variants import Variants
from mtad.errors import TableError
from mtad.maillog import MailLog, printable
from mtad.net.connect import connect
from mtad.net.interfaces import OwnAddresses
from mtad.net.tls import ClientTLS, Policy
from mtad.net.tls_channel import TLSChannel
from mtad.oauth.grants import OAuthError
from mtad.oauth.tokens import Accounts
from mtad.sasl import bearer
from mtad.sasl.client import Client, ClientContext, ClientMechanism, choose
from mtad.sasl.encoding import Malformed, decode, encode
from mtad.sasl.mechanism import Reason, SaslFailure
from mtad.tables import StringList
from mtad.tables.blocking import Lane
from mtad.wire.client import ClientSession
from mtad.wire.client_events import (
    AuthAnswer,
    Challenge,
    ClientSettings,
    ProtocolError,
)
from mtad.wire.server_reply import shown

T = TypeVar("T")

#: Steps of logins under way at once in threads: of mechanisms that compute long, or ask a KDC.
_LOGINS = 16

#: Seconds for a full listen queue to get shorter where ``smtp_connect_timeout`` has no limit.
_UNIX_TIMEOUT = 30


class _Factory(ClientFactory):
    """Makes one connection."""

    noisy = False

    def __init__(self, connection: Connection, done: Deferred[None]) -> None:
        self._connection = connection
        self._done = done

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        self._connection.made = lambda: self._done.callback(None)
        return self._connection

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._done.errback(reason)


class Connector:
    """Opens sessions by the rules of one transport."""

    def __init__(
        self,
        settings: SmtpSettings,
        p: Parameters,
        tls: ClientTLS,
        reactor: Any,
        log: MailLog,
        clock: Callable[[], float],
        accounts: Accounts,
        oddities: Oddities,
    ) -> None:
        self._settings = settings
        self._accounts = accounts
        self._reactor = reactor
        self._connect_tcp = connector_of(reactor)
        self._log = log
        self._clock = clock
        name = "smtp_sasl_mechanism_filter"
        self._filter = StringList(name, p[name], p.directory) if p[name] else None
        self._sasl = p.flag("smtp_sasl_auth_enable")
        self._kerberos = gssapi.client_mechanism() if self._sasl else None
        self._lane = Lane("SASL", _LOGINS)
        self._bind_sasl = p.flag("mtad_smtp_sasl_channel_binding")
        self._refused_logins: RefusedLogins | None = None
        if p["smtp_sasl_auth_cache_name"]:
            self._refused_logins = RefusedLogins(p, log, clock)
        self._variants = Variants(p, log)
        self._oddities = oddities
        self._greetings = Greetings(settings, log)
        self._wrapper, self._level = (p.written(f"smtp_tls_{n}") for n in ("wrappermode", "security_level"))
        note_offers = p.flag("smtp_tls_note_starttls_offer")
        self._encryption = Encryption(settings, tls, self._greetings, log, note_offers)
        self._own_addresses = OwnAddresses(p)
        self._queue_directory = p["queue_directory"]
        self._client_settings = ClientSettings(
            helo_name=settings.helo_name,
            always_ehlo=settings.always_ehlo,
            never_ehlo=settings.never_ehlo,
            discard=settings.discard_keywords,
            dummy_mail_auth=settings.dummy_mail_auth,
            quote_envelope=settings.quote_envelope,
            lmtp=settings.lmtp,
            line_length_limit=settings.line_limit,
            keep_cr=settings.keep_cr,
            ascii_replies=not p.flag("smtputf8_enable"),
        )

    async def open(
        self, host: Host, policy: Policy, login: Login | None, registry: set[Connection], purpose: Purpose
    ) -> Connection:
        """A session with ``host``, which is in ``registry`` as long as it lives."""
        if self._settings.wrappermode and not policy.required:
            self._log.warning(f'{self._wrapper} requires "{self._level} = encrypt" (or stronger)')
            raise SessionFailure("4.3.0", UNAVAILABLE, temporary=True, passed_over=True)
        if login is not None and login.account:
            login = await self._with_token(login)
        if host.path and policy.level == "may":  # a path has no name that a certificate could have
            policy = replace(policy, level="none")
        variant = await self._variants.of(host, self._client_settings, purpose.queue_id)
        session = ClientSession(variant.settings, tls=self._settings.wrappermode)
        connection = Connection(host, session, self._settings.timeouts, self._reactor)
        connection.listen(purpose.history)
        connection.tls_status = str(TlsStatus(purpose.level or policy.level, purpose.requiretls))
        try:
            connection.discarding = variant.discarding
            await self._session(connection, policy, login, registry, purpose)
        except SessionFailure as failure:
            failure.tls_status, failure.errors = connection.tls_status, connection.errors
            raise
        finally:
            self._oddities.tell(connection, purpose.queue_id)
        return connection

    async def _session(
        self,
        connection: Connection,
        policy: Policy,
        login: Login | None,
        registry: set[Connection],
        purpose: Purpose,
    ) -> None:
        await self._connect(connection)
        connection.opened = self._clock()
        registry.add(connection)
        connection.closed = lambda: registry.discard(connection)
        try:
            await self._prepare(connection, policy, login, purpose)
        except ConnectionBroken as broken:
            connection.errors |= broken.errors
            connection.abort()
            relay, within_tls = connection.host.relay, connection.tls is not None and not broken.errors
            raise SessionFailure(
                broken.dsn, broken.text, temporary=True, relay=relay, tls=within_tls
            ) from broken
        except SessionFailure:
            connection.quit()
            raise
        except Exception:
            connection.abort()
            raise

    async def _connect(self, connection: Connection) -> None:
        host = connection.host
        if host.path:
            await self._connect_unix(connection)
            return
        bind = self._bind_address(host)
        try:
            await self._dial(connection, (bind, 0) if bind else None)
            return
        except error.ConnectBindError as problem:
            self._log.warning(f"smtp_connect_addr: bind {bind}: {_reason(problem)}")
            if self._settings.bind_enforce:
                text = "server configuration error"
                self._log.info(text)
                raise SessionFailure("4.4.0", text, temporary=True) from problem
        except error.ConnectError as problem:
            raise self._not_connected(host, problem) from problem
        try:
            await self._dial(connection, None)
        except error.ConnectError as problem:
            raise self._not_connected(host, problem) from problem

    async def _connect_unix(self, connection: Connection) -> None:
        host = connection.host
        path = os.path.join(self._queue_directory, host.address)
        try:
            limit = self._settings.timeouts.connect or _UNIX_TIMEOUT
            await connect(self._reactor, Endpoint(path), connection, limit)
        except OSError as problem:
            if problem.errno == errno.ENAMETOOLONG:
                self._log.warning(f"unix-domain name too long: {printable(path)}")
                raise SessionFailure("4.3.5", "Server configuration error", temporary=True) from problem
            text = f"connect to {host.relay}: {problem.strerror}"
            raise SessionFailure("4.4.1", text, temporary=True) from problem

    def _bind_address(self, host: Host) -> str:
        """Where the connection comes from; by default the one address that we listen on, if it is one."""
        six = ":" in host.address
        bind = self._settings.bind6 if six else self._settings.bind4
        if bind:
            return bind
        mine = [address for address in self._own_addresses() if (":" in address) == six]
        return mine[0] if len(mine) == 1 and not ip_address(mine[0]).is_loopback else ""

    async def _dial(self, connection: Connection, bind: tuple[str, int] | None) -> None:
        host = connection.host
        done: Deferred[None] = Deferred()
        limit = self._settings.timeouts.connect or None
        self._connect_tcp(
            host.address, host.port, _Factory(connection, done), timeout=limit, bindAddress=bind
        )
        await done

    def _not_connected(self, host: Host, problem: error.ConnectError) -> SessionFailure:
        text = f"connect to {host.relay}: {_reason(problem)}"
        self._log.info(text)
        return SessionFailure("4.4.1", text, temporary=True)

    async def _prepare(
        self, connection: Connection, policy: Policy, login: Login | None, purpose: Purpose
    ) -> None:
        connection.requiretls = purpose.requiretls != DISABLE
        if purpose.report is not None:
            purpose.report.begin(connection.host, policy, connection.transport.getHost())
        wrapped: TlsStatus | None = None
        if self._settings.wrappermode:
            wrapped = await self._encryption.wrap(connection, policy, purpose)
        extended = await self._greetings.heard(connection, purpose)
        await self._encryption.upgrade(connection, policy, purpose, extended, wrapped)
        offered = connection.session.extensions
        if offered.login and self._sasl:
            wanted = await self._mechanisms(connection, offered.auth)
            if login is not None:
                await self._authenticate(connection, login, wanted)

    # -- AUTH

    async def _with_token(self, login: Login) -> Login:
        """``login`` with a token for its password; another one than it has."""
        try:
            token = await self._accounts.token(login.account, rejected=login.password)
        except OAuthError as error:
            raise SessionFailure("4.7.0", f"SASL authentication failed: {error}", temporary=True) from error
        return replace(login, password=token)

    async def _mechanisms(self, connection: Connection, offered: Sequence[bytes]) -> list[bytes]:
        """Those that we may use."""
        wanted = [name for name in offered if await self._considered(connection, name)]
        if offered and not wanted:
            where = connection.host.relay
            listed = printable(b" ".join(offered).decode("ascii", "replace"))
            self._log.warning(f"{where} offered no supported AUTH mechanisms: '{listed}'")
        return wanted

    async def _authenticate(self, connection: Connection, login: Login, wanted: Sequence[bytes]) -> None:
        """Log in.  Where a token is refused, once more with a new one."""
        try:
            await self._login(connection, login, wanted)
        except SessionFailure as failure:
            refused = failure.diagnostic.startswith("smtp; 5")
            if not (login.account and refused and connection.session.ready):
                raise
            again = await self._with_token(login)
            if again == login:
                raise
            self._log.info(f"{connection.host.relay} refused the token of {login.account}, trying a new one")
            await self._login(connection, again, wanted)

    async def _login(self, connection: Connection, login: Login, wanted: Sequence[bytes]) -> None:
        host, session = connection.host, connection.session
        if not wanted:
            text = (
                f"SASL authentication failed: server {host.pair} offered no compatible authentication "
                "mechanisms for this type of connection security"
            )
            raise SessionFailure("4.7.0", text, temporary=True, relay=host.relay)
        await self._check_refused(connection, login)
        settings = self._settings
        options = settings.sasl_options
        if connection.tls is not None:
            options = settings.sasl_verified_options if connection.tls.verified else settings.sasl_tls_options
        try:
            client = await self._client(connection, login, wanted, options)
            initial = await self._step(client, client.initial)
        except SaslFailure as failure:
            raise self._cannot(connection, failure) from failure
        session.authenticate(client.name, None if initial is None else encode(initial))
        while True:
            match await connection.next_event():
                case Challenge(data):
                    await self._respond(connection, client, data)
                case AuthAnswer(reply):
                    if reply.positive and client.satisfied:
                        return
                    if reply.positive:
                        raise self._cannot(connection, SaslFailure(Reason.BADSERV))
                    if self._refused_logins is not None:
                        await self._refused_logins.note(host.name, login, reply)
                    if isinstance(client, bearer.BearerClient) and client.told:
                        told = printable(client.told)
                        self._log.warning(f"{host.relay} refused the token of {login.account}: {told}")
                    said = "?".join(shown(line) for line in reply.lines)  # Postfix's line breaks in the log
                    text = f"SASL authentication failed; server {host.pair} said: {said}"
                    raise failure_by(connection, reply, text, settings.sasl_soft_bounce)
                case ProtocolError(text):
                    raise malformed(connection, text)
                case _:
                    raise ConnectionBroken(f"lost connection with {host.pair}")

    async def _client(
        self, connection: Connection, login: Login, wanted: Sequence[bytes], options: Sequence[str]
    ) -> Client:
        connection.check()  # the server may have left while tables were asked
        if not login.account:
            authzid = self._settings.sasl_authzid
            context = self._sasl_context(connection)
            return choose(
                wanted,
                options,
                login.user,
                login.password,
                authzid=authzid,
                context=context,
                further=await self._further(wanted),
            )
        if connection.tls is None:
            raise SaslFailure(Reason.ENCRYPT, "an OAuth token is sent within TLS only")
        return bearer.choose(wanted, options, login.user, login.password)

    async def _further(self, wanted: Sequence[bytes]) -> Sequence[ClientMechanism]:
        """GSSAPI, where the server has it and we have a ticket."""
        kerberos = self._kerberos
        if kerberos is None or kerberos.name not in map(bytes.upper, wanted):
            return ()
        return (kerberos,) if await self._elsewhere(gssapi.has_ticket) else ()

    async def _step(self, client: Client, step: Callable[[], T]) -> T:
        """What a step gives; raises SaslFailure."""
        return await self._elsewhere(step) if client.slow else step()

    async def _elsewhere(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, which takes its time; raises SaslFailure."""
        try:
            return await offload(self._lane, work)
        except TableError as error:
            raise SaslFailure(Reason.TRYAGAIN, str(error)) from error

    def _sasl_context(self, connection: Connection) -> ClientContext:
        """What a mechanism may know of the connection."""
        host = connection.host.name.encode()
        if connection.tls is None:
            return ClientContext(host)
        handle = connection.transport.getHandle()
        binding = TLSChannel(handle, connection.tls, server=False).binding if self._bind_sasl else None
        bindable = any(name.upper().endswith(b"-PLUS") for name in connection.session.extensions.auth)
        return ClientContext(host, handle.get_certificate() is not None, binding, bindable)

    async def _check_refused(self, connection: Connection, login: Login) -> None:
        """Raise what the server has said of this login before."""
        if self._refused_logins is None:
            return
        host = connection.host
        reply = await self._refused_logins.find(host.name, login)
        if reply is not None:
            text = f"SASL [CACHED] authentication failed; server {host.name} said: {reply}"
            raise failure_by(connection, reply, text, self._settings.sasl_soft_bounce)

    async def _considered(self, connection: Connection, mechanism: bytes) -> bool:
        if self._filter is None:
            return True
        try:
            return await self._filter.matches(mechanism)
        except TableError as error:
            self._log.warning(str(error))
            text = f"local data error while talking to {connection.host.pair}"
            raise SessionFailure("4.3.0", text, temporary=True, relay=connection.host.relay) from error

    async def _respond(self, connection: Connection, client: Client, challenge: bytes) -> None:
        """Answer a challenge."""
        try:
            response = await self._step(client, partial(client.step, decode(challenge)))
        except Malformed as malformed:
            connection.session.abort_auth()
            connection.flush()
            pair = connection.host.pair
            text = f"SASL authentication failed; server {pair} sent a malformed challenge"
            raise SessionFailure("4.7.0", text, temporary=True, relay=connection.host.relay) from malformed
        except SaslFailure as failure:
            connection.session.abort_auth()
            connection.flush()
            raise self._cannot(connection, failure) from failure
        connection.session.auth_response(encode(response))

    def _cannot(self, connection: Connection, failure: SaslFailure) -> SessionFailure:
        if failure.note:
            self._log.warning(f"SASL authentication failure: {failure.note}")
        pair = connection.host.pair
        text = f"SASL authentication failed; cannot authenticate to server {pair}: {failure.reason.text}"
        return SessionFailure("4.7.0", text, temporary=True, relay=connection.host.relay)


def _reason(problem: error.ConnectError) -> str:
    """The system's words for it."""
    if isinstance(problem, error.TimeoutError):
        return "Connection timed out"
    number = problem.osError
    cause = number if isinstance(number, int) else getattr(number, "errno", None)
    if isinstance(cause, int):
        return os.strerror(cause)
    if isinstance(problem, error.ConnectionRefusedError):
        return "Connection refused"
    return printable(str(problem))
