"""``mtad sink``: a small SMTP server that keeps what it gets, for demonstrations and tests.

It speaks through the same engine as the daemon, can demand a login, offer TLS (STARTTLS, or from the start)
and answer what it is told at any stage.  Each message goes into a Maildir, with ``X-Sink-Login``,
``X-Sink-Sender`` and ``X-Sink-Recipient`` on top.  One line a message on standard output.  It is no relay.

Postfix counterpart: ``smtp-sink(1)``.
"""

from __future__ import annotations

import argparse
import hmac
import itertools
import os
import signal
import socket
import sys
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mtad.sasl import bearer, encoding, server
from mtad.sasl.mechanism import (
    Challenge,
    CheckPassword,
    CheckToken,
    NeedSecret,
    Property,
    Proven,
    Reason,
    SaslFailure,
    ServerContext,
    ServerMechanism,
    Steps,
    TokenVerdict,
    Work,
)
from mtad.wire import events as ev
from mtad.wire.reply import Reply
from mtad.wire.server import HELP, ServerSession, helo_reply
from mtad.wire.settings import ServerSettings

#: Stages at which ``--reply`` may speak.
STAGES = ("connect", "helo", "starttls", "auth", "mail", "rcpt", "data", "end-of-data", "quit")

_STAGE: dict[type, str] = {
    ev.Helo: "helo",
    ev.StartTLS: "starttls",
    ev.Auth: "auth",
    ev.Mail: "mail",
    ev.Rcpt: "rcpt",
    ev.Data: "data",
    ev.Bdat: "data",
    ev.BodyEnd: "end-of-data",
    ev.Quit: "quit",
}
_OK = Reply(250, b"Ok", b"2.0.0")
_FAILED = Reply(535, b"Error: authentication failed", b"5.7.8")
_LOG_IN_FIRST = Reply(530, b"Authentication required", b"5.7.0")


@implementer(IOpenSSLServerConnectionCreator)
class _TLS:
    def __init__(self, certificate: str, key: str) -> None:
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.use_certificate_chain_file(certificate)
        self._context.use_privatekey_file(key)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return SSL.Connection(self._context, None)


class SinkFactory(Factory):
    """What the connections share."""

    noisy = False

    def __init__(self, options: argparse.Namespace) -> None:
        self.users = dict(pair.split(":", 1) for pair in options.auth)
        self.tokens = options.tokens
        self.login = bool(self.users or self.tokens)
        self.mechanisms = _mechanisms(options.mechanisms) if self.users else ()
        if self.tokens:
            self.mechanisms += bearer.MECHANISMS
        self.replies = _replies(options.reply)
        self.wrapper = options.wrapper
        self.quiet = options.quiet
        self.maildir = options.maildir
        self.tls = _TLS(*options.tls.split(",", 1)) if options.tls else None
        self.settings = ServerSettings(
            hostname=options.hostname.encode(),
            tls_offered=self.tls is not None and not self.wrapper,
            auth_enabled=self.login,
            size_limit=options.size_limit,
            discard=frozenset(word.lower() for word in options.discard.split(",") if word),
            forbid_unauth_pipelining=False,
        )
        self.context = ServerContext(options.hostname.encode(), lambda: os.urandom(12).hex().encode())
        self._numbers = itertools.count(1)
        if self.maildir:
            for part in ("tmp", "new", "cur"):
                os.makedirs(os.path.join(self.maildir, part), exist_ok=True)

    def buildProtocol(self, addr: object) -> SinkProtocol:
        return SinkProtocol(self)

    def reply_at(self, stage: str) -> Reply | None:
        """What ``--reply`` wants said at ``stage``, or None."""
        wanted = self.replies.get(stage)
        if not wanted:
            return None
        return wanted.pop(0) if len(wanted) > 1 else wanted[0]

    def token(self, asked: CheckToken) -> TokenVerdict:
        """What the file of tokens says of one."""
        with open(self.tokens, "rb") as file:
            lines = file.read().split()
        good = b"%b:%b" % (asked.user, asked.token) in lines
        return TokenVerdict(asked.user) if good else TokenVerdict(failure=Reason.BADAUTH)

    def keep(self, message: bytes) -> str:
        """Put a message into the Maildir; returns its name there."""
        name = f"{os.getpid()}.{next(self._numbers)}.sink"
        if self.maildir:
            temporary = os.path.join(self.maildir, "tmp", name)
            with open(temporary, "wb") as out:
                out.write(message)
            os.rename(temporary, os.path.join(self.maildir, "new", name))
        return name


