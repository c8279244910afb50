"""TLS of the SMTP client: policies, contexts, certificates' names, resumed sessions.

:class:`ClientTLS` reads ``smtp_tls_*`` and ``tls_*``.  A :class:`Policy` says what one destination
gets; ``ClientTLS.policy`` is the one of main.cf.  For each connection :meth:`ClientTLS.start`
gives a :class:`Handshake`, which ``transport.startTLS()`` takes and whose :meth:`Handshake.finish`
tells, once the handshake is done, whether the server is who it should be.

OpenSSL judges the chain of certificates and always goes on; names are matched here, by Postfix's
rules.  Sessions are kept in memory for resumption, for the same server and policy only, since a
session carries the verdict on its chain.  Contexts are made at first use; :class:`ClientTLS` makes
main.cf's at once, so that a broken setting raises :class:`~mtad.errors.ConfigError` at start.

RFC 3207, RFC 6125 section 6.4, RFC 8314.  Postfix counterpart: ``tls_client.c``,
``smtp_tls_policy.c``.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import MailLog
from mtad.net import ciphers, openssl
from mtad.net.certificates import load_pairs
from mtad.net.dns import to_ascii
from mtad.net.tls_context import Logging, new_context
from mtad.net.tls_info import TLSInfo, describe, log_summary

#: Levels in rising order; from ``fingerprint`` on the server's certificate must match.
LEVELS = ("none", "may", "encrypt", "fingerprint", "verify", "secure")
_MUST_MATCH = LEVELS[3:]

#: Bounds of the memory for sessions and contexts
SESSION_LIMIT = 256
CONTEXT_LIMIT = 64


@dataclass(frozen=True, slots=True)
class Policy:
    """How to speak TLS with one destination.  ``ciphers`` is a grade, ``exclude`` a list of words."""

    level: str
    protocols: str = ""
    ciphers: str = ""
    exclude: str = ""
    match: tuple[str, ...] = ()
    servername: str = ""

    @property
    def required(self) -> bool:
        """No mail without TLS."""
        return self.level not in ("none", "may")

    @property
    def must_match(self) -> bool:
        """No mail unless the server's certificate matches."""
        return self.level in _MUST_MATCH


def client_level(p: Parameters) -> str:
    """The level that main.cf asks of all destinations."""
    level = p["smtp_tls_security_level"].lower()
    if not level:
        if p.flag("smtp_enforce_tls"):
            return "verify" if p.flag("smtp_tls_enforce_peername") else "encrypt"
        return "may" if p.flag("smtp_use_tls") else "none"
    if level not in LEVELS:
        raise ConfigError(
            f'invalid TLS level "{level}"',
            parameter="smtp_tls_security_level",
            remedy=f"use one of {', '.join(LEVELS)}",
        )
    return level


def main_policy(p: Parameters, level: str | None = None) -> Policy:
    """The policy of main.cf, or what main.cf says for another ``level``."""
    level = level or client_level(p)
    kind = "" if level in ("none", "may") else "mandatory_"
    exclude = [p["smtp_tls_exclude_ciphers"]]
    if kind:
        exclude.append(p["smtp_tls_mandatory_exclude_ciphers"])
    match level:
        case "fingerprint":
            names = p.words("smtp_tls_fingerprint_cert_match")
        case "verify" | "secure":
            text = p[f"smtp_tls_{level}_cert_match"]
            names = tuple(word for word in re.split(r"[\s,:]+", text) if word)
        case _:
            names = ()
    return Policy(
        level,
        p[f"smtp_tls_{kind}protocols"],
        p[f"smtp_tls_{kind}ciphers"],
        " ".join(filter(None, exclude)),
        names,
        p["smtp_tls_servername"],
    )


def certificate_names(certificate: x509.Certificate) -> list[str]:
    """What a certificate is for: its subjectAltNames, with common names where it has no DNS name."""
    names: list[str] = []
    addresses: list[str] = []
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.DNSName)
        addresses = [str(address) for address in extension.value.get_values_for_type(x509.IPAddress)]
    except (x509.ExtensionNotFound, ValueError):
        pass
    if not names:
        found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [attribute.value for attribute in found if isinstance(attribute.value, str)]
    return names + addresses


