"""sendmail, postcat, postsuper and postlog: the same words to Debian's and to ours, the same outcome."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from live.daemon import MTAD, Mtad, Sink, wait_until
from oracle.postfix import Postfix

from mtad.queue.message import Message, Recipient
from mtad.queue.postfix.envelope import write_message
from mtad.queue.postfix.records import pack

#: Arguments and input of sendmail; what is sent is compared, and every word that is said.
SENT: list[tuple[list[str], str]] = [
    (["-f", "alice@example.com", "a1@example.net"], "Subject: x\n\nhi\n.\nnot this\n"),
    (["-i", "-f", "alice@example.com", "a2@example.net"], "Subject: x\n\nhi\n.\nthis, too"),
    (["-oi", "-oem", "-om", "-falice@example.com", "--", "a3@example.net"], "\n.\n..\n"),
    (["-f", "alice@example.com", "-F", "Alice von Welt", "a4@example.net"], "hi\n"),
    (["-f", "alice@example.com", "-F", 'Alice "x" (y)', "a5@example.net"], "To: z\n\nhi\n"),
    (["-t", "-f", "alice@example.com"], "To: a6@example.net\nCc: b6@example.net, c6@example.net\n\nhi\n"),
    (
        ["-t", "-f", "alice@example.com"],
        "To: a7@example.net\nBcc: b7@example.net\nX: y\n\nTo: no@example.net\n",
    ),
    (
        ["-t", "-f", "alice@example.com"],
        "Resent-To: a8@example.net\nTo: no@example.net\nResent-Bcc: b8@x.org\n\n",
    ),
    (
        ["-t", "-f", "alice@example.com", "d9@example.net"],
        "To: group:a9@example.net,\n\tb9@example.net;\n\nhi\n",
    ),
    (["-t", "-f", "alice@example.com"], 'To: "x, y" <"q s"@example.net>, (c) a10@example.net (d)\n\nhi\n'),
    (["-t", "-f", "alice@example.com"], "From: me\nTo: a11\n\nhi\n"),
    (["-t", "-f", "alice@example.com"], "From me Mon\n>From x\nTo: a12@example.net\n\nFrom me\n"),
    (["-f", "alice@example.com", "a13@example.net, Bob <b13@example.net>", "(x) c13@example.net"], "hi\n"),
    (["-f", "<>", "a14@example.net"], "Subject: none\n\nhi\n"),
    (["-f", "", "a15@example.net"], "Subject: none\n\nhi\n"),
    (["-r", "Alice <alice@example.com>", "a16@example.net"], "hi\n"),
    (["-f", "a@example.com, b@example.com", "a17@example.net"], "hi\n"),
    (["-f", '"a b"@example.com', '"c d"@example.net'], "hi\n"),
    (["-B", "8BITMIME", "-f", "alice@example.com", "a19@example.net"], "Subject: ä\n\nö\n"),
    (["-B7BIT", "-f", "alice@example.com", "a20@example.net"], "hi\n"),
    (["-f", "alice@example.com", "a21@example.net"], "Subject: cr\r\n\r\nbody\r\nend\r\n"),
    (["-f", "alice@example.com", "a22@example.net"], "x" * 5000 + "\n" + "y" * 3000),
    (["-G", "-f", "alice@example.com", "a23@example.net"], "Subject: gateway\n\nhi\n"),
    (["-G", "-t", "-f", "alice@example.com"], "To: a24@example.net, b24\n\nhi\n"),
    (["-f", "alice@example.com", "-N", "foo", "-R", "xx", "-V", "a\tb", "a25@example.net"], "hi\n"),
    (["-f", "alice@example.com", "-N", "success,never", "a26@example.net"], "hi\n"),
    (
        [
            "-f",
            "alice@example.com",
            "-O",
            "DeliveryMode=b",
            "-L",
            "tag",
            "-A",
            "x",
            "-h",
            "5",
            "a27@example.net",
        ],
        "hi\n",
    ),
    (["-f", "alice@example.com", "-x", "-U", "-bm", "-c", "a28@example.net"], " begins with a blank\n"),
    (["-f", "alice@example.com", "a29@example.net", "a29@example.net", "A29@EXAMPLE.NET"], "hi\n"),
    (["-f", "alice@example.com", "a30@example.net"], ""),
    (["-f", "alice@example.com", "a31@[192.0.2.1]", "b31%example.net@example.com"], "hi\n"),
    (["-t", "-f", "alice@example.com"], "To: a33@example.net\nnot a header\nCc: no@example.net\n\nhi\n"),
    (["-t", "-f", "alice@example.com"], "To :a34@example.net\n\nhi\n"),
]
#: What is refused, or done without mail.
SAID: list[list[str]] = [
    [], ["-t"], ["-n", "a@b"], ["-Q"], ["-bz"], ["-XVab", "a@b"], ["-Xq", "a@b"], ["-t", "-bp"], ["-q", "x"],
    ["-qI"], ["-qR"], ["-qIabc", "x"], ["-qRexample.com", "x"], ["-qx"], ["-q5m"], ["-bh"], ["-bH", "x"],
    ["-bp", "x"],
    ["-bv", "-t"], ["-bv", "-N", "success", "a@b"], ["-bv", "-R", "full", "a@b"], ["-bs", "x"],
    ["-B", "9BIT", "a@b"],
    ["-bi", "x"], ["-oA"], ["-f", "", "-XV", "a@b"], ["-q"], ["-qIABCDEF"], ["-qRexample.org"],
]  # fmt: skip
SUPER: list[list[str]] = [
    ["-d", "XX!"], ["-d", "123456789AB"], ["-d", "123456789AB", "nosuch"], ["-q"], ["-h", "ALL"],
    ["-H", "ALL", "hold"],
    ["-r", "1234567", "-e", "123456789", "-f", "1234567"], ["-p", "-s"],
    ["-d", "ALL", "-h", "AB", "-d", "CD"],
]  # fmt: skip
MAIN_CF = {"mynetworks": "127.0.0.0/8", "mydomain": "example.com", "fast_flush_domains": "example.com",
           "smtputf8_enable": "yes", "authorized_submit_users": "!nobody, static:all"}  # fmt: skip


@pytest.fixture(scope="module")
def sinks() -> Iterator[tuple[Sink, Sink]]:
    with Sink() as one, Sink() as two:
        yield one, two


@pytest.fixture(scope="module")
def both(sinks: tuple[Sink, Sink]) -> Iterator[tuple[Postfix, Mtad]]:
    hops = [f"[127.0.0.1]:{sink.port}" for sink in sinks]
    with (
        Postfix({**MAIN_CF, "relayhost": hops[0]}) as postfix,
        Mtad({**MAIN_CF, "relayhost": hops[1]}) as mtad,
    ):
        yield postfix, mtad


def theirs(
    postfix: Postfix, name: str, arguments: Sequence[str], text: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MAIL_CONFIG": str(postfix.directory)}
    return subprocess.run([name, *arguments], input=text, text=True, capture_output=True, env=environment)


def ours(mtad: Mtad, name: str, arguments: Sequence[str], text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MAIL_CONFIG": str(mtad.directory)}
    return subprocess.run(
        [*MTAD, name, *arguments], input=text, text=True, capture_output=True, env=environment
    )


def said(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    # glibc says some things about options twice in 3.7, since sendmail reads them twice
    lines = list(dict.fromkeys(done.stderr.splitlines()))
    # 3.11 names the value of a bad -N
    return (
        done.returncode,
        done.stdout,
        re.sub("-N option value: '.*?' --", "-N option value --", "\n".join(lines)),
    )


def masked(raw: bytes) -> bytes:
    text = re.sub(rb"\b[0-9A-F]{9,15}\b", b"ID", raw)
    text = re.sub(rb"\b[0-9]{14}\.", b"TIME.", text)
    return re.sub(rb"\w{3}, +\d+ \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4} \(\w+\)", b"DATE", text)


def by_recipient(sink: Sink) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for raw in sink.raw():
        head = raw.partition(b"\r\n\r\n")[0]
        names = re.findall(rb"^X-Sink-Recipient: (.*)\r$", head + b"\r\n", re.M)
        for name in names:
            found[name] = masked(raw)
    return found


def test_sendmail(both: tuple[Postfix, Mtad], sinks: tuple[Sink, Sink]) -> None:
    postfix, mtad = both
    differences: list[str] = []
    for arguments, text in SENT:
        a, b = (
            said(theirs(postfix, "sendmail", arguments, text)),
            said(ours(mtad, "sendmail", arguments, text)),
        )
        if a != b:
            differences.append(f"{arguments}: {a} {b}")
    for arguments in SAID:
        a, b = said(theirs(postfix, "sendmail", arguments)), said(ours(mtad, "sendmail", arguments))
        if a != b:
            differences.append(f"{arguments}: {a} {b}")
    last = b"a34@example.net"
    for sink in sinks:
        wait_until(lambda sink=sink: last in by_recipient(sink), "the last mail")
    one, two = (by_recipient(sink) for sink in sinks)
    assert len(one) > 40
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            differences.append(f"{name!r}: {one.get(name)!r}\n{two.get(name)!r}")
    assert not differences, "\n".join(differences)


def test_sendmail_log(both: tuple[Postfix, Mtad]) -> None:
    """pickup's lines."""
    for system in both:
        assert re.search(r"postfix/pickup\[\d+\]: \w+: uid=0 from=<alice@example.com>\n", system.log())


