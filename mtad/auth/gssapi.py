"""GSSAPI: Kerberos V, both sides, without a security layer of its own.

:func:`server_mechanism` is None unless the package ``gssapi`` (extra ``[gssapi]``) is installed and there is
a keytab: ``keytab`` of ``smtpd.conf``, else ``KRB5_KTNAME``, else ``/etc/krb5.keytab``.  Clients of our own
realm log in by their bare name.  :func:`client_mechanism` is usable where :func:`has_ticket`: there is a
ticket, or a keytab to get one by.  The package is loaded only where it is going to be used; by a server,
before it drops its rights.

All that Kerberos does is :class:`~mtad.sasl.mechanism.Work`.  Both sides raise
:class:`~mtad.sasl.mechanism.SaslFailure`.

RFC 4752, RFC 4121.  Postfix counterpart: ``gssapi.c`` of ``libsasl``.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from typing import Any

from mtad.sasl.client import ClientMechanism, Login, Responses
from mtad.sasl.mechanism import (
    Property,
    Proven,
    Reason,
    SaslFailure,
    ServerContext,
    ServerMechanism,
    Steps,
    challenge,
    work,
)

PROPERTIES = Property.NOPLAINTEXT | Property.NOACTIVE | Property.NOANONYMOUS | Property.MUTUAL_AUTH

#: The only security layer there is: none.
_NO_LAYER = 1

#: Longest token that is looked at.
TOKEN_LIMIT = 65536

#: Most tokens from one client before the context is there.
_ROUNDS = 8


@functools.cache
def _gssapi() -> Any:
    """The package."""
    return importlib.import_module("gssapi")


def _installed() -> bool:
    return importlib.util.find_spec("gssapi") is not None


def server_mechanism(keytab: str | None) -> ServerMechanism | None:
    """The mechanism, where it can work; ``keytab`` is the configured one."""
    path = keytab or os.environ.get("KRB5_KTNAME", "").removeprefix("FILE:") or "/etc/krb5.keytab"
    if not os.access(path, os.R_OK) or not _installed():
        return None
    _gssapi()  # now, as a process that has given up its rights may not read it later
    return ServerMechanism(b"GSSAPI", PROPERTIES, partial(_server, path), strength=10_000)


def _guarded(reason: Reason, do: Callable[[], Any]) -> Any:
    try:
        return do()
    except _gssapi().exceptions.GSSError as error:
        text = " ".join(str(error).split())
        raise SaslFailure(reason, f"GSSAPI Error: {text}") from None


def _server(keytab: str, context: ServerContext, initial: bytes | None) -> Steps:
    token = initial or (yield from challenge(b""))
    peer = _Acceptor(keytab, context)
    for _ in range(_ROUNDS):
        answer = yield from work(partial(peer.step, token))
        if peer.complete:
            break
        token = yield from challenge(answer)
    else:
        raise SaslFailure(Reason.BADPROT, "GSSAPI: too many tokens")
    if answer:
        yield from challenge(answer)
    offer = yield from work(peer.offer)
    chosen = yield from challenge(offer)
    layer_and_name = yield from work(partial(peer.unwrap, chosen))
    if len(layer_and_name) < 4:
        raise SaslFailure(Reason.BADPROT, "token too short")
    if layer_and_name[0] != _NO_LAYER:
        raise SaslFailure(Reason.FAIL, "protocol violation: client requested invalid layer")
    name = yield from work(peer.name)
    return Proven(name, layer_and_name[4:].rstrip(b"\0") or name)


class _Acceptor:
    """The context of one exchange, as a server has it."""

    def __init__(self, keytab: str, context: ServerContext) -> None:
        self._keytab = keytab
        self._service = f"{context.service.decode()}@{context.hostname.decode()}"
        self._context: Any = None

    @property
    def complete(self) -> bool:
        return self._context is not None and bool(self._context.complete)

    def step(self, token: bytes) -> bytes:
        if len(token) > TOKEN_LIMIT:
            raise SaslFailure(Reason.BADPROT, "GSSAPI token too long")
        if self._context is None:
            self._context = _guarded(Reason.FAIL, self._open)
        return _guarded(Reason.BADAUTH, lambda: self._context.step(token)) or b""

    def _open(self) -> Any:
        name = _gssapi().Name(self._service, _gssapi().NameType.hostbased_service)
        store = {"keytab": self._keytab}
        credentials = _gssapi().Credentials(name=name, usage="accept", store=store)
        return _gssapi().SecurityContext(creds=credentials, usage="accept")

    def offer(self) -> bytes:
        message = bytes((_NO_LAYER, 0, 0, 0))
        return bytes(_guarded(Reason.FAIL, lambda: self._context.wrap(message, False)).message)

    def unwrap(self, token: bytes) -> bytes:
        return bytes(_guarded(Reason.BADAUTH, lambda: self._context.unwrap(token)).message)

    def name(self) -> bytes:
        return bytes(_guarded(Reason.FAIL, self._name))

    def _name(self) -> bytes:
        principal = self._context.initiator_name
        whole = bytes(principal)
        bare = whole.rpartition(b"@")[0]
        local = _gssapi().Name(bare or whole, _gssapi().NameType.user)
        same = local.canonicalize(_gssapi().MechType.kerberos) == principal
        return bare if bare and same else whole


def client_mechanism() -> ClientMechanism | None:
    """The mechanism, where the package is installed."""
    if not _installed():
        return None
    _gssapi()  # now, as above
    return ClientMechanism(b"GSSAPI", PROPERTIES, _client, fits=lambda login: True, slow=True, mutual=True)


def has_ticket() -> bool:
    """Whether there is a ticket.  Takes its time: with a keytab, a KDC is asked for one."""
    try:
        return bool(_gssapi().Credentials(usage="initiate").lifetime)
    except _gssapi().exceptions.GSSError:
        return False


def _client(login: Login) -> Responses:
    name = _gssapi().Name(f"smtp@{login.context.host.decode()}", _gssapi().NameType.hostbased_service)
    context = _gssapi().SecurityContext(
        name=name,
        usage="initiate",
        mech=_gssapi().MechType.kerberos,
        flags=_gssapi().RequirementFlag.mutual_authentication | _gssapi().RequirementFlag.integrity,
    )
    token: bytes | None = None
    while not context.complete:
        answer = _guarded(Reason.FAIL, partial(context.step, token)) or b""
        token = yield answer
    assert token is not None
    offered = bytes(_guarded(Reason.BADSERV, partial(context.unwrap, token)).message)
    if len(offered) != 4 or not offered[0] & _NO_LAYER:
        raise SaslFailure(Reason.BADPROT, "GSSAPI: the server wants a security layer")
    message = bytes((_NO_LAYER, 0, 0, 0)) + login.authzid
    return bytes(_guarded(Reason.FAIL, partial(context.wrap, message, False)).message)
