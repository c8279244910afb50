"""``mtad postqueue``: show the queue, and have mail tried now.

``-p`` lists the queue as mailq does, ``-j`` as lines of JSON; ``-f`` has all deferred mail tried now,
``-i ID`` one message, ``-s site`` what goes to a domain.  Whoever may read the queue's database lists it from
there, with or without a running mail system; else the queue manager is asked.  The exit code is 0, or 69 with
a ``fatal:`` line for whatever goes wrong, as that of the original.

Postfix counterpart: ``postqueue(1)``, ``mailq(1)``.
"""

from __future__ import annotations

import getopt
import os
import re
import sys
from collections.abc import Iterable, Sequence

from mtad.cli.control import ControlError, SystemDown, ask
from mtad.cli.directory import load_parameters
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError, QueueError
from mtad.queue.listing import json_listing, text_listing
from mtad.queue.sqlite import SQLiteStore
from mtad.wire.address import valid_hostname, valid_literal

EX_UNAVAILABLE = 69

USAGE = "usage: postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site"
_MODES = ("-f", "-i", "-j", "-p", "-s")
_TIMEOUT = 60.0
_CANNOT_FLUSH = "Cannot flush mail queue - mail system is down"
_QUEUE_ID = re.compile(r"[0-9A-Za-z]{1,100}")


class Fatal(Exception):
    """Ends the command with this message."""


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name; the exit status."""
    try:
        mode, value, directory = _parse(argv)
        _run(mode, value, load_parameters(directory))
    except (Fatal, ConfigError, QueueError) as error:
        sys.stderr.write(f"postqueue: fatal: {error}\n")
        return EX_UNAVAILABLE
    except BrokenPipeError:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parse(argv: Sequence[str]) -> tuple[str, str, str | None]:
    """Mode, its value, and the directory."""
    try:
        options, rest = getopt.getopt(list(argv), "c:fi:jps:v")
    except getopt.GetoptError as error:
        sys.stderr.write(f"postqueue: {error}\n")
        raise Fatal(USAGE) from error
    modes = [(option, value) for option, value in options if option in _MODES]
    if rest or len(modes) != 1:
        raise Fatal(USAGE)
    directory = None
    for option, value in options:
        if option == "-c":
            directory = value
    return *modes[0], directory


def _run(mode: str, value: str, p: Parameters) -> None:
    shown = f'"{value[:100]}{"..." if len(value) > 100 else ""}"'
    if mode == "-i":
        if not _QUEUE_ID.fullmatch(value):
            raise Fatal(f"Cannot flush queue ID - invalid name: {shown}")
        _flush(p, {"command": "flush-id", "id": value})
    elif mode == "-s":
        site = os.fsencode(value)
        if not (valid_literal(site) if value.startswith("[") else valid_hostname(site)):
            raise Fatal(f"Cannot flush mail queue - invalid destination: {shown}")
        _flush(p, {"command": "flush-site", "site": value.lower()})
    elif mode == "-f":
        _flush(p, {"command": "flush"})
    else:
        _list(p, mode == "-j")


def _control(p: Parameters) -> str:
    return os.path.join(p["mtad_queue_directory"], "control")


def _flush(p: Parameters, request: dict[str, str]) -> None:
    try:
        answer = ask(_control(p), request, _TIMEOUT)
    except SystemDown as error:
        raise Fatal(_CANNOT_FLUSH) from error
    except ControlError as error:
        raise Fatal(f"Cannot flush mail queue - {error}") from error
    if not answer.get("ok"):
        raise Fatal(f"Cannot flush mail queue - {answer.get('error')}")


def _list(p: Parameters, as_json: bool) -> None:
    directory = p["mtad_queue_directory"]
    store = None
    if os.access(os.path.join(directory, "queue.db"), os.R_OK):
        store = SQLiteStore(directory, None, read_only=True)
        store.open()
    try:
        answer = ask(_control(p), {"command": "showq", "listing": store is None, "json": as_json}, _TIMEOUT)
    except SystemDown as error:
        if store is None and not os.access(directory, os.R_OK | os.X_OK):
            raise Fatal(f"Queue report unavailable - mail system is down ({error})") from error
        text = f"Mail system is down -- accessing queue directly ({error})"
        sys.stderr.write(f"postqueue: warning: {text}\n")
        answer = {}
    except ControlError as error:
        raise Fatal(f"Connect to the mail system: {error}") from error
    if store is None:
        lines: Iterable[str] = answer.get("lines") or ([] if as_json else text_listing((), set(), False))
    else:
        active = frozenset(answer.get("active", ()))
        if as_json:
            lines = json_listing(store.listing(), active)
        else:
            lines = text_listing(store.listing(), active, p.flag("enable_long_queue_ids"))
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
