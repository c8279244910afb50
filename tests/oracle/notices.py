"""Random mails whose senders and postmasters are told of, to Postfix and to mtad.

:func:`mails` makes mails by a seed; :class:`Post` runs one configuration in both, each before an upstream of
its own, and has both deliver them: recipients are refused, late, or delivered by servers with and without
DSN.  When all who are told of late mail were told, some of the late recipients are accepted and the rest
expires, so that the queues are empty in the end.  :meth:`Post.differences` compares, mail by mail, all that
the upstreams took: the deliveries and each notification, part by part, without ids and dates.
"""

from __future__ import annotations

import difflib
import itertools
import json
import random
import re
import socket
import string
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from live.daemon import Mtad, wait_until
from oracle.postfix import Postfix
from oracle.upstream import Upstream

PATIENCE = 60.0

MAIN = {
    "mynetworks": "127.0.0.0/8",
    "myorigin": "example.com",
    "requiretls_enable": "no",
    "smtpd_forbid_bare_newline": "normalize",
    "smtpd_error_sleep_time": "0s",
    "smtp_tls_security_level": "",
    "smtp_connection_cache_on_demand": "no",
    "relayhost": "[127.0.0.1]:{port}",
    "transport_maps": "texthash:{dir}/transport",
    "virtual_alias_maps": "texthash:{dir}/alias",
    "virtual_alias_domains": "alias.example",
    "smtpd_authorized_verp_clients": "127.0.0.1",
    "delay_warning_time": "1s",
    "minimal_backoff_time": "1s",
    "maximal_backoff_time": "1s",
    "queue_run_delay": "1s",
    "transport_retry_time": "1s",
    "notify_classes": "bounce, 2bounce, delay",
    "bounce_notice_recipient": "bounces",
    "2bounce_notice_recipient": "double@postmaster.example",
    "delay_notice_recipient": "delays@postmaster.example",
    "maximal_queue_lifetime": "5d",
    "bounce_queue_lifetime": "5d",
    "bounce_size_limit": "1500",
    "default_destination_concurrency_failed_cohort_limit": "0",
}
#: Services of the SMTP client, each for the domain of its name.
TRANSPORTS: Mapping[str, Mapping[str, str]] = {
    "no-dsn": {"smtp_discard_ehlo_keywords": "dsn"},
    "no-8bit": {"smtp_discard_ehlo_keywords": "8bitmime, smtputf8"},
}
LOCALS = ("good", "bad", "late", "later", "badly+extended")


class _Rules(dict[str, bytes]):
    """What the upstream says, by the beginning of a recipient's name."""

    opened = False  # to those who are late

    def get(self, key: str, default: object = None) -> bytes | None:  # type: ignore[override]
        stage, _, address = key.partition(":")
        if stage != "rcpt":
            return None
        if address.startswith(("bad", '"bad')):
            return REFUSALS[len(address) % len(REFUSALS)]
        if address.startswith("later") or (address.startswith("late") and not self.opened):
            return LATER[len(address) % len(LATER)]
        return None


REFUSALS = (
    b"550 5.1.1 no such user",
    b"554 never",
    b"550-5.7.1 two lines\n550 5.7.1 of refusal",
    b"552 5.2.2 " + b"the mailbox is full of this and that " * 5,
    "550 5.7.1 gr\u00fcn".encode(),
    b"550 5.7.1 gr\xfcn",
)
LATER = (b"450 4.2.0 come back", b"451-4.3.0 not\n451 4.3.0 now", b"452 room is short")


@dataclass(frozen=True)
class Mail:
    """A mail.  ``number`` is in its X-Case header, which each notification has."""

    number: int
    sender: bytes  # MAIL with its parameters
    recipients: tuple[bytes, ...]
    content: bytes


def mails(seed: int, count: int) -> list[Mail]:
    """So many mails; their numbers begin with ``1000 * seed``."""
    rng = random.Random(seed)
    return [_mail(rng, 1000 * seed + number) for number in range(count)]


