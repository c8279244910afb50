"""What queue and maillog know of a message or a client.

:func:`of_message` finds a queue id, in the queue or, where it has left that, in the maillog;
:func:`had_tls` tells from the maillog whether a client's session was encrypted. Only the last part of a log
is read (:data:`LOG_LIMIT`). Raises :class:`~mtad.cli.explaining.case.NoCase` and
:class:`~mtad.errors.MtadError`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from mtad.cli.explaining.case import Case, NoCase, from_line, from_message
from mtad.config.parameters import Parameters
from mtad.daemon.logs import maillog_path
from mtad.errors import QueueError
from mtad.queue.reader import Reader

#: How many bytes of a log are read, from its end.
LOG_LIMIT = 64 * 1024 * 1024

#: Where a system's logger puts the maillog.
SYSLOG = ("/var/log/mail.log", "/var/log/maillog")

_RECIPIENT = re.compile(r"to=<(.*?)>,(?: orig_to=<(.*?)>,)? relay=")
_SENDER = re.compile(r"from=<(.*?)>, size=(\d+)")


def of_message(p: Parameters, queue_id: str) -> Case:
    """Who sent this message to whom."""
    case = _in_queue(p, queue_id)
    logged = _in_log(queue_id, _log(p, f": {queue_id}: "))
    if case is None and logged is None:
        raise NoCase(f"{queue_id} is neither in the queue nor in the log")
    if case is None:
        assert logged is not None
        return logged
    return case if logged is None else case.fill(logged)


def _in_queue(p: Parameters, queue_id: str) -> Case | None:
    directory = p["mtad_queue_directory"]
    if not os.path.isdir(directory):
        return None
    try:
        reader = Reader(directory, read_only=True)
    except QueueError:
        return None
    try:
        message = reader.find(queue_id)
    finally:
        reader.close()
    return None if message is None else from_message(message)


def _in_log(queue_id: str, lines: Iterable[str]) -> Case | None:
    case = None
    recipients: dict[str, None] = {}
    sender, size, helo = None, 0, ""
    for line in lines:
        if f": {queue_id}: client=" in line:
            case = from_line(line)
        elif match := _RECIPIENT.search(line):
            recipients.setdefault(match[2] or match[1])
        elif match := _SENDER.search(line):
            sender, size = match[1], int(match[2])
        elif " helo=<" in line:
            helo = from_line(line).helo
    if case is None:
        return None
    return Case(queue_id=queue_id, sender=sender, size=size, helo=helo, recipients=tuple(recipients)).fill(
        case
    )


def had_tls(p: Parameters, case: Case) -> bool | None:
    """Whether the session that ``case`` was logged in had TLS; None: the log does not tell."""
    if not case.pid:
        return None
    client = f"{case.name}[{case.address}]"
    found = None
    for line in _log(p, client):
        if f"/smtpd[{case.pid}]: " not in line:
            continue
        if f"]: connect from {client}" in line:
            found = False
        elif " TLS connection established from " in line and found is not None:
            found = True
        elif (case.queue_id and f": {case.queue_id}: client=" in line) or (case.said and case.said in line):
            break
    return found


def _log(p: Parameters, wanted: str) -> Iterator[str]:
    """The maillog's last lines that have ``wanted``; none where it can't be read."""
    path = maillog_path(p)
    needle = wanted.encode()
    for candidate in (path,) if path else SYSLOG:
        try:
            with open(candidate, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_LIMIT))
                for line in file:
                    if needle in line:
                        yield line.decode("utf-8", "replace").rstrip("\n")
            return
        except OSError:
            continue
