"""What all TLS connections of a server have in common whatever certificates it has: its session contexts.

A connection is begun with a *session context*, which holds the keys of session tickets, and then given a
context with certificates (``SSL_set_SSL_CTX``).  So certificates may change, and the processes be replaced,
and tickets are still good: :class:`SessionContexts`, which the master keeps, makes one context for each
:class:`Shape` and gives it to every configuration that asks for the same.  Workers inherit it by their fork.

A context's ticket keys are its own, and it can have no others: a key's life is its context's life.
:meth:`SessionContexts.expire` ends it after ``lifetime`` seconds, and the master starts processes that ask
anew.  Nothing is raised.

RFC 5077, RFC 8446 section 4.6.1.  Postfix counterpart: ``tls_mgr_key()``, ``ticket_cb()`` in
``tls_server.c``, where the keys are ``tlsmgr(8)``'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from OpenSSL import SSL

from mtad.net import openssl
from mtad.net.ciphers import Protocols

_SESSION_CONTEXT = b"mtad/TLS"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a session may be resumed under: whoever asks for the same gets the same context.

    ``timeout``: seconds for which a session is good; 0: none is resumed.  ``authorities`` stands for the
    certificates by which clients are judged: a session carries that verdict.
    """

    protocols: Protocols
    options: int
    groups: bytes
    timeout: int
    ask_certificate: bool
    depth: int
    authorities: str
    watch: bool  # for the digests of signatures
    names: bool  # certificates depend on the name that the client asks for


class SessionContexts:
    """The contexts in use, each with the time it was made.  ``clock``: seconds, never set back."""

    def __init__(self, lifetime: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lifetime = lifetime
        self._clock = clock
        self._made: dict[Shape, tuple[float, SSL.Context]] = {}

    def get(self, shape: Shape) -> SSL.Context:
        """The context for ``shape``."""
        self.expire()
        found = self._made.get(shape)
        if found is None:
            found = self._made[shape] = (self._clock(), _build(shape))
        return found[1]

    def expire(self) -> bool:
        """Let go of contexts that are too old; whether there were any."""
        limit = self._clock() - self.lifetime
        old = [shape for shape, made in self._made.items() if made[0] <= limit]
        for shape in old:
            del self._made[shape]
        return bool(old)

    def due(self) -> float:
        """Seconds until the oldest context is too old; infinite where there is none."""
        oldest = min((made for made, _ in self._made.values()), default=float("inf"))
        return oldest + self.lifetime - self._clock()


def _build(shape: Shape) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_options(shape.options)
    shape.protocols.apply(context)
    if shape.groups:
        openssl.set_groups(context, shape.groups)
    context.set_session_id(_SESSION_CONTEXT)
    context.set_session_cache_mode(
        SSL.SESS_CACHE_SERVER | SSL.SESS_CACHE_NO_INTERNAL | SSL.SESS_CACHE_NO_AUTO_CLEAR
    )
    if shape.timeout > 0:
        context.set_timeout(shape.timeout)
    else:
        context.set_options(SSL.OP_NO_TICKET)
    if shape.ask_certificate:
        context.set_verify_depth(shape.depth + 1)
        openssl.ask_certificate(context)
    if shape.watch:
        openssl.watch_signatures(context)
    if shape.names:
        openssl.hear_names(context)
    # the first connection of a context pays for its tables: here, not later
    SSL.Connection(context, None)
    return context


def certificate_context() -> SSL.Context:
    """A context to be given to connections of a session context: for certificates, ciphers and trust."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_session_id(_SESSION_CONTEXT)
    return context
