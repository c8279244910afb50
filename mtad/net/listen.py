"""Listening sockets of master.cf's ``inet`` services.

:func:`endpoints` says where a service listens (``submission``, ``587``, ``127.0.0.1:2587``, ``[::1]:587``,
``host.example:submission``), by ``inet_interfaces``, ``inet_protocols`` and ``known_tcp_ports``;
:func:`bind` opens the sockets, not blocking and ready to be shared by forked workers.  A reload compares
endpoints and keeps the sockets of those that stay.

Raises :class:`~mtad.errors.ConfigError` naming the line of master.cf.  Names are looked up with the system's
resolver.  Postfix counterpart: ``master_ent.c``, ``inet_listen.c``, ``known_tcp_ports.c``.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.net.interfaces import IPV6, own_addresses, protocols, resolve, unbracket

#: Connections that may wait to be accepted; the kernel has the last word (net.core.somaxconn).
BACKLOG = 4096

_HOST_PORT = re.compile(r"(?:(\[[^\]]*\]|[^:\[\]]*):)?([^:\[\]]+)")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and port to listen on; ``0.0.0.0`` and ``::`` stand for all addresses of their kind."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _refuse(service: Service, p: Parameters, reason: str, remedy: str = "") -> ConfigError:
    path = os.path.join(p.directory, "master.cf")
    return ConfigError(f"service {service.name}: {reason}", path=path, line=service.line, remedy=remedy)


def known_ports(p: Parameters) -> dict[str, int]:
    """``known_tcp_ports``: ``smtp=25, smtps=submissions=465`` as name to port."""
    ports: dict[str, int] = {}
    for word in p.words("known_tcp_ports"):
        *names, number = word.split("=")
        if not names or not number.isdecimal() or not 0 < int(number) < 65536:
            raise ConfigError(
                f'bad entry "{word}"', parameter="known_tcp_ports", remedy="write entries as name=number"
            )
        ports.update((name, int(number)) for name in names)
    return ports


def port_number(text: str, p: Parameters) -> int | None:
    """The number of a port or service name, None for one that nobody knows."""
    if text.isdecimal():
        return int(text) if 0 < int(text) < 65536 else None
    known = known_ports(p).get(text)
    if known is not None:
        return known
    try:
        return socket.getservbyname(text, "tcp")
    except OSError:
        return None


def endpoints(service: Service, p: Parameters) -> list[Endpoint]:
    """Where ``service`` listens."""
    match = _HOST_PORT.fullmatch(service.name)
    if match is None:
        raise _refuse(service, p, "neither a port nor host:port", "write an IPv6 address as [::1]:587")
    host, service_name = match[1], match[2]
    port = port_number(service_name, p)
    if port is None:
        raise _refuse(
            service,
            p,
            f"unknown service name {service_name}",
            "use a port number, or add the name to known_tcp_ports or /etc/services",
        )
    wanted = protocols(p)
    if host:
        try:
            addresses: Iterable[str] = resolve(unbracket(host), wanted)
        except OSError as error:
            raise _refuse(service, p, f"host {host}: {error}") from None
    elif p["inet_interfaces"].strip() == "all":
        addresses = ["::" if protocol == IPV6 else "0.0.0.0" for protocol in wanted]
    else:
        addresses = own_addresses(p)
    found = [Endpoint(address, port) for address in dict.fromkeys(addresses)]
    if not found:
        raise _refuse(service, p, "no address to listen on", "see inet_interfaces and inet_protocols")
    return found


def open_socket(endpoint: Endpoint, service: Service, p: Parameters) -> socket.socket:
    """A socket that listens on ``endpoint``."""
    listener = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if endpoint.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((endpoint.host, endpoint.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _explain(error, endpoint, service, p) from error
    return listener


def _explain(error: OSError, endpoint: Endpoint, service: Service, p: Parameters) -> ConfigError:
    reason, remedy = f"cannot listen on {endpoint}: {error.strerror}", ""
    match error.errno:
        case errno.EACCES | errno.EPERM:
            try:
                user = pwd.getpwuid(os.geteuid()).pw_name
            except KeyError:
                user = str(os.geteuid())
            reason = f"user {user} may not listen on {endpoint}"
            remedy = "start mtad as root, or use a port from 1024 up"
        case errno.EADDRINUSE:
            reason = f"another program listens on {endpoint} already"
            remedy = "stop it (is Postfix still running?), or use another port"
        case errno.EADDRNOTAVAIL:
            remedy = "the address must be one of this host"
    return _refuse(service, p, reason, remedy)


def bind(service: Service, p: Parameters) -> list[socket.socket]:
    """Open all sockets of ``service``, or none."""
    listeners: list[socket.socket] = []
    try:
        for endpoint in endpoints(service, p):
            listeners.append(open_socket(endpoint, service, p))
    except ConfigError:
        for listener in listeners:
            listener.close()
        raise
    return listeners
