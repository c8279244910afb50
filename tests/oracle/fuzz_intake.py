# ruff: noqa: E501  (tables of messages are clearer with whole lines)
"""Random mail, given to Postfix and to mtad; replies, log lines and what arrives upstream must be equal.

Each *era* of seeds has a house of its own: :func:`config` gives it many services, each with other rules for
what comes in.  :func:`oracle.soup.mail` makes the mail of a seed.  The same seed always makes the same mail
and goes to the same service, so a seed is all there is to keep::

    python -m oracle.fuzz_intake 5000 6000     (from the directory ``tests``): seeds 5000 to 5999, those that differ
"""

from __future__ import annotations

import difflib
import random
import re
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from live.daemon import Mtad, wait_until
from oracle.dialogue import PATIENCE, Config, House, mask
from oracle.postfix import Postfix
from oracle.soup import Mail, mail
from oracle.test_intake_addresses import CANONICAL
from oracle.test_intake_content import BODY_CHECKS, CHECKS, MIME_CHECKS, NESTED_CHECKS

from mtad.net.certificates import make_self_signed

#: Seeds that one house serves, its services, and seeds that are played before what they bring is awaited.
ERA, SERVICES, BATCH = 1000, 16, 100

#: Parameters of cleanup services, each with how likely it is set at all, and to what.
CHOICES: Mapping[str, tuple[float, Sequence[str]]] = {
    "header_checks": (0.5, ("pcre:{dir}/header", "regexp:{dir}/header", "pcre:{dir}/header")),
    "mime_header_checks": (0.3, ("pcre:{dir}/mime", "")),
    "nested_header_checks": (0.3, ("pcre:{dir}/nested", "")),
    "body_checks": (0.4, ("pcre:{dir}/body", "regexp:{dir}/body", "texthash:{dir}/fixed")),
    "body_checks_size_limit": (0.3, ("0", "40", "200")),
    "disable_mime_input_processing": (0.1, ("yes",)),
    "message_reject_characters": (0.06, ("\\0", "\\33\\7")),
    "message_strip_characters": (0.15, ("\\0", "\\0\\01a", "q")),
    "hopcount_limit": (0.2, ("4",)),
    "header_size_limit": (0.25, ("512", "700")),
    "strict_8bitmime": (0.05, ("yes",)),
    "strict_7bit_headers": (0.05, ("yes",)),
    "strict_8bitmime_body": (0.07, ("yes",)),
    "strict_mime_encoding_domain": (0.1, ("yes",)),
    "mime_nesting_limit": (0.2, ("1", "2")),
    "mime_boundary_length_limit": (0.2, ("1", "3", "40")),
    "detect_8bit_encoding_header": (0.2, ("no",)),
    "undisclosed_recipients_header": (0.3, ("To: undisclosed-recipients:;", "X-None: at all", "no header")),
    "message_drop_headers": (0.3, ("", "x-foo, subject, from", "to, content-type, bcc, resent-from", "message-id date")),
    "always_add_missing_headers": (0.4, ("yes",)),
    "enable_original_recipient": (0.3, ("no",)),
    "duplicate_filter_limit": (0.1, ("1", "2", "0")),
    "header_address_token_limit": (0.15, ("5", "20")),
    "canonical_maps": (0.3, ("texthash:{dir}/canonical", "pcre:{dir}/patterns")),
    "canonical_classes": (0.2, ("envelope_sender, header_recipient", "header_sender", "envelope_recipient")),
    "sender_canonical_maps": (0.2, ("texthash:{dir}/senders", "texthash:{dir}/canonical")),
    "sender_canonical_classes": (0.1, ("envelope_sender", "header_sender")),
    "recipient_canonical_maps": (0.2, ("texthash:{dir}/recipients", "texthash:{dir}/canonical")),
    "recipient_canonical_classes": (0.1, ("envelope_recipient", "header_recipient")),
    "masquerade_domains": (0.25, ("!keep.example.com, example.com", "a.example.com example.com", "example.net")),
    "masquerade_classes": (0.2, ("envelope_sender, envelope_recipient, header_sender, header_recipient", "header_sender")),
    "masquerade_exceptions": (0.2, ("root", "root, alice")),
    "virtual_alias_maps": (0.4, ("texthash:{dir}/virtual", "texthash:{dir}/virtual", "pcre:{dir}/patterns")),
    "virtual_alias_expansion_limit": (0.1, ("8",)),
    "virtual_alias_recursion_limit": (0.1, ("2",)),
    "virtual_alias_address_length_limit": (0.1, ("50",)),
    "always_bcc": (0.15, ("all@example.org", "bob@example.net", "all", "bob+x@example.com")),
    "sender_bcc_maps": (0.15, ("texthash:{dir}/sbcc", "texthash:{dir}/virtual")),
    "recipient_bcc_maps": (0.15, ("texthash:{dir}/rbcc", "texthash:{dir}/recipients")),
    "propagate_unmatched_extensions": (0.25, ("", "canonical", "virtual", "alias, forward, include")),
    "recipient_delimiter": (0.5, ("+", "+-", "-")),
    "remote_header_rewrite_domain": (0.25, ("domain.invalid",)),
    "smtputf8_autodetect_classes": (0.15, ("all", "smtpd")),
    "rewrite_service_name": (0.4, ("rewrite-dots", "rewrite-bare", "rewrite-domain", "rewrite-none")),
    "empty_address_recipient": (0.1, ("nobody", "empty@example.org")),
    "virtual_alias_domains": (0.05, ("",)),
}  # fmt: skip
#: The same for smtpd services.
ENTRANCES: Mapping[str, tuple[float, Sequence[str]]] = {
    "local_header_rewrite_clients": (0.4, ("", "", "static:all", "permit_mynetworks")),
    "receive_override_options": (0.15, ("no_address_mappings", "no_header_body_checks", "no_header_body_checks, no_address_mappings")),
    "content_filter": (0.08, ("other:[127.0.0.1]:{port}",)),
    "strict_rfc821_envelopes": (0.1, ("yes",)),
}  # fmt: skip
REWRITERS: Mapping[str, Mapping[str, str]] = {
    "rewrite-dots": {"append_dot_mydomain": "yes"},
    "rewrite-bare": {"append_at_myorigin": "no", "swap_bangpath": "no", "allow_percent_hack": "no"},
    "rewrite-domain": {"remote_header_rewrite_domain": "domain.invalid", "append_dot_mydomain": "yes"},
    "rewrite-none": {"swap_bangpath": "no", "append_dot_mydomain": "yes"},
}
PATTERNS = """\
/^(.*)@old\\.example$/ $1@new.example
/^(c\\d)@(.*)$/ $1+x@$2
/^list-(.*)@/ $1-list@example.org
/^BOB@/ bobby@example.org
/\\+ext@/ no.extension@example.org
"""


