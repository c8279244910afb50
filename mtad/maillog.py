"""The maillog: Postfix's lines, one ``write`` each.

A :class:`MailLog` belongs to one process and one program name; lines look like
those of Postfix's ``postlogd(8)`` (``Nov  5 10:00:00 host postfix/smtpd[42]: text``)
in a file, or go to syslog as RFC 3164 datagrams.  Text from a client is made
printable by :func:`printable` before it gets here or by :meth:`MailLog.info`
as a last guard, so that no peer can forge a line.

Postfix counterpart: ``msg(3)``, ``maillog_client(3)``, ``postlogd(8)``.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable
from typing import Protocol

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")

#: syslog severities (RFC 3164 section 4.1.1)
_SEVERITY = {"info": 6, "warning": 4, "error": 3, "fatal": 2, "panic": 2}
_FACILITY = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8,
    "cron": 9, "authpriv": 10, "ftp": 11, "local0": 16, "local1": 17, "local2": 18, "local3": 19,
    "local4": 20, "local5": 21, "local6": 22, "local7": 23,
}  # fmt: skip

#: Longest line; Postfix cuts at about the same place (2000 bytes of text).
LINE_LIMIT = 2000


def printable(data: bytes | str) -> str:
    """``data`` as text for a log line or a reply: control characters become ``?``."""
    text = data if isinstance(data, str) else data.decode("utf-8", "surrogateescape")
    return _UNPRINTABLE.sub("?", text)


class Sink(Protocol):
    """Where lines go."""

    def write(self, severity: str, ident: str, text: str) -> None:
        """Write one line; never raise."""


class FileSink:
    """Lines to an open file descriptor, stamped as ``postlogd(8)`` stamps them."""

    def __init__(self, fd: int, hostname: str, clock: Callable[[], float] = time.time) -> None:
        self.fd = fd
        self._host = hostname.split(".", 1)[0]
        self._clock = clock
        self._second = -1
        self._stamp = ""

    def write(self, severity: str, ident: str, text: str) -> None:
        second = int(self._clock())
        if second != self._second:
            self._second = second
            now = time.localtime(second)
            self._stamp = f"{time.strftime('%b', now)} {now.tm_mday:2d} {time.strftime('%H:%M:%S', now)}"
        line = f"{self._stamp} {self._host} {ident}[{os.getpid()}]: {text}\n"
        try:
            os.write(self.fd, line.encode("utf-8", "replace"))
        except OSError:
            pass


class SyslogSink:
    """Lines to the local syslog socket (RFC 3164), dropped while there is none."""

    def __init__(self, facility: str = "mail", path: str = "/dev/log") -> None:
        self._facility = _FACILITY.get(facility, 2)
        self._path = path
        self._socket: socket.socket | None = None

    def write(self, severity: str, ident: str, text: str) -> None:
        priority = self._facility * 8 + _SEVERITY.get(severity, 6)
        stamp = time.strftime("%b %e %H:%M:%S")
        data = f"<{priority}>{stamp} {ident}[{os.getpid()}]: {text}".encode("utf-8", "replace")
        for _ in range(2):
            try:
                if self._socket is None:
                    self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._socket.setblocking(False)
                    self._socket.connect(self._path)
                self._socket.send(data)
                return
            except BlockingIOError:
                return
            except OSError:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None


class ListSink:
    """Lines kept in memory, for tests: ``(severity, ident, text)``."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def write(self, severity: str, ident: str, text: str) -> None:
        self.lines.append((severity, ident, text))


class MailLog:
    """The log of one program, e.g. ``postfix/submission/smtpd``.

    ``ident`` is ``$syslog_name/program``; :meth:`named` makes a sister log for another
    program or another ``syslog_name`` on the same sink.  ``internal_addresses``: mail addresses are logged
    without quotes (``info_log_address_format = internal``).
    """

    __slots__ = ("ident", "internal_addresses", "sink")

    def __init__(self, sink: Sink, ident: str, internal_addresses: bool = False) -> None:
        self.sink = sink
        self.ident = ident
        self.internal_addresses = internal_addresses

    def named(self, ident: str) -> MailLog:
        """The same log under another program's name."""
        return MailLog(self.sink, ident, self.internal_addresses)

    def info(self, text: str) -> None:
        """What happens."""
        self._write("info", text)

    def warning(self, text: str) -> None:
        """What an operator should look at."""
        self._write("warning", f"warning: {text}")

    def error(self, text: str) -> None:
        """A mistake of ours."""
        self._write("error", f"error: {text}")

    def fatal(self, text: str) -> None:
        """Why a process, or a service, can't go on."""
        self._write("fatal", f"fatal: {text}")

    def _write(self, severity: str, text: str) -> None:
        if not text.isprintable():
            text = printable(text)
        self.sink.write(severity, self.ident, text[:LINE_LIMIT])
