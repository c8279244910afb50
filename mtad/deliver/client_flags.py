"""What ``flags=`` of a client's line in master.cf adds to the mail that goes out.

:class:`ClientFlags` reads the arguments of one service, ``flags=DORX``: ``R`` puts a Return-Path header on
top, ``O`` an X-Original-To, ``D`` a Delivered-To, by which mail that was here before is known; ``X``: an LMTP
server without DSN is where mail ends, which senders may be told.  ConfigError for anything else.

Postfix counterpart: ``get_cli_attr``, ``smtp_out_add_headers``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mtad.config.master_cf import Service
from mtad.deliver.report import external
from mtad.errors import ConfigError
from mtad.queue.message import Message, Recipient

#: What becomes of an address on its way out (``smtp_generic_maps``), internal forms.
Mapped = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class ClientFlags:
    """See the module; ``name`` is the service's."""

    name: str = ""
    delivered_to: bool = False
    original_to: bool = False
    return_path: bool = False
    final: bool = False

    @classmethod
    def of(cls, service: Service | None, path: str = "master.cf") -> ClientFlags:
        """Those of a service; the last ``flags=`` counts."""
        if service is None:
            return cls()
        flags = ""
        for word in service.args:
            name, _, value = word.partition("=")
            if name.lower() != "flags" or "=" not in word:
                raise _error(service, path, f"unknown attribute name: {word}")
            flags = value
        if not set(flags) <= set("DORX"):
            raise _error(service, path, f"unknown flag in flags={flags}")
        return cls(service.name, "D" in flags, "O" in flags, "R" in flags, "X" in flags)

    @property
    def single(self) -> str:
        """The flag that asks for deliveries of one recipient each, if there is one."""
        return "D" if self.delivered_to else "O" if self.original_to else ""

    @property
    def headers(self) -> bool:
        """Whether there are headers to go on top."""
        return self.delivered_to or self.original_to or self.return_path

    async def head(self, message: Message, one: Recipient, mapped: Mapped) -> bytes:
        """The headers that go on top, for a message to ``one`` (of several: the first)."""
        lines = []
        if self.return_path:
            lines.append(b"Return-Path: <%b>\r\n" % external(await mapped(message.sender)))
        if self.original_to:
            lines.append(b"X-Original-To: %b\r\n" % external(await mapped(one.original or one.address)))
        if self.delivered_to:
            lines.append(b"Delivered-To: %b\r\n" % external(await mapped(one.address)))
        return b"".join(lines)


NO_FLAGS = ClientFlags()


def _error(service: Service, path: str, text: str) -> ConfigError:
    return ConfigError(
        text, path=path, line=service.line, remedy="smtp and lmtp take flags=, of D, O, R and X"
    )
