"""The server that both relay to: it says what a dialogue tells it to, and remembers what it hears.

``Upstream(...)`` listens on a free port of 127.0.0.1 in threads of this process.  ``rules`` maps a stage, or
``stage:address``, to the reply to give there; stages are ``connect``, ``ehlo``, ``ehlo-tls`` (within TLS),
``helo``, ``starttls``, ``handshake``, ``auth``, ``mail``, ``rcpt``, ``data``, ``dot``, ``rset``.  ``data``
and ``dot`` go by the sender's address (``dot`` by LMTP, which has an answer for each, by the
recipient's).  The reply ``DROP`` hangs up.  It waits for nothing and never fails: what it did not expect is
in what it heard.
"""

from __future__ import annotations

import base64
import hmac
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DROP = b"DROP"
OFFERS = ("PIPELINING", "SIZE 10240000", "ENHANCEDSTATUSCODES", "8BITMIME", "DSN", "SMTPUTF8")
CHALLENGE = b"<1896.697170952@upstream.example>"


@dataclass(eq=False)
class Heard:
    """One session: the client's lines, a message's content as one entry after its DATA line; ``plain``: those
    that came without TLS."""

    lines: list[bytes] = field(default_factory=list)
    plain: list[bytes] = field(default_factory=list)
    over: bool = False


class Upstream:
    """See the module; use it as a context manager."""

    def __init__(
        self,
        offers: Sequence[str] = OFFERS,
        users: Mapping[str, str] | None = None,
        mechanisms: str = "PLAIN LOGIN CRAM-MD5",
        tls: tuple[str, str] | None = None,
        address: tuple[str, int] = ("127.0.0.1", 0),
        ciphers: str = "",
        authorities: str = "",
    ) -> None:
        """``users``: passwords by login; with any, MAIL needs a login.  ``tls``: certificate and key.
        ``address``: where to listen.  ``ciphers``: OpenSSL's list, if not the usual one.  ``authorities``:
        file of those whose client certificates are asked for."""
        self.users = dict(users or {})
        self.rules: Mapping[str, bytes] = {}
        self.sessions: list[Heard] = []
        self._offers = [*offers, *([f"AUTH {mechanisms}"] if self.users else [])]
        self.context: ssl.SSLContext | None = None
        if tls is not None:
            self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            if ciphers:
                self.context.set_ciphers(ciphers)
            self.context.load_cert_chain(*tls)
            if authorities:
                self.context.verify_mode = ssl.CERT_OPTIONAL
                self.context.load_verify_locations(authorities)
        #: the certificates of clients, in turn, as far as they had any
        self.client_certificates: list[bytes] = []
        #: the names that clients have asked for in TLS, in turn
        self.server_names: list[str] = []
        if self.context is not None:
            self.context.sni_callback = lambda _, name, __: self.server_names.append(name or "")
        self._listener = socket.create_server(address, backlog=64)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Upstream:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # wakes the thread that waits for a client, which closing alone would not
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            heard = Heard()
            self.sessions.append(heard)
            threading.Thread(target=_Conversation(self, client, heard).run, daemon=True).start()

    def rule(self, stage: str, address: bytes = b"") -> bytes | None:
        """What is to be said there, if it is not the usual."""
        rules = self.rules
        found = rules.get(f"{stage}:{address.decode('utf-8', 'replace')}")
        return rules.get(stage) if found is None else found

    def offers(self, tls: bool) -> list[str]:
        return [*self._offers, *(["STARTTLS"] if self.context is not None and not tls else [])]


