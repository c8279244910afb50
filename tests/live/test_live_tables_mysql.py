"""``mysql:`` against MariaDB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from live import table_kinds
from live.databases import ADDRESSES, MariaDb, why_not
from live.lookups import fails, lookup

from mtad.tables import Table, open_table

pytestmark = pytest.mark.skipif(bool(why_not(MariaDb, "pymysql")), reason=why_not(MariaDb, "pymysql"))


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDb]:
    with MariaDb() as mariadb:
        assert isinstance(mariadb, MariaDb)
        yield mariadb


@pytest.fixture
def table(server: MariaDb, tmp_path: Path) -> Iterator[Table]:
    opened = opened_with(tmp_path, cf(server))
    yield opened
    opened.close()


def opened_with(directory: Path, text: str) -> Table:
    path = directory / "mysql.cf"
    path.write_text(text)
    return open_table(f"mysql:{path}")


QUERY = "query = SELECT value FROM addresses WHERE address='%s' ORDER BY number\n"
VALUE = "joe@imap.example.com"


def cf(server: MariaDb, hosts: str = "") -> str:
    hosts = hosts or f"127.0.0.1:{server.port}"
    return f"hosts = {hosts}\nuser = mail\npassword = secret\ndbname = mail\nretry_interval = 1\n" + QUERY


def test_all_values(table: Table) -> None:
    for address, _, _ in ADDRESSES:
        values = [value for key, value, _ in ADDRESSES if key == address and value]
        assert lookup(table, address) == (",".join(values) or None), address
    assert lookup(table, "' OR ''='") is None
    assert lookup(table, "\\' OR 1=1 -- ") is None


def test_killed_and_brought_back(server: MariaDb, table: Table) -> None:
    table_kinds.check_killed_and_brought_back(server, table, VALUE)


def test_restart_between_lookups(server: MariaDb, table: Table) -> None:
    table_kinds.check_restart_between(server, table, VALUE)


def test_killed_under_load(server: MariaDb, table: Table) -> None:
    table_kinds.check_killed_under_load(server, table, VALUE, lambda: None)


def test_hanging(server: MariaDb, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtad.tables.mysql.QUERY_TIMEOUT", 1)
    monkeypatch.setattr("mtad.tables.mysql.CONNECT_TIMEOUT", 2)
    table_kinds.check_hanging(server, table, 15)


def test_backslashes_that_mean_nothing(server: MariaDb, tmp_path: Path) -> None:
    """The driver's quoting follows the server's mode."""
    server.sql("SET GLOBAL sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES')")
    table = opened_with(tmp_path, cf(server) + "# another mode\n")
    try:
        assert lookup(table, '"back\\slash"@example.com') == "backslash"
        assert lookup(table, "o'brien@example.com") == "obrien"
        assert lookup(table, "\\' OR 1=1 -- ") is None
    finally:
        server.sql("SET GLOBAL sql_mode = DEFAULT")
        table.close()


def test_another_host_takes_over(server: MariaDb, tmp_path: Path) -> None:
    table = opened_with(tmp_path, cf(server, f"127.0.0.1:1 unix:/nonexistent unix:{server.socket}"))
    for _ in range(5):
        assert lookup(table, "joe@example.com") == VALUE
    table.close()


def test_result_sets(server: MariaDb, tmp_path: Path) -> None:
    for procedure, settings, words in [
        ("two", "", "multiple result sets"),
        ("nothing", "", "no result set"),
        ("nothing", "require_result_set = no\n", ""),
    ]:
        table = opened_with(tmp_path, cf(server).replace(QUERY, f"query = CALL {procedure}()\n{settings}"))
        if words:
            assert words in fails(table, "x")
        else:
            assert lookup(table, "x") is None
        table.close()


def test_an_option_file(server: MariaDb, tmp_path: Path) -> None:
    (tmp_path / "my.cnf").write_text("[client]\nuser = mail\npassword = secret\n")
    text = f"hosts = 127.0.0.1:{server.port}\ndbname = mail\noption_file = {tmp_path}/my.cnf\n{QUERY}"
    table = opened_with(tmp_path, text)
    assert lookup(table, "joe@example.com") == VALUE
    table.close()


def test_failures_tell_no_secret(server: MariaDb, tmp_path: Path) -> None:
    table = opened_with(tmp_path, cf(server).replace("= secret", "= notright"))
    text = fails(table, "joe@example.com")
    assert "Access denied" in text
    assert "notright" not in text
    table.close()


def test_tls_is_demanded(server: MariaDb, tmp_path: Path) -> None:
    """This server has none."""
    table = opened_with(tmp_path, cf(server) + "tls_verify_cert = yes\n")
    assert "SSL" in fails(table, "joe@example.com")
    table.close()
