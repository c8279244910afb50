"""A next hop of a thousand faces: what it says to the SMTP client at each stage comes from a seed.

:class:`Script` makes the words: greetings, keywords, replies of one line and of many, with and without
enhanced codes, codes that fit nothing, garbage before a reply, a good-bye or an end without one.  The same
seed says the same at the same stage of the same session, however its client gets there.  :class:`NextHop`
listens on the same port of some addresses of loopback and plays a script; ``heard`` holds the sessions, the
commands as lines, a message's content as one.  Each command gets exactly one reply, and before hanging up all
is read that the client has to say, so that nothing depends on who was faster.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from dataclasses import dataclass, field

from oracle.postfix import free_port

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
#: Codes that say yes at each stage.
_YES = {"connect": 220, "data": 354, "quit": 221}
_OFFERS = (
    *("PIPELINING", "PIPELINING", "PIPELINING", "pipelining", "PIPELINING x", " PIPELINING", "PIPELINING="),
    *("SIZE", "SIZE 0", "SIZE 90", "SIZE 10240000", "SIZE=20000000", "size x", "SIZE -5", "SIZE 1e6"),
    *("SIZE 99999999999999999999999", "SIZE 10240000 x"),
    *("8BITMIME", "8BITMIME", "8BITMIME", "8bitmime", "8BITMIME\tx", "8BITMIME ", "8 BITMIME"),
    *("DSN", "DSN", "DSN", "dsn", "DSNX", "X-DSN"),
    *("SMTPUTF8", "SMTPUTF8", "SMTPUTF8", "smtputf8 x"),
    *("XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT", "XFORWARD NAME", "xforward name addr", "XFORWARD"),
    *("AUTH PLAIN LOGIN", "AUTH=PLAIN", "AUTH", "auth login", "AUTH=LOGIN PLAIN"),
    *("ENHANCEDSTATUSCODES", "CHUNKING", "BINARYMIME", "HELP", "", "-", "=", "X-\xfcml", "ETRN"),
)
_TEXTS = (
    *("Ok", "Ok: queued", "no such user", "try again later", "spam? see http://x.example/?a=b", "", ""),
    *(" two blanks", "trailing ", "\ttab\tbed", "gr\xfcn", "ctrl\x01\x7f", "p%s%n", "(in reply) to", "a\rb"),
    *("x" * 600, "long " * 500, "5.7.1 twice", "550 again", "-", "ends with nul\0hidden"),
)
_DETAILS = ("%d.1.1", "%d.7.1", "%d.0.0", "%d.2.2", "%d.4.999", "%d.1", "%d.1.1.1", "%d.1.1000", "%d.01.1")
_RAW = (
    "gr\xfcn".encode("latin-1"),
    "gr\xfc\xdf".encode(),
    b"\xe2\x82",
    b"\xf0\x9f\x98\x80",
    b"\xc0\x80",
    b"\xed\xa0\x80",
)


@dataclass(frozen=True)
class Said:
    """A reply as bytes; the code that counts; whether the server hangs up behind it."""

    data: bytes
    code: int
    end: bool = False


HANG_UP = Said(b"", 0, True)


def _line(r: random.Random, code: int, separator: str) -> bytes:
    detail = ""
    if r.random() < 0.6:
        digit = code // 100 if r.random() < 0.85 else r.choice((2, 4, 5))
        detail = r.choice(_DETAILS if r.random() < 0.3 else _DETAILS[:4]) % digit + " "
    text = (detail + r.choice(_TEXTS if r.random() < 0.4 else _TEXTS[:4])).encode()
    if r.random() < 0.05:
        text += r.choice(_RAW)
    end = b"\r\n" if r.random() < 0.97 else b"\n"
    bare = separator == " " and not text
    return b"%03d" % code + (b"" if bare else separator.encode()) + text + end


def _garbage(r: random.Random) -> bytes:
    return r.choice(
        (
            b"what?\r\n",
            b"\r\n",
            b"25 x\r\n",
            b"2500 x\r\n",
            b"250\tx\r\n",
            b"250_x\r\n",
            b" 250 x\r\n",
            b"-\r\n",
        )
    )


def _reply(r: random.Random, code: int) -> bytes:
    """A reply with this code in its last line."""
    out = b""
    for _ in range(r.choice((0, 0, 0, 0, 1, 2, 3)) if r.random() < 0.95 else 40):
        other = code if r.random() < 0.8 else r.choice((250, 450, 550, 354, 421))
        out += _line(r, other, "-")
    return out + _line(r, code, " ")


class Script:
    """What to say; see the module.

    ``hosts``: how many addresses the next hop has; ``cached``: sessions
    are used again; ``coalesce``: replies to pipelined commands are sent at
    once; ``pieces``: in small pieces."""

    def __init__(self, seed: int, cached: bool = False) -> None:
        r = random.Random(f"script {seed}")
        #: stages that go as usual
        self._calm = ("quit", "rset") if cached else ("quit",)
        self.seed = seed
        self.hosts = r.choice((1, 1, 1, 1, 2, 2, 3))
        self._trouble = r.choice((0.0, 0.05, 0.05, 0.15, 0.3, 0.6))
        self._rude = r.random() < 0.2  # garbage, drops and the like happen
        self.coalesce = r.random() < 0.5
        self.pieces = r.random() < 0.3

    def say(self, host: int, session: int, stage: str, count: int) -> Said:
        """The reply to the ``count``-th command of a kind."""
        r = random.Random(f"{self.seed} {host} {session} {stage} {count}")
        yes = _YES.get(stage, 250)
        if stage in self._calm or r.random() >= self._trouble * (
            0.3 if stage in ("connect", "ehlo") else 1.0
        ):
            return self._usual(r, stage, yes)
        if self._rude and r.random() < 0.4:
            return r.choice(
                (
                    lambda: HANG_UP,
                    lambda: Said(_reply(r, 421), 421, True),
                    lambda: Said(_garbage(r) + self._usual(r, stage, yes).data, yes),
                    lambda: Said(_garbage(r) + _reply(r, 550), 550),
                    lambda: self._odd(r, yes),
                )
            )()
        code = r.choice((450, 451, 452, 421, 550, 552, 554, 503, 500, 555, 530))
        return Said(_reply(r, code), code, code == 421 and r.random() < 0.7)

    @staticmethod
    def _odd(r: random.Random, yes: int) -> Said:
        """A code that fits nothing."""
        code = r.choice((100, 199, 200, 251, 299, 300, 334, 351, 399, 600, 999, 0, 99))
        if code // 100 == 3 and yes != 354 and r.random() < 0.5:
            code = 450
        return Said(_reply(r, code), code)

    def _usual(self, r: random.Random, stage: str, yes: int) -> Said:
        if stage == "connect":
            return Said(self._greeting(r), yes)
        if stage == "ehlo":
            return Said(self._offers(r), yes)
        if stage in self._calm or r.random() < 0.5:
            return Said(b"%d ok\r\n" % yes, yes)
        return Said(_reply(r, yes), yes)

    @staticmethod
    def _greeting(r: random.Random) -> bytes:
        return r.choice(
            (
                b"220 upstream.example ESMTP\r\n",
                b"220 upstream.example ESMTP\r\n",
                b"220 upstream.example ready\r\n",
                b"220 mail.example.com esmtp\r\n",
                b"220 ESMTP\r\n",
                b"220\r\n",
                b"220 ****************\r\n",
                b"220-**20 *0\r\n220 **\r\n",
                b"220-upstream.example\r\n220-no spam\r\n220 ESMTP spoken\r\n",
                b"220-ESMTP here\r\n220 or not\r\n",
                b"250 upstream.example SMTP\r\n",
                b"299 x ESMTPS\r\n",
            )
        )

    @staticmethod
    def _offers(r: random.Random) -> bytes:
        name = r.choice(
            ("upstream.example", "upstream.example", "upstream.example hello", "mail.example.com", "", "DSN")
        )
        lines = [name, *r.sample(_OFFERS, r.choice((0, 1, 4, 8, 12)))]
        out = b"".join(b"250-" + line.encode() + b"\r\n" for line in lines[:-1])
        last = lines[-1].encode()
        return out + (b"250 " + last if last or r.random() < 0.5 else b"250") + b"\r\n"


@dataclass(eq=False)
class Heard:
    """A session: which address it came to, and what was said there."""

    host: int
    lines: list[bytes] = field(default_factory=list)
    over: bool = False


class NextHop:
    """Servers on one port of several addresses; see the module.  Use it as a context manager."""

    def __init__(self) -> None:
        self.script = Script(0)
        self.heard: list[Heard] = []
        self._conversations: list[_Conversation] = []
        self._lock = threading.Lock()
        while True:
            self.port = free_port()
            self._listeners: list[socket.socket] = []
            try:
                for address in ADDRESSES:
                    self._listeners.append(socket.create_server((address, self.port), backlog=64))
                return
            except OSError:
                self._close()

    def _close(self) -> None:
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for a client
            listener.close()

    def __enter__(self) -> NextHop:
        for host, listener in enumerate(self._listeners):
            threading.Thread(target=self._accept, args=(host, listener), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def begin(self, script: Script) -> None:
        """Play another script from now on."""
        with self._lock:
            self.script, self.heard, self._conversations = script, [], []

    def hang_up(self) -> None:
        """End the sessions that are still there."""
        with self._lock:
            for conversation in self._conversations:
                conversation.hang_up()

    @property
    def quiet(self) -> bool:
        """Whether all sessions are over."""
        with self._lock:
            return all(heard.over for heard in self.heard)

    def _accept(self, host: int, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                number = sum(heard.host == host for heard in self.heard)
                heard = Heard(host)
                self.heard.append(heard)
                conversation = _Conversation(client, self.script, heard, number)
                self._conversations.append(conversation)
            threading.Thread(target=conversation.run, daemon=True).start()


_VERBS = {"lhlo": "ehlo"}


class _Conversation:
    """One client."""

    def __init__(self, client: socket.socket, script: Script, heard: Heard, number: int) -> None:
        self._socket = client
        self._script = script
        self._heard = heard
        self._number = number
        self._counts: dict[str, int] = {}
        self._input = b""
        self._output = b""
        self._lmtp = False
        self._accepted = 0
        self._refused = False  # MAIL

    def run(self) -> None:
        try:
            self._socket.settimeout(60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            again = self._say("connect") != 0
            while again:
                line = self._line()
                again = line != b"" and self._command(line)
            self._flush()
            self._socket.shutdown(socket.SHUT_WR)
            while self._line():
                pass
        except OSError:
            pass
        finally:
            self._socket.close()
            self._heard.over = True

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _command(self, line: bytes) -> bool:
        words = line.split(maxsplit=1)
        verb = words[0].decode("latin-1").lower() if words else "(nothing)"
        self._heard.lines.append(line)
        if verb in ("mail", "rset", "helo"):
            self._accepted = 0
        self._lmtp = self._lmtp or verb == "lhlo"
        code = self._say(_VERBS.get(verb, verb))
        if verb == "mail":
            self._refused = not 200 <= code < 300
        if verb == "rcpt" and 200 <= code < 300 and not self._refused:
            self._accepted += 1
        if verb == "data" and 300 <= code < 400:
            return self._content()
        return code != 0 and verb != "quit"

    def _content(self) -> bool:
        content: list[bytes] = []
        while (line := self._line()) and line.rstrip(b"\r\n") != b".":
            content.append(line)
        self._heard.lines.append(b"".join(content) + (line or b"(cut)"))
        if not line:
            return False
        replies = max(1, self._accepted) if self._lmtp else 1
        codes = [self._say("dot") for _ in range(replies)]
        return 0 not in codes

    def _say(self, stage: str) -> int:
        """Reply; 0 when the session is to end."""
        count = self._counts[stage] = self._counts.get(stage, 0) + 1
        said = self._script.say(self._heard.host, self._number, stage, count)
        self._output += said.data
        if not self._script.coalesce:
            self._flush()
        return 0 if said.end else said.code or 1

    def _flush(self) -> None:
        data, self._output = self._output, b""
        size = 7 if self._script.pieces and len(data) < 2000 else len(data) or 1
        for at in range(0, len(data), size):
            self._socket.sendall(data[at : at + size])

    def _line(self) -> bytes:
        while (end := self._input.find(b"\n")) < 0:
            self._flush()
            data = self._socket.recv(65536)
            if not data:
                line, self._input = self._input, b""
                return line
            self._input += data
        line, self._input = self._input[: end + 1], self._input[end + 1 :]
        return line
