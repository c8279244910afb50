"""Who a client is, what it is granted, and how it is refused."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.net.drive import drive
from mtad.policy.request import Request
from mtad.smtpd import wishes
from mtad.smtpd.clients import ClientRules
from mtad.smtpd.commands import CommandFilter, command_list
from mtad.smtpd.identity import Forwarded, become
from mtad.smtpd.refusals import Refusals, soft, with_footer
from mtad.smtpd.settings import read_settings
from mtad.smtpd.stress import Stress
from mtad.wire.address import from_text
from mtad.wire.extensions import Wishes
from mtad.wire.reply import Reply
from mtad.wire.settings import ServerSettings

T = TypeVar("T")
NO = Reply(550, b"no", b"5.1.1")


def parameters(**values: str) -> Parameters:
    return Parameters.from_mapping({"myhostname": "mail.example.com", "mynetworks": "127.0.0.0/8", **values})


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that does not wait."""
    found: list[T] = []
    assert drive(coroutine, found.append, lambda failure: failure.raiseException())
    return found[0]


# -- replies


def test_soft_bounce() -> None:
    assert soft(NO) == Reply(450, b"no", b"4.1.1")
    assert soft(Reply(554, b"no")) == Reply(454, b"no")
    assert soft(Reply(450, b"no", b"4.1.1")) == Reply(450, b"no", b"4.1.1")


def test_footers() -> None:
    assert with_footer(NO, ["a", "b"]).encode() == b"550-5.1.1 no\r\n550-5.1.1 a\r\n550 5.1.1 b\r\n"
    assert with_footer(NO, ["\\c. a", "b"]).encode() == b"550-5.1.1 no. a\r\n550 5.1.1 b\r\n"
    assert with_footer(Reply(421, b"x"), ["a"]).encode() == b"421-x\r\n421 a\r\n"


def changed(reply: Reply, request: Request | None = None, **values: str) -> tuple[Reply, list[str]]:
    sink = ListSink()
    refusals = Refusals(parameters(**values), MailLog(sink, "postfix/smtpd"))
    last = from_text(b"last@x.example")
    return run(refusals.changed(reply, request or Request(), last)), [text for _, _, text in sink.lines]


def test_names_in_footers_are_made_harmless() -> None:
    request = Request(client_name="a.example", client_address="192.0.2.1", helo=b"x")
    request.sender = from_text(b"a\nb@x.example")
    text = "$client $helo_name $sender ${recipient_name} $$ $none"
    reply, log = changed(NO, request, smtpd_reject_footer=text)
    assert reply.text == b"no\na.example[192.0.2.1] x a_b@x.example last $ "
    assert log == ['warning: unknown macro name "none" in expansion request']
    assert request.recipient is None


def test_footer_with_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: f"<{form}>")
    reply, _ = changed(NO, smtpd_reject_footer="at $localtime")
    assert reply.text == b"no\nat <%b %d %H:%M:%S>"


def test_the_reject_filter() -> None:
    tables = "regexp:{{/^550/ 450 4.1.1 later}, {/^551/ 250 yes}, {/^552/ 452 5.1.1 y}}"
    reply, log = changed(NO, smtpd_reject_filter_maps=tables)
    assert reply == Reply(450, b"later", b"4.1.1")
    assert log == ["NOQUEUE: reply filter in: 550 5.1.1 no", "NOQUEUE: reply filter out: 450 4.1.1 later"]
    for code, answer in ((551, "250 yes"), (552, "452 5.1.1 y")):
        reply, log = changed(Reply(code, b"x"), smtpd_reject_filter_maps=tables)
        assert reply == Reply(code, b"x")
        assert log == [f"warning: NOQUEUE: ignoring invalid reject filter result: {answer}"]


# -- commands


