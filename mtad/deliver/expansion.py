"""What a local name stands for: ``alias_maps``, ``:include:`` files, ``owner-`` aliases.

:meth:`Aliases.expand` follows a name until nothing is left to follow and gives an :class:`Expansion`: users
who have mail here, and addresses to which mail goes on, each once.  What differs between the copies of a mail
is a :class:`Copy`: the owner of a list is the sender of what the list gets.  A name in its own alias is a
user.  Commands and files are not delivered to; they, tables that fail and files that can't be read raise
:class:`NotExpanded`, which says why the mail waits; what fails for good is noted beside what does not.

Postfix counterpart: ``recipient.c``, ``alias.c``, ``include.c``, ``token.c``, ``resolve.c`` of ``local(8)``;
aliases(5).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

from mtad.auth.offload import offload
from mtad.config.parameters import Parameters
from mtad.deliver.route import ERROR, Route
from mtad.errors import MtadError, TableError
from mtad.maillog import MailLog, printable
from mtad.rewrite.address import Rewriter
from mtad.tables.blocking import Lane
from mtad.tables.maps import Maps, split_extension
from mtad.tables.table import fold
from mtad.wire.tokens import Token, addresses, internal, parse, unquote, written

_INCLUDE = b":include:"
#: How deep aliases and included files may lie within each other, counted as Postfix counts.
_DEEPEST = 100
_INCLUDE_LIMIT = 4 * 1024 * 1024
_FILES = Lane("included files", 2)
#: Targets after which others have their turn.
_TURN = 500

#: The way to an address, once it is completed.
Resolve = Callable[[bytes], Awaitable[Route]]


class NotExpanded(MtadError):
    """An alias that leads nowhere, now or at all."""

    def __init__(self, dsn: str, text: str, why: str = "") -> None:
        self.dsn = dsn
        self.text = text
        self.why = why  # what the log is to say
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Copy:
    """One kind of copy of a mail.  ``sender``: the owner of a list, None: the mail's; ``delivered`` is for
    Delivered-To; ``direct``: for users themselves, whose names are not to be looked up again."""

    sender: bytes | None
    delivered: bytes
    direct: bool = False


@dataclass(slots=True)
class Expansion:
    """Who gets which copy.

    ``failed``: names on the way with parts that lead nowhere, for good.  ``aliased``: the name was an alias,
    ``owned``: one with an owner.  ``followed``: how many targets were.
    """

    copies: dict[Copy, list[bytes]] = field(default_factory=dict)
    failed: list[tuple[Copy, bytes, NotExpanded]] = field(default_factory=list)
    aliased: bool = False
    owned: bool = False
    followed: int = 0
    _known: set[tuple[str, bytes]] = field(default_factory=set, repr=False)

    @property
    def addresses(self) -> list[bytes]:
        """All of them."""
        return [address for found in self.copies.values() for address in found]

    @property
    def user(self) -> tuple[Copy, bytes] | None:
        """The one user, with the sender unchanged, if that is all it comes to."""
        if len(self.copies) != 1 or self.failed:
            return None
        ((copy, found),) = self.copies.items()
        return (copy, found[0]) if copy.direct and copy.sender is None and len(found) == 1 else None

    def is_new(self, kind: str, what: bytes) -> bool:
        """Whether that was not there before."""
        key = kind, fold(what)
        new = key not in self._known
        self._known.add(key)
        return new

    def add(self, copy: Copy, address: bytes) -> None:
        what = ("user", _local_part(address)) if copy.direct else ("address", address)
        if self.is_new(*what):
            self.copies.setdefault(copy, []).append(address)


@dataclass(frozen=True, slots=True)
class _Branch:
    """How we came to a name.  ``owned``: mail for users goes on as a new message; ``name``: the alias that
    led here; ``unmatched``: an extension that goes on to what it stands for; ``level``: how deep it is.
    """

    copy: Copy
    owned: bool = False
    included: bool = False
    name: bytes = b""
    unmatched: bytes = b""
    level: int = 0


class Aliases:
    """The aliases of the local transport ``name``.  ``pause`` lets others have their turn."""

    def __init__(
        self, p: Parameters, name: str, resolve: Resolve, pause: Callable[[], Awaitable[None]], log: MailLog
    ) -> None:
        self._name = name
        self._pause = pause
        self._resolve = resolve
        self._log = log
        self._maps = Maps(p["alias_maps"], p.directory, title="alias_maps", warn=log.warning)
        self._rewriter = Rewriter(p)
        self._delimiter = p["recipient_delimiter"]
        self._owners = p.flag("owner_request_special")
        self._expand_owner = p.flag("expand_owner_alias")
        self._reset_owner = p.flag("reset_owner_alias")
        self._frozen = p.flag("frozen_delivered_to")
        self._commands = p.words("allow_mail_to_commands")
        self._files = p.words("allow_mail_to_files")
        propagated = p.words("propagate_unmatched_extensions")
        self._past_aliases, self._past_includes = "alias" in propagated, "include" in propagated

    async def expand(self, address: bytes) -> Expansion:
        """What mail for ``address`` comes to."""
        found = Expansion()
        await self._follow(address, found, _Branch(Copy(None, address)))
        return found

    async def of(self, target: str, address: bytes) -> Expansion:
        """What ``luser_relay`` comes to for mail to ``address``; nothing where that is the same."""
        found = Expansion()
        text = os.fsencode(target)
        if fold(self._rewriter.rewrite_internal(text)) != fold(address):
            await self._one(text, found, _Branch(Copy(None, address), level=5))
        return found

    async def lookup(self, address: bytes) -> bytes | None:
        """The value of the alias that an address is, if it is one."""
        local = fold(_local_part(address))
        bare, extension = split_extension(local, self._delimiter)
        for name in [local, bare] if extension else [local]:
            value = await self._find(name)
            if value is not None:
                return value
        return None

    async def _find(self, name: bytes) -> bytes | None:
        try:
            return await self._maps.lookup(name)
        except MtadError as error:
            self._log.warning(str(error))
            raise NotExpanded("4.3.0", "alias database unavailable") from error

    async def _follow(self, address: bytes, found: Expansion, branch: _Branch) -> None:
        """Expand a local address."""
        branch = replace(branch, level=branch.level + 3)
        if branch.level - 2 > _DEEPEST:
            self._log.warning(f"recipient nesting limit exceeded for {printable(address)}")
            raise NotExpanded("5.4.6", "recipient nesting limit exceeded")
        if address[:1] == b"\\":
            found.add(replace(branch.copy, direct=True), address[1:])
            return
        local = fold(_local_part(address))
        user, extension = split_extension(local, self._delimiter)
        branch = replace(branch, unmatched=b"")
        if await self._alias(address, local, found, branch):
            return
        if extension:
            past = replace(branch, unmatched=extension) if self._past_aliases else branch
            if await self._alias(address, user, found, past):
                return
        found.add(replace(branch.copy, direct=not (branch.owned or branch.included)), address)

    async def _alias(self, address: bytes, name: bytes, found: Expansion, branch: _Branch) -> bool:
        """Expand an alias, if it is one."""
        value = await self._find(name) if name != branch.name else None
        if value is None:
            return False
        copy = branch.copy if self._frozen else replace(branch.copy, delivered=address)
        branch = replace(branch, copy=copy, name=name, included=False)
        owner = await self._owner(name)
        if owner is not None:
            branch = replace(branch, copy=replace(copy, sender=owner), owned=True)
        elif self._reset_owner:
            branch = replace(branch, owned=False)
        if not found.aliased:
            found.aliased, found.owned = True, owner is not None
        targets = addresses(parse(value))
        await self._all(targets, address, found, branch)
        if not targets:
            self._log.warning(f"no recipient in alias lookup result for {printable(name)}")
            raise NotExpanded("4.3.0", "alias database unavailable")
        return True

    async def _owner(self, name: bytes) -> bytes | None:
        """The owner of a list, where it has one."""
        value = await self._find(b"owner-" + name) if self._owners else None
        if value is None:
            return None
        owner = b"owner-" + name
        if self._expand_owner:
            owner = next((internal(each) for each in addresses(parse(value))), owner)
        return self._rewriter.rewrite_internal(owner)

    async def _all(self, targets: list[Token], address: bytes, found: Expansion, branch: _Branch) -> None:
        """Expand all that is named; what leads nowhere for good does not stop the others."""
        for target in targets:
            found.followed += 1
            if found.followed % _TURN == 0:
                await self._pause()
            try:
                await self._target(target, address, found, branch)
            except NotExpanded as error:
                if error.dsn[0] != "5":
                    raise
                found.failed.append((branch.copy, address, error))

    async def _target(self, target: Token, address: bytes, found: Expansion, branch: _Branch) -> None:
        """Expand what an alias of ``address``, or a file that it includes, names."""
        text = internal(target)
        kind = "include" if branch.included else "alias"
        if text[:1] == b"|":
            if kind not in self._commands:
                raise NotExpanded("5.7.1", "mail to command is restricted")
            raise NotExpanded("4.3.0", "delivery to commands is not available in mtad")
        if text[:1] == b"/":
            if kind not in self._files:
                raise NotExpanded("5.7.1", "mail to file is restricted")
            raise NotExpanded("4.3.0", "delivery to files is not available in mtad")
        if text[:1] == b"~":
            self._log.warning(f"unknown home directory for: {printable(text)}")
            raise NotExpanded("5.3.5", "mail system configuration error")
        if text[: len(_INCLUDE)].lower() == _INCLUDE:
            await self._include(text[len(_INCLUDE) :], address, found, branch)
        else:
            await self._one(written(target), found, branch)

    async def _one(self, text: bytes, found: Expansion, branch: _Branch) -> None:
        """Expand an address in external form, which may be elsewhere."""
        address = unquote(self._rewriter.rewrite_external(text))
        try:
            route = await self._resolve(address)
        except TableError as error:
            self._log.warning(str(error))
            raise NotExpanded("4.3.0", "address resolver failure") from error
        address = route.address or address
        if route.transport == ERROR and route.nexthop == "5.1.3 bad address syntax":
            raise NotExpanded("5.1.3", f"bad recipient address syntax: {printable(address)}")
        if branch.unmatched:
            local, at, domain = address.rpartition(b"@")
            address = (local + branch.unmatched + at + domain) if at else domain + branch.unmatched
        if route.transport == self._name:
            await self._follow(address, found, replace(branch, level=branch.level + 1))
        else:
            found.add(branch.copy, address)

    async def _include(self, path: bytes, address: bytes, found: Expansion, branch: _Branch) -> None:
        """Expand what a file names."""
        branch = replace(branch, level=branch.level + 1)
        if branch.level > _DEEPEST:
            self._log.warning(f":include: nesting limit exceeded for {printable(path)}")
            raise NotExpanded("5.4.6", ":include: nesting limit exceeded")
        if not found.is_new("include", path):
            return
        unmatched = branch.unmatched if self._past_includes else b""
        name = fold(_local_part(address))
        branch = replace(branch, included=True, owned=True, name=name, unmatched=unmatched)
        try:
            targets = await offload(_FILES, partial(_read, os.fsdecode(path)))
        except TableError as error:
            self._log.warning(str(error))
            raise NotExpanded("4.3.5", "mail system configuration error") from error
        except NotExpanded as error:
            self._log.warning(error.why)
            raise
        await self._all(targets, address, found, branch)


def _read(path: str) -> list[Token]:
    """What an included file names.  Blocking; raises NotExpanded.  A file that may not be read by us, but
    perhaps by others, has the mail wait; others are mistakes."""
    dsn, why = "5.3.5", ""
    data = b""
    try:
        if not path.startswith("/"):
            why = f":include:{path} uses a relative path"
        else:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if not stat.S_ISREG(mode):
                    why = f":include: file {path} is not a regular file"
                elif mode & stat.S_IWOTH:
                    why = f":include: file {path} is world writable"
                else:
                    data = file.read(_INCLUDE_LIMIT + 1)
    except (OSError, ValueError) as error:
        dsn = "5.3.5" if isinstance(error, FileNotFoundError) else "4.3.5"
        why = f"unable to lookup :include: file {path}: {getattr(error, 'strerror', error)}"
    if len(data) > _INCLUDE_LIMIT:
        dsn, why = "4.3.5", f"include file {path} is too large"
    if why:
        raise NotExpanded(dsn, "mail system configuration error", why)
    lines = [line for line in data.split(b"\n") if line[:1] != b"#"]
    return [target for line in lines for target in addresses(parse(line))]


def _local_part(address: bytes) -> bytes:
    local, at, domain = address.rpartition(b"@")
    return local if at else domain
