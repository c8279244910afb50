"""What the contexts of both sides have in common, and the TLS log levels.

:func:`new_context` gives a context with protocols, options, key-exchange groups and trusted authorities set,
:func:`trust` sets the last of these alone; :class:`Logging` is a parsed ``smtpd_tls_loglevel`` or
``smtp_tls_loglevel``.
Raises :class:`~mtad.errors.ConfigError`.

Postfix counterpart: ``tls_set_ca_certificate_info()`` in ``tls_certkey.c``, ``tls_log_mask()`` in
``tls_misc.c``, ``tls_log_verify_error()`` in ``tls_verify.c``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from OpenSSL import SSL

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import MailLog
from mtad.net import ciphers, openssl
from mtad.net.tls_info import TLSInfo

_SESSION = frozenset({"4", "5", "6", "7", "8", "9", "ssl-developer"})
_HANDSHAKE = _SESSION | {"3", "ssl-expert"}
_DEBUG = _HANDSHAKE | {"2", "debug"}
_SUMMARY = _DEBUG | {"1", "routine", "summary"}
_OTHER = {"0", "none", "untrusted", "peercert", "certmatch", "verbose", "cache", "dane", "ssl-debug"}
_ALL_PACKETS = "ssl-session-packet-dump"
_PACKETS = {"ssl-handshake-packet-dump", _ALL_PACKETS}


@dataclass(frozen=True, slots=True)
class Logging:
    """What a TLS log level asks for: the summary line, trust failures, certificates' details, what they
    matched, TLSA records, the use of sessions, how a handshake begins and what its chain has (``verbose``),
    OpenSSL's steps (``debug``), the bytes of the handshake (``packets``) and of the session
    (``all_packets``)."""

    summary: bool
    untrusted: bool
    peercert: bool
    certmatch: bool
    dane: bool
    cache: bool
    verbose: bool
    debug: bool = False
    packets: bool = False
    all_packets: bool = False

    @classmethod
    def parse(cls, p: Parameters, parameter: str, log: MailLog) -> Logging:
        """What ``smtpd_tls_loglevel`` or its like asks for.

        An unknown word is a warning, and nothing is logged.
        """
        listed = [word for word in re.split(r"[\s,]+", p[parameter]) if word]
        unknown = [word for word in listed if word.lower() not in _SUMMARY | _OTHER | _PACKETS]
        if unknown:
            log.warning(f'unknown {p.written(parameter)} value "{unknown[0]}" in "{p[parameter]}"')
        words = set() if unknown else {word.lower() for word in listed}
        debug = bool(words & _DEBUG)
        verbose = debug or "verbose" in words
        return cls(
            summary=bool(words & _SUMMARY),
            untrusted="untrusted" in words,
            peercert=verbose or "peercert" in words,
            certmatch=verbose or not words.isdisjoint(("certmatch", "peercert")),
            dane=verbose or "dane" in words,
            cache=debug or "cache" in words,
            verbose=verbose,
            debug=debug or "ssl-debug" in words,
            packets=bool(words & (_HANDSHAKE | _PACKETS)),
            all_packets=bool(words & _SESSION) or _ALL_PACKETS in words,
        )

    def log_untrusted(self, log: MailLog, info: TLSInfo, peer: str, purpose: str) -> None:
        """Say why the peer's certificate is not trusted; ``purpose`` is the peer's role."""
        if info.reused:
            log.info(
                f"{peer}: re-using session with untrusted certificate, look for details earlier in the log"
            )
            return
        head = f"certificate verification failed for {peer}"
        purpose = "CA" if info.verify_depth > 0 else purpose
        match info.verify_error:
            case openssl.VERIFY_OK:
                return
            case openssl.VERIFY_SELF_SIGNED:
                text = f"{head}: self-signed certificate"
            case openssl.VERIFY_NO_ISSUER | openssl.VERIFY_SELF_SIGNED_IN_CHAIN:
                text = f"{head}: untrusted issuer {info.untrusted_issuer}"
            case openssl.VERIFY_NOT_YET_VALID:
                text = f"{purpose} {head}: certificate not yet valid"
            case openssl.VERIFY_EXPIRED:
                text = f"{purpose} {head}: certificate has expired"
            case openssl.VERIFY_WRONG_PURPOSE:
                text = f"{head}: not designated for use as a {purpose} certificate"
            case openssl.VERIFY_CHAIN_TOO_LONG:
                text = f"{head}: certificate chain longer than limit({info.verify_depth - 1})"
            case error:
                text = f"{purpose} {head}: num={error}:{openssl.verify_text(error)}"
        log.info(text)


def new_context(
    p: Parameters, method: int, side: str, protocol_parameter: str, protocols: str, log: MailLog
) -> SSL.Context:
    """A context for ``side`` (smtpd or smtp) without certificates, ciphers and session settings."""
    context = SSL.Context(method)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_options(ciphers.ssl_options(p, log))
    ciphers.parse_protocols(protocols, protocol_parameter).apply(context)
    groups = ciphers.group_list(p, log)
    if groups:
        openssl.set_groups(context, groups)
    trust(context, p, side)
    return context


def trust(context: SSL.Context, p: Parameters, side: str) -> None:
    """Load the authorities of ``{side}_tls_CAfile`` and ``_CApath``."""
    file, path = p[f"{side}_tls_CAfile"], p[f"{side}_tls_CApath"]
    if not (file or path):
        return
    if file:
        _readable(file, f"{side}_tls_CAfile")
    if path and not os.path.isdir(path):
        raise ConfigError(f"there is no directory {path}", parameter=f"{side}_tls_CApath")
    try:
        context.load_verify_locations(file or None, path or None)
    except SSL.Error as error:
        raise ConfigError(f"no certificates in {file}", parameter=f"{side}_tls_CAfile") from error
    if p.flag("tls_append_default_CA"):
        context.set_default_verify_paths()


def _readable(file: str, parameter: str) -> None:
    try:
        with open(file, "rb"):
            pass
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", parameter=parameter) from error
