"""Tables against the real tools: what they write is read here, what is written here they read and change."""

import asyncio
import os
import random
import shutil
import subprocess
import sys

import pytest

from mtad.cli import postmap as our_postmap
from mtad.cli import saslpasswd as our_saslpasswd
from mtad.tables import open_table
from mtad.tables.bdb import open_bdb
from mtad.tables.bdb_write import write_hash
from mtad.tables.sasldb import SaslDb


def tool(name):
    """The path of a real tool, or a skip that says which one is missing."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def call(*argv, stdin=b"", code=0):
    done = subprocess.run(argv, input=stdin, capture_output=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout


def write_old(path, data):
    """A file that Postfix does not take for one that is being edited, and waits for."""
    path.write_bytes(data)
    os.utime(path, (1e9, 1e9))


def verify(path):
    call(tool("db5.3_verify"), str(path))


def dump(path):
    """All entries, in Berkeley DB's own order."""
    text = call(tool("db5.3_dump"), str(path)).split(b"HEADER=END\n")[1]
    lines = [bytes.fromhex(line.strip().decode()) for line in text.split(b"\n") if line.startswith(b" ")]
    return list(zip(lines[::2], lines[1::2], strict=True))


@pytest.fixture(scope="module")
def content():
    """Twenty thousand keys, and some that don't fit a page."""
    rng = random.Random(7)
    entries = {}
    for number in range(20000):
        key = b"user%d@example%d.com" % (number, rng.randrange(50))
        entries[key] = b"v" * rng.randrange(1, 60) + b"%d" % number
    entries[b"k" * 3000] = b"v" * 20000
    entries[b"k" * 1023] = b"short"
    entries[b"k" * 1024] = b"shorter"
    entries[b"big"] = b"w" * 5000
    return entries


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_old(tmp_path / "main.cf", b"compatibility_level = 3.6\n")
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(content):
    return b"".join(b"%b\t%b\n" % entry for entry in content.items())


@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb"])
def test_we_read_what_postmap_writes(place, content, kind):
    postmap = tool("postmap")
    if kind == "lmdb":
        pytest.importorskip("lmdb")
        content = {key: value for key, value in content.items() if len(key) < 500}
    (place / "t").write_bytes(source(content))
    call(postmap, f"{kind}:{place}/t")
    table = open_table(f"{kind}:{place}/t")

    async def compare():
        for key, value in content.items():
            assert await table.lookup(key) == value
        assert await table.lookup(b"nobody") is None

    asyncio.run(compare())
    assert dict(table.items()) == content
    listed = call(postmap, "-s", f"{kind}:{place}/t")
    assert listed == b"".join(b"%b\t%b\n" % entry for entry in table.items())
    table.close()


@pytest.mark.parametrize("kind", ["hash", "lmdb"])
def test_postmap_reads_and_changes_what_we_write(place, content, kind):
    postmap = tool("postmap")
    if kind == "lmdb":
        pytest.importorskip("lmdb")
        content = {key: value for key, value in content.items() if len(key) < 500}
    (place / "t").write_bytes(source(content))
    spec = f"{kind}:{place}/t"
    assert our_postmap.main([spec]) == 0
    keys = b"".join(key + b"\n" for key in content)
    assert call(postmap, "-q", "-", spec, stdin=keys) == source(content)
    call(postmap, "-q", "nobody", spec, code=1)
    call(postmap, "-i", spec, stdin=b"".join(b"new%d value%d\n" % (n, n) for n in range(500)))
    call(postmap, "-d", "big", spec)
    expected = dict(content) | {b"new%d" % n: b"value%d" % n for n in range(500)}
    del expected[b"big"]
    table = open_table(spec)
    assert dict(table.items()) == expected
    if kind == "hash":
        verify(place / "t.db")


@pytest.mark.parametrize("options", [["-t", "hash"], ["-t", "btree"]])
@pytest.mark.parametrize("order", ["1234", "4321"])
def test_we_read_either_byte_order(tmp_path, content, options, order):
    path = tmp_path / "x.db"
    text = b"".join(b"%b\n%b\n" % entry for entry in content.items())
    call(tool("db5.3_load"), "-T", *options, "-c", f"db_lorder={order}", str(path), stdin=text)
    file = open_bdb(str(path))
    assert list(file.items()) == dump(path)
    assert all(file.get(key) == value for key, value in content.items())
    assert file.get(b"nobody") is None


