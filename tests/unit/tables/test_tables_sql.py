"""``sqlite:``, and what of the other SQL tables needs no server; ``randmap:``; ``proxy:``."""

import sqlite3
import sys

import pytest

from mtad.errors import ConfigError, TableError
from mtad.tables import open_table
from mtad.tables.mysql import _address as mysql_address
from mtad.tables.pgsql import _address as pgsql_address
from mtad.tables.servers import INET, UNIX, URI, Address


def ask(table, key):
    waiting = table.lookup(key)
    try:
        waiting.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("waits")


@pytest.fixture
def database(tmp_path):
    with sqlite3.connect(tmp_path / "db") as connection:
        connection.executescript(
            "CREATE TABLE t (k, v, n INTEGER);"
            "INSERT INTO t VALUES ('a@b.c', 'x', 1), ('a@b.c', 'y@z', 2), ('o''b', 'q', 3),"
            "('null', NULL, 4), ('number', 5, 5),"
            "('real', 1.5, 6), ('blob', x'6162', 7), ('empty', '', 8), ('ü', 'ö', 9);"
        )
    connection.close()
    return tmp_path


@pytest.fixture
def opened(database):
    tables, warnings = [], []

    def make(text, kind="sqlite"):
        path = database / "t.cf"
        path.write_text(f"dbpath = {database}/db\n{text}\n")
        tables.append(open_table(f"{kind}:{path}", str(database), warn=warnings.append))
        return tables[-1]

    make.warnings = warnings
    yield make
    for table in tables:
        table.close()


QUERY = "query = SELECT v, n FROM t WHERE k='%s' ORDER BY n"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"A@b.c", b"x,y@z"),
        (b"O'B", b"q"),
        (b"null", None),
        (b"number", b"5"),
        (b"real", b"1.5"),
        (b"blob", b"ab"),
        (b"empty", None),
        ("Ü".encode(), "ö".encode()),
        (b"nobody", None),
        (b"' OR ''='", None),
        (b"nul\0key", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_sqlite(opened, key, value):
    assert ask(opened(QUERY), key) == value


def test_sqlite_settings(opened):
    legacy = "table = t\nselect_field = v\nwhere_field = k\nadditional_conditions = AND n > 1\n"
    assert ask(opened(legacy), b"a@b.c") == b"y@z"
    assert ask(opened(legacy + "result_format = %d/%U"), b"a@b.c") == b"z/a"
    assert ask(opened(legacy + "domain = other"), b"a@b.c") is None
    assert ask(opened(legacy + "domain = inline:{b.c=1}"), b"a@b.c") == b"y@z"
    with pytest.raises(TableError):
        ask(opened(legacy + "domain = fail:x"), b"a@b.c")
    with pytest.raises(TableError, match="Expansion limit exceeded"):
        ask(opened(QUERY + "\nexpansion_limit = 1"), b"a@b.c")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("table = t\nselect_field = v", "'where_field' parameter not defined"),
        ("query = %x", "Invalid query template"),
        (QUERY + "\nresult_format =", "bad string length 0 < 1: result_format"),
        (QUERY + "\nexpansion_limit = many", "bad numerical configuration"),
    ],
)
def test_sqlite_bad_settings(opened, text, words):
    with pytest.raises(ConfigError, match=words):
        opened(text)


def test_sqlite_never_writes(opened, database):
    with pytest.raises(TableError, match="readonly"):
        ask(opened("query = DELETE FROM t WHERE k='%s'"), b"a@b.c")
    with pytest.raises(TableError, match="no such table"):
        ask(opened("query = SELECT x FROM nosuch WHERE k='%s'"), b"a@b.c")
    (database / "db").unlink()
    with pytest.raises(TableError, match="open database"):
        opened(QUERY + "\n# again")
    assert not (database / "db").exists()


def test_sqlite_unquoted_template(opened):
    opened("query = SELECT v FROM t WHERE n=%u AND k='%s' AND '%%' <> '%d'")
    assert len(opened.warnings) == 1
    assert "contains >%u< without the recommended '' quotes" in opened.warnings[0]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("unix:/run/pg", Address(UNIX, "/run/pg")),
        ("/run/pg", Address(UNIX, "/run/pg")),
        ("inet:h:5433", Address(INET, "h", "5433")),
        ("h", Address(INET, "h")),
        ("postgresql://u:p@h/db?x=y", Address(URI, "postgresql://u:p@h/db?x=y")),
    ],
)
def test_pgsql_hosts(host, address):
    assert pgsql_address(host) == address


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("unix:/run/my", Address(UNIX, "/run/my")),
        ("inet:h:3307", Address(INET, "h", "3307")),
        ("h", Address(INET, "h")),
        ("h:smtp", Address(INET, "h", "25")),
        ("localhost", Address(UNIX, "")),
        ("inet:LocalHost:3307", Address(UNIX, "")),
    ],
)
def test_mysql_hosts(host, address):
    assert mysql_address(host, None) == address


@pytest.mark.parametrize(("kind", "module"), [("pgsql", "psycopg"), ("mysql", "pymysql"), ("ldap", "ldap")])
def test_a_missing_package_is_named(opened, monkeypatch, kind, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"unsupported dictionary type: {kind}") as caught:
        opened(QUERY, kind)
    assert f"mtad[{kind}]" in caught.value.remedy


def test_randmap():
    table = open_table("randmap:{a, b {c d}}")
    assert {ask(table, b"x") for _ in range(200)} == {b"a", b"b", b"{c d}"}
    assert not table.fixed_key
    for bad in ("randmap:{}", "randmap:x", "randmap:{a", "randmap:{ }"):
        with pytest.raises(ConfigError, match=r'need "randmap:\{value\.\.\.\}"'):
            open_table(bad)


def test_proxy(tmp_path):
    (tmp_path / "list").write_text("proxy:static:listed\n# proxy:static:comment\n")
    (tmp_path / "main.cf").write_text(
        "virtual_alias_maps = proxy:inline:{a=b}, unionmap:{proxy:static:u, static:not}\n"
        f"mydestination = {tmp_path}/list, !static:other\n"
        "smtpd_restriction_classes = mine\nmine = check_client_access { proxy:static:cls }, reject\n"
        "smtpd_recipient_restrictions = check_recipient_access {proxy:static:braced default=x}\n"
    )

    def opens(spec):
        try:
            open_table(spec, str(tmp_path)).close()
        except ConfigError as error:
            assert "proxymap service is not configured for table" in str(error)
            assert "proxy_read_maps" in error.remedy
            return False
        return True

    for allowed in (
        "inline:{a=b}",
        "proxy:inline:{a=b}",
        "static:u",
        "static:listed",
        "static:cls",
        "static:braced",
    ):
        assert opens("proxy:" + allowed), allowed
    for denied in ("static:not", "static:other", "static:comment", "inline:{a=c}", "hash:/etc/shadow"):
        assert not opens("proxy:" + denied), denied
    (tmp_path / "main.cf").write_text("proxy_read_maps = proxy:static:only\n")
    assert opens("proxy:static:only")
    assert not opens("proxy:inline:{a=b}")
