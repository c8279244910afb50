"""A message's content taken apart into headers and bodies, as it arrives.

:class:`MimeState` is fed content with CRLF line ends in pieces and gives events; however it is cut, the
headers are the same and the bodies the same in sum.  It follows parts and attached messages as far as
boundaries lead, but between boundaries it looks at no line: a body comes out in slabs.  It can report what
is improper, and turn parts with 8 bits into quoted-printable.  Nothing is raised.

Lines of ``line_length_limit`` bytes and more are taken as several, as Postfix's records are.

RFC 2045, RFC 2046, RFC 5322.  Postfix counterpart: ``mime_state(3)``.
"""

from __future__ import annotations

import re

from mtad.mime.events import (
    MULTIPART,
    NESTED,
    NO_FAULT,
    PRIMARY,
    Body,
    Event,
    Fault,
    Header,
    HeadersEnd,
    MimeOptions,
    Report,
)
from mtad.mime.parameters import WORD, fields, first
from mtad.mime.quoted import QuotedPrintable

_BODY = "body"

_OTHER, _TEXT, _MESSAGE, _MULTI = "", "text", "message", "multipart"
_SEVEN, _EIGHT, _BINARY = "7bit", "8bit", "binary"
_DOMAINS = {
    b"7bit": _SEVEN,
    b"8bit": _EIGHT,
    b"binary": _BINARY,
    b"base64": _SEVEN,
    b"quoted-printable": _SEVEN,
}

#: A whole header with the lines that continue it, and its name alone.
_HEADER = re.compile(rb"([!-9;-~]+)[ \t]*(:[^\r\n\0]*(?:\r\n[ \t][^\r\n\0]*)*)\r\n(?![ \t])")
_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
#: What needs no parser: the usual type.
_PLAIN_TEXT = re.compile(rb"[ \t]*text/([a-z0-9.+-]+)[ \t]*(?:;|\Z)", re.IGNORECASE)
_EIGHT_BIT = re.compile(rb"[\x80-\xff]")
_BLANKS = (b" ", b"\t")
_LONGEST_SHOWN = 100


