"""/etc/hosts, read again when it has changed.

:class:`HostsFile` answers at once and never raises: a file that cannot be read is empty.

hosts(5).  Postfix counterpart: none, the system's resolver does it.
"""

from __future__ import annotations

import os
from ipaddress import ip_address

#: Largest file that is read; block lists of that kind are the biggest there are.
SIZE_LIMIT = 16 * 1024 * 1024


def canonical(address: str) -> str:
    """An address in its one form; ValueError if it is none."""
    return str(ip_address(address))


class HostsFile:
    """The names and addresses of a hosts file."""

    def __init__(self, path: str = "/etc/hosts") -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._names: dict[str, str] = {}
        self._addresses: dict[str, list[str]] = {}

    def name(self, address: str) -> str | None:
        """The canonical name of an address: the first one of its first line."""
        self._refresh()
        return self._names.get(address)

    def addresses(self, name: str) -> list[str]:
        """All addresses of a name, those of both families in the file's order."""
        self._refresh()
        return self._addresses.get(name.lower(), [])

    def _refresh(self) -> None:
        try:
            status = os.stat(self._path)
        except OSError:
            self._stamp, self._names, self._addresses = None, {}, {}
            return
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                self._parse(file.read(SIZE_LIMIT))
        except OSError:
            self._names, self._addresses = {}, {}

    def _parse(self, text: str) -> None:
        self._names, self._addresses = {}, {}
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            try:
                address = canonical(words[0]) if len(words) > 1 else ""
            except ValueError:
                continue
            if not address:
                continue
            self._names.setdefault(address, words[1])
            for word in words[1:]:
                found = self._addresses.setdefault(word.lower(), [])
                if address not in found:
                    found.append(address)
