"""Bearer tokens that the provider itself is asked about.

What it said is remembered for ``mtad_oauth_cache_time``, under a digest of the token; the same token is asked
about once at a time, and at most :data:`CONCURRENCY` tokens are.

RFC 7662; RFC 6749 section 2.3.1 (client authentication).  Postfix counterpart: none.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from mtad.auth.tokens import BadToken, Claims
from mtad.maillog import MailLog
from mtad.net.http import HttpAnswer, HttpClient, HttpError, basic
from mtad.net.shared import SharedWork
from mtad.sasl.mechanism import Reason, TokenVerdict

#: Tokens asked about at once, and tokens remembered.
CONCURRENCY = 64
CACHE_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class ClientLogin:
    """How we are known to the provider.  ``method``: ``basic`` or ``post``."""

    method: str
    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Known:
    """A verdict, why, and until when it holds."""

    verdict: TokenVerdict
    why: str
    until: float


class Introspection:
    """``mtad_oauth_introspection_url``.  ``refusal`` is the verdict on a token that is not good."""

    name = "introspection"

    def __init__(
        self,
        url: str,
        http: HttpClient,
        login: ClientLogin,
        claims: Claims,
        refusal: TokenVerdict,
        keep: float,
        log: MailLog,
        clock: Callable[[], float],
    ) -> None:
        self._url = url
        self._http = http
        self._login = login
        self._claims = claims
        self._refusal = refusal
        self._keep = keep
        self._log = log
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, SharedWork[_Known]] = {}

    async def verify(self, token: bytes) -> TokenVerdict:
        digest = hashlib.sha256(token).digest()
        known = self._known.get(digest)
        try:
            if known is None or known.until <= self._clock():
                known = await self._find(digest, token)
        except HttpError as problem:
            self._log.warning(f"SASL authentication failure: bearer token not checked: {problem}")
            return TokenVerdict(failure=Reason.UNAVAIL)
        if known.why:
            self._log.warning(f"SASL authentication failure: bearer token refused: {known.why}")
        return known.verdict

    async def _find(self, digest: bytes, token: bytes) -> _Known:
        if not token:
            return _Known(self._refusal, "there is none", 0.0)
        asking = self._asking.get(digest)
        if asking is None:
            if len(self._asking) >= CONCURRENCY:
                raise HttpError(f"{CONCURRENCY} other tokens are being asked about")
            asking = self._asking[digest] = SharedWork(partial(self._ask, digest, token.decode("ascii")))
        return await asking()

    async def _ask(self, digest: bytes, token: str) -> _Known:
        login = self._login
        form = {"token": token, "token_type_hint": "access_token"}
        authorization = ""
        if login.method == "post":
            form |= {"client_id": login.id, "client_secret": login.secret}
        elif login.id:
            authorization = basic(login.id, login.secret)
        try:
            known = self._judge(await self._http.post(self._url, form, authorization))
        finally:
            del self._asking[digest]
        if self._keep:
            self._known[digest] = known
            self._known.move_to_end(digest)
            if len(self._known) > CACHE_LIMIT:
                self._known.popitem(last=False)
        return known

    def _judge(self, answer: HttpAnswer) -> _Known:
        """What an answer means; raises :class:`HttpError` when it is none."""
        if answer.status != 200:
            hint = " (is mtad_oauth_client_secret_file right?)" if answer.status in (400, 401, 403) else ""
            raise HttpError(f"{answer.where} answered {answer.status}{hint}")
        members = answer.json()
        now = self._clock()
        until = now + self._keep
        try:
            if members.get("active") is not True:
                raise BadToken("its provider says that it is not active")
            verdict = TokenVerdict(self._claims.user(members, now))
        except BadToken as bad:
            return _Known(replace(self._refusal, status=bad.status), str(bad), until)
        return _Known(verdict, "", min(until, self._claims.end(members)))
