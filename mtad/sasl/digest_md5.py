"""DIGEST-MD5: both sides, for authentication only (qop ``auth``).

The server asks for its own realm, but takes the client's: then the user is ``name@realm``.  It proves itself
by ``rspauth``.  Nobody is remembered for a fast re-authentication; the nonce count must be 1.
The client proves that it knows the password, and that the server does.

Both raise :class:`~mtad.sasl.mechanism.SaslFailure`, with libsasl's notes.
RFC 2831.  Postfix counterpart: ``digestmd5.c`` of ``libsasl``.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Generator, Iterator

from mtad.sasl.encoding import encode
from mtad.sasl.mechanism import (
    Property,
    Proven,
    Reason,
    SaslFailure,
    ServerContext,
    ServerMechanism,
    Steps,
    challenge,
    need_secret,
)

#: Longest challenge and longest response that are looked at (RFC 2831 sections 2.1.1, 2.1.2).
CHALLENGE_LIMIT = 2048
RESPONSE_LIMIT = 4096

_TOKEN = rb"[!#$%&*+\-.0-9A-Z^_`a-z|~]+"
_VALUE = rb"(?!\")[^\x00-\x20\x7f-\xff()<>@,;:\\'/\[\]?={}]*"
_PAIR = re.compile(
    rb"[\s,]*(%b)\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|(%b))\s*(?:,|\Z)" % (_TOKEN, _VALUE),
    re.DOTALL,
)
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_NUMBER = re.compile(rb"\s*\+?([0-9]{1,10})")

#: What may be there once only.
_ONCE = {b"realm": Reason.FAIL, b"qop": Reason.FAIL, b"digest-uri": Reason.FAIL, b"maxbuf": Reason.BADAUTH}


def parse(message: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of a message, names in lower case; raises ``ValueError`` where there is none."""
    position = 0
    while message[position:].strip(b" \t\r\n,"):
        if message[position:].lstrip(b" \t\r\n,").startswith(b"="):
            break  # libsasl takes a pair without a name for the end
        match = _PAIR.match(message, position)
        if match is None:
            raise ValueError("pair")
        value = match[3] if match[2] is None else _ESCAPED.sub(rb"\1", match[2])
        yield match[1].lower(), value
        position = match.end()


def _check_maxbuf(value: bytes) -> None:
    number = _NUMBER.fullmatch(value)
    if number is None:
        raise SaslFailure(Reason.BADAUTH, "invalid maxbuf parameter")
    if int(number[1]) <= 16:
        raise SaslFailure(Reason.BADAUTH, "maxbuf parameter too small")


def quote(value: bytes) -> bytes:
    """A value as a quoted string (RFC 2831 section 7.2)."""
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def _latin(text: bytes) -> bytes:
    """UTF-8 that fits ISO 8859-1 is hashed as that (RFC 2831 section 2.1.2.1)."""
    try:
        return text.decode().encode("latin-1")
    except UnicodeError:
        return text


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _hex(data: bytes) -> bytes:
    return _md5(data).hex().encode()


def secrets_of(user: bytes, realm: bytes, password: bytes) -> tuple[bytes, ...]:
    """What the user's password may be hashed to: by the letter of the RFC, then without its conversion."""
    by_letter = _md5(b"%b:%b:%b" % (_latin(user), _latin(realm), _latin(password)))
    plainly = _md5(b"%b:%b:%b" % (user, realm, password))
    return (by_letter,) if by_letter == plainly else (by_letter, plainly)


def digests(
    secret: bytes, nonce: bytes, cnonce: bytes, count: bytes, uri: bytes, authzid: bytes | None
) -> tuple[bytes, bytes]:
    """The client's response and the server's ``rspauth`` (RFC 2831 sections 2.1.2.1, 2.1.3)."""
    start = b"%b:%b:%b" % (secret, nonce, cnonce)
    key = _hex(start if authzid is None else start + b":" + authzid)
    middle = b"%b:%b:%b:auth:" % (nonce, count, cnonce)
    response = _hex(b"%b:%b%b" % (key, middle, _hex(b"AUTHENTICATE:" + uri)))
    return response, _hex(b"%b:%b%b" % (key, middle, _hex(b":" + uri)))