class SinkProtocol(Protocol):
    """One connection."""

    transport: Any

    def __init__(self, factory: SinkFactory) -> None:
        self._sink = factory
        self._engine = ServerSession(factory.settings, tls=factory.wrapper)
        self._login = b""
        self._steps: Steps | None = None
        self._proven = b""  # who it is, once our last word is heard
        self._envelope: list[bytes] = []
        self._body: list[bytes] = []

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        if self._sink.wrapper and self._sink.tls is not None:
            self.transport.startTLS(self._sink.tls)
        banner = Reply(220, self._sink.settings.hostname + b" ESMTP sink")
        self._engine.greet(self._sink.reply_at("connect") or banner)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        engine = self._engine
        engine.receive(data)
        while (event := engine.next_event()) is not None:
            if type(event) is ev.BodyChunk:
                self._body.append(event.data)
                continue
            reply = self._reply(event)
            if reply is None:
                engine.begin_chunk()
                continue
            engine.reply(reply)
            if type(event) is ev.StartTLS and reply.code == 220:
                self.transport.write(engine.data_to_send())
                self.transport.startTLS(self._sink.tls)
                engine.tls_started()
                return
        self._flush()

    def _flush(self) -> None:
        data = self._engine.data_to_send()
        if data:
            self.transport.write(data)
        if self._engine.closed:
            self.transport.loseConnection()

    def _reply(self, event: ev.Event) -> Reply | None:
        """The answer; None: let the chunk come."""
        if isinstance(event, ev.Refused):
            return event.reply
        stage = _STAGE.get(type(event))
        if stage is not None:
            told = self._sink.reply_at(stage)
            if told is not None and not told.positive:
                return told
        match event:
            case ev.Helo():
                names = tuple(each.name for each in self._sink.mechanisms)
                return self._engine.ehlo_reply(names) if event.extended else helo_reply(self._sink.settings)
            case ev.StartTLS():
                return Reply(220, b"Ready to start TLS", b"2.0.0")
            case ev.Auth():
                return self._auth(event)
            case ev.AuthResponse():
                return self._step(event.data)
            case ev.AuthAborted():
                return Reply(501, b"Authentication aborted", b"5.7.0")
            case ev.Mail():
                if self._sink.login and not self._login:
                    return _LOG_IN_FIRST
                self._envelope = [b"X-Sink-Login: " + self._login, b"X-Sink-Sender: " + event.sender.text]
                self._body = []
                return Reply(250, b"Ok", b"2.1.0")
            case ev.Rcpt():
                self._envelope.append(b"X-Sink-Recipient: " + event.recipient.text)
                return Reply(250, b"Ok", b"2.1.5")
            case ev.Data():
                return Reply(354, b"End data with <CR><LF>.<CR><LF>")
            case ev.Bdat():
                return None
            case ev.BodyEnd():
                return self._keep()
            case ev.Help():
                return HELP
            case ev.Quit():
                return Reply(221, b"Bye", b"2.0.0")
        return _OK

    def _keep(self) -> Reply:
        envelope = b"".join(line + b"\r\n" for line in self._envelope)
        name = self._sink.keep(envelope + b"".join(self._body))
        self._body = []
        if not self._sink.quiet:
            login = self._login.decode(errors="replace") or "nobody"
            print(f"kept {name}: {len(self._envelope) - 2} recipient(s), login {login}", flush=True)
        return Reply(250, f"Ok: kept as {name}".encode(), b"2.0.0")

    # -- login

    def _auth(self, event: ev.Auth) -> Reply:
        known = {each.name: each for each in self._sink.mechanisms}
        mechanism = known.get(event.mechanism.upper())
        if mechanism is None:
            return Reply(504, b"Unrecognized authentication type", b"5.5.4")
        self._proven = b""
        try:
            initial = None
            if event.initial is not None:
                initial = b"" if event.initial == b"=" else encoding.decode(event.initial)
            self._steps = server.begin(mechanism, self._sink.context, initial)
            return self._advance(None)
        except (SaslFailure, ValueError):
            return _FAILED

    def _logged_in(self) -> Reply:
        self._login, self._proven = self._proven, b""
        return Reply(235, b"Authentication successful", b"2.7.0")

    def _step(self, data: bytes) -> Reply:
        if self._proven:
            return self._logged_in()
        try:
            return self._advance(encoding.decode(data))
        except (SaslFailure, ValueError):
            return _FAILED

    def _advance(self, answer: bytes | None) -> Reply:
        steps = self._steps
        assert steps is not None
        try:
            wanted = next(steps) if answer is None else steps.send(answer)
            while isinstance(wanted, NeedSecret | CheckToken | Work):
                if isinstance(wanted, CheckToken):
                    wanted = steps.send(self._sink.token(wanted))
                    continue
                if isinstance(wanted, Work):
                    wanted = steps.send(wanted.do())
                    continue
                password = self._sink.users.get(wanted.user.decode(errors="replace"))
                wanted = steps.send({} if password is None else {"userPassword": password.encode()})
        except StopIteration as end:
            result = end.value
            if isinstance(result, CheckPassword):
                password = self._sink.users.get(result.authcid.decode(errors="replace"), "")
                if not password or not hmac.compare_digest(password.encode(), result.password):
                    return _FAILED
            self._proven = result.authcid
            if isinstance(result, Proven) and result.final is not None:
                return Reply(334, encoding.encode(result.final))
            return self._logged_in()
        assert isinstance(wanted, Challenge)
        return Reply(334, encoding.encode(wanted.data))


