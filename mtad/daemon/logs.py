"""Where the maillog goes: ``maillog_file``, or syslog where that is empty.

The file is opened by the master before any process gives up its rights, so that all write to one open file
(each line by one ``write``, appended).  Postfix counterpart: ``maillog_client(3)``, ``postlogd(8)``.
"""

from __future__ import annotations

import os

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import FileSink, MailLog, Sink, SyslogSink


def maillog_path(p: Parameters) -> str:
    """The maillog's file, empty for syslog.  Raises ConfigError where maillog_file_prefixes forbids it."""
    path = p["maillog_file"]
    where, line = p.where("maillog_file")
    prefixes = p.words("maillog_file_prefixes")
    if path and not any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in prefixes):
        raise ConfigError(
            f'"{path}" does not begin with any of "{" ".join(prefixes)}"',
            path=where, line=line, parameter="maillog_file", remedy="see maillog_file_prefixes",
        )  # fmt: skip
    return path


def open_sink(p: Parameters) -> Sink:
    """The sink that the configuration names.  Raises ConfigError."""
    path = maillog_path(p)
    if not path:
        return SyslogSink(p["syslog_facility"])
    if path == "/dev/stdout":
        return FileSink(1, p["myhostname"])
    try:
        mode = int(p["maillog_file_permissions"], 8)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, mode)
    except (OSError, ValueError) as problem:
        where, line = p.where("maillog_file")
        raise ConfigError(
            f"cannot open {path}: {problem}", path=where, line=line, parameter="maillog_file"
        ) from problem
    return FileSink(fd, p["myhostname"])


def close_sink(sink: Sink) -> None:
    """Let go of the file of a sink that nothing is written to any more."""
    if isinstance(sink, FileSink) and sink.fd > 2:
        os.close(sink.fd)


def program_log(p: Parameters, sink: Sink, program: str) -> MailLog:
    """The log of ``program``: ident ``$syslog_name/program``."""
    return MailLog(sink, f"{p['syslog_name']}/{program}")
