"""Hundreds of keys asked of each local type of table, and messages, aliases and index files: as Debian's."""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mtad.cli import postalias, postmap

_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
POSTMAP = shutil.which("postmap", path=_PATH)
POSTALIAS = shutil.which("postalias", path=_PATH)

pytestmark = pytest.mark.skipif(not (POSTMAP and POSTALIAS), reason="needs Debian's postfix package")

_SOURCE = """\
# accounts
alice@example.com  alice
Bob@Example.COM    bob, robert
carol@example.com
   carol,
# a comment inside
   caroline

@example.net       catch-all@example.com
postmaster         root
dave+ext@example.com  dave-ext
"quoted local"@example.com  quoted
"with \\"quote\\""@example.com  escaped
example.org        OK
.example.org       REJECT subdomains
10.1               REJECT
2001:db8           OK
müller@example.com umlaut
ünïcode.example    REJECT ünïcode text
tab\tvalue with   blanks
"""
_PATTERNS = r"""
/^alice@/             REJECT
/^(b.b)@(.*)\.com$/   WARN $1 at ${2}
/^Subject: (.*)\$(.*)$/ PREPEND X-Price: $2 $$1
if /@example\.org$/
/^carol/              HOLD
!/^dave/              DUNNO not dave
/./                   OK dave
endif
/a{2,3}/              many
/[[:digit:]]{4}/      digits
/^x/i                 x
/\/slash/             slash
!/e/                  no e
"""
_NETWORKS = """\
10.0.0.0/8        private ten
!192.0.2.0/24     not documentation
192.0.2.17        host
192.0.2.16/28     small
if 192.0.2.0/25
192.0.2.64/26     second quarter
!192.0.2.0/26     never
endif
192.0.2.0/24      documentation
"""
_NETWORKS6 = """\
2001:db8::/48     site
2001:db8:1::1     one
[2001:db8:2::]/47 bracketed
if !2001:db8:f000::/36
2001:db8::/32     doc
endif
::/0              any
0.0.0.0/1         lower half
"""


def keys(kind: str) -> list[str]:
    """Some hundred keys worth asking."""
    rng = random.Random(kind)
    if kind == "cidr":
        found = [f"192.0.2.{rng.randrange(256)}" for _ in range(60)]
        found += [f"{rng.randrange(256)}.{rng.randrange(256)}.0.1" for _ in range(40)]
        found += [f"2001:db8:{rng.randrange(65536):x}::{rng.randrange(9):x}" for _ in range(60)]
        return [
            *found,
            "x",
            "1.2.3",
            "::ffff:192.0.2.17",
            "2001:db8:1::1",
            "2001:DB8:1::1",
            "10.0.0.0",
            "::1",
        ]
    words = [
        "alice",
        "Alice",
        "bob",
        "BOB",
        "carol",
        "dave",
        "dave+ext",
        "postmaster",
        '"quoted local"',
        "müller",
    ]
    words += [
        '"with \\"quote\\""',
        "quoted local",
        "xaax",
        "12345",
        "Subject: a$5",
        "x/slash",
        "tab",
        "y",
        "ü",
    ]
    domains = ["", "@example.com", "@EXAMPLE.com", "@example.org", "@example.net", "@"]
    found = [word + domain for word in words for domain in domains]
    return [*found, "example.org", ".example.org", "10.1", "2001:db8", "ünïcode.example", "ÜNÏCODE.example"]


