"""A provider of OAuth tokens for tests: a small HTTP server on 127.0.0.1, in a thread of its own.

It has keys and a key set, tells whether tokens are active, and hands out tokens by the grants of RFC 6749 and
RFC 8628; a refresh token is good once.  Tests look at ``requests``, and set ``down`` and so on.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlencode, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

CLIENT, SECRET = "mtad", "s3:cret/ü"
ISSUER, AUDIENCE = "https://id.example.com", "smtp.example.com"


class Provider:
    """The provider; use it as a context manager."""

    def __init__(self, tls: tuple[str, str] | None = None) -> None:
        """``tls``: files of a certificate for localhost and its key."""
        self.keys: dict[str, tuple[str, Any]] = {}  # by id: algorithm, private key
        self.active: dict[str, dict[str, Any]] = {}  # what introspection tells, by token
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.down: bool | str = False  # a path: that one only
        self.raw: bytes | None = None  # answered to everything
        self.lifetime = 3600
        self.pending = 0  # polls of a device before its user agrees
        self.refresh = {"seed"}  # the refresh tokens that are good
        self.issued: list[str] = []
        self.granted = lambda token: None
        self._codes: dict[str, str] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._serve(self, {})

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                form = parse_qs(self.rfile.read(size).decode(), keep_blank_values=True)
                provider._serve(self, {name: values[0] for name, values in form.items()})

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{self.port}"

    def __enter__(self) -> Provider:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop()

    def stop(self) -> None:
        """Be gone."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # -- keys and tokens

    def add_key(self, id: str, algorithm: str = "ES256") -> None:
        if algorithm.startswith("ES"):
            curve: Any = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}[algorithm]
            self.keys[id] = algorithm, ec.generate_private_key(curve())
        elif algorithm == "EdDSA":
            self.keys[id] = algorithm, ed25519.Ed25519PrivateKey.generate()
        else:
            self.keys[id] = algorithm, rsa.generate_private_key(65537, 2048)

    def jwks(self) -> dict[str, Any]:
        listed = []
        for id, (algorithm, key) in self.keys.items():
            kind: Any = {"E": ECAlgorithm, "R": RSAAlgorithm, "P": RSAAlgorithm}[algorithm[0]]
            kind = OKPAlgorithm if algorithm == "EdDSA" else kind
            listed.append({**json.loads(kind.to_jwk(key.public_key())), "kid": id, "use": "sig"})
        return {"keys": listed}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Good claims; None takes one out."""
        now = int(time.time())
        usual = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "iat": now, "email": "alice@example.com"}
        return {name: value for name, value in {**usual, **changes}.items() if value is not None}

    def sign(self, id: str = "", headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token signed by a key, by default the first."""
        id = id or next(iter(self.keys))
        algorithm, key = self.keys[id]
        return jwt.encode(self.claims(**changes), key, algorithm, {"kid": id, **(headers or {})})

    def count(self, path: str) -> int:
        return sum(1 for asked, _ in self.requests if asked == path)

    def visit(self, url: str) -> None:
        """What a browser does: agree, and come back with a code."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert query["code_challenge_method"] == "S256"
        self._codes["good-code"] = query["code_challenge"]
        back = f"{query['redirect_uri']}?{urlencode({'code': 'good-code', 'state': query['state']})}"
        with urllib.request.urlopen(back, timeout=60) as answer:
            assert answer.status == 200

    # -- the server

    def _serve(self, handler: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        path = urlsplit(handler.path).path
        authorization = handler.headers.get("Authorization", "")
        if authorization.startswith("Basic "):
            pair = base64.b64decode(authorization.removeprefix("Basic ")).decode()
            id, _, secret = pair.partition(":")
            form = {
                **form,
                "client_id": unquote_plus(id),
                "client_secret": unquote_plus(secret),
                "by": "basic",
            }
        self.requests.append((path, form))
        status, members = self._answer(path, form)
        body = self.raw if self.raw is not None else json.dumps(members).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _answer(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if self.down in (True, path):
            return 503, {}
        if path == "/jwks":
            return 200, self.jwks()
        if form.get("client_id") != CLIENT or form.get("client_secret", SECRET) != SECRET:
            return 401, {"error": "invalid_client"}
        if path == "/introspect":
            return 200, self.active.get(form["token"], {"active": False})
        if path == "/device":
            where = "https://id.example.com/device"
            return 200, {
                "device_code": "device-secret", "user_code": "ABCD-EFGH", "verification_uri": where,
                "expires_in": 60, "interval": 1,
            }  # fmt: skip
        if path == "/token":
            return self._token(form)
        return 404, {}

    def _token(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        grant = form["grant_type"]
        if grant == "refresh_token":
            if form["refresh_token"] not in self.refresh:
                return 400, {"error": "invalid_grant", "error_description": "expired or revoked"}
            self.refresh.remove(form["refresh_token"])
        elif grant.endswith(":device_code"):
            assert form["device_code"] == "device-secret"
            if self.pending:
                self.pending -= 1
                return 400, {"error": "authorization_pending"}
        elif grant == "authorization_code":
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            wanted = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if self._codes.pop(form["code"], "") != wanted:
                return 400, {"error": "invalid_grant"}
        elif grant != "client_credentials":
            return 400, {"error": "unsupported_grant_type"}
        token = f"access-{len(self.issued) + 1}"
        self.issued.append(token)
        self.granted(token)
        told: dict[str, Any] = {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime}
        if grant != "client_credentials":
            told["refresh_token"] = f"refresh-{len(self.issued)}"
            self.refresh.add(told["refresh_token"])
        return 200, told