def test_smtp_on_standard_input(both: tuple[Postfix, Mtad], sinks: tuple[Sink, Sink]) -> None:
    dialogue = (
        "EHLO x\nNOOP\nMAIL FROM:<a@b.c> BODY=8BITMIME\nRCPT TO:<>\nRCPT TO:<bs@example.net>\nXX\nRSET\n"
        "VRFY a\nMAIL FROM:<a@b.c> RET=HDRS\nRCPT TO:<bs1@example.net> NOTIFY=DELAY ORCPT=rfc822;a+2Bb\n"
        "DATA\nSubject: lone LF\n\n..dot\nend\n.\n"
    )
    chunk = "EHLO y\nMAIL FROM:<a@b.c>\nRCPT TO:<bs2@example.net>\nRCPT TO:<bs3@example.net>\n"
    chunk += "BDAT 6 LAST\nhi\n\nQUIT\n"
    for text in (dialogue + "QUIT\n", dialogue, chunk.replace("\n", "\r\n")):
        a, b = theirs(both[0], "sendmail", ["-bs"], text), ours(both[1], "sendmail", ["-bs"], text)
        a.stdout, b.stdout = (re.sub(r"queued as \w+", "queued as ID", done.stdout) for done in (a, b))
        assert said(a) == said(b)
        assert "queued as ID" in a.stdout
    for sink in sinks:
        wait_until(lambda sink=sink: b"bs3@example.net" in by_recipient(sink), "the last mail")
    one, two = (by_recipient(sink) for sink in sinks)
    for name in (b"bs1@example.net", b"bs2@example.net", b"bs3@example.net"):
        assert one[name] == two[name]
    assert one[b"bs1@example.net"].count(b"Received: ") == 2


