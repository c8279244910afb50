"""A changed lookup table is noticed, with the rights that the process has, without a reload."""

from __future__ import annotations

import os
import smtplib

import pytest
from live.daemon import Mtad, Sink, wait_until


def submit(mtad: Mtad, subject: str) -> None:
    with smtplib.SMTP("127.0.0.1", mtad.ports["submission"]) as client:
        client.sendmail("a@example.com", ["b@example.net"], f"Subject: {subject}\r\n\r\nx\r\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a table that root alone may read")
def test_sasl_passwd_of_root_is_noticed_without_a_reload() -> None:
    with Sink("--auth", "relay:right") as sink:
        mtad = Mtad(
            {
                "mynetworks": "127.0.0.0/8",
                "relayhost": f"[127.0.0.1]:{sink.port}",
                "smtp_sasl_auth_enable": "yes",
                "smtp_sasl_password_maps": "hash:{dir}/sasl_passwd",
                "smtp_sasl_security_options": "noanonymous",
                "minimal_backoff_time": "1s",
                "queue_run_delay": "1s",
            },
            files={"sasl_passwd": "[127.0.0.1]:{port} relay:wrong\n".replace("{port}", str(sink.port))},
        )
        table = mtad.directory / "sasl_passwd"
        table.chmod(0o600)
        assert mtad.command("postmap", f"hash:{table}").returncode == 0
        with mtad:
            submit(mtad, "first")
            mtad.wait_for_log("status=deferred (SASL authentication failed")
            table.write_text(f"[127.0.0.1]:{sink.port} relay:right\n")
            assert mtad.command("postmap", f"hash:{table}").returncode == 0
            assert (mtad.directory / "sasl_passwd.db").stat().st_mode & 0o777 == 0o600

            def flushed() -> bool:
                assert mtad.command("flush").returncode in (0, 1)  # 1: the queue manager is being replaced
                return bool(sink.raw())

            wait_until(flushed, f"the mail, by the new password:\n{mtad.log()}")
            submit(mtad, "second")
            sink.wait_for(2)
