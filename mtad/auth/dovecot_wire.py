"""Dovecot's authentication protocol without sockets: lines of fields, the handshake, requests and answers.

A line is fields with TABs between, ended by LF; TAB, LF, CR, NUL and 0x01 within are escaped by 0x01.
:class:`Handshake` collects what the server tells of itself, :func:`parse_answer` reads an answer.  All raise
:class:`ProtocolError` for what is no such thing; lengths are bounded.

Postfix counterpart: ``xsasl_dovecot_server.c``; Dovecot: "Dovecot Authentication Protocol" 1.1 and 1.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mtad.sasl.mechanism import Property

#: Longest line, and most mechanisms.
LINE_LIMIT = 16384
MECHANISM_LIMIT = 64

_ESCAPES = {b"0": b"\0", b"1": b"\x01", b"t": b"\t", b"n": b"\n", b"r": b"\r"}
_ESCAPED = re.compile(rb"\x01(.?)", re.DOTALL)
_NAME = re.compile(rb"[A-Za-z0-9_-]{1,40}")

#: What a mechanism is weak against, as the server tells, and so what it does not withstand.
_WEAK = {
    b"plaintext": Property.NOPLAINTEXT,
    b"active": Property.NOACTIVE,
    b"dictionary": Property.NODICTIONARY,
    b"anonymous": Property.NOANONYMOUS,
}
_STRONG = {b"forward-secrecy": Property.FORWARD_SECRECY, b"mutual-auth": Property.MUTUAL_AUTH}


class ProtocolError(Exception):
    """The server speaks something else."""


class Lines:
    """Lines from pieces of any size."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def receive(self, data: bytes) -> Iterator[list[bytes]]:
        """The fields of each line that is complete."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if len(line) > LINE_LIMIT:
                raise ProtocolError("a line that is too long")
            yield [_ESCAPED.sub(_unescape, part) for part in line.split(b"\t")]
        if len(self._rest) > LINE_LIMIT:
            raise ProtocolError("a line that is too long")


def _unescape(match: re.Match[bytes]) -> bytes:
    return _ESCAPES.get(match[1], match[1])


def escape(value: bytes) -> bytes:
    """A value as it stands in a line."""
    for letter, raw in ((b"1", b"\x01"), (b"0", b"\0"), (b"t", b"\t"), (b"n", b"\n"), (b"r", b"\r")):
        value = value.replace(raw, b"\x01" + letter)
    return value


def greeting(pid: int) -> bytes:
    """What the client begins with."""
    return b"VERSION\t1\t0\nCPID\t%d\n" % pid


def auth_line(
    number: int,
    mechanism: bytes,
    *,
    service: str,
    local: str,
    remote: str,
    secured: bool,
    response: bytes | None,
) -> bytes:
    """A request; ``response`` is base64."""
    fields = [
        b"AUTH", b"%d" % number, mechanism, b"service=" + service.encode(), b"nologin",
        b"lip=" + local.encode(), b"rip=" + remote.encode(),
    ]  # fmt: skip
    if secured:
        fields.append(b"secured")
    if response is not None:
        fields.append(b"resp=" + response)
    return b"\t".join([*fields[:3], *map(escape, fields[3:])]) + b"\n"


def cont_line(number: int, response: bytes) -> bytes:
    """The client's answer (base64) to a challenge."""
    return b"CONT\t%d\t%b\n" % (number, response)


class Handshake:
    """What the server tells before it takes requests."""

    def __init__(self) -> None:
        self.mechanisms: dict[bytes, Property] = {}
        self._versioned = False

    def line(self, fields: list[bytes]) -> bool:
        """Take a line; whether it was the last."""
        match fields:
            case [b"VERSION", major, *_]:
                if major != b"1":
                    raise ProtocolError(f"protocol version mismatch ({major.decode('ascii', 'replace')})")
                self._versioned = True
            case [b"MECH", name, *properties]:
                named = _NAME.fullmatch(name) and b"private" not in properties
                if named and len(self.mechanisms) < MECHANISM_LIMIT:
                    self.mechanisms[name.upper()] = _properties(properties)
            case [b"DONE", *_]:
                if not self._versioned:
                    raise ProtocolError("no version")
                return True
        return False


def _properties(words: list[bytes]) -> Property:
    found = Property.NONE
    for word, property_ in _WEAK.items():
        if word not in words:
            found |= property_
    for word, property_ in _STRONG.items():
        if word in words:
            found |= property_
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says to request ``number``: ``OK``, ``FAIL`` or ``CONT``.

    ``data`` is the challenge (base64) of a ``CONT``, None where there is none; ``fields`` the named ones.
    """

    kind: bytes
    number: int
    data: bytes | None = None
    fields: dict[bytes, bytes] = field(default_factory=dict, repr=False)

    @property
    def temporary(self) -> bool:
        """Whether a ``FAIL`` says nothing about the password."""
        return b"temp" in self.fields or self.fields.get(b"code") == b"temp_fail"


def parse_answer(fields: list[bytes]) -> Answer | None:
    """The answer in a line; None for a line that is none."""
    if fields[0] not in (b"OK", b"FAIL", b"CONT") or len(fields) < 2:
        return None
    if not (fields[1].isdigit() and len(fields[1]) <= 10):
        raise ProtocolError("an answer to no request")
    number = int(fields[1])
    if fields[0] == b"CONT":
        return Answer(b"CONT", number, fields[2] if len(fields) > 2 else None)
    named = {}
    for each in fields[2:]:
        name, _, value = each.partition(b"=")
        named[name] = value
    return Answer(fields[0], number, None, named)