TABLES = {
    "hash": ("hash:source", "words"),
    "btree": ("btree:source", "words"),
    "lmdb": ("lmdb:source", "words"),
    "texthash": ("texthash:source", "words"),
    "inline": ("inline:{alice=a, { BOB@example.com = b, c }, {müller@example.com = m}}", "words"),
    "static": ("static:{one for all}", "words"),
    "regexp": ("regexp:patterns", "words"),
    "pcre": ("pcre:patterns", "words"),
    "cidr": ("cidr:networks", "cidr"),
    "cidr-6": ("cidr:networks6", "cidr"),
    "unionmap": ("unionmap:{hash:source, inline:{alice@example.com=too}, regexp:patterns}", "words"),
    "pipemap": ("pipemap:{hash:source, inline:{alice=found, bob=no}}", "words"),
    "environ": ("environ:x", "words"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    texts = {"source": _SOURCE, "patterns": _PATTERNS, "networks": _NETWORKS, "networks6": _NETWORKS6}
    for name, text in (*texts.items(), ("main.cf", "compatibility_level = 3.6\n")):
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (1e9, 1e9))
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def theirs(program: str | None, arguments: list[str], stdin: bytes = b"") -> tuple[bytes, bytes, int]:
    done = subprocess.run(
        [str(program), *arguments], input=stdin, capture_output=True, timeout=60, check=False
    )
    return done.stdout, done.stderr, done.returncode


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]):  # type: ignore[no-untyped-def]
    def run(tool, arguments: list[str], stdin: bytes = b"") -> tuple[bytes, bytes, int]:  # type: ignore[no-untyped-def]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfdbinary.readouterr()
        status = tool.main(arguments)
        out, err = capfdbinary.readouterr()
        return out, err, status

    return run


def test_there_are_enough() -> None:
    assert sum(len(keys(kind)) for _, kind in TABLES.values()) > 1000


@pytest.mark.parametrize("name", TABLES)
def test_same_answers(place: Path, ours, name: str) -> None:  # type: ignore[no-untyped-def]
    spec, kind = TABLES[name]
    if name == "lmdb":
        pytest.importorskip("lmdb")
    for table in ("hash:source", "btree:source", "lmdb:source"):
        if table in spec:
            assert theirs(POSTMAP, [table])[2] == 0
    asked = "".join(f"{key}\n" for key in keys(kind)).encode()
    out, err, status = theirs(POSTMAP, ["-q", "-", spec], asked)
    if b"unsupported dictionary type" in err:
        pytest.skip(f"Debian's postmap has no {name} here")
    assert ours(postmap, ["-q", "-", spec], asked) == (out, err, status)


MESSAGES = [
    b"A: b\nC: d\n e\n\nbody\n",
    b"A: b\nnot a header\nmore\n",
    b"",
    b"\nonly body\n",
    b"Content-Type: multipart/mixed; boundary=x\n\n--x\nA: b\n\nt\n--x--\nend\n--x\n",
    b'Content-Type: multipart/digest; boundary="y z"\n\n--y z\n\nInner: 1\n\nb\n--y z\nX: y\n\nI: 2\n\n'
    b"c\n--y z--\n",
    b"Content-Type: message/rfc822\n\nInner: 1\nContent-Type: multipart/mixed; boundary=q\n\n--q\nP: 2\n\n"
    b"b\n--q--\n",
    b"Content-Type: text/plain\n\n--x\nA: b\n\n",
    b"Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/alternative; boundary=ab\n\n"
    b"--ab\nK: v\n\n1\n--ab--\n--a\nno header here\nL: m\n--a--\n",
    b" leading\nA: b\n\nx\n",
    b"A :  spaced\nB\t: x\n: none\n\n",
]


@pytest.mark.parametrize("options", ["-h", "-b", "-hb", "-hm", "-bm", "-hbm", "-m"])
@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
def test_same_keys_of_messages(place: Path, ours, message: bytes, options: str) -> None:  # type: ignore[no-untyped-def]
    arguments = [f"{options}q", "-", "regexp:{{/^(.?).*/ <$1>}}"]
    assert ours(postmap, arguments, message) == theirs(POSTMAP, arguments, message)


ALIASES = """\
root: alice,bob ,   "Joe Blow"@x.com
List-Owner:\t|"/usr/bin/prog -a b", /file/name,:include:/etc/list
"quoted key"  :  a@b (comment) , <c@d>
"a:b" : c
empty: ""
a,b: x
novalue:
nokey
Key.With.Dot : \\user, user+ext@dom , owner-x
cont:
  aa,
  bb
weird: a   b  c <x@y>;, "|/bin/sh -c 'x y'"
X"y z"W: v (c(d) \\) e) w
utf: grüße@exämple.com
dup: 1
dup: 2
lit: a@[1.2.3.4], [x\\]y]
unbalanced: "a b
paren: (a
esc: a\\"b, c\\ d, e\\
inc: ":include:/x y", :include:"/a b"
plus: a%b@c, c!d, |cmd
"""


def entries(listing: bytes) -> list[bytes]:
    """Sorted, without what a NIS server wants."""
    return sorted(line for line in listing.splitlines() if not line.startswith(b"YP_"))


