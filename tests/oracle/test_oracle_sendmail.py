"""Random command lines and texts to Debian's sendmail and ours, while both systems are down: they say the
same, and leave the same records in the maildrop."""

from __future__ import annotations

import io
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from live.daemon import Mtad
from live.forked import forked
from oracle.postfix import Postfix

from mtad.cli import sendmail
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.records import read_records

NOBODY = 65534
MAIN_CF = {
    "message_size_limit": "120000",
    "smtputf8_enable": "yes",
    "smtpd_helo_required": "yes",
    "smtpd_discard_ehlo_keywords": "dsn",
    "smtpd_noop_commands": "XNOP",
    "smtpd_recipient_limit": "2",
    "smtpd_junk_command_limit": "2",
    "smtpd_hard_error_limit": "4",
    "smtpd_error_sleep_time": "0s",
}
ADDRESSES = [
    "a@example.net", "b", "<c@x.org>", "d (comment)", '"q s"@example.net', "e@[192.0.2.1]", "f, g@x",
    "h:i@j;", "(only)", "", "Bob <k@l.m>", "m n o@p", "@a,@b:c@d", "x@y@z", "é@example.net", "u!v", "<>", "<",
    '"un', "a@b,", "-x", "p%q@r", ";", "a\\@b", "a@b.", "<a@b> c",
]  # fmt: skip
OPTIONS = [
    ["-i"], ["-oi"], ["-t"], ["-v"], ["-bv"], ["-bm"], ["-om"], ["-oem"], ["-U"], ["-x"], ["-e", "q"],
    ["-em"], ["-c"], ["-m"], ["-h", "3"], ["-G"], ["-L", "tag"], ["-A", "x"], ["-p", "y"], ["-o8"], ["-o7"],
    ["-ti"], ["-B", "8BITMIME"], ["-B7BIT"], ["-B", "8bitmime"], ["-N", "success,failure"], ["-N", "never"],
    ["-N", "NEVER,delay"], ["-N", ""], ["-N", "delay delay"], ["-N", "success|failure"], ["-R", "hdrs"],
    ["-R", "FULL"], ["-R", "x"], ["-V", "env id"], ["-V", "ab"], ["-Vab"], ["-Vabc"], ["-V", ""],
    ["-V", "x" * 101], ["-XV"], ["-XV+="], ["-X", "V"], ["-X", "V-="], ["-XV+"], ["-XVab"],
    ["-X", "/tmp/log"], ["-r", "r@s.t"], ["-f", "f1@g"], ["-f", ""], ["-f", "<>"], ["-f", "a b"],
    ["-F", "Full Name"], ["-F", ""], ["-F", "Ümläut"], ["-q15m"], ["-n"], ["-bx"], ["-Q"], ["-b", ""],
    ["-O", "x=y"], ["-q"], ["-qF"], ["-it"],
]  # fmt: skip
TEXTS = [
    b"", b"hi", b"hi\n", b"Subject: x\n\nbody\n.\nafter\n", b"From x y\n>From z\nTo: t@u\n\nb\n",
    b"To: t@u, v@w\nCc: c\nBcc: d@e\n\nx\n", b'To: "a, b" <q@r>\n (c)\n ,\n s@t\nX: y\n\n.\n',
    b"Resent-To: a@b\nTo: c@d\n\n", b"TO: a@b\nto: c@d\nApparently-To: e@f\n\n", b"To: g: a@b, c@d;, e@f\n\n",
    b"To:\n\n", b"To: undisclosed-recipients:;\n\n", b" to: x\nTo: y@z\n\n", b"\nTo: y@z\n",
    b"To: a@b\r\nCc: c@d\r\n\r\nx\r\n.\r\n", b"a: b\r\n\r\nx\r\r\n", b"a\n\r\n", b"To: a@b",
    b"To: a@b\nno header\nCc: c@d\n", b"To: a@b\n.\nCc: c@d\n", b"To: a@b\nX: \0\nCc: c@d\n\n",
    b"x" * 3000 + b"\n.\n", b"y" * 2047 + b"\n" + b"z" * 2048 + b"\n.\nq", b"x" * 2048 + b".\nq\n",
    b"To: " + b"a@b, " * 5000 + b"z@z\n\nx\n", b"To: " + b"a@b,\n " * 3000 + b"z@z\n\nx\n",
    b"X: " + b"w" * 5000 + b"\n tail\nTo: a@b\n\nx", b"X: " + b"w" * 110000 + b"\nTo: a@b\n\nx",
    (b"z" * 70 + b"\n") * 2000, b"To: a@b\nTo : c@d\nTo\t: e@f\n\n", b"To: a@b\n\tc@d\n\n",
    b"Return-Receipt-To: a@b\nErrors-To: c@d\nReply-To: e@f\nTo: x@y\n\n",
    b"Resent-Cc: a@b\nResent-Bcc: x@y\nBcc: q@r\n\n", b"To: \xe9@b, \xc3\xa9@c\n\n\xff\n",
    b"From \nFrom: x\n\n", b">From x\nFrom\n", b"From nobody", b".", b".\n", b"..\n.\n", b"a.\n.\r\nb\n",
    b"To: a@b\nContent-Type: multipart/mixed; boundary=x\n\n--x\nCc: c@d\n\n", b"Subject:x\nTo:a@b\n\n",
]  # fmt: skip
#: What Postfix says beside: about itself, and about options with more than one -v.
ASIDE = ("postdrop:", "sendmail: warning: mail_stream_cleanup: close error", "sendmail: name_mask:")
Outcome = tuple[int, str, list[str], list[object]]


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Postfix, Mtad]]:
    with Postfix(MAIN_CF) as postfix, Mtad(MAIN_CF) as mtad:
        postfix.command("postfix", "stop")
        mtad.command("stop")
        yield postfix, mtad