def _mechanisms(names: str) -> tuple[ServerMechanism, ...]:
    """Those that need nothing but a name and a password; ``names``, if any, in that order."""
    return tuple(
        each
        for each in server.select(names.replace(",", " ").split() or None)
        if not each.for_binding and not each.for_certificate and not each.by_name
        if Property.NOANONYMOUS in each.properties
    )


def _replies(words: list[str]) -> dict[str, list[Reply]]:
    """``stage=code text`` options as replies; several for one stage come in turn, the last one stays."""
    found: dict[str, list[Reply]] = {}
    for word in words:
        stage, equals, text = word.partition("=")
        code, _, rest = text.partition(" ")
        if stage not in STAGES or not equals or len(code) != 3 or not code.isdecimal():
            raise SystemExit(
                f"mtad sink: --reply {word!r}: write STAGE=CODE TEXT with one of {', '.join(STAGES)}"
            )
        found.setdefault(stage, []).append(Reply(int(code), rest.encode()))
    return found


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(prog="mtad sink", description="An SMTP server that keeps what it gets.")
    options.add_argument(
        "--listen", default="127.0.0.1:2525", help="ADDR:PORT, port 0: any (default %(default)s)"
    )
    options.add_argument("--auth", action="append", default=[], metavar="USER:PASS", help="demand a login")
    options.add_argument(
        "--tokens",
        default="",
        metavar="FILE",
        help="demand a login by one of its OAuth tokens: lines USER:TOKEN",
    )
    options.add_argument("--mechanisms", default="", metavar="NAME,...", help="what to log in by")
    options.add_argument("--tls", default="", metavar="CERT,KEY", help="offer STARTTLS")
    options.add_argument("--wrapper", action="store_true", help="TLS from the start instead")
    options.add_argument("--maildir", default="", metavar="DIR", help="keep messages there")
    options.add_argument("--hostname", default="sink.example")
    options.add_argument("--size-limit", type=int, default=0, metavar="BYTES")
    options.add_argument("--discard", default="", metavar="WORD,...", help="EHLO keywords not to offer")
    options.add_argument(
        "--reply", action="append", default=[], metavar="STAGE=CODE TEXT",
        help=f"answer so at a stage ({', '.join(STAGES)}); repeated: in turn, the last one stays",
    )  # fmt: skip
    options.add_argument("--quiet", action="store_true", help="no line for each message")
    return options


def main(argv: list[str]) -> int:
    """Run until SIGTERM or SIGINT.  The first line on standard output is ``listening on ADDR:PORT``."""
    options = parser().parse_args(argv)
    from twisted.internet import reactor as installed

    from mtad.net.eager import adopt

    reactor: Any = installed
    host, _, port = options.listen.rpartition(":")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]") or "127.0.0.1", int(port)))
    except (OSError, OverflowError, ValueError) as problem:
        sys.stderr.write(f"mtad sink: cannot listen on {options.listen}: {problem}\n")
        return 1
    listener.listen(1024)
    listener.setblocking(False)
    adopt(reactor, listener, SinkFactory(options))
    address = listener.getsockname()
    print(f"listening on {address[0]}:{address[1]}", flush=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: reactor.callFromThread(reactor.stop))
    reactor.run(installSignalHandlers=False)
    return 0