@pytest.mark.parametrize("kind", ["hash", "btree"])
def test_same_aliases(place: Path, ours, kind: str) -> None:  # type: ignore[no-untyped-def]
    path = place / "aliases"
    path.write_text(ALIASES)
    os.utime(path, (1e9, 1e9))
    _, err, status = theirs(POSTALIAS, [f"{kind}:aliases"])
    listing = theirs(POSTALIAS, ["-s", f"{kind}:aliases"])[0]
    asked = b"ROOT\nlist-owner\nquoted key\na:b\nnobody\n"
    answers = theirs(POSTALIAS, ["-q", "-", f"{kind}:aliases"], asked)
    (place / "aliases.db").unlink()
    _, our_err, our_status = ours(postalias, [f"{kind}:aliases"])
    assert (our_err.replace(b" and have no domain", b""), our_status) == (err, status)
    assert entries(theirs(POSTALIAS, ["-s", f"{kind}:aliases"])[0]) == entries(listing)
    assert entries(ours(postalias, ["-s", f"{kind}:aliases"])[0]) == entries(listing)
    assert ours(postalias, ["-q", "-", f"{kind}:aliases"], asked) == answers


@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb", "cdb"])
def test_what_we_write_they_read(place: Path, ours, kind: str) -> None:  # type: ignore[no-untyped-def]
    if kind == "lmdb":
        pytest.importorskip("lmdb")
    rng = random.Random(kind)
    lines = [
        f"user{number}@example{rng.randrange(99)}.com {'v' * rng.randrange(1, 90)}" for number in range(3000)
    ]
    (place / "many").write_text("".join(f"{line}\n" for line in lines))
    assert ours(postmap, [f"{kind}:many"])[1:] == (b"", 0)
    asked = "".join(f"{line.split()[0]}\n" for line in lines).encode()
    out, err, _ = theirs(POSTMAP, ["-q", "-", f"{kind}:many"], asked)
    if b"unsupported dictionary type" in err:
        pytest.skip(f"Debian's postmap has no {kind} here (package postfix-{kind})")
    assert out == "".join(f"{line}\n" for line in lines).replace(" ", "\t").encode()
    verify = shutil.which("db5.3_verify")
    if verify and kind in ("hash", "btree"):
        assert subprocess.run([verify, "many.db"], capture_output=True, check=False).returncode == 0


_NETS = (
    "10.0.0.0/8", "10.1.2.3", "!10.0.0.0/8", "! 10.1.0.0/16", "10.1.2.3/8", "10.1.2", "::1", "::/0", "[::1]",
    "[2001:db8::]/32", "[::1/128]", "0.0.0.0/0", "10.0.0.0/33", "10.0.0.0/", "/8", "!!10.0.0.0/8",
    "300.1.1.1", "fe80::1%eth0", "::ffff:10.0.0.0/104", "10.0.0.0/08", "010.0.0.0/8", "[10.1.2.3]x", "[::1",
    "2001:DB8::/32",
)  # fmt: skip
_BODIES = (
    "a", "(a)(b)?", "(a)|(b)", "^x", "y$", "a.b", "[a-z]+", "(.*)@(.*)", r"\/", "a\\/", "(", "[", "a{2}",
    "a{2", "a**", "(?i)a", r"\d+", "^$", "", "é", "(é+)", "()", r"(a)\1", r"^(.+)\.(.+)$", "a|", ".",
)  # fmt: skip
_RESULTS = (
    "OK", "REJECT no", "a\tb", "a  b ", "$1", "x $1 y", "${1}", "$(1)", "$$", "$", "a$", "$-", "${", "${}",
    "${1", "$2", "$0", "$10", "${1?a:b}", "{ a }", "", "tab\t", "cr\r", "\vvt", "é", "${1}$2", "$a", "${1}a",
    "${ 1 }",
)  # fmt: skip
_GUARDS = (
    "endif", "ENDIF", "endif x", "endifx", "endif/", "if", "if !", "iffy x", "if/a/", "if !/a/", "if !!/a/",
    "if 10.0.0.0/8", "if ! 10.1.0.0/16 x", "IF ::/0", "a b", "/a/!/b/ c", "/(a)/!/b/i $1 x", "/a/ !/b/ c",
    "/a/!!/b/ c", "! aba e", "# c", " # c", "\t", " cont", "\tcont",
)  # fmt: skip
_ADDRESSES = (
    "10.1.2.3", "10.2.3.4", "::1", "2001:db8::5", "::ffff:10.1.2.3", "1.2.3.4", "nope", "10.1.2",
    "2001:DB8::5",
)  # fmt: skip
_WORDS = ("a", "ab", "b", "xay", "A", "x", "12", "u@example.com", "a.b", "é", "É", "aa", "a/b", "a!b", "zzz")


