"""What the SMTP client changes of messages as they go out.

:class:`Converter` holds the rules of one transport: ``smtp_generic_maps`` for addresses of envelopes and
headers, ``smtp_header_checks`` and its sisters, and the conversion of 8 bits to 7 for servers that don't take
them.  Where none of it applies (:meth:`Converter.needed`), content goes out as it is.  Raises
:class:`ConversionFailed` when a message can't be converted.

RFC 6152 section 3, RFC 2045 section 6.7.  Postfix counterpart: ``smtp_map11.c``, ``smtp_header_rewrite()``,
``SMTP_MIME_DOWNGRADE``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile

from mtad.config.parameters import Parameters
from mtad.errors import MtadError
from mtad.maillog import MailLog, printable
from mtad.mime.checks import Checks
from mtad.mime.events import FAULTS, PRIMARY, Body, Header, MimeLimits, MimeOptions, Wants, worst
from mtad.mime.folding import folded, limited
from mtad.mime.names import HEADERS, RECIPIENT, SENDER
from mtad.mime.state import MimeState
from mtad.queue.message import Message
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.rewrite.mapping import Mapper
from mtad.tables.maps import Maps
from mtad.wire.client_events import Extensions
from mtad.wire.tokens import addresses, header_text, internal, parse, quote, scan

#: Converted content beyond this size waits in a file.
_SMALL = 1 << 20
_PIECE = 65536


class ConversionFailed(Exception):
    """A message can't be converted: a status and the reason.  ``temporary``: it may be tried again."""

    def __init__(self, dsn: str, text: str, *, temporary: bool) -> None:
        super().__init__(text)
        self.dsn = dsn
        self.text = text
        self.temporary = temporary