def name_matches(presented: str, wanted: str) -> bool:
    """Does a certificate's name fit ``wanted``?  RFC 6125 section 6.4.

    ``.example.com`` wants any name below it.  ``*`` may be the whole leftmost label of a presented name with
    two more labels at least, and stands for one label.
    """
    presented, wanted = presented.lower().rstrip("."), wanted.lower().rstrip(".")
    if not presented or "\0" in presented:
        return False
    if wanted.startswith("."):
        return presented.endswith(wanted) and len(presented) > len(wanted)
    if not presented.startswith("*."):
        return presented == wanted
    suffix = presented[1:]
    if "*" in suffix or suffix.count(".") < 2 or not wanted.endswith(suffix):
        return False
    stands_for = wanted[: -len(suffix)]
    return bool(stands_for) and "." not in stands_for


class ClientTLS:
    """The TLS side of the SMTP client."""

    #: the policy of main.cf
    policy: Policy

    def __init__(self, p: Parameters, log: MailLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._p = p
        self._log = log
        self._clock = clock
        self._contexts: OrderedDict[tuple[str, str, str, str], SSL.Context] = OrderedDict()
        self._sessions: OrderedDict[tuple[object, ...], tuple[float, SSL.Session]] = OrderedDict()
        self._session_life = p.seconds("smtp_tls_session_cache_timeout")
        self.logging = Logging.parse(p, "smtp_tls_loglevel", log)
        self.digest = p["smtp_tls_fingerprint_digest"]
        self.policy = main_policy(p)
        if self.policy.must_match and not self.policy.match:
            raise ConfigError(
                f'level "{self.policy.level}" needs names or fingerprints to match',
                parameter=f"smtp_tls_{self.policy.level}_cert_match",
            )
        if self.policy.level != "none":
            self.context(self.policy)

    def context(self, policy: Policy) -> SSL.Context:
        """The context of a policy, made at its first use; raises ConfigError."""
        key = (policy.protocols, policy.ciphers, policy.exclude, policy.level)
        found = self._contexts.get(key)
        if found is None:
            found = self._contexts[key] = self._build(policy)
            if len(self._contexts) > CONTEXT_LIMIT:
                self._contexts.popitem(last=False)
        return found

    def _build(self, policy: Policy) -> SSL.Context:
        kind = "mandatory_" if policy.required else ""
        parameter = f"smtp_tls_{kind}protocols"
        context = new_context(self._p, SSL.TLS_CLIENT_METHOD, "smtp", parameter, policy.protocols, self._log)
        load_pairs(context, self._p, "smtp", self._log)
        parameter = f"smtp_tls_{kind}ciphers"
        exclude = [policy.exclude]
        if policy.required:
            exclude.append("aNULL" if policy.must_match else "eNULL")
        security_level = 1 if policy.must_match else 0
        wanted = ciphers.cipher_list(self._p, parameter, policy.ciphers, exclude, security_level)
        ciphers.apply_cipher_list(context, wanted, parameter)
        context.set_verify(SSL.VERIFY_NONE)
        context.set_verify_depth(self._p.number("smtp_tls_scert_verifydepth") + 1)
        context.set_session_cache_mode(SSL.SESS_CACHE_CLIENT | SSL.SESS_CACHE_NO_INTERNAL)
        context.set_timeout(max(2 * self._session_life, 1))
        if self.logging.summary:
            openssl.watch_signatures(context)
        return context

    def start(self, policy: Policy, *, nexthop: str, host: str, address: str, port: int) -> Handshake:
        """Prepare one handshake with ``host[address]:port``; ``nexthop`` is the destination's bare domain.

        Raises ConfigError where the policy cannot be had.
        """
        return Handshake(self, policy, nexthop, host, address, port)

    def session(self, key: tuple[object, ...]) -> SSL.Session | None:
        """A session to resume, taken out: TLS 1.3 tickets are for one use (RFC 8446 appendix C.4)."""
        found = self._sessions.pop(key, None)
        if found is None or self._clock() - found[0] > self._session_life:
            return None
        return found[1]

    def keep_session(self, key: tuple[object, ...], session: SSL.Session) -> None:
        if self._session_life > 0:
            self._sessions[key] = (self._clock(), session)
            if len(self._sessions) > SESSION_LIMIT:
                self._sessions.popitem(last=False)

    def log_finished(self, policy: Policy, info: TLSInfo, peer: str) -> None:
        if self.logging.peercert and info.peer_present:
            self._log.info(
                f"{peer}: subject_CN={info.peer_cn}, issuer={info.issuer_cn}, "
                f"cert fingerprint={info.fingerprint}, pkey fingerprint={info.key_fingerprint}"
            )
        if info.peer_present and not info.verified and (self.logging.untrusted or policy.must_match):
            self.logging.log_untrusted(self._log, info, peer, "server")
        if self.logging.summary:
            self._log.info(log_summary(info, False, peer))


@implementer(IOpenSSLClientConnectionCreator)
class Handshake:
    """One TLS session with a server, before and after its handshake."""

    __slots__ = ("_context", "_host", "_key", "_nexthop", "_peer", "_policy", "_sni", "_tls")

    def __init__(
        self, tls: ClientTLS, policy: Policy, nexthop: str, host: str, address: str, port: int
    ) -> None:
        self._tls = tls
        self._policy = policy
        self._nexthop = nexthop
        self._host = host
        self._peer = f"{host}[{address}]:{port}"
        self._sni = {"hostname": host, "nexthop": nexthop}.get(policy.servername, policy.servername)
        self._context = tls.context(policy)
        self._key = (policy, address, port, host, nexthop)

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection for Twisted (IOpenSSLClientConnectionCreator)."""
        return self.connection()

    def connection(self) -> SSL.Connection:
        connection = openssl.Connection(self._context, None)
        if self._tls.logging.summary:
            openssl.watch(connection)
        if self._sni:
            connection.set_tlsext_host_name(to_ascii(self._sni).encode("ascii", "replace")[:255])
        session = self._tls.session(self._key)
        if session is not None:
            connection.set_session(session)
        return connection

    def finish(self, connection: SSL.Connection) -> TLSInfo:
        """Judge the server after the handshake and write the log's lines.

        ``info.verified`` says that its certificate matched; where ``policy.must_match`` asks for it and it
        is false, the mail must not go there (:meth:`refusal`).
        """
        info = describe(connection, False, self._tls.digest)
        if self._policy.must_match and info.peer_present:
            info = replace(info, verified=self._matches(connection, info))
            if self._policy.level == "fingerprint":
                info = replace(info, trusted=info.verified)
        self._tls.log_finished(self._policy, info, self._peer)
        return info

    def refusal(self, info: TLSInfo) -> str:
        """The text of the 4.7.5 that a server gets which is not who it should be, or nothing."""
        return "Server certificate not verified" if self._policy.must_match and not info.verified else ""

    def _matches(self, connection: SSL.Connection, info: TLSInfo) -> bool:
        if self._policy.level == "fingerprint":
            wanted = {word.upper() for text in self._policy.match for word in text.split("|") if word}
            return not wanted.isdisjoint((info.fingerprint, info.key_fingerprint))
        if not info.trusted:
            return False
        certificate = connection.get_peer_certificate(as_cryptography=True)
        if not isinstance(certificate, x509.Certificate):
            return False
        presented = certificate_names(certificate)
        names = [to_ascii(name) for name in self._wanted_names()]
        return any(name_matches(name, wanted) for wanted in names for name in presented)

    def _wanted_names(self) -> Iterable[str]:
        special = {"nexthop": self._nexthop, "dot-nexthop": f".{self._nexthop}", "hostname": self._host}
        for name in self._policy.match:
            wanted = special.get(name.lower(), name)
            if wanted.strip("."):
                yield wanted

    def keep(self, connection: SSL.Connection) -> None:
        """Keep the session for the next connection.

        To be called when the connection has done its work, before it is closed: TLS 1.3 sends tickets after
        the handshake.  A connection that is not closed in order (``loseConnection``) spoils its session.
        """
        session = connection.get_session()
        if session is not None:
            self._tls.keep_session(self._key, session)
