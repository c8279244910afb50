"""What is asked of a token service: new tokens by each grant, and codes for a device.

:class:`TokenService` speaks for one account.  Raises :class:`OAuthError`, whose ``error`` is the service's
own word where it gave one; its text holds nothing secret.

RFC 6749 sections 4.1.3, 4.4, 5 and 6, RFC 7636 (PKCE), RFC 8628 (device).  Postfix counterpart: none.
"""

from __future__ import annotations

import hashlib
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from mtad.errors import MtadError
from mtad.maillog import printable
from mtad.net.http import HttpAnswer, HttpClient, HttpError, basic
from mtad.oauth.account import Account
from mtad.oauth.state import ACCESS, TokenState

#: Lifetime of a token whose service does not tell it.
USUAL_LIFETIME = 3600.0

_DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


class OAuthError(MtadError):
    """No token.  ``error``: the service's word for it (RFC 6749 section 5.2), or empty."""

    def __init__(self, text: str, error: str = "") -> None:
        super().__init__(text)
        self.error = error


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """What a user has to do elsewhere, and how often to ask whether it was done."""

    where: str
    code: str
    complete: str  # ``where`` with the code in it, or empty
    lifetime: float
    interval: float
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """An authorization that was asked for: ``url`` to visit; ``state`` comes back with the code."""

    url: str
    redirect: str
    state: str
    verifier: str = field(repr=False)


class TokenService:
    """The token service of one account."""

    def __init__(self, account: Account, http: HttpClient, clock: Callable[[], float]) -> None:
        self.account = account
        self._http = http
        self._clock = clock

    async def renew(self, refresh: str) -> TokenState:
        """Tokens by a refresh token, or by the client's own right."""
        form = {"grant_type": "refresh_token", "refresh_token": refresh}
        if self.account.grant == "client_credentials":
            form = {"grant_type": "client_credentials"}
            if self.account.scope:
                form["scope"] = self.account.scope
        return await self._token(form, refresh)

    async def device(self) -> DeviceCode:
        """Codes for a device."""
        url = self.account.device_endpoint
        if not url:
            raise OAuthError(f"{self.account.path} has no device_endpoint")
        answer = await self._post(url, {"scope": self.account.scope} if self.account.scope else {})
        members = answer.json()
        names = ("verification_uri", "verification_url", "user_code", "device_code")
        texts = [members[name] for name in names if isinstance(members.get(name), str)]
        if len(texts) != 3:
            raise OAuthError(f"{answer.where} answered without codes")
        complete = members.get("verification_uri_complete")
        return DeviceCode(
            printable(texts[0]),
            printable(texts[1]),
            printable(complete) if isinstance(complete, str) else "",
            _seconds(members.get("expires_in"), 1800.0),
            max(1.0, _seconds(members.get("interval"), 5.0)),
            texts[2],
        )

    async def device_token(self, code: DeviceCode) -> TokenState:
        """The tokens of a device; until its user has agreed, the error is ``authorization_pending``."""
        return await self._token({"grant_type": _DEVICE_GRANT, "device_code": code.secret})

    def request(self, redirect: str) -> Request:
        """An authorization to ask a user for."""
        account = self.account
        if not account.authorization_endpoint:
            raise OAuthError(f"{account.path} has no authorization_endpoint")
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(18)
        challenge = urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": account.client_id,
            "redirect_uri": redirect,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        if account.scope:
            query["scope"] = account.scope
        further = f"&{account.authorization_parameters}" if account.authorization_parameters else ""
        join = "&" if "?" in account.authorization_endpoint else "?"
        url = f"{account.authorization_endpoint}{join}{urlencode(query)}{further}"
        return Request(url, redirect, state, verifier)

    async def exchange(self, request: Request, code: str) -> TokenState:
        """The tokens for the code that came back."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": request.redirect,
            "code_verifier": request.verifier,
        }
        return await self._token(form)

    async def _token(self, form: Mapping[str, str], refresh: str = "") -> TokenState:
        answer = await self._post(self.account.token_endpoint, form)
        members = answer.json()
        access = members.get("access_token")
        if not isinstance(access, str) or ACCESS.fullmatch(access) is None:
            raise OAuthError(f"{answer.where} answered without an access token")
        kind = members.get("token_type", "bearer")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise OAuthError(f"{answer.where} gave a token that is no bearer token")
        now = self._clock()
        ends = now + _seconds(members.get("expires_in"), USUAL_LIFETIME)
        new = members.get("refresh_token")
        kept = new if isinstance(new, str) and new else refresh
        return TokenState(self.account.digest, now, ends, access, kept)

    async def _post(self, url: str, form: Mapping[str, str]) -> HttpAnswer:
        """The answer, if it is none of the errors."""
        account, authorization, sent = self.account, "", dict(form)
        if account.client_secret and account.client_auth == "basic":
            authorization = basic(account.client_id, account.client_secret)
        else:
            sent["client_id"] = account.client_id
            if account.client_secret:
                sent["client_secret"] = account.client_secret
        try:
            answer = await self._http.post(url, sent, authorization)
            if answer.status == 200:
                answer.json()
                return answer
        except HttpError as problem:
            raise OAuthError(str(problem)) from problem
        raise _refusal(answer)


def _refusal(answer: HttpAnswer) -> OAuthError:
    try:
        members = answer.json()
    except HttpError:
        members = {}
    error, description = members.get("error"), members.get("error_description")
    if not isinstance(error, str) or not error:
        return OAuthError(f"{answer.where} answered {answer.status}")
    text = f"{answer.where} said {printable(error)[:80]}"
    if isinstance(description, str) and description:
        text += f": {printable(' '.join(description.split()))[:200]}"
    return OAuthError(text, error)


def _seconds(value: Any, usual: float) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return usual
    return min(found, 10 * 365 * 86400.0) if found > 0 else usual