class MimeState:
    """See the module.

    ``flat`` turns true when all that follows is body, whatever it is: it need not be fed in any more.
    """

    __slots__ = (
        "_at_offset_0", "_boundaries", "_buffer", "_checking", "_convert", "_converter", "_delimiters",
        "_domain", "_encoding", "_events", "_head", "_head_name", "_limits", "_mid_line", "_options",
        "_place", "_subtype", "_type", "faults", "flat",
    )  # fmt: skip

    def __init__(self, options: MimeOptions) -> None:
        self._options = options
        self._limits = options.limits
        self._convert = options.convert
        self._checking = options.check_body  # and nothing was found yet
        self._buffer = b""
        self._events: list[Event] = []
        self._head = b""  # a header that may go on
        self._head_name = b""
        self._mid_line = False  # the last record was the beginning of a long line
        self._boundaries: list[tuple[bytes, str, str]] = []  # the innermost last; default type of its parts
        self._delimiters: tuple[bytes, ...] = ()  # the boundaries alone
        self._converter = QuotedPrintable()
        self._at_offset_0 = True
        self.faults = NO_FAULT
        self.flat = False
        self._begin(PRIMARY, _TEXT, "plain")

    def feed(self, data: bytes) -> list[Event]:
        """Take a piece; gives what it makes known."""
        self._buffer = self._buffer + data if self._buffer else data
        return self._take(final=False)

    def finish(self) -> list[Event]:
        """The content is complete; it ends with a line."""
        events = self._take(final=True)
        if self._mid_line:
            self._record(b"", False)
        if self._place != _BODY:
            self._flush_header()
            self._end_headers(b"")
            self._body_begins()
        events += self._events
        self._events = []
        return events

    def _begin(self, place: str, content_type: str, subtype: str) -> None:
        """A new entity, or what is between two."""
        self._place = place
        self._type, self._subtype = content_type, subtype
        self._encoding = self._domain = _SEVEN
        if place == _BODY:
            self._at_offset_0 = True

    # -- cutting

    def _take(self, final: bool) -> list[Event]:
        at = 0
        while at >= 0:
            start = at
            at = self._body(start, final) if self._place == _BODY else self._headers(start, final)
        self._buffer = self._buffer[start:] if start else self._buffer
        events, self._events = self._events, []
        return events

    def _headers(self, at: int, final: bool) -> int:
        """Take headers, or one record.  Gives where to go on, -1: more input is needed."""
        if not self._head and not self._mid_line:
            after = self._usual_headers(at, final)
            if after > at:
                return after
        record = self._cut(at, final)
        if record is None:
            return -1
        text, partial, end = record
        self._record(text, partial)
        return end

    def _usual_headers(self, at: int, final: bool) -> int:
        """Take headers that are whole, and not as long as a record.  Gives where they end."""
        buffer, match, longest = self._buffer, _HEADER.match, self._options.usual
        last = len(buffer) if final else len(buffer) - 1  # behind it, more blanks may come
        add = self._events.append
        simple, place = not self._options.check_headers, self._place
        while (found := match(buffer, at)) is not None:
            end = found.end()
            if end > last or end - at >= longest:
                break
            name, value = found.groups()
            if b"\n" in value:
                value = value.replace(b"\r\n", b"\n")
            key = name.lower()
            if simple and key[:8] != b"content-":
                add(Header(place, key, name + value))
            else:
                self._head_name, self._head = name, name + value
                self._flush_header()
            at = end
        return at

    def _cut(self, at: int, final: bool) -> tuple[bytes, bool, int] | None:
        """The record at ``at``, whether the line goes on behind it, and where the next one begins."""
        buffer, limit = self._buffer, self._limits.line_length
        newline = buffer.find(b"\n", at, at + limit + 2)
        if newline >= 0:
            end = newline - 1 if buffer[newline - 1 : newline] == b"\r" and newline > at else newline
            if end - at < limit:
                return buffer[at:end], False, newline + 1
        if len(buffer) - at > limit:
            return buffer[at : at + limit], True, at + limit
        if final and at < len(buffer):
            return buffer[at:], False, len(buffer)
        return None

    # -- headers

    def _record(self, text: bytes, partial: bool) -> None:
        """A record where headers are."""
        if self._head:
            if self._mid_line or text[:1] in _BLANKS:
                if len(self._head) < self._limits.header_size:
                    more = text.partition(b"\0")[0]
                    self._head += more if self._mid_line else b"\n" + more
                self._mid_line = partial
                return
            self._flush_header()
        name = _NAME.match(text)
        if name is not None:
            self._head_name = name[1]
            self._head = name[1] + text[name.end() - 1 :].partition(b"\0")[0]
            self._mid_line = partial
            return
        primary = self._place == PRIMARY
        self._end_headers(text)
        if text:
            if primary:
                self._out(b"\r\n")
            self._body_begins()
        else:
            self._at_offset_0 = True
            self._descend()
        self._body_record(text, partial)

    def _flush_header(self) -> None:
        """The header that was put together is complete."""
        text, self._head = self._head, b""
        self._mid_line = False
        if not text:
            return
        name = self._head_name.lower()
        if self._options.mime:
            if name == b"content-type":
                self._content_type(text)
            elif name == b"content-transfer-encoding":
                self._transfer_encoding(text)
                if self._convert and self._domain != _SEVEN:
                    self._check_header(text)
                    return  # another one is written where the headers end
        self._check_header(text)
        self._events.append(Header(self._place, name, text))

    def _check_header(self, text: bytes) -> None:
        if self._options.check_headers and not text.isascii():
            self._report(Fault.EIGHT_BIT_HEADER, text)

    def _content_type(self, text: bytes) -> None:
        plain = _PLAIN_TEXT.match(text, len("content-type:"))
        if plain is not None:
            self._type, self._subtype = _TEXT, plain[1].lower().decode()
            return
        parts = fields(text[len("content-type:") :])
        tokens = next(parts, [])
        words = [value.lower() if kind == WORD else b"" for kind, value in tokens]
        if not tokens:
            self._type = _OTHER
            return
        slash = len(tokens) >= 3 and tokens[1][0] == "/"
        subtype = words[2].decode("latin-1") if slash else ""
        if words[0] == b"text":
            self._type, self._subtype = _TEXT, subtype
        elif words[0] == b"message":
            self._type, self._subtype = _MESSAGE, subtype
        elif words[0] == b"multipart":
            self._type = _MULTI
            inner = (_MESSAGE, "rfc822") if subtype == "digest" else (_TEXT, "plain")
            for tokens in parts:
                self._boundary(tokens, inner, text)

    def _boundary(self, tokens: list[tuple[str, bytes]], inner: tuple[str, str], text: bytes) -> None:
        if len(tokens) < 3 or tokens[0][0] != WORD or tokens[0][1].lower() != b"boundary":
            return
        if tokens[1][0] != "=":
            return
        if len(self._boundaries) - 1 > self._limits.nesting:
            if self._options.nesting:
                self._report(Fault.NESTING, text)
            return
        boundary = tokens[2][1][: self._limits.boundary_length]
        self._boundaries.append((boundary, *inner))
        self._delimiters = (*self._delimiters, boundary)

    def _transfer_encoding(self, text: bytes) -> None:
        token = first(text.partition(b":")[2])
        if token is not None and token[0] == WORD:
            domain = _DOMAINS.get(token[1].lower())
            if domain is not None:
                self._encoding, self._domain = token[1].lower().decode(), domain

    def _end_headers(self, text: bytes) -> None:
        """The headers of an entity are over, by a line ``text``."""
        kind, subtype = self._type, self._subtype
        if self._convert and self._domain != _SEVEN:
            whole = kind == _MULTI or (kind == _MESSAGE and subtype != "global")
            encoding = b"7bit" if whole else b"quoted-printable"
            self._events.append(Header(self._place, b"", b"Content-Transfer-Encoding: " + encoding))
        if self._place == PRIMARY:
            if text and self._options.end_of_headers:
                self._report(Fault.END_OF_HEADERS, text)
            self._events.append(HeadersEnd())
        if kind in (_MESSAGE, _MULTI) and self._options.encoding:
            if kind == _MESSAGE and subtype in ("partial", "external-body"):
                bad = self._domain != _SEVEN
            else:
                bad = kind == _MULTI or (kind == _MESSAGE and subtype == "rfc822")
                bad = bad and self._encoding != self._domain
            if bad:
                self._report(Fault.ENCODING, self._encoding.encode())

    def _descend(self) -> None:
        """Behind an empty line: into an attached message, or to the body."""
        if self._type == _MULTI:
            self._begin(_BODY, _OTHER, "")
        elif self._type == _MESSAGE and (
            self._subtype == "rfc822"
            or (self._subtype == "global" and not (self._convert and self._domain != _SEVEN))
        ):
            self._begin(NESTED, _TEXT, "plain")
        else:
            self._body_begins()

    # -- bodies

    def _body_begins(self) -> None:
        self._place = _BODY
        self._at_offset_0 = True

    def _body_record(self, text: bytes, partial: bool) -> None:
        """One record of body, which may be a boundary."""
        self._check_body(text)
        if self._boundaries and not self._mid_line and text[:2] == b"--":
            self._cross(text)
        self._mid_line = partial
        self._out(text if partial else text + b"\r\n", partial)

    def _cross(self, text: bytes) -> None:
        """Is this line the boundary of what we are in, or of what is around that?"""
        if not text.startswith(self._delimiters, 2):
            return
        for depth in range(len(self._boundaries), 0, -1):
            boundary, kind, subtype = self._boundaries[depth - 1]
            if text.startswith(boundary, 2):
                del self._boundaries[depth:]
                if text.startswith(b"--", 2 + len(boundary)):
                    self._boundaries.pop()
                    self._begin(_BODY, _OTHER, "")
                else:
                    self._begin(MULTIPART, kind, subtype)
                self._delimiters = tuple(each[0] for each in self._boundaries)
                return

    def _body(self, at: int, final: bool) -> int:
        """Take as much body as there is, up to a boundary.  As :meth:`_headers`."""
        buffer = self._buffer
        end = len(buffer)
        if at == end:
            return -1
        converting = self._convert and self._domain != _SEVEN
        if not (self._boundaries or self._checking or converting or self._options.records):
            self.flat = not self._mid_line  # the rest of a long line decides where its pieces begin
            if self.flat:
                self._out(buffer[at:])
                return end
        stop = self._whole(at, final)
        if stop <= at:
            return -1
        found = self._next_dashes(at, stop)
        if found == at and not self._mid_line:
            record = self._cut(at, final)
            if record is None:
                return -1
            self._body_record(record[0], record[1])
            return record[2]
        stop = min(stop, found)
        self._slab(buffer[at:stop])
        return stop

    def _whole(self, at: int, final: bool) -> int:
        """Up to where the buffer holds whole records."""
        buffer, limit = self._buffer, self._limits.line_length
        end = len(buffer)
        if final:
            return end
        newline = buffer.rfind(b"\n", at)
        start = newline + 1 if newline >= 0 else at
        long = (end - start - 1) // limit * limit
        return start + max(0, long)

    def _next_dashes(self, at: int, stop: int) -> int:
        """Where the next line begins that may be a boundary; ``stop``: none does."""
        if not self._boundaries:
            return stop
        buffer = self._buffer
        if not self._mid_line and buffer.startswith(b"--", at) and self._may_cross(at):
            return at
        while True:
            at = buffer.find(b"\n--", at, stop + 2) + 1
            if at <= 0 or at >= stop:
                return stop
            if self._may_cross(at):
                return at

    def _may_cross(self, at: int) -> bool:
        return self._buffer.startswith(self._delimiters, at + 2)

    def _slab(self, data: bytes) -> None:
        """Records without a boundary."""
        if self._checking and self._encoding == _SEVEN and not data.isascii():
            data = self._up_to_fault(data)
        partial = not data.endswith(b"\n")
        self._mid_line = partial
        self._out(data, partial)

    def _up_to_fault(self, data: bytes) -> bytes:
        """Give out the records before the first with 8 bits, report that one, and give it and the rest."""
        found = _EIGHT_BIT.search(data)
        assert found is not None
        start = data.rfind(b"\n", 0, found.start()) + 1
        start += (found.start() - start) // self._limits.line_length * self._limits.line_length
        end = data.find(b"\r\n", start)
        record = data[start : end if end >= 0 else len(data)][: self._limits.line_length]
        if start:
            self._out(data[:start], not data.endswith(b"\n", 0, start))
        self._report(Fault.EIGHT_BIT_BODY, record)
        return data[start:]

    def _check_body(self, text: bytes) -> None:
        if self._checking and self._encoding == _SEVEN and not text.isascii():
            self._report(Fault.EIGHT_BIT_BODY, text)

    def _out(self, data: bytes, partial: bool = False) -> None:
        if self._convert and self._domain != _SEVEN:
            data = self._converter.feed(data, partial)
            if not data:
                return
        self._events.append(Body(data, self._at_offset_0))
        self._at_offset_0 = False

    def _report(self, fault: Fault, text: bytes) -> None:
        if not self.faults & fault:
            self.faults |= fault
            self._checking = self._checking and fault is not Fault.EIGHT_BIT_BODY
            self._events.append(Report(fault, text[:_LONGEST_SHOWN]))
