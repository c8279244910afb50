"""A maillog gets a new file; no line is lost."""

from __future__ import annotations

import gzip

from live.daemon import Mtad, wait_until
from live.peers import Client


def test_logrotate() -> None:
    with Mtad({"maillog_file_rotate_suffix": "%Y"}) as mtad:
        with Client(mtad.ports["submission"]) as client:
            client.say(b"EHLO before.example")
        wait_until(lambda: mtad.log().count("]: disconnect from ") >= 2, "the end of the session")
        done = mtad.command("logrotate")
        assert (done.returncode, "note:" in done.stderr) == (0, False), done.stderr
        (old,) = mtad.root.glob("maillog.*")
        text = gzip.decompress(old.read_bytes()).decode()
        assert "daemon started" in text
        assert text.count("]: disconnect from ") == text.count("]: connect from ")
        with Client(mtad.ports["submission"]) as client:
            client.say(b"EHLO after.example")
        wait_until(lambda: mtad.log().count("]: disconnect from ") >= 1, "lines in the new file")
        assert "daemon started" not in mtad.log()
        assert mtad.maillog.stat().st_mode & 0o777 == 0o600
        again = mtad.command("logrotate")  # the same name: gzip refuses
        assert again.returncode == 1
        assert "rotation failed" in again.stderr
        assert (mtad.root / old.stem).exists()


def test_open_sessions_write_on() -> None:
    with Mtad({}) as mtad, Client(mtad.ports["submission"]) as client:
        client.say(b"EHLO client.example")
        done = mtad.command("logrotate")
        assert done.returncode == 0
        assert "open sessions still write to it" in done.stderr
        (old,) = mtad.root.glob("maillog.*")
        before = old.read_text().count("]: disconnect from ")
        client.say(b"QUIT")
        wait_until(
            lambda: old.read_text().count("]: disconnect from ") == before + 1, "the session's last line"
        )


def test_what_cannot_be_rotated() -> None:
    with Mtad({"maillog_file_compressor": "false"}) as mtad:
        failed = mtad.command("logrotate")
        assert failed.returncode == 1
        assert "rotation failed" in failed.stderr
        mtad.write_main_cf(maillog_file="/dev/stdout", maillog_file_prefixes="/dev/stdout")
        failed = mtad.command("logrotate")
        assert failed.returncode == 1
        assert "not rotating '/dev/stdout'" in failed.stderr
        mtad.write_main_cf(maillog_file="")
        failed = mtad.command("logrotate")
        assert failed.returncode == 1
        assert "empty 'maillog_file' parameter value" in failed.stderr
