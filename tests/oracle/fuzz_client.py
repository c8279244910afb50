"""Random mail to random servers, by Postfix and by mtad: both must say the same and log the same of it.

A seed makes a :class:`~oracle.scripted.Script` for the servers of a next hop, a service of the SMTP client
with parameters of its own, and a message with its envelope.  :meth:`Bench.differ` has each of the two deliver
it and compares what the servers heard and, for each recipient, what the log says.  The same seed always makes
the same case, so a seed is all there is to keep::

    python -m oracle.fuzz_client 5000 6000     (from the directory ``tests``): seeds 5000 to 5999
"""

from __future__ import annotations

import difflib
import queue
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from live.daemon import Mtad
from oracle.dialogue import PATIENCE, Config, House, mask
from oracle.postfix import Postfix
from oracle.scripted import ADDRESSES, NextHop, Script

from mtad.net.certificates import make_self_signed

#: Next hops, each for one case at a time.
SLOTS = 12

_OLD = {"smtp_discard_ehlo_keywords": "8bitmime, smtputf8"}
_CHECKS = {
    "smtp_header_checks": "pcre:{dir}/header",
    "smtp_mime_header_checks": "pcre:{dir}/header",
    "smtp_nested_header_checks": "pcre:{dir}/header",
    "smtp_body_checks": "pcre:{dir}/body",
}
_LOGIN = {
    "smtp_sasl_auth_enable": "yes",
    "smtp_sasl_password_maps": "static:joe:secret",
    "smtp_sasl_security_options": "noanonymous",
}
SMTP = {
    "usual": {},
    "helo": {"smtp_never_send_ehlo": "yes", "smtp_helo_name": "[192.0.2.1]"},
    "heard": {"smtp_always_send_ehlo": "no"},
    "single": {"smtp_discard_ehlo_keywords": "pipelining"},
    "plain": {"smtp_discard_ehlo_keywords": "silent-discard, dsn, size, 8BitMime"},
    "mapped": {"smtp_discard_ehlo_keyword_address_maps": "inline:{127.0.0.1=pipelining, 127.0.0.2=dsn}"},
    "old": _OLD,
    "unchanged": {**_OLD, "disable_mime_output_conversion": "yes"},
    "narrow": {"smtp_line_length_limit": "70"},
    "wide": {"smtp_line_length_limit": "0"},
    "generic": {"smtp_generic_maps": "pcre:{dir}/generic"},
    "checked": _CHECKS,
    "both": {**_CHECKS, **_OLD, "smtp_generic_maps": "pcre:{dir}/generic", "smtp_line_length_limit": "80"},
    "pix": {"smtp_pix_workarounds": ""},
    "pixed": {"smtp_pix_workaround_maps": "inline:{127.0.0.1=, 127.0.0.2=disable_esmtp}"},
    "hard": {"smtp_skip_5xx_greeting": "no"},
    "polite": {"smtp_skip_quit_response": "no"},
    "unquoted": {"smtp_quote_rfc821_envelope": "no"},
    "replies": {"smtp_reply_filter": "pcre:{dir}/replies"},
    "status": {"smtp_delivery_status_filter": "pcre:{dir}/status"},
    "soft": {"soft_bounce": "yes"},
    "forward": {"smtp_send_xforward_command": "yes"},
    "deadline": {"smtp_per_request_deadline": "yes", "smtp_min_data_rate": "500"},
    "once": {"smtp_mx_session_limit": "1", "smtp_mx_address_limit": "1"},
    "login": _LOGIN,
    "dummy": {**_LOGIN, "smtp_send_dummy_mail_auth": "yes", "smtp_sasl_auth_soft_bounce": "no"},
}  # fmt: skip
_CACHE = {
    "smtp_connection_cache_destinations": "127.0.0.1, 127.0.0.2, 127.0.0.3",
    "smtp_connection_cache_time_limit": "20s",
}
#: Those that keep connections get some messages in turn.
CACHED = {
    "cached": _CACHE,
    "cached-single": {**_CACHE, "smtp_discard_ehlo_keywords": "pipelining"},
    "cached-twice": {**_CACHE, "smtp_connection_reuse_count_limit": "2"},
}
LMTP = {
    "lmtp-usual": {},
    "lmtp-old": {"lmtp_discard_ehlo_keywords": "pipelining, 8bitmime", "lmtp_line_length_limit": "70"},
    "lmtp-final": {"lmtp_assume_final": "yes", "lmtp_skip_5xx_greeting": "no"},
}  # fmt: skip
SERVICES = (*SMTP, *LMTP, *CACHED)