def _mail(rng: random.Random, number: int) -> Mail:
    utf8 = rng.random() < 0.25
    sender = rng.choices(
        (f"s{number}@example.com", f'"s {number}"@example.org', "", f"bad{number}@example.net", f"s{number}"),
        (6, 1, 2, 2, 1),
    )[0]
    if utf8 and sender and rng.random() < 0.5:
        sender = f"s\u00fc{number}@example.com"
    words = [f"MAIL FROM:<{sender}>"]
    if rng.random() < 0.5:
        words.append(f"RET={rng.choice(('FULL', 'HDRS', 'hdrs'))}")
    if rng.random() < 0.4:
        words.append(f"ENVID={_xtext(rng)}")
    eight = rng.random() < 0.3
    if rng.random() < 0.5:
        words.append(f"BODY={'8BITMIME' if eight else rng.choice(('7BIT', '8BITMIME'))}")
    if utf8:
        words.append("SMTPUTF8")
    if sender and rng.random() < 0.15:
        words.append(rng.choice(("XVERP", "XVERP=+=", "XVERP=-+")))
    recipients = tuple(_recipient(rng, number, utf8).encode() for _ in range(rng.choice((1, 1, 2, 3, 5))))
    return Mail(number, " ".join(words).encode(), recipients, _content(rng, number, utf8, eight))


def _xtext(rng: random.Random) -> str:
    letters = string.ascii_letters + string.digits + "-_./@"
    return "".join(
        f"+{rng.choice((32, 43, 61, 9, 126, 13)):02X}" if rng.random() < 0.1 else rng.choice(letters)
        for _ in range(rng.randrange(1, 60))
    )


def _recipient(rng: random.Random, number: int, utf8: bool) -> str:
    where = rng.choices(
        ("x.example", "y.example", "no-dsn.example", "no-8bit.example", "dropped.example", "alias.example",
         "lmtp.example"),
        (4, 1, 3, not utf8, 1, 3, 1),  # the older release has other words for SMTPUTF8 that is not offered
    )[0]  # fmt: skip
    local = f"{rng.choice(LOCALS)}{number}{rng.choice('abcdefgh')}"
    if where == "alias.example":
        local = rng.choice(("one", "two", "far", "to", "lost", "waits"))
    elif utf8 and rng.random() < 0.3:
        local += "\u00f6"
    elif rng.random() < 0.1:
        local = f'"{local} x"'
    words = [f"RCPT TO:<{local}@{where}>"]
    if rng.random() < 0.6:
        chosen = [word for word in ("SUCCESS", "FAILURE", "DELAY") if rng.random() < 0.5]
        words.append(f"NOTIFY={','.join(chosen) or 'NEVER'}")
    if rng.random() < 0.4:
        kinds = ["rfc822;", "x-400;", "RFC822;"] + (["utf-8;"] if utf8 else [])
        kind = rng.choice(kinds)
        address = rng.choice(
            ("Robert@client.example", "a+2Bb@c.example", "+61+7E@c.example", "x", local.strip('"').split()[0])
        )
        if not address.isascii():
            kind = "utf-8;"
            if rng.random() < 0.5:
                address = address.replace("\u00f6", "\\x{F6}\\x{2B}")
        words.append(f"ORCPT={kind}{address.replace('+ext', '+2Bext')}")
    rng.shuffle(words[1:])
    return " ".join(words)


def _content(rng: random.Random, number: int, utf8: bool, eight: bool) -> bytes:
    lines = [f"X-Case: {number}", "From: a@example.com", f"Subject: case {number}"]
    if rng.random() < 0.3:
        lines.append(f"Message-Id: <case.{number}@client.example>")
    if utf8 and rng.random() < 0.5:
        lines.append("X-Name: gr\u00fcn")
    if eight and rng.random() < 0.5:
        lines += ["MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8"]
        lines.append("Content-Transfer-Encoding: 8bit")
    if rng.random() < 0.2:
        lines.append("X-Long: " + "word " * 40)
    body = [
        rng.choice(("hello", ".", "..x", "", "--", "x" * 200, "From me")) for _ in range(rng.randrange(6))
    ]
    if eight:
        body.append("gr\u00fcn")
    if rng.random() < 0.2:
        body += ["y" * 70] * 30  # more than bounce_size_limit
    text = "\n".join([*lines, "", *body]) + "\n"
    return text.encode().replace(b"\n.", b"\n..").replace(b"\n", b"\r\n") + b".\r\n"


ALIASES = """\
one@alias.example bad-one@x.example
two@alias.example good-two@x.example, bad-two@no-dsn.example
far@alias.example good-far@no-dsn.example, late-far@x.example, other@alias.example
other@alias.example bad-other@y.example
to@alias.example good-to@x.example
lost@alias.example someone@lost.example
waits@alias.example someone@waits.example, good@no-dsn.example
"""


