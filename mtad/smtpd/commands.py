"""Commands by table: ``smtpd_forbidden_commands``, ``smtpd_noop_commands`` and ``smtpd_command_filter``.

The two lists are asked by the engine, which cannot wait: a table that would have to (LDAP, SQL) is as good as
empty there, and one that fails, too (so it is in Postfix).  The filter may wait.

Postfix counterpart: ``smtpd_proto()``.
"""

from __future__ import annotations

from collections.abc import Callable

from mtad.config.parameters import Parameters
from mtad.errors import TableError
from mtad.maillog import MailLog, printable
from mtad.tables.maps import Maps
from mtad.tables.match import StringList
from mtad.wire.settings import forbidden_by_default


def never(verb: bytes) -> bool:
    """No verb is in this list."""
    return False


def command_list(p: Parameters, name: str) -> Callable[[bytes], bool]:
    """The list ``name`` as a test of verbs."""
    if name == "smtpd_forbidden_commands" and not p.explicit(name):
        return forbidden_by_default
    verbs = StringList(name, p[name], p.directory)

    def test(verb: bytes) -> bool:
        asking = verbs.matches(verb)
        try:
            asking.send(None)
        except StopIteration as end:
            return bool(end.value)
        except TableError:
            return False
        asking.close()
        return False

    return test if verbs else never


class CommandFilter:
    """Replaces whole command lines."""

    def __init__(self, p: Parameters, log: MailLog) -> None:
        name = "smtpd_command_filter"
        self._log = log
        self._maps = Maps(p[name], p.directory, title=name, warn=log.warning)

    async def filtered(self, line: bytes, client: str) -> bytes:
        """The line to be obeyed in place of ``line``.  Raises TableError."""
        try:
            found = await self._maps.lookup(line.lstrip(b" \t"))
        except TableError as problem:
            for text in (str(problem), *getattr(problem, "__notes__", ())):
                self._log.warning(text)
            raise
        if found is None:
            return line
        self._log.info(
            f'{client}: replacing command "{printable(line[:100])}" with "{printable(found[:100])}"'
        )
        return found