class Converter:
    """See the module.  ``prefix`` is that of the transport's parameters in main.cf (``smtp_``, ``lmtp_``);
    ``pause`` lets others have their turn."""

    def __init__(
        self, p: Parameters, log: MailLog, pause: Callable[[], Awaitable[None]], *, prefix: str = "smtp_"
    ) -> None:
        self._log = log
        self._pause = pause
        self._checks = Checks(p, "smtp_", log.warning, title=prefix, unknown="unsupported command")
        name = "smtp_generic_maps"
        self._generic = Maps(p[name], p.directory, title=f"{prefix}generic_maps", warn=log.warning)
        self._propagate = "generic" in p.words("propagate_unmatched_extensions")
        self._mapper: Mapper | None = None
        if self._generic:
            classes = AddressClasses(p)
            self._mapper = Mapper(Rewriter(p), p["recipient_delimiter"], classes.is_local_domain)
        self._convert = not p.flag("disable_mime_output_conversion")
        self._limits = MimeLimits(
            header_size=p.number("header_size_limit"),
            line_length=p.number("line_length_limit"),
            boundary_length=p.number("mime_boundary_length_limit"),
            nesting=p.number("mime_nesting_limit"),
        )
        self.maps_addresses = bool(self._generic)
        self._always = self.maps_addresses or self._checks.headers or self._checks.body

    def downgrades(self, message: Message, offered: Extensions) -> bool:
        """Whether 8 bits of this message have to become 7 for this server."""
        return self._convert and not offered.eightbitmime and message.body != b"7BIT"

    def needed(self, message: Message, offered: Extensions) -> bool:
        """Whether the message is not to go out as it is."""
        return self._always or self.downgrades(message, offered)

    async def address(self, address: bytes) -> bytes:
        """An envelope address by ``smtp_generic_maps``; internal form."""
        if not address or self._mapper is None:
            return address
        found = await self._mapped(address)
        return address if found is None else found

    async def content(
        self, message: Message, pieces: Iterable[bytes], offered: Extensions
    ) -> Iterator[bytes]:
        """The content of a message as it is to go out."""
        downgrading = self.downgrades(message, offered)
        wants = Wants.CONVERT | Wants.NESTING if downgrading else Wants(0)
        if not downgrading and not (self._checks.headers or self._checks.body):
            wants = Wants.NO_MIME
        if self._checks.body:
            wants |= Wants.RECORDS
        work = _Work(self, message, MimeState(MimeOptions(wants, self._limits)))
        with ExitStack() as stack:
            out = stack.enter_context(SpooledTemporaryFile(max_size=_SMALL))
            try:
                for number, piece in enumerate(pieces):
                    if number:
                        await self._pause()
                    out.write(await work.take(piece))
                out.write(await work.take(b"", final=True))
            except MtadError as error:
                for text in (str(error), *getattr(error, "__notes__", ())):
                    self._log.warning(text)
                raise ConversionFailed("4.3.0", "local data error", temporary=True) from error
            stack.pop_all()
        out.seek(0)
        return _pieces(out)

    async def _mapped(self, address: bytes) -> bytes | None:
        """What the tables have for an address, in internal forms."""
        assert self._mapper is not None
        try:
            found = await self._mapper.results(self._generic, address, self._propagate)
        except MtadError as error:
            shown = f"{self._generic.title} map lookup problem for {printable(address)}"
            self._log.warning(str(error))
            self._log.warning(shown)
            raise ConversionFailed("4.3.0", "local data error", temporary=True) from error
        if found is None:
            return None
        if len(found) > 1:
            self._log.warning(f"multi-valued {self._generic.title} result for {printable(address)}")
        return found[0]

    async def header(self, header: Header, actor: _Work) -> bytes:
        """What goes out of a header."""
        texts = [header.text]
        if self._checks.headers:
            texts = await self._checks.header(header, actor)
        out = b"".join([limited(text) for text in texts[:-1]])
        if not texts:
            return out
        text = texts[-1]
        about = HEADERS.get(header.name, 0)
        if self._mapper is not None and header.kind == PRIMARY and about & (SENDER | RECIPIENT):
            text = await self._generic_header(text, len(header.name))
        return out + limited(text)

    async def _generic_header(self, text: bytes, name: int) -> bytes:
        tokens = parse(text[name + 1 :])
        changed = False
        for address in addresses(tokens):
            before = internal(address)
            found = await self._mapped(before)
            changed |= found is not None
            address.parts, address.loose = scan(quote(before if found is None else found)), True
        if not changed:
            return text
        return folded(text[:name] + b": " + header_text(tokens, self._log.warning))

    async def body(self, data: bytes, actor: _Work) -> bytes:
        """What goes out of a piece of a body."""
        if not self._checks.body:
            return data
        return await self._checks.body_part(data, self._limits.line_length, actor, _always)

    def note(self, line: str) -> None:
        self._log.info(line)

    def warn(self, text: str) -> None:
        self._log.warning(text)


class _Work:
    """One message on its way through a converter; the actor of its checks."""

    __slots__ = ("_converter", "_message", "_state")

    def __init__(self, converter: Converter, message: Message, state: MimeState) -> None:
        self._converter = converter
        self._message = message
        self._state = state

    async def take(self, piece: bytes, final: bool = False) -> bytes:
        converter, state = self._converter, self._state
        out: list[bytes] = []
        for event in state.finish() if final else state.feed(piece):
            if type(event) is Header:
                out.append(await converter.header(event, self))
            elif type(event) is Body:
                out.append(await converter.body(event.data, self))
        if state.faults:
            dsn, words = FAULTS[worst(state.faults)]
            raise ConversionFailed(dsn, words, temporary=False)
        return b"".join(out)

    def note(self, action: str, where: str, text: bytes, argument: bytes) -> None:
        shown = printable(text.partition(b"\0")[0][:200])
        line = f"{self._message.queue_id}: {action}: {where} {shown}"
        self._converter.note(f"{line}: {printable(argument)}" if argument else line)

    def warn(self, text: str) -> None:
        self._converter.warn(text)

    def act(self, action: bytes, argument: bytes, where: str, text: bytes, table: str) -> bool:
        return False


def _always(length: int) -> bool:
    return True


def _pieces(file: SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    with file:
        while data := file.read(_PIECE):
            yield data
