"""A queue manager and a server with TLS in one process, for ``test_session_tls.py``.

Arguments: the directory of the certificate, how the server behaves, and parameters as ``name=value``.
Prints the log.  A program of its own because TLS needs Twisted's global reactor.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from delivery_world import FakeResolver, MemoryStore, finish
from OpenSSL import SSL
from twisted.internet import reactor as global_reactor
from twisted.internet.protocol import Factory
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.protocols.basic import LineReceiver

from mtad.config.parameters import Parameters
from mtad.deliver.qmgr import QueueManager
from mtad.maillog import ListSink, MailLog
from mtad.queue.message import Message, Recipient
from mtad.tables.blocking import BlockingTable
from mtad.tables.threads import Threads

reactor: Any = global_reactor


class Server(LineReceiver):
    """Offers STARTTLS; ``garbage``: and then speaks no TLS; ``EHLO``, ``MAIL``, ``body``: hangs up at that,
    within TLS; ``offer``: hangs up there once it has offered AUTH."""

    left = False

    def __init__(self, contexts: Any, behaviour: str) -> None:
        self.contexts = contexts
        self.behaviour = behaviour
        self.secure = False
        self.body = False

    def connectionMade(self) -> None:
        if self.behaviour == "wrapped":
            self.transport.startTLS(self.contexts)
            self.secure = True
        self.sendLine(b"220 test ESMTP")

    def lineReceived(self, line: bytes) -> None:
        verb = line[:4].upper()
        stage = "body" if self.body and line == b"." else verb.decode()
        if self.secure and stage == self.behaviour:
            self.transport.loseConnection()
        elif self.body:
            if line == b".":
                self.body = False
                self.sendLine(b"250 2.0.0 Ok: secure" if self.secure else b"250 2.0.0 Ok: plain")
        elif verb in (b"EHLO", b"LHLO"):
            self.sendLine(b"250-test")
            if not self.secure and self.behaviour != "wrapped":
                self.sendLine(b"250-STARTTLS")
            if self.secure and self.behaviour == "offer":
                self.sendLine(b"250 AUTH PLAIN")
                self.transport.loseConnection()
            else:
                self.sendLine(b"250 PIPELINING")
        elif verb == b"STAR":
            self.sendLine(b"220 go")
            if self.behaviour == "garbage":
                self.setRawMode()
            else:
                self.transport.startTLS(self.contexts)
                self.secure = True
        elif verb == b"DATA":
            self.body = True
            self.sendLine(b"354 go")
        else:
            self.sendLine(b"250 ok")

    def rawDataReceived(self, data: bytes) -> None:
        self.sendLine(b"this is no TLS")
        self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        Server.left = True


class Table(LineReceiver):
    """A tcp_table(5) that has all keys, and answers when a client of the server has gone."""

    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:
        if Server.left:
            self.sendLine(b"200 yes")
        else:
            reactor.callLater(0.005, self.lineReceived, line)


class ServerFactory(Factory):
    noisy = False

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def buildProtocol(self, addr: Any) -> Server:
        return Server(*self.arguments)


def main() -> None:
    directory, behaviour, *settings = sys.argv[1:]
    contexts = DefaultOpenSSLContextFactory(
        f"{directory}/key.pem", f"{directory}/cert.pem", SSL.TLS_SERVER_METHOD
    )
    factory = ServerFactory(contexts, behaviour)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
    reactor.listenUNIX(f"{directory}/lmtp", factory)
    BlockingTable.runner = Threads(reactor)
    table = reactor.listenTCP(0, Factory.forProtocol(Table), interface="127.0.0.1").getHost().port
    values = {
        "myhostname": "mail.example.com",
        "mydestination": "",
        "inet_interfaces": "127.0.0.1",
        "inet_protocols": "ipv4",
        "relayhost": f"[mx.test]:{port}",
        "smtp_tls_loglevel": "1",
        "smtp_connection_cache_destinations": "mx.test",
    }
    values.update(setting.replace("TABLE", f"tcp:127.0.0.1:{table}").split("=", 1) for setting in settings)
    resolver: Any = FakeResolver()
    resolver.address_records["mx.test"] = ["127.0.0.1"]
    store: Any = MemoryStore()
    sink = ListSink()
    qmgr = QueueManager(
        Parameters.from_mapping(values),
        store,
        reactor,
        MailLog(sink, "postfix"),
        resolver,
        new_id=lambda: "B1",
    )

    def submit(name: str) -> None:
        arrival = reactor.seconds() - (400 if "old" in values else 0)
        content = b"Subject: x\r\n\r\n" + b"y\r\n" * (100_000 if "big" in values else 1)
        recipients = [Recipient(b"you@dest.test")]
        attributes = {name: "yes" for name in ("probe", "requiretls") if name in values}
        message = Message(name, b"", recipients, arrival, len(content), content, attributes=attributes)
        finish(store.enqueue(message))
        qmgr.wake()

    def watch(name: str, then: Any) -> None:
        if any(f"{name}: to=" in text for _, _, text in sink.lines):
            then()
        else:
            reactor.callLater(0.005, watch, name, then)

    def second() -> None:
        submit("Q2")
        watch("Q2", end)

    def end() -> None:
        qmgr.stop().addBoth(lambda _: reactor.callLater(0.02, reactor.stop))

    submit("Q1")
    watch("Q1", second)
    reactor.callLater(20, reactor.stop)
    reactor.run()
    for level, ident, text in sink.lines:
        print(f"{level} {ident}: {text}".replace(str(port), "PORT"))
    assert Path(directory).exists()


if __name__ == "__main__":
    main()