def test_lists_of_commands() -> None:
    usual = command_list(parameters(), "smtpd_forbidden_commands")
    assert [usual(verb) for verb in (b"get", b"CONNECT", b"1", b"FOO")] == [True, True, True, False]
    own = command_list(
        parameters(smtpd_forbidden_commands="!GET, TRACE, regexp:{{/^P/ x}}, texthash:/none"),
        "smtpd_forbidden_commands",
    )
    assert [own(verb) for verb in (b"GET", b"trace", b"put", b"CONNECT")] == [False, True, True, False]
    none = command_list(parameters(), "smtpd_noop_commands")
    assert not none(b"NOOP")


def test_the_command_filter() -> None:
    sink = ListSink()
    rules = "regexp:{{/^HI (.*)/ EHLO $$1}}"
    commands = CommandFilter(parameters(smtpd_command_filter=rules), MailLog(sink, "postfix/smtpd"))
    assert run(commands.filtered(b"  HI there", "a[1.2.3.4]")) == b"EHLO there"
    assert run(commands.filtered(b"NOOP", "a[1.2.3.4]")) == b"NOOP"
    assert [text for _, _, text in sink.lines] == [
        'a[1.2.3.4]: replacing command "  HI there" with "EHLO there"'
    ]


# -- clients


def test_what_clients_are_granted() -> None:
    p = parameters(
        smtpd_authorized_xclient_hosts="192.0.2.1",
        smtpd_authorized_xforward_hosts="192.0.2.0/24",
        smtpd_authorized_verp_clients="a.example",
        smtpd_forbid_bare_newline_exclusions="192.0.2.9",
        smtpd_discard_ehlo_keyword_address_maps="inline:{192.0.2.8=DSN}",
    )
    usual = ServerSettings()
    rules = ClientRules(p, MailLog(ListSink(), "x"), usual)

    def granted(address: str, name: str = "unknown", before: ServerSettings | None = None) -> ServerSettings:
        return run(rules.settings(address, name, before))

    assert granted("198.51.100.1") is usual
    first = granted("192.0.2.1")
    assert (first.xclient, first.xforward, first.verp_delimiters) == (True, True, b"")
    assert granted("192.0.2.1") is first
    assert granted("198.51.100.1", "a.example").verp_delimiters == b"+="
    assert granted("192.0.2.9").bare_newline == "no"
    assert granted("192.0.2.8").discard == {"dsn"}
    # who has become another by XCLIENT may still forward
    after = granted("198.51.100.1", "unknown", first)
    assert (after.xclient, after.xforward) == (False, True)


def test_a_list_that_fails_grants_nothing() -> None:
    sink = ListSink()
    p = parameters(smtpd_authorized_xclient_hosts="texthash:/none/x")
    rules = ClientRules(p, MailLog(sink, "x"), ServerSettings())
    assert not run(rules.settings("127.0.0.1", "localhost")).xclient
    assert any("/none/x" in text for _, _, text in sink.lines)


def test_becoming_another() -> None:
    before = Request(
        client_name="a.example", client_address="192.0.2.1", client_port="99", tls=True, cert_name="cn",
        helo=b"x", sasl_username="joe", _mynetworks=True,
    )  # fmt: skip
    after = become(before, {"NAME": "b.example", "PORT": None})
    assert (after.client, after.client_port, after.reverse_name) == (
        "b.example[192.0.2.1]",
        "unknown",
        "b.example",
    )
    assert (after.peer_address, after.tls, after.cert_name) == ("192.0.2.1", True, "cn")
    assert (after.helo, after.sasl_username) == (b"", "")
    assert after._mynetworks is None
    again = become(after, {"NAME": "[TEMPUNAVAIL]", "LOGIN": "ann", "HELO": "y", "PROTO": "ESMTP"})
    assert again.name_temporary
    assert (again.client_name, again.sasl_method) == ("unknown", "XCLIENT")
    assert (again.helo, again.protocol, again.logged_in) == (b"y", "ESMTP", True)