@pytest.mark.parametrize("size", [512, 1024, 8192, 65536])
def test_we_read_other_page_sizes(tmp_path, content, size):
    path = tmp_path / "x.db"
    some = dict(list(content.items())[-3000:])
    text = b"".join(b"%b\n%b\n" % entry for entry in some.items())
    call(tool("db5.3_load"), "-T", "-t", "hash", "-c", f"db_pagesize={size}", str(path), stdin=text)
    file = open_bdb(str(path))
    assert list(file.items()) == dump(path)
    assert all(file.get(key) == value for key, value in some.items())


@pytest.mark.parametrize("count", [0, 1, 2, 100, 5000, 20000])
def test_berkeley_db_accepts_what_we_write(tmp_path, content, count):
    path = tmp_path / "x.db"
    some = dict(list(content.items())[len(content) - count :])
    some |= {b"p": b"", b"pre": b"1", b"prefix": b"2", b"": b"empty"} if count else {}
    write_hash(str(path), some.items())
    verify(path)
    assert dump(path) == list(open_bdb(str(path)).items())
    more = {b"added%d" % number: b"x" * (number % 90 + 1) for number in range(count + 50)}
    more[b"l" * 2000] = b"m" * 7000
    text = b"".join(b"%b\n%b\n" % entry for entry in more.items())
    call(tool("db5.3_load"), "-T", "-t", "hash", str(path), stdin=text)
    verify(path)
    file = open_bdb(str(path))
    assert dict(file.items()) == some | more
    assert all(file.get(key) == value for key, value in (some | more).items())


def test_sasldb_of_saslpasswd2(tmp_path):
    saslpasswd2 = tool("saslpasswd2")
    path = str(tmp_path / "sasldb2")
    users = {f"user{number}": b"secret %d" % number for number in range(30)}
    for user, secret in users.items():
        call(saslpasswd2, "-p", "-c", "-u", "example.com", "-f", path, user, stdin=secret)
    call(saslpasswd2, "-d", "-u", "example.com", "-f", path, "user7")
    del users["user7"]
    db = SaslDb(path)
    assert {user: db.get(user, "example.com") for user in users} == users
    assert db.get("user7", "example.com") is None
    listed = call(tool("sasldblistusers2"), "-f", path).decode().splitlines()
    assert [f"{user}@{realm}: {name}" for user, realm, name in db.list()] == listed


def test_saslpasswd2_changes_our_sasldb(tmp_path, monkeypatch):
    saslpasswd2, lister = tool("saslpasswd2"), tool("sasldblistusers2")
    path = str(tmp_path / "sasldb2")
    db = SaslDb(path)
    for number in range(200):
        db.set(f"ours{number}", "example.com", b"secret%d" % number)
    verify(path)
    for number in range(40):
        call(
            saslpasswd2, "-p", "-c", "-u", "example.com", "-f", path, f"theirs{number}", stdin=b"x%d" % number
        )
    for number in range(0, 200, 10):
        call(saslpasswd2, "-p", "-u", "example.com", "-f", path, f"ours{number}", stdin=b"changed")
    call(saslpasswd2, "-d", "-u", "example.com", "-f", path, "ours1")
    verify(path)
    assert db.get("theirs39", "example.com") == b"x39"
    assert db.get("ours10", "example.com") == b"changed"
    assert db.get("ours2", "example.com") == b"secret2"
    assert db.get("ours1", "example.com") is None
    assert our_saslpasswd.main(["-d", "-u", "example.com", "-f", path, "theirs0"]) == 0
    listed = call(lister, "-f", path).decode().split()
    assert listed.count("userPassword") == 238  # there may be other properties: cmusaslsecretOTP
    assert "theirs0@example.com:" not in listed


