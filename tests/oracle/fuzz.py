"""Random sessions, said to Postfix and to mtad; each reply must have the same codes.

:func:`session` makes the steps of one session from a seed: lines that are right, lines that are nearly right,
lines in groups, content after 354, chunks, garbage.  :func:`codes` plays them and gives the code and the
enhanced code of each reply.  The same seed always makes the same session, so a seed is all there is to keep::

    python -m oracle.fuzz 5000 6000     (from the directory ``tests``): seeds 5000 to 5999, those that differ
"""

from __future__ import annotations

import random
import re
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from live.daemon import Mtad
from oracle.dialogue import PATIENCE, Config, House

from mtad.net.certificates import make_self_signed

#: Limits are out of the way, and mail stays where it is.
FUZZED = Config(
    "fuzzed",
    {
        "smtpd_hard_error_limit": "1000",
        "smtpd_soft_error_limit": "1000",
        "smtpd_junk_command_limit": "1000",
        "smtpd_recipient_restrictions": "check_recipient_access texthash:{dir}/refused, static:HOLD, permit",
        "message_size_limit": "50000",  # later releases hang up at 1.5 times that in refused chunks
        "line_length_limit": "512",
        "smtpd_recipient_limit": "3",
        "smtpd_sasl_local_domain": "example.com",
    },
    services=(
        ("submission", {"smtpd_sasl_auth_enable": "yes"}),
        (
            "strict",
            {
                "smtpd_helo_required": "yes",
                "strict_rfc821_envelopes": "yes",
                "strict_smtputf8": "yes",
                "smtpd_delay_open_until_valid_rcpt": "no",
                "smtpd_forbid_unauth_pipelining": "no",
                "smtpd_forbid_bare_newline": "reject",
            },
        ),
        (
            "trusted",
            {
                "smtpd_authorized_xclient_hosts": "0.0.0.0/0",
                "smtpd_authorized_xforward_hosts": "127.0.0.1",
                "smtpd_authorized_verp_clients": "127.0.0.1",
                "smtpd_delay_reject": "no",
                "smtpd_discard_ehlo_keywords": "dsn",
                "smtpd_noop_commands": "XNOP",
            },
        ),
    ),
    files={"refused": "no@x.example REJECT\nlater@x.example DEFER\n"},
    users={"joe@example.com": "secret"},
)

#: DATA behind some failed BDATs ends the older Postfix' process: nothing to compare with.
CRASH = "killed by signal 11"

_LOCAL = ("a", "b.c", "no", "later", '"x y"', "ä", "a\\ b", "", "x" * 80, "a+b", '"@"', "a,b", "postmaster")
_DOMAIN = (
    "x.example",
    "example.com",
    "[192.0.2.1]",
    "[IPv6:::1]",
    "[x]",
    "",
    "-x.example",
    "ä.example",
    "1.2.3.4",
)
_FORM = (
    "<%s@%s>",
    "<%s@%s>",
    "<%s@%s>",
    "%s@%s",
    "<%s@%s",
    "%s@%s>",
    " <%s@%s>",
    "<@h.example:%s@%s>",
    "<%s (c)@%s>",
)
_MAIL = re.findall(
    r"\S+",
    """
    SIZE=100 SIZE=99999 SIZE=x SIZE= BODY=8BITMIME BODY=7BIT BODY=x BODY=BINARYMIME SMTPUTF8
    SMTPUTF8=x RET=FULL RET=HDRS RET=x ENVID=abc ENVID=a+20b ENVID=+zz ENVID=
    AUTH=<> AUTH=a@b XVERP XVERP=+= XVERP=x FOO FOO=bar = HOLDFOR=1 BY=1;R
    """,
)
_RCPT = re.findall(
    r"\S+",
    r"""
    NOTIFY=NEVER NOTIFY=SUCCESS,DELAY NOTIFY=NEVER,DELAY NOTIFY= NOTIFY=x ORCPT=rfc822;a@b ORCPT=utf-8;a\x{E4}
    ORCPT=;x ORCPT=rfc822 ORCPT=rfc822;+zz FOO=bar FOO
    """,
)
_TRUSTED = re.findall(
    r"\S+",
    """
    NAME=a.example ADDR=192.0.2.1 ADDR=x NAME=[UNAVAILABLE] PORT=25 PORT=x HELO=h PROTO=SMTP PROTO=ESMTP
    PROTO=x LOGIN=joe SOURCE=LOCAL IDENT=x FOO=x x NAME= DESTADDR=192.0.2.2
    """,
)

