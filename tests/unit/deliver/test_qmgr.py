"""The queue manager with its agents, over scripted servers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from delivery_world import NOW, Server, World

from mtad.errors import QueueError
from mtad.queue.message import Recipient

SAID_535 = " (SASL authentication failed; server {} said: 535 5.7.8 bad)"
NO_MECHANISM = (
    "dsn=4.7.0, status=deferred (SASL authentication failed; cannot authenticate to server {}: "
    "no mechanism available)"
)


def test_a_message_is_relayed_and_logged_as_postfix_does() -> None:
    world = World()
    server = world.server()
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert server.messages == [b"Subject: test\r\n\r\nbody"]
    assert server.commands[:4] == [
        b"EHLO mail.example.com",
        b"MAIL FROM:<me@example.com>",
        b"RCPT TO:<you@dest.test> ORCPT=rfc822;you@dest.test",
        b"DATA",
    ]
    assert world.log("Q1") == [
        "postfix/qmgr: from=<me@example.com>, size=23, nrcpt=1 (queue active)",
        "postfix/smtp: to=<you@dest.test>, relay=192.0.2.1[192.0.2.1]:2525, delay=0, delays=0/0/0/0, "
        "tls=none, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 1)",
        "postfix/qmgr: removed",
    ]
    assert not world.store.messages
    assert world.qmgr.snapshot() == []


def test_recipients_have_their_own_results_and_the_sender_hears_of_failures() -> None:
    world = World(smtp_tls_security_level="none")
    answers = {b"no@": b"550 5.1.1 unknown\r\n", b"later@": b"450 4.2.1 busy\r\n"}
    server = world.server(
        rcpt=lambda line: next((answer for key, answer in answers.items() if key in line), b"250 ok\r\n")
    )
    world.submit("Q1", b"yes@dest.test", b"no@dest.test", b"later@dest.test", envid=b"e+2B1", ret=b"HDRS")
    world.run()
    host = "192.0.2.1[192.0.2.1]"
    said = f"host {host} said:"
    assert [line.partition("dsn=")[2] for line in world.log("Q1")[1:4]] == [
        f"4.2.1, status=deferred ({said} 450 4.2.1 busy (in reply to RCPT TO command))",
        f"5.1.1, status=bounced ({said} 550 5.1.1 unknown (in reply to RCPT TO command))",
        "2.0.0, status=sent (250 2.0.0 Ok: queued as 1)",
    ]
    assert world.log("Q1")[4:] == ["postfix/bounce: sender non-delivery notification: BOUNCE1"]
    assert server.commands.count(b"MAIL FROM:<>") == 1
    bounce = server.messages[-1]
    assert b"Final-Recipient: rfc822; no@dest.test\r\n" in bounce
    assert b"yes@" not in bounce and b"later@" not in bounce
    assert b"Original-Envelope-Id: e+1\r\n" in bounce
    assert bounce.endswith(b"Subject: test\r\n\r\n--Q1.1000000/mail.example.com--")
    (left,) = world.store.messages.values()
    assert [r.address for r in left.recipients if r.state == "pending"] == [b"later@dest.test"]
    assert left.next_attempt == NOW + 300
    answers.clear()
    world.advance(300)
    assert world.log("Q1")[-1] == "postfix/qmgr: removed"
    assert not world.store.messages


def test_a_refused_connection_suspends_the_destination_until_it_may_live_again() -> None:
    world = World(initial_destination_concurrency="1")
    world.submit("Q1", b"a@dest.test")
    world.submit("Q2", b"b@dest.test")
    world.run()
    refused = "connect to 192.0.2.1[192.0.2.1]:2525: Connection refused"
    assert f"postfix/smtp: {refused}" in world.lines
    assert world.log("Q1")[1:] == [
        f"postfix/smtp: to=<a@dest.test>, relay=none, delay=0, delays=0/0/0/0, tls=none?, dsn=4.4.1, "
        f"status=deferred ({refused})"
    ]
    assert world.log("Q2")[1:] == [
        "postfix/error: to=<b@dest.test>, relay=none, delay=0, delays=0/0/0/0, dsn=4.4.1, "
        f"status=deferred (delivery temporarily suspended: {refused})"
    ]
    server = world.server()
    world.advance(300)
    assert len(server.messages) == 2
    assert not world.store.messages


def test_flush_tries_again_at_once() -> None:
    world = World(initial_destination_concurrency="1")
    world.submit("Q1", b"a@dest.test")
    world.run()
    world.server()
    counts: list[int] = []
    world.qmgr.flush().addCallback(counts.append)
    world.settle()
    assert counts == [1]
    assert world.log("Q1")[-1] == "postfix/qmgr: removed"


@pytest.mark.parametrize(
    ("options", "dsn", "status", "text"),
    [
        (
            {"greeting": b"554 5.3.2 no\r\n"},
            "4.3.2",
            "deferred",
            "host {} refused to talk to me: 554 5.3.2 no",
        ),
        (
            {"greeting": None},
            "4.4.2",
            "deferred",
            "lost connection with {} while receiving the initial server greeting",
        ),
        ({"ehlo": None}, "4.4.2", "deferred", "lost connection with {} while performing the EHLO handshake"),
        (
            {"ehlo": b"550 5.7.1 no\r\n", "helo": b"550 5.7.1 go\r\n"},
            "5.7.1",
            "bounced",
            "host {} refused to talk to me: 550 5.7.1 go",
        ),
        ({"mail": None}, "4.4.2", "deferred", "lost connection with {} while sending MAIL FROM"),
        ({"rcpt": None}, "4.4.2", "deferred", "lost connection with {} while sending RCPT TO"),
        ({"data": None}, "4.4.2", "deferred", "lost connection with {} while sending DATA command"),
        (
            {"message": None},
            "4.4.2",
            "deferred",
            "lost connection with {} while sending end of data -- message may be sent more than once",
        ),
        (
            {"mail": b"421 4.3.2 closing\r\n"},
            "4.3.2",
            "deferred",
            "host {} said: 421 4.3.2 closing (in reply to MAIL FROM command)",
        ),
        (
            {"data": b"451 4.3.0 no\r\n"},
            "4.3.0",
            "deferred",
            "host {} said: 451 4.3.0 no (in reply to DATA command)",
        ),
        (
            {"message": b"554 spam\r\n"},
            "5.0.0",
            "bounced",
            "host {} said: 554 spam (in reply to end of DATA command)",
        ),
        (
            {"extensions": (b"SIZE 10",)},
            "5.3.4",
            "bounced",
            "message size 23 exceeds size limit 10 of server {}",
        ),
    ],
)
@pytest.mark.parametrize("pipelining", [True, False])
def test_failures_have_postfix_words(
    options: dict[str, object], dsn: str, status: str, text: str, pipelining: bool
) -> None:
    world = World(soft_bounce="no")
    options.setdefault("extensions", (b"PIPELINING", b"8BITMIME") if pipelining else (b"8BITMIME",))
    world.server(**options)
    world.submit("Q1", b"you@dest.test", sender=b"")
    world.run()
    expected = text.format("192.0.2.1[192.0.2.1]")
    assert world.log("Q1")[1].endswith(f"dsn={dsn}, status={status} ({expected})")


def test_timeouts_have_postfix_words() -> None:
    world = World(smtp_rcpt_timeout="7s")
    world.server(extensions=(), rcpt=b"")
    world.submit("Q1", b"you@dest.test")
    world.run()
    world.advance(6.9)
    assert len(world.log("Q1")) == 1
    world.advance(0.2)
    text = "conversation with 192.0.2.1[192.0.2.1] timed out while sending RCPT TO"
    assert world.log("Q1")[1].endswith(
        f"delay=7.1, delays=0/0/0/7.1, tls=none, dsn=4.4.2, status=deferred ({text})"
    )


def test_the_next_host_is_tried_after_a_temporary_failure() -> None:
    world = World(relayhost="dest.example", smtp_tcp_port="25")
    world.resolver.mx_records["dest.example"] = [(10, "mx1.test"), (20, "mx2.test")]
    world.resolver.address_records.update({"mx1.test": ["192.0.2.1"], "mx2.test": ["192.0.2.2"]})
    first = world.server("192.0.2.1", 25, rcpt=b"451 4.3.0 later\r\n")
    second = world.server("192.0.2.2", 25)
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert first.connections == second.connections == 1
    said = "host mx1.test[192.0.2.1] said: 451 4.3.0 later (in reply to RCPT TO command)"
    assert world.log("Q1")[1] == f"postfix/smtp: {said}"
    assert "relay=mx2.test[192.0.2.2]:25" in world.log("Q1")[2]
    assert world.log("Q1")[-1] == "postfix/qmgr: removed"


def test_only_so_many_sessions_for_a_delivery() -> None:
    world = World(relayhost="dest.example", smtp_tcp_port="25")
    names = [f"mx{number}.test" for number in range(4)]
    world.resolver.mx_records["dest.example"] = [(number, name) for number, name in enumerate(names)]
    servers = []
    for number, name in enumerate(names, 1):
        world.resolver.address_records[name] = [f"192.0.2.{number}"]
        servers.append(world.server(f"192.0.2.{number}", 25, mail=b"451 4.3.0 later\r\n"))
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert [server.connections for server in servers] == [1, 1, 0, 0]
    assert "relay=mx1.test[192.0.2.2]:25" in world.log("Q1")[-1]


def test_fallback_relay_takes_what_the_next_hop_does_not() -> None:
    world = World(smtp_fallback_relay="[192.0.2.9]:26")
    fallback = world.server("192.0.2.9", 26)
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert len(fallback.messages) == 1
    assert "relay=192.0.2.9[192.0.2.9]:26" in world.log("Q1")[1]


def test_many_recipients_go_in_transactions_of_fifty() -> None:
    world = World(default_destination_concurrency_limit="1")
    server = world.server()
    world.submit("Q1", *[b"u%d@dest.test" % number for number in range(120)])
    world.run()
    counts = []
    for command in server.commands:
        if command.startswith(b"MAIL"):
            counts.append(0)
        elif command.startswith(b"RCPT"):
            counts[-1] += 1
    assert sorted(counts) == [20, 50, 50]
    assert len([line for line in world.log("Q1") if "status=sent" in line]) == 120
    assert world.log("Q1")[-1] == "postfix/qmgr: removed"


def test_what_has_no_transport_waits_with_a_reason() -> None:
    world = World()
    world.submit("Q1", b"root@local.test")
    world.run()
    assert world.log("Q1")[1:] == [
        "postfix/error: to=<root@local.test>, relay=none, delay=0, delays=0/0/0/0, dsn=4.3.0, "
        'status=deferred (mail transport "local" is not available in mtad)'
    ]
    assert world.store.messages


@pytest.mark.parametrize(
    ("route", "program", "dsn", "status"),
    [
        ("error:5.7.3 get lost", "error", "5.7.3", "bounced (get lost)"),
        ("error:no code", "error", "5.0.0", "bounced (no code)"),
        ("retry:4.7.2 come back", "error", "4.7.2", "deferred (come back)"),
        ("discard:silly", "discard", "2.0.0", "sent (silly)"),
    ],
)
def test_error_retry_and_discard(route: str, program: str, dsn: str, status: str) -> None:
    world = World(transport_maps=f"inline:{{{{dest.test={route}}}}}")
    world.submit("Q1", b"you@dest.test", sender=b"")
    world.run()
    assert world.log("Q1")[1].startswith(f"postfix/{program}: to=<you@dest.test>, relay=none, ")
    assert world.log("Q1")[1].endswith(f"dsn={dsn}, status={status}")


def test_mail_that_is_too_old_goes_back() -> None:
    world = World(initial_destination_concurrency="1")
    world.submit("Q1", b"you@dest.test", arrival=NOW - 5 * 86400)
    world.run()
    assert world.log("Q1")[2:] == [
        "postfix/qmgr: from=<me@example.com>, status=expired, returned to sender",
        "postfix/bounce: sender non-delivery notification: BOUNCE1",
        "postfix/qmgr: removed",
    ]
    (bounce,) = world.store.messages.values()
    assert bounce.sender == b"" and bounce.recipients[0].address == b"me@example.com"
    assert b"Status: 4.4.1\r\n" in (bounce.content or b"")


def test_the_null_sender_gets_no_bounce() -> None:
    world = World()
    world.server(rcpt=b"550 5.1.1 no\r\n")
    world.submit("Q1", b"you@dest.test", sender=b"")
    world.run()
    assert world.log("Q1")[-1] == "postfix/qmgr: removed"
    assert not world.store.messages


def test_the_sender_is_warned_once_of_a_delay() -> None:
    world = World(delay_warning_time="1h")
    world.submit("Q1", b"you@dest.test", Recipient(b"quiet@dest.test", notify=frozenset({b"NEVER"})))
    world.run()
    assert not [line for line in world.lines if "delay notification" in line]
    for _ in range(6):
        world.advance(4000)
    warned = [line for line in world.lines if "sender delay notification" in line]
    assert warned == ["postfix/bounce: Q1: sender delay notification: BOUNCE1"]
    (notice,) = (m for m in world.store.messages.values() if m.queue_id == "BOUNCE1")
    assert b"Action: delayed\r\n" in (notice.content or b"")
    assert b"quiet@" not in (notice.content or b"")


def test_success_is_reported_where_the_next_server_does_not() -> None:
    world = World()
    server = world.server(extensions=(b"PIPELINING",))
    world.submit("Q1", Recipient(b"you@dest.test", notify=frozenset({b"SUCCESS"})), b"other@dest.test")
    world.run()
    assert world.log("Q1")[-2:] == [
        "postfix/bounce: sender delivery status notification: BOUNCE1",
        "postfix/qmgr: removed",
    ]
    report = server.messages[-1]
    assert b"Action: relayed\r\n" in report and b"other@" not in report


def test_a_failing_store_is_asked_again_and_nothing_is_sent_twice() -> None:
    world = World()
    server = world.server()
    world.submit("Q1", b"you@dest.test")
    world.store.fail = 2
    world.run()
    assert world.qmgr.snapshot() == ["Q1"]
    world.advance(10)
    world.advance(10)
    assert len(server.messages) == 1
    assert world.log("Q1")[-1] == "postfix/qmgr: removed"
    assert world.qmgr.snapshot() == []


@pytest.mark.parametrize(
    ("answer", "ends"),
    [
        (b"250 2.0.0 Ok\r\n", ["in doubt", "delivered"]),
        (b"450 4.2.0 later\r\n", ["in doubt", "not delivered"]),
        (None, ["in doubt", "not delivered"]),
    ],
)
def test_the_journal_hears_of_each_end(answer: bytes | None, ends: list[str]) -> None:
    world = World()
    world.server(message=answer)
    message = world.submit("Q1", b"you@dest.test")
    world.run()
    (recipient,) = message.recipients
    assert world.store.journal == [(end, recipient.id) for end in ends]


def test_a_message_as_large_as_the_server_takes_is_sent() -> None:
    world = World()
    server = world.server(extensions=(b"SIZE 23",))
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert len(server.messages) == 1


def test_without_a_journal_the_end_of_a_message_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(ids: Sequence[int]) -> None:
        raise QueueError("no journal")

    world = World()
    server = world.server()
    monkeypatch.setattr(world.store, "in_doubt", fail)
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert server.commands[-1] == b"DATA" and server.messages == []
    ((_, (outcome,), _),) = world.store.finished
    assert (outcome.status, outcome.dsn) == ("deferred", "4.3.0")


def test_delivered_recipients_are_recorded_before_the_others_are_done() -> None:
    world = World(
        relayhost="", transport_maps="inline:{a.test=smtp:[192.0.2.1]:2525, b.test=smtp:[192.0.2.2]:2525}"
    )
    world.server("192.0.2.1")
    world.server("192.0.2.2", rcpt=b"", data=b"")
    world.submit("Q1", b"x@a.test", b"x@b.test")
    world.run()
    ((name, outcomes, when),) = world.store.finished
    assert (name, [outcome.recipient.address for outcome in outcomes]) == ("Q1", [b"x@a.test"])
    assert when == NOW
    world.advance(300)
    assert [outcome.status for outcome in world.store.finished[1][1]] == ["deferred"]


def test_no_more_active_messages_than_allowed() -> None:
    world = World(qmgr_message_active_limit="2", initial_destination_concurrency="1")
    server = world.server(message=b"")
    for number in range(5):
        world.submit(f"Q{number}", b"you@dest.test")
    world.run()
    assert world.qmgr.snapshot() == ["Q0", "Q1"]
    server.answers.clear()
    world.wires[0].say(b"250 ok\r\n")
    world.settle()
    assert world.qmgr.snapshot() == []
    assert len(server.messages) == 5


def test_stop_waits_for_what_is_under_way() -> None:
    world = World()
    world.server(mail=b"")
    world.submit("Q1", b"you@dest.test")
    world.run()
    done: list[None] = []
    world.qmgr.stop(limit=3).addCallback(done.append)
    world.settle()
    assert not done
    world.submit("Q2", b"you@dest.test")
    world.run()
    assert world.log("Q2") == []
    world.advance(3)
    assert done == [None]
    assert not world.wires[0].open


def test_stop_is_at_once_when_nothing_is_to_do() -> None:
    world = World()
    server = world.server()
    world.submit("Q1", b"you@dest.test")
    world.run()
    done: list[None] = []
    world.qmgr.stop().addCallback(done.append)
    world.settle()
    assert done == [None]
    assert server.commands[-1] == b"QUIT"
    assert not world.reactor.getDelayedCalls()


def test_large_content_is_streamed_and_long_lines_are_folded() -> None:
    world = World()
    server = world.server()
    line = b"x" * 70 + b"\r\n"
    content = b"Subject: big\r\n\r\n" + line * 4000 + b"y" * 2500 + b"\r\n.dot\r\n"
    message = world.submit("Q1", b"you@dest.test", content=content)
    world.store.contents["Q1"] = content
    message.content = None
    world.run()
    (received,) = server.messages
    assert received + b"\r\n" == content.replace(
        b"y" * 2500, b"y" * 998 + b"\r\n " + b"y" * 997 + b"\r\n " + b"y" * 505
    )
    assert world.log("Q1")[1] == "postfix/smtp: breaking line > 998 bytes with <CR><LF>SPACE"


def test_a_server_that_answers_in_the_middle_of_a_message_is_heard() -> None:
    world = World()
    server = world.server()
    content = b"Subject: big\r\n\r\n" + (b"x" * 70 + b"\r\n") * 4000
    message = world.submit("Q1", b"you@dest.test", content=content, sender=b"")
    world.store.contents["Q1"] = content
    message.content = None
    server.answers["data"] = b"354 go\r\n552 5.3.4 too much\r\n"
    world.run()
    assert "dsn=5.3.4, status=bounced" in world.log("Q1")[1]


def test_soft_bounce_defers_what_would_bounce() -> None:
    world = World(soft_bounce="yes")
    world.server(rcpt=b"550 5.1.1 no\r\n")
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert "dsn=4.1.1, status=SOFTBOUNCE" in world.log("Q1")[1]


def test_smtputf8_mail_needs_a_server_that_takes_it() -> None:
    world = World()
    world.server()
    world.submit("Q1", "jürgen@dest.test".encode(), smtputf8=True)
    world.run()
    text = (
        "message requires SMTPUTF8, but no server was found that supports SMTPUTF8. "
        "The last attempted server was 192.0.2.1[192.0.2.1]"
    )
    assert f"dsn=5.6.7, status=bounced ({text})" in world.log("Q1")[1]


def test_login_is_by_host_before_next_hop_and_secrets_stay_out_of_the_log() -> None:
    world = World(
        smtp_sasl_auth_enable="yes",
        smtp_sasl_security_options="noanonymous",
        smtp_sasl_password_maps="inline:{[192.0.2.1]:2525=hop:wrong, 192.0.2.1=user:se:cret}",
    )
    server = world.server(extensions=(b"AUTH PLAIN LOGIN",), auth=b"235 2.7.0 ok\r\n")
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert server.commands[1] == b"AUTH PLAIN AHVzZXIAc2U6Y3JldA=="
    assert "status=sent" in world.log("Q1")[1]
    assert not [line for line in world.lines if "cret" in line]


@pytest.mark.parametrize(
    ("offer", "settings", "reply", "expected"),
    [
        (
            b"PLAIN",
            {},
            b"535 5.7.8 bad\r\n",
            "dsn=4.7.8, status=deferred" + SAID_535,
        ),
        (
            b"PLAIN",
            {"smtp_sasl_auth_soft_bounce": "no"},
            b"535 5.7.8 bad\r\n",
            "dsn=5.7.8, status=bounced" + SAID_535,
        ),
        (
            b"GSSAPI",
            {},
            b"",
            NO_MECHANISM,
        ),
        (
            b"PLAIN",
            {"smtp_sasl_security_options": "noplaintext, noanonymous"},
            b"",
            NO_MECHANISM,
        ),
        (
            b"PLAIN",
            {"smtp_sasl_mechanism_filter": "cram-md5"},
            b"",
            "dsn=4.7.0, status=deferred (SASL authentication failed: server {} offered no compatible "
            "authentication mechanisms for this type of connection security)",
        ),
    ],
)
def test_failed_logins_have_postfix_words(
    offer: bytes, settings: dict[str, str], reply: bytes, expected: str
) -> None:
    values = {
        "smtp_sasl_auth_enable": "yes",
        "smtp_sasl_security_options": "noanonymous",
        "smtp_sasl_password_maps": "static:user:secret",
    }
    world = World(**{**values, **settings})
    world.server(extensions=(b"AUTH " + offer,), auth=reply)
    world.submit("Q1", b"you@dest.test", sender=b"")
    world.run()
    (line,) = [line for line in world.log("Q1") if "status=" in line and "from=" not in line]
    assert line.endswith(expected.format("192.0.2.1[192.0.2.1]"))


def test_challenges_are_answered() -> None:
    world = World(
        smtp_sasl_auth_enable="yes",
        smtp_sasl_security_options="noanonymous",
        smtp_sasl_password_maps="static:user:secret",
    )
    script = {
        b"AUTH LOGIN": b"334 VXNlcm5hbWU6\r\n",
        b"dXNlcg==": b"334 UGFzc3dvcmQ6\r\n",
        b"c2VjcmV0": b"235 ok\r\n",
    }
    server = world.server(extensions=(b"AUTH LOGIN",))
    usual = Server.command

    def command(line: bytes) -> bytes | None:
        answer = script.get(line)
        return answer if answer is not None else usual(server, line)

    server.command = command  # type: ignore[method-assign]
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert "status=sent" in world.log("Q1")[1]


def test_tls_that_is_required_but_not_offered() -> None:
    world = World(smtp_tls_security_level="encrypt", initial_destination_concurrency="1")
    world.server()
    world.submit("Q1", b"you@dest.test")
    world.run()
    text = "TLS is required, but was not offered by host 192.0.2.1[192.0.2.1]"
    assert world.log("Q1")[1].endswith(f"dsn=4.7.4, status=deferred ({text})")


def test_tls_refused_is_no_matter_unless_required() -> None:
    options = {"extensions": (b"STARTTLS",), "starttls": b"454 4.7.0 not now\r\n"}
    world = World(smtp_tls_security_level="may")
    world.server(**options)
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert "status=sent" in world.log("Q1")[1]
    world = World(smtp_tls_security_level="encrypt")
    world.server(**options)
    world.submit("Q1", b"you@dest.test")
    world.run()
    text = "TLS is required, but host 192.0.2.1[192.0.2.1] refused to start TLS: 454 4.7.0 not now"
    assert world.log("Q1")[1].endswith(f"dsn=4.7.0, status=deferred ({text})")


def test_a_broken_relayhost_is_no_reason_to_bounce() -> None:
    world = World(relayhost="[nosuch.example]")
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert "dsn=4.3.5, status=deferred (Host or domain name not found." in world.log("Q1")[1]
    assert "postfix/smtp: warning: relayhost configuration problem" in world.lines


def test_a_domain_that_does_not_exist_bounces() -> None:
    world = World(relayhost="")
    world.submit("Q1", b"you@nosuch.example", sender=b"")
    world.run()
    assert "dsn=5.4.4, status=bounced (Host or domain name not found." in world.log("Q1")[1]


def test_a_table_that_fails_defers() -> None:
    world = World(transport_maps="fail:broken")
    world.submit("Q1", b"you@dest.test")
    world.run()
    assert world.log("Q1")[-1].endswith("dsn=4.3.0, status=deferred (address resolver failure)")