class _Conversation:
    """One client."""

    def __init__(self, upstream: Upstream, client: socket.socket, heard: Heard) -> None:
        self._upstream = upstream
        self._socket = client
        self._stream = client.makefile("rb")
        self._heard = heard
        self._tls = False
        self._positive = True  # the last reply was
        self._sender = b""
        self._login = b""
        self._recipients: list[bytes] = []
        self._lmtp = False

    def run(self) -> None:
        try:
            self._socket.settimeout(60)
            if self._say("connect", b"220 upstream.example ESMTP"):
                while (line := self._line()) and self._command(line):
                    pass
        except (OSError, ValueError):
            pass
        finally:
            self._stream.close()
            self._socket.close()
            self._heard.over = True

    def _line(self) -> bytes:
        line = self._stream.readline()
        if line:
            self._heard.lines.append(line.removesuffix(b"\r\n"))
            if not self._tls:
                self._heard.plain.append(line.removesuffix(b"\r\n"))
        return line

    def _send(self, reply: bytes) -> None:
        self._socket.sendall(reply.replace(b"\n", b"\r\n") + b"\r\n")

    def _say(self, stage: str, usual: bytes, address: bytes = b"") -> bool:
        """Reply; False when the session is to end."""
        rule = self._upstream.rule(stage, address)
        if rule == DROP:
            return False
        reply = rule or usual
        self._positive = reply[:1] in b"23"
        self._send(reply)
        return not reply.startswith(b"421")

    def _command(self, line: bytes) -> bool:
        words = line.split()
        verb = words[0].upper() if words else b""
        match verb:
            case b"EHLO" | b"LHLO":
                self._lmtp = verb == b"LHLO"
                lines = ["upstream.example", *self._upstream.offers(self._tls)]
                text = "".join(f"250-{each}\n" for each in lines[:-1]) + f"250 {lines[-1]}"
                within = self._tls and self._upstream.rule("ehlo-tls")
                return self._say("ehlo-tls" if within else "ehlo", text.encode())
            case b"HELO":
                return self._say("helo", b"250 upstream.example")
            case b"STARTTLS":
                return self._starttls()
            case b"AUTH":
                return self._auth(words)
            case b"MAIL":
                return self._mail(line)
            case b"RCPT":
                again = self._say("rcpt", b"250 2.1.5 Ok", _address(line))
                if again and self._positive:
                    self._recipients.append(_address(line))
                return again
            case b"DATA":
                return self._data()
            case b"QUIT":
                self._send(b"221 2.0.0 Bye")
                return False
        return self._say(verb.decode("ascii", "replace").lower(), b"250 2.0.0 Ok")

    def _starttls(self) -> bool:
        context = self._upstream.context
        assert context is not None
        again = self._say("starttls", b"220 2.0.0 Go on")
        garbage = self._upstream.rule("handshake")
        if again and self._positive and garbage:
            self._socket.recv(65536)  # the client's greeting in TLS
            self._socket.sendall(garbage)
            return False
        if again and self._positive:
            wrapped = context.wrap_socket(self._socket, server_side=True)
            self._upstream.client_certificates.append(wrapped.getpeercert(True) or b"")
            self._socket = wrapped
            self._stream = self._socket.makefile("rb")
            self._tls = True
        return again

    def _mail(self, line: bytes) -> bool:
        self._recipients = []
        self._sender = _address(line)
        if self._upstream.users and not self._login:
            self._send(b"530 5.7.0 Authentication required")
            return True
        return self._say("mail", b"250 2.1.0 Ok", self._sender)

    def _data(self) -> bool:
        if not self._recipients:
            self._send(b"554 5.5.1 Error: no valid recipients")
            return True
        again = self._say("data", b"354 Go on", self._sender)
        if not again or not self._positive:
            return again
        content = b""
        while not content.endswith(b"\r\n.\r\n") and content != b".\r\n":
            line = self._stream.readline()
            content += line or b"(cut)\r\n.\r\n"
        self._heard.lines.append(content)
        if not self._lmtp:
            return self._say("dot", b"250 2.0.0 Ok: kept", self._sender)
        said = [self._say("dot", b"250 2.0.0 Ok: kept", each) for each in self._recipients]
        return all(said)

    def _auth(self, words: list[bytes]) -> bool:
        """Take a login; its lines are among those heard."""
        users = {name.encode(): password.encode() for name, password in self._upstream.users.items()}
        mechanism = words[1].upper()
        if mechanism == b"PLAIN":
            given = words[2] if len(words) > 2 else self._ask(b"")
            _, user, password = base64.b64decode(given).split(b"\0")
        elif mechanism == b"LOGIN":
            user = base64.b64decode(self._ask(b"Username:"))
            password = base64.b64decode(self._ask(b"Password:"))
        else:
            user, _, digest = base64.b64decode(self._ask(CHALLENGE)).rpartition(b" ")
            known = users.get(user, b"")
            right = hmac.new(known, CHALLENGE, "md5").hexdigest().encode()
            password = known if digest == right else b""
        if users.get(user) and users[user] == password:
            self._login = user
            return self._say("auth", b"235 2.7.0 Welcome")
        return self._say("auth", b"535 5.7.8 No such login")

    def _ask(self, challenge: bytes) -> bytes:
        self._send(b"334 " + base64.b64encode(challenge))
        return self._line().strip()


def _address(line: bytes) -> bytes:
    return line.partition(b"<")[2].rpartition(b">")[0]
