"""What a local name stands for: ``alias_maps``, ``:include:`` files, ``owner-`` aliases.

:meth:`Aliases.expand` follows a name until nothing is left to follow and gives an :class:`Expansion`: local
mailboxes, and addresses elsewhere, each once.  A name that is an alias of itself is a mailbox.  Commands and
files are not delivered to; they, tables that fail, files that can't be read, and loops raise
:class:`NotExpanded`, which says what becomes of the mail.

Postfix counterpart: ``alias.c``, ``include.c``, ``token.c``, ``resolve.c`` of ``local(8)``; aliases(5).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mtad.config.parameters import Parameters
from mtad.errors import MtadError
from mtad.maillog import MailLog
from mtad.rewrite.address import Rewriter
from mtad.tables.aliases import alias_targets
from mtad.tables.maps import Maps, split_extension

_INCLUDE = ":include:"
#: Aliases within aliases, as in Postfix.
_DEPTH = 100
_INCLUDE_LIMIT = 4 * 1024 * 1024

#: Whether an address is for the local transport of that name.
IsMine = Callable[[bytes], Awaitable[bool]]


class NotExpanded(MtadError):
    """An alias that leads nowhere, now or at all."""

    def __init__(self, dsn: str, text: str) -> None:
        self.dsn = dsn
        self.text = text
        super().__init__(text)


@dataclass(slots=True)
class Expansion:
    """``mailboxes``: addresses whose users have mail here; ``others``: all others.  ``owner``: who hears of
    trouble, None: the sender.  ``aliased``: the name was an alias."""

    mailboxes: list[bytes] = field(default_factory=list)
    others: list[bytes] = field(default_factory=list)
    owner: bytes | None = None
    aliased: bool = False
    _known: set[tuple[bool, bytes]] = field(default_factory=set, repr=False)

    def add(self, kind: list[bytes], address: bytes) -> None:
        key = (kind is self.mailboxes, address)
        if key not in self._known:
            self._known.add(key)
            kind.append(address)


class Aliases:
    """The aliases of one configuration.  ``is_mine`` tells which addresses stay here."""

    def __init__(self, p: Parameters, is_mine: IsMine, log: MailLog) -> None:
        self._is_mine = is_mine
        self._log = log
        self._maps = Maps(p["alias_maps"], p.directory, title="alias_maps", warn=log.warning)
        self._rewriter = Rewriter(p)
        self._delimiter = p["recipient_delimiter"]
        self._owners = p.flag("owner_request_special")
        self._expand_owner = p.flag("expand_owner_alias")

    async def expand(self, address: bytes) -> Expansion:
        """What mail for ``address`` comes to."""
        found = Expansion()
        await self._follow(address, found, ())
        return found

    async def of(self, target: str) -> Expansion:
        """What a single address comes to, which is no local name to be followed."""
        found = Expansion()
        address = self._complete(os.fsencode(target))
        found.add(found.mailboxes if await self._is_mine(address) else found.others, address)
        return found

    async def lookup(self, address: bytes) -> bytes | None:
        """The value of the alias that an address is, if it is one."""
        return (await self._find(_local_part(address)))[1]

    async def _find(self, local: bytes) -> tuple[bytes, bytes | None]:
        """The alias by a local part, with its extension or without, and its value."""
        name = local.lower()
        bare, extension = split_extension(name, self._delimiter)
        for candidate in [name, bare] if extension else [name]:
            try:
                value = await self._maps.lookup(candidate)
            except MtadError as error:
                self._log.warning(str(error))
                raise NotExpanded("4.3.0", "alias database unavailable") from error
            if value is not None:
                return candidate, value
        return name, None

    async def _follow(self, address: bytes, found: Expansion, path: tuple[bytes, ...]) -> None:
        """Expand a local address; ``path``: the aliases that led here."""
        local = _local_part(address)
        name, value = await self._find(local) if local[:1] != b"\\" else (local[1:], None)
        if value is None or name in path:
            found.add(found.mailboxes, address if local[:1] != b"\\" else address[1:])
            return
        if len(path) >= _DEPTH:
            raise NotExpanded("5.4.6", f"alias database loop for {_text(name)}")
        if not path:
            found.aliased = True
        await self._set_owner(name, found)
        before = len(found.mailboxes) + len(found.others)
        targets = alias_targets(_text(value))
        for target in targets:
            await self._target(target, found, (*path, name))
        if not targets or (not path and len(found.mailboxes) + len(found.others) == before):
            self._log.warning(f"no recipient in alias lookup result for {_text(name)}")
            raise NotExpanded("4.3.0", "alias database unavailable")

    async def _set_owner(self, name: bytes, found: Expansion) -> None:
        """Note who owns a list, where someone does."""
        if not self._owners:
            return
        owner = b"owner-" + name
        _, value = await self._find(owner)
        if value is not None:
            if self._expand_owner:
                targets = alias_targets(_text(value))
                owner = targets[0].encode() if targets else owner
            found.owner = self._complete(owner)

    async def _target(self, target: str, found: Expansion, path: tuple[bytes, ...]) -> None:
        if target[:1] == "|":
            raise NotExpanded("4.3.0", "delivery to commands is not available in mtad")
        if target[:1] == "/":
            raise NotExpanded("4.3.0", "delivery to files is not available in mtad")
        if target.lower().startswith(_INCLUDE):
            for line in self._included(target[len(_INCLUDE) :]):
                for each in alias_targets(line):
                    if each.lower().startswith(_INCLUDE):
                        raise NotExpanded("5.4.6", ":include: nesting limit exceeded")
                    await self._target(each, found, path)
            return
        address = self._complete(os.fsencode(target))
        if await self._is_mine(address):
            await self._follow(address, found, path)
        else:
            found.add(found.others, address)

    def _complete(self, address: bytes) -> bytes:
        escaped = address[:1] == b"\\"
        return (b"\\" if escaped else b"") + self._rewriter.rewrite_internal(address[escaped:])

    def _included(self, path: str) -> list[str]:
        """The lines of an included file."""
        path = path.strip()
        try:
            if not path.startswith("/"):
                raise OSError("not an absolute path")
            with open(path, "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OSError("not a regular file")
                data = file.read(_INCLUDE_LIMIT + 1)
        except OSError as error:
            self._log.warning(f"cannot open include file {path}: {error.strerror or error}")
            raise NotExpanded("4.3.5", "mail system configuration error") from error
        if len(data) > _INCLUDE_LIMIT:
            self._log.warning(f"include file {path} is too large")
            raise NotExpanded("4.3.5", "mail system configuration error")
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _local_part(address: bytes) -> bytes:
    local, at, domain = address.rpartition(b"@")
    return local if at else domain


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
