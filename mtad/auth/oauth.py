"""``mtad_oauth_*``: by whom and how bearer tokens are checked.

:func:`read_tokens` gives the verifier that ``mtad_oauth_jwks`` or ``mtad_oauth_introspection_url`` asks for,
None without either, and raises ConfigError.  It asks no server: that is done when the first token comes.

RFC 8414 section 3 (where a provider describes itself).  Postfix counterpart: none.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

from mtad.auth.introspection import ClientLogin, Introspection
from mtad.auth.jwks import FileKeys, KeySource, RemoteKeys
from mtad.auth.token_jwt import JwtTokens
from mtad.auth.tokens import Claims, TokenVerifier
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import MailLog
from mtad.net.http import HttpClient, url_problem
from mtad.sasl.mechanism import Reason, TokenVerdict

_JWKS, _ASKED = "mtad_oauth_jwks", "mtad_oauth_introspection_url"


def read_tokens(p: Parameters, reactor: Any, log: MailLog) -> TokenVerifier | None:
    """The verifier of bearer tokens, if there is to be one."""
    jwks, url = p[_JWKS], p[_ASKED]
    if jwks and url:
        raise p.error(_ASKED, "tokens are checked by mtad_oauth_jwks already", "set one of the two")
    if not jwks and not url:
        return None
    claims = Claims(
        issuer=p["mtad_oauth_issuer"],
        audiences=frozenset(p.words("mtad_oauth_audience")),
        scopes=frozenset(p.words("mtad_oauth_scope")),
        username=p["mtad_oauth_username_claim"],
        skew=p.seconds("mtad_oauth_clock_skew"),
        whole=bool(jwks),
    )
    issuer = claims.issuer.rstrip("/")
    refusal = TokenVerdict(
        failure=Reason.BADAUTH,
        scope=" ".join(p.words("mtad_oauth_scope")),
        configuration=f"{issuer}/.well-known/openid-configuration" if issuer.startswith("https://") else "",
    )
    if url:
        return _introspection(p, url, claims, refusal, reactor, log)
    for name, why in (("issuer", "any provider's"), ("audience", "any other service's")):
        if not p[f"mtad_oauth_{name}"]:
            raise p.error(
                f"mtad_oauth_{name}", f"not set, so {why} tokens would do", f"set it to the tokens' {name}"
            )
    if find_spec("jwt") is None:
        raise p.error(_JWKS, "PyJWT is not installed", "pip install 'mtad[oauth]'")
    keys = _keys(p, jwks, reactor, log)
    return JwtTokens(keys, p.words("mtad_oauth_algorithms"), claims, refusal, log, time.time)


def _keys(p: Parameters, jwks: str, reactor: Any, log: MailLog) -> KeySource:
    path = jwks.removeprefix("file:")
    if path.startswith("/"):
        try:
            return FileKeys(path, log)
        except ConfigError as error:
            raise p.error(_JWKS, f"{path}: {error.reason}") from error
    if problem := url_problem(jwks):
        raise p.error(_JWKS, problem, "specify file:/path or an https: URL")
    return RemoteKeys(jwks, HttpClient.build(p, reactor), p.seconds("mtad_oauth_jwks_time"), log, time.time)


def _introspection(
    p: Parameters, url: str, claims: Claims, refusal: TokenVerdict, reactor: Any, log: MailLog
) -> TokenVerifier:
    if problem := url_problem(url):
        raise p.error(_ASKED, problem, "specify an https: URL")
    method, id = p.choice("mtad_oauth_client_auth"), p["mtad_oauth_client_id"]
    path = p["mtad_oauth_client_secret_file"]
    if path and not id:
        raise p.error("mtad_oauth_client_id", "not set, though there is a secret for it")
    login = ClientLogin(method, id, _secret(p, path) if path else "")
    keep = p.seconds("mtad_oauth_cache_time")
    return Introspection(url, HttpClient.build(p, reactor), login, claims, refusal, keep, log, time.time)


def _secret(p: Parameters, path: str) -> str:
    """The first line of the secret's file."""
    name = "mtad_oauth_client_secret_file"
    try:
        with open(path, encoding="utf-8") as file:
            secret = file.readline(4096).strip()
    except OSError as problem:
        raise p.error(name, f"{path}: {problem.strerror}") from problem
    except UnicodeDecodeError:
        secret = ""
    if not secret:
        raise p.error(name, f"{path}: no secret in its first line")
    return secret
