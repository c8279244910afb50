"""How to speak TLS with one destination: plain values.

:class:`Policy` is what the SMTP client is told for each connection; :func:`main_policy` is what main.cf says
for a level.  Raises :class:`~mtad.errors.ConfigError` for what makes main.cf's own settings unusable.

Postfix counterpart: ``SMTP_TLS_POLICY``, ``tls_level.c``, parts of ``smtp_tls_policy.c``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError

#: Levels in rising order; from ``encrypt`` on there is no mail without TLS, from ``fingerprint`` on none
#: unless the server's certificate matches.  ``halfdane`` (the server's name is not secure, its TLSA records
#: are) is what ``dane`` becomes, and cannot be asked for.
LEVELS = ("none", "may", "encrypt", "fingerprint", "halfdane", "dane", "dane-only", "verify", "secure")
_RANK = {level: rank for rank, level in enumerate(LEVELS)}
DANE_LEVELS = frozenset(("halfdane", "dane", "dane-only"))
PKIX_LEVELS = frozenset(("verify", "secure"))

_SEPARATORS = re.compile(r"[\s,:]+")
_DIGEST = re.compile(r"[0-9A-Fa-f]{2}(:?[0-9A-Fa-f]{2})*")
_DIGEST_LIMIT = 192  # three characters for each byte of the longest one


#: Bytes of a record or digest that are logged from either end
_HEAD = 32


def shown(text: str) -> str:
    """Hexadecimal digits for the log, the middle left out where they are many."""
    return text if len(text) <= 4 * _HEAD else f"{text[: 2 * _HEAD]}...{text[-2 * _HEAD :]}"


@dataclass(frozen=True, slots=True)
class Tlsa:
    """What a TLSA record says (RFC 6698 section 2.1); local trust anchors are written so, too."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex().upper()}"

    @property
    def shown(self) -> str:
        """The same for the log, with the middle of long data left out."""
        return f"{self.usage} {self.selector} {self.matching} {shown(self.data.hex().upper())}"


@dataclass(frozen=True, slots=True)
class External:
    """Where a policy comes from, for reports (RFC 8460): the attributes ``policy_*`` and ``mx_host_pattern``.

    ``kind``: ``sts`` or ``no-policy-found``; ``failure``: why it can't be met, as RFC 8460 names it;
    ``testing``: it is not enforced.
    """

    kind: str
    domain: str = ""
    strings: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    failure: str = ""
    testing: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """How to speak TLS with one destination.  ``ciphers`` is a grade, ``exclude`` a list of words.

    ``match``: names, or ``nexthop``, ``dot-nexthop``, ``hostname``; at the level ``fingerprint`` digests in
    upper-case hexadecimal.  ``anchors``, where there are any, are trusted and nobody else; ``base_domain`` is
    where TLSA records were found.  ``reuse``: the session may carry further messages; None: as main.cf has
    it.
    """

    level: str
    protocols: str = ""
    ciphers: str = ""
    exclude: str = ""
    match: tuple[str, ...] = ()
    servername: str = ""
    anchors: tuple[Tlsa, ...] = ()
    base_domain: str = ""
    external: External | None = None
    reuse: bool | None = None

    @property
    def required(self) -> bool:
        """No mail without TLS."""
        return is_required(self.level)

    @property
    def must_match(self) -> bool:
        """No mail unless the server's certificate matches."""
        return must_match(self.level)

    @property
    def dane(self) -> bool:
        return self.level in DANE_LEVELS


def rank(level: str) -> int:
    """Where a level stands among :data:`LEVELS`."""
    return _RANK[level]


def is_required(level: str) -> bool:
    """Whether mail may not go in the clear at ``level``."""
    return _RANK[level] >= _RANK["encrypt"]


def must_match(level: str) -> bool:
    """Whether the server's certificate must be the right one at ``level``."""
    return _RANK[level] >= _RANK["fingerprint"]


def known_level(word: str) -> str:
    """The level that somebody asks for by ``word``; empty: there is none."""
    level = word.lower()
    return level if level in _RANK and level != "halfdane" else ""


def client_level(p: Parameters) -> str:
    """The level that main.cf asks of all destinations."""
    level = p["smtp_tls_security_level"]
    if not level:
        if p.flag("smtp_enforce_tls"):
            return "verify" if p.flag("smtp_tls_enforce_peername") else "encrypt"
        return "may" if p.flag("smtp_use_tls") else "none"
    found = known_level(level)
    if not found:
        raise ConfigError(
            f'invalid TLS level "{level}"',
            parameter="smtp_tls_security_level",
            remedy=f"use one of {', '.join(each for each in LEVELS if each != 'halfdane')}",
        )
    return found


def fingerprints(words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Digests as configuration has them, in upper-case hexadecimal; and those that are none."""
    good, bad = [], []
    for word in words:
        if _DIGEST.fullmatch(word) and len(word) <= _DIGEST_LIMIT:
            good.append(word.replace(":", "").upper())
        else:
            bad.append(word)
    return good, bad


def cert_match(p: Parameters, level: str) -> tuple[str, ...]:
    """What main.cf wants a server's certificate to match at ``level``."""
    if level == "fingerprint":
        return tuple(fingerprints(p.words("smtp_tls_fingerprint_cert_match"))[0])
    if level in PKIX_LEVELS:
        return tuple(word for word in _SEPARATORS.split(p[f"smtp_tls_{level}_cert_match"]) if word)
    return ()


def main_policy(p: Parameters, level: str | None = None) -> Policy:
    """The policy of main.cf, or what main.cf says for another ``level``; without trust anchors."""
    level = level or client_level(p)
    kind = "mandatory_" if is_required(level) else ""
    exclude = [p["smtp_tls_exclude_ciphers"]]
    if kind:
        exclude.append(p["smtp_tls_mandatory_exclude_ciphers"])
    return Policy(
        level,
        p[f"smtp_tls_{kind}protocols"],
        p[f"smtp_tls_{kind}ciphers"],
        " ".join(filter(None, exclude)),
        cert_match(p, level),
        p["smtp_tls_servername"],
    )
