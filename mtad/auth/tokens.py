"""Bearer tokens: what a back end for them promises, and what a genuine token has to say about itself.

:class:`Claims` judges who made a token, for whom, when it ends, what it permits, and whom it names; it raises
:class:`BadToken`, whose text never holds the token.

RFC 7519 section 4.1, RFC 7662 section 2.2 (claims), RFC 9068 section 4, RFC 6750 section 3.1 (status).
Postfix counterpart: none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mtad.maillog import printable
from mtad.sasl.mechanism import TokenVerdict


class BadToken(Exception):
    """A token that is not good.  The text is for the log, ``status`` for the client."""

    def __init__(self, reason: str, status: str = "invalid_token") -> None:
        super().__init__(reason)
        self.status = status


class TokenVerifier(Protocol):
    """A back end that can tell what a bearer token is worth."""

    name: str

    async def verify(self, token: bytes) -> TokenVerdict:
        """The verdict on ``token``.  Logs why when it is not good or nobody can tell; never raises."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What is demanded.  ``audiences`` and ``scopes`` empty, ``issuer`` empty: anything will do.

    ``whole``: a token must say all that is demanded itself, and when it ends; else only what contradicts is
    an error, but for the audience and the scope.
    """

    issuer: str
    audiences: frozenset[str]
    scopes: frozenset[str]
    username: str
    skew: float
    whole: bool

    def user(self, members: Mapping[str, Any], now: float) -> bytes:
        """Whom the token names; raises :class:`BadToken`."""
        self._times(members, now)
        issuer = members.get("iss")
        if self.issuer and issuer != self.issuer and (self.whole or issuer is not None):
            raise BadToken(f"issued by {_shown(issuer)}, not by {self.issuer}")
        if self.audiences and not self.audiences & _words(members.get("aud"), split=False):
            raise BadToken(
                f"made for {_shown(members.get('aud'))}, not for {' '.join(sorted(self.audiences))}"
            )
        granted = _words(members.get("scope"), split=True) | _words(members.get("scp"), split=True)
        if not self.scopes <= granted:
            raise BadToken(f"no scope {' '.join(sorted(self.scopes - granted))}", "insufficient_scope")
        return self._named(members)

    def end(self, members: Mapping[str, Any]) -> float:
        """When a token ends that is good now."""
        end = _date(members, "exp")
        return math.inf if end is None else end + self.skew

    def _times(self, members: Mapping[str, Any], now: float) -> None:
        end, begin = _date(members, "exp"), _date(members, "nbf")
        if end is None and self.whole:
            raise BadToken("it has no end (exp)")
        if end is not None and now >= end + self.skew:
            raise BadToken(f"expired {now - end:.0f} seconds ago")
        if begin is not None and now < begin - self.skew:
            raise BadToken(f"valid in {begin - now:.0f} seconds (nbf)")

    def _named(self, members: Mapping[str, Any]) -> bytes:
        user = members.get(self.username)
        if not isinstance(user, str) or not user.strip():
            present = " ".join(sorted(name for name in members if isinstance(members[name], str)))
            raise BadToken(f"no user name: it has no {self.username} (but {printable(present)[:200]})")
        if user != printable(user) or len(user) > 1024:
            raise BadToken(f"its {self.username} can not be a user name")
        if self.username == "email" and members.get("email_verified") in (False, "false"):
            raise BadToken(f"its provider has not verified the address {user}")
        return user.encode()


def _date(members: Mapping[str, Any], name: str) -> float | None:
    value = members.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 53:
        raise BadToken(f"malformed {name}")
    return float(value)


def _words(value: object, split: bool) -> frozenset[str]:
    if isinstance(value, str):
        return frozenset(value.split() if split else (value,))
    if isinstance(value, list):
        return frozenset(word for word in value if isinstance(word, str))
    return frozenset()


def _shown(value: object) -> str:
    return "nobody it names" if value is None else printable(str(value))[:200]
