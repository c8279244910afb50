"""Bearer tokens in SASL: OAUTHBEARER and XOAUTH2, server and client side.

Server: :data:`MECHANISMS` ask (by ``CheckToken``) what a token is worth.  Of one that is not good, the client
is told in JSON why; whatever it answers to that, it then fails.  Client: :func:`choose` picks the mechanism;
what a server's error says is the exchange's ``told``.  Both raise
:class:`~mtad.sasl.mechanism.SaslFailure`.

A token is as good as a password to whoever sees it, so these mechanisms are for connections with TLS only.

RFC 7628 (OAUTHBEARER), RFC 5801 section 4 (GS2 header), RFC 6750 section 2.1 (tokens); XOAUTH2 as Google and
Microsoft describe it.  Postfix counterpart: plug-ins of ``libsasl`` by third parties.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable

from mtad.sasl.client import Client
from mtad.sasl.mechanism import (
    Answer,
    Property,
    Proven,
    Reason,
    Request,
    SaslFailure,
    ServerContext,
    ServerMechanism,
    Steps,
    TokenVerdict,
    challenge,
    check_token,
    parse_options,
)

#: Longest token and longest name.
TOKEN_LIMIT = 8192
NAME_LIMIT = 1024

#: Most of a server's error that is looked at.
_ERROR_LIMIT = 4096

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_PAIR = re.compile(rb"([A-Za-z]+)=([\x20-\x7e\t\r\n]*)")
_NAME = re.compile(rb"(?:[^=,\0]|=2C|=3D)+")

_PROPERTIES = Property.NOPLAINTEXT | Property.NOANONYMOUS


def parse_oauthbearer(message: bytes) -> tuple[bytes, bytes]:
    """(name or nothing, token or nothing) of an initial client response (RFC 7628 section 3.1)."""
    header, separator, rest = message.partition(b"\1")
    parts = header.split(b",")
    if not separator or len(parts) != 3 or parts[2]:
        raise SaslFailure(Reason.BADPROT, "OAUTHBEARER: no GS2 header")
    if parts[0] not in (b"n", b"y"):
        raise SaslFailure(Reason.BADPROT, "OAUTHBEARER: channel binding is not possible")
    return _authzid(parts[1]), _authorization(rest, "OAUTHBEARER")


def parse_xoauth2(message: bytes) -> tuple[bytes, bytes]:
    """(name, token or nothing) of an initial client response."""
    head, separator, rest = message.partition(b"\1")
    if not separator or not head.startswith(b"user=") or len(head) == len(b"user="):
        raise SaslFailure(Reason.BADPROT, "XOAUTH2: no user")
    return _name(head.removeprefix(b"user=")), _authorization(rest, "XOAUTH2")


def _authzid(part: bytes) -> bytes:
    if not part:
        return b""
    if not part.startswith(b"a=") or not _NAME.fullmatch(part, 2):
        raise SaslFailure(Reason.BADPROT, "OAUTHBEARER: malformed authorization identity")
    return _name(part[2:].replace(b"=2C", b",").replace(b"=3D", b"="))


def _name(name: bytes) -> bytes:
    try:
        name.decode()
    except UnicodeDecodeError:
        raise SaslFailure(Reason.BADPROT, "user name is not UTF-8") from None
    if len(name) > NAME_LIMIT:
        raise SaslFailure(Reason.BUFOVER)
    return name


def _authorization(data: bytes, mechanism: str) -> bytes:
    """The token of the one ``auth`` pair; empty where the client only wants to hear the error."""
    if not data.endswith(b"\1\1"):
        raise SaslFailure(Reason.BADPROT, f"{mechanism}: message does not end as it should")
    found = []
    for pair in data[:-2].split(b"\1"):
        match = _PAIR.fullmatch(pair)
        if match is None:
            raise SaslFailure(Reason.BADPROT, f"{mechanism}: malformed key and value")
        if match[1].lower() == b"auth":
            found.append(match[2])
    if len(found) != 1:
        raise SaslFailure(Reason.BADPROT, f"{mechanism}: not exactly one authorization")
    scheme, _, token = found[0].partition(b" ")
    token = token.strip(b" ")
    if not scheme and not token:
        return b""
    if scheme.lower() != b"bearer" or not _TOKEN.fullmatch(token):
        raise SaslFailure(Reason.BADPROT, f"{mechanism}: no bearer token")
    if len(token) > TOKEN_LIMIT:
        raise SaslFailure(Reason.BUFOVER, f"{mechanism}: token too long")
    return token


def _finish(user: bytes, token: bytes, google: bool) -> Generator[Request, Answer, Proven]:
    """Have the token looked at; tell the client why it is not good, and fail."""
    verdict = yield from check_token(user, token)
    if verdict.failure is not None:
        if not verdict.failure.temporary:
            yield from challenge(_error(verdict, google))
        raise SaslFailure(verdict.failure)
    # names differ in case only where a client's user typed what the provider spells otherwise
    same = not user or user.lower() == verdict.user.lower()
    return Proven(verdict.user, verdict.user if same else user)


def _error(verdict: TokenVerdict, google: bool) -> bytes:
    """RFC 7628 section 3.2.2; the members that Google gives in XOAUTH2."""
    told = {"status": "401" if google else verdict.status}
    if google:
        told["schemes"] = "bearer"
    if verdict.scope:
        told["scope"] = verdict.scope
    if verdict.configuration and not google:
        told["openid-configuration"] = verdict.configuration
    return json.dumps(told, separators=(",", ":")).encode()


def _server_oauthbearer(context: ServerContext, initial: bytes | None) -> Steps:
    message = (yield from challenge(b"")) if initial is None else initial
    user, token = parse_oauthbearer(message)
    return (yield from _finish(user, token, google=False))


def _server_xoauth2(context: ServerContext, initial: bytes | None) -> Steps:
    message = (yield from challenge(b"")) if initial is None else initial
    user, token = parse_xoauth2(message)
    return (yield from _finish(user, token, google=True))


#: The server's mechanisms, for where somebody can tell what a token is worth.
MECHANISMS: tuple[ServerMechanism, ...] = (
    ServerMechanism(b"OAUTHBEARER", _PROPERTIES, _server_oauthbearer, for_tls=True),
    ServerMechanism(b"XOAUTH2", _PROPERTIES, _server_xoauth2, for_tls=True),
)


def _client(message: bytes, dummy: bytes, told: list[str]) -> Generator[bytes | None, bytes, None]:
    error = yield message
    told.append(_told(error))
    yield dummy


def _told(error: bytes) -> str:
    """What a server's error says, for the log."""
    try:
        members = json.loads(error[:_ERROR_LIMIT])
    except (ValueError, RecursionError):
        return ""
    return str(members.get("status", ""))[:100] if isinstance(members, dict) else ""