def _hops() -> str:
    rows = []
    for slot in range(SLOTS):
        for service in SERVICES:
            for count in range(1, len(ADDRESSES) + 1):
                hops = ",".join(f"[{address}]:{{port{slot}}}" for address in ADDRESSES[:count])
                rows.append(f"h{count}s{slot}-{service}.example {service}:{hops}\n")
    return "".join(rows)


FUZZED = Config(
    "clients",
    {
        "relayhost": "",
        "default_transport": "discard:",
        "transport_maps": "texthash:{dir}/hops",
        "default_destination_concurrency_failed_cohort_limit": "0",
        "smtp_log_tls_feature_status": "no",
        "lmtp_log_tls_feature_status": "no",
        "queue_run_delay": "3h",
        "minimal_backoff_time": "3h",
        "maximal_backoff_time": "4h",
        "smtpd_error_sleep_time": "0",
        "smtpd_client_connection_count_limit": "0",
        "smtpd_hard_error_limit": "100",
        "local_header_rewrite_clients": "",
        "recipient_delimiter": "+",
        "in_flow_delay": "0",
        "smtp_rset_timeout": "5s",
        "smtp_quit_timeout": "5s",
        "smtp_mail_timeout": "8s",
        "smtp_rcpt_timeout": "8s",
        "smtp_data_init_timeout": "8s",
        "smtp_data_done_timeout": "8s",
        "smtp_helo_timeout": "8s",
        "connection_cache_ttl_limit": "20s",
        # the next delivery begins when the one before has given its session away
        **{f"{name}_destination_concurrency_limit": "1" for name in CACHED},
        **{f"{name}_initial_destination_concurrency": "1" for name in CACHED},
    },
    transports={**SMTP, **CACHED},
    lmtps=LMTP,
    files={
        "hops": _hops(),
        "generic": "/^alice@(.*)/ alice.a@public.$1\n/^bob@/ robert@public.example\n",
        "header": "/^subject: (.*)/ REPLACE Subject: [$1]\n/^x-none:/ IGNORE\n"
        "/^x-front/ PREPEND X-Before: it\n/^x-warn/ WARN seen\n/^from:/ INFO from\n",
        "body": "/^\\.\\./ REPLACE .dots\n/^text (.*)/ REPLACE $1 text\n/^none/ IGNORE\n"
        "/^before/ PREPEND line\n/^warn/ WARN seen\n",
        "replies": "/^250 ok$/ 250 2.7.7 replaced\n/^(\\d)50([ -])4\\.(.*)/ ${1}50${2}5.$3\n/^552-/ 450-\n"
        "/^452 / 250 fine\n/^what/ 250 garbage\n",
        "status": "/^4\\.1\\.1 (.*)/ 5.9.9 filtered: $1\n/^5\\.7\\.1 / 4.9.9 filtered\n"
        "/^2\\.0\\.0 (.*)/ 2.9.9 fine: $1\n/^5\\.0\\.0/ 2.0.0 no\n/^4\\.4\\.2 / bad\n",
    },
)


# -- a case


@dataclass(frozen=True)
class Case:
    """What a seed makes; ``{slot}`` stands in ``commands`` where the next hop does."""

    service: str
    script: Script
    commands: Sequence[str]
    content: bytes


