"""``mtad postqueue``: show the queue, and have mail tried now.

``-p`` lists the queue as mailq does, ``-j`` as lines of JSON; ``-f`` has all deferred mail tried now, ``-i
ID`` one message, ``-s site`` what goes to a domain of ``fast_flush_domains``.  Whoever may read the queue's
database lists it from there, with or without a running mail system; else the queue manager is asked.  Who
may see and flush: ``authorized_mailq_users``, ``authorized_flush_users``.  The exit code is 0, or 69 with a
``fatal:`` line for whatever goes wrong, as that of the original.

Postfix counterpart: ``postqueue(1)``, ``mailq(1)``.
"""

from __future__ import annotations

import getopt
import os
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import chain

from mtad.cli.control import ControlError, SystemDown, ask, stream
from mtad.cli.directory import load_parameters
from mtad.cli.voice import Fatal, Voice, complaint
from mtad.config.parameters import Parameters
from mtad.daemon.authorized import refused, user_name
from mtad.errors import MtadError
from mtad.queue.listing import json_listing, text_listing
from mtad.queue.message import Message
from mtad.queue.postfix.waiting import waiting
from mtad.queue.sqlite import SQLiteStore
from mtad.tables.match import DomainList
from mtad.wire.address import valid_hostname, valid_literal

EX_UNAVAILABLE = 69

USAGE = "usage: postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site"
_MODES = ("-f", "-i", "-j", "-p", "-s")
_TIMEOUT = 60.0
_CANNOT_FLUSH = "Cannot flush mail queue - mail system is down"
_QUEUE_ID = re.compile(r"[0-9A-Za-z]{1,100}")


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name; the exit status."""
    voice = Voice("postqueue")
    try:
        mode, value, directory = _parse(argv)
        p = load_parameters(directory)
        voice.log_to(p)
        _run(mode, value, p)
    except MtadError as error:
        voice.fatal(str(error))
        return EX_UNAVAILABLE
    except OSError as error:
        # Python would complain once more when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            voice.fatal(f"output write error: {error.strerror}")
            return EX_UNAVAILABLE
    return 0


def _parse(argv: Sequence[str]) -> tuple[str, str, str | None]:
    """Mode, its value, and the directory."""
    try:
        options, rest = getopt.getopt(list(argv), "c:fi:jps:v")
    except getopt.GetoptError as error:
        sys.stderr.write(f"postqueue: {complaint(error)}\n")
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
        _flush_site(p, value)
    elif mode == "-f":
        _flush(p, {"command": "flush"})
    else:
        _list(p, mode == "-j")


def _control(p: Parameters) -> str:
    return os.path.join(p["mtad_queue_directory"], "control")


def _check_user(p: Parameters, parameter: str, what: str) -> None:
    """Refuse who may not; root and the mail system's owner may."""
    uid = os.getuid()
    if uid == 0 or user_name(uid) == p["mail_owner"]:
        return
    if name := refused(p, parameter, uid):
        raise Fatal(f"User {name}({uid}) is not allowed to {what} the mail queue")


def _flush(p: Parameters, request: dict[str, str]) -> None:
    _check_user(p, "authorized_flush_users", "flush")
    try:
        answer = ask(_control(p), request, _TIMEOUT)
    except SystemDown as error:
        raise Fatal(_CANNOT_FLUSH) from error
    except ControlError as error:
        raise Fatal(f"Cannot flush mail queue - {error}") from error
    if not answer.get("ok"):
        raise Fatal(f"Cannot flush mail queue - {answer.get('error')}")


def _flush_site(p: Parameters, site: str) -> None:
    """``-s``: what fast_flush_domains has."""
    name = "fast_flush_domains"
    parents = name in p.words("parent_domain_matches_subdomains")
    domains = DomainList(name, p[name], p.directory, parent_matches=parents)
    try:
        domains.matches(site.encode()).send(None)
    except StopIteration as end:
        if not end.value:
            raise Fatal(f'Flush service is not configured for destination "{site}"') from None
    finally:
        domains.close()
    _flush(p, {"command": "flush-site", "site": site.lower()})


def _list(p: Parameters, as_json: bool) -> None:
    _check_user(p, "authorized_mailq_users", "view")
    directory = p["mtad_queue_directory"]
    if not os.access(os.path.join(directory, "queue.db"), os.R_OK):
        _copy_listing(p, as_json)
        return
    active: frozenset[str] = frozenset()
    try:
        active = frozenset(ask(_control(p), {"command": "showq"}, _TIMEOUT).get("active", ()))
    except SystemDown as error:
        text = f"Mail system is down -- accessing queue directly ({error})"
        sys.stderr.write(f"postqueue: warning: {text}\n")
    except ControlError as error:
        raise Fatal(f"Connect to the mail system: {error}") from error
    store = SQLiteStore(directory, None, read_only=True)
    store.open()
    _print(p, chain(waiting(p), store.listing()), active, as_json)


def _copy_listing(p: Parameters, as_json: bool) -> None:
    """Where only the mail system may read the queue: as it tells."""
    try:
        for chunk in stream(_control(p), {"command": "listing", "json": as_json}, _TIMEOUT):
            sys.stdout.buffer.write(chunk)
    except SystemDown as error:
        if not os.access(os.path.join(p["queue_directory"], "maildrop"), os.R_OK | os.X_OK):
            raise Fatal(f"Queue report unavailable - mail system is down ({error})") from error
        sys.stderr.write(f"postqueue: warning: Mail system is down -- accessing queue directly ({error})\n")
        _print(p, waiting(p), frozenset(), as_json)
    except ControlError as error:
        raise Fatal(f"Connect to the mail system: {error}") from error
    sys.stdout.flush()


def _print(p: Parameters, messages: Iterable[Message], active: frozenset[str], as_json: bool) -> None:
    if as_json:
        lines = json_listing(messages, active)
    else:
        lines = text_listing(messages, active, p.flag("enable_long_queue_ids"))
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