#: What to send after a reply of some code.
Step = Callable[[int], bytes]
#: Verbs that get exactly one reply and may be followed by another command at once.
_GROUPED = re.compile(rb"(?:mail|rcpt|rset|foo|expn) ?", re.IGNORECASE)


def _address(r: random.Random) -> str:
    return r.choice(_FORM) % (r.choice(_LOCAL), r.choice(_DOMAIN))


def _with(r: random.Random, words: list[str]) -> str:
    return "".join(" " + r.choice(words) for _ in range(r.choice((0, 0, 0, 1, 1, 2, 3))))


def _mail(r: random.Random) -> str:
    return r.choice(("MAIL FROM:", "MAIL FROM:", "mail from:", "MAIL FROM: ", "MAIL", "MAIL TO:")) + (
        r.choice(("<>", "<a@x.example>", "<a@x.example>", _address(r))) + _with(r, _MAIL)
    )


def _rcpt(r: random.Random) -> str:
    return r.choice(("RCPT TO:", "RCPT TO:", "Rcpt To: ", "RCPT", "RCPT FROM:")) + (
        r.choice(("<b@x.example>", "<b@x.example>", _address(r))) + _with(r, _RCPT)
    )


def _bdat(r: random.Random) -> str:
    size = r.choice((0, 1, 10, 100, 3000))
    last = r.choice((" LAST", " last", "", "", " x", " LAST LAST") if r.random() < 0.3 else (" LAST", ""))
    return f"BDAT {size}{last}\r\n" + "x" * (size - 2) + "\r\n"[: min(size, 2)]


_COMMANDS: tuple[Callable[[random.Random], str], ...] = (
    lambda r: r.choice(("EHLO x", "EHLO x", "HELO x", "EHLO", "HELO", "EHLO [127.0.0.1]", "EHLO a b")),
    _mail,
    _mail,
    _rcpt,
    _rcpt,
    _rcpt,
    lambda r: r.choice(("DATA", "DATA", "DATA", "data ", "DATA x")),
    _bdat,
    lambda r: r.choice(("RSET", "RSET x", "NOOP", "NOOP x", "XNOP", "noop", "")),
    lambda r: (
        r.choice(("VRFY ", "vrfy", "VRFY")) + r.choice(("", "a@x.example", "<no@x.example>", _address(r)))
    ),
    lambda r: r.choice(("ETRN x.example", "ETRN", "ETRN @x", "ETRN #q", "ETRN a b", "ETRN [192.0.2.1]")),
    lambda r: r.choice(
        (
            "AUTH PLAIN AGpvZQBzZWNyZXQ=",
            "AUTH PLAIN",
            "AUTH LOGIN",
            "AUTH",
            "AUTH x y z",
            "AUTH PLAIN =",
            "AUTH FOO",
        )
    ),
    lambda r: r.choice(("XCLIENT ", "XFORWARD ", "XCLIENT", "XFORWARD")) + r.choice(_TRUSTED),
    lambda r: r.choice(
        ("STARTTLS", "FOO", "EXPN x", "\0", "\t", "MAILFROM:<a>", "RCPT\tTO:<b@x.example>", "  NOOP")
    ),
    lambda r: "".join(chr(r.randrange(32, 127)) for _ in range(r.randrange(1, 40))),
    lambda r: r.choice(("NOOP ", "MAIL FROM:<a@x.example> ", "")) + "x" * r.choice((400, 505, 510, 520)),
)


def _content(r: random.Random) -> bytes:
    lines = ("Subject: x", "", "text", "..", "...", ".x", "x" * 600, "a\rb", "Received: x", "\t", "a: b\0c")
    text = b"".join(r.choice(lines).encode() + b"\r\n" for _ in range(r.randrange(8)))
    return text * r.choice((1, 1, 1, 30)) + b".\r\n"


