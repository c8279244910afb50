"""``ldap:`` against OpenLDAP's slapd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from live import table_kinds
from live.databases import Slapd, why_not
from live.lookups import fails, lookup

from mtad.tables import Table, open_table

pytestmark = pytest.mark.skipif(bool(why_not(Slapd, "ldap")), reason=why_not(Slapd, "ldap"))


@pytest.fixture(scope="module")
def server() -> Iterator[Slapd]:
    with Slapd() as slapd:
        assert isinstance(slapd, Slapd)
        yield slapd


@pytest.fixture
def table(server: Slapd, tmp_path: Path) -> Iterator[Table]:
    opened = opened_with(tmp_path, cf(server))
    yield opened
    opened.close()


def opened_with(directory: Path, text: str) -> Table:
    path = directory / "ldap.cf"
    path.write_text(text)
    return open_table(f"ldap:{path}")


VALUE = "joe@imap.example.com"


def cf(server: Slapd, hosts: str = "") -> str:
    hosts = hosts or f"127.0.0.1:{server.port}"
    return (
        f"server_host = {hosts}\nversion = 3\nsearch_base = dc=example,dc=com\ntimeout = 2\n"
        "bind_dn = cn=reader,dc=example,dc=com\nbind_pw = readpw\n"
        "query_filter = mail=%s\nresult_attribute = maildrop\n"
    )


def test_values(table: Table) -> None:
    assert lookup(table, "joe@example.com") == VALUE
    assert lookup(table, "jane@example.com") == "jane@imap.example.com,jane@backup.example.com"
    assert lookup(table, "*@example.com") == "star"
    assert lookup(table, "a(b)c\\d@example.com") == "paren"
    assert lookup(table, "joe*") is None
    assert lookup(table, "nodrop@example.com") is None


def test_killed_and_brought_back(server: Slapd, table: Table) -> None:
    table_kinds.check_killed_and_brought_back(server, table, VALUE)


def test_restart_between_lookups(server: Slapd, table: Table) -> None:
    table_kinds.check_restart_between(server, table, VALUE)


def test_killed_under_load(server: Slapd, table: Table) -> None:
    table_kinds.check_killed_under_load(server, table, VALUE, lambda: None)


def test_hanging(server: Slapd, table: Table) -> None:
    table_kinds.check_hanging(server, table, 15)


def test_another_host_takes_over(server: Slapd, tmp_path: Path) -> None:
    table = opened_with(tmp_path, cf(server, f"127.0.0.1:1, ldap://127.0.0.1:{server.port}"))
    assert lookup(table, "joe@example.com") == VALUE
    table.close()


def test_tls(server: Slapd, tmp_path: Path) -> None:
    demand = f"tls_require_cert = yes\ntls_ca_cert_file = {server.certificate}\n"
    for text in (
        cf(server) + "start_tls = yes\n" + demand,
        cf(server, f"ldaps://127.0.0.1:{server.tls_port}") + demand,
        cf(server, f"ldaps://127.0.0.1:{server.tls_port}"),
    ):
        table = opened_with(tmp_path, text)
        assert lookup(table, "joe@example.com") == VALUE
        table.close()
    for text in (
        cf(server) + "start_tls = yes\ntls_require_cert = yes\n",
        cf(server, f"ldaps://127.0.0.1:{server.tls_port}") + "tls_require_cert = yes\n",
    ):
        table = opened_with(tmp_path, text)
        assert fails(table, "joe@example.com")
        table.close()


def test_sasl(server: Slapd, tmp_path: Path) -> None:
    """EXTERNAL over the local socket gives root a name, under which it may read."""
    text = cf(server, server.url).replace("bind_dn = cn=reader,dc=example,dc=com\nbind_pw = readpw\n", "")
    table = opened_with(tmp_path, text + "bind = sasl\nsasl_mechs = EXTERNAL\n")
    assert lookup(table, "joe@example.com") == VALUE
    table.close()


def test_failures_tell_no_secret(server: Slapd, tmp_path: Path) -> None:
    table = opened_with(tmp_path, cf(server).replace("= readpw", "= notright"))
    text = fails(table, "joe@example.com")
    assert "Invalid credentials" in text
    assert "notright" not in text
    table.close()