class Post:
    """See the module; use it as a context manager."""

    def __init__(self, main: Mapping[str, str], files: Mapping[str, str] | None = None) -> None:
        self.upstreams = Upstream(), Upstream()
        self.rules = _Rules()
        self._spent = False
        sides: list[Postfix | Mtad] = []
        kinds: tuple[type[Postfix | Mtad], ...] = (Postfix, Mtad)
        for kind, upstream in zip(kinds, self.upstreams, strict=True):
            upstream.rules = self.rules
            port = str(upstream.port)
            routes = [f"{name}.example {name}:[127.0.0.1]:{port}" for name in TRANSPORTS]
            routes += ["lost.example error:5.7.3 get lost", "dropped.example discard:"]
            routes += ["waits.example retry:4.0.1 wait", f"lmtp.example lmtp:inet:[127.0.0.1]:{port}"]
            services = "".join(
                f"{name} unix - - n - - smtp\n"
                + "".join(f"  -o {{ {key} = {value} }}\n" for key, value in options.items())
                for name, options in TRANSPORTS.items()
            )
            values = {key: value.replace("{port}", port) for key, value in {**MAIN, **main}.items()}
            texts = {"transport": "\n".join(routes) + "\n", "alias": ALIASES, **(files or {})}
            sides.append(kind(values, files=texts, master_extra=services))
        self.sides = tuple(sides)

    def __enter__(self) -> Post:
        for upstream in self.upstreams:
            upstream.__enter__()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda side: side.start(), self.sides))
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda side: side.stop(), self.sides))
        for upstream in self.upstreams:
            upstream.__exit__()

    def differences(self, batch: Sequence[Mail]) -> str:
        """Have both deliver; what differs, or nothing."""
        theirs, ours = self.deliver(batch)
        found: list[str] = []
        for number in sorted(theirs.keys() | ours.keys()):
            pair = theirs.get(number, []), ours.get(number, [])
            if pair[0] != pair[1]:
                mail = next((one for one in batch if one.number == number), None)
                found += ["", f"== {number}: {mail}"]
                found += difflib.unified_diff(*pair, "Postfix", "mtad", n=3, lineterm="")
        return "\n".join(found)

    def deliver(self, batch: Sequence[Mail]) -> list[dict[int, list[str]]]:
        """What the two upstreams took, by the number of the mail."""
        before = [len(upstream.sessions) for upstream in self.upstreams]
        self.rules.opened = False
        with ThreadPoolExecutor() as pool:
            if self._spent:
                list(pool.map(lambda side: self._set_lifetime(side, "5d"), self.sides))
            self._spent = True
            runs = [_Run(side, batch) for side in self.sides]
            list(pool.map(_Run.begin, runs))
            self.rules.opened = True
            list(pool.map(_Run.try_again, runs))
            list(pool.map(lambda side: self._set_lifetime(side, "0"), self.sides))
            list(pool.map(_Run.end, runs))
        assert runs[1].replies == runs[0].replies
        return [_sorted_out(upstream, start) for upstream, start in zip(self.upstreams, before, strict=True)]

    @staticmethod
    def _set_lifetime(side: Postfix | Mtad, value: str) -> None:
        """Mail that is older than this is returned from now on."""
        path = side.directory / "main.cf"
        fresh = path.with_name("main.cf.new")
        fresh.write_text(re.sub(r"(?m)^(\w+_queue_lifetime) = .*", rf"\1 = {value}", path.read_text()))
        fresh.replace(path)  # at once, for those who start meanwhile
        done = side.command(*(("postfix", "reload") if isinstance(side, Postfix) else ("reload",)))
        assert done.returncode == 0, done.stderr


