"""TLS of the SMTP server: one OpenSSL context for each service, made before the fork.

:class:`ServerTLS` reads ``smtpd_tls_*`` and ``tls_*`` of one master.cf service and refuses
with :class:`~mtad.errors.ConfigError` what Postfix would answer ``454 4.7.0 TLS not available
due to local problem`` for, except that no certificate is configured at all: then it warns as
Postfix does, and ``available`` is false.

Session tickets are sealed with the context's own keys.  Workers forked from the process that
made the context share them, so that a session begun in one worker is resumed in another; the
keys live as long as the context, that is until the next reload.

RFC 3207, RFC 8446.  Postfix counterpart: ``tls_server.c`` and the TLS part of ``pre_jail_init()``
in ``smtpd.c``.
"""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import MailLog
from mtad.net import ciphers, openssl
from mtad.net.certificates import load_pairs, pair_files
from mtad.net.tls_context import Logging, new_context
from mtad.net.tls_info import Signature, TLSInfo, describe, log_summary, own_signature, received_lines

_SESSION_CONTEXT = b"mtad/TLS"

#: A session that nobody wants to know more of.
_UNSEEN = TLSInfo(protocol="", cipher="", secret_bits=0, bits=0)


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
        case "fingerprint" | "verify" | "secure":
            if log is not None:
                log.warning(f'smtpd_tls_security_level: unsupported TLS level "{level}", using "encrypt"')
            return "encrypt"
    raise ConfigError(
        f'Invalid TLS level "{level}"',
        parameter="smtpd_tls_security_level",
        remedy="use none, may or encrypt",
    )


@implementer(IOpenSSLServerConnectionCreator)
class ServerTLS:
    """The TLS side of one smtpd service.

    It is itself the object that ``transport.startTLS()`` takes.
    """

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

    def __init__(self, p: Parameters, log: MailLog) -> None:
        #: whom :meth:`log_established` writes to; the process that serves puts its own here
        self.log = log
        self.level = server_level(p, log)
        self.wrapper = p.flag("smtpd_tls_wrappermode")
        enforced = self.level == "encrypt"
        require = p.flag("smtpd_tls_req_ccert")
        self.asks_certificate = p.flag("smtpd_tls_ask_ccert") or (enforced and require)
        self.requires_certificate = enforced and require
        self._ask_ccert = p.flag("smtpd_tls_ask_ccert")
        self.digest = p["smtpd_tls_fingerprint_digest"]
        self.logging = Logging.parse(p, "smtpd_tls_loglevel", log)
        self.available = False
        self._context: SSL.Context | None = None
        self._own: Signature | None = None
        self._watching = False
        if self.level == "none":
            return
        anonymous = p["smtpd_tls_cert_file"].lower() == "none" and not self.asks_certificate
        has_certificate = bool(pair_files(p, "smtpd"))
        if not has_certificate and self.asks_certificate:
            log.warning("Need a server cert to request client certs")
        if require and not enforced:
            log.warning("Can't require client certs unless TLS is required")
        if not (has_certificate or anonymous):
            log.warning("No server certs available. TLS won't be enabled")
            return
        self._context = self._build(p, log)
        self.available = True

    @property
    def offered(self) -> bool:
        """STARTTLS is announced to clients that speak in the clear."""
        return self.level != "none" and not self.wrapper

    def _build(self, p: Parameters, log: MailLog) -> SSL.Context:
        enforced = self.level == "encrypt"
        kind = "mandatory_" if enforced else ""
        context = new_context(
            p,
            SSL.TLS_SERVER_METHOD,
            "smtpd",
            f"smtpd_tls_{kind}protocols",
            p[f"smtpd_tls_{kind}protocols"],
            log,
        )
        pairs = load_pairs(context, p, "smtpd", log)
        self._own = own_signature([pair.chain[0] for pair in pairs])
        exclude = [p["smtpd_tls_exclude_ciphers"]]
        if enforced:
            exclude.append(p["smtpd_tls_mandatory_exclude_ciphers"])
        if self.asks_certificate:
            exclude.append("aNULL")
        grade = f"smtpd_tls_{kind}ciphers"
        security_level = 1 if self.requires_certificate else 0
        wanted = ciphers.cipher_list(p, grade, p[grade], exclude, security_level)
        ciphers.apply_cipher_list(context, wanted, grade)
        if p.flag("tls_preempt_cipherlist"):
            context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
        if self.asks_certificate:
            context.set_verify_depth(p.number("smtpd_tls_ccert_verifydepth") + 1)
            openssl.ask_certificate(context)
            if p["smtpd_tls_CAfile"]:
                context.load_client_ca(p["smtpd_tls_CAfile"].encode())
        self._sessions(context, p)
        self._watching = self.logging.summary or p.flag("smtpd_tls_received_header")
        if self._watching:
            openssl.watch_signatures(context)
        SSL.Connection(
            context, None
        )  # the first connection of a context pays for its tables: here, not later
        return context

    def _sessions(self, context: SSL.Context, p: Parameters) -> None:
        timeout = p.seconds("smtpd_tls_session_cache_timeout")
        context.set_session_id(_SESSION_CONTEXT)
        context.set_session_cache_mode(
            SSL.SESS_CACHE_SERVER | SSL.SESS_CACHE_NO_INTERNAL | SSL.SESS_CACHE_NO_AUTO_CLEAR
        )
        if timeout > 0 and p["tls_session_ticket_cipher"]:
            context.set_timeout(2 * timeout)
        else:
            context.set_options(SSL.OP_NO_TICKET)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection for Twisted (IOpenSSLServerConnectionCreator)."""
        if self._context is None:
            raise RuntimeError("there is no certificate: ask .available first")
        connection = openssl.Connection(self._context, None)
        if self._watching:
            openssl.watch(connection)
        return connection

    def describe(self, connection: SSL.Connection) -> TLSInfo:
        """The session of a finished handshake; what neither log nor header nor policy wants is left out."""
        if not (self._watching or self.asks_certificate):
            return _UNSEEN
        return describe(connection, True, self.digest, self._own)

    def log_established(self, info: TLSInfo, peer: str) -> None:
        """Write what ``smtpd_tls_loglevel`` asks for about a new session; ``peer`` is ``name[addr]``."""
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
