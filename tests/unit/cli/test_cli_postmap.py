"""``mtad postmap``: what it makes, says and returns."""

import io
import os
import stat
import subprocess
import sys
from importlib.util import find_spec

import pytest

from mtad.cli.postmap import main
from mtad.tables import open_table
from mtad.tables.bdb import open_bdb

SOURCE = b'# comment\nAlice one\nbob  two  words\nalice again\nnovalue\n"a b" quoted\nk: v\n\xff\xfe bad\n'


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").write_bytes(SOURCE)
    os.chmod(tmp_path / "t", 0o640)
    return tmp_path


@pytest.fixture
def run(capfdbinary, monkeypatch, tmp_path):
    def command(*argv, stdin=b""):
        path = tmp_path / "stdin"
        path.write_bytes(stdin)
        with open(path, "rb") as file:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
            code = main(list(argv))
        out, err = capfdbinary.readouterr()
        return code, out, err.decode("utf-8", "replace").splitlines()

    return command


WARNINGS = [
    "postmap: warning: t, line 5: expected format: key whitespace value",
    'postmap: warning: t, line 7: record is in "key: value" format; is this an alias file?',
    'postmap: warning: t, line 8: non-UTF-8 input "?? bad" -- ignoring this line',
]


def test_make_hash(run, place):
    code, out, err = run("hash:t")
    assert (code, out) == (0, b"")
    assert err == ['postmap: warning: t.db: duplicate entry: "alice"', *WARNINGS]
    assert stat.S_IMODE((place / "t.db").stat().st_mode) == 0o640
    assert dict(open_bdb("t.db").items()) == {
        b"alice\0": b"one\0",
        b"bob\0": b"two  words\0",
        b'"a b"\0': b"quoted\0",
        b"k:\0": b"v\0",
    }
    assert run("-p", "t")[0] == 0
    assert stat.S_IMODE((place / "t.db").stat().st_mode) == 0o640
    os.unlink("t.db")
    assert run("-p", "t")[0] == 0
    assert stat.S_IMODE((place / "t.db").stat().st_mode) == 0o644


@pytest.mark.parametrize("kind", ["hash", "btree", "cdb", "lmdb"])
def test_ask_change_and_list(run, kind):
    if kind == "lmdb":
        pytest.importorskip("lmdb")
    table = f"{kind}:t"
    assert run("-w", table)[2] == WARNINGS
    assert run("-q", "ALICE", table) == (0, b"one\n", [])
    assert run("-q", "nobody", table) == (1, b"", [])
    assert run("-q", "", table) == (1, b"", [])
    assert run("-q", "-", table, "inline:{x=y}", stdin=b"bob\nzz\nx\n") == (0, b"bob\ttwo  words\nx\ty\n", [])
    assert run("-q", "-", table, stdin=b"zz\n") == (1, b"", [])
    code, out, err = run("-i", table, stdin=b"new entry\nbob other\n")
    label = {"lmdb": table, "cdb": "t"}.get(kind, "t.db")
    assert (code, out, err) == (0, b"", [f'postmap: warning: {label}: duplicate entry: "bob"'])
    assert run("-q", "bob", table)[1] == b"two  words\n"
    assert run("-i", "-r", table, stdin=b"bob other\n") == (0, b"", [])
    assert run("-j", "-q", "bob", table) == (0, b'{"bob": "other"}\n', [])
    assert run("-d", "BOB", table) == (0, b"", [])
    assert run("-d", "bob", table) == (1, b"", [])
    assert run("-d", "-", table, stdin=b"alice\nzz\n")[0] == 0
    code, out, err = run("-s", table)
    assert (code, sorted(out.splitlines()), err) == (0, [b'"a b"\tquoted', b"k:\tv", b"new\tentry"], [])


def test_make_by_adding(run):
    assert run("-i", "hash:new", stdin=b"a b\n") == (0, b"", [])
    assert run("-q", "a", "hash:new") == (0, b"b\n", [])


def test_options_of_keys(run):
    assert run("-r", "-f", "t")[0] == 0
    assert run("-f", "-q", "Alice", "t")[1] == b"one\n"
    assert run("-f", "-q", "alice", "t")[1] == b"again\n"
    assert run("-r", "-n", "t")[0] == 0
    assert open_bdb("t.db").get(b"alice") == b"again"
    assert run("-q", "alice", "t")[1] == b"again\n"
    assert run("-N", "-q", "alice", "t")[0] == 1
    assert run("-u", "-w", "t")[0] == 0
    assert open_bdb("t.db").get(b"\xff\xfe\0") == b"bad\0"