def _chosen(r: random.Random, choices: Mapping[str, tuple[float, Sequence[str]]]) -> dict[str, str]:
    return {name: r.choice(values) for name, (chance, values) in choices.items() if r.random() < chance}


def _rules(r: random.Random) -> dict[str, str]:
    """What a cleanup service is told."""
    chosen = _chosen(r, CHOICES)
    if chosen.keys() & {"message_reject_characters", "message_strip_characters"}:
        # where checks end behind the headers, mtad may have left out characters of lines that follow
        chosen |= dict.fromkeys(("mime_header_checks", "nested_header_checks", "body_checks"), "")
    return chosen


def config(era: int) -> Config:
    """The services of an era."""
    r = random.Random(f"era {era}")
    names = [f"in{number}" for number in range(SERVICES)]
    cleanups = {f"clean-{name}": _rules(r) for name in names}
    cleanups["clean-in0"] = {}
    return Config(
        f"intake {era}",
        {
            "mydomain": "example.com",
            "recipient_delimiter": "+",
            "smtputf8_enable": "yes",
            "line_length_limit": r.choice(("2048", "2048", "512")),
            "smtpd_recipient_restrictions": "permit",
            "maximal_queue_lifetime": "0",
        },
        services=[
            (name, {**_chosen(r, ENTRANCES), "cleanup_service_name": f"clean-{name}"}) for name in names
        ],
        cleanups=cleanups,
        rewriters=REWRITERS,
        transports={"other": {"smtp_helo_name": "other.example"}},
        files={
            "header": CHECKS,
            "mime": MIME_CHECKS,
            "nested": NESTED_CHECKS,
            "body": BODY_CHECKS,
            "fixed": "warn\tREPLACE fixed key\nWarn\tREJECT\n",
            "patterns": PATTERNS,
            **CANONICAL,
        },
    )


