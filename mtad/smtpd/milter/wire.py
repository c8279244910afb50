"""The packets of the milter protocol.

A packet is a length (32 bits, network order, of what follows), one byte that says what it is, and data.
:class:`PacketReader` puts packets together from pieces of any size; :func:`packet` makes one;
:func:`strings` and :func:`number` take data apart.  Malformed data raises :class:`BadPacket`.

Flags: what a filter wants to do (``SMFIF_*``), what it does not want to be told or will not answer
(``SMFIP_*``).  An :class:`Event` is something that we tell a filter.

Postfix counterpart: the tables and the reading and writing functions of ``milter8.c``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: The longest packet taken from a filter.  Filters send replaced bodies in pieces of 64 KiB.
LONGEST = 4 << 20

#: How much of a body goes into one packet.
PIECE = 65535

# What a filter may be asked to do (SMFIF_*).
ADD_HEADERS, CHANGE_BODY, ADD_RECIPIENTS, DELETE_RECIPIENTS, CHANGE_HEADERS = 1, 2, 4, 8, 16
QUARANTINES, CHANGE_SENDER, ADD_RECIPIENTS_ARGS, SET_MACROS = 32, 64, 128, 256
ACTIONS = (1 << 9) - 1

# What is left out of the conversation (SMFIP_*).
NO_CONNECT, NO_HELO, NO_MAIL, NO_RCPT, NO_BODY, NO_HEADERS, NO_EOH = (1 << bit for bit in range(7))
UNANSWERED_HEADER, NO_UNKNOWN, NO_DATA, SKIPS, REJECTED_RECIPIENTS = (1 << bit for bit in range(7, 12))
UNANSWERED_CONNECT, UNANSWERED_HELO, UNANSWERED_MAIL, UNANSWERED_RCPT = (1 << bit for bit in range(12, 16))
UNANSWERED_DATA, UNANSWERED_UNKNOWN, UNANSWERED_EOH, UNANSWERED_BODY = (1 << bit for bit in range(16, 20))
LEADING_SPACE = 1 << 20

#: Events that can be left out, and answers that can.
LEFT_OUT = (1 << 7) - 1 | NO_UNKNOWN | NO_DATA
UNANSWERED = UNANSWERED_HEADER | (1 << 20) - (1 << 12)

#: What each version of the protocol knows, latest first.
VERSIONS = {
    6: (1 << 21) - 1,
    4: (1 << 7) - 1 | NO_UNKNOWN | NO_DATA,
    3: (1 << 7) - 1 | NO_UNKNOWN,
    2: (1 << 7) - 1,
}


class BadPacket(Exception):
    """A filter sent what no filter should; the text is for the log."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a filter is told: ``code`` on the wire, ``name`` in log lines, the bits that leave it or its
    answer out, the stage whose macros go with it, and whether it concerns the whole connection."""

    code: bytes
    name: str
    stage: str = ""
    left_out: int = 0
    unanswered: int = 0
    connection: bool = False


CONNECT = Event(b"C", "SMFIC_CONNECT", "connect", NO_CONNECT, UNANSWERED_CONNECT, True)
HELO = Event(b"H", "SMFIC_HELO", "helo", NO_HELO, UNANSWERED_HELO, True)
MAIL = Event(b"M", "SMFIC_MAIL", "mail", NO_MAIL, UNANSWERED_MAIL)
RCPT = Event(b"R", "SMFIC_RCPT", "rcpt", NO_RCPT, UNANSWERED_RCPT)
DATA = Event(b"T", "SMFIC_DATA", "data", NO_DATA, UNANSWERED_DATA)
UNKNOWN = Event(b"U", "SMFIC_UNKNOWN", "unknown_command", NO_UNKNOWN, UNANSWERED_UNKNOWN)
HEADER = Event(b"L", "SMFIC_HEADER", "end_of_header", NO_HEADERS, UNANSWERED_HEADER)
EOH = Event(b"N", "SMFIC_EOH", "end_of_header", NO_EOH, UNANSWERED_EOH)
BODY = Event(b"B", "SMFIC_BODY", "end_of_data", NO_BODY, UNANSWERED_BODY)
EOM = Event(b"E", "SMFIC_BODYEOB", "end_of_data")

# Not events: no answer comes.
ABORT, QUIT, MACRO, NEGOTIATE = b"A", b"Q", b"D", b"O"

#: The stages of macros by the numbers that a filter uses in the negotiation (SMFIM_*).
STAGES = {
    0: "connect", 1: "helo", 2: "mail", 3: "rcpt", 4: "data", 5: "end_of_data", 6: "end_of_header"
}  # fmt: skip

# What filters answer (SMFIR_*).
ADD_RCPT, DELETE_RCPT, ACCEPT, REPLACE_BODY, CONTINUE, DISCARD, SHUTDOWN = (
    b"+",
    b"-",
    b"a",
    b"b",
    b"c",
    b"d",
    b"4",
)
CHANGE_HEADER, PROGRESS, REJECT, TEMPFAIL, ADD_HEADER, INSERT_HEADER = b"m", b"p", b"r", b"t", b"h", b"i"
REPLY_CODE, QUARANTINE, SKIP, CHANGE_FROM, ADD_RCPT_ARGS, SHUTDOWN = b"y", b"q", b"s", b"e", b"2", b"4"

ANSWER_NAMES = {
    ADD_RCPT: "SMFIR_ADDRCPT",
    DELETE_RCPT: "SMFIR_DELRCPT",
    ACCEPT: "SMFIR_ACCEPT",
    REPLACE_BODY: "SMFIR_REPLBODY",
    CONTINUE: "SMFIR_CONTINUE",
    DISCARD: "SMFIR_DISCARD",
    b"f": "SMFIR_CONN_FAIL",
    CHANGE_HEADER: "SMFIR_CHGHEADER",
    PROGRESS: "SMFIR_PROGRESS",
    REJECT: "SMFIR_REJECT",
    TEMPFAIL: "SMFIR_TEMPFAIL",
    SHUTDOWN: "SMFIR_SHUTDOWN",
    ADD_HEADER: "SMFIR_ADDHEADER",
    INSERT_HEADER: "SMFIR_INSHEADER",
    REPLY_CODE: "SMFIR_REPLYCODE",
    QUARANTINE: "SMFIR_QUARANTINE",
    SKIP: "SMFIR_SKIP",
    CHANGE_FROM: "SMFIR_CHGFROM",
    ADD_RCPT_ARGS: "SMFIR_ADDRCPT_PAR",
    b"l": "SMFIR_SETSYMLIST",
}


def packet(code: bytes, data: bytes = b"") -> bytes:
    """A packet, ready for the wire."""
    return (len(data) + 1).to_bytes(4, "big") + code + data


def negotiation(version: int, actions: int, events: int) -> bytes:
    """The packet that opens the negotiation."""
    return packet(NEGOTIATE, b"".join(value.to_bytes(4, "big") for value in (version, actions, events)))


def terminated(*values: bytes) -> bytes:
    """Strings for a packet: each ends with a NUL, and has none in it."""
    return b"".join(value.replace(b"\0", b"") + b"\0" for value in values)


def number(data: bytes) -> tuple[int, bytes]:
    """The 32-bit number that ``data`` begins with, and the rest."""
    if len(data) < 4:
        raise BadPacket("input packet too short for network long")
    return int.from_bytes(data[:4], "big"), data[4:]


def string(data: bytes) -> tuple[bytes, bytes]:
    """The string that ``data`` begins with, and the rest."""
    if not data:
        raise BadPacket("packet too short for string")
    text, nul, rest = data.partition(b"\0")
    if not nul:
        raise BadPacket("missing string null terminator")
    return text, rest


def strings(data: bytes, least: int, most: int) -> list[bytes]:
    """All strings of ``data``; there must be ``least`` to ``most``."""
    found: list[bytes] = []
    while len(found) < least or (data and len(found) < most):
        text, data = string(data)
        found.append(text)
    if data:
        raise BadPacket(f"left-over data {len(data)} bytes")
    return found


class PacketReader:
    """Puts packets together."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def receive(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The packets that are complete with ``data``, as (what, data).  Raises BadPacket."""
        buffer = self._data
        buffer += data
        while len(buffer) >= 4:
            size = int.from_bytes(buffer[:4], "big")
            if size < 1:
                raise BadPacket(f"bad packet length: {size}")
            if size > LONGEST:
                raise BadPacket(f"unreasonable packet length: {size} > {LONGEST}")
            if len(buffer) < 4 + size:
                return
            found = bytes(buffer[4 : 4 + size])
            del buffer[: 4 + size]
            yield found[:1], found[1:]
