"""Headers and lines of bodies looked up in tables, and what those say is to be done.

:class:`Checks` are the four tables of one program (``header_checks``, ``mime_header_checks``,
``nested_header_checks``, ``body_checks``, with a prefix perhaps).  ``WARN``, ``INFO``, ``PREPEND``,
``REPLACE``, ``STRIP``, ``IGNORE`` and ``DUNNO`` are carried out here; the others are left to an
:class:`Actor`, which also writes the log.  Raises what tables raise.

Postfix counterpart: ``header_body_checks(3)``, ``cleanup_act()``; ``header_checks(5)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mtad.errors import MtadError
from mtad.mime.events import MULTIPART, NESTED, PRIMARY, Header
from mtad.mime.names import HEADERS, MIME
from mtad.tables.maps import Maps
from mtad.tables.table import LocalTable

if TYPE_CHECKING:
    from mtad.config.parameters import Parameters

HEADER, BODY = "header", "body"

_HEADER_TEXT = re.compile(rb"[!-9;-~]+[ \t]*:")
_ACTION = re.compile(rb"([^ \t]*)[ \t\r\n\v\f]*(.*)", re.DOTALL)


class Actor(Protocol):
    """Who carries out what a table says.  ``text`` is the header or line that it said it of."""

    def note(self, action: str, where: str, text: bytes, argument: bytes) -> None:
        """Log an action that is carried out."""

    def warn(self, text: str) -> None:
        """Log what is wrong with a table."""

    def act(self, action: bytes, argument: bytes, where: str, text: bytes, table: str) -> bool:
        """Carry out another action (in upper case); False: there is none of that name."""


class Checks:
    """See the module.  ``title``: the prefix that the log says, where it is another; ``unknown``: the words
    for an action that there is none of; ``sisters``: there are tables for other headers and the body too."""

    def __init__(
        self,
        p: Parameters,
        prefix: str,
        warn: Callable[[str], None],
        *,
        title: str = "",
        unknown: str = "unknown command",
        sisters: bool = True,
    ) -> None:
        def maps(name: str) -> Maps:
            tables = p[prefix + name] if sisters or name == "header_checks" else ""
            return Maps(tables, p.directory, title=(title or prefix) + name, raw=True, warn=warn)

        self._unknown = unknown
        self._headers = {
            PRIMARY: maps("header_checks"),
            MULTIPART: maps("mime_header_checks"),
            NESTED: maps("nested_header_checks"),
        }
        self._body = maps("body_checks")
        self.headers = any(self._headers.values())
        self.body = bool(self._body)
        self._at_once = [each for each in self._body.tables if isinstance(each, LocalTable) and each.at_once]

    @property
    def problems(self) -> list[tuple[str, MtadError]]:
        """The tables that can't be opened, each with its parameter."""
        return [(maps.title, problem) for maps in self._all() for problem in maps.problems]

    def close(self) -> None:
        for maps in self._all():
            maps.close()

    def _all(self) -> list[Maps]:
        return [*self._headers.values(), self._body]

    async def header(self, header: Header, actor: Actor) -> list[bytes]:
        """What becomes of a header: those put before it, and it or what replaces it, unless it goes."""
        kind = MULTIPART if HEADERS.get(header.name, 0) & MIME else header.kind
        maps = self._headers[kind]
        text = header.text
        value = await maps.lookup(text) if maps else None
        if value is None:
            return [text]
        return self._acted(value, HEADER, text, maps.title, actor)

    async def line(self, line: bytes, actor: Actor) -> list[bytes]:
        """The same for a line of a body."""
        key = line.partition(b"\0")[0]
        value = await self._body.lookup(key)
        return [line] if value is None else self._acted(value, BODY, line, self._body.title, actor)

    async def body_part(self, data: bytes, width: int, actor: Actor, wanted: Callable[[int], bool]) -> bytes:
        """What becomes of a piece of a body.  Lines of ``width`` bytes and more are taken as several, and the
        piece ends where one does; ``wanted`` is told the length of each and says whether to go on."""
        out: list[bytes] = []
        kept = at = 0  # data[kept:at] stays as it is
        size = len(data)
        while at < size:
            newline = data.find(b"\r\n", at, at + width + 1)
            if newline < 0 or newline - at >= width:
                end = after = min(at + width, size)
            else:
                end, after = newline, newline + 2
            if not wanted(end - at):
                break
            line = data[at:end]
            if self.untouched(line):
                at = after
                continue
            out.append(data[kept:at])
            kept = at = after
            lines = await self.line(line, actor)
            out += [text + b"\r\n" for text in lines[:-1]]
            if lines:
                out.append(lines[-1] + data[end:after])
        if not out:
            return data
        out.append(data[kept:])
        return b"".join(out)

    def untouched(self, line: bytes) -> bool:
        """Whether it is known at once that nothing is said of this line of a body."""
        if not line:
            return True
        if len(self._at_once) < len(self._body.tables):
            return False
        if b"\0" in line:
            line = line.partition(b"\0")[0]
        for table in self._at_once:
            try:
                if table.find(line) is not None:
                    return False
            except MtadError:
                return False
        return True

    def _acted(self, value: bytes, where: str, text: bytes, table: str, actor: Actor) -> list[bytes]:
        found = _ACTION.fullmatch(value)
        assert found is not None
        action, argument = found[1].upper(), found[2]
        out = [text]
        if action in (b"WARN", b"INFO"):
            actor.note("warning" if action == b"WARN" else "info", where, text, argument)
        elif action in (b"PREPEND", b"REPLACE"):
            if self._fits(action.decode(), argument, where, table, actor):
                actor.note(action.decode().lower(), where, text, argument)
                out = [argument, text] if action == b"PREPEND" else [argument]
        elif action == b"STRIP":
            actor.note("strip", where, text, argument)
            out = []
        elif action == b"IGNORE":
            out = []
        elif action not in (b"DUNNO", b"OK") and not actor.act(action, argument, where, text, table):
            actor.warn(f"{self._unknown} in {table} map: {_text(value)}")
        return out

    @staticmethod
    def _fits(action: str, argument: bytes, where: str, table: str, actor: Actor) -> bool:
        """Whether there is a text, and a header where that is due."""
        if not argument:
            actor.warn(f"{action} action without text in {table} map")
        elif where == HEADER and not is_header(argument):
            shown = f'"{_text(argument)}" in {table} map'
            actor.warn(f'bad {action} header text {shown} -- need "headername: headervalue"')
        else:
            return True
        return False


def is_header(text: bytes) -> bool:
    """Whether this could be a header."""
    return _HEADER_TEXT.match(text) is not None


def name_of(text: bytes) -> bytes:
    """The name of a header, in lower case."""
    return text.partition(b":")[0].rstrip(b" \t").lower()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