def case(seed: int) -> tuple[str, Mail]:
    """The service, and the mail."""
    r = random.Random(seed)
    return f"in{r.randrange(SERVICES)}", mail(r)


# -- one session

_REPLY = re.compile(rb"(?:\d{3}-[^\n]*\n)*(\d{3})(?: [^\n]*)?\n")


class _Session:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pending = b""
        self.replies: list[bytes] = []

    def hear(self) -> int:
        while (m := _REPLY.match(self._pending)) is None:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("hung up")
            self._pending += data
        self._pending = self._pending[m.end() :]
        self.replies.append(m.group())
        return int(m[1])

    def say(self, data: bytes) -> int:
        self._socket.sendall(data)
        return self.hear()

    def play(self, mail: Mail) -> bool:
        """Send ``mail``; tells whether a queue id was given."""
        with self._socket:
            self.hear()
            self.say(b"EHLO client.example\r\n")
            self.say(f"MAIL FROM:{mail.sender}\r\n".encode())
            codes = [self.say(f"RCPT TO:{one}\r\n".encode()) for one in mail.recipients]
            if any(code == 250 for code in codes):
                self._content(mail)
            self.say(b"QUIT\r\n")
            return any(code == 250 for code in codes)

    def _content(self, mail: Mail) -> None:
        if not mail.chunks:
            data = mail.content if mail.content.endswith(b"\r\n") else mail.content + b"\r\n"
            stuffed = (b"\r\n" + data).replace(b"\r\n.", b"\r\n..")[2:]
            if self.say(b"DATA\r\n") == 354:
                self.say(stuffed + b".\r\n")
            return
        rest, code = mail.content, 250
        for size in mail.chunks:
            piece, rest = rest[:size], rest[size:]
            if code == 250:
                code = self.say(b"BDAT %d\r\n%b" % (len(piece), piece))
        if code == 250:
            self.say(b"BDAT %d LAST\r\n%b" % (len(rest), rest))


# -- what comes of it

_LOGGED = re.compile(r"\w{3} [ \d]\d [\d:]{8} \S+ \S+/(cleanup|qmgr|smtp|error|bounce)\[\d+\]: (.*)")
_BEGUN = re.compile(r"/smtpd\[\d+\]: ([0-9A-Za-z]{6,}): client=")
_TRACE = re.compile(rb"with (?:UTF8)?E?SMTP id (\w+)")
#: Postfix counts two more for each piece of a long line in BDAT.
_SIZE = re.compile(r"Ok: \d+ bytes queued")
#: What is shown of our own header ends within the queue id.
_SHOWN = re.compile(r"(mime-error .*: Received: from .*SMTP id )\w+")
#: Lines that are not about the mail, or that only one release writes.
_DROPPED = re.compile(r"removed \(canceled\)|removed \(discarded\)|from=<.*\(queue active\)$")


@dataclass
class Seen:
    """What came of one mail on one side."""

    replies: list[str]
    queue_id: str = ""
    log: list[str] = field(default_factory=list)
    upstream: list[str] = field(default_factory=list)

    def text(self) -> list[str]:
        return [
            *self.replies,
            *self.log,
            *(part for heard in sorted(self.upstream) for part in heard.split("\n")),
        ]


def _play(side: Postfix | Mtad, seeds: Iterable[int]) -> list[Seen]:
    """The sessions of some seeds, one after the other, and their log lines once all has come to rest."""
    start = len(side.log())
    found: list[Seen] = []
    identified: list[Seen] = []
    for seed in seeds:
        service, what = case(seed)
        session = _Session(side.ports[service])
        try:
            begun = session.play(what)
        except OSError as error:
            raise AssertionError(
                f"seed {seed}: {type(side).__name__} {error!r}\n{side.log()[-2000:]}"
            ) from error
        found.append(Seen([reply.decode("latin-1") for reply in session.replies]))
        if begun:
            identified.append(found[-1])
    deadline = time.monotonic() + PATIENCE
    read = ""
    while True:
        before, read = read, side.log()[start:]
        log = read.splitlines()
        ids = [m[1] for line in log if (m := _BEGUN.search(line))]
        about: dict[str, list[tuple[str, str]]] = {each: [] for each in ids}
        for line in log:
            m = _LOGGED.match(line)
            if m is not None and (own := m[2].partition(": ")[0]) in about:
                about[own].append((m[1], m[2]))
        waiting = [
            one for one, each in zip(identified, ids, strict=False) if not _rests(one, each, about[each])
        ]
        if (
            len(ids) == len(identified) and not waiting and read == before
        ):  # what was refused may be told late
            break
        if time.monotonic() > deadline:
            shown = "\n".join(f"{one.replies} {about.get(one.queue_id)}" for one in waiting)
            raise AssertionError(
                f"{type(side).__name__} does not come to rest, {len(ids)} ids of {len(identified)}:\n{shown}"
            )
        time.sleep(0.1)
    for one, each in zip(identified, ids, strict=True):
        one.queue_id = each
        lines = [(program, text) for program, text in about[each] if not _DROPPED.search(text)]
        one.log = [
            f"{program}: {_masked(side, text, each)[:1000]}"
            for program, text in sorted(lines, key=lambda line: _order(*line))
        ]
        one.replies = [_masked(side, reply, each) for reply in one.replies]
    return found


