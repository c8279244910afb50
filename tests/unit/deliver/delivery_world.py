"""A world in memory to deliver mail in: a store, name servers, and scripted SMTP servers."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any

from twisted.internet import error
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from mtad.config.parameters import Parameters
from mtad.deliver.qmgr import QueueManager
from mtad.errors import QueueError
from mtad.maillog import ListSink, MailLog
from mtad.net.dns import DnsError, DnsStatus
from mtad.net.dns_message import Record
from mtad.queue.message import DEFERRED, DONE, INCOMING, PENDING, Message, Outcome, Recipient

NOW = 1_000_000.0
#: Recipients that come with a message.
PORTION = 1000


class MemoryStore:
    """A queue store without durability."""

    def __init__(self) -> None:
        self.messages: dict[int, Message] = {}
        self.finished: list[tuple[str, list[Outcome], float]] = []
        self.contents: dict[str, bytes] = {}
        self.fail = 0  # so many writes fail
        self.journal: list[tuple[str | int, ...]] = []
        self._seq = 0

    async def enqueue(self, message: Message) -> None:
        self._seq += 1
        message.seq = self._seq
        message.state = INCOMING
        for number, recipient in enumerate(message.recipients, 1):
            recipient.id = number
        self.messages[message.seq] = message

    def in_doubt(self, ids: Sequence[int]) -> None:
        self.journal.append(("in doubt", *ids))

    def answered(self, ids: Sequence[int], delivered: bool) -> None:
        self.journal.append(("delivered" if delivered else "not delivered", *ids))

    async def incoming(self, after: int, limit: int) -> list[Message]:
        found = [m for seq, m in self.messages.items() if seq > after and m.state == INCOMING]
        return [self._given(message) for message in found[:limit]]

    async def due(
        self, now: float, limit: int, skip: frozenset[int], after: tuple[float, int] = (float("-inf"), 0)
    ) -> list[Message]:
        found = [
            m
            for seq, m in self.messages.items()
            if m.state == DEFERRED and m.next_attempt <= now and seq not in skip
            if (m.next_attempt, m.seq) > after
        ]
        found.sort(key=lambda message: message.next_attempt)
        return [self._given(message) for message in found[:limit]]

    def _given(self, message: Message) -> Message:
        copy = Message(
            message.queue_id,
            message.sender,
            [r for r in message.recipients if r.state == PENDING],
            message.arrival,
        )
        names = "size content body smtputf8 ret envid seq state warned next_attempt expired attributes"
        for name in names.split():
            setattr(copy, name, getattr(message, name))
        copy.recipient_count = len(message.recipients)
        copy.recipients = [r for r in message.recipients[:PORTION] if r.state == PENDING]
        copy.recipients_read = min(PORTION, copy.recipient_count)
        return copy

    async def recipients(self, message: Message, first: int, count: int) -> list[Recipient]:
        found = self.messages[message.seq].recipients[first : first + count]
        return [recipient for recipient in found if recipient.state == PENDING]

    async def next_due(self, after: float) -> float | None:
        due = (m.next_attempt for m in self.messages.values() if m.state == DEFERRED)
        return min((when for when in due if when > after), default=None)

    async def finish(
        self,
        message: Message,
        outcomes: Sequence[Outcome],
        next_attempt: float,
        bounces: Sequence[Message] = (),
    ) -> bool:
        if self.fail:
            self.fail -= 1
            raise QueueError("disk on fire")
        self.finished.append((message.queue_id, list(outcomes), next_attempt))
        kept = self.messages[message.seq]
        kept.warned = message.warned
        for outcome in outcomes:
            recipient = outcome.recipient
            recipient.state = PENDING if outcome.status == "deferred" else DONE
            recipient.reason = outcome.reason
        for bounce in bounces:
            await self.enqueue(bounce)
        if all(recipient.state == DONE for recipient in kept.recipients):
            del self.messages[message.seq]
            return True
        kept.state, kept.next_attempt = DEFERRED, next_attempt
        return False

    def read(self, message: Message) -> Iterator[bytes]:
        content = message.content if message.content is not None else self.contents[message.queue_id]
        for at in range(0, len(content), 65536):
            yield content[at : at + 65536]

    async def flush(self, queue_ids: Sequence[str] | None = None) -> int:
        found = [m for m in self.messages.values() if m.state == DEFERRED]
        for message in found:
            message.next_attempt = 0.0
        return len(found)

    def listing(self) -> Iterator[Message]:
        return iter(list(self.messages.values()))

    async def close(self) -> None:
        pass


class FakeResolver:
    """Name servers that know what they are told."""

    def __init__(self) -> None:
        self.mx_records: dict[str, list[tuple[int, str]] | DnsError] = {}
        self.address_records: dict[str, list[str] | DnsError] = {}
        self.srv_records: dict[str, list[tuple[int, int, int, str]] | DnsError] = {}

    async def mx(self, domain: str) -> list[tuple[int, str]]:
        found = self.mx_records.get(domain, [])
        if isinstance(found, DnsError):
            raise found
        return sorted(found)

    async def srv(self, name: str) -> list[tuple[int, int, int, str]]:
        found = self.srv_records.get(name)
        if found is None:
            raise DnsError(DnsStatus.NOT_FOUND, f"no {name}")
        if isinstance(found, DnsError):
            raise found
        return found

    async def query(self, name: str, type_: str) -> tuple[Record, ...]:
        assert type_ == "MX"
        found = await self.mx(name)
        if not found:
            raise DnsError(DnsStatus.NOT_FOUND, f"no {name}")
        return tuple(Record(name, "MX", 60, pair) for pair in found)

    async def addresses(
        self, host: str, protocols: Sequence[str] = ("ipv4", "ipv6"), ways: Sequence[str] = ()
    ) -> list[str]:
        found = self.address_records.get(host)
        if found is None:
            text = f"Host or domain name not found. Name service error for name={host} type=A: Host not found"
            raise DnsError(DnsStatus.NOT_FOUND, text)
        if isinstance(found, DnsError):
            raise found
        return [address for address in found if ("ipv6" if ":" in address else "ipv4") in protocols]


class Server:
    """A scripted SMTP server.  ``answers`` by verb override the usual ones; None: hang up; b"": silence."""

    def __init__(
        self, extensions: Sequence[bytes] = (b"PIPELINING", b"8BITMIME", b"DSN"), **answers: Any
    ) -> None:
        self.extensions = list(extensions)
        self.answers: dict[str, bytes | Callable[[bytes], bytes | None] | None] = answers
        self.commands: list[bytes] = []
        self.messages: list[bytes] = []
        self.connections = 0

    def greet(self) -> bytes | None:
        self.connections += 1
        return self.answer("greeting", b"", b"220 fake ESMTP\r\n")

    def answer(self, verb: str, line: bytes, usual: bytes) -> bytes | None:
        found = self.answers.get(verb, usual)
        return found(line) if callable(found) else found

    def command(self, line: bytes) -> bytes | None:
        self.commands.append(line)
        verb = line.split(b" ")[0].split(b":")[0].upper().decode()
        if verb == "EHLO":
            lines = [b"fake", *self.extensions]
            usual = b"".join(b"250-%b\r\n" % text for text in lines[:-1]) + b"250 %b\r\n" % lines[-1]
        elif verb == "DATA":
            usual = b"354 go on\r\n"
        else:
            usual = b"221 bye\r\n" if verb == "QUIT" else b"250 2.0.0 Ok\r\n"
        return self.answer(verb.lower(), line, usual)

    def message(self, data: bytes) -> bytes | None:
        self.messages.append(data)
        return self.answer("message", data, b"250 2.0.0 Ok: queued as %d\r\n" % len(self.messages))


class Wire:
    """The transport between the SMTP client and a :class:`Server`."""

    def __init__(self, world: World, protocol: Any, server: Server) -> None:
        self.world = world
        self.protocol = protocol
        self.server = server
        self.buffer = b""
        self.in_data = False
        self.open = True
        self.producer: Any = None
        self.written = 0

    def write(self, data: bytes) -> None:
        if not self.open:
            return
        self.written += len(data)
        self.buffer += data
        self.world.events.append(self.serve)
        if self.producer is not None:
            self.producer.pauseProducing()
            self.world.events.append(self.producer.resumeProducing)

    def serve(self) -> None:
        """Let the server answer the next of what has come, and let others have their turn."""
        if self.open:
            end = b"\r\n.\r\n" if self.in_data else b"\r\n"
            if self.in_data and self.buffer.startswith(b".\r\n"):
                data, self.buffer = b"", self.buffer[3:]
            elif end in self.buffer:
                data, _, self.buffer = self.buffer.partition(end)
            else:
                return
            if self.in_data:
                self.in_data = False
                self.say(self.server.message(data.replace(b"\r\n..", b"\r\n.")))
            else:
                answer = self.server.command(data)
                self.in_data = data.upper() == b"DATA" and (answer or b"").startswith(b"354")
                self.say(answer)
            if self.buffer:
                self.world.events.append(self.serve)

    def say(self, answer: bytes | None) -> None:
        if answer is None:
            self.drop()
        elif answer and self.open:
            self.protocol.dataReceived(answer)

    def drop(self) -> None:
        if self.open:
            self.open = False
            self.protocol.connectionLost(Failure(error.ConnectionDone()))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseConnection(self) -> None:
        self.world.events.append(self.drop)

    def abortConnection(self) -> None:
        self.world.events.append(self.drop)


class World:
    """All of it, with a queue manager in the middle."""

    def __init__(self, **settings: str) -> None:
        values = {
            "myhostname": "mail.example.com",
            "mydomain": "example.com",
            "myorigin": "example.com",
            "mydestination": "local.test",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "relayhost": "[192.0.2.1]:2525",
            "smtp_tls_security_level": "none",
        }
        self.p = Parameters.from_mapping({**values, **settings})
        self.reactor: Any = MemoryReactorClock()
        self.reactor.advance(NOW)
        self.sink = ListSink()
        self.store = MemoryStore()
        self.resolver = FakeResolver()
        self.servers: dict[tuple[str, int], Server] = {}
        self.events: deque[Callable[[], None]] = deque()
        self.wires: list[Wire] = []
        self._ids = 0
        self._dialled = 0
        self.qmgr = QueueManager(
            self.p,
            self.store,
            self.reactor,
            MailLog(self.sink, "postfix"),
            self.resolver,  # type: ignore[arg-type]
            new_id=self._new_id,
            rng=random.Random(1),
        )

    def _new_id(self) -> str:
        self._ids += 1
        return f"BOUNCE{self._ids}"

    def server(self, address: str = "192.0.2.1", port: int = 2525, **options: Any) -> Server:
        server = self.servers[address, port] = Server(**options)
        return server

    def submit(self, queue_id: str, *recipients: bytes | Recipient, **fields: Any) -> Message:
        """Put a message into the store."""
        content = fields.pop("content", b"Subject: test\r\n\r\nbody\r\n")
        message = Message(
            queue_id,
            fields.pop("sender", b"me@example.com"),
            [r if isinstance(r, Recipient) else Recipient(r, original=r) for r in recipients],
            fields.pop("arrival", self.reactor.seconds()),
            size=fields.pop("size", len(content)),
            content=content,
            **fields,
        )
        finish(self.store.enqueue(message))
        return message

    def run(self) -> None:
        """Start or wake the queue manager, and let everything happen that takes no time."""
        self.qmgr.wake()
        self.settle()

    def settle(self) -> None:
        while True:
            if self._dialled < len(self.reactor.tcpClients):
                host, port, factory, _, _ = self.reactor.tcpClients[self._dialled]
                self._dialled += 1
                server = self.servers.get((host, port))
                if server is None:
                    self.events.append(partial(_refuse, factory))
                else:
                    self._connect(factory, server)
            elif self.events:
                self.events.popleft()()
            else:
                return

    def _connect(self, factory: Any, server: Server) -> None:
        protocol = factory.buildProtocol(None)
        wire = Wire(self, protocol, server)
        self.wires.append(wire)

        def connect() -> None:
            protocol.makeConnection(wire)
            wire.say(server.greet())

        self.events.append(connect)

    def advance(self, seconds: float) -> None:
        self.reactor.advance(seconds)
        self.settle()

    @property
    def lines(self) -> list[str]:
        return [f"{ident}: {text}" for _, ident, text in self.sink.lines]

    def log(self, queue_id: str) -> list[str]:
        """The log lines about a message, without the id."""
        return [line.replace(f"{queue_id}: ", "", 1) for line in self.lines if f" {queue_id}: " in line]


def _refuse(factory: Any) -> None:
    factory.clientConnectionFailed(None, Failure(error.ConnectionRefusedError()))


def finish(awaitable: Awaitable[Any]) -> Any:
    """The result of a coroutine that does not wait."""
    coroutine: Any = awaitable
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits")
