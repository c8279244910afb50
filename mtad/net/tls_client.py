"""TLS of the SMTP client: contexts, handshakes, who the server is, resumed sessions.

:class:`ClientTLS` reads ``smtp_tls_*`` and ``tls_*``.  A :class:`~mtad.net.tls_policy.Policy` says what one
destination gets.  For each connection :meth:`ClientTLS.start` gives a :class:`Handshake`, which
``transport.startTLS()`` takes and whose :meth:`Handshake.finish` tells, once the handshake is done, whether
the server is who it should be.

OpenSSL judges the chain of certificates and always goes on; names are matched here, by Postfix's rules
(:mod:`mtad.net.tls_names`), and so are TLSA records and local trust anchors (:mod:`mtad.net.tls_trust`).
Sessions are kept in memory for resumption, for the same server and policy only, since a session carries the
verdict on its chain.  Keys and certificates are read once, while we may; contexts are made at first use;
:class:`ClientTLS` makes main.cf's at once, so that a broken setting raises
:class:`~mtad.errors.ConfigError` at start.

RFC 3207, RFC 6125 section 6.4, RFC 7672, RFC 8314.  Postfix counterpart: ``tls_client.c``, ``tls_verify.c``.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import MailLog
from mtad.net import ciphers, openssl
from mtad.net.certificates import Pair, read_pairs, use_pair
from mtad.net.dns import to_ascii
from mtad.net.lookup import is_address
from mtad.net.tls_context import Logging, new_context
from mtad.net.tls_info import TLSInfo, describe, log_summary, peer_certificate, peer_chain
from mtad.net.tls_names import matching
from mtad.net.tls_policy import PKIX_LEVELS, Policy, Tlsa, main_policy, must_match, shown
from mtad.net.tls_trace import Trace
from mtad.net.tls_trust import Verdict, digests_of, judge, usable

#: Bounds of the memory for sessions and contexts
SESSION_LIMIT = 256
CONTEXT_LIMIT = 64


class ClientTLS:
    """The TLS side of the SMTP client."""

    #: the policy of main.cf
    policy: Policy

    def __init__(self, p: Parameters, log: MailLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._p = p
        self.log = log
        self._clock = clock
        self._contexts: OrderedDict[tuple[str, str, str, str, bool], SSL.Context] = OrderedDict()
        self._sessions: OrderedDict[tuple[object, ...], tuple[float, SSL.Session]] = OrderedDict()
        self._session_life = p.seconds("smtp_tls_session_cache_timeout")
        self.logging = Logging.parse(p, "smtp_tls_loglevel", log)
        #: what the log calls the memory of sessions
        self.cache = p.written("smtp_tls_loglevel").partition("_")[0]
        if self.logging.verbose:
            log.info("initializing the client-side TLS engine")
        self.digest = p["smtp_tls_fingerprint_digest"]
        self.digests = digests_of(p, log)
        self.depth = p.number("smtp_tls_scert_verifydepth")
        self.policy = main_policy(p)
        used = bool(self.policy.level != "none" or p["smtp_tls_policy_maps"] or p["smtp_tls_per_site"])
        self._pairs: list[tuple[str, Pair]] = read_pairs(p, "smtp", log) if used else []
        if self.policy.must_match and not (self.policy.match or self.policy.dane):
            raise ConfigError(
                f'level "{self.policy.level}" needs names or fingerprints to match',
                parameter=f"smtp_tls_{self.policy.level}_cert_match",
            )
        if self.policy.level != "none":
            self.context(self.policy)

    def context(self, policy: Policy) -> SSL.Context:
        """The context of a policy, made at its first use; raises ConfigError."""
        p = self._p
        public = policy.external is not None and policy.external.kind == "sts"
        authorities = public and not (p["smtp_tls_CAfile"] or p["smtp_tls_CApath"])
        key = (policy.protocols, policy.ciphers, policy.exclude, policy.level, authorities)
        found = self._contexts.get(key)
        if found is None:
            found = self._contexts[key] = self._build(policy, authorities)
            if len(self._contexts) > CONTEXT_LIMIT:
                self._contexts.popitem(last=False)
        return found

    def _build(self, policy: Policy, authorities: bool) -> SSL.Context:
        """``authorities``: trust those of the system, for a policy that means them."""
        kind = "mandatory_" if policy.required else ""
        parameter = f"smtp_tls_{kind}protocols"
        context = new_context(self._p, SSL.TLS_CLIENT_METHOD, "smtp", parameter, policy.protocols, self.log)
        if authorities:
            context.set_default_verify_paths()
        for pair_parameter, pair in self._pairs:
            use_pair(context, pair, pair_parameter)
        parameter = f"smtp_tls_{kind}ciphers"
        wanted = self.cipher_list(policy, parameter)
        ciphers.apply_cipher_list(context, wanted, parameter, policy.ciphers)
        openssl.note_chain(context)
        context.set_verify_depth(self.depth + 1)
        context.set_session_cache_mode(SSL.SESS_CACHE_CLIENT | SSL.SESS_CACHE_NO_INTERNAL)
        context.set_timeout(max(2 * self._session_life, 1))
        if self.logging.summary:
            openssl.watch_signatures(context)
        return context

    def cipher_list(self, policy: Policy, parameter: str = "smtp_tls_ciphers") -> bytes:
        """OpenSSL's cipher list of a policy; raises ConfigError."""
        exclude = [policy.exclude]
        if policy.required:
            exclude.append("aNULL" if policy.must_match else "eNULL")
        security_level = 1 if policy.must_match else 0
        return ciphers.cipher_list(self._p, parameter, policy.ciphers, exclude, security_level)

    def shown_cipher_list(self, policy: Policy) -> str:
        """The same for the log: OpenSSL's security level is no cipher."""
        listed = self.cipher_list(policy).decode("ascii", "replace").split(":")
        return ":".join(word for word in listed if not word.startswith("@SECLEVEL"))

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
        """Remember a session, to be resumed with the next connection of that ``key``."""
        if self._session_life > 0:
            self._sessions[key] = (self._clock(), session)
            if len(self._sessions) > SESSION_LIMIT:
                self._sessions.popitem(last=False)


