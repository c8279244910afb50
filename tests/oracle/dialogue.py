"""The same words to Postfix and to mtad; what they answer, relay and log must be equal.

A :class:`Dialogue` is one session with a service: its ``steps`` are command lines (``str``), raw bytes with
the number of replies that they call for (:class:`Send`), message content (:class:`Body`), a handshake
(:class:`Tls`), or an end without QUIT (:class:`Hang`, :class:`End`).  A :class:`House` runs one configuration
in both, before one :class:`~oracle.upstream.Upstream`.  ``house.compare(dialogue)`` plays it to the one and
the other and compares

1. the bytes of each reply,
2. all that the upstream heard: commands, envelopes, content, notifications,
3. the log lines of each program, for each queue id in their order.

What differs by nature is masked (:data:`MASKS`), and nothing else.  The installed Postfix is older than the
release that mtad follows: what later releases say otherwise is in :data:`DIFFERENCES`, by which the older
text is rewritten.  Nothing sleeps for luck: a side is quiet when its log shows the ends of session and
messages.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import difflib
import hmac
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from live.daemon import Mtad, wait_until
from oracle.postfix import Postfix
from oracle.upstream import OFFERS, Upstream

from mtad.tables.sasldb import SaslDb

__all__ = [
    "GROUP", "HELLO", "MAIL", "RCPT", "START", "TEXT", "WIRE", "Body", "Config", "Dialogue", "End", "Hang",
    "House", "Houses", "Send", "Slow", "Step", "Tls", "at", "b64", "cram", "each", "plain",
]  # fmt: skip

PATIENCE = 60.0
LATECOMERS = 2.0  # and for lines that may not come at all

#: What most dialogues begin with.
HELLO, MAIL, RCPT = "EHLO client.example", "MAIL FROM:<alice@example.com>", "RCPT TO:<bob@example.net>"
START = (HELLO, MAIL, RCPT, "DATA")
TEXT = "From: alice@example.com\nTo: bob@example.net\nSubject: hello\n\nHello.\n"
WIRE = TEXT.replace("\n", "\r\n").encode()
GROUP = b"EHLO c.example\r\n", b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"

# -- what is said


@dataclass(frozen=True)
class Send:
    """Bytes as they are, and the number of replies to wait for.  ``half``: we send no more, but listen."""

    data: bytes
    replies: int = 0
    half: bool = False


@dataclass(frozen=True)
class Slow:
    """Pieces sent with ``pause`` seconds between, as long as nothing is said to them."""

    pieces: Sequence[bytes]
    pause: float
    replies: int = 0


@dataclass(frozen=True)
class Body:
    """Message content behind DATA's 354: its dots are stuffed and the end is added.  LF in text is CRLF."""

    text: str | bytes

    @property
    def data(self) -> bytes:
        data = self.text if isinstance(self.text, bytes) else self.text.encode().replace(b"\n", b"\r\n")
        if data and not data.endswith(b"\r\n"):
            data += b"\r\n"
        return (b"\r\n" + data).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"


@dataclass(frozen=True)
class Tls:
    """A handshake.  ``certificate``: the client shows one."""

    certificate: bool = False


@dataclass(frozen=True)
class Hang:
    """Hang up without a word."""


@dataclass(frozen=True)
class End:
    """Wait until the server hangs up."""


Step = str | Send | Slow | Body | Tls | Hang | End | Callable[[bytes], str]


@dataclass(frozen=True, eq=False)
class Dialogue:
    """A session.  Without :class:`Hang` or :class:`End` as the last step, QUIT ends it.

    ``rules``: what the upstream says otherwise than usual.  ``login``: what the log of later releases
    has of the login at the end of reject lines.  ``tls``: what it says of the delivery's TLS.  ``final``:
    nothing stays in the queue.  ``messages``: so many come of it, where notices come that neither replies
    nor the log name.  ``slow``: it takes its time and sends no mail on, so both are asked at once.
    ``early``: do not wait for the greeting.  ``wrapper``: TLS first.
    ``source``: the client's address (see :mod:`oracle.names` for others than those of loopback).
    """

    name: str
    steps: Sequence[Step]
    rules: Mapping[str, bytes] = field(default_factory=dict)
    login: str = ""
    tls: str = "none"
    final: bool = False
    messages: int = 0
    slow: bool = False
    early: bool = False
    service: str = "submission"
    wrapper: bool = False
    source: str = "127.0.0.1"


