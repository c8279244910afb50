"""Certificates by the name that a client asks for: ``tls_server_sni_maps``.

:class:`ServerNames` looks a name up, then its parents as ``.domain``, and gives the PEM data it finds; None
where there is nothing.  A value is, as ``postmap -F`` makes it, the PEM data of a key
and its certificates in base64, or in tables that are plain text (``inline:``, ``texthash:``, ``static:`` ...)
the name of a file that holds it.  Only tables of this host can be asked: a handshake does not wait for a
server.  Raises :class:`~mtad.errors.TableError`.

RFC 6066 section 3.  Postfix counterpart: ``server_sni_callback()`` in ``tls_misc.c``, ``maps_file_find(3)``.
"""

from __future__ import annotations

from base64 import b64decode

from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.maillog import MailLog
from mtad.tables.maps import Maps

PARAMETER = "tls_server_sni_maps"


class ServerNames:
    """The tables.  Made while they may be read; asked in handshakes."""

    def __init__(self, p: Parameters, log: MailLog) -> None:
        self._maps = Maps(p[PARAMETER], p.directory, title=PARAMETER, warn=log.warning, value_is_file=True)
        for problem in self._maps.problems:
            log.warning(str(problem))

    def find(self, name: str) -> bytes | None:
        """The PEM data for a name that is a valid host name."""
        key = name
        while key:
            value = self._now(key.encode("ascii"))
            if value is not None:
                try:
                    return b64decode(value, validate=True)
                except ValueError:
                    raise TableError(f"{PARAMETER}: the value for {key} is not base64") from None
            dot = key.find(".", 1)
            key = key[dot:] if dot > 0 else ""
        return None

    def _now(self, key: bytes) -> bytes | None:
        lookup = self._maps.lookup(key)
        try:
            lookup.send(None)
        except StopIteration as end:
            value: bytes | None = end.value
            return value
        lookup.close()
        raise TableError(f"{PARAMETER}: a table that has to ask a server cannot be used here")