@implementer(IOpenSSLClientConnectionCreator)
class Handshake:
    """One TLS session with a server, before and after its handshake.

    ``level`` is that of the policy, or ``encrypt`` where none of its TLSA records can be used; ``unusable``
    says then, as RFC 8460 would, what is: it is empty where something can.
    """

    __slots__ = (
        "_anchors",
        "_by_ourselves",
        "_context",
        "_hopeless",
        "_host",
        "_key",
        "_nexthop",
        "_peer",
        "_policy",
        "_sni",
        "_tls",
        "_trace",
        "level",
        "unusable",
    )

    def __init__(
        self, tls: ClientTLS, policy: Policy, nexthop: str, host: str, address: str, port: int
    ) -> None:
        self._tls = tls
        self._policy = policy
        self._nexthop = nexthop
        self._host = host
        self._peer = f"{host}[{address}]:{port}"
        self.level = policy.level
        self._trace = Trace(tls.logging, tls.log, self._peer, "SSL_connect")
        if tls.logging.verbose:
            tls.log.info(f"setting up TLS connection to {self._peer}")
        self._context = tls.context(policy)
        if tls.logging.verbose:
            tls.log.info(f'{self._peer}: TLS cipher list "{tls.shown_cipher_list(policy)}"')
        external = policy.external
        #: whether the server can't be right whatever it shows
        self._hopeless = external is not None and bool(external.failure)
        self._sni = {"hostname": host, "nexthop": nexthop}.get(policy.servername, policy.servername)
        if policy.dane:
            self._sni = policy.base_domain
        if policy.dane or policy.level in PKIX_LEVELS:
            names, address_wanted = self._wanted_names(warn=True)
            if not (names or address_wanted):
                tls.log.warning(f"{self._peer}: could not configure peer name checks")
                self._hopeless = True
        if self._sni and tls.logging.debug:
            tls.log.info(f"{self._peer}: SNI hostname: {self._sni}")
        self.unusable = ""
        self._anchors = self._usable_anchors()
        #: whether what OpenSSL finds in the chain is of no account
        self._by_ourselves = must_match(self.level) and bool(policy.anchors or self.level == "fingerprint")
        self._key = (policy, address, port, host, nexthop)

    def _usable_anchors(self) -> tuple[Tlsa, ...]:
        """TLSA records, or what stands for some; the log is told of those that nothing can match."""
        tls, policy = self._tls, self._policy
        log, peer = tls.log, self._peer
        anchors = policy.anchors
        if policy.level == "fingerprint":
            size = hashlib.new(tls.digest, usedforsecurity=False).digest_size
            bad = [digest for digest in policy.match if len(digest) != 2 * size]
            for digest in bad:
                for selector in (0, 1):
                    log.warning(f"{peer}: unusable TLSA RR: 3 {selector} 255 {shown(digest)}")
            if len(bad) == len(policy.match):
                log.warning(f"{peer}: all fingerprints unusable")
                self.unusable = "all-fingerprints-unusable"
                self._hopeless = True
        found = tuple([record for record in anchors if usable(record, tls.digests)])
        for record in dict.fromkeys(anchors):
            if record not in found:
                log.warning(f"{peer}: unusable TLSA RR: {record.shown}")
        if not anchors or found:
            return found
        self.unusable = f"all-{'TLSA-records' if policy.dane else 'trust-anchors'}-unusable"
        match self.level:
            case "dane" | "halfdane":
                log.warning(f"{peer}: all TLSA records unusable, fallback to unauthenticated TLS")
                self.level = "encrypt"
            case "dane-only":
                log.warning(f"{peer}: all TLSA records unusable")
                self._hopeless = True
            case _:
                log.warning(f"{peer}: all trust anchors unusable")
                self._hopeless = True
        return found

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """A connection for Twisted (IOpenSSLClientConnectionCreator)."""
        return self.connection()

    def connection(self) -> SSL.Connection:
        """A new connection for OpenSSL, with all that is said and asked for in its first message."""
        connection = self._trace.connection(self._context, not (self._by_ourselves or self._hopeless))
        if self._tls.logging.summary:
            openssl.watch(connection)
        if self._sni:
            connection.set_tlsext_host_name(to_ascii(self._sni).encode("ascii", "replace")[:255])
        if self._tls.logging.cache:
            self._tls.log.info(f"looking for session {self._session_name} in {self._tls.cache} cache")
        session = self._tls.session(self._key)
        if session is not None:
            if self._tls.logging.cache:
                self._tls.log.info(f"reloaded session {self._session_name} from {self._tls.cache} cache")
            connection.set_session(session)
        return connection

    # -- after the handshake

    def finish(self, connection: SSL.Connection) -> TLSInfo:
        """Judge the server after the handshake and write the log's lines.

        ``info.verified`` says that its certificate matched; where the level asks for that and it is false,
        the mail must not go there (:meth:`refusal`).
        """
        info = describe(connection, False, self._tls.digest)
        self._trace.finished(connection)
        if info.peer_present:
            info = self._judged(connection, info)
            if self._by_ourselves and not self._hopeless:
                self._trace.judged(connection, info.trusted)
        self._log(info)
        return info

    def failed(self) -> None:
        """There was no handshake; its session is gone."""
        if self._tls.logging.cache:
            self._tls.log.info(f"remove session {self._session_name} from client cache")

    @property
    def must_match(self) -> bool:
        """No mail unless the server's certificate matches."""
        return must_match(self.level)

    def refusal(self, info: TLSInfo) -> str:
        """The text of the 4.7.5 that a server gets which is not who it should be, or nothing."""
        return "Server certificate not verified" if must_match(self.level) and not info.verified else ""

    def _judged(self, connection: SSL.Connection, info: TLSInfo) -> TLSInfo:
        policy = self._policy
        external = policy.external
        if self._hopeless:
            unspecified = openssl.VERIFY_UNSPECIFIED
            return replace(info, trusted=False, verify_error=unspecified, verify_depth=0)
        if self.level == "fingerprint":
            return self._by_fingerprint(info)
        certificate = peer_certificate(connection)
        verdict: Verdict | None = None
        if policy.anchors and must_match(self.level):
            chain = peer_chain(connection) or ([] if certificate is None else [certificate])
            verdict = judge(chain, self._anchors, self._tls.digests, self._tls.depth)
            trusted = verdict.error == openssl.VERIFY_OK
            info = replace(
                info,
                trusted=trusted,
                verify_error=verdict.error,
                verify_depth=0 if trusted else verdict.depth,
            )
        testing = external is not None and external.testing
        if certificate is None or not info.trusted or not (must_match(self.level) or testing):
            return info
        own = verdict is not None and verdict.depth == 0 and not verdict.by_key
        if own and self.level not in PKIX_LEVELS:
            name = ""  # DANE-EE(3) is about no name
        else:
            names, address = self._wanted_names()
            found_name = matching(certificate, names, address)
            if found_name is None:
                return self._not_named(certificate, info, address)
            name = found_name
        if self._tls.logging.certmatch and not testing:
            self._log_match(name, verdict)
        insecure = self.level == "halfdane" or testing
        return replace(info, verified=True, insecure=insecure, peer_cn=info.peer_cn or name)

    def _by_fingerprint(self, info: TLSInfo) -> TLSInfo:
        digests = (info.fingerprint.replace(":", ""), info.key_fingerprint.replace(":", ""))
        found = [digest for digest in digests if digest and digest in self._policy.match]
        if not found:
            return replace(info, trusted=False, verify_error=openssl.VERIFY_DANE_NO_MATCH)
        if self._tls.logging.certmatch:
            self._tls.log.info(f"{self._peer}: Matched fingerprint: {shown(found[0])}")
        return replace(info, trusted=True, verified=True, verify_error=openssl.VERIFY_OK)

    def _not_named(self, certificate: x509.Certificate, info: TLSInfo, address: str) -> TLSInfo:
        """What is wrong with a certificate that is for others; OpenSSL asks for names before addresses."""
        error = openssl.VERIFY_HOSTNAME_MISMATCH
        names, _ = self._wanted_names()
        if address and (not names or matching(certificate, names) is not None):
            error = openssl.VERIFY_ADDRESS_MISMATCH
            info = replace(info, trusted=False)
        return replace(info, verify_error=error, verify_depth=0)

    def _wanted_names(self, warn: bool = False) -> tuple[list[str], str]:
        """Host names of which the certificate must have one, and an address that it must have."""
        special = {"nexthop": self._nexthop, "dot-nexthop": f".{self._nexthop}", "hostname": self._host}
        names: list[str] = []
        address = ""
        for name in self._policy.match:
            wanted = special.get(name.lower(), name)
            if wanted == ".":
                if warn:
                    self._tls.log.warning(f'{self._peer}: ignoring invalid match name: "."')
            elif not is_address(wanted):
                names.append(to_ascii(wanted))
            elif not address:
                address = wanted
            elif warn:
                self._tls.log.warning(f'{self._peer}: error loading match name: "{wanted}"')
        return names, address

    def _log_match(self, name: str, verdict: Verdict | None) -> None:
        log, peer = self._tls.log, self._peer
        if name:
            log.info(f"{peer}: matched peername: {name}")
        if verdict is None or verdict.matched is None:
            return
        if self.level in PKIX_LEVELS:
            log.info(f"{peer}: Matched trust anchor at depth {verdict.depth}")
            return
        what = "TA certificate" if verdict.depth else "EE certificate"
        if verdict.by_key:
            what = "TA public key verified certificate"
        record = verdict.matched
        head = f"{record.usage} {record.selector} {record.matching}"
        digest = shown(record.data.hex().upper())
        log.info(f"{peer}: Matched DANE {what} at depth {verdict.depth}: {head} {digest}")

    def _log(self, info: TLSInfo) -> None:
        logging, log = self._tls.logging, self._tls.log
        if info.reused and logging.cache:
            log.info(f"{self._peer}: Reusing old session")
        if info.peer_present and not info.verified and (logging.untrusted or self._policy.must_match):
            external = self._policy.external
            if external is not None and external.failure:
                text = f"external policy failure ({external.failure})"
                log.info(f"certificate verification failed for {self._peer}: {text}")
            else:
                logging.log_untrusted(log, info, self._peer, "server")
        if logging.certmatch and info.peer_present:
            log.info(f"{self._peer}: {info.certificate_text}")
        if logging.summary:
            log.info(log_summary(info, False, self._peer))

    def log_reused(self, info: TLSInfo) -> None:
        """Say that the session serves once more."""
        if self._tls.logging.summary:
            self._tls.log.info(log_summary(info, False, self._peer, "reused"))

    def keep(self, connection: SSL.Connection) -> None:
        """Keep the session for the next connection.

        To be called when the connection has done its work, before it is closed: TLS 1.3 sends tickets after
        the handshake.  A connection that is not closed in order (``loseConnection``) spoils its session.
        """
        session = connection.get_session()
        if session is not None:
            if self._tls.logging.cache:
                self._tls.log.info(f"save session {self._session_name} to {self._tls.cache} cache")
            self._tls.keep_session(self._key, session)

    @property
    def _session_name(self) -> str:
        """How the log calls a session that is kept."""
        policy, address, _, host, nexthop = self._key
        digest = hashlib.sha256(repr(policy).encode()).hexdigest().upper()
        return f"{self._tls.cache}&{nexthop}&{host}&{address}&&{digest}"