class _Run:
    """One batch in one of the two, seen by its log."""

    def __init__(self, side: Postfix | Mtad, batch: Sequence[Mail]) -> None:
        self._side, self._batch = side, batch
        self._start = len(side.log())
        self._ids: list[str] = []
        self.replies: list[bytes] = []

    def begin(self) -> None:
        """Submit; the first attempt at each mail is over, and senders were told of what is late."""
        for mail in self._batch:
            reply = _submit(self._side.ports["submission"], mail)
            if taken := re.search(rb"queued as (\w+)", reply):
                self._ids.append(taken[1].decode())
            self.replies.append(re.sub(rb"queued as \w+", b"queued", reply))
        self.try_again(self._start)

    def try_again(self, mark: int = 0) -> None:
        """Each mail is gone, or from now (or ``mark`` in the log) on an attempt at it was begun and ended."""
        mark = mark or len(self._side.log())

        def untried() -> list[str]:
            log = self._side.log()
            rest = [each for each in self._ids if f"{each}: removed" not in log]
            rest = [each for each in rest if log.count(f"{each}: from=<", mark) <= 1]
            return sorted(self._queued().intersection(rest)) if rest else []

        try:
            wait_until(lambda: not untried(), f"{type(self._side).__name__} to try", PATIENCE)
        except AssertionError as error:
            raise AssertionError(f"{error}: {untried()} in\n{self._side.log()[mark:]}") from None

    def _queued(self) -> set[str]:
        listing = self._side.command("postqueue", "-j")
        assert listing.returncode == 0, listing.stderr
        return {json.loads(line)["queue_id"] for line in listing.stdout.splitlines()}

    def end(self) -> None:
        """All is gone.  What comes while Postfix reads its configuration may need a push."""

        def over() -> bool:
            self._side.command("postqueue", "-f")
            return not self._queued()

        wait_until(over, f"an empty queue of {type(self._side).__name__}", PATIENCE)


def _submit(port: int, mail: Mail) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client, client.makefile("rb") as stream:

        def say(data: bytes) -> bytes:
            client.sendall(data)
            reply = line = stream.readline()
            while line[3:4] == b"-":
                line = stream.readline()
                reply += line
            return reply

        say(b"")
        commands = [b"EHLO client.example", mail.sender, *mail.recipients, b"DATA"]
        replies = [say(line + b"\r\n") for line in commands]
        if replies[-1].startswith(b"354"):
            replies.append(say(mail.content))
        client.sendall(b"QUIT\r\n")
        return b"".join(replies)


_CASE = re.compile(rb"^X-Case: (\d+)\r$", re.MULTILINE)
_MASKS: Sequence[tuple[bytes, bytes]] = (
    (rb"\w{3}, +\d+ \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4} \(\w+\)", b"DATE"),
    (rb"\b\d{14}\.(?=[0-9A-F]{9,15}@)", b"STAMP."),
    (rb"\b[0-9A-F]{9,15}\.\d{9,}(?=/)", b"ID.TIME"),
    (rb"\b[0-9A-F]{9,15}\b", b"ID"),
    (rb"\[127\.0\.0\.1\]:\d+", b"[127.0.0.1]:PORT"),
    (rb"SIZE=\d+", b"SIZE=N"),
    (rb"message size \d+", b"message size N"),
)


_PERSON = re.compile(r"\n*(<|Final-Recipient: )")
#: How the older release has the UTF-8 sender of a message.
_QUOTED = re.compile(rb'(?:(?<=-Sender: )rfc822; |(?<=Return-Path: <))"([^"\n ]*)"(?=@)')


def _unquoted(found: re.Match[bytes]) -> bytes:
    plain = found[1].replace(b"\\", b"")
    if plain.isascii():
        return found[0]
    return b"utf-8; " + plain if found[0].startswith(b"rfc822") else plain


def _blocks(text: str) -> list[str]:
    """The lines; recipients, who come in any order, sorted.

    Postfix tells twice of who was late and wants to hear of success, mtad once."""
    found: list[str] = []
    blocks = text.replace("\r\n", "\n").split("\n\n")
    for kind, group in itertools.groupby(blocks, lambda each: m[1] if (m := _PERSON.match(each)) else ""):
        same = list(group)
        found += sorted({each.strip("\n") for each in same}) if kind else same
    return "\n\n".join(found).split("\n")


def _sorted_out(upstream: Upstream, start: int) -> dict[int, list[str]]:
    """What was taken, by case: for each message its envelope and content, line by line."""
    found: dict[int, list[list[str]]] = defaultdict(list)
    for session in upstream.sessions[start:]:
        for text in _messages(session.lines):
            case = _CASE.search(text)
            for pattern, substitute in _MASKS:
                text = re.sub(pattern, substitute, text)
            text = _QUOTED.sub(_unquoted, text)
            found[int(case[1]) if case else -1].append(_blocks(text.decode("utf-8", "backslashreplace")))
    return {number: [line for text in sorted(texts) for line in text] for number, texts in found.items()}


def _messages(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The transactions of a session that had a message."""
    envelope: list[bytes] = []
    for line in lines:
        if line.startswith((b"MAIL ", b"EHLO ", b"LHLO ", b"RSET")):
            envelope = [line]
        elif line.endswith(b"\r\n.\r\n"):
            yield b"\n".join([*envelope, line, b""])
        else:
            envelope.append(line)
