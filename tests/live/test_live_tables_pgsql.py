"""``pgsql:`` against PostgreSQL."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import table_kinds
from live.daemon import Mtad
from live.databases import ADDRESSES, Postgres, why_not
from live.lookups import fails, lookup

from mtad.errors import ConfigError
from mtad.tables import Table, open_table

pytestmark = pytest.mark.skipif(bool(why_not(Postgres, "psycopg")), reason=why_not(Postgres, "psycopg"))

QUERY = "query = SELECT value FROM addresses WHERE address='%s' ORDER BY number\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as postgres:
        assert isinstance(postgres, Postgres)
        yield postgres


@pytest.fixture
def table(server: Postgres, tmp_path: Path) -> Iterator[Table]:
    opened = opened_with(tmp_path, cf(server))
    yield opened
    opened.close()


def cf(server: Postgres, hosts: str = "") -> str:
    hosts = hosts or f"127.0.0.1:{server.port}"
    return f"hosts = {hosts}\nuser = mail\npassword = secret\ndbname = mail\nretry_interval = 1\n" + QUERY


def opened_with(directory: Path, text: str) -> Table:
    path = directory / "pgsql.cf"
    path.write_text(text)
    return open_table(f"pgsql:{path}")


def test_all_values(table: Table) -> None:
    for address, _, _ in ADDRESSES:
        values = [value for key, value, _ in ADDRESSES if key == address and value]
        assert lookup(table, address) == (",".join(values) or None), address
    assert lookup(table, "' OR ''='") is None


def test_killed_and_brought_back(server: Postgres, table: Table) -> None:
    table_kinds.check_killed_and_brought_back(server, table, "joe@imap.example.com")


def test_restart_between_lookups(server: Postgres, table: Table) -> None:
    table_kinds.check_restart_between(server, table, "joe@imap.example.com")


def test_killed_under_load(server: Postgres, table: Table) -> None:
    table_kinds.check_killed_under_load(server, table, "joe@imap.example.com", lambda: None)


def test_hanging(server: Postgres, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtad.tables.pgsql.QUERY_TIMEOUT", 1)
    monkeypatch.setattr("mtad.tables.pgsql.CONNECT_TIMEOUT", 2)
    table_kinds.check_hanging(server, table, 15)


def test_another_host_takes_over(server: Postgres, tmp_path: Path) -> None:
    dead = "127.0.0.1:1 unix:/nonexistent"
    table = opened_with(tmp_path, cf(server, f"{dead} inet:127.0.0.1:{server.port}"))
    for _ in range(5):
        assert lookup(table, "joe@example.com") == "joe@imap.example.com"
    table.close()


def test_uri(server: Postgres, tmp_path: Path) -> None:
    uri = f"postgresql://mail:secret@127.0.0.1:{server.port}/mail?sslmode=prefer"
    table = opened_with(tmp_path, f"hosts = {uri}\n{QUERY}")
    assert lookup(table, "joe@example.com") == "joe@imap.example.com"
    table.close()


def test_failures_tell_no_secret(server: Postgres, tmp_path: Path) -> None:
    warnings: list[str] = []
    path = tmp_path / "x.cf"
    path.write_text(cf(server).replace("= secret", "= notright"))
    table = open_table(f"pgsql:{path}", warn=warnings.append)
    text = fails(table, "joe@example.com") + "".join(warnings)
    assert "authentication failed" in text
    assert "notright" not in text
    table.close()
    path.write_text(f"hosts = postgresql://mail:notright@127.0.0.1:{server.port}/mail\n{QUERY}")
    table = open_table(f"pgsql:{path}", warn=warnings.append)
    assert "notright" not in fails(table, "joe@example.com") + "".join(warnings)
    table.close()


def test_a_broken_query_fails(server: Postgres, tmp_path: Path) -> None:
    table = opened_with(tmp_path, cf(server).replace("addresses", "nosuchtable"))
    assert 'relation "nosuchtable" does not exist' in fails(table, "joe@example.com")
    table.close()
    with pytest.raises(ConfigError, match="requires dbname"):
        opened_with(tmp_path, cf(server).replace("dbname = mail", ""))


def test_expansion_limit(server: Postgres, tmp_path: Path) -> None:
    table = opened_with(tmp_path, cf(server) + "expansion_limit = 1\n")
    assert lookup(table, "joe@example.com") == "joe@imap.example.com"
    assert "Expansion limit exceeded" in fails(table, "list@example.com")
    table.close()


def test_a_client_gets_451_while_the_server_is_away(server: Postgres) -> None:
    """The whole daemon: recipients by table; a dead server is a temporary failure, where it is asked."""
    access = cf(server).replace(QUERY, "query = SELECT 'OK' FROM addresses WHERE address='%s' LIMIT 1\n")
    main_cf = {
        "recipients": "check_recipient_access proxy:pgsql:{dir}/rcpt.cf, reject",
        "smtpd_relay_restrictions": "check_recipient_access inline:{free@example.com=OK}, $recipients",
        "smtpd_recipient_restrictions": "",
    }
    with Mtad(main_cf, files={"rcpt.cf": access}) as mtad:

        def replies(*recipients: str) -> list[int]:
            with smtplib.SMTP("127.0.0.1", mtad.ports["submission"]) as client:
                client.ehlo("me")
                client.mail("a@example.com")
                return [client.rcpt(recipient)[0] for recipient in recipients]

        asked = ("joe@example.com", "nobody@example.com", "free@example.com")
        assert replies(*asked) == [250, 554, 250]
        server.kill()
        try:
            assert replies(*asked) == [451, 451, 250]
        finally:
            server.start()
        for _ in range(100):
            if replies(*asked) == [250, 554, 250]:
                break
        else:
            raise AssertionError(mtad.log())
        assert "password" not in mtad.log()