def command(dice: random.Random) -> tuple[list[str], bytes]:
    words = ["-f", "alice@example.com"] if dice.random() < 0.6 else ["-f", dice.choice(ADDRESSES)]
    if dice.random() < 0.2:
        words = []
    for _ in range(dice.choice((0, 1, 1, 2, 2, 3, 4))):
        words += dice.choice(OPTIONS)
    words += ["--"] * (dice.random() < 0.1)
    words += [dice.choice(ADDRESSES) for _ in range(dice.choice((0, 1, 1, 1, 2, 3)))]
    words += ["-q"] * (dice.random() < 0.03)
    return words, dice.choice(TEXTS)


def verbose(words: Sequence[str]) -> bool:
    """More than one -v is for debugging."""
    return words.count("-v") + words.count("-bv") > 1


def taken(queue: Path) -> list[object]:
    """What is in the maildrop now: mode, envelope and text; it is emptied."""
    found: list[object] = []
    for path in (queue / "maildrop").iterdir():
        found.append(path.stat().st_mode)
        text = b""
        for _, kind, data in read_records(io.BytesIO(path.read_bytes()), raw=True):
            if kind in (rec.LINE, rec.UNENDED):
                text += data + b"\n" * (kind == rec.LINE)
            elif kind != rec.TIME:
                found.append((kind, data))
        # with -t Postfix puts headers in order here, which else is done later, as it is for ours
        text = re.sub(rb"(?m)^([!-9;-~]+)[ \t]+:", rb"\1:", re.sub(rb"\0[^\n]*", b"", text))
        found.append(text.rstrip(b"\n"))
        path.unlink()
    return found


def told(stderr: str) -> list[str]:
    """glibc says some things twice in Postfix; 3.11 names the value of a bad -N."""
    text = re.sub("-N option value: '.*?' --", "-N option value --", stderr, flags=re.DOTALL)
    return list(dict.fromkeys(line for line in text.splitlines() if not line.startswith(ASIDE)))


def theirs(postfix: Postfix, words: list[str], text: bytes) -> Outcome:
    environment = {**os.environ, "MAIL_CONFIG": str(postfix.directory)}
    done = subprocess.run(["sendmail", *words], input=text, capture_output=True, env=environment)
    said = [line for line in told(done.stderr.decode()) if "option ignored" not in line]
    return done.returncode, done.stdout.decode(), said, taken(postfix.queue)


def ours(mtad: Mtad, words: list[str], text: bytes, patch: pytest.MonkeyPatch) -> Outcome:
    with patch.context() as within:
        out, err = io.StringIO(), io.StringIO()
        within.setenv("MAIL_CONFIG", str(mtad.directory))
        within.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        within.setattr(sys, "stdout", out)
        within.setattr(sys, "stderr", err)
        status = sendmail.main(words)
    return status, out.getvalue(), told(err.getvalue()), taken(mtad.queue)


def test_random_commands(both: tuple[Postfix, Mtad], monkeypatch: pytest.MonkeyPatch) -> None:
    postfix, mtad = both
    differences: list[str] = []
    for seed in range(150):
        words, text = command(random.Random(seed))
        if verbose(words):
            continue
        a, b = theirs(postfix, words, text), ours(mtad, words, text, monkeypatch)
        if a != b:
            differences.append(f"{seed}: {words} {text[:80]!r}\n{str(a)[:1000]}\n{str(b)[:1000]}")
    assert not differences, f"{len(differences)}\n" + "\n".join(differences[:5])


