"""Messages as Postfix's queue files have them, read and written.

:class:`QueueFile` reads a file in its three parts: the envelope, the content, what was extracted from it.
:func:`write_message` writes one.  Content has CRLF at line ends with us and records for lines in the file.
What mtad has no field for is kept among the message's attributes under the name that postcat(1) gives it, so
that it is there again in a file that is written later.
Raises :class:`~mtad.queue.postfix.records.BadRecord` for a file that is no whole message.

RFC 3461.  Postfix counterpart: ``cleanup_envelope.c``, ``cleanup_extracted.c``, ``qmgr_message.c``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from mtad.queue.message import Message, Recipient
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.records import BadRecord, attribute, pack, read_records
from mtad.queue.untold import ATTRIBUTE as UNTOLD
from mtad.queue.untold import unpacked
from mtad.wire.command import utf8_xtext_decode, utf8_xtext_encode, xtext_decode, xtext_encode

#: What stands before the semicolon of an original recipient (RFC 3461 section 4.2).
_ADDRESS_TYPE = re.compile(rb"[A-Za-z0-9-]+")
_NOTIFY = ((b"NEVER", 1), (b"SUCCESS", 2), (b"FAILURE", 4), (b"DELAY", 8))
_RETURN = {b"FULL": 1, b"HDRS": 2}
_BODY = {b"7BIT": "7bit", b"8BITMIME": "8bit"}

_UTF8_REQUESTED, _UTF8_HEADER, _UTF8_SENDER = 1, 2, 4
#: What a header says, and the client.
TLS_OPTIONAL, _TLS_REQUIRED = 16, 32

#: What trace_flags mean: the mail system's own question whether an address is good, or a user's wishes.
_PROBE = "256"
_TRACED = {_PROBE: {"probe": "yes"}, "512": {"trace_flags": "512"}, "1024": {"trace_flags": "1024"}}
#: Records that become attributes of the same meaning.
_KEPT = {
    rec.FULL_NAME: "sender_fullname",
    rec.INSPECTOR: "content_inspector",
    rec.FILTER: "filter",
    rec.VERP: "verp_delimiters",
}
_KINDS = {name: kind for kind, name in _KEPT.items()}
#: Of these the last counts: what access tables and header checks say comes behind main.cf's.
_LAST = (rec.INSPECTOR, rec.FILTER)
#: Attributes of ours, and how they look that are not taken for nothing.
_OURS = {
    "release": re.compile(r"[0-9]{1,12}"),
    "deliver_by": re.compile(r"[0-9]{1,12};[RN]T?"),
    "mt_priority": re.compile(r"-?[0-9]"),
    UNTOLD: re.compile("never"),
}
#: Attributes that go before the sender's record, as cleanup(8) writes them.
_EARLY = ("log_ident", "rewrite_context")
#: What smtpd(8) says of the client for the log, and where we have it.
_CLIENT = (
    ("log_client_name", "client_name"),
    ("log_client_address", "client_address"),
    ("log_client_port", "client_port"),
    ("log_helo_name", "helo_name"),
    ("log_protocol_name", "protocol_name"),
)
#: Content is cut into pieces of about this size on its way.
_CHUNK = 65536
#: Longer lines are cut into records that do not end one (line_length_limit).
_LINE = 2048


@dataclass(slots=True)
class Envelope:
    """What a queue file says of its message before and behind the content."""

    arrival: float = 0.0
    sender: bytes | None = None
    recipients: list[Recipient] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ret: bytes = b""
    envid: bytes = b""
    options: int = 0
    warned: bool = False
    redirect: bytes = b""  # who gets the message in place of all recipients
    #: of the recipient that comes next
    original: bytes = b""
    orcpt: bytes = b""
    notify: frozenset[bytes] = frozenset()

    def message(self, queue_id: str) -> Message:
        """The message, without content.  Raises BadRecord where there is no sender."""
        if self.sender is None:
            raise BadRecord("no sender")
        if self.redirect and self.recipients:
            first = self.recipients[0]
            self.recipients = [Recipient(self.redirect, first.original, first.notify, first.orcpt)]
        if self.options & _TLS_REQUIRED:
            self.attributes["requiretls"] = "yes"
        if self.options & TLS_OPTIONAL:
            self.attributes["tls_required_no"] = "yes"
        return Message(
            queue_id, self.sender, self.recipients, self.arrival, body=self.body,
            smtputf8=bool(self.options & _UTF8_REQUESTED), ret=self.ret, envid=self.envid,
            attributes=self.attributes, warned=self.warned,
        )  # fmt: skip

    def take(self, kind: bytes, data: bytes) -> None:
        """One record of it."""
        if kind == rec.ATTRIBUTE:
            name, equals, value = data.partition(b"=")
            mapped = rec.MAPPED.get(name)
            if not name or not equals:
                return
            if mapped is None or mapped == rec.CREATED:
                self._attribute(name.decode("utf-8", "replace"), value.decode("utf-8", "replace"))
                return
            kind, data = mapped, value
        if kind == rec.RECIPIENT:
            recipient = Recipient(data, self.original or data, self.notify, self.orcpt)
            self.recipients.append(recipient)
        if kind in (rec.RECIPIENT, rec.DONE, rec.CANCELED):
            self.original, self.orcpt, self.notify = b"", b"", frozenset()
        elif kind == rec.ORIGINAL:
            self.original = data
        elif kind == rec.ORCPT:
            self.orcpt = encoded_orcpt(data)
        elif kind == rec.NOTIFY:
            self.notify = notify_words(data)
        else:
            self._take_other(kind, data)

    def _take_other(self, kind: bytes, data: bytes) -> None:
        if kind == rec.SENDER and self.sender is None:
            self.sender = data
        elif kind == rec.TIME and not self.arrival:
            seconds, _, micros = data.strip().partition(b" ")
            self.arrival = _digits(seconds) + _digits(micros) / 1_000_000
        elif kind == rec.SIZE:
            fields = data.split()
            self.options = _digits(fields[5]) if len(fields) > 5 else 0
        elif kind == rec.WARN:
            self.warned = _digits(data) == 0  # 0, or -1 since it is remembered
        elif kind == rec.REDIRECT:
            self.redirect = data
        elif kind == rec.ENVELOPE_ID:
            self.envid = xtext_encode(data)
        elif kind == rec.RETURN:
            self.ret = {1: b"FULL", 2: b"HDRS"}.get(_digits(data), b"")
        elif kind in _LAST or (kind in _KEPT and _KEPT[kind] not in self.attributes):
            self.attributes[_KEPT[kind]] = data.decode("utf-8", "replace")

    def _attribute(self, name: str, value: str) -> None:
        if name == "encoding":
            self.body = {"8bit": b"8BITMIME", "7bit": b"7BIT"}.get(value, b"")
        elif name == "trace_flags":
            self.attributes |= _TRACED.get(value, {})
        elif name not in _OURS or _OURS[name].fullmatch(value):
            self.attributes[name] = value


class QueueFile:
    """A queue file, or one of the maildrop: call the methods in their order.  ``envelope`` is filled."""

    def __init__(self, file: BinaryIO, envelope: Envelope | None = None) -> None:
        self._records = read_records(file)
        self.envelope = envelope or Envelope()

    def read_envelope(self) -> Envelope:
        """What comes before the content."""
        for _, kind, data in self._records:
            if kind == rec.MESSAGE:
                return self.envelope
            if kind not in rec.ENVELOPE_TYPES:
                raise BadRecord(f"a record of type {kind!r} in the envelope")
            self.envelope.take(kind, data)
        raise BadRecord("no message content")

    def content(self) -> Iterator[bytes]:
        """The content, in pieces, with CRLF at the ends of its lines."""
        parts: list[bytes] = []
        size = 0
        for _, kind, data in self._records:
            if kind == rec.LINE:
                parts.append(data)
                parts.append(b"\r\n")
            elif kind == rec.UNENDED:
                parts.append(data)
            elif kind == rec.EXTRACTED:
                break
            else:
                raise BadRecord(f"a record of type {kind!r} in the content")
            size += len(data) + 2
            if size > _CHUNK:
                yield b"".join(parts)
                parts.clear()
                size = 0
        else:
            raise BadRecord("the content has no end")
        if parts:
            yield b"".join(parts)

    def read_rest(self) -> Envelope:
        """What comes behind the content, added to the envelope."""
        for _, kind, data in self._records:
            if kind == rec.END:
                return self.envelope
            if kind not in rec.EXTRACTED_TYPES:
                raise BadRecord(f"a record of type {kind!r} behind the content")
            self.envelope.take(kind, data)
        raise BadRecord("the file has no end")


def write_message(
    file: BinaryIO, message: Message, content: Iterable[bytes], *, created: float, warn_after: float = 0.0
) -> dict[int, int]:
    """Write ``message`` to the empty ``file``; tells where the recipients' records are, by id.

    ``created``: when the message expires counts from here, where it does not say itself; ``warn_after``:
    delay_warning_time."""
    recipients: dict[int, int] = {}
    file.write(pack(rec.SIZE, _size_record(0, 0, 0, 0, 0)))
    for data in _envelope(message, created, warn_after):
        file.write(data)
    told = {outcome.status for outcome in unpacked(message)} - {"bounced"}
    masks = notify_mask(frozenset((b"SUCCESS",))) if told else 0  # so that it is looked for
    for recipient in message.recipients:
        mask = notify_mask(recipient.notify)
        masks |= mask
        if mask:
            file.write(attribute("notify_flags", mask))
        if recipient.orcpt:
            file.write(attribute("dsn_orig_rcpt", decoded_orcpt(recipient.orcpt)))
        file.write(pack(rec.ORIGINAL, recipient.original or recipient.address))
        recipients[recipient.id] = file.tell()
        file.write(pack(rec.RECIPIENT, recipient.address))
    file.write(pack(rec.MESSAGE, b""))
    begin = file.tell()
    header = _Header()
    for piece in content_records(header.watch(content)):
        file.write(piece)
    end = file.tell()
    file.write(pack(rec.EXTRACTED, b""))
    if message.body in _BODY:
        file.write(attribute("encoding", _BODY[message.body]))
    file.write(pack(rec.END, b""))
    length = file.tell()
    file.seek(0)
    options = _options(message, header.ascii)
    file.write(pack(rec.SIZE, _size_record(end - begin, begin, len(message.recipients), masks << 1, options)))
    file.seek(length)
    return recipients


def _envelope(message: Message, created: float, warn_after: float) -> Iterator[bytes]:
    attributes = dict(message.attributes)
    attributes.pop(UNTOLD, None)
    if attributes.pop("probe", ""):
        attributes["trace_flags"] = _PROBE
    elif any(recipient.reason for recipient in message.recipients):
        attributes.pop("trace_flags", None)  # the first attempt is what was traced
    seconds, micros = divmod(round(message.arrival * 1_000_000), 1_000_000)
    yield pack(rec.TIME, b"%d %d" % (seconds, micros))
    yield attribute("create_time", attributes.pop("create_time", "") or int(created))
    for name in _EARLY:
        if name in attributes:
            yield attribute(name, attributes.pop(name))
    if message.envid:
        yield attribute("envelope_id", xtext_decode(message.envid) or message.envid)
    if message.ret in _RETURN:
        yield attribute("ret_flags", _RETURN[message.ret])
    kept = {name: attributes.pop(name) for name in _KINDS if name in attributes}
    if name := kept.pop("sender_fullname", ""):
        yield pack(rec.FULL_NAME, _encoded(name))
    yield pack(rec.SENDER, message.sender)
    if message.body in _BODY:
        yield attribute("encoding", _BODY[message.body])
    for name in ("requiretls", "tls_required_no"):
        attributes.pop(name, None)
    if "client_name" in attributes and "log_client_name" not in attributes:
        for name, ours in _CLIENT:
            if attributes.get(ours):
                yield attribute(name, attributes[ours])
        origin = f"{attributes['client_name']}[{attributes.get('client_address', '')}]"
        yield attribute("log_message_origin", origin)
    for name, value in attributes.items():
        if value:
            yield attribute(name, value)
    for name, value in kept.items():
        yield pack(_KINDS[name], _encoded(value))
    if message.warned:
        yield pack(rec.WARN, b"%15d" % -1)
    elif warn_after and message.sender:
        yield pack(rec.WARN, b"%15d" % (message.arrival + warn_after))


def _encoded(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def _size_record(size: int, offset: int, recipients: int, flags: int, options: int) -> bytes:
    return b"%15d %15d %15d %15d %15d %15d" % (size, offset, recipients, flags, size, options)


class _Header:
    """Whether the header section that passes by is ASCII."""

    def __init__(self) -> None:
        self.ascii = True

    def watch(self, content: Iterable[bytes]) -> Iterator[bytes]:
        within, last = True, b""
        for chunk in content:
            if within:
                seen = last + chunk
                end = seen.find(b"\r\n\r\n")
                within = end < 0
                last = seen[-3:]
                self.ascii &= (seen if within else seen[:end]).isascii()
            yield chunk


def _options(message: Message, ascii_header: bool) -> int:
    """The message's flags about SMTPUTF8 and TLS."""
    options = _UTF8_REQUESTED if message.smtputf8 else 0
    if message.smtputf8:
        if not message.sender.isascii():
            options |= _UTF8_SENDER
        if not ascii_header:
            options |= _UTF8_HEADER
    if message.attributes.get("requiretls"):
        options |= _TLS_REQUIRED
    if message.attributes.get("tls_required_no"):
        options |= TLS_OPTIONAL
    return options


