"""Tables that ask servers: the installed ``postmap -q`` and ours, on the same ``.cf`` files and servers."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading

import pytest
from live.databases import ADDRESSES, MariaDb, Memcached, Postgres, Slapd, sql_rows, why_not

from mtad.cli import postmap as our_postmap

KEYS = [
    *(address for address, _, _ in ADDRESSES),
    *(address.upper() for address, _, _ in ADDRESSES[:8]),
    "joe@sub.example.com", "joe@", "@example.com", "joe", "@", "a@b@example.com", "nobody@example.com",
    "nobody", "x@a.b.c.d.e.f.g.h.i.j", "joe@example", "joe@.example.com", "joe@example.com.",
    "joe@example..com",
    "' OR '1'='1", "\\' OR 1=1 --", "a;b@example.com", 'quo"te@example.com', "two words@example.com",
    "%s@example.com", "$1@example.com", "100%", "(x)@example.com", "*", "*@example.com", "j*@example.com",
    "a(b)c\\d@example.com", "joe)(mail=*", "müller@example.com", "MÜLLER@example.com", "日本@example.com",
    "o'brien", "jd@example.com", "many@example.com", "group@example.com", "nested@example.com",
    "dangling@example.com", "terminal@example.com", "urls@example.com", "attrless@example.com",
    "impertinent@example.com", "lang@example.com", "nodrop@example.com", "joe,dc=example",
    "x" * 300 + "@example.com",
]  # fmt: skip

#: Before 3.8 and 3.9, Postfix's clients of SQL servers had other default character sets.
ASCII = [key for key in KEYS if key.isascii()]

#: Where a query template goes: the same for all databases.
SQL = {
    "plain": "query = SELECT value FROM addresses WHERE address='%s' ORDER BY number",
    "legacy": "table = addresses\nselect_field = value\nwhere_field = address\n"
    "additional_conditions = AND number < 7 ORDER BY number",
    "user": "query = SELECT value FROM addresses WHERE address='%u@%d' ORDER BY number",
    "upper": "query = SELECT value FROM addresses WHERE address='%U@%D' ORDER BY number",
    "labels": "query = SELECT '%1|%2|%3|' FROM addresses WHERE number=1",
    "local": "query = SELECT '<%u>' FROM addresses WHERE number=1",
    "format": "query = SELECT value FROM addresses WHERE address='%s' ORDER BY number\n"
    "result_format = smtp:[%d]:%u %S %U %D %% %1",
    "format_key": "query = SELECT value FROM addresses WHERE address='%s' ORDER BY number\n"
    "result_format = %s via %S",
    "domain": "query = SELECT value FROM addresses WHERE address='%s' ORDER BY number\n"
    "domain = example.com, inline:{example.org=x}, !mail.sub.example.org",
    "columns": "query = SELECT number, value, number FROM addresses WHERE address='%s' ORDER BY number",
    "numbers": "query = SELECT number * 1000000 FROM addresses WHERE address='%s' ORDER BY number",
    "percent": "query = SELECT value FROM addresses WHERE address='%s' AND '100%%' = '100%%' ORDER BY number",
    "like": "query = SELECT value FROM addresses WHERE address LIKE '%%@%d' AND number < 8 ORDER BY number\n"
    "expansion_limit = 7",
}


def postmap(*arguments: str, stdin: bytes = b"") -> tuple[int, bytes]:
    program = shutil.which("postmap", path=os.environ.get("PATH", "") + ":/usr/sbin")
    assert program is not None
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, timeout=120)
    if b"Is the postfix-" in done.stderr:
        pytest.skip(f"a package of Postfix is missing: {done.stderr.decode()}")
    return done.returncode, done.stdout


@pytest.fixture
def compare(tmp_path, monkeypatch, capfdbinary):
    """Ask both for all keys, by the same table."""
    if shutil.which("postmap", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("postmap is not installed")
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\n")
    os.utime(tmp_path / "main.cf", (1e9, 1e9))
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path))

    def ask(spec: str, keys: list[str] = KEYS) -> bytes:
        text = "".join(key + "\n" for key in keys).encode()
        theirs = postmap("-q", "-", spec, stdin=text)
        (tmp_path / "keys").write_bytes(text)
        with open(tmp_path / "keys") as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            capfdbinary.readouterr()
            code = our_postmap.main(["-q", "-", spec])
        ours = code, capfdbinary.readouterr().out
        assert ours == theirs, spec
        return theirs[1]

    def ask_cf(kind: str, text: str, keys: list[str] = KEYS) -> bytes:
        path = tmp_path / f"{kind}.cf"
        path.write_text(text + "\n")
        os.utime(path, (1e9, 1e9))  # Postfix waits for a file that may be being edited
        return ask(f"{kind}:{path}", keys)

    ask.cf = ask_cf
    return ask


def needs(server, module=""):
    reason = why_not(server, module)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def postgres():
    needs(Postgres, "psycopg")
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def mariadb():
    needs(MariaDb, "pymysql")
    with MariaDb() as server:
        yield server


@pytest.fixture(scope="module")
def slapd():
    needs(Slapd, "ldap")
    with Slapd() as server:
        yield server


@pytest.fixture(scope="module")
def memcached():
    needs(Memcached)
    with Memcached() as server:
        yield server


@pytest.mark.parametrize("name", SQL)
def test_sqlite(compare, tmp_path, name):
    path = tmp_path / "data"
    with sqlite3.connect(path) as database:
        database.executescript(sql_rows(lambda text: "'" + text.replace("'", "''") + "'"))
    database.close()
    assert compare.cf("sqlite", f"dbpath = {path}\n{SQL[name]}")


@pytest.mark.parametrize("name", SQL)
def test_pgsql(compare, postgres, name):
    login = f"hosts = 127.0.0.1:{postgres.port}\nuser = mail\npassword = secret\ndbname = mail\n"
    assert compare.cf("pgsql", login + SQL[name], ASCII)


@pytest.mark.parametrize(
    "text",
    [
        "dbname = mail\nselect_function = value_of",
        "dbname = mail\nquery = SELECT number > 3, number / 3.0, '2020-02-02'::date, NULL FROM addresses "
        "WHERE address='%s'",
        "dbname = mail\nencoding = LATIN1\n" + SQL["plain"],
        "dbname = mail\nquery = SELECT 1 WHERE false; SELECT value FROM addresses WHERE address='%s'",
    ],
)
def test_pgsql_more(compare, postgres, text):
    hosts = f"hosts = unix:{postgres.root}/data inet:127.0.0.1:1\nuser = admin\n"
    # a socket's name depends on the port
    os.environ["PGPORT"] = str(postgres.port)
    try:
        compare.cf("pgsql", hosts + text, ASCII)
    finally:
        del os.environ["PGPORT"]


@pytest.mark.parametrize("name", SQL)
def test_mysql(compare, mariadb, name):
    login = f"hosts = 127.0.0.1:{mariadb.port}\nuser = mail\npassword = secret\ndbname = mail\n"
    assert compare.cf("mysql", login + SQL[name], ASCII)


@pytest.mark.parametrize(
    "text",
    [
        "query = CALL twice()",
        "query = CALL nothing()\nrequire_result_set = no",
        "query = CALL nothing()",
        "query = CALL two()",
        "query = SELECT number > 3, number / 3, DATE '2020-02-02', NULL, X'41' FROM addresses "
        "WHERE address='%s'",
        'query = SELECT "%s" FROM addresses WHERE number = 1',
    ],
)
def test_mysql_more(compare, mariadb, text):
    login = f"hosts = unix:{mariadb.socket}\nuser = mail\npassword = secret\ndbname = mail\n"
    compare.cf("mysql", login + text, ["joe@example.com"] if "CALL" in text else ASCII)


LDAP = {
    "plain": "query_filter = mail=%s\nresult_attribute = maildrop",
    "user": "query_filter = (&(cn=%u)(mail=*@%d))\nresult_attribute = maildrop mail",
    "default": "query_filter = (|(mailacceptinggeneralid=%u)(mail=%s))",
    "base": "search_base = cn=%u,dc=example,dc=com\nscope = base\nquery_filter = mail=%s\n"
    "result_attribute = maildrop",
    "one": "scope = one\nquery_filter = mail=%s\nresult_attribute = cn, sn",
    "dn_base": "search_base = dc=%2,dc=%1\nquery_filter = mail=%s\nresult_attribute = maildrop",
    "format": "query_filter = mail=%s\nresult_attribute = maildrop\nresult_format = [%d] %u %S %1",
    "filter": "query_filter = mail=%s\nresult_attribute = maildrop\nresult_filter = <%s>",
    "domain": "query_filter = mail=%s\nresult_attribute = maildrop\ndomain = example.com",
    "special": "query_filter = mail=%s\nresult_attribute = maildrop\n"
    "special_result_attribute = member, memberurl",
    "leaf": "query_filter = mail=%s\nresult_attribute =\nleaf_result_attribute = mail\n"
    "special_result_attribute = member memberurl",
    "terminal": "query_filter = mail=%s\nresult_attribute =\nterminal_result_attribute = maildrop\n"
    "leaf_result_attribute = mail\nspecial_result_attribute = member",
    "options": "query_filter = mail=%s\nresult_attribute = description",
    "subtype": "query_filter = mail=%s\nresult_attribute = description;lang-en",
    "nobind": "query_filter = mail=%s\nresult_attribute = maildrop\nbind = no\nbind_dn =",
    "limits": "query_filter = mail=%s\nresult_attribute = maildrop\nsize_limit = 7\nexpansion_limit = 9",
}


def ldap_cf(slapd, text):
    head = (
        f"server_host = 127.0.0.1\nserver_port = {slapd.port}\nversion = 3\nsearch_base = dc=example,dc=com\n"
    )
    return head + "bind_dn = cn=reader,dc=example,dc=com\nbind_pw = readpw\n" + text


@pytest.mark.parametrize("name", LDAP)
def test_ldap(compare, slapd, name):
    compare.cf("ldap", ldap_cf(slapd, LDAP[name]))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("version = 2", "joe@example.com"),
        ("bind_pw = wrong", "joe@example.com"),
        ("search_base = dc=nowhere", "joe@example.com"),
        ("query_filter = (broken=%s", "joe@example.com"),
        ("expansion_limit = 1", "jane@example.com"),
        ("size_limit = 2", "many@example.com"),
        ("special_result_attribute = member\nrecursion_limit = 3", "loop@example.com"),
        ("special_result_attribute = memberurl", "badurl@example.com"),
        ("server_host = ldap://127.0.0.1:1", "joe@example.com"),
        ("start_tls = yes\ntls_require_cert = yes\ntls_ca_cert_file = /etc/passwd", "joe@example.com"),
    ],
)
def test_ldap_failures(compare, slapd, text, key):
    head = ldap_cf(slapd, "query_filter = mail=%s\nresult_attribute = maildrop\n")
    assert compare.cf("ldap", head + text, [key]) == b""


@pytest.mark.parametrize(
    "text",
    [
        "server_host = 127.0.0.1:1 127.0.0.1:{port}",
        "server_host = ldap://127.0.0.1:1 ldap://127.0.0.1:{port}",
        "server_host = {url}",
        "start_tls = yes",
        "start_tls = yes\ntls_require_cert = yes\ntls_ca_cert_file = {certificate}",
        "server_host = ldaps://127.0.0.1:{tls_port}\n"
        "tls_require_cert = yes\ntls_ca_cert_file = {certificate}",
        "server_host = ldaps://127.0.0.1:{tls_port}\ntls_cipher_suite = SECURE256",
        "server_host = {url}\nbind = sasl\nsasl_mechs = EXTERNAL\nbind_dn =\nbind_pw =",
    ],
)
def test_ldap_connections(compare, slapd, text):
    text = text.format(port=slapd.port, url=slapd.url, tls_port=slapd.tls_port, certificate=slapd.certificate)
    found = compare.cf(
        "ldap", ldap_cf(slapd, LDAP["plain"] + "\n" + text), ["joe@example.com", "no@example.com"]
    )
    assert found == (b"joe@example.com\tjoe@imap.example.com\n" if "EXTERNAL" not in text else found)


def test_main_cf_has_the_settings(compare, slapd, tmp_path):
    """The old form: ``ldap:name`` with ``name_server_host`` and the others in main.cf."""
    text = ldap_cf(slapd, "query_filter = mail=%s\nresult_attribute = $drop\n").strip()
    lines = ["accounts_" + line for line in text.split("\n")]
    (tmp_path / "main.cf").write_text(
        "compatibility_level = 3.6\ndrop = maildrop\n" + "\n".join(lines) + "\n"
    )
    os.utime(tmp_path / "main.cf", (1e9, 1e9))
    assert compare("ldap:accounts", ["joe@example.com", "jane@example.com"])


def test_memcache(compare, memcached, tmp_path):
    memcached.set(b"joe@example.com", b"cached value")
    memcached.set(b"p:example.com:jane", b"formatted")
    memcached.set(b"long", b"x" * 20000)
    server = f"memcache = inet:127.0.0.1:{memcached.port}\n"
    assert compare.cf("memcache", server, ["joe@example.com", "JOE@example.com", "nobody", "two words", "@"])
    assert compare.cf(
        "memcache", server + "key_format = p:%d:%u", ["jane@example.com", "jane", "@example.com"]
    )
    assert compare.cf("memcache", server + "retry_pause = 1", ["long"]) == b""
    backup = "backup = inline:{{a@b.c=from backup}, d@e.f=too}\nttl = 5\n"
    assert compare.cf("memcache", server + backup, ["A@b.c", "d@e.f", "x", "joe@example.com"])
    assert memcached.ask(b"get a@b.c").startswith(b"VALUE a@b.c 0 11\r\nfrom backup\r\n")
    assert (
        compare.cf("memcache", "memcache = inet:127.0.0.1:1\n" + backup, ["a@b.c", "x"])
        == b"a@b.c\tfrom backup\n"
    )
    assert compare.cf("memcache", server + "domain = example.com", ["joe@example.com", "a@b.c", "joe"])


class Answers:
    """A server that answers each request by a function, until the connection ends."""

    def __init__(self, reply):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._reply = reply
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection):
        with connection, connection.makefile("rb") as stream:
            while (answer := self._reply(stream)) is not None:
                connection.sendall(answer)


def socketmap_reply(stream):
    size = b""
    while (digit := stream.read(1)) not in (b":", b""):
        size += digit
    if not size:
        return None
    name, _, key = stream.read(int(size) + 1)[:-1].partition(b" ")
    answers = {
        b"joe": b"OK joe's value",
        b"none": b"NOTFOUND ",
        b"space": b"OK  a b ",
        b"name": b"OK " + name,
    }
    answer = answers.get(key, b"NOTFOUND")
    return b"%d:%b," % (len(answer), answer)


def test_socketmap(compare):
    port = Answers(socketmap_reply).port
    keys = ["joe", "JOE", "none", "space", "name", "joe@example.com", "x" * 5000, "a b"]
    assert compare(f"socketmap:inet:127.0.0.1:{port}:themap", keys)


def tcp_reply(stream):
    line = stream.readline()
    if not line:
        return None
    answers = {
        b"joe": b"200 value%20of%20joe",
        b"plain": b"200 a b%25",
        b"two%20words": b"200 blank",
        b"%25": b"200 per%63ent",
        b"m%C3%BCller": b"200 m%c3%bcller",
        b"none": b"500 no such thing",
        b"tab": b"200\ttabbed",
    }
    return answers.get(line[4:].rstrip(b"\n"), b"500 unknown") + b"\n"


def test_tcp(compare):
    port = Answers(tcp_reply).port
    assert compare(
        f"tcp:127.0.0.1:{port}", ["joe", "JOE", "plain", "two words", "%", "müller", "none", "tab"]
    )


@pytest.mark.parametrize(
    "reply", [b"400 later\n", b"nonsense\n", b"200 bad%zz\n", b"300 what\n", b"2000 long\n"]
)
def test_tcp_failures(compare, reply):
    port = Answers(lambda stream: reply if stream.readline() else None).port
    assert compare(f"tcp:127.0.0.1:{port}", ["joe"]) == b""


@pytest.mark.parametrize(
    "reply",
    [b"4:TEMP,", b"9:PERM oops,", b"7:WHAT x!,", b"12:TIMEOUT late,", b"x:OK,", b"4:OK x;", b"9999999:OK x"],
)
def test_socketmap_failures(compare, reply):
    def answer(stream):
        return reply if stream.read1(100) else None

    assert compare(f"socketmap:inet:127.0.0.1:{Answers(answer).port}:m", ["joe"]) == b""


def test_randmap(compare):
    assert compare("randmap:{same, same,same}", ["a", "b", ""])
    assert compare("randmap:{{same thing}}", ["a"]) == b"a\t{same thing}\n"
