"""Postfix's words for protocols, cipher grades and options, put into OpenSSL's.

Translation: :func:`parse_protocols`, :func:`cipher_list`, :func:`ssl_options`,
:func:`group_list`, :func:`apply_dh`.  What Postfix would disable TLS for raises
:class:`~mtad.errors.ConfigError` naming the parameter; what it only warns of is a warning.

RFC 7919 (the built-in Diffie-Hellman group).  Postfix counterpart: ``tls_proto_mask_lims()``,
``tls_set_ciphers()``, ``tls_bug_bits()``, ``tls_auto_groups()`` in ``tls_misc.c`` and ``tls_dh.c``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from OpenSSL import SSL

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import MailLog
from mtad.net import openssl

#: protocols that can be excluded, with the option bit that does it
_EXCLUDE = {
    "sslv2": 0,
    "sslv3": SSL.OP_NO_SSLv3,
    "tlsv1": SSL.OP_NO_TLSv1,
    "tlsv1.1": SSL.OP_NO_TLSv1_1,
    "tlsv1.2": SSL.OP_NO_TLSv1_2,
    "tlsv1.3": SSL.OP_NO_TLSv1_3,
}
#: protocols that can bound the range, with their number on the wire
_VERSION = {
    "none": 0,
    "sslv3": 0x0300,
    "tlsv1": SSL.TLS1_VERSION,
    "tlsv1.1": SSL.TLS1_1_VERSION,
    "tlsv1.2": SSL.TLS1_2_VERSION,
    "tlsv1.3": SSL.TLS1_3_VERSION,
}
_GRADE_LIST = {
    "high": "tls_high_cipherlist",
    "medium": "tls_medium_cipherlist",
    "low": "tls_medium_cipherlist",
    "export": "tls_medium_cipherlist",
    "null": "tls_null_cipherlist",
}
#: values of tls_ssl_options (OpenSSL's SSL_OP_ names and numbers)
_OPTIONS = {
    "LEGACY_SERVER_CONNECT": 1 << 2,
    "NO_TICKET": 1 << 14,
    "NO_SESSION_RESUMPTION_ON_RENEGOTIATION": 1 << 16,
    "NO_COMPRESSION": 1 << 17,
    "ENABLE_MIDDLEBOX_COMPAT": 1 << 20,
    "PRIORITIZE_CHACHA": 1 << 21,
    "NO_RENEGOTIATION": 1 << 30,
}
#: work-arounds that tls_disable_workarounds can turn off; OpenSSL has no others any more
_WORKAROUNDS = {
    "TLSEXT_PADDING": 1 << 4,
    "DONT_INSERT_EMPTY_FRAGMENTS": 1 << 11,
    "CRYPTOPRO_TLSEXT_BUG": 1 << 31,
}
#: those that OpenSSL had once
_NO_WORKAROUNDS = frozenset(
    (
        "MICROSOFT_SESS_ID_BUG",
        "NETSCAPE_CHALLENGE_BUG",
        "LEGACY_SERVER_CONNECT",
        "NETSCAPE_REUSE_CIPHER_CHANGE_BUG",
        "CVE-2010-4180",
        "SSLREF2_REUSE_CERT_TYPE_BUG",
        "MICROSOFT_BIG_SSLV3_BUFFER",
        "MSIE_SSLV2_RSA_PADDING",
        "CVE-2005-2969",
        "SSLEAY_080_CLIENT_DH_BUG",
        "TLS_D5_BUG",
        "TLS_BLOCK_PADDING_BUG",
        "TLS_ROLLBACK_BUG",
    )
)
_SAFARI_BUG = 1 << 6

#: ffdhe2048 (RFC 7919 appendix A.1), for who names no file
_FFDHE2048 = b"""\
-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
#: Largest file of Diffie-Hellman parameters
_DH_LIMIT = 64 * 1024

_SEPARATORS = re.compile(r"[\s,:]+")


@dataclass(frozen=True, slots=True)
class Protocols:
    """Which protocol versions may be used: lowest and highest (0: no bound) and excluded ones."""

    minimum: int
    maximum: int
    excluded: int

    def apply(self, context: SSL.Context) -> None:
        """Give a context its protocols."""
        context.set_min_proto_version(self.minimum)
        context.set_max_proto_version(self.maximum)
        context.set_options(self.excluded)


def _words(text: str) -> list[str]:
    return [word for word in _SEPARATORS.split(text) if word]


def _version(word: str) -> int:
    known = _VERSION.get(word.lower())
    return int(word or "0", 16) if known is None else known