def test_values_that_are_files(run, place):
    (place / "content").write_text("hello\n")
    (place / "f").write_text("a content\nb /none/such\n")
    code, _, err = run("-F", "hash:f")
    assert code == 0
    assert err == [
        "postmap: warning: f, line 2: open /none/such: No such file or directory: skipping this entry"
    ]
    assert run("-q", "a", "hash:f")[1] == b"aGVsbG8K\n"
    assert run("-F", "-q", "a", "hash:f")[1] == b"hello\n\n"
    assert run("-F", "-s", "hash:f")[1] == b"a\thello\n\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "fatal: usage: postmap ["),
        (["-q", "a"], "fatal: usage: postmap ["),
        (["-i", "-s", "t"], "fatal: specify only one of -d -i -q or -s"),
        (["-j", "t"], "fatal: option -j requires -q or -s"),
        (["-q", "a", "foo:t"], "fatal: unsupported dictionary type: foo"),
        (["-q", "a", "hash:/none"], "fatal: open database /none.db: No such file or directory"),
        (["-q", "a", "texthash:/none"], "fatal: open database /none: No such file or directory"),
        (["-q", "a", "inline:x"], 'fatal: bad syntax: "inline:x"; need "inline:{name=value...}"'),
        (["-q", "a", "fail:x"], "fatal: table fail:x: query error: "),
        (["-s", "static:x"], "fatal: table static:x: sequence operation is not supported"),
        (["hash:/none"], "fatal: open /none: No such file or directory"),
        (["texthash:t"], "fatal: unsupported dictionary type: texthash does not support bulk-mode creation."),
        (["foo:t"], "fatal: unsupported dictionary type: foo"),
        (["-d", "a", "texthash:t"], "fatal: texthash:t map requires O_RDONLY access mode"),
        (["-d", "a", "hash:/none"], "fatal: open database /none.db: No such file or directory"),
        (["-c", "/none", "-q", "a", "t"], "fatal: /none/main.cf"),
    ],
)
def test_failures(run, argv, message):
    code, out, err = run(*argv)
    assert (code, out) == (1, b"")
    assert err[-1].startswith(f"postmap: {message}")


def test_bad_options(run):
    assert run("-z")[2][0] == "postmap: invalid option -- 'z'"
    assert run("-q")[2][0] == "postmap: option requires an argument -- 'q'"


def test_default_type(run, place):
    (place / "main.cf").write_text("default_database_type = texthash\n")
    assert run("-q", "bob", "t")[1] == b"two  words\n"


MESSAGE = b"""\
From: a
Subject: x
 folded
X-Y : spaced
Content-Type: multipart/mixed; boundary="b 1"

preamble
--b 1
Content-Type: message/rfc822

Subject: inner

inner body
--b 1--
last
"""


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ("-h", [
            "From: a", "Subject: x\n folded", "X-Y: spaced", 'Content-Type: multipart/mixed; boundary="b 1"',
        ]),
        ("-hm", [
            "From: a", "Subject: x\n folded", "X-Y: spaced", 'Content-Type: multipart/mixed; boundary="b 1"',
            "Content-Type: message/rfc822", "Subject: inner",
        ]),
        ("-bm", ["", "preamble", "--b 1", "", "", "inner body", "--b 1--", "last"]),
        ("-b", [
            "", "preamble", "--b 1", "Content-Type: message/rfc822", "", "Subject: inner", "", "inner body",
            "--b 1--", "last",
        ]),
    ],
)  # fmt: skip
def test_keys_of_a_message(run, options, keys):
    expected = "".join(f"{key}\tX\n" for key in keys).encode()
    assert run(options + "q", "-", "regexp:{{/^/ X}}", stdin=MESSAGE) == (0, expected, [])


def test_message_options_need_standard_input(run):
    message = 'postmap: fatal: specify -b -h or -m only with "-q -"'
    assert run("-hq", "x", "static:y") == (1, b"", [message])
    assert run("-b", "t") == (1, b"", [message])
    assert run("-mq", "-", "static:y", stdin=b"k\n")[2] == [
        "postmap: warning: ignoring -m option without -b or -h"
    ]


def test_away_from_berkeley_db(run, place):
    (place / "main.cf").write_text(
        "compatibility_level = 3.6\nnon_bdb_migration_level = enable-redirect\n"
        "default_database_type = cdb\ndefault_cache_db_type = lmdb\n"
        "non_bdb_custom_mapping = inline:{hash:special=lmdb}\n"
    )
    code, _, err = run("-w", "hash:t")
    assert (code, err[0]) == (0, "postmap: redirecting hash:t to cdb:t")
    assert not (place / "t.db").exists()
    assert run("-q", "bob", "hash:t")[:2] == (0, b"two  words\n")
    assert run("-w", "t")[2] == WARNINGS
    if find_spec("lmdb"):
        (place / "special").write_text("a b\n")
        run("hash:special", "btree:t")
        assert (place / "special.lmdb").exists()
        assert (place / "t.lmdb").exists()
    (place / "main.cf").write_text(
        "compatibility_level = 3.6\nnon_bdb_migration_level = enable-reindex\ndefault_database_type = hash\n"
    )
    assert run("t")[2] == [
        "postmap: fatal: non_bdb migration mapping lookup error for 'hash': unexpected type 'hash'"
    ]


def test_the_newer_index_serves(place):
    for number, suffix in enumerate((".db", ".cdb"), 1):
        (place / "n").write_text(f"key {suffix}\n")
        assert main([f"{ {'.db': 'hash', '.cdb': 'cdb'}[suffix] }:n"]) == 0
        os.utime(place / f"n{suffix}", (1e9 + number, 1e9 + number))
    assert open_table("hash:n").find(b"key") == b".cdb"
    os.utime(place / "n.db", (2e9, 2e9))
    assert open_table("hash:n").find(b"key") == b".db"


def test_progress_is_shown_on_a_terminal(place):
    (place / "many").write_text("".join(f"key{number} {'v' * 30}\n" for number in range(45000)))
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "mtad.cli.main", "postmap", "-c", str(place), "hash:many"]
    subprocess.run(command, stderr=theirs, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "\rpostmap: [" in shown
    assert "40000 entries" in shown
    assert shown.endswith("\r\x1b[K")