def test_what_was_forwarded() -> None:
    forwarded, request = Forwarded(), Request(client_name="a.example", client_address="192.0.2.1", helo=b"x")
    assert not forwarded
    assert Forwarded().local is None
    forwarded.add({"IDENT": "ABC", "SOURCE": "remote"})
    assert forwarded.log_text(request) == ", orig_queue_id=ABC"
    assert forwarded.local is False
    assert forwarded.attributes(request)["log_client_name"] == "a.example"
    forwarded.add({"NAME": "b.example", "ADDR": "2001:db8::1"})
    assert forwarded.log_text(request) == ", orig_queue_id=ABC, orig_client=b.example[2001:db8::1]"
    found = forwarded.attributes(request)
    assert (found["log_client_address"], found["log_client_port"]) == ("IPv6:2001:db8::1", "unknown")
    assert "log_helo_name" not in found
    forwarded.clear()
    assert not forwarded


# -- wishes

OFFERED = ServerSettings(extensions=frozenset(("futurerelease",)), longest_hold=100)


@pytest.mark.parametrize(
    ("wish", "granted"),
    [
        (Wishes(hold_for=100), True),
        (Wishes(hold_for=101), False),
        (Wishes(hold_until=1050.0), True),
        (Wishes(hold_until=1101.0), False),
        (Wishes(hold_until=999.0), False),
        (Wishes(hold_for=50, by=50, by_mode="R"), False),
        (Wishes(hold_for=50, by=51, by_mode="R"), True),
    ],
)
def test_what_the_clock_says(wish: Wishes, granted: bool) -> None:
    reply = wishes.refusal(wish, OFFERED, 1000.0)
    assert (reply is None) == granted
    assert granted or (reply is not None and reply.code == 501)


def test_attributes_of_messages() -> None:
    stranger, friend = Request(), Request(sasl_method="PLAIN", sasl_username="joe")
    wish = Wishes(verp=b"+=", requiretls=True, hold_for=60, by=90, by_mode="NT", priority=3)
    assert wishes.attributes(wish, friend, 1000.5) == {
        "verp_delimiters": "+=", "requiretls": "yes", "release": "1061", "deliver_by": "1090;NT",
        "mt_priority": "3",
    }  # fmt: skip
    assert wishes.attributes(wish, stranger, 0.0)["mt_priority"] == "0"
    assert wishes.mail_reply(wish, friend) is None
    assert str(wishes.mail_reply(wish, stranger)) == "250 2.3.6 0 is the priority granted"
    assert wishes.attributes(Wishes(), friend, 0.0) == {}
    assert wishes.latest(OFFERED, 0.0) == b"1970-01-01T00:01:40Z"
    assert wishes.latest(ServerSettings(), 0.0) == b""


# -- stress


def test_stress_begins_and_ends() -> None:
    p = parameters(mtad_stress_sessions="4")
    sink = ListSink()
    usual, stressed = read_settings(p, "submission"), read_settings(p.replaced("stress", "yes"), "submission")
    assert (usual.timeout, usual.hard_error_limit, usual.per_request_deadline) == (300, 20, False)
    assert (stressed.timeout, stressed.hard_error_limit, stressed.per_request_deadline) == (10, 1, True)
    service = SimpleNamespace(
        settings=usual, plan=SimpleNamespace(p=p), sessions={1, 2, 3}, log=MailLog(sink, "postfix/smtpd")
    )
    stress = Stress(service, stressed)  # type: ignore[arg-type]
    stress.connected()
    assert service.settings is usual
    service.sessions.add(4)
    stress.connected()
    assert service.settings is stressed
    service.sessions.discard(4)
    stress.disconnected()
    assert service.settings is stressed
    service.sessions.discard(3)
    stress.disconnected()
    assert service.settings is usual
    assert [severity for severity, _, _ in sink.lines] == ["warning", "info"]


def test_no_stress_where_the_limit_is_out_of_reach() -> None:
    p = parameters()
    settings = read_settings(p, "submission")
    service = SimpleNamespace(
        settings=settings, plan=SimpleNamespace(p=p), sessions=set(range(100)), log=MailLog(ListSink(), "x")
    )
    stress = Stress(service, read_settings(p.replaced("stress", "yes"), "submission"))  # type: ignore[arg-type]
    stress.connected()
    assert service.settings is settings
    assert stress.limit > 100
