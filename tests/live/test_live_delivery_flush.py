"""Mail that waits for a domain, asked for by ETRN and by postqueue -s."""

from __future__ import annotations

import smtplib

from live.daemon import Mtad, Sink
from oracle.postfix import free_port


def test_what_waits_for_a_domain_is_tried_when_asked_for() -> None:
    port = free_port()
    main = {
        "mynetworks": "127.0.0.0/8",
        "relayhost": f"[127.0.0.1]:{port}",
        "fast_flush_domains": "dest.test",
        "default_destination_concurrency_failed_cohort_limit": "0",
    }
    with Mtad(main) as mtad, smtplib.SMTP("127.0.0.1", mtad.ports["submission"], timeout=60) as client:
        client.ehlo("client.example")
        client.sendmail("a@b.example", ["x@dest.test"], "Subject: one\n\nx\n")
        client.sendmail("a@b.example", ["x@other.test"], "Subject: two\n\nx\n")
        mtad.wait_until_deferred()
        with Sink(port=port) as sink:
            assert client.docmd("ETRN other.test") == (459, b"<other.test>: service unavailable")
            assert client.docmd("ETRN dest.test") == (250, b"Queuing started")
            (mail,) = sink.wait_for(1)
            assert mail["Subject"] == "one"
            done = mtad.command("postqueue", "-s", "other.test")
            assert done.returncode == 69 and "not configured for destination" in done.stderr
            assert mtad.command("postqueue", "-f").returncode == 0
            sink.wait_for(2)
