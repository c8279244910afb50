"""``mtad postlog``: write to the maillog.

``postlog [-iv] [-c DIR] [-p PRIORITY] [-t TAG] [TEXT...]``; without TEXT the lines of standard input.
Postfix counterpart: ``postlog(1)``.
"""

from __future__ import annotations

import getopt
import sys
from collections.abc import Callable, Sequence

from mtad.cli.directory import load_parameters
from mtad.cli.voice import Fatal, Voice, complaint
from mtad.daemon.logs import open_sink
from mtad.errors import MtadError
from mtad.maillog import MailLog, printable

USAGE = "usage: postlog [-c config_dir] [-i] [-p priority] [-t tag] [-v] [text]"
_PRIORITIES: dict[str, Callable[[MailLog, str], None]] = {
    "info": MailLog.info,
    "warn": MailLog.warning,
    "warning": MailLog.warning,
    "error": MailLog.error,
    "err": MailLog.error,
    "fatal": MailLog.fatal,
    "crit": MailLog.fatal,
    "panic": lambda log, text: log.sink.write("panic", log.ident, f"panic: {text}"),
}


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name; the exit status."""
    try:
        try:
            options, words = getopt.getopt(list(argv), "c:ip:t:v")
        except getopt.GetoptError as error:
            sys.stderr.write(f"postlog: {complaint(error)}\n")
            raise Fatal(USAGE) from error
        values = dict(options)
        p = load_parameters(values.get("-c"))
        write = _PRIORITIES.get(values.get("-p", "info").lower())
        if write is None:
            raise Fatal(f'bad severity: "{values["-p"]}"')
        tag = printable(values.get("-t", f"{p['syslog_name']}/postlog"))
        log = MailLog(open_sink(p), tag)
        for line in [" ".join(words)] if words else sys.stdin:
            text = printable(line.rstrip("\n"))
            write(log, text)
            if sys.stderr.isatty():
                sys.stderr.write(f"{tag}: {text}\n")
    except MtadError as error:
        Voice("postlog").fatal(str(error))
        return 1
    return 0
