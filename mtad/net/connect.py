"""Connections to servers by name: policy services, filters, Dovecot, the processes of our own.

:func:`connect` takes a protocol and gives it back when it is connected.  It raises OSError, as the system's
calls do, with words for the log in ``strerror``.  Names are looked up by the system's resolver, in a thread,
and all addresses of a host are tried.

A UNIX-domain socket connects at once or not at all; but where the listen queue of the server is full, it is
tried again, with pauses, until the time is over.  (Twisted's own client would try without a pause.)

Postfix counterpart: ``inet_connect(3)``, ``unix_connect(3)``.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, TypeVar

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError, DNSLookupError, TimeoutError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from mtad.config.endpoint import Endpoint

P = TypeVar("P", bound=Protocol)

#: Seconds until a full listen queue is tried again.
RETRY = 0.05

#: What is raised for names that nobody knows; Postfix' error number.
_UNKNOWN = (errno.EADDRNOTAVAIL, "host or service not found")


class _Factory(Factory):
    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return self._protocol


async def connect(reactor: Any, endpoint: Endpoint, protocol: P, seconds: float) -> P:
    """``protocol``, connected; each address has so many seconds.  Raises OSError."""
    if endpoint.port is None:
        await _connect_unix(reactor, endpoint.name, _Factory(protocol), seconds)
    else:
        await _connect_inet(reactor, endpoint.name, port_number(endpoint.port), _Factory(protocol), seconds)
    return protocol


def port_number(port: str) -> int:
    """The number of a TCP port, which may be written as a service's name.  Raises OSError."""
    if port.isascii() and port.isdigit():
        if 0 < int(port) < 65536:
            return int(port)
        raise OSError(*_UNKNOWN)
    try:
        return socket.getservbyname(port, "tcp")
    except (OSError, ValueError) as problem:  # ValueError: with a NUL
        raise OSError(*_UNKNOWN) from problem


async def _connect_inet(reactor: Any, host: str, port: int, factory: _Factory, seconds: float) -> None:
    kind: Any = HostnameEndpoint
    if isIPAddress(host) or isIPv6Address(host):
        kind = TCP6ClientEndpoint if ":" in host else TCP4ClientEndpoint
    try:
        await kind(reactor, host, port, seconds).connect(factory)
    except TimeoutError as problem:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from problem
    except (DNSLookupError, ValueError) as problem:  # ValueError: no name of a host
        raise OSError(*_UNKNOWN) from problem
    except ConnectError as problem:
        code = problem.osError or errno.EIO
        raise OSError(code, os.strerror(code)) from problem


async def _connect_unix(reactor: Any, path: str, factory: _Factory, seconds: float) -> None:
    deadline = reactor.seconds() + seconds
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            try:
                code = client.connect_ex(path)
            except (OSError, ValueError):  # longer than a socket's name can be, or with a NUL
                code = errno.ENAMETOOLONG
            if code == 0:
                reactor.adoptStreamConnection(client.fileno(), socket.AF_UNIX, factory)
                return
        if code != errno.EAGAIN or reactor.seconds() >= deadline:
            raise OSError(code, os.strerror(code))
        await deferLater(reactor, RETRY)