def parse_protocols(text: str, parameter: str) -> Protocols:
    """``>=TLSv1.2, <=TLSv1.3``, or the old lists ``TLSv1.2 TLSv1.3`` and ``!SSLv2, !SSLv3``."""
    minimum = maximum = excluded = included = 0
    for word in _words(text):
        try:
            if word.startswith(">="):
                minimum = _version(word[2:])
            elif word.startswith("<="):
                maximum = _version(word[2:])
            elif word.startswith("!"):
                excluded |= _EXCLUDE[word[1:].lower()]
            else:
                included |= _EXCLUDE[word.lower()]
        except (KeyError, ValueError):
            raise ConfigError(
                f'Invalid TLS protocol list "{text}": aborting TLS session',
                parameter=parameter,
                remedy="write a lowest version as in >=TLSv1.2, or names as in !SSLv3",
            ) from None
    if included:  # SSLv2 is none
        for bit in _EXCLUDE.values():
            excluded |= bit & ~included
    return Protocols(minimum, maximum, excluded)


def cipher_list(
    p: Parameters, grade_parameter: str, grade: str, exclusions: Iterable[str], security_level: int = 0
) -> bytes:
    """OpenSSL's cipher list of a grade without ``exclusions``, each itself a list of words.

    TLS 1.3's suites are not in it.  ``security_level`` is OpenSSL's; Postfix sets it to 0, and to 1
    where a certificate must be verified.
    """
    source = _GRADE_LIST.get(grade.lower())
    if source is None:
        raise ConfigError(
            f'invalid cipher grade: "{grade}"', parameter=grade_parameter, remedy="use high, medium or null"
        )
    parts = [p[source], f"@SECLEVEL={security_level}"]
    for word in (word for text in exclusions for word in _words(text)):
        if word[0] in "!+-@":
            raise ConfigError(f"invalid unary '!+-@' in cipher exclusion: {word}", parameter=grade_parameter)
        parts.append(f"!{word}")
    return ":".join(parts).encode("ascii", "replace")


def apply_cipher_list(context: SSL.Context, ciphers: bytes, parameter: str, grade: str = "") -> None:
    """Give a context its ciphers up to TLS 1.2; ConfigError where OpenSSL takes none of them.

    ``grade``: what the operator called the list.
    """
    try:
        context.set_cipher_list(ciphers)
    except SSL.Error as error:
        remedy = f"OpenSSL takes no cipher of the list {ciphers.decode('ascii')}"
        reason = f'error setting cipher grade: "{grade}"' if grade else remedy
        raise ConfigError(reason, parameter=parameter, remedy=remedy if grade else "") from error


def ssl_options(p: Parameters, log: MailLog) -> int:
    """Option bits of both sides: no compression, no renegotiation, ``tls_ssl_options``, and work-arounds
    but those of ``tls_disable_workarounds``."""
    asked = _bits(p, "tls_ssl_options", _OPTIONS, log)
    managed = SSL.OP_CIPHER_SERVER_PREFERENCE
    for bit in _EXCLUDE.values():
        managed |= bit
    workarounds = SSL.OP_ALL
    if p["tls_disable_workarounds"]:
        named = _WORKAROUNDS | dict.fromkeys(_NO_WORKAROUNDS, 0)
        workarounds &= ~(_bits(p, "tls_disable_workarounds", named, log) | _SAFARI_BUG)
    bits = workarounds | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_IGNORE_UNEXPECTED_EOF
    return int(bits | (asked & ~managed & ~SSL.OP_ALL))


def _bits(p: Parameters, parameter: str, named: Mapping[str, int], log: MailLog) -> int:
    """The sum of a list of names and numbers (``0x...``)."""
    found = 0
    for word in _words(p[parameter]):
        bit = named.get(word.upper())
        try:
            found |= int(word, 16) if bit is None else bit
        except ValueError:
            log.warning(f'unknown {parameter} value "{word}" in "{p[parameter]}"')
    return found


def group_list(p: Parameters, log: MailLog) -> bytes:
    """The key-exchange groups that main.cf names, without those that OpenSSL does not know.

    Empty where main.cf names none: OpenSSL's own list stays, the post-quantum hybrid first where it has it.
    """
    if not (p.explicit("tls_eecdh_auto_curves") or p.explicit("tls_ffdhe_auto_groups")):
        return b""
    names = list(dict.fromkeys(_words(p["tls_eecdh_auto_curves"]) + _words(p["tls_ffdhe_auto_groups"])))
    trial = SSL.Context(SSL.TLS_METHOD)
    known = b":".join([name.encode() for name in names if openssl.set_groups(trial, name.encode())])
    if names and not (known and openssl.set_groups(trial, known)):
        log.warning("using OpenSSL default key exchange groups instead")
        return b""
    return known


def apply_dh(context: SSL.Context, path: str, log: MailLog) -> None:
    """Set the parameters of ephemeral Diffie-Hellman: of a file, or the built-in ones."""
    if path and path.lower() != "auto":
        try:
            with open(path, "rb") as file:
                if openssl.set_dh(context, file.read(_DH_LIMIT)):
                    return
            log.warning(f'error decoding DH parameters from file "{path}" -- using compiled-in defaults')
        except OSError as error:
            text = f'error opening DH parameter file "{path}": {error.strerror}'
            log.warning(f"{text} -- using compiled-in defaults")
    openssl.set_dh(context, _FFDHE2048)