_LOCAL = (
    "bob",
    "bob",
    "carol",
    "b.c",
    '"b c"',
    "bob+x",
    "b=c+d",
    '"a\\"b"',
    "b..c",
    "-b",
    "x" * 70,
    '"b@c"',
    "BOB",
)
_SENDERS = (
    *("alice@example.com", "alice@example.com", "alice@example.com", "", '"al ice"@example.com'),
    *(
        "alice+ext@example.com",
        "a..b@example.com",
        "-a@example.com",
        "ALICE@Example.COM",
        "x" * 64 + "@example.com",
    ),
)
_NOTIFY = ("NEVER", "SUCCESS", "FAILURE", "DELAY", "SUCCESS,FAILURE,DELAY", "delay,success")
_ORCPT = (
    "rfc822;bob@example.com",
    "RFC822;a+2Bb@c.example",
    "utf-8;b\\x{FC}b@c.example",
    "x400;c=de",
    "rfc822;a+3Db@c",
)
_HEADERS = (
    *(
        "From: Alice <alice@example.com>",
        "To: bob@example.com, alice@example.com",
        "Subject: hello",
        "Subject: gr\xfcn",
    ),
    *(
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "X-Warn: y",
    ),
    *(
        "Content-Type: text/plain",
        "Content-Transfer-Encoding: 7bit",
        "X-None: x",
        "X-Front: x",
        "X-Long: " + "y" * 300,
    ),
    *(
        "Content-Type: multipart/mixed; boundary=b",
        "Content-Type: message/rfc822",
        "Date: yesterday",
        "Subject: a\n\tb",
    ),
    *(
        "Message-Id: <x@y>",
        "Sender: alice@example.com",
        "X-Folded: a\n  b\n\tc",
        "Cc: (alice@example.com) x:y;",
    ),
)
_BODY = (
    *(
        "text here",
        "",
        ".",
        "..",
        ".dot",
        "--b",
        "--b--",
        "none of it",
        "before",
        "warn",
        "gr\xfcn",
        "=3D=",
        "trailing \t",
    ),
    *(
        "x" * 60,
        "x" * 61,
        "x" * 998,
        "x" * 999,
        "y" * 2100,
        "\xfc" * 700,
        " lead",
        "\tlead",
        "Subject: in body",
        "From x",
    ),
    *(
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "z" * 59 + ".",
        "z" * 119 + ".a",
    ),
)


def case(seed: int) -> Case:
    """The case of a seed."""
    r = random.Random(seed)
    service = r.choice(SERVICES)
    script = Script(seed, service in CACHED)
    utf8 = r.random() < 0.15
    sender = r.choice((*_SENDERS, "\xe4@example.com") if utf8 else _SENDERS)
    mail = f"MAIL FROM:<{sender}>"
    mail += r.choice(("", "", " BODY=8BITMIME", " BODY=7BIT")) + (" SMTPUTF8" if utf8 else "")
    mail += r.choice(("", "", "", " RET=HDRS", " RET=FULL ENVID=a+2Bb", " ENVID=+3D+2B"))
    commands = ["EHLO client.example", mail]
    for _ in range(r.choice((1, 1, 1, 2, 3, 4))):
        local = r.choice((*_LOCAL, "\xfcb", '"\xfc b"') if utf8 else _LOCAL)
        rcpt = f"RCPT TO:<{local}@h{script.hosts}s{{slot}}-{service}.example>"
        rcpt += r.choice(("", "", "", f" NOTIFY={r.choice(_NOTIFY)}"))
        rcpt += r.choice(("", "", "", f" ORCPT={r.choice(_ORCPT)}"))
        commands.append(rcpt)
    headers = r.sample(_HEADERS, r.choice((0, 1, 3, 6)))
    body = [r.choice(_BODY) for _ in range(r.choice((0, 1, 3, 10)))]
    body *= r.choice((1, 1, 1, 1, 1, 1, 1, 1, 40))
    text = "".join(line + "\n" for line in [*headers, *([""] if r.random() < 0.95 else []), *body])
    if r.random() < 0.6 and not utf8:
        text = text.encode("ascii", "replace").decode()
    data = text.encode("utf-8" if r.random() < 0.8 else "latin-1").replace(b"\n", b"\r\n")
    return Case(service, script, commands, data)


