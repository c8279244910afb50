"""``unix:passwd.byname`` and ``unix:group.byname``: the host's own accounts, found through libc (NSS).

A value is the entry as a line of passwd(5) or group(5).  An unknown name after ``unix:`` raises
:class:`~mtad.errors.ConfigError`; that the system can't tell raises :class:`~mtad.errors.TableError`.

Postfix counterpart: ``dict_unix(3)``.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable

from mtad.errors import ConfigError, TableError
from mtad.tables.table import LocalTable, Options


def _passwd(name: str) -> str:
    entry = pwd.getpwnam(name)
    ids = f"{entry.pw_uid}:{entry.pw_gid}"
    return f"{entry.pw_name}:{entry.pw_passwd}:{ids}:{entry.pw_gecos}:{entry.pw_dir}:{entry.pw_shell}"


def _group(name: str) -> str:
    entry = grp.getgrnam(name)
    return f"{entry.gr_name}:{entry.gr_passwd}:{entry.gr_gid}:{','.join(entry.gr_mem)}"


_KINDS: dict[str, Callable[[str], str]] = {"passwd.byname": _passwd, "group.byname": _group}


class AccountTable(LocalTable):
    """The accounts or groups of this host by name."""

    def __init__(self, spec: str, options: Options, name: str) -> None:
        super().__init__(spec, options)
        if name not in _KINDS:
            raise ConfigError(f"unknown table: unix:{name}", remedy="use passwd.byname or group.byname")
        self._find = _KINDS[name]

    def get(self, key: bytes) -> bytes | None:
        if b"\0" in key:
            return None
        try:
            return self._find(key.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        except KeyError:
            return None
        except OSError as error:
            raise TableError(f"{self.spec}: lookup of {key!r}: {error.strerror}") from error
