"""The ways that mail goes: does each lead to a program that mtad has?

Mail by any other (``pipe``, ``uucp`` ...) is kept in the queue, which is told once for each parameter that
names one, and for each service that runs one.  So is mail for local users where nothing says into which
maildir.

Postfix counterpart: none; ``qmgr(8)`` finds out when it can't connect.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtad.config.lint import WARNING, Finding
from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters
from mtad.deliver.transports import programs

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
        yield Finding(WARNING, path, line, name, f"{_why(transport, services)}: {what} waits in the queue")
    if "local" in {program for program, _ in known.values()} and p["mydestination"].strip():
        yield from _mailboxes(p, known[_local(p)][0] if _local(p) in known else "")


def _local(p: Parameters) -> str:
    return p["local_transport"].partition(":")[0].strip()


def _why(transport: str, services: Sequence[Service]) -> str:
    line = next((one for one in services if one.name == transport and one.type == "unix"), None)
    if line is None:
        return f'master.cf has no service "{transport}"'
    return f'service "{transport}" runs {line.command.rpartition("/")[2]}, which mtad does not'


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