# -- both sides


class Log:
    """A log that grows: its lines, each read once, for many readers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._at = 0
        self._rest = b""
        self._lines: list[str] = []

    def lines(self, start: int = 0) -> list[str]:
        with self._lock:
            with open(self._path, "rb") as file:
                file.seek(self._at)
                data = file.read()
            self._at += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            self._lines += [line.decode("utf-8", "surrogateescape") for line in whole]
            return self._lines[start:]


_LINE = re.compile(r"\w{3} [ \d]\d [\d:]{8} \S+ (\S+)\[\d+\]: (.*)")
_TAKEN = re.compile(rb"250 2\.0\.0 Ok: queued as (\w+)\r\n")
_MINE = re.compile(r"/(?:smtp|lmtp)$")


@dataclass
class Seen:
    """What came of a case on one side."""

    replies: list[bytes]
    heard: list[str]
    log: list[str]

    def text(self) -> list[str]:
        return [*map(repr, self.replies), *self.heard, *self.log]


class Bench:
    """Postfix, mtad, and next hops."""

    def __init__(self, house: House, hops: Sequence[NextHop]) -> None:
        self.house = house
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(len(hops)):
            self._free.put(slot)
        self._hops = hops
        self._logs = {side: Log(side.maillog) for side in house.sides}

    def differ(self, seed: int) -> str:
        """How the two differ, or nothing."""
        made = case(seed)
        slot = self._free.get()
        try:
            theirs, ours = (self._ask(side, made, slot).text() for side in self.house.sides)
        except AssertionError as error:
            return f"seed {seed}, {made.service}: {error}"
        finally:
            self._free.put(slot)
        if made.script.hosts > 1 and any("SMTPUTF8 is required" in line for line in theirs):
            return ""  # 3.11 goes on to the next host
        if made.service in CACHED and _other(theirs, ours):
            return ""
        theirs = [_as_later(line) for line in theirs]
        if theirs == ours:
            return ""
        lines = difflib.unified_diff(theirs, ours, "Postfix", "mtad", n=4, lineterm="")
        return f"seed {seed}, {made.service}:\n" + "\n".join(line[:3000] for line in lines)

    def _ask(self, side: Postfix | Mtad, made: Case, slot: int) -> Seen:
        hop, log = self._hops[slot], self._logs[side]
        start = len(log.lines())
        hop.begin(made.script)
        replies: list[bytes] = []
        ids: list[str] = []
        for _ in range(3 if made.service in CACHED else 1):
            said = _submit(side.ports["submission"], made, slot)
            replies += [_TAKEN.sub(b"(taken)", reply) for reply in said]
            if (taken := _TAKEN.fullmatch(said[-1])) is not None:
                ids.append(taken[1].decode())
                self._wait(side, lambda own=ids[-1]: _over(log.lines(start), own))  # type: ignore[misc]
        if made.service in CACHED:
            hop.hang_up()
        self._wait(side, lambda: hop.quiet)

        def masked(text: str) -> str:
            return re.sub(r"( PORT=)\d+", r"\1P", mask(text, ids, str(side.root)))

        mine = (*ids, f"]:{hop.port}")
        told = [m[2] for line in log.lines(start) if (m := _LINE.match(line)) and _MINE.search(m[1])]
        told = [text for text in told if any(one in text for one in mine)]
        heard: list[str] = []
        for session in sorted(hop.heard, key=lambda session: session.host):
            heard.append(f"-- host {session.host + 1}")
            lines = session.lines
            where = f"[{ADDRESSES[session.host]}]"
            limited = any("exceeds size limit" in text and where in text for text in told)
            if limited or made.service in CACHED:
                lines = [line for line in lines if line != b"QUIT\r\n"]  # mtad is more polite
            if made.service in CACHED:  # mtad finds out by MAIL whether a session is still alive
                lines = [line for line in lines if line != b"RSET\r\n"]
            heard += [masked(part) for line in lines for part in repr(line).split("\\n")[:-1]]
        if made.service in ("login", "dummy", *CACHED):  # in logins, lines may be longer than Postfix likes
            told = [text for text in told if "response longer than" not in text]
        told = sorted(re.sub("[\udc80-\udcff]", "?", masked(text))[:1800] for text in told)
        return Seen(replies, heard, told)

    @staticmethod
    def _wait(side: Postfix | Mtad, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > deadline:
                raise AssertionError(f"{type(side).__name__} does not come to rest")
            time.sleep(0.01)


def _over(lines: Sequence[str], own: str) -> bool:
    """Whether each recipient of a message has an outcome."""
    texts = [m[2] for line in lines if (m := _LINE.match(line)) is not None and m[2].startswith(own)]
    wanted = [m[1] for text in texts if (m := re.search(r", nrcpt=(\d+) \(queue active\)", text))]
    return bool(wanted) and sum(", status=" in text for text in texts) >= int(wanted[0])


def _other(theirs: list[str], ours: list[str]) -> bool:
    """Whether it is about sessions that are used again, where mtad means to do otherwise.

    Postfix forgets the size limit of such a server, and finds sessions by the address of a server, too, where
    mtad does so only by the next hop; and mtad says the sender's address without RSET before it, and begins
    anew where the answer is 421.
    """
    if any("conn_use=" in line and f"relay={ADDRESSES[0]}[" not in line for line in theirs):
        return True
    limited = any("exceeds size limit" in line for line in (*theirs, *ours))
    return limited or any("said: 421" in line and "MAIL FROM" in line for line in theirs)


def _as_later(line: str) -> str:
    """What the older Postfix says, as later ones say it."""
    return line.replace(
        "SMTPUTF8 is required, but was not offered by host ",
        "message requires SMTPUTF8, but no server was found that supports SMTPUTF8. "
        "The last attempted server was ",
    )


def _submit(port: int, made: Case, slot: int) -> list[bytes]:
    """Hand the mail over; the replies to it."""
    replies: list[bytes] = []
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = connection.makefile("rb")

        def hear() -> bytes:
            line = b""
            while (part := stream.readline())[3:4] == b"-":
                line += part
            return line + part

        hear()
        for command in (*made.commands, "DATA"):
            connection.sendall(command.replace("{slot}", str(slot)).encode() + b"\r\n")
            replies.append(hear())
        if replies[-1].startswith(b"354"):
            connection.sendall((b"\r\n" + made.content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
            replies.append(hear())
        connection.sendall(b"QUIT\r\n")
        hear()
    return replies[1:]


@contextmanager
def bench() -> Iterator[Bench]:
    """Postfix and mtad, running."""
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        names = f"{directory}/cert.pem", f"{directory}/key.pem"
        make_self_signed("localhost", *names)
        hops = [stack.enter_context(NextHop()) for _ in range(SLOTS)]
        files = dict(FUZZED.files)
        for slot, hop in enumerate(hops):
            files["hops"] = files["hops"].replace(f"{{port{slot}}}", str(hop.port))
        config = Config(FUZZED.name, FUZZED.main, files=files, transports=FUZZED.transports, lmtps=LMTP)
        yield Bench(stack.enter_context(House(config, names)), hops)


def differences(bench: Bench, seeds: Sequence[int]) -> Iterator[str]:
    """The differences of these seeds, as they are found."""
    with ThreadPoolExecutor(SLOTS) as pool:
        yield from filter(None, pool.map(bench.differ, seeds))


def main(first: int, last: int) -> int:
    found = 0
    with bench() as both:
        for problem in differences(both, range(first, last)):
            found += 1
            print(problem, flush=True)
        assert isinstance(both.house.mtad, Mtad)
        log = both.house.mtad.log()
        if "Traceback" in log:
            print(f"a traceback in the log\n{log[log.index('Traceback') :][:3000]}")
            found += 1
    print(f"{last - first} deliveries, {found} differ")
    return found != 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
