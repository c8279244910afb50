"""The protocol of saslauthd, server side: a request of four or five counted strings, one answer.

A request is login, password, service, realm (unsigned 16-bit lengths, network order), and from clients of
Cyrus SASL 2.2 a fifth, ``address;port``.  Nothing tells which kind it is: a fifth string is there when
bytes follow the fourth at once.  :class:`Reader` puts it together from pieces of any size, and never keeps
more than a request may be long; it raises :class:`BadRequest`.

Counterpart: ``saslauthd/ipc_unix.c``; :mod:`mtad.auth.saslauthd` is the client.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Longest string, and longest login with its realm joined to it (``-r``).
FIELD_LIMIT = 256
JOINED_LIMIT = 2 * FIELD_LIMIT + 1

NAMES = ("login", "password", "service", "realm", "client address")


class BadRequest(Exception):
    """The request can't be answered; the text goes to the log and, after ``NO``, to the client."""


@dataclass(frozen=True, slots=True)
class Request:
    """Who wants to know what.  ``address`` is the client's (of the mail server), empty if nobody said."""

    login: bytes
    password: bytes = field(repr=False)
    service: bytes = b""
    realm: bytes = b""
    address: str = ""


class Reader:
    """A request as it comes in, of strings that are no longer than ``limit``."""

    __slots__ = ("_data", "_fields", "_limit")

    def __init__(self, limit: int = FIELD_LIMIT) -> None:
        self._limit = limit
        self._data = b""
        self._fields: list[bytes] = []

    def receive(self, data: bytes) -> Request | None:
        """The request, once it is whole."""
        self._data += data
        while len(self._fields) < len(NAMES) and len(self._data) >= 2:
            size = int.from_bytes(self._data[:2], "big")
            if size > self._limit:
                raise BadRequest(f"{NAMES[len(self._fields)]} exceeds MAX_REQ_LEN")
            if len(self._data) < 2 + size:
                break
            self._fields.append(self._data[2 : 2 + size])
            self._data = self._data[2 + size :]
        if len(self._fields) < 4 or (len(self._fields) == 4 and self._data):
            return None
        login, password, service, realm, *rest = self._fields
        for name, value in (("login", login), ("password", password)):
            if not value:
                raise BadRequest(f"NULL {name} received")
        if any(b"\0" in value for value in self._fields):
            raise BadRequest("a NUL in the request")
        address = rest[0].partition(b";")[0].decode("ascii", "replace") if rest else ""
        return Request(login, password, service, realm, address)


def encode_request(request: Request) -> bytes:
    """All five strings of a request."""
    fields = (
        request.login,
        request.password,
        request.service,
        request.realm,
        request.address.encode("ascii", "replace"),
    )
    return b"".join(len(each).to_bytes(2, "big") + each for each in fields)


def encode_answer(text: str) -> bytes:
    """An answer: ``OK`` or ``NO`` and perhaps a reason."""
    data = text.encode("utf-8", "replace")[:1000]
    return len(data).to_bytes(2, "big") + data
