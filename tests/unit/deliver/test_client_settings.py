"""What an SMTP or LMTP client is told by main.cf, by the server's address, and by the operator's filters."""

from __future__ import annotations

from typing import Any

import pytest
from delivery_world import FakeResolver, World, finish

from mtad.config.parameters import Parameters
from mtad.deliver.lmtp_parameters import LmtpParameters, sister
from mtad.deliver.names import ClientNames, dns_support
from mtad.deliver.nexthop import Destination, Host
from mtad.deliver.settings import SmtpSettings
from mtad.deliver.status_filter import StatusFilter
from mtad.deliver.variants import Variants
from mtad.errors import ConfigError
from mtad.maillog import ListSink, MailLog
from mtad.queue.message import Outcome, Recipient
from mtad.wire.client_events import ClientSettings

LOG = MailLog(ListSink(), "postfix/smtp")


def test_lmtp_has_sisters_of_most_parameters() -> None:
    assert sister("smtp_helo_name") == "lmtp_lhlo_name"
    assert sister("smtp_mail_timeout") == "lmtp_mail_timeout"
    assert sister("smtp_always_send_ehlo") == "smtp_always_send_ehlo"
    assert sister("myhostname") == "myhostname"
    p = Parameters.from_mapping(
        {
            "lmtp_lhlo_name": "me.test",
            "smtp_helo_name": "no.test",
            "lmtp_mail_timeout": "7s",
            "lmtp_tcp_port": "24",
        }
    )
    settings = SmtpSettings.of(LmtpParameters.of(p, None), lmtp=True)
    assert (settings.helo_name, settings.timeouts.mail, settings.default_port) == (b"me.test", 7, "24")
    assert SmtpSettings.of(p).helo_name == b"no.test"
    assert LmtpParameters.of(p, None).explicit("smtp_helo_name")


def host(address: str) -> Host:
    return Host("h.test", address, 25, 0, Destination("h.test", "h.test", 25, False))


@pytest.mark.parametrize(
    ("level", "disable", "support"),
    [
        ("", "no", "enabled"),
        ("", "yes", "disabled"),
        ("Enabled", "yes", "enabled"),
        ("DNSSEC", "no", "dnssec"),
    ],
)
def test_how_far_the_dns_is_used(level: str, disable: str, support: str) -> None:
    values = {"smtp_dns_support_level": level, "disable_dns_lookups": disable or "no"}
    assert dns_support(Parameters.from_mapping(values)) == support


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("smtp_dns_support_level", "some"),
        ("smtp_address_preference", "ipv5"),
        ("smtp_tls_dane_insecure_mx_policy", "none"),
        ("smtp_line_length_limit", "1"),
    ],
)
def test_values_that_mean_nothing_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        World(**{name: value})


def test_what_depends_on_the_server() -> None:
    p = Parameters.from_mapping(
        {
            "smtp_discard_ehlo_keywords": "dsn",
            "smtp_discard_ehlo_keyword_address_maps": "inline:{ 192.0.2.1=pipelining }",
            "smtp_pix_workaround_maps": "inline:{ 192.0.2.1=delay_dotcrlf }",
            "smtp_reply_filter": "regexp:{ {/250 odd/ 250 even} }",
        }
    )
    variants = Variants(p, LOG)
    one = finish(variants.of(host("192.0.2.1"), ClientSettings(helo_name=b"x"), "Q1"))
    assert one.settings.discard == {"pipelining"} and one.settings.pix == {"delay_dotcrlf"}
    assert one.discarding == "discarding EHLO keywords: PIPELINING"
    other = finish(variants.of(host("192.0.2.2"), ClientSettings(helo_name=b"x"), "Q1"))
    assert other.settings.discard == {"dsn"} and "disable_esmtp" in other.settings.pix
    assert other.settings.reply_filter(b"250 odd") == b"250 even"
    assert other.settings.reply_filter(b"250 else") == b"250 else"


def test_a_reply_filter_must_answer_at_once() -> None:
    with pytest.raises(ConfigError, match="asks a server"):
        Variants(Parameters.from_mapping({"smtp_reply_filter": "tcp:127.0.0.1:1"}), LOG)


@pytest.mark.parametrize(
    ("before", "answer", "after"),
    [
        (("bounced", "5.1.1"), "4.1.1 wait", ("deferred", "4.1.1", "wait")),
        (("deferred", "4.1.1"), "5.9.9 enough", ("bounced", "5.9.9", "enough")),
        (("sent", "2.0.0"), "2.1.5 fine", ("sent", "2.1.5", "fine")),
        (("sent", "2.0.0"), "5.1.1 no", ("sent", "2.0.0", "text")),
        (("bounced", "5.1.1"), "2.0.0 yes", ("bounced", "5.1.1", "text")),
        (("bounced", "5.1.1"), "nonsense", ("bounced", "5.1.1", "text")),
        (("bounced", "5.1.1"), "5.1.1", ("bounced", "5.1.1", "text")),
    ],
)
def test_status_filter(before: tuple[str, str], answer: str, after: tuple[str, str, str]) -> None:
    made = StatusFilter(Parameters.from_mapping({"smtp_delivery_status_filter": f"static:{{{answer}}}"}), LOG)
    outcome = Outcome(Recipient(b"x@y.test"), *before, "text")
    finish(made.apply([outcome]))
    assert (outcome.status, outcome.dsn, outcome.reason) == after