def test_postsuper(both: tuple[Postfix, Mtad]) -> None:
    for arguments in SUPER:
        assert said(theirs(both[0], "postsuper", arguments)) == said(ours(both[1], "postsuper", arguments))


def test_postlog(both: tuple[Postfix, Mtad]) -> None:
    for arguments, text in (
        (["one", "two"], ""), (["-t", "tag/x", "-p", "WARN", "w"], ""), (["-i"], "l1\nl2\n\n\x07end"),
        (["-p", "panic", "p"], ""), (["-p", "no", "p"], ""),
    ):  # fmt: skip
        a, b = theirs(both[0], "postlog", arguments, text), ours(both[1], "postlog", arguments, text)
        assert a.returncode == b.returncode
    lines = [
        [re.sub(r"^.{15} mail (\S+)\[\d+\]", r"\1", line) for line in system.log().splitlines()
         if "postlog[" in line or "tag/x[" in line] for system in both
    ]  # fmt: skip
    assert len(lines[0]) >= 6
    assert lines[0] == lines[1]


def queue_files(directory: Path) -> list[Path]:
    """Queue files of many kinds."""
    people = [Recipient(b"a b@example.net", b"x@y", frozenset((b"NEVER",)), b"rfc822;x+2By", id=1),
              Recipient(b"c@example.net", id=2)]  # fmt: skip
    found: list[Path] = []

    def keep(data: bytes) -> None:
        found.append(directory / f"file{len(found)}")
        found[-1].write_bytes(data)

    for content in (
        b"Subject: x\r\n folded\r\n\r\nbody\r\n", b"Subject: x\r\n\r\nno end",
        b" blank first\r\n\r\nbody\r\n",
        b"",
        b"no header\r\nX: y\r\n", b"X: y\r\n\r\n" + b"l" * 5000 + b"\r\nz\r\n",
        b"X: " + b"l" * 5000 + b"\r\n\r\nz\r\n",
    ):  # fmt: skip
        message = Message(
            "A", b"s@example.com", people, 1.5, body=b"8BITMIME", ret=b"FULL", envid=b"e",
            attributes={"client_name": "h", "sender_fullname": "F", "filter": "x:y", "verp_delimiters": "+="},
            warned=True,
        )  # fmt: skip
        path = directory / f"file{len(found)}"
        with open(path, "w+b") as file:
            write_message(file, message, [content], created=2.0)
        found.append(path)
    keep(b"no queue file")
    keep(pack(b"T", b"1 2") + pack(b"A", b"malformed") + pack(b"A", b"create_time=12") + pack(b"?", b"x"))
    keep(pack(b"S", b"s") + pack(b"M", b"") + pack(b"N", b"A: b") + pack(b"L", b"text") + pack(b"X", b"")
         + pack(b"R", b"late") + pack(b"E", b"") + pack(b"N", b"behind"))  # fmt: skip
    head = pack(b"S", b"s")
    pointer = len(pack(b"p", b"%15d" % 0))
    keep(head + pack(b"p", b"%15d" % (len(head) + pointer + len(pack(b"R", b"gone")))) + pack(b"R", b"gone")
         + pack(b"R", b"here") + pack(b"w", b"pad") + pack(b"p", b"%15d" % 0) + pack(b"M", b"")
         + pack(b"X", b"") + pack(b"E", b""))  # fmt: skip
    return found


