"""The ways that mail goes: does each lead to a program that mtad has?

Mail by any other (``pipe``, ``uucp`` ...) is kept in the queue, which is told once for each parameter that
names one, and for each of them in ``transport_maps`` and its sister by sender.  It is an error where
master.cf has such a service, since that would never do its work; but no reason not to start, since no mail
is lost.  Mail for local users is kept, too, where nothing says into which maildir.

Postfix counterpart: none; ``qmgr(8)`` finds out when it can't connect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from mtad.config.lint import ERROR, WARNING, Finding
from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters
from mtad.deliver.transports import programs
from mtad.errors import MtadError
from mtad.tables import Maps
from mtad.tables.table import LocalTable

#: Parameters that name a transport, each with what goes by it; the last ones are seldom set.
_NAMES = {
    "default_transport": "mail for other domains",
    "relay_transport": "mail for relay_domains",
    "virtual_transport": "mail for virtual_mailbox_domains",
    "local_transport": "mail for mydestination",
    "mailbox_transport": "mail for local users",
    "fallback_transport": "mail for unknown local users",
    "best_mx_transport": "mail that would come back",
}
_MAPS = ("transport_maps", "sender_dependent_default_transport_maps")
#: Entries of a table that are looked at.
_ENTRIES = 100_000
_COMMANDS = ("mailbox_command", "mailbox_command_maps")
#: Without these domains nothing goes by a transport.
_DOMAINS = {
    "relay_transport": "relay_domains",
    "virtual_transport": "virtual_mailbox_domains",
    "local_transport": "mydestination",
    "mailbox_transport": "mydestination",
    "fallback_transport": "mydestination",
}


def findings(p: Parameters, services: Sequence[Service]) -> Iterator[Finding]:
    """The findings; ``services`` are all of master.cf."""
    known = programs(services)
    for name, what in _NAMES.items():
        transport = p[name].partition(":")[0].strip()
        domains = _DOMAINS.get(name)
        if not transport or transport in known or (domains and not p[domains].strip()):
            continue
        path, line = p.where(name)
        severity, why = _why(transport, services)
        yield Finding(severity, path, line, name, f"{why}: {what} waits in the queue")
    for name in _MAPS:
        yield from _entries(p, name, services, known)
    if "local" in {program for program, _ in known.values()} and p["mydestination"].strip():
        yield from _mailboxes(p, known[_local(p)][0] if _local(p) in known else "")


def _local(p: Parameters) -> str:
    return p["local_transport"].partition(":")[0].strip()


def _entries(
    p: Parameters, name: str, services: Sequence[Service], known: Collection[str]
) -> Iterator[Finding]:
    """The transports that a table leads to, as far as its entries can be listed."""
    maps = Maps(p[name], p.directory, title=name)
    path, line = p.where(name)
    found: dict[str, bytes] = {}
    for table in maps.tables:
        with suppress(MtadError):  # it can't be listed, or not be read, which the audit of tables tells
            for key, value in islice(table.items(), _ENTRIES) if isinstance(table, LocalTable) else ():
                transport = value.partition(b":")[0].decode("utf-8", "replace").strip()
                if transport and transport.upper() != "DUNNO" and transport not in known:
                    found.setdefault(transport, key)
    maps.close()
    for transport, key in found.items():
        severity, why = _why(transport, services)
        shown = key.decode("utf-8", "replace")
        yield Finding(severity, path, line, name, f"{why}: mail for {shown} waits in the queue")


def _why(transport: str, services: Sequence[Service]) -> tuple[str, str]:
    """Why nothing goes by a transport, and how bad that is."""
    line = next((one for one in services if one.name == transport and one.type == "unix"), None)
    if line is None:
        return WARNING, f'master.cf has no service "{transport}"'
    return ERROR, f'service "{transport}" runs {line.command.rpartition("/")[2]}, which mtad does not'


def _mailboxes(p: Parameters, program: str) -> Iterator[Finding]:
    """What becomes of mail for local users, where ``program`` is to deliver it."""
    if program != "local" or p["mailbox_transport"]:
        return
    home = p["home_mailbox"]
    if home and not home.endswith("/"):
        path, line = p.where("home_mailbox")
        text = "no maildir (no slash at its end): mail for local users waits in the queue"
        yield Finding(WARNING, path, line, "home_mailbox", text)
    for name in _COMMANDS:
        if p[name]:
            path, line = p.where(name)
            text = "mtad runs no commands: set home_mailbox = Maildir/, or mailbox_transport = lmtp:..."
            yield Finding(WARNING, path, line, name, text)