class BearerClient(Client):
    """One exchange by a token.  ``told``: the status of the server's error, if there was one."""

    __slots__ = ("_told",)

    def __init__(self, name: bytes, message: bytes, dummy: bytes) -> None:
        self._told: list[str] = []
        super().__init__(name, _client(message, dummy, self._told))

    @property
    def told(self) -> str:
        return "".join(self._told)


def choose(
    server_mechanisms: Iterable[bytes], options: Iterable[str], user: bytes, token: bytes
) -> BearerClient:
    """The exchange by which ``user`` logs in with ``token``; raises :class:`SaslFailure` when none fits."""
    wanted = parse_options(options)
    offered = {name.upper() for name in server_mechanisms}
    if wanted & ~_PROPERTIES or not offered & {b"OAUTHBEARER", b"XOAUTH2"}:
        raise SaslFailure(Reason.NOMECH, "No worthy mechs found for a token")
    if not user or b"\0" in user or b"\1" in user or not _TOKEN.fullmatch(token):
        raise SaslFailure(Reason.BADPARAM)
    if b"OAUTHBEARER" in offered:
        name = user.replace(b"=", b"=3D").replace(b",", b"=2C")
        return BearerClient(b"OAUTHBEARER", b"n,a=%b,\1auth=Bearer %b\1\1" % (name, token), b"\1")
    return BearerClient(b"XOAUTH2", b"user=%b\1auth=Bearer %b\1\1" % (user, token), b"")