def at(service: str, *dialogues: Dialogue) -> list[Dialogue]:
    """These dialogues with that service, those that name no other."""
    return [
        dataclasses.replace(one, service=service, name=f"{service}, {one.name}")
        if one.service == "submission"
        else one
        for one in dialogues
    ]


def plain(user: str, password: str, authzid: str = "") -> str:
    """``AUTH PLAIN`` with its response."""
    return "AUTH PLAIN " + b64(f"{authzid}\0{user}\0{password}")


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def cram(user: str, password: str) -> Callable[[bytes], str]:
    """The answer to a CRAM-MD5 challenge."""

    def answer(challenge: bytes) -> str:
        said = base64.b64decode(challenge[4:])
        return b64(f"{user} {hmac.new(password.encode(), said, 'md5').hexdigest()}")

    return answer


# -- one session


class _Client:
    """Plays a dialogue."""

    def __init__(self, port: int, dialogue: Dialogue, certificate: tuple[str, str]) -> None:
        self._dialogue = dialogue
        self._certificate = certificate
        self._socket = socket.create_connection(("127.0.0.1", port), PATIENCE, (dialogue.source, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending = b""
        self.replies: list[bytes] = []

    def play(self) -> list[bytes]:
        try:
            steps = self._dialogue.steps
            if self._dialogue.wrapper:
                self._handshake(Tls())
            if not self._dialogue.early:
                self._hear()
            for step in steps:
                self._do(step)
            if not steps or not isinstance(steps[-1], Hang | End):
                self._do("QUIT")
                self._do(End())
        finally:
            self._socket.close()
        return self.replies

    def _do(self, step: Step) -> None:
        match step:
            case str():
                self._say(step.encode() + b"\r\n")
                self._hear()
            case Send(data, replies, half):
                self._say(data)
                if half:
                    self._socket.shutdown(socket.SHUT_WR)
                for _ in range(replies):
                    self._hear()
            case Slow(pieces, pause, replies):
                for piece in pieces:
                    self._say(piece)
                    if select.select([self._socket], [], [], pause)[0]:
                        break
                for _ in range(replies):
                    self._hear()
            case Body():
                self._say(step.data)
                self._hear()
            case Tls():
                self._handshake(step)
            case Hang():
                self._socket.close()
            case End():
                while self._more():
                    pass
                self.replies.append(self._pending + b"(end)")
            case _:
                self._say(step(self.replies[-1]).encode() + b"\r\n")
                self._hear()

    def _say(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the end is seen when we listen
            self._socket.sendall(data)

    def _more(self) -> bool:
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise AssertionError(f"no answer; so far: {self.replies} {self._pending!r}") from None
        except OSError:
            data = b""
        self._pending += data
        return bool(data)

    def _hear(self) -> None:
        """Take one reply, of several lines perhaps."""
        while (m := re.match(rb"(?:\d{3}-[^\n]*\n)*\d{3}(?: [^\n]*)?\r?\n", self._pending)) is None:
            if not self._more():
                self.replies.append(self._pending + b"(end)")
                self._pending = b""
                return
        self.replies.append(m.group())
        self._pending = self._pending[m.end() :]

    def _handshake(self, step: Tls) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if step.certificate:
            context.load_cert_chain(*self._certificate)
        self.replies.append(b"(left before the handshake: %b)" % self._pending)
        self._pending = b""
        self._socket = context.wrap_socket(self._socket)


# -- logs

_LINE = re.compile(r"\w{3} [ \d]\d [\d:]{8} \S+ (\S+)\[(\d+)\]: (.*)")
_ID = r"[0-9A-Za-z]{6,}"
_OPENED = re.compile(rf"(?!NOQUEUE)({_ID}): client=")  # NOQUEUE: a filter before the queue has it
_NEW_ID = re.compile(rf"^(?!NOQUEUE)({_ID}): (?:client=|message-id=)|notification: ({_ID})$")
_ACTIVE = re.compile(rf"({_ID}): from=<.*nrcpt=(\d+) \(queue active\)")
_FOR_NOW = re.compile(" status=(?:deferred|SOFTBOUNCE) ").search
_PROGRAMS = frozenset(
    (
        "smtpd",
        "cleanup",
        "qmgr",
        "smtp",
        "lmtp",
        "local",
        "bounce",
        "error",
        "discard",
        "trivial-rewrite",
    )
)

#: What Postfix says besides when it comes to the limit of a queue file's size, when a file system's clock is
#: coarse, or, in each new process, when a table is not there.
#: Whose lines may come in any order.
_CLIENTS = ("postfix/smtp ", "postfix/lmtp ")

_NOISE = re.compile(
    "warning: (?:mail_stream_cleanup: close error$|file system clock is |resetting file time stamps)"
    "|error: open database "
)


@dataclass
class Line:
    """A line of the log."""

    ident: str
    text: str


def _lines(log: str) -> list[Line]:
    found = (_LINE.match(line) for line in log.splitlines())
    lines = [Line(m[1], m[3]) for m in found if m is not None and not _NOISE.match(m[3])]
    return [line for line in lines if line.ident.rpartition("/")[2] in _PROGRAMS]


def _ids(lines: Iterable[Line]) -> list[str]:
    """The queue ids, in the order in which they came up."""
    ids: dict[str, None] = {}
    for line in lines:
        for groups in _NEW_ID.findall(line.text):
            ids.update({each: None for each in groups if each})
    return list(ids)


def _quiet(lines: list[Line], replies: list[bytes], old: bool, final: bool, messages: int = 0) -> bool:
    """Is the session over, and has each message come to rest?  ``old``: what was opened may end silently;
    ``final``: none stays in the queue; ``messages``: how many there are at least."""
    texts = [line.text for line in lines]
    if not any(text.startswith("disconnect from ") for text in texts):
        return False
    queued = set(re.findall(rf"queued as ({_ID})\r", b"".join(replies).decode("latin-1")))
    if not old:
        queued |= {m[1] for text in texts if (m := _OPENED.match(text))}
    queued |= {
        m[1] for text in texts if (m := re.search(rf"(?:notification:|forwarded as) ({_ID})\)?$", text))
    }
    if old and any(re.match(rf"{_ID}: (?:milter-)?discard: ", text) for text in texts):
        return True
    known = {m[1] for text in texts if messages and (m := re.match(rf"({_ID}): message-id=", text))}
    if len(known) < messages:
        return False
    queued |= known
    silent = any(re.match(rf"{_ID}: (?:milter-)?hold: ", text) for text in texts)
    return all(
        _at_rest(each, [text for text in texts if text.startswith(f"{each}: ")], silent, final)
        for each in queued
    )


def _at_rest(queue_id: str, texts: list[str], silent: bool, final: bool) -> bool:
    """``silent``: nothing but its Message-Id will be heard of it."""
    if any(text.startswith(f"{queue_id}: removed") for text in texts):
        return True
    if silent and any("message-id=" in text for text in texts):
        return True
    if final:
        return False
    active = next((m for text in texts if (m := _ACTIVE.match(text))), None)
    ended = [text for text in texts if " status=" in text]
    if active is None or len(ended) < int(active[2]) or not any(map(_FOR_NOW, ended)):
        return False
    told = any("notification: " in text for text in texts)
    return told or not any("=bounced" in text for text in ended)


# -- what later releases say otherwise


def _ends_with_id(lines: list[Line], dialogue: Dialogue, replies: list[bytes]) -> list[Line]:
    queue_id = "NOQUEUE"
    taken = {m[1] for line in lines if (m := _ACTIVE.match(line.text))}
    for line in lines:
        if m := re.match(rf"({_ID}): client=", line.text):
            queue_id = m[1] if m[1] not in taken else "NOQUEUE"
        elif re.match(r"(?:lost connection|timeout|too many errors) after .* from ", line.text):
            line.text = f"{queue_id}: {line.text}"
    return lines


_STAYS = ("hold", "discard")


def _canceled(lines: list[Line], dialogue: Dialogue, replies: list[bytes]) -> list[Line]:
    opened = [m[1] for line in lines if (m := _OPENED.match(line.text))]
    active = {m[1] for line in lines if (m := _ACTIVE.match(line.text))}
    action = re.compile(rf"({_ID}): (?:milter-)?(hold|discard): ")
    actions = {m.groups() for line in lines if (m := action.match(line.text))}
    for each in opened:
        held, discarded = ((each, word) in actions or ("NOQUEUE", word) in actions for word in _STAYS)
        if each not in active and not held:
            word = "discarded" if discarded else "canceled"
            lines.append(Line("postfix/cleanup", f"{each}: removed ({word})"))
    return lines


def _login_in_rejects(lines: list[Line], dialogue: Dialogue, replies: list[bytes]) -> list[Line]:
    if dialogue.login:
        for line in lines:
            if re.match(rf"{_ID}: (?:reject|reject_warning|warn|info|hold|redirect|permit): ", line.text):
                line.text += " " + dialogue.login
    return lines


def _tls_status(lines: list[Line], dialogue: Dialogue, replies: list[bytes]) -> list[Line]:
    for line in lines:
        connected = re.search(r" relay=[^,]*\]", line.text) is not None or dialogue.tls.endswith("?")
        if line.ident.endswith(("/smtp", "/lmtp")) and dialogue.tls and connected:
            line.text = re.sub(r"(, delays=\S+), dsn=", rf"\1, tls={dialogue.tls}, dsn=", line.text)
    return lines


def _once_a_process(lines: list[Line], dialogue: Dialogue, replies: list[bytes]) -> list[Line]:
    return [line for line in lines if "lmtp_assume_final is obsolete" not in line.text]


def _keywords(lines: list[Line], dialogue: Dialogue, replies: list[bytes]) -> list[Line]:
    for line in lines:
        start, found, names = line.text.partition("discarding EHLO keywords: ")
        if found:
            line.text = start + found + ", ".join(names.replace("EHLO_MASK_", "").split())
    return lines


def _unknown_behind_proxy(lines: list[Line], dialogue: Dialogue, replies: list[bytes]) -> list[Line]:
    if any(line.text.startswith("warning: haproxy read: ") for line in lines):
        for line in lines:
            line.text = re.sub(r"(connect from )localhost\[127.0.0.1\]", r"\1unknown[unknown]", line.text)
    return lines


def _bad_syntax_counted(lines: list[Line], dialogue: Dialogue, replies: list[bytes]) -> list[Line]:
    more = len([r for r in replies if re.match(rb"500 5\.5\.2 Error: bad (?:UTF-8 )?syntax", r)])
    for line in lines:
        m = re.match(r"(disconnect from \S+)(.*?)(?: unknown=0/(\d+))? commands=(\d+)(?:/(\d+))?$", line.text)
        if m is not None and more:
            unknown, given = int(m[3] or 0) + more, int(m[5] or m[4]) + more
            line.text = f"{m[1]}{m[2]} unknown=0/{unknown} commands={m[4]}/{given}"
    return lines


#: What each is about, and the rewriting of the older release's log.  Two-digit days (3.9) are masked with the
#: dates; settings whose defaults changed are set in each configuration (:data:`SETTINGS`).
DIFFERENCES: Mapping[str, Callable[[list[Line], Dialogue, list[bytes]], list[Line]]] = {
    "3.10: NOQUEUE or the queue id before 'lost connection after' and the like": _ends_with_id,
    "3.10: cleanup logs 'removed (canceled)' or '(discarded)' for a message that is not to be": _canceled,
    "3.10: sasl_method and sasl_username in reject lines": _login_in_rejects,
    "3.11: nobody is taken for the client where a proxy does not say who it is": _unknown_behind_proxy,
    "3.11: lines of bad syntax count as unknown commands": _bad_syntax_counted,
    "3.11: tls= in delivery lines": _tls_status,
    "3.11: names of discarded keywords": _keywords,
    "a process of the LMTP client says it when it starts, mtad when it is started": _once_a_process,
}

#: Later defaults, the same for both (the installed Postfix has no REQUIRETLS), and what makes runs alike: one
#: connection a message keeps what the upstream hears apart.
SETTINGS = {
    "requiretls_enable": "no",
    "smtpd_forbid_unauth_pipelining": "yes",
    "smtpd_forbid_bare_newline": "normalize",
    "smtpd_forbid_bare_newline_exclusions": "",
    "smtpd_error_sleep_time": "0s",
    "smtp_connection_cache_on_demand": "no",
    "smtp_tls_security_level": "",
    "notify_classes": "",
}

# -- masks

_DATE = r"\w{3}, [ \d]?\d \w{3} \d{4} \d\d:\d\d:\d\d [-+]\d{4}(?: \(\w+\))?"

#: In this order, on replies, on what the upstream heard, and on log lines.  Queue ids (to ID1, ID2 ...) and
#: the side's own directory (to DIR) are masked before.
MASKS: tuple[tuple[str, str], ...] = (
    (_DATE, "DATE"),
    (r"\b\d{14}\.(?=ID\d+@)", "STAMP."),  # of a Message-Id
    (r"(?<=ID\d)\.\d{9,}(?=/)", ".TIME"),  # of a boundary
    (r"delay=[\d.]+, delays=[\d./]+", "delay=D, delays=D"),
    (r"\b(size=|SIZE=|message size )\d+", r"\1N"),  # has the length of the queue id in it
    (r"(?<=334 )(?:PD|bm9u|cj|dj|cnNw)[0-9A-Za-z+/=]+", "CHALLENGE"),  # of "<", "non", "r=", "v=", "rsp"
    (r"(TLS library problem: )(?:error:\w+:)?(SSL routines:[^:]*:[^:]*).*", r"\1\2"),  # where in OpenSSL
    (r"localhost\[127\.0\.0\.1\]:\d+", "localhost[127.0.0.1]:PORT"),
    (r"mail queue: \d+ bytes", "mail queue: N bytes"),
    (r"key-exchange \S+( \([^)]*\))?", "key-exchange K"),
    (r"(for service 127\.0\.0\.1:)\d+", r"\1PORT"),
)


def mask(text: str, ids: Sequence[str], directory: str) -> str:
    """``text`` without what differs by nature."""
    for number, each in enumerate(ids, 1):
        text = text.replace(each, f"ID{number}")
    text = text.replace(directory, "DIR")
    for pattern, substitute in MASKS:
        text = re.sub(pattern, substitute, text)
    return text


@dataclass
class Seen:
    """What came of a dialogue on one side."""

    replies: list[str]
    upstream: list[list[str]]
    log: dict[str, list[str]]

    def text(self) -> str:
        """All of it, to be compared."""
        parts = ["-- replies", *map(repr, self.replies)]
        for session in self.upstream:
            parts += ["-- heard upstream", *(repr(part) for line in session for part in line.split("\n"))]
        for program, lines in self.log.items():
            # deliveries to different hosts end in any order; what each host heard has its own
            parts += [f"-- {program}", *(sorted(lines) if program.startswith(_CLIENTS) else lines)]
        return "\n".join(parts)


# -- both sides


@dataclass(frozen=True, eq=False)
class Config:
    """A configuration for both.  ``{port}`` in ``main`` and ``files`` is the upstream's, ``{dir}`` the
    directory.

    ``users``: passwords by ``user@realm`` for sasldb2, which smtpd.conf names unless ``files`` has one.
    ``transports``: services of the SMTP client by name, each with its ``-o`` (``flags`` is an argument); mail
    for NAME.example goes by the service of that name; ``lmtps``: the same, of the LMTP client.  ``cleanups``
    and ``rewriters``: services of cleanup(8) and trivial-rewrite(8), alike.  ``hashed``: which of ``files``
    are sources of ``hash:`` tables.
    """

    name: str
    main: Mapping[str, str]
    services: Sequence[tuple[str, Mapping[str, str]]] = (("submission", {}),)
    files: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)
    transports: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    lmtps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cleanups: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rewriters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    hashed: Sequence[str] = ()
    offers: Sequence[str] = OFFERS
    upstream_users: Mapping[str, str] = field(default_factory=dict)
    upstream_mechanisms: str = "PLAIN LOGIN CRAM-MD5"
    upstream_tls: bool = False


_SMTPD_CONF = """\
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {dir}/sasldb2
mech_list: PLAIN LOGIN
"""


def _line(name: str, overrides: Mapping[str, str], private: str, program: str) -> str:
    options = "".join(f"\n  -o {{ {key} = {value} }}" for key, value in overrides.items() if key != "flags")
    options += f"\n  flags={overrides['flags']}" if "flags" in overrides else ""
    processes = 0 if program == "cleanup" else "-"
    return f"{name} unix {private} - n - {processes} {program}{options}\n"


def _internal(config: Config) -> str:
    """The entries of master.cf beside smtpd's."""
    kinds = ((config.transports, "-", "smtp"), (config.cleanups, "n", "cleanup"))
    kinds += ((config.rewriters, "-", "trivial-rewrite"), (config.lmtps, "-", "lmtp"))
    return "".join(
        _line(*each, private, program) for found, private, program in kinds for each in found.items()
    )


class House:
    """One configuration in both; use it as a context manager."""

    def __init__(self, config: Config, certificate: tuple[str, str]) -> None:
        """``certificate``: the names of the files with a certificate and its key, for all who want one."""
        self.config = config
        self._certificate = certificate
        self.upstream = Upstream(
            config.offers,
            config.upstream_users,
            config.upstream_mechanisms,
            certificate if config.upstream_tls else None,
        )
        internal = self._filled(_internal(config))
        services = [
            (name, {key: self._filled(value) for key, value in options.items()})
            for name, options in config.services
        ]
        what = (self._main(), services, self._files())
        self.postfix = Postfix(*what, master_extra=internal)
        self.mtad = Mtad(*what, master_extra=internal + "local unix - n n - - local\n")
        self.sides: tuple[Postfix | Mtad, ...] = (self.postfix, self.mtad)
        for side in self.sides:
            database = side.directory / "sasldb2"
            for login, password in config.users.items():
                user, _, realm = login.rpartition("@")
                SaslDb(str(database)).set(user, realm, password.encode())
            if database.exists():
                database.chmod(0o644)

    def _main(self) -> dict[str, str]:
        certificate, key = self._certificate
        main = {
            **SETTINGS,
            "relayhost": "[127.0.0.1]:{port}",
            "mynetworks": "127.0.0.0/8",
            "myorigin": "example.com",
            "transport_maps": "texthash:{dir}/transport",
            "smtpd_tls_chain_files": f"{key}, {certificate}",
            **self.config.main,
        }
        return {key: self._filled(value) for key, value in main.items()}

    def _files(self) -> dict[str, str]:
        files = {
            "transport": "".join(
                f"{name}.example {name}:[127.0.0.1]:{{port}}\n"
                for name in (*self.config.transports, *self.config.lmtps)
            )
        }
        if self.config.users:
            files["sasl/smtpd.conf"] = _SMTPD_CONF
        return {key: self._filled(value) for key, value in {**files, **self.config.files}.items()}

    def _filled(self, text: str) -> str:
        return text.replace("{port}", str(self.upstream.port))

    def __enter__(self) -> House:
        self.upstream.__enter__()
        try:
            for side in self.sides:
                for name in self.config.hashed:
                    done = side.command("postmap", f"hash:{side.directory}/{name}")
                    assert done.returncode == 0, done.stderr
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._start, self.sides))
        except BaseException:
            self.__exit__()
            raise
        return self

    @staticmethod
    def _start(side: Postfix | Mtad) -> None:
        side.start()
        wait_until(  # the ports were tried
            lambda: side.log().count("]: disconnect from ") >= len(side.ports),
            lambda: f"the ends of the first sessions:\n{side.log()}",
        )

    def __exit__(self, *_: object) -> None:
        self.mtad.stop()
        self.postfix.stop()
        self.upstream.__exit__()

    def compare(self, dialogue: Dialogue) -> None:
        """Fail where the two differ."""
        if dialogue.slow:
            with ThreadPoolExecutor() as pool:
                ours, theirs = pool.map(
                    lambda side: self.ask(side, dialogue).text().split("\n"), self.sides[::-1]
                )
            self._compare(ours, theirs)
            return
        ours = self.ask(self.mtad, dialogue).text().split("\n")
        # cleanup(8) may take its time to speak of mail that is not to be, and the older one has no last word
        told = sum(": message-id=" in line for line in ours)
        self._compare(ours, self.ask(self.postfix, dialogue, told).text().split("\n"))

    @staticmethod
    def _compare(ours: list[str], theirs: list[str]) -> None:
        if ours != theirs:
            difference = difflib.unified_diff(theirs, ours, "Postfix", "mtad", n=2, lineterm="")
            raise AssertionError("\n".join(difference))

    def ask(self, side: Postfix | Mtad, dialogue: Dialogue, told: int = 0) -> Seen:
        """Play ``dialogue`` to one of the two.  Up to ``told`` lines about message ids are waited for."""
        before, sessions = len(side.log()), len(self.upstream.sessions)
        self.upstream.rules = dialogue.rules
        replies = _Client(side.ports[dialogue.service], dialogue, self._certificate).play()
        old = side is self.postfix and bool(DIFFERENCES)
        deadline = time.monotonic() + PATIENCE
        while True:
            log = side.log()[before:]
            lines = _lines(log)
            heard = self.upstream.sessions[sessions:]
            if _quiet(lines, replies, old, dialogue.final, dialogue.messages) and all(
                each.over for each in heard
            ):
                late = time.monotonic() > deadline - PATIENCE + LATECOMERS
                if late or sum(": message-id=" in line.text for line in lines) >= told:
                    break
            if time.monotonic() > deadline:
                raise AssertionError(f"{type(side).__name__} does not come to rest:\n{replies}\n{log}")
            time.sleep(0.01)
        if old:
            for rewrite in DIFFERENCES.values():
                lines = rewrite(lines, dialogue, replies)
        return _masked(str(side.root), replies, lines, [each.lines for each in heard])


