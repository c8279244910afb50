"""Logging in to servers: who is believed, and what is not tried twice."""

from __future__ import annotations

import pytest
from delivery_world import World

from mtad.deliver.auth_cache import RefusedLogins
from mtad.deliver.credentials import Login
from mtad.wire.server_reply import ServerReply

LOGIN = {
    "smtp_sasl_auth_enable": "yes",
    "smtp_sasl_security_options": "noanonymous",
    "smtp_sasl_password_maps": "static:user:secret",
}


@pytest.mark.parametrize(("mechanism", "believed"), [(b"SCRAM-SHA-256", False), (b"PLAIN", True)])
def test_a_server_that_proves_nothing_is_not_believed(mechanism: bytes, believed: bool) -> None:
    world = World(**LOGIN)
    world.server(extensions=(b"AUTH " + mechanism,), auth=b"235 2.7.0 ok\r\n")
    world.submit("Q1", b"you@dest.test")
    world.run()
    if believed:
        assert "status=sent" in world.log("Q1")[1]
    else:
        assert world.log("Q1")[1].endswith(
            "dsn=4.7.0, status=deferred (SASL authentication failed; cannot authenticate to server "
            "192.0.2.1[192.0.2.1]: server failed mutual authentication step)"
        )


@pytest.mark.parametrize("soft", ["yes", "no"])
def test_a_refused_login_is_not_tried_again(soft: str) -> None:
    world = World(
        **LOGIN, smtp_sasl_auth_cache_name="proxy:btree:/nonexistent", smtp_sasl_auth_soft_bounce=soft
    )
    server = world.server(extensions=(b"AUTH PLAIN",), auth=b"535 5.7.8 bad\r\n")
    for name in ("Q1", "Q2"):
        world.submit(name, b"you@dest.test", sender=b"")
        world.run()
    status = "dsn=4.7.8, status=deferred" if soft == "yes" else "dsn=5.7.8, status=bounced"
    for name, words in (
        ("Q1", f"{status} (SASL authentication failed; server 192.0.2.1[192.0.2.1] said: 535 5.7.8 bad)"),
        ("Q2", f"{status} (SASL [CACHED] authentication failed; server 192.0.2.1 said: 535 5.7.8 bad)"),
    ):
        assert any(line.endswith(words) for line in world.log(name)), world.log(name)
    assert sum(command.startswith(b"AUTH") for command in server.commands) <= 1


def test_what_is_remembered() -> None:
    time = [0.0]
    refused = RefusedLogins(60, lambda: time[0])
    login, reply = Login(b"user", b"secret"), ServerReply(535, b"5.7.8", (b"535 bad",))
    refused.note("host", login, ServerReply(454, b"4.7.0", (b"454 later",)))
    assert refused.find("host", login) is None
    refused.note("host", login, reply)
    assert refused.find("host", login) is reply
    assert refused.find("other", login) is None
    assert refused.find("host", Login(b"other", b"secret")) is None
    time[0] = 59
    assert refused.find("host", login) is reply
    time[0] = 60
    assert refused.find("host", login) is None
    refused.note("host", login, reply)
    assert refused.find("host", Login(b"user", b"a new one")) is None
    assert refused.find("host", login) is None
    assert "secret" not in repr(vars(refused))
