"""Logins that a server has refused: not tried again with the same password for a while.

:class:`RefusedLogins` is what ``smtp_sasl_auth_cache_name`` asks for.  It lives in memory: the table is
not written to, and after a restart every login is tried again.  Passwords are kept as keyed digests only.

Postfix counterpart: ``smtp_sasl_auth_cache.c``.
"""

from __future__ import annotations

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable

from mtad.deliver.credentials import Login
from mtad.wire.server_reply import ServerReply

#: The only code that is remembered.
CODE = 535

_LIMIT = 1000


class RefusedLogins:
    """See the module; ``life`` in seconds (``smtp_sasl_auth_cache_time``)."""

    def __init__(self, life: float, clock: Callable[[], float]) -> None:
        self._life = life
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._entries: OrderedDict[tuple[str, bytes], tuple[bytes, float, ServerReply]] = OrderedDict()

    def find(self, host: str, login: Login) -> ServerReply | None:
        """What ``host`` has answered to this very login, if it was a refusal."""
        found = self._entries.get((host, login.user))
        if found is None:
            return None
        digest, since, reply = found
        if self._clock() - since < self._life and hmac.compare_digest(digest, self._digest(login)):
            return reply
        del self._entries[host, login.user]
        return None

    def note(self, host: str, login: Login, reply: ServerReply) -> None:
        """``host`` has refused this login."""
        if reply.code == CODE:
            self._entries[host, login.user] = (self._digest(login), self._clock(), reply)
            if len(self._entries) > _LIMIT:
                self._entries.popitem(last=False)

    def _digest(self, login: Login) -> bytes:
        return hmac.digest(self._key, login.password, "sha256")