@pytest.mark.parametrize(
    ("option", "requests", "said"),
    [
        ("SMTPUTF8=yes", 1, ""),
        ("smtputf8=YES", 1, ""),
        ("REQUIRETLS=yes", 32, ""),
        ("REQUIRETLS=no", 0, ""),
        ("SMTPUTF8=maybe", 0, "sendmail: warning: bad -O option: 'SMTPUTF8=maybe' -- ignored\n"),
        ("REQ", 0, "sendmail: warning: bad -O option: 'REQ' -- ignored\n"),
        ("DeliveryMode=b", 0, ""),
    ],
)
def test_requests(
    both: tuple[Postfix, Mtad], monkeypatch: pytest.MonkeyPatch, option: str, requests: int, said: str
) -> None:
    """-O, which came after 3.7."""
    status, _, told, left = ours(both[1], ["-O", option, "a@example.net"], b"hi\n", monkeypatch)
    assert (status, told) == (0, said.splitlines())
    sizes = [record for record in left if isinstance(record, tuple) and record[0] == rec.SIZE]
    assert [int(data.split()[5]) for _, data in sizes] == [requests] * bool(requests)


def test_names_of_the_user(both: tuple[Postfix, Mtad], monkeypatch: pytest.MonkeyPatch) -> None:
    """$NAME is the full name, and $LOGNAME is not the login."""
    monkeypatch.setenv("NAME", "Carol")
    monkeypatch.setenv("LOGNAME", "daemon")
    a, b = theirs(both[0], ["x"], b"hi"), ours(both[1], ["x"], b"hi", monkeypatch)
    assert a == b
    assert {(rec.FULL_NAME, b"Carol"), (rec.SENDER, b"root")} <= {
        one for one in a[3] if isinstance(one, tuple)
    }


def test_through_postdrop(both: tuple[Postfix, Mtad]) -> None:
    """Who may not write to the maildrop leaves mail there by Postfix's set-gid program."""
    postfix, _ = both
    postfix._register(True)  # postdrop asks for it, and another run may have dropped it
    here = ("-C", str(postfix.directory))
    for arguments, text in (
        (("-f", "me", "a@example.net"), b"Subject: x\n\n" + b"hi\n" * 50_000),
        (("-bs",), b"HELO x\nMAIL FROM:<me>\nRCPT TO:<a@example.net>\nDATA\nhi\n.\nQUIT\n"),
        (("-f", "me", "a@example.net"), b"x" * 70 + b"\n"),
    ):
        status, out, err = forked(sendmail.main, *here, *arguments, text=text, uid=NOBODY)
        (queued,) = [path.name for path in (postfix.queue / "maildrop").iterdir()] or [""]
        if len(text) > 120_000:
            assert (status, err) == (75, f"sendmail: fatal: me({NOBODY}): message file too big\n")
            continue
        assert (status, err) == (0, "")
        assert ("queued as" not in out) or f"250 2.0.0 Ok: queued as {queued}\r\n" in out
        assert (postfix.queue / "maildrop" / queued).stat().st_uid == NOBODY
        assert (rec.RECIPIENT, b"a@example.net") in taken(postfix.queue)
    nobody_named = b"Subject: x\n\n" + b"hi\n" * 9000
    assert forked(sendmail.main, *here, "-f", "me", "-t", text=nobody_named, uid=NOBODY)[0] == 75
    assert list((postfix.queue / "maildrop").iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        b"MAIL FROM:<a@x>\nEHLO x\nMAIL FROM:<a@x> RET=FULL\nETRN x.example\nFOO\nNOOP\n",
        b"XNOP\nNOOP\nXNOP\nNOOP\nNOOP\nNOOP\nNOOP\nNOOP\n",
        b"HELO x\r\r\nMAIL FROM:<a@x>\r\nRCPT TO:<@r:b@x>\r\nDATA\r\nA: b\r\r\n\r\nx\r\n.\r\nQUIT\r\n",
        b"HELO x\nMAIL FROM:<a@x>\n" + b"RCPT TO:<b@x>\n" * 3 + b"FOO\nFOO\nDATA\n.\nFOO\nFOO\nFOO\nFOO\n",
    ],
)
def test_smtp(both: tuple[Postfix, Mtad], text: bytes) -> None:
    """sendmail -bs"""
    postfix, mtad = both
    environment = {**os.environ, "MAIL_CONFIG": str(postfix.directory)}
    said = subprocess.run(["sendmail", "-bs"], input=text, capture_output=True, env=environment).stdout
    _, out, _ = forked(sendmail.main, "-C", str(mtad.directory), "-bs", text=text)
    left = taken(postfix.queue), taken(mtad.queue)
    if left[0]:
        left = [[one for one in each if isinstance(one, bytes)] for each in left]  # type: ignore[assignment]
        a, b = (re.sub(rb"(?s)Received: .*?(?:\n(?=\S)|\Z)", b"", b"".join(each)) for each in left)  # type: ignore[arg-type]
        assert a == b

    def mask(text: str) -> str:
        return re.sub("queued as .*", "queued", text)

    assert mask(out) == mask(said.decode())
