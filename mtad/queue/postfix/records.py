"""Records: the form in which Postfix's queue files hold everything.

A record is a type (one byte), its length in portions of seven bits, the lowest first, and its data.
:func:`pack` makes one, :func:`read_records` reads them.  It follows pointers, which cleanup(8) leaves where
a Milter has changed a message, skips padding, and stops behind the last record, unless ``raw``.  Raises
:class:`BadRecord` for what is no record, for one longer than :data:`LONGEST`, and for pointers that lead
astray: nothing is read twice, and what is appended meanwhile is not read at all.  What it passes over in
silence is bounded, so that a reader has its turn soon.

Postfix counterpart: ``record(3)``, ``rec_type(3)``, ``rec_attr_map(3)``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from mtad.errors import QueueError

SIZE, TIME, CREATED, FULL_NAME, INSPECTOR, FILTER = b"C", b"T", b"c", b"F", b"I", b"L"
SENDER, DONE, CANCELED, RECIPIENT, ORIGINAL = b"S", b"D", b"/", b"R", b"O"
WARN, ATTRIBUTE, REDIRECT, VERP = b"W", b"A", b">", b"V"
RETURN, ENVELOPE_ID, ORCPT, NOTIFY = b"<", b"i", b"o", b"n"
MESSAGE, UNENDED, LINE, EXTRACTED, END = b"M", b"L", b"N", b"X", b"E"
POINTER, PADDING = b"p", b"w"

#: Types that a queue file may have before its content, and behind it.
ENVELOPE_TYPES = b"MCTcFILSDRO/WVA>K<ion"
EXTRACTED_TYPES = ENVELOPE_TYPES + b"Pre"

NAMES = {
    SIZE: "message_size",
    TIME: "message_arrival_time",
    CREATED: "queue_file_create_time",
    FULL_NAME: "sender_fullname",
    INSPECTOR: "content_inspector",
    FILTER: "content_filter",
    SENDER: "sender",
    DONE: "done_recipient",
    CANCELED: "canceled_recipient",
    RECIPIENT: "recipient",
    ORIGINAL: "original_recipient",
    WARN: "warning_message_time",
    ATTRIBUTE: "named_attribute",
    POINTER: "pointer_record",
    b"K": "killed_record",
    MESSAGE: "message_content",
    LINE: "regular_text",
    PADDING: "padding",
    EXTRACTED: "extracted_info",
    b"r": "return_receipt",
    b"e": "errors_to",
    b"P": "priority",
    VERP: "verp_delimiters",
    END: "message_end",
    REDIRECT: "redirect_to",
    b"f": "flags",
    RETURN: "dsn_return_flags",
    ENVELOPE_ID: "dsn_envelope_id",
    ORCPT: "dsn_original_recipient",
    NOTIFY: "dsn_notify_flags",
}

#: Attributes that stand for a record type of their own.
MAPPED = {
    b"dsn_orig_rcpt": ORCPT,
    b"notify_flags": NOTIFY,
    b"envelope_id": ENVELOPE_ID,
    b"ret_flags": RETURN,
    b"create_time": CREATED,
}

#: No line, address or attribute that Postfix writes is longer.
LONGEST = 16 * 1024 * 1024
#: Pointers and padding that are passed over: more than Milters leave.
_MOST_PASSED = 100_000


class BadRecord(QueueError):
    """This is no queue file."""


class Record(NamedTuple):
    """One record, and where it was looked for: before any pointers and padding that led to it."""

    offset: int
    kind: bytes
    data: bytes


def pack(kind: bytes, data: bytes) -> bytes:
    """A record as it is in a file."""
    rest = len(data)
    if rest < 128:
        return b"%b%c%b" % (kind, rest, data)
    length = bytearray()
    while rest >= 128:
        length.append(rest & 127 | 128)
        rest >>= 7
    length.append(rest)
    return kind + bytes(length) + data


def attribute(name: str, value: str | bytes | int) -> bytes:
    """A named attribute as a record."""
    text = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return pack(ATTRIBUTE, name.encode("utf-8", "surrogateescape") + b"=" + text)


def _length(file: BinaryIO, kind: bytes) -> int:
    length = shift = 0
    while True:
        byte = file.read(1)
        if shift > 24:
            raise BadRecord(f"too many length bits, record type {kind[0]}")
        if not byte:
            raise BadRecord(f"unexpected EOF reading length, record type {kind[0]}")
        length |= (byte[0] & 127) << shift
        if byte[0] < 128:
            break
        shift += 7
    if length > LONGEST:
        raise BadRecord(f"illegal length {length}, record type {kind[0]}")
    return length


def read_records(file: BinaryIO, *, raw: bool = False, start: int | None = None) -> Iterator[Record]:
    """The records of ``file`` from ``start`` (default: from where it is) to its end."""
    at = file.tell() if start is None else start
    left = size = file.seek(0, os.SEEK_END)
    file.seek(at)
    begin = at
    passed = 0
    while kind := file.read(1):
        head = file.read(1)
        if head and head[0] < 128:
            length, used = head[0], 2
        else:
            file.seek(at + 1)
            length = _length(file, kind)
            used = 1 + max(1, -(-length.bit_length() // 7))
        data = file.read(length)
        if len(data) != length:
            raise BadRecord(f"unexpected EOF in data, record type {kind[0]} length {length}")
        record = Record(begin, kind, data)
        at += used + length
        left -= used + length
        if left < 0:
            raise BadRecord("pointers lead round and round")
        if raw or kind not in (POINTER, PADDING):
            begin = at
            yield record
            if kind == END and not raw:
                return
            continue
        passed += 1
        if passed > _MOST_PASSED:
            raise BadRecord("too many pointers")
        if kind == POINTER and (to := target(data)):
            if to > size:
                raise BadRecord("a pointer to nowhere")
            at = to
            file.seek(at)


def target(data: bytes) -> int:
    """Where a pointer leads; 0: on."""
    digits = data.strip()
    if not digits.isdigit() or len(digits) > 18:
        raise BadRecord("a pointer to nowhere")
    return int(digits)
