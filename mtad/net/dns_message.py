"""DNS messages: a query into bytes, an answer out of bytes.  No I/O.

:func:`encode_query` and :func:`decode` are all.  :func:`decode` raises :class:`MessageError` for
whatever is not a well-formed message; names in it are bounded, and a compression pointer may only
point backwards, so that no message can make it loop.  Names are text without the last dot; a byte
that has no place in a host name is written ``\\DDD``.

RFC 1035 sections 3 and 4, RFC 3596 (AAAA).  Postfix counterpart: the parsing half of ``dns_lookup.c``.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

#: record types (RFC 1035 section 3.2.2, RFC 3596)
TYPES = {
    "A": 1,
    "NS": 2,
    "CNAME": 5,
    "SOA": 6,
    "PTR": 12,
    "MX": 15,
    "TXT": 16,
    "AAAA": 28,
    "SRV": 33,
    "TLSA": 52,
}
_TYPE_NAMES = {number: name for name, number in TYPES.items()}
_IN = 1

# response codes (RFC 1035 section 4.1.1)
NOERROR = 0
SERVFAIL = 2
NXDOMAIN = 3
NOTIMP = 4
REFUSED = 5

#: Most records that are taken from an answer, as in Postfix 3.9
RECORD_LIMIT = 100
_NAME_LIMIT = 255
_LABEL_LIMIT = 63

_RESPONSE = 0x8000
_TRUNCATED = 0x0200
_RECURSION_DESIRED = 0x0100
_AUTHENTIC = 0x0020

#: an OPT record (RFC 6891) that asks for DNSSEC (RFC 3225) and takes answers of up to 1232 bytes by UDP
_DNSSEC_OPT = b"\0" + struct.pack("!HHIH", 41, 1232, 0x8000, 0)

_HEADER = struct.Struct("!6H")
_QUESTION = struct.Struct("!2H")
_RECORD = struct.Struct("!2HIH")

#: what a record holds: an address, a name, (preference, name) of MX, strings of TXT, (negative TTL) of SOA,
#: (priority, weight, port, name) of SRV
Data = str | tuple[int, str] | tuple[int, int, int, str] | tuple[bytes, ...] | int | bytes


class MessageError(ValueError):
    """Bytes that are no DNS message."""


@dataclass(frozen=True, slots=True)
class Record:
    """A resource record; ``type`` is ``TYPE99`` for one we do not read (``data`` is bytes then)."""

    name: str
    type: str
    ttl: int
    data: Data
    secure: bool = False  # the name server has found it so (see Message.authentic)


@dataclass(frozen=True, slots=True)
class Message:
    """An answer: its question and the records of the answer and authority sections."""

    id: int
    flags: int
    name: str
    type: str
    answers: tuple[Record, ...]
    authority: tuple[Record, ...]

    @property
    def rcode(self) -> int:
        return self.flags & 0xF

    @property
    def is_response(self) -> bool:
        return bool(self.flags & _RESPONSE)

    @property
    def authentic(self) -> bool:
        """The name server says that it has validated the answer (RFC 4035 section 3.2.3)."""
        return bool(self.flags & _AUTHENTIC)

    @property
    def truncated(self) -> bool:
        return bool(self.flags & _TRUNCATED)


def encode_name(name: str) -> bytes:
    """``name`` as labels; MessageError where it does not fit."""
    out = b""
    for label in name.removesuffix(".").split(".") if name not in ("", ".") else ():
        data = label.encode("ascii", "replace")
        if not 0 < len(data) <= _LABEL_LIMIT:
            raise MessageError(f"bad label in {name[:80]}")
        out += bytes((len(data),)) + data
    if len(out) >= _NAME_LIMIT:
        raise MessageError("name too long")
    return out + b"\0"


def encode_query(identifier: int, name: str, type_: str, dnssec: bool = False) -> bytes:
    """A recursive query for one name and type; ``dnssec``: and whether the answer is authentic."""
    flags = _RECURSION_DESIRED | (_AUTHENTIC if dnssec else 0)
    header = _HEADER.pack(identifier, flags, 1, 0, 0, int(dnssec))
    question = encode_name(name) + _QUESTION.pack(TYPES[type_], _IN)
    return header + question + (_DNSSEC_OPT if dnssec else b"")


def _label(data: bytes) -> str:
    if data.replace(b"-", b"").replace(b"_", b"").isalnum():
        return data.decode("ascii")
    return "".join(
        chr(byte) if 33 <= byte <= 126 and byte not in b'."\\' else f"\\{byte:03d}" for byte in data
    )


def _name(data: bytes, offset: int) -> tuple[str, int]:
    """The name at ``offset``, and where the bytes after it begin."""
    labels: list[str] = []
    end = 0
    limit = offset
    size = 0
    while True:
        length = data[offset]
        if length >= 0xC0:
            target = (length & 0x3F) << 8 | data[offset + 1]
            end = end or offset + 2
            if target >= limit:
                raise MessageError("forward compression pointer")
            offset = limit = target
            continue
        if length > _LABEL_LIMIT:
            raise MessageError("unknown label type")
        offset += 1
        if length == 0:
            return ".".join(labels), end or offset
        label = data[offset : offset + length]
        size += length + 1
        if len(label) != length or size >= _NAME_LIMIT:
            raise MessageError("bad name")
        labels.append(_label(label))
        offset += length


def _data(message: bytes, type_: str, start: int, end: int) -> Data:
    data = message[start:end]
    match type_:
        case "A":
            return socket.inet_ntop(socket.AF_INET, data)
        case "AAAA":
            return socket.inet_ntop(socket.AF_INET6, data)
        case "CNAME" | "NS" | "PTR":
            return _inner_name(message, start, end)
        case "MX":
            return int.from_bytes(data[:2], "big"), _inner_name(message, start + 2, end)
        case "SRV":
            priority, weight, port = struct.unpack("!3H", data[:6])
            return priority, weight, port, _inner_name(message, start + 6, end)
        case "TXT":
            return _strings(data)
        case "SOA":
            if len(data) < 22:
                raise MessageError("short SOA")
            return int.from_bytes(data[-4:], "big")
    return data


def _inner_name(message: bytes, start: int, end: int) -> str:
    name, after = _name(message, start)
    if after != end:
        raise MessageError("a name does not end with its record")
    return name


def _strings(data: bytes) -> tuple[bytes, ...]:
    out = []
    while data:
        length = data[0]
        if len(data) <= length:
            raise MessageError("short TXT")
        out.append(data[1 : length + 1])
        data = data[length + 1 :]
    return tuple(out)


def _records(message: bytes, offset: int, count: int) -> tuple[tuple[Record, ...], int]:
    records: list[Record] = []
    for _ in range(count):
        name, offset = _name(message, offset)
        number, class_, ttl, length = _RECORD.unpack_from(message, offset)
        start = offset + _RECORD.size
        offset = start + length
        if offset > len(message):
            raise MessageError("short record")
        if class_ == _IN and len(records) < RECORD_LIMIT:
            type_ = _TYPE_NAMES.get(number, f"TYPE{number}")
            # RFC 2181 section 8: a TTL with its top bit set is zero
            records.append(
                Record(name, type_, ttl if ttl < 1 << 31 else 0, _data(message, type_, start, offset))
            )
    return tuple(records), offset


def decode(message: bytes) -> Message:
    """Parse a whole message; of a truncated one the header and question only."""
    try:
        identifier, flags, questions, answers, authority, _ = _HEADER.unpack_from(message)
        if questions != 1:
            raise MessageError("not one question")
        name, offset = _name(message, _HEADER.size)
        number, _class = _QUESTION.unpack_from(message, offset)
        type_ = _TYPE_NAMES.get(number, f"TYPE{number}")
        if flags & _TRUNCATED:
            return Message(identifier, flags, name, type_, (), ())
        found, offset = _records(message, offset + _QUESTION.size, answers)
        other, _ = _records(message, offset, authority)
    except (struct.error, IndexError, OSError, ValueError) as error:
        raise MessageError(str(error)) from error
    return Message(identifier, flags, name, type_, found, other)