def test_names_without_a_dot_are_completed() -> None:
    resolver: Any = FakeResolver()
    resolver.search = ("first.test", "second.test")
    resolver.address_records = {
        "mx.first.test": ["192.0.2.1"],
        "other.second.test": ["192.0.2.2"],
        "mx": ["192.0.2.3"],
    }
    for options, name, found in (
        ("", "mx", "192.0.2.3"),
        ("res_defnames", "mx", "192.0.2.1"),
        ("res_defnames, res_dnsrch", "other", "192.0.2.2"),
    ):
        p = Parameters.from_mapping({"smtp_dns_resolver_options": options})
        assert finish(ClientNames(p, resolver, LOG).addresses(name)) == [found]


def test_a_request_has_a_deadline_where_that_is_wanted() -> None:
    for wanted, broken in (("no", False), ("yes", True)):
        world = World(smtp_per_request_deadline=wanted, smtp_helo_timeout="10s")
        world.server(ehlo=b"")
        world.submit("Q1", b"a@dest.test")
        world.run()
        for _ in range(5):
            world.advance(4)
            for wire in world.wires:
                wire.say(b"250-drop")  # by drop
        told = any("timed out while performing the EHLO handshake" in line for line in world.log("Q1"))
        assert told == broken


@pytest.mark.parametrize(
    ("relayhost", "port", "loops"),
    [("[192.0.2.1]", 25, True), ("x.test", 2525, True), ("x.test:24", 2525, False)],
)
def test_a_server_with_our_own_name_is_a_loop(relayhost: str, port: int, loops: bool) -> None:
    """The port of the next hop counts, wherever SRV records lead."""
    world = World(relayhost=relayhost, use_srv_lookup="smtp, 24", smtp_tcp_port="smtp")
    for service in ("smtp", "24"):
        world.resolver.srv_records[f"_{service}._tcp.x.test"] = [(1, 1, 2525, "x.test")]
    world.resolver.address_records["x.test"] = ["192.0.2.1"]
    world.server(port=port, ehlo=b"250-MAIL.example.com\r\n250 DSN\r\n")
    world.submit("Q1", b"a@dest.test")
    world.run()
    told = f"dsn=5.4.6, status=bounced (mail for {relayhost} loops back to myself)" in world.log("Q1")[1]
    assert told == loops


def test_the_address_to_bind_to() -> None:
    p = Parameters.from_mapping({"smtp_bind_address": "192.0.2.7", "smtp_bind_address6": "[2001:db8::7]"})
    settings = SmtpSettings.of(p)
    assert (settings.bind4, settings.bind6) == ("192.0.2.7", "2001:db8::7")
    with pytest.raises(ConfigError, match=r"smtp_bind_address: .*bad address"):
        SmtpSettings.of(Parameters.from_mapping({"smtp_bind_address": "mail.example.com"}))


@pytest.mark.parametrize(
    ("settings", "outcome"),
    [
        ({"smtp_connection_cache_destinations": "fail:x"}, "status=sent (250 2.0.0 Ok: queued as 1)"),
        ({"use_srv_lookup": "fail:x", "relayhost": "192.0.2.1:2525"}, "status=sent"),
        (
            {"smtp_sasl_mechanism_filter": "fail:x"},
            "dsn=4.3.0, status=deferred (local data error while talking to 192.0.2.1[192.0.2.1])",
        ),
        (
            {"transport_maps": "inline:{{ dest.test = smtp:, }}"},
            'dsn=4.3.5, status=deferred (null destination: ",")',
        ),
    ],
)
def test_what_the_operator_has_to_mend_breaks_nothing(settings: dict[str, str], outcome: str) -> None:
    login = {"smtp_sasl_auth_enable": "yes", "smtp_sasl_password_maps": "static:joe:x"}
    world = World(**login, smtp_sasl_security_options="noanonymous", **settings)
    world.server(extensions=[b"AUTH PLAIN"])
    world.submit("Q1", b"a@dest.test")
    world.run()
    assert outcome in world.log("Q1")[1]
    assert not any("Traceback" in line for line in world.lines)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, True),
        ({"helpful_warnings": "no"}, False),
        ({"smtp_tls_wrappermode": "yes", "smtp_tls_security_level": "encrypt"}, False),
        ({"relayhost": "[192.0.2.1]:587"}, False),
    ],
)
def test_who_uses_port_465_is_told_of_wrapper_mode(values: dict[str, str], told: bool) -> None:
    world = World(**({"relayhost": "[192.0.2.1]:465"} | values))
    world.submit("Q1", b"you@dest.test")
    world.run()
    text = (
        'SMTPS wrappermode (TCP port 465) requires setting "smtp_tls_wrappermode = yes", '
        'and "smtp_tls_security_level = encrypt" (or stronger)'
    )
    assert any(line.endswith(text) for line in world.lines) is told