def _order(program: str, text: str) -> tuple[str, str]:
    """cleanup's lines stay in their order, those of deliveries have none."""
    return program, "" if program == "cleanup" else text


def _rests(one: Seen, queue_id: str, lines: list[tuple[str, str]]) -> bool:
    """Is nothing more to come of this mail?"""
    one.queue_id = queue_id
    if f"queued as {queue_id}" not in "".join(one.replies):
        return True
    return any(
        text.startswith((f"{queue_id}: removed", f"{queue_id}: hold:", f"{queue_id}: discard:"))
        for _, text in lines
    )


def _masked(side: Postfix | Mtad, text: str, queue_id: str) -> str:
    text = mask(text, [queue_id], str(side.root)).replace(" tls=none,", "")
    return _SHOWN.sub(r"\1", _SIZE.sub("Ok: N bytes queued", text))


def differences(house: House, seeds: Sequence[int]) -> dict[int, str]:
    """How the two differ, by seed."""
    before = len(house.upstream.sessions)
    with ThreadPoolExecutor() as pool:
        theirs, ours = pool.map(lambda side: _play(side, seeds), house.sides)
    by_id = {
        each.queue_id: (side, each)
        for side, seen in zip(house.sides, (theirs, ours), strict=True)
        for each in seen
    }
    sessions = house.upstream.sessions[before:]
    wait_until(lambda: all(one.over for one in sessions), "the ends of sessions")
    for heard in sessions:
        content = max(heard.lines, key=len, default=b"")
        trace = _TRACE.search(content)
        if trace is None or (own := trace[1].decode()) not in by_id:
            continue
        side, each = by_id[own]
        lines = [line.decode("latin-1") for line in heard.lines]
        recipients = sorted(line for line in lines if line.startswith("RCPT"))
        lines = [line for line in lines if not line.startswith("RCPT")]
        each.upstream.append(_masked(side, "\n".join([*recipients, *lines]), own))
    found = {}
    for seed, one, other in zip(seeds, theirs, ours, strict=True):
        texts = one.text(), other.text()
        if texts[0] != texts[1]:
            found[seed] = "\n".join(difflib.unified_diff(*texts, "Postfix", "mtad", n=1, lineterm=""))
    return found


@contextmanager
def both(era: int) -> Iterator[House]:
    """Postfix and mtad, running."""
    with tempfile.TemporaryDirectory() as directory:
        names = f"{directory}/cert.pem", f"{directory}/key.pem"
        make_self_signed("localhost", *names)
        with House(config(era), names) as house:
            yield house


def shown(seed: int, difference: str) -> str:
    """A difference, and what it is of."""
    service, what = case(seed)
    chosen = config(seed // ERA)
    rules = {**dict(chosen.services)[service], **chosen.cleanups[f"clean-{service}"]}
    return f"seed {seed}: {service} {rules}\n{what}\n{difference}\n"


def main(first: int, last: int) -> int:
    found = 0
    for start in range(first - first % ERA, last, ERA):
        seeds = range(max(first, start), min(last, start + ERA))
        with both(start // ERA) as house:
            for at in range(seeds.start, seeds.stop, BATCH):
                differing = differences(house, range(at, min(at + BATCH, seeds.stop)))
                found += len(differing)
                for seed, text in differing.items():
                    print(shown(seed, text), flush=True)
                if "Traceback" in house.mtad.log():
                    print(f"before seed {at + BATCH}: a traceback in the log\n{house.mtad.log()[-3000:]}")
                    return 1
    print(f"{last - first} mails, {found} differ")
    return found != 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