def content_records(content: Iterable[bytes]) -> Iterator[bytes]:
    """Records for the lines of ``content``, many at a time."""
    rest = b""
    for chunk in content:
        lines = (rest + chunk).split(b"\r\n")
        rest = lines.pop()
        if lines:
            yield b"".join([_line(line) for line in lines])
    if rest:
        yield _pieces(rest[: -1 if rest.endswith(b"\r") else None], rec.UNENDED)


def _line(line: bytes) -> bytes:
    return pack(rec.LINE, line) if len(line) <= _LINE else _pieces(line, rec.LINE)


def _pieces(line: bytes, last: bytes) -> bytes:
    ends = range(0, len(line), _LINE)
    return b"".join(
        [pack(rec.UNENDED if at + _LINE < len(line) else last, line[at : at + _LINE]) for at in ends]
    )


def notify_mask(notify: frozenset[bytes]) -> int:
    """The number that stands for these words."""
    return sum(bit for word, bit in _NOTIFY if word in notify)


def _digits(data: bytes) -> int:
    data = data.strip()
    return int(data) if data.isdigit() and len(data) < 20 else 0


def notify_words(data: bytes) -> frozenset[bytes]:
    """What the number stands for; nothing where it says both that the sender is told and that nobody is."""
    mask = _digits(data)
    if mask > 1 and mask & 1:
        return frozenset()
    return frozenset(word for word, bit in _NOTIFY if mask & bit)


def encoded_orcpt(data: bytes) -> bytes:
    """The original recipient as it is sent, of the form that a file has."""
    kind, colon, address = data.partition(b";")
    if not colon or not _ADDRESS_TYPE.fullmatch(kind):
        return b""
    encode = utf8_xtext_encode if kind.lower() == b"utf-8" else xtext_encode
    return kind + b";" + encode(address)


def decoded_orcpt(orcpt: bytes) -> bytes:
    """The original recipient as a file has it, of the form that is sent."""
    kind, _, address = orcpt.partition(b";")
    decode = utf8_xtext_decode if kind.lower() == b"utf-8" else xtext_decode
    return kind + b";" + (decode(address) or address)
