"""Cyrus SASL's application file, ``smtpd.conf``, found and read as libsasl does.

One ``key: value`` a line: the colon follows the key at once, keys are of letters, digits, ``-`` and ``_`` and
know no case, blank lines and lines that begin with ``#`` are skipped.  Of two lines with one key the first
counts.  Any other line spoils the whole file: :func:`read_sasl_conf` raises ConfigError with its number.

Postfix and Cyrus counterpart: ``xsasl_cyrus_server.c``'s search path, libsasl's ``config.c``; Debian searches
``$config_directory/sasl`` first.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from glob import glob

from mtad.config.lines import read_text
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError

_LINE = re.compile(r"([A-Za-z0-9_-]+):(.*)", re.DOTALL)

#: libsasl reads at most this much of a line, and takes the rest for the next one.
_LINE_SIZE = 4095


class SaslConf:
    """The options of one file; without a file all are at their defaults."""

    __slots__ = ("_options", "path")

    def __init__(self, options: Mapping[str, str] | None = None, path: str = "") -> None:
        self._options = dict(options or {})
        self.path = path

    def get(self, name: str, default: str | None = None) -> str | None:
        """The text of an option, or ``default``."""
        return self._options.get(name.lower(), default)

    def words(self, name: str) -> tuple[str, ...]:
        """The words of an option, none when it is not set."""
        return tuple(self._options.get(name.lower(), "").split())

    def number(self, name: str, default: int) -> int:
        """An option that is a number; raises ConfigError for one that is none."""
        text = self._options.get(name.lower())
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise ConfigError(f"option {name} is not a number", path=self.path, remedy=f"say {default}")
        return int(text)

    def names(self) -> tuple[str, ...]:
        """The options that the file sets, in its order."""
        return tuple(self._options)

    def __repr__(self) -> str:
        return f"SaslConf(path={self.path!r}, names={self.names()!r})"


def search_path(p: Parameters) -> tuple[str, ...]:
    """The directories in which the file is looked for, in order."""
    configured = p["cyrus_sasl_config_path"]
    if configured:
        return tuple(part for part in configured.split(":") if part)
    triplets = sorted(part for part in glob("/usr/lib/*/sasl2"))
    return (
        f"{p.directory}/sasl", "/usr/lib/sasl",
        "/etc/sasl2", "/etc/sasl", *triplets, "/usr/lib/sasl2",
    )  # fmt: skip


def find_sasl_conf(p: Parameters) -> str | None:
    """The file that counts for these parameters (``<smtpd_sasl_path>.conf``), or None."""
    name = os.path.basename(p["smtpd_sasl_path"]) + ".conf"
    for directory in search_path(p):
        path = os.path.join(directory, name)
        if os.path.exists(path):
            return path
    return None


def read_sasl_conf(path: str) -> SaslConf:
    """The options of the file at ``path``; ConfigError when it cannot be read or a line is malformed."""
    options: dict[str, str] = {}
    for number, physical in enumerate(read_text(path).split("\n"), 1):
        for start in range(0, len(physical) or 1, _LINE_SIZE):
            line = physical[start : start + _LINE_SIZE].strip(" \t\r\v\f")
            if not line or line[0] == "#":
                continue
            match = _LINE.fullmatch(line)
            value = match.group(2).strip(" \t\r\v\f") if match else ""
            if match is None or not value:
                raise ConfigError(
                    "error when parsing configuration file: not a line of the form «key: value»",
                    path=path,
                    line=number,
                    remedy="put the colon directly behind the key and a value behind the colon",
                )
            options.setdefault(match.group(1).lower(), value)
    return SaslConf(options, path)
