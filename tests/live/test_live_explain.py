"""mtad explain beside a daemon: messages by their queue ids, from the queue and from the log."""

from __future__ import annotations

import contextlib
import io
import json
import re
import smtplib
from itertools import product
from typing import Any

from live.daemon import Mtad, free_port, wait_until

from mtad.cli.explain import main, run
from mtad.cli.explaining.case import Case
from mtad.daemon.plan import make_plan


def explain(mtad: Mtad, *words: str) -> dict[str, Any]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["-c", str(mtad.directory), "--json", *words]) in (0, 1)
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


def test_messages_and_refusals() -> None:
    settings = {
        "relayhost": f"[127.0.0.1]:{free_port()}",
        "smtpd_peername_lookup": "no",
        "smtpd_recipient_restrictions": "check_recipient_access inline:{{bob@example.net=REJECT not him}}",
    }
    services = (("other", {}), ("asked", {"syslog_name": "postfix/asked"}))
    with Mtad(settings, services) as mtad:
        with smtplib.SMTP("127.0.0.1", mtad.ports["asked"], timeout=60) as client:
            client.ehlo("c.example")
            refused = client.sendmail(
                "a@example.com", ["bob@example.net", "carol@example.net"], "Subject: x\n\nx"
            )
        assert list(refused) == ["bob@example.net"]
        wait_until(lambda: "status=deferred" in mtad.log(), "a deferral")
        found = re.search(r": (\w+): client=", mtad.log())
        assert found is not None
        kept = explain(mtad, found[1])
        assert kept["service"] == f"127.0.0.1:{mtad.ports['asked']}"
        assert (kept["client"], kept["helo"], kept["queue_id"]) == (
            "unknown[127.0.0.1]",
            "c.example",
            found[1],
        )
        assert [each["command"] for each in kept["commands"][2:4]] == [
            "MAIL FROM:<a@example.com>",
            "RCPT TO:<carol@example.net>",
        ]
        assert kept["reply"] == "250 2.0.0 Ok"
        line = next(line for line in mtad.log().splitlines() if ": reject: RCPT from" in line)
        refusal = explain(mtad, line)
        assert refusal["reply"] == refusal["logged"]
        step = refusal["commands"][-1]["lists"][-1]["steps"][0]
        assert (step["restriction"], step["matches"][0]["key"]) == (
            "check_recipient_access",
            "bob@example.net",
        )
        assert mtad.command("postsuper", "-d", found[1]).returncode == 0
        gone = explain(mtad, found[1])
        said = [each["command"] for each in kept["commands"] if not each["command"].startswith("EHLO")]
        assert [each["command"] for each in gone["commands"]] == said  # the log has no HELO of accepted mail


LISTS = {
    "smtpd_authorized_xclient_hosts": "127.0.0.1",
    "smtpd_peername_lookup": "no",
    "mynetworks": "10.0.0.0/8",
    "mydestination": "example.com",
    "local_recipient_maps": "inline:{{bob=x}, {held=x}, {both=x}}",
    "smtpd_sasl_auth_enable": "yes",
    "cyrus_sasl_config_path": "{dir}/sasl",
    "smtpd_sender_login_maps": "inline:{{alice@example.com=alice}}",
    "smtpd_restriction_classes": "strict, later",
    "strict": "reject_non_fqdn_sender, reject_sender_login_mismatch",
    "later": "defer_if_permit",
    "smtpd_client_restrictions": "check_client_access inline:{{192.0.2.66=REJECT bad}, {.example.org=DUNNO}}",
    "smtpd_helo_restrictions": "reject_invalid_helo_hostname, check_helo_access inline:{{liar=554 5.7.3 l}}",
    "smtpd_sender_restrictions": "check_sender_access inline:{{spam.example=REJECT x}, {late.example=later}}",
    "smtpd_relay_restrictions": "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination",
    "smtpd_recipient_restrictions": "check_recipient_access inline:{{held@example.com=HOLD}, "
    "{both@example.com=DEFER_IF_PERMIT wait}}, warn_if_reject reject_non_fqdn_recipient, strict",
    "smtpd_data_restrictions": "check_sender_access inline:{{data.example=REJECT no data}}",
}
TWO = (("delayed", {}), ("early", {"smtpd_delay_reject": "no"}))
PEOPLE = (
    ("unknown", "192.0.2.1", ""),
    ("good.example.org", "192.0.2.66", ""),
    ("inside.example.net", "10.1.2.3", ""),
    ("home.example.net", "198.51.100.7", "alice"),
)
MAILS = (
    ("c.example", "alice@example.com", ("bob@example.com", "x@example.net")),
    ("liar", "carol@example.net", ("bob@example.com",)),
    ("-bad-", "carol@example.net", ("bob@example.com",)),
    ("c.example", "x@spam.example", ("bob@example.com",)),
    ("c.example", "x@late.example", ("held@example.com", "nobody@example.com")),
    ("c.example", "x@data.example", ("both@example.com", "held@example.com")),
    ("c.example", "", ("postmaster", "bob@example.com")),
    ("c.example", "bare", ("bob@example.com",)),
)


def said(
    mtad: Mtad, service: str, person: tuple[str, str, str], mail: tuple[str, str, tuple[str, ...]]
) -> list[str]:
    """What the server says to this, up to DATA or until there is nothing left to say."""
    name, address, login = person
    helo, sender, recipients = mail
    replies = []
    client = smtplib.SMTP("127.0.0.1", mtad.ports[service], timeout=60)
    with contextlib.closing(client):

        def say(command: str) -> bool:
            code, text = client.docmd(command)
            last = text.decode().split("\n")[-1]
            replies.append(f"{code} {last}")
            return code < 400

        client.ehlo("proxy.example")
        xclient = f"XCLIENT ADDR={address} NAME={'[UNAVAILABLE]' if name == 'unknown' else name}"
        if (
            say(f"{xclient} LOGIN={login or '[UNAVAILABLE]'}")
            and say(f"EHLO {helo}")
            and say(f"MAIL FROM:<{sender}>")
        ):
            accepted = [say(f"RCPT TO:<{each}>") for each in recipients]
            if any(accepted):
                say("DATA")
    return replies


def test_the_server_says_what_was_explained() -> None:
    files = {"sasl/smtpd.conf": "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN\n"}
    refusals = set()
    with Mtad(LISTS, TWO, files) as mtad:
        plan = make_plan(str(mtad.directory))
        for service, (name, address, login), (helo, sender, recipients) in product(plan.smtpd, PEOPLE, MAILS):
            case = Case(
                address,
                name,
                helo=helo,
                login=login,
                mechanism="XCLIENT",
                sender=sender,
                recipients=recipients,
            )
            report = run(plan, service, case, True)
            explained = [each["reply"] for each in report["commands"] if each["command"] != "end of content"]
            key = "early" if service.service.name.endswith(str(mtad.ports["early"])) else "delayed"
            heard = said(mtad, key, (name, address, login), (helo, sender, recipients))
            assert [reply if reply[0] in "45" else reply[:3] for reply in heard] == [
                reply if reply[0] in "45" else reply[:3] for reply in explained
            ], (key, case)
            refusals |= {reply for reply in heard if reply[0] in "45"}
    assert len(refusals) >= 12
