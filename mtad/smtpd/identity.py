"""Who the client says it speaks for: XCLIENT and XFORWARD.

By XCLIENT an authorized client becomes another one, for all that is decided, logged and written into headers:
:func:`become` makes the new :class:`~mtad.policy.request.Request`.  By XFORWARD it tells what the log and
the queue should say of the client behind it: :class:`Forwarded`.

Postfix counterpart: ``xclient_cmd()``, ``xforward_cmd()``, ``smtpd_xforward.c``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mtad.policy.request import Request
from mtad.wire.xclient import TEMPORARY

UNKNOWN = "unknown"
Values = Mapping[str, str | None]

#: The attributes of XFORWARD that are about the client; of these, all that is not given is unknown.
_CLIENT = frozenset(("NAME", "ADDR", "PORT", "PROTO", "HELO"))

#: What the handshake with the authorized client told.
_OF_TLS = tuple(
    field.name for field in dataclasses.fields(Request) if field.name.startswith(("tls", "cert_", "pubkey_"))
)


def become(request: Request, values: Values) -> Request:
    """The client from now on: what ``values`` does not name stays, but for HELO and login."""
    name, temporary = _named(values, "NAME", request.client_name, request.name_temporary)
    reverse, reverse_temporary = _named(
        values, "REVERSE_NAME", request.reverse_name, request.reverse_temporary
    )
    if "REVERSE_NAME" not in values and values.get("NAME") not in (None, TEMPORARY):
        reverse, reverse_temporary = name, False
    login = values.get("LOGIN") or ""
    return Request(
        client_name=name,
        client_address=_kept(values, "ADDR", request.client_address),
        client_port=_kept(values, "PORT", request.client_port),
        port_logged=request.port_logged,
        internal_addresses=request.internal_addresses,
        peer_address=request.peer_address or request.client_address,
        reverse_name=reverse,
        name_temporary=temporary,
        reverse_temporary=reverse_temporary,
        server_address=_kept(values, "DESTADDR", request.server_address),
        server_port=_kept(values, "DESTPORT", request.server_port),
        helo=(values.get("HELO") or "").encode(),
        protocol=values.get("PROTO") or "SMTP",
        sasl_method="XCLIENT" if login else "",
        sasl_username=login,
        **{name: getattr(request, name) for name in _OF_TLS},
    )


def _kept(values: Values, key: str, before: str) -> str:
    return (values[key] or UNKNOWN) if key in values else before


def _named(values: Values, key: str, before: str, temporary: bool) -> tuple[str, bool]:
    if key not in values:
        return before, temporary
    value = values[key]
    return (UNKNOWN, value is not None) if value in (None, TEMPORARY) else (str(value), False)


class Forwarded:
    """What was said by XFORWARD, until the transaction's end."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        self._values: dict[str, str | None] = {}

    def __bool__(self) -> bool:
        return bool(self._values)

    def add(self, values: Values) -> None:
        """Take what one XFORWARD said."""
        self._values.update(values)

    def clear(self) -> None:
        """Forget all of it: the transaction is over."""
        self._values.clear()

    @property
    def local(self) -> bool | None:
        """Is the mail from a local client?  None: not said."""
        if "SOURCE" not in self._values:
            return None
        return self._values["SOURCE"] != "remote"

    def log_text(self, request: Request) -> str:
        """What the line ``client=...`` ends with."""
        text = ""
        ident = self._values.get("IDENT")
        if ident:
            text += f", orig_queue_id={ident}"
        if self._client_known:
            text += f", orig_client={self._client(request.port_logged)}"
        return text

    @property
    def _client_known(self) -> bool:
        return not _CLIENT.isdisjoint(self._values)

    def _client(self, port_too: bool) -> str:
        if _CLIENT.isdisjoint(self._values.keys() - {"PROTO", "HELO"}):
            return UNKNOWN
        name, address = self._get("NAME"), self._get("ADDR")
        if address == UNKNOWN:
            return name
        return f"{name}[{address}]" + (f":{self._get('PORT')}" if port_too else "")

    def _get(self, key: str) -> str:
        return self._values.get(key) or UNKNOWN

    def attributes(self, request: Request) -> dict[str, str]:
        """What later logging and the next XFORWARD go by: what was forwarded, else the client itself."""
        address = self._get("ADDR") if self._client_known else request.client_address
        found = {"log_client_address": f"IPv6:{address}" if ":" in address else address}
        if self._client_known:
            found |= {
                "log_client_name": self._get("NAME"),
                "log_client_port": self._get("PORT"),
                "log_message_origin": self._client(request.port_logged),
                "log_protocol_name": self._get("PROTO"),
            }
            helo = self._values.get("HELO") or ""
        else:
            found |= {
                "log_client_name": request.client_name,
                "log_client_port": request.client_port,
                "log_message_origin": request.client,
                "log_protocol_name": request.protocol,
            }
            helo = request.helo.decode("utf-8", "replace")
        if helo:
            found["log_helo_name"] = helo
        if ident := self._values.get("IDENT"):
            found["log_ident"] = ident
        return found
