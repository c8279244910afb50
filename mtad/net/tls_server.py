"""TLS of the SMTP server: the contexts of each service, made before the fork.

:class:`ServerTLS` reads ``smtpd_tls_*`` and ``tls_*`` of one master.cf service and refuses
with :class:`~mtad.errors.ConfigError` what Postfix would answer ``454 4.7.0 TLS not available
due to local problem`` for, except that no certificate is configured at all: then it warns as
Postfix does, and ``available`` is false.

A connection begins in a session context, which workers and later configurations share
(:mod:`mtad.net.tls_sessions`), and gets its certificates from another: the service's own, or those for
the name that the client asks for (``tls_server_sni_maps``), which are made at first use and kept.

RFC 3207, RFC 6066 section 3, RFC 8446.  Postfix counterpart: ``tls_server.c``, ``server_sni_callback()`` in
``tls_misc.c`` and the TLS part of ``pre_jail_init()`` in ``smtpd.c``.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError, MtadError
from mtad.maillog import MailLog, printable
from mtad.net import ciphers, openssl
from mtad.net.certificates import match_pairs, pair_files, pem_blocks, read_pairs, use_pair
from mtad.net.dns import valid_hostname
from mtad.net.tls_context import Logging, trust
from mtad.net.tls_info import Signature, TLSInfo, describe, log_summary, own_signature, received_lines
from mtad.net.tls_sessions import SessionContexts, Shape, certificate_context

#: A session that nobody wants to know more of.
_UNSEEN = TLSInfo(protocol="", cipher="", secret_bits=0, bits=0)
#: Names of ``tls_server_sni_maps`` whose certificates are kept ready
_NAMES_LIMIT = 256
_SNI_MAPS = "tls_server_sni_maps"


def server_level(p: Parameters, log: MailLog | None = None) -> str:
    """``none``, ``may`` or ``encrypt``: what the parameters ask of clients."""
    if p.flag("smtpd_tls_wrappermode"):
        return "encrypt"
    level = p["smtpd_tls_security_level"]
    match level.lower():
        case "":
            if p.flag("smtpd_enforce_tls"):
                return "encrypt"
            return "may" if p.flag("smtpd_use_tls") else "none"
        case "none" | "may" | "encrypt":
            return level.lower()
        case "fingerprint" | "verify" | "secure" | "dane" | "dane-only":
            if log is not None:
                log.warning(f'smtpd_tls_security_level: unsupported TLS level "{level}", using "encrypt"')
            return "encrypt"
    raise ConfigError(
        f'Invalid TLS level "{level}"',
        parameter="smtpd_tls_security_level",
        remedy="use none, may or encrypt",
    )


class ServerTLS:
    """The TLS side of one smtpd service.  :meth:`creator` gives what ``transport.startTLS()`` takes."""

    #: ``none``, ``may`` or ``encrypt``
    level: str
    #: TLS begins with the connection (``smtpd_tls_wrappermode``)
    wrapper: bool
    #: there is a certificate, so TLS can begin; else STARTTLS is answered with 454
    available: bool
    #: clients are asked for a certificate
    asks_certificate: bool
    #: a client without a trusted certificate is turned away (421)
    requires_certificate: bool
    #: digest of fingerprints
    digest: str

    def __init__(self, p: Parameters, log: MailLog, sessions: SessionContexts | None = None) -> None:
        """``sessions`` keeps the contexts that are to outlive this."""
        #: whom :meth:`log_established` writes to; the process that serves puts its own here
        self.log = log
        self._p = p
        self.level = server_level(p, log)
        self.wrapper = p.flag("smtpd_tls_wrappermode")
        self._enforced = self.level == "encrypt"
        require = p.flag("smtpd_tls_req_ccert")
        self.asks_certificate = p.flag("smtpd_tls_ask_ccert") or (self._enforced and require)
        self.requires_certificate = self._enforced and require
        self._ask_ccert = p.flag("smtpd_tls_ask_ccert")
        self.digest = p["smtpd_tls_fingerprint_digest"]
        self.logging = Logging.parse(p, "smtpd_tls_loglevel", log)
        self.available = False
        self._sessions: SSL.Context | None = None
        self._certificates: SSL.Context | None = None
        self._own: Signature | None = None
        self._watching = self.logging.summary or p.flag("smtpd_tls_received_header")
        self._find: Callable[[str], bytes | None] | None = None
        self._by_name: OrderedDict[bytes, SSL.Context] = OrderedDict()
        if self.level == "none":
            return
        anonymous = p["smtpd_tls_cert_file"].lower() == "none" and not self.asks_certificate
        has_certificate = bool(pair_files(p, "smtpd"))
        if not has_certificate and self.asks_certificate:
            log.warning("Need a server cert to request client certs")
        if require and not self._enforced:
            log.warning("Can't require client certs unless TLS is required")
        if not (has_certificate or anonymous):
            log.warning("No server certs available. TLS won't be enabled")
            return
        self._prepare(sessions or SessionContexts(float("inf")))
        self.available = True

    @property
    def offered(self) -> bool:
        """STARTTLS is announced to clients that speak in the clear."""
        return self.level != "none" and not self.wrapper

    # -- contexts

    def _prepare(self, sessions: SessionContexts) -> None:
        p, log = self._p, self.log
        kind = "mandatory_" if self._enforced else ""
        exclude = [p["smtpd_tls_exclude_ciphers"]]
        if self._enforced:
            exclude.append(p["smtpd_tls_mandatory_exclude_ciphers"])
        if self.asks_certificate:
            exclude.append("aNULL")
        grade = f"smtpd_tls_{kind}ciphers"
        security_level = 1 if self.requires_certificate else 0
        self._cipher_list = ciphers.cipher_list(p, grade, p[grade], exclude, security_level)
        self._sessions = sessions.get(self._shape(f"smtpd_tls_{kind}protocols"))
        context = self._dressed(log)
        pairs = read_pairs(p, "smtpd", log)
        for parameter, pair in pairs:
            use_pair(context, pair, parameter)
        self._own = own_signature([pair.chain[0] for _, pair in pairs]) if not p[_SNI_MAPS] else None
        self._certificates = context

    def _shape(self, protocols: str) -> Shape:
        p = self._p
        options = ciphers.ssl_options(p, self.log)
        if p.flag("tls_preempt_cipherlist"):
            options |= SSL.OP_CIPHER_SERVER_PREFERENCE
        tickets = bool(p["tls_session_ticket_cipher"])
        return Shape(
            protocols=ciphers.parse_protocols(p[protocols], protocols),
            options=int(options),
            groups=ciphers.group_list(p, self.log),
            timeout=2 * p.seconds("smtpd_tls_session_cache_timeout") if tickets else 0,
            ask_certificate=self.asks_certificate,
            depth=p.number("smtpd_tls_ccert_verifydepth") if self.asks_certificate else 0,
            authorities=_state(p["smtpd_tls_CAfile"], p["smtpd_tls_CApath"]) if self.asks_certificate else "",
            watch=self._watching,
            names=bool(p[_SNI_MAPS]),
        )

    def _dressed(self, log: MailLog) -> SSL.Context:
        """A context for certificates, with all the rest."""
        p = self._p
        context = certificate_context()
        trust(context, p, "smtpd")
        ciphers.apply_cipher_list(context, self._cipher_list, "smtpd_tls_ciphers")
        ciphers.apply_dh(context, p["smtpd_tls_dh1024_param_file"], log)
        if self.asks_certificate and p["smtpd_tls_CAfile"]:
            context.load_client_ca(p["smtpd_tls_CAfile"].encode())
        return context

    # -- a connection

    def serve(self, log: MailLog, find: Callable[[str], bytes | None] | None = None) -> None:
        """We are in the process that serves: write to ``log``; ``find`` gives the PEM data for a name."""
        self.log = log
        self._find = find

    def creator(self, peer: str) -> _Creator:
        """What ``startTLS()`` takes for a connection with ``peer``, which is ``name[addr]``."""
        return _Creator(self, peer)

    def connection(self, peer: str = "") -> openssl.Connection:
        """A connection whose handshake is to come."""
        if self._sessions is None or self._certificates is None:
            raise RuntimeError("there is no certificate: ask .available first")
        connection = openssl.Connection(self._sessions, None)
        connection.set_context(self._certificates)
        if self._find is not None:
            connection.on_name = lambda connection, name: self._named(connection, name, peer)
        if self._watching:
            openssl.watch(connection)
        if self.logging.verbose:
            self.log.info(f"setting up TLS connection from {peer}")
            self.log.info(f'{peer}: TLS cipher list "{self._cipher_list.decode("ascii", "replace")}"')
        return connection

    def _named(self, connection: openssl.Connection, name: bytes, peer: str) -> int:
        """The client asks for a name; called by OpenSSL, so nothing may be raised."""
        text = name.decode("ascii", "replace")
        if not valid_hostname(text):
            self.log.warning(f"TLS SNI from {peer} is invalid: {printable(text[:255])}")
            return openssl.NAME_IGNORED
        if connection.accepted_name:  # once more, after a HelloRetryRequest
            return openssl.NAME_ACCEPTED if connection.accepted_name == text else openssl.NAME_IGNORED
        assert self._find is not None
        try:
            pem = self._find(text)
            if pem is None:
                self.log.info(f"TLS SNI {text} from {peer} not matched, using default chain")
                return openssl.NAME_IGNORED
            connection.set_context(self._context_of(pem, text))
        except MtadError as error:
            self.log.warning(f"{_SNI_MAPS}: {text} map lookup problem: {error}")
            return openssl.NAME_FATAL
        connection.accepted_name = text
        return openssl.NAME_ACCEPTED

    def _context_of(self, pem: bytes, name: str) -> SSL.Context:
        key = hashlib.sha256(pem).digest()
        found = self._by_name.get(key)
        if found is not None:
            self._by_name.move_to_end(key)
            return found
        context = self._dressed(self.log)
        for pair in match_pairs(pem_blocks(pem, f"SNI data for {name}"), _SNI_MAPS):
            use_pair(context, pair, _SNI_MAPS)
        self._by_name[key] = context
        if len(self._by_name) > _NAMES_LIMIT:
            self._by_name.popitem(last=False)
        return context

    def describe(self, connection: SSL.Connection) -> TLSInfo:
        """The session of a finished handshake; what neither log nor header nor policy wants is left out."""
        if not (self._watching or self.asks_certificate):
            return _UNSEEN
        return describe(connection, True, self.digest, self._own)

    def log_established(self, info: TLSInfo, peer: str) -> None:
        """Write what ``smtpd_tls_loglevel`` asks for about a new session; ``peer`` is ``name[addr]``."""
        if info.reused and self.logging.cache:
            self.log.info(f"{peer}: Reusing old session (RFC 5077 session ticket)")
        if info.peer_present and self.logging.peercert:
            self.log.info(f"{peer}: {info.certificate_text}")
        if info.peer_present and not info.trusted and (self.logging.untrusted or self.requires_certificate):
            self.logging.log_untrusted(self.log, info, peer, "client")
        if self.logging.summary:
            to = f"{peer} to {info.sni}" if info.sni else peer
            self.log.info(log_summary(info, True, to))

    def received_lines(self, info: TLSInfo) -> list[str]:
        """Lines for the Received: header, for ``smtpd_tls_received_header``."""
        return received_lines(info, self._ask_ccert)

    def certificate_refusal(self, info: TLSInfo) -> str:
        """Why this client's certificate does not do (the text of 421 4.7.1), or nothing."""
        if not self.requires_certificate or info.trusted:
            return ""
        return "Client certificate not trusted" if info.peer_present else "No client certificate presented"


@implementer(IOpenSSLServerConnectionCreator)
class _Creator:
    """Makes the connection of one handshake (IOpenSSLServerConnectionCreator)."""

    __slots__ = ("_peer", "_tls")

    def __init__(self, tls: ServerTLS, peer: str) -> None:
        self._tls = tls
        self._peer = peer

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return self._tls.connection(self._peer)


def _state(*paths: str) -> str:
    """What tells one state of files from another."""
    states = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        states.append(f"{path} {status.st_mtime_ns} {status.st_size} {status.st_ino}")
    return "\n".join(states)
