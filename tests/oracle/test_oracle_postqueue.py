"""``postqueue -p`` and ``-j`` of Debian's Postfix, and ours of the same messages."""

from __future__ import annotations

import json
import re
import smtplib
import time

import pytest
from oracle.postfix import Postfix, free_port

from mtad.queue.listing import json_listing, text_listing
from mtad.queue.message import Message, Recipient

PATIENCE = 60.0


def queued(postfix: Postfix) -> list[dict[str, object]]:
    """The queue once each recipient has a reason or the message is on hold."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = [json.loads(line) for line in postfix.command("postqueue", "-j").stdout.splitlines()]
        if len(found) == 3 and all(
            entry["queue_name"] == "hold" or all("delay_reason" in r for r in entry["recipients"])
            for entry in found
        ):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def ours(entry: dict[str, object]) -> Message:
    """The message that an entry of ``-j`` describes, with quoted addresses taken as they are."""
    sender = str(entry["sender"]).encode()
    recipients = [
        Recipient(r["address"].encode(), reason=r.get("delay_reason", ""))
        for r in entry["recipients"]  # type: ignore[attr-defined]
    ]
    return Message(
        str(entry["queue_id"]), b"" if sender == b"MAILER-DAEMON" else sender, recipients,
        float(str(entry["arrival_time"])), int(str(entry["message_size"])), state=str(entry["queue_name"]),
    )  # fmt: skip


@pytest.mark.parametrize("long_ids", [False, True])
def test_listing(long_ids: bool) -> None:
    dead = free_port()
    main_cf = {
        "enable_long_queue_ids": "yes" if long_ids else "no",
        "mynetworks": "127.0.0.0/8",
        "relayhost": f"[127.0.0.1]:{dead}",
        "smtpd_recipient_restrictions": "check_recipient_access inline:{ held@example.net=HOLD }",
    }
    with Postfix(main_cf) as postfix:
        assert postfix.command("postqueue", "-p").stdout.splitlines() == list(
            text_listing((), set(), long_ids)
        )
        for sender, *recipients in (
            ("alice@example.com", "bob@example.net", "carol@example.net"),
            ("", "bob@example.net"),
            ("alice@example.com", "held@example.net"),
        ):
            with smtplib.SMTP("127.0.0.1", postfix.ports["submission"]) as client:
                client.sendmail(sender, recipients, "Subject: x\n\n" + "hello\n" * 300)
        found = queued(postfix)
        messages = [ours(entry) for entry in found]
        theirs = postfix.command("postqueue", "-p").stdout.splitlines()
        assert list(text_listing(messages, set(), long_ids)) == theirs
        raw = postfix.command("postqueue", "-j").stdout.splitlines()
        # came after 3.7
        mine = [re.sub('"orig_address": ".*?", ', "", line) for line in json_listing(messages, set())]
        assert mine == raw
