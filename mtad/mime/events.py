"""What is wanted of content that is taken apart, and what comes of it.

:class:`MimeOptions` says what :class:`~mtad.mime.state.MimeState` is to do; events are headers, pieces of
bodies, and reports of what is improper (:class:`Fault`).  Plain values; nothing is raised.

RFC 2045, RFC 5322.  Postfix counterpart: the flags and callbacks of ``mime_state(3)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

#: Where a header stands: at the top, in a part of a multipart, at the top of an attached message.
PRIMARY, MULTIPART, NESTED = "primary", "mime", "nested"


class Wants(IntFlag):
    """What is to be done beside taking apart."""

    NO_MIME = 1  # all behind the first headers is one body
    CONVERT = 2  # 8 bits to quoted-printable
    EIGHT_BIT_HEADERS = 4  # report them
    EIGHT_BIT_BODY = 8  # in a body that does not say so
    ENCODING = 16  # of a multipart or message, other than 7bit, 8bit or binary
    NESTING = 32
    END_OF_HEADERS = 64  # that is no empty line
    RECORDS = 128  # bodies come in whole records


class Fault(IntFlag):
    """What can be wrong, the worst first."""

    NESTING = 1
    EIGHT_BIT_HEADER = 2
    EIGHT_BIT_BODY = 4
    ENCODING = 8
    END_OF_HEADERS = 16


NO_FAULT = Fault(0)
#: The status and the words for each.
FAULTS: dict[Fault, tuple[str, str]] = {
    Fault.NESTING: ("5.6.0", "MIME nesting exceeds safety limit"),
    Fault.EIGHT_BIT_HEADER: ("5.6.0", "improper use of 8-bit data in message header"),
    Fault.EIGHT_BIT_BODY: ("5.6.0", "improper use of 8-bit data in message body"),
    Fault.ENCODING: ("5.6.0", "invalid message/* or multipart/* encoding domain"),
    Fault.END_OF_HEADERS: ("5.6.0", "primary header was terminated with non-empty line"),
}


def worst(faults: Fault) -> Fault:
    """The one to name."""
    return next(fault for fault in Fault if faults & fault)


@dataclass(slots=True)
class Header:
    """``text`` is the whole header with LF between its lines and none at the end, ``name`` in lower case,
    empty for a header that was made here."""

    kind: str
    name: bytes
    text: bytes


@dataclass(slots=True)
class HeadersEnd:
    """The first headers are over.  What is appended here comes behind them."""


@dataclass(slots=True)
class Body:
    """A piece of a body, whole lines or the beginning of a long one.  ``restart``: count its size anew."""

    data: bytes
    restart: bool


@dataclass(slots=True)
class Report:
    """Something improper, each kind once; ``text`` is where."""

    fault: Fault
    text: bytes


Event = Header | HeadersEnd | Body | Report


@dataclass(frozen=True, slots=True)
class MimeLimits:
    """Postfix's parameters of these names."""

    header_size: int = 102400
    line_length: int = 2048
    boundary_length: int = 2048
    nesting: int = 100


class MimeOptions:
    """What is wanted, read once: flags are dear where they are asked for each header and line."""

    __slots__ = (
        "check_body", "check_headers", "convert", "encoding", "end_of_headers", "limits", "mime", "nesting",
        "records", "usual",
    )  # fmt: skip

    def __init__(self, wants: Wants, limits: MimeLimits) -> None:
        self.mime = not wants & Wants.NO_MIME
        self.convert = bool(wants & Wants.CONVERT)
        self.check_headers = bool(wants & Wants.EIGHT_BIT_HEADERS)
        self.check_body = bool(wants & Wants.EIGHT_BIT_BODY)
        self.encoding = bool(wants & Wants.ENCODING)
        self.nesting = bool(wants & Wants.NESTING)
        self.end_of_headers = bool(wants & Wants.END_OF_HEADERS)
        self.records = bool(wants & Wants.RECORDS)
        self.limits = limits
        self.usual = min(limits.line_length, limits.header_size)
