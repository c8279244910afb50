"""Policy services: how they are written, what they are asked, and what comes of their answers."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from policy_support import BASE, OPEN, Bench

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.policy.policy_service import (
    ExchangeFailed,
    Instances,
    PolicyOptions,
    encode,
    parse_service,
    read_action,
)
from mtad.policy.request import MAIL, RCPT, Request
from mtad.wire.address import from_text

ASK = "check_policy_service inet:127.0.0.1:9"


def parameters(**settings: str) -> Parameters:
    return Parameters.from_mapping({**BASE, **settings})


# -- how they are written


def test_settings_of_all_services() -> None:
    p = parameters(
        smtpd_policy_service_timeout="5s",
        smtpd_policy_service_try_limit="3",
        smtpd_policy_service_policy_context="here",
    )
    assert parse_service("unix:private/policy", p) == PolicyOptions(
        "unix:private/policy", "unix", "private/policy", timeout=5, try_limit=3, policy_context="here"
    )


def test_settings_of_its_own() -> None:
    word = (
        "{ inet:[::1]:9, timeout=1m max_idle=2s, max_ttl=3,retry_delay=4s request_limit=5,"
        " try_limit=6, default_action=DUNNO, { policy_context = a, b } }"
    )
    assert parse_service(word, parameters()) == PolicyOptions(
        word, "inet", "[::1]:9", 60, 2, 3, 4, 5, 6, "DUNNO", "a, b"
    )


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("{ }", "empty policy service"),
        ("inet:", "need service transport:endpoint"),
        (":9", "need service transport:endpoint"),
        ("tcp:127.0.0.1:9", "invalid transport name: tcp"),
        ("{ inet:h:9, timeout=x }", "bad time value or unit: x"),
        ("{ inet:h:9, try_limit=0 }", "invalid try_limit parameter value 0 < 1"),
        ("{ inet:h:9, try_limit=2x }", "bad numerical configuration: try_limit = 2x"),
        ("{ inet:h:9, try_limit }", "missing '=' after attribute name"),
        ("{ inet:h:9, color=red }", 'unknown option: "color = red"'),
        ("{ inet:h:9, default_action= }", "default_action"),
        ("{ inet:h:9", "missing '}'"),
        ("{ inet:h:9, {default_action = x }", "missing '}'"),
    ],
)
def test_what_is_no_service(word: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_service(word, parameters())
    assert problem in str(caught.value)


def test_a_bad_service_is_found_at_start() -> None:
    with pytest.raises(ConfigError) as caught:
        Bench(smtpd_recipient_restrictions="check_policy_service tcp:127.0.0.1:9")
    assert caught.value.parameter == "smtpd_recipient_restrictions"


def test_without_a_server_it_is_the_servers_mistake() -> None:
    bench = Bench(smtpd_recipient_restrictions="check_policy_service permit")
    assert bench.rcpt() == "451 4.3.5 Server configuration error"
    assert bench.log[0] == "warning: restriction check_policy_service must be followed by transport:server"


# -- what they are asked

NAMES = [
    "request", "protocol_state", "protocol_name", "client_address", "client_name", "client_port",
    "reverse_client_name", "server_address", "server_port", "helo_name", "sender", "recipient",
    "recipient_count", "queue_id", "instance", "size", "etrn_domain", "stress", "sasl_method",
    "sasl_username", "sasl_sender", "ccert_subject", "ccert_issuer", "ccert_fingerprint",
    "ccert_pubkey_fingerprint", "encryption_protocol", "encryption_cipher", "encryption_keysize",
    "policy_context", "compatibility_level", "mail_version",
]  # fmt: skip


def asked(request: Request, p: Parameters | None = None) -> dict[str, str]:
    data = encode(request, "I", "context", p or parameters())
    assert data.endswith(b"\n\n") and data.count(b"\n\n") == 1
    return dict(line.split("=", 1) for line in data.decode("utf-8", "surrogateescape").split("\n")[:-2])


def test_all_attributes_in_their_order() -> None:
    found = asked(Request("c.example", "192.0.2.1"), parameters(stress="yes"))
    assert list(found) == NAMES
    assert found["stress"] == "yes"
    assert found["compatibility_level"] == "3.6"
    assert found["encryption_keysize"] == "0"


def test_certificates() -> None:
    request = Request(
        tls=True, tls_protocol="TLSv1.3", tls_cipher="X", tls_bits=256, cert_fingerprint="AB:CD"
    )
    request.cert_name, request.cert_issuer_name = "Alice + Bob", "CA=1"
    found = asked(request)
    assert (found["ccert_subject"], found["ccert_issuer"]) == ("", "")  # whoever may say so
    assert (found["ccert_fingerprint"], found["encryption_keysize"]) == ("AB:CD", "256")
    request.cert_trusted = True
    found = asked(request)
    assert (found["ccert_subject"], found["ccert_issuer"]) == ("Alice+20+2B+20Bob", "CA+3D1")


@given(st.text(), st.binary(), st.text())
def test_no_client_can_write_lines(login: str, helo: bytes, name: str) -> None:
    request = Request(client_name=name, helo=helo, sasl_username=login, sender=from_text(b"a@b"))
    assert list(asked(request)) == NAMES


def test_instances_are_those_of_messages() -> None:
    instances = Instances(now=lambda: 16.5)
    request = Request()
    assert instances.of(request) == ""
    request.sender, request.state = from_text(b"a@b"), MAIL
    assert instances.of(request) == ""
    request.state = RCPT
    first = instances.of(request)
    assert first.split(".")[1:] == ["10", "7a120", "0"]
    assert instances.of(request) == first
    request.reset_mail()
    request.sender = from_text(b"a@b")
    assert instances.of(request).split(".")[1:] == ["10", "7a120", "1"]


# -- what they answer


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        (b"action=DUNNO\n\n", b"DUNNO"),
        (b"x=1\naction=a=b\naction=c\n\n", b"a=b"),
        (b"action=\n\n", b""),
        (b"action=a\0b\n\n", b"a"),
        (b" action=x\n\n", None),
        (b"\naction=x\n\n", None),
        (b"action\n\n", None),
        (b"\n", None),
    ],
)
def test_the_first_action_counts(answer: bytes, action: bytes | None) -> None:
    assert read_action(answer, "here")[0] == action


@given(st.binary())
def test_any_answer_is_one_or_none(answer: bytes) -> None:
    action, problem = read_action(answer + b"\n\n", "here")
    assert (action is None) == bool(problem)


class Script:
    """A channel that says what it is told to; ``made`` is the last one."""

    made: Script

    def __init__(self, options: PolicyOptions) -> None:
        self.options = options
        self.says: list[bytes | ExchangeFailed] = []
        self.asked: list[bytes] = []
        self.accepted: list[bool] = []
        self.closed = False
        Script.made = self

    async def exchange(self, request: bytes, accept: Callable[[bytes], bool]) -> bytes:
        self.asked.append(request)
        said = self.says.pop(0)
        if isinstance(said, ExchangeFailed):
            raise said
        self.accepted.append(accept(said))
        return said

    def close(self) -> None:
        self.closed = True


def bench(*says: bytes | ExchangeFailed, lists: str = ASK, **settings: str) -> Bench:
    made = Bench(dial=Script, smtpd_recipient_restrictions=lists, smtpd_relay_restrictions=OPEN, **settings)
    Script.made.says = list(says)
    return made


def test_an_answer_is_an_access_result() -> None:
    made = bench(b"action=REJECT 5.7.9 go\n\n")
    assert made.rcpt() == "554 5.7.9 <r@local.example>: Recipient address rejected: go"
    assert Script.made.accepted == [True]


def test_one_channel_serves_all_lists() -> None:
    made = bench(*[b"action=DUNNO\n\n"] * 3, smtpd_client_restrictions=ASK, smtpd_sender_restrictions=ASK)
    channel = Script.made
    assert made.rcpt("known@local.example") is None
    assert len(channel.asked) == 3
    made.evaluator.close()
    assert channel.closed


def test_a_failure_is_tried_again() -> None:
    made = bench(ExchangeFailed(errno.ECONNREFUSED, connecting=True), b"action=OK\n\n")
    assert made.rcpt("known@local.example") is None
    assert made.log == [
        "warning: connect to 127.0.0.1:9: Connection refused",
        "warning: problem talking to server 127.0.0.1:9: Connection refused",
    ]


def test_a_hang_up_is_no_news() -> None:
    made = bench(ExchangeFailed(), b"action=OK\n\n")
    assert made.rcpt("known@local.example") is None
    assert made.log == []


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (ExchangeFailed(errno.ETIMEDOUT), []),
        (
            ExchangeFailed(errno.ETIMEDOUT, partial=True),
            ["timeout on 127.0.0.1:9 while reading input attribute name"],
        ),
        (
            ExchangeFailed(partial=True),
            ["premature end-of-input on 127.0.0.1:9 while reading input attribute name"],
        ),
        (b"x=y\n\n", ["missing attribute action in input from 127.0.0.1:9"]),
    ],
)
def test_words_of_failures(failure: ExchangeFailed | bytes, words: list[str]) -> None:
    made = bench(failure, smtpd_policy_service_try_limit="1")
    assert made.rcpt() == (
        "451 4.3.5 <r@local.example>: Recipient address rejected: Server configuration problem"
    )
    reason = "Connection timed out" if getattr(failure, "code", 0) else "Application error"
    assert made.log[:-1] == [
        *[f"warning: {word}" for word in words],
        f"warning: problem talking to server 127.0.0.1:9: {reason}",
    ]


def test_a_default_action_that_fails_itself_ends() -> None:
    failures = [ExchangeFailed()] * 8
    made = bench(
        *failures,
        smtpd_policy_service_default_action="again",
        smtpd_policy_service_try_limit="1",
        smtpd_restriction_classes="again",
        again=ASK,
    )
    assert made.rcpt() == (
        "451 4.3.5 <r@local.example>: Recipient address rejected: Server configuration problem"
    )
    assert len(Script.made.asked) == 2
    made.request.sender = None
    Script.made.says[:] = [ExchangeFailed(), b"action=OK\n\n"]
    assert made.rcpt("known@local.example") is None


def test_a_result_may_ask_a_service_by_a_class() -> None:
    made = bench(
        b"action=REJECT asked\n\n",
        lists="check_recipient_access inline:{{r@local.example=again}}, reject",
        smtpd_restriction_classes="again",
        again=ASK,
    )
    assert "asked" in (made.rcpt() or "")


def test_where_nobody_can_be_asked() -> None:
    made = Bench(smtpd_recipient_restrictions=f"{ASK}, reject", smtpd_policy_service_try_limit="1")
    assert "Server configuration problem" in (made.rcpt() or "")