def _masked(root: str, replies: list[bytes], lines: list[Line], heard: list[list[bytes]]) -> Seen:
    ids = _ids(lines)

    def masked(text: bytes) -> str:
        return mask(text.decode("latin-1"), ids, root)

    log: dict[str, list[str]] = {}
    for line in lines:
        own = line.text.removeprefix("warning: ").partition(": ")[0]
        key = f"{line.ident} ID{ids.index(own) + 1}" if own in ids else line.ident
        log.setdefault(key, []).append(mask(line.text, ids, root))
    return Seen(
        [masked(reply) for reply in replies],
        sorted([masked(line) for line in session] for session in heard),
        dict(sorted(log.items())),
    )


class Houses:
    """The house of the configuration at hand; use it as a context manager.

    The one before is torn down while the next is built: an instance of Postfix takes its time to end.
    """

    def __init__(self, certificate: tuple[str, str]) -> None:
        self._certificate = certificate
        self._house: House | None = None
        self._ending: list[threading.Thread] = []

    def of(self, config: Config) -> House:
        """The house of ``config``; the one before is torn down."""
        if self._house is None or self._house.config is not config:
            self._close()
            self._house = House(config, self._certificate).__enter__()
        return self._house

    def _close(self) -> None:
        house, self._house = self._house, None
        if house is not None:
            self._ending.append(threading.Thread(target=house.__exit__))
            self._ending[-1].start()

    def __enter__(self) -> Houses:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        for ending in self._ending:
            ending.join()


def each(cases: Mapping[Config, Sequence[Dialogue]]) -> pytest.MarkDecorator:
    """A test's ``config`` and ``dialogue``, configuration by configuration."""
    pairs = [
        pytest.param(config, dialogue, id=f"{config.name}: {dialogue.name}")
        for config, dialogues in cases.items()
        for dialogue in dialogues
    ]
    return pytest.mark.parametrize(("config", "dialogue"), pairs)
