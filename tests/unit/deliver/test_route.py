"""Routes by class, relayhost and tables; logins."""

from __future__ import annotations

import pytest
from delivery_world import finish

from mtad.config.parameters import Parameters
from mtad.deliver.credentials import Login, PasswordMaps
from mtad.deliver.internal import split_dsn
from mtad.deliver.route import Route, Router
from mtad.errors import ConfigError
from mtad.rewrite.classes import AddressClasses


def route(address: str, sender: str = "", **settings: str) -> tuple[str, str]:
    values = {
        "myhostname": "mail.example.com",
        "mydestination": "local.test",
        "virtual_alias_domains": "alias.test",
        "virtual_mailbox_domains": "box.test",
        "virtual_mailbox_maps": "static:x",
        "relay_domains": "relay.test",
        "inet_interfaces": "127.0.0.1",
    }
    p = Parameters.from_mapping({**values, **settings})
    router = Router(p, AddressClasses(p))
    found: Route = finish(router.resolve(sender.encode(), address.encode()))
    known = router.known(address.encode())
    assert known is None or known == found
    return found.transport, found.nexthop


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("a@local.test", ("local", "mail.example.com")),
        ("a", ("local", "mail.example.com")),
        ("a@alias.test", ("error", "5.1.1 User unknown in virtual alias table")),
        ("a@box.test", ("virtual", "box.test")),
        ("a@relay.test", ("relay", "relay.test")),
        ("a@Far.Test", ("smtp", "Far.Test")),
        ("a@[192.0.2.1]", ("smtp", "[192.0.2.1]")),
    ],
)
def test_classes(address: str, expected: tuple[str, str]) -> None:
    destination = {"mydestination": "local.test, mail.example.com"}
    assert route(address, **destination) == expected


def test_relayhost_takes_relay_and_default_mail() -> None:
    hosts = "[a.test]:587, b.test"
    assert route("a@far.test", relayhost=hosts) == ("smtp", hosts)
    assert route("a@relay.test", relayhost=hosts) == ("relay", hosts)
    assert route("a@box.test", relayhost=hosts) == ("virtual", "box.test")
    assert route("a@far.test", relayhost=hosts, default_transport="smtp:[c.test]") == ("smtp", "[c.test]")


def test_tables_by_sender() -> None:
    settings = {
        "relayhost": "global.test",
        "sender_dependent_relayhost_maps": "inline:{me@x.test=[mine.test], @y.test=[y.test], z@x.test=DUNNO}",
        "empty_address_relayhost_maps_lookup_key": "<>",
    }
    assert route("a@far.test", "me@x.test", **settings) == ("smtp", "[mine.test]")
    assert route("a@far.test", "any@y.test", **settings) == ("smtp", "[y.test]")
    assert route("a@far.test", "z@x.test", **settings) == ("smtp", "global.test")
    assert route("a@far.test", "", **settings) == ("smtp", "global.test")
    settings["sender_dependent_default_transport_maps"] = "inline:{me@x.test=relay:[other.test]:26}"
    assert route("a@far.test", "me@x.test", **settings) == ("relay", "[other.test]:26")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("one@x.test", ("relay", "[one.test]")),
        ("one+ext@x.test", ("relay", "[one.test]")),
        ("two@x.test", ("relay", "x.test")),
        ("two@sub.x.test", ("smtp", "[sub.test]:26")),
        ("a@colon.test", ("smtp", "global.test")),
        ("a@far.test", ("smtp", "[star.test]")),
    ],
)
def test_transport_maps(address: str, expected: tuple[str, str]) -> None:
    table = (
        "inline:{one@x.test=relay:[one.test], x.test=relay:, .x.test=:[sub.test]:26, colon.test=:, "
        "*=smtp:[star.test]}"
    )
    assert route(address, transport_maps=table, recipient_delimiter="+", relayhost="global.test") == expected


LOGINS = "inline:{me@x.test=me:1, h.test=host:2:3, [h.test]:587=hop:4, n=nouser}"


def test_logins() -> None:
    def find(sender: bytes, host: str, nexthop: str, **settings: str) -> Login | None:
        p = Parameters.from_mapping(
            {
                "smtp_sasl_auth_enable": "yes",
                "smtp_sasl_password_maps": LOGINS,
                **settings,
            }
        )
        found: Login | None = finish(PasswordMaps(p).find(sender, host, nexthop))
        return found

    assert find(b"me@x.test", "h.test", "[h.test]:587") == Login(b"host", b"2:3")
    assert find(b"", "other", "[h.test]:587") == Login(b"hop", b"4")
    assert find(b"", "other", "h2.test") is None
    assert find(b"", "n", "") == Login(b"nouser", b"")
    by_sender = {"smtp_sender_dependent_authentication": "yes"}
    assert find(b"me@x.test", "h.test", "", **by_sender) == Login(b"me", b"1")
    assert find(b"", "h.test", "", **by_sender) == Login(b"host", b"2:3")
    assert "2:3" not in repr(Login(b"host", b"2:3"))
    p = Parameters.from_mapping(
        {"smtp_sasl_auth_enable": "yes", "smtp_sasl_password_maps": LOGINS, **by_sender}
    )
    assert finish(PasswordMaps(p, lmtp=True).find(b"me@x.test", "h.test", "")) == Login(b"host", b"2:3")


def test_a_login_needs_a_table() -> None:
    with pytest.raises(ConfigError):
        PasswordMaps(Parameters.from_mapping({"smtp_sasl_auth_enable": "yes"}))


def test_status_codes_in_routes() -> None:
    assert split_dsn("5.1.1 No such user", "5.0.0") == ("5.1.1", "No such user")
    assert split_dsn("no 5.1.1 here", "5.0.0") == ("5.0.0", "no 5.1.1 here")
    assert split_dsn("", "2.0.0") == ("2.0.0", "")
    assert split_dsn("  5.1.1  No such user", "5.0.0") == ("5.1.1", "No such user")
    assert split_dsn(" gone", "5.0.0") == ("5.0.0", "gone")
    assert split_dsn("5.1.1", "5.0.0") == ("5.1.1", "")
    assert split_dsn("5.1.1234 x", "5.0.0") == ("5.0.0", "5.1.1234 x")