def session(seed: int) -> tuple[str, list[Step]]:
    """The service, and the steps."""
    r = random.Random(seed)
    service = r.choice([name for name, _ in FUZZED.services])
    steps: list[Step] = []
    if r.random() < 0.8:
        steps.append(lambda code: b"EHLO x\r\n")
    for _ in range(r.randrange(5, 25)):
        line = r.choice(_COMMANDS)(r).encode()
        end = b"\r\n" if r.random() < 0.97 else b"\n"
        line = line if b"\r\n" in line else line + end
        text, answer = _content(r), r.choice((b"*\r\n", b"x\r\n", b"am9l\r\n", b"c2VjcmV0\r\n", b"=\r\n"))
        if r.random() < 0.2 and _GROUPED.match(line):
            line += b"RSET\r\n"
        steps.append(
            lambda code, line=line, text=text, answer=answer: (  # type: ignore[misc]
                text if code == 354 else answer if code == 334 else line
            )
        )
    return service, steps


_REPLY = re.compile(rb"((?:\d{3}-[^\n]*\n)*)(\d{3})(?: ([245]\.\d+\.\d+))?(?: [^\n]*)?\n")


def _quit(code: int) -> bytes:
    return {354: b".\r\n", 334: b"*\r\n"}.get(code, b"QUIT\r\n")


def codes(port: int, steps: list[Step]) -> list[bytes]:
    """What is replied: code and enhanced code, of all replies to a step at once."""
    heard: list[bytes] = []
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pending, code = b"", 0

        def hear() -> bool:
            nonlocal pending, code
            while (m := _REPLY.match(pending)) is None:
                data = connection.recv(65536)
                if not data:
                    return False
                pending += data
            pending, code = pending[m.end() :], int(m[2])
            heard.append(m[2] + b" " + (m[3] or b""))
            return True

        try:
            alive = hear()
            for step in [*steps, _quit]:
                if not alive:
                    break
                said = step(code)
                connection.sendall(said)
                alive = hear()
                if alive and _GROUPED.match(said) and said.count(b"\n") > 1:
                    alive = hear()
            while alive:
                connection.shutdown(socket.SHUT_WR)
                alive = hear()
        except OSError:  # hung up on us
            pass
        heard.append(b"(end)")
    return heard


def differ(house: House, seed: int) -> str:
    """How the two differ, or nothing."""
    service, steps = session(seed)
    crashes = house.postfix.log().count(CRASH)
    theirs, ours = (codes(side.ports[service], steps) for side in house.sides)
    if theirs == ours or house.postfix.log().count(CRASH) > crashes:
        return ""
    at = next(
        (n for n, (one, other) in enumerate(zip(theirs, ours, strict=False)) if one != other), len(ours) - 1
    )
    said = [
        step(int(theirs[n].split()[0]) if n < at and theirs[n][:1].isdigit() else 0)
        for n, step in enumerate(steps)
    ]
    return (
        f"seed {seed}, {service}, reply {at}: Postfix {theirs[at : at + 2]}, mtad {ours[at : at + 2]}\n"
        + "\n".join(repr(line[:200]) for line in said[max(0, at - 6) : at + 1])
    )


@contextmanager
def both() -> Iterator[House]:
    """Postfix and mtad, running."""
    with tempfile.TemporaryDirectory() as directory:
        names = f"{directory}/cert.pem", f"{directory}/key.pem"
        make_self_signed("localhost", *names)
        with House(FUZZED, names) as house:
            yield house


def main(first: int, last: int) -> int:
    found = 0
    with both() as house:
        for seed in range(first, last):
            if problem := differ(house, seed):
                found += 1
                print(problem, flush=True)
            if isinstance(house.mtad, Mtad) and "Traceback" in house.mtad.log():
                print(f"seed {seed}: a traceback in the log\n{house.mtad.log()[-3000:]}")
                return 1
    print(f"{last - first} sessions, {found} differ")
    return found != 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