SOURCE = b"""#c
a b
A c
noval
q"x y" z
"x y" z
"unb l
k: v
\xff\xfe bad
Uml\xc3\x84 \xc3\x96
  cont inued
"""
PATTERNS = b"""/^(.*)@Example\\.com$/ user-$1-${1}-$(1)-$$
/^a\\/b$/  slash
/case/i  Case
if /^foo/
/bar$/ foobar
!/baz/ nobaz
endif
!/^(x)/ $1
/a(b)?c(d)/ <$1|$2>
/(/ bad
/q/ $2
/zz/
qwe foo
/^not/ second
"""
NETWORKS = b"""10.0.0.1 host
10.0.0.0/8 ten
192.168.2.1/24 bad
if 192.168.0.0/16
192.168.9.9 nine
!192.168.8.0/24 not8
endif
[2001:db8::]/32 v6
!172.16.0.0/12 rest
"""
COMMANDS = [
    ["hash:t"],
    ["-r", "hash:t"],
    ["-w", "hash:t"],
    ["-q", "A", "hash:t"],
    ["-q", "umlä", "hash:t"],
    ["-q", "UMLÄ", "hash:t"],
    ["-q", "nope", "hash:t"],
    ["-q", "", "hash:t"],
    ["-q", "k:", "hash:t"],
    ["-q", "a", "inline:{a=b}"],
    ["-s", "inline:{a=b}"],
    ["-q", "a", "texthash:t"],
    ["-i", "hash:t"],
    ["-q", "-", "hash:t"],
    ["-d", "A", "hash:t"],
    ["-d", "A", "hash:t"],
    ["-n", "hash:t"],
    ["-N", "-q", "a", "hash:t"],
    ["-n", "-q", "a", "hash:t"],
    ["-f", "hash:t"],
    ["-f", "-q", "A", "hash:t"],
    ["-q", "b", "pipemap:{inline:{a=b,b=c},inline:{c=d}}"],
    ["-q", "a", "pipemap:{inline:{a=b},inline:{c=d}}"],
    ["-q", "a", "unionmap:{inline:{a=b},inline:{a=d},static:{x y}}"],
    ["-q", "1.2.3.4", "cidr:{{1.2.0.0/16 ok}}"],
    *(["-q", key, "cidr:n"] for key in ("10.0.0.1", "10.9.9.9", "192.168.2.5", "192.168.9.9", "192.168.8.8")),
    *(["-q", key, "cidr:n"] for key in ("192.168.7.7", "2001:db8::1", "2001:db9::1", "172.16.0.1", "x")),
    *(
        ["-q", key, f"{kind}:p"]
        for kind in ("regexp", "pcre")
        for key in (
            "joe@example.com",
            "a/b",
            "CASE",
            "case",
            "foobar",
            "foo-x",
            "foobaz",
            "abcd",
            "acd",
            "zz",
            "Not",
        )
    ),
]

#: Commands that end with "fatal:", before which Postfix sleeps for a second.
FAILURES = [
    ["-s", "static:t"],
    ["-q", "a", "inline:x"],
    ["-q", "a", "foo:t"],
    ["-q", "a", "hash"],
    ["-q", "a", "hash:"],
    ["texthash:t"],
    ["hash:/nonexistent"],
    ["-q", "a", "hash:/nonexistent"],
    ["-q", "a", "texthash:/nonexistent"],
    ["-d", "a", "hash:/nonexistent"],
    ["-d", "a", "texthash:t"],
    ["-q", "a", "pipemap:{foo}"],
    ["-q", "a", "unionmap:{}"],
    ["-q", "a", "inline:{a b}"],
    ["-q", "a", "static:{a"],
    ["-s", "cidr:n"],
    ["cidr:n"],
]


@pytest.fixture
def both(tmp_path, monkeypatch, capfdbinary):
    """Run a command by Postfix's postmap and by ours, each in a directory of its own."""
    real = tool("postmap")
    (tmp_path / "conf").mkdir()
    write_old(tmp_path / "conf" / "main.cf", b"compatibility_level = 3.6\n")
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path / "conf"))
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
        for file, data in (("t", SOURCE), ("p", PATTERNS), ("n", NETWORKS), ("in", b"a new\nfoo bar\nzz\n")):
            write_old(tmp_path / name / file, data)

    def theirs(command):
        with open(tmp_path / "theirs" / "in", "rb") as stdin:
            return subprocess.Popen(
                [real, *command],
                cwd=tmp_path / "theirs",
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )

    def ours(command):
        monkeypatch.chdir(tmp_path / "ours")
        with open(tmp_path / "ours" / "in") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            capfdbinary.readouterr()
            code = our_postmap.main(command)
        return code, *capfdbinary.readouterr()

    return theirs, ours


def compare(command, process, ours):
    out, err = process.communicate(timeout=60)
    if b"Is the postfix-" in err:  # a type that is a package of its own in Debian
        err = err[: err.index(b". Is the postfix-")] + b"\n"
        if command[-1].startswith("pcre:"):
            return
    assert ours(command) == (process.returncode, out, err), command


def test_postmap_says_and_does_the_same(both):
    theirs, ours = both
    for command in COMMANDS:
        compare(command, theirs(command), ours)


def test_postmap_fails_in_the_same_way(both):
    theirs, ours = both
    for command, process in [(command, theirs(command)) for command in FAILURES]:
        compare(command, process, ours)
