"""The transports there are: who delivers for each name in master.cf.

A :class:`Deliverer` makes deliveries; there is one for each service of master.cf whose program mtad has, and
for the usual ones that it leaves out.  What mtad does not run (``pipe``, ``uucp`` ...) has none: its mail
waits.

Postfix counterpart: ``qmgr_transport.c``, and the delivery agents that ``master(8)`` would start.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.task import deferLater

from mtad.config.master_cf import Service
from mtad.config.parameters import Parameters
from mtad.deliver.agent import Agent
from mtad.deliver.client_flags import ClientFlags
from mtad.deliver.internal import Internal
from mtad.deliver.job import Clean, Job, Result
from mtad.deliver.lmtp_parameters import client_parameters
from mtad.deliver.local import LocalAgent, Office, VirtualAgent
from mtad.deliver.mailbox import Mailboxes, mailman_socket
from mtad.deliver.mta_sts import MtaSts
from mtad.deliver.names import DNSSEC, dns_support
from mtad.deliver.route import Route
from mtad.maillog import MailLog
from mtad.net.dns import Resolver
from mtad.oauth.tokens import Accounts
from mtad.queue.store import QueueStore

#: Programs of Postfix that deliver, each with a transport here.
PROGRAMS = frozenset({"smtp", "lmtp", "error", "discard", "local", "virtual"})
#: The transports there are without a line of master.cf, and their programs.
_USUAL = {
    "smtp": "smtp",
    "relay": "smtp",
    "lmtp": "lmtp",
    "error": "error",
    "retry": "error",
    "discard": "discard",
}
#: Those that speak with a server.
_CLIENTS = ("smtp", "lmtp")


class Deliverer(Protocol):
    """One transport."""

    #: its deliveries take no time: no limit of any destination holds them up
    immediate: bool

    def deliver(self, job: Job) -> Coroutine[Any, Any, Result]:
        """Make a delivery, and log what came of it."""

    def close_idle(self) -> None:
        """End what nobody uses."""

    def abort(self) -> None:
        """End all, whatever is under way."""


@dataclass(frozen=True, slots=True)
class Around:
    """What transports are made with."""

    p: Parameters
    store: QueueStore
    reactor: Any
    log: MailLog
    resolver: Resolver
    rng: random.Random
    clock: Callable[[], float]
    new_id: Callable[[], str]
    resolve: Callable[[bytes, bytes], Awaitable[Route]]
    clean: Clean


def programs(services: Sequence[Service]) -> dict[str, tuple[str, Service | None]]:
    """The delivery transports by name: each with its program, and its line of master.cf if it has one."""
    found: dict[str, tuple[str, Service | None]] = {name: (program, None) for name, program in _USUAL.items()}
    for service in services:
        if service.type == "unix":
            found[service.name] = (service.command.rpartition("/")[2], service)
    return {name: pair for name, pair in found.items() if pair[0] in PROGRAMS}


def writes_mailboxes(p: Parameters, services: Sequence[Service]) -> bool:
    """Whether there are maildirs that mail is written into."""
    kinds = {program for program, _ in programs(services).values()}
    local = "local" in kinds and p["home_mailbox"].endswith("/")
    return local or ("virtual" in kinds and bool(p["virtual_mailbox_base"]))


def make_transports(around: Around, services: Sequence[Service]) -> dict[str, Deliverer]:
    """All transports by name."""
    p, log = around.p, around.log
    found = programs(services)
    own = {name: client_parameters(p, line, program == "lmtp") for name, (program, line) in found.items()}
    accounts = Accounts(p, around.reactor, log.named(f"{p['syslog_name']}/smtp"), around.clock)
    clients = [own[name] for name, (program, _) in found.items() if program in _CLIENTS]
    if any(client.flag("smtp_sasl_auth_enable") for client in clients):
        accounts.load()
    around.resolver.dnssec = any(dns_support(client) == DNSSEC for client in clients)
    sts = MtaSts.build(p, around.resolver, around.reactor, log.named(f"{p['syslog_name']}/smtp"))
    mailboxes = Mailboxes(mailman_socket(p), around.reactor)

    async def resolve(address: bytes) -> Route:
        return await around.resolve(b"", address)

    def pause() -> Awaitable[None]:
        return deferLater(around.reactor, 0.0)

    made: dict[str, Deliverer] = {}
    for name, (program, line) in found.items():
        parameters = own[name]
        named = log.named(f"{parameters['syslog_name']}/{program}")
        if program in _CLIENTS:
            made[name] = Agent(
                parameters,
                around.store,
                around.reactor,
                named,
                around.resolver,
                around.rng,
                around.clock,
                around.new_id,
                accounts,
                program == "lmtp",
                sts,
                ClientFlags.of(line, f"{p.directory}/master.cf"),
                around.clean,
            )
        elif program in ("local", "virtual"):
            office = Office(
                around.store, named, around.clock, mailboxes, around.new_id, resolve, pause, around.clean
            )
            made[name] = (LocalAgent if program == "local" else VirtualAgent)(parameters, name, office)
        else:
            status = "sent" if program == "discard" else "deferred" if name == "retry" else "bounced"
            made[name] = Internal(parameters, status, named, around.clock)
    return made