# -- server


def _checked(message: bytes, service: bytes) -> dict[bytes, bytes]:
    """The client's message, well-formed."""
    if not message:
        raise SaslFailure(Reason.BADAUTH, "input expected in DIGEST-MD5, step 2")
    found: dict[bytes, bytes] = {}
    try:
        if len(message) > RESPONSE_LIMIT or b"\0" in message:
            raise ValueError("response")
        for name, value in parse(message):
            if name in found and name in _ONCE:
                raise SaslFailure(_ONCE[name], f"duplicate {name.decode()}: authentication aborted")
            _check(name, value, service)
            found[name] = value
    except ValueError:
        raise SaslFailure(Reason.BADAUTH, "Parse error") from None
    for name, title in (
        (b"username", "username"), (b"nonce", "nonce"), (b"nc", "noncecount"), (b"cnonce", "cnonce"),
        (b"digest-uri", "digesturi"), (b"response", "response"),
    ):  # fmt: skip
        if name not in found or (name == b"nc" and not int(found[name] or b"0", 16)):
            raise SaslFailure(Reason.BADAUTH, f"required parameters missing: {title}")
    return found


def _check(name: bytes, value: bytes, service: bytes) -> None:
    """That a value can be right."""
    if name == b"charset" and value.lower() != b"utf-8":
        raise SaslFailure(Reason.FAIL, "client doesn't support UTF-8")
    if name == b"nc" and re.fullmatch(rb"[0-9A-Fa-f]*", value) is None:
        raise SaslFailure(Reason.BADAUTH, "error converting hex to int")
    if name == b"digest-uri" and not value.lower().startswith(service.lower() + b"/"):
        raise SaslFailure(Reason.BADAUTH, "bad digest-uri: doesn't match service")
    if name == b"maxbuf":
        _check_maxbuf(value)


def _server(context: ServerContext, initial: bytes | None) -> Steps:
    nonce = encode(hashlib.sha256(context.unique()).digest())
    realm = context.realm or context.hostname
    asked = b'nonce=%b,realm=%b,qop="auth",charset=utf-8,algorithm=md5-sess' % (quote(nonce), quote(realm))
    found = _checked((yield from challenge(asked)), context.service)
    their_realm, user = found.get(b"realm", b""), found[b"username"]
    if not hmac.compare_digest(found[b"nonce"], nonce):
        raise SaslFailure(Reason.BADAUTH, "nonce changed: authentication aborted")
    name = user if their_realm in (b"", realm) else b"%b@%b" % (user, their_realm)
    authzid = found.get(b"authzid")
    secrets = yield from need_secret(name, "userPassword", "cmusaslsecretDIGEST-MD5", authzid=authzid or b"")
    if not secrets:
        raise SaslFailure(Reason.BADAUTH, "unable to canonify user and get auxprops")
    password = secrets.get("userPassword")
    if password == b"":
        raise SaslFailure(Reason.FAIL, "empty secret")
    if password is None:
        possible: tuple[bytes, ...] = (secrets["cmusaslsecretDIGEST-MD5"][:16],)
    else:
        possible = secrets_of(user, their_realm, password)
    if found.get(b"qop", b"auth").lower() != b"auth":
        raise SaslFailure(Reason.FAIL, "protocol violation: client requested invalid qop")
    count = b"%08x" % (int(found[b"nc"], 16) & 0xFFFFFFFF)
    for secret in possible:
        right, answer = digests(secret, nonce, found[b"cnonce"], count, found[b"digest-uri"], authzid)
        if hmac.compare_digest(right, found[b"response"]):
            break
    else:
        note = "client response doesn't match what we generated (tried bogus)"
        raise SaslFailure(Reason.BADAUTH, note)
    if count != b"00000001":
        raise SaslFailure(Reason.BADAUTH, "incorrect nonce-count")
    return Proven(name, authzid or name, final=b"rspauth=" + answer)


