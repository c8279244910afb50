"""Where a server listens: ``inet:host:port`` or ``unix:path``, as Postfix writes it.

Raises :class:`~mtad.errors.ConfigError`.  Postfix counterpart: ``host_port(3)``.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtad.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``name`` is a host's name or address, or where ``port`` is None the path of a UNIX-domain socket.
    ``port`` is a number or the name of a service."""

    name: str
    port: str | None = None

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """``inet:host:port`` or ``unix:path``."""
        kind, colon, rest = text.partition(":")
        if kind == "unix" and rest:
            return cls(rest)
        if kind == "inet" and colon:
            return cls.parse_inet(rest)
        raise ConfigError(f'invalid transport name: "{text}"', remedy="use inet:host:port or unix:pathname")

    @classmethod
    def parse_inet(cls, text: str) -> Endpoint:
        """``host:port`` or ``[host]:port``; a missing host is this one."""
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if not port:
            raise ConfigError(f'no port in "{text}"', remedy="use host:port")
        return cls(host or "localhost", port)

    def __str__(self) -> str:
        return f"unix:{self.name}" if self.port is None else f"inet:{self.name}:{self.port}"
