"""Bearer tokens that are signed JSON Web Tokens, checked here by the provider's keys.

A token is good when an allowed algorithm and one of the keys verify its signature and
:class:`~mtad.auth.tokens.Claims` accepts what it says.  Nothing in a token is believed before.

RFC 7515, RFC 7519, RFC 8725.  Postfix counterpart: none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mtad.auth.jwks import Key, KeySource
from mtad.auth.tokens import BadToken, Claims
from mtad.maillog import MailLog, printable
from mtad.net.http import HttpError
from mtad.sasl.mechanism import Reason, TokenVerdict


class JwtTokens:
    """``mtad_oauth_jwks``.  ``refusal`` is the verdict on a token that is not good."""

    name = "jwks"

    def __init__(
        self,
        keys: KeySource,
        algorithms: Sequence[str],
        claims: Claims,
        refusal: TokenVerdict,
        log: MailLog,
        clock: Callable[[], float],
    ) -> None:
        from jwt import PyJWS

        self._keys = keys
        self._jws = PyJWS(algorithms=list(algorithms))
        self._algorithms = frozenset(algorithms)
        self._claims = claims
        self._refusal = refusal
        self._log = log
        self._clock = clock

    async def verify(self, token: bytes) -> TokenVerdict:
        try:
            return TokenVerdict(self._claims.user(await self._read(token), self._clock()))
        except BadToken as bad:
            self._log.warning(f"SASL authentication failure: bearer token refused: {bad}")
            return replace(self._refusal, status=bad.status)
        except HttpError as problem:
            self._log.warning(f"SASL authentication failure: bearer token not checked: {problem}")
            return TokenVerdict(failure=Reason.UNAVAIL)

    async def _read(self, token: bytes) -> Mapping[str, Any]:
        """What a token says whose signature is right."""
        from jwt.exceptions import PyJWTError

        try:
            header = self._jws.get_unverified_header(token)
        except (PyJWTError, RecursionError):  # not all versions know the latter for their own
            raise BadToken("not a signed JSON Web Token") from None
        algorithm, id = header.get("alg"), header.get("kid", "")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise BadToken(f"algorithm {printable(str(algorithm))[:40]} is not allowed")
        if not isinstance(id, str) or "crit" in header:
            raise BadToken("its header is not understood")
        payload = self._verified(token, algorithm, await self._keys.find(id, algorithm), id)
        try:
            members = json.loads(payload)
        except (ValueError, RecursionError):
            members = None
        if not isinstance(members, dict):
            raise BadToken("no claims in it")
        return members

    def _verified(self, token: bytes, algorithm: str, keys: Sequence[Key], id: str) -> bytes:
        from jwt.exceptions import PyJWTError

        if not keys:
            raise BadToken(f"no {algorithm} key {printable(id)[:80]} in the key set")
        for key in keys:
            try:
                payload: bytes = self._jws.decode(token, key.material, algorithms=[algorithm])
            except (PyJWTError, ValueError, TypeError):
                continue
            return payload
        raise BadToken("its signature is wrong")
