"""Fixtures of the tests of authentication: a user database, a log, an authenticator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from auth_support import Build
from twisted.internet.epollreactor import EPollReactor

from mtad.auth.authenticator import Authenticator
from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.tables.sasldb import SaslDb


@pytest.fixture
def sink() -> ListSink:
    return ListSink()


@pytest.fixture(scope="session")
def users(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sasldb2 with alice@mail.test and bob@example.com."""
    path = str(tmp_path_factory.mktemp("sasldb") / "sasldb2")
    db = SaslDb(path)
    db.set("alice", "mail.test", b"secret")
    db.set("bob", "example.com", b"pass word")
    db.set("carol", "x@y", b"pw")
    return path


@pytest.fixture
def reactor() -> Iterator[EPollReactor]:
    """A reactor of the test's own, turned by hand."""
    own = EPollReactor()
    yield own
    own.disconnectAll()


@pytest.fixture
def build(tmp_path: Path, users: str, sink: ListSink, reactor: EPollReactor) -> Build:
    """``build({smtpd.conf}, **main_cf)``."""

    def build(conf: dict[str, str] | None = None, **values: str) -> Authenticator:
        options = {"sasldb_path": users, **(conf or {})}
        (tmp_path / "smtpd.conf").write_text("".join(f"{key}: {value}\n" for key, value in options.items()))
        p = Parameters.from_mapping(
            {
                "myhostname": "mail.test",
                "cyrus_sasl_config_path": str(tmp_path),
                "queue_directory": str(tmp_path / "spool"),
                **values,
            }
        )
        return Authenticator.build(p, reactor, MailLog(sink, "postfix/smtpd"))

    return build