MECHANISM = ServerMechanism(
    b"DIGEST-MD5", Property.NOPLAINTEXT | Property.NOANONYMOUS | Property.MUTUAL_AUTH, _server, by_secret=True
)


# -- client


def _offer(message: bytes) -> dict[bytes, list[bytes]]:
    """The server's message, if we can go by it."""
    if not message:
        raise SaslFailure(Reason.FAIL, "no server challenge")
    offer: dict[bytes, list[bytes]] = {}
    try:
        if len(message) > CHALLENGE_LIMIT:
            raise ValueError("challenge")
        for name, value in parse(message):
            if name == b"charset" and value.lower() != b"utf-8":
                raise SaslFailure(Reason.BADAUTH, "Charset must be UTF-8")
            if name == b"maxbuf":
                _check_maxbuf(value)
            if name == b"algorithm" and value.lower() != b"md5-sess":
                raise SaslFailure(Reason.FAIL, "'algorithm' isn't 'md5-sess'")
            if name in offer and name in (b"algorithm", b"maxbuf"):
                reason = Reason.FAIL if name == b"algorithm" else Reason.BADAUTH
                raise SaslFailure(reason, f"Must see '{name.decode()}' only once")
            offer.setdefault(name, []).append(value)
    except ValueError:
        raise SaslFailure(Reason.BADAUTH, "Parse error") from None
    qops = {word.strip().lower() for value in offer.get(b"qop", [b"auth"]) for word in value.split(b",")}
    if not qops & {b"auth", b"auth-int", b"auth-conf"}:
        raise SaslFailure(Reason.BADAUTH, "Server doesn't support any known qop level")
    if b"algorithm" not in offer:
        raise SaslFailure(Reason.FAIL, "Must see 'algorithm' once")
    if len(offer.get(b"nonce", ())) != 1 or not offer[b"nonce"][0]:
        raise SaslFailure(Reason.FAIL, "Don't support multiple or missing nonces")
    if b"auth" not in qops:
        raise SaslFailure(Reason.FAIL, 'Server doesn\'t support "no layer"')
    return offer


def client(
    user: bytes, password: bytes, authzid: bytes, host: bytes, unique: Callable[[], bytes]
) -> Generator[bytes | None, bytes, bytes]:
    """The responses of a client (see :mod:`mtad.sasl.client`).

    The realm is the server's; its name, where it has none or leaves the choice.
    """
    offer = _offer((yield None))
    realms = offer.get(b"realm", ())
    realm = realms[0] if len(realms) == 1 else host
    nonce, cnonce, uri = offer[b"nonce"][0], encode(hashlib.sha256(unique()).digest()[:24]), b"smtp/" + host
    secret = secrets_of(user, realm, password)[0 if b"charset" in offer else -1]
    response, expected = digests(secret, nonce, cnonce, b"00000001", uri, authzid or None)
    parts = [b"username=" + quote(user), b"realm=" + quote(realm)]
    parts += [b"nonce=" + quote(nonce), b"cnonce=" + quote(cnonce), b"nc=00000001", b"qop=auth"]
    if b"charset" in offer:
        parts.append(b"charset=utf-8")
    parts += [b"digest-uri=" + quote(uri), b"response=" + response]
    if authzid:
        parts.append(b"authzid=" + quote(authzid))
    final = yield b",".join(parts)
    if len(final) > CHALLENGE_LIMIT or not hmac.compare_digest(final, b"rspauth=" + expected):
        raise SaslFailure(
            Reason.BADSERV, "DIGEST-MD5: This server wants us to believe that he knows shared secret"
        )
    return b""