#: -f, path names, came after 3.7.
OPTIONS = ["", "e", "h", "b", "eh", "o", "d", "v", "or", "ovd", "rv"]


def test_postcat(both: tuple[Postfix, Mtad], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from mtad.cli import postcat

    differences: list[str] = []
    for options in OPTIONS:
        for path in queue_files(tmp_path):
            arguments = [f"-{options}"] * bool(options) + [str(path)]
            a = theirs(both[0], "postcat", arguments)
            status = postcat.main(arguments)
            out, err = capfd.readouterr()
            # -v tells of Postfix's own inside, too
            told = "".join(line for line in a.stderr.splitlines(True) if "warning" in line or "fatal" in line)
            their_out = a.stdout
            if "e" not in options and options:  # 3.7 leaves a last line open, 3.11 ends it
                out, their_out = out.rstrip("\n"), their_out.rstrip("\n")
            if a.returncode:  # what was not flushed yet is lost with theirs
                their_out = out
            if (status, out, err) != (a.returncode, their_out, told):
                differences.append(f"{arguments}: {out}{err}\n{their_out}{told}")
    assert not differences, f"{len(differences)}: " + "\n".join(differences[:4])


def test_postcat_without_headings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from mtad.cli import postcat

    for path in queue_files(tmp_path)[:3]:
        assert postcat.main([str(path)]) == postcat.main(["-n", str(path)])
        out, _ = capfd.readouterr()
        lines = out.splitlines(True)
        plain = [line for line in lines if not line.startswith("*** ")]
        half = len(plain) // 2
        assert plain[:half] == plain[half:] == lines[-half:]
        assert len(lines) > len(plain)