def odd_rules(kind: str, rng: random.Random) -> str:
    """Some rules, of which many are no good."""

    def pattern() -> str:
        if kind == "cidr":
            return rng.choice(_NETS)
        delimiter = rng.choice("////!|,;é'%@")
        end = rng.choice([delimiter] * 8 + ["", delimiter * 2])
        flags = rng.choice([""] * 6 + ["i", "m", "x", "s", "A", "E", "U", "X", "ii", "q", "i!", "é"])
        return rng.choice([""] * 6 + ["!", "! ", "!!"]) + delimiter + rng.choice(_BODIES) + end + flags

    lines = ["# first"]
    for _ in range(rng.randrange(1, 7)):
        if rng.random() < 0.3:
            lines.append(rng.choice(_GUARDS))
        elif rng.random() < 0.1:
            lines.append(rng.choice(("if ", "IF\t", "if !")) + pattern() + rng.choice(("", " ", " x")))
        else:
            blank = rng.choice((" ", "\t", "  ", " \t ", "", "\r", " \v"))
            lines.append(pattern() + blank + rng.choice(_RESULTS))
    return "\n".join(lines) + rng.choice(("\n", "", "\r\n"))


@pytest.mark.parametrize("kind", ["cidr", "regexp", "pcre"])
def test_odd_rules(place: Path, ours, kind: str) -> None:  # type: ignore[no-untyped-def]
    stdin = "".join(f"{key}\n" for key in (_ADDRESSES if kind == "cidr" else _WORDS)).encode()
    for seed in range(40):
        text = odd_rules(kind, random.Random(f"{kind} {seed}"))
        if (
            "\n " in text or "\n\t" in text
        ):  # Postfix does not tell the number of a line that begins with a blank
            text = text.replace("# first", "/first/ one")
        (place / "odd").write_bytes(text.encode())
        os.utime(place / "odd", (1e9, 1e9))
        arguments = ["-q", "-", f"{kind}:odd"]
        assert ours(postmap, arguments, stdin) == theirs(POSTMAP, arguments, stdin), (seed, text)


@pytest.mark.parametrize(
    "spec", ["regexp:{}", "regexp:{{}}", "regexp:{{/a/ b}", "regexp:{/a/ b}", "cidr:{}", "pcre:{{/a/ b}x}",
             "regexp:{{#x}, {/a/ b}, {/(/ c}}", "cidr:{ {10.0.0.0/8}, , {::1  x } }", "regexp:{{/a/ $2}}"],
)  # fmt: skip
def test_odd_inline_rules(place: Path, ours, spec: str) -> None:  # type: ignore[no-untyped-def]
    arguments = ["-q", "a", spec]
    assert ours(postmap, arguments) == theirs(POSTMAP, arguments)


def test_bytes_that_are_not_to_be_utf8(place: Path, ours) -> None:  # type: ignore[no-untyped-def]
    (place / "bytes").write_bytes(b"\xc3\x89A one\n\xc3\xa9a two\n\xc4 three \xff\n")
    os.utime(place / "bytes", (1e9, 1e9))
    found = []
    for run in (lambda *words: theirs(POSTMAP, *words), lambda *words: ours(postmap, *words)):
        made = run(["-u", "hash:bytes"])
        found.append((made, sorted(run(["-u", "-s", "hash:bytes"])[0].split(b"\n"))))
    assert found[0] == found[1]
    asked = b"\xc3\x89a\n\xc3\xa9A\n\xe4\n\xc4\n"
    for table in ("hash:bytes", "texthash:bytes"):
        arguments = ["-u", "-q", "-", table]
        assert ours(postmap, arguments, asked) == theirs(POSTMAP, arguments, asked)
