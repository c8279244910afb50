"""The queue's commands with a running mtad: by links with Postfix's names, as root and as other users."""

from __future__ import annotations

import json
import os
import smtplib
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from live.daemon import Mtad, Sink, wait_until
from live.forked import forked

from mtad.cli import postqueue, postsuper, sendmail

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes other users")


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="module")
def mtad(sink: Sink) -> Iterator[Mtad]:
    settings = {
        "relayhost": f"[127.0.0.1]:{sink.port}",
        "mynetworks": "127.0.0.0/8",
        "smtpd_recipient_restrictions": "check_recipient_access inline:{ held@example.net=HOLD }",
        "authorized_submit_users": "!daemon, static:all",
        "authorized_mailq_users": "root, nobody",
        "authorized_flush_users": "root",
        "local_login_sender_maps": "inline:{ { nobody = nobody, <> @nobody.example } { root = * } }",
        "command_directory": "{dir}",  # there is no set-gid postdrop
        "fast_flush_domains": "example.net",
    }
    with Mtad(settings) as mtad:
        yield mtad


def as_user(
    uid: int, command: Callable[[Sequence[str]], int], *arguments: str, text: bytes = b""
) -> tuple[int, str]:
    """Exit status and output of a command that another user runs."""
    status, out, err = forked(command, *arguments, text=text, uid=uid)
    return status, out + err


@needs_root
def test_everybody_may_submit_once_it_is_opened(mtad: Mtad, sink: Sink, tmp_path: Path) -> None:
    here = ("-C", str(mtad.directory))
    status, said = as_user(NOBODY, sendmail.main, *here, "a@example.net", text=b"Subject: too soon\n\nhi\n")
    assert (status, "permission denied" in said, "mtad install-commands" in said) == (75, True, True)

    done = mtad.command("install-commands", "--prefix", str(tmp_path / "usr"))
    assert done.returncode == 0, done.stderr
    assert "everybody may submit mail" in done.stdout
    maildrop = mtad.queue / "maildrop"
    assert stat.S_IMODE(maildrop.stat().st_mode) == 0o1733
    before = len(sink.raw())
    status, said = as_user(
        NOBODY, sendmail.main, *here, "-i", "a@example.net", text=b"Subject: by nobody\n\nhi\n"
    )
    assert (status, said) == (0, "")
    mail = sink.wait_for(before + 1)[-1]
    assert mail["Subject"] == "by nobody"
    assert "from userid 65534" in str(mail["Received"])
    assert mail["X-Sink-Sender"] == "nobody@mail.example.com"

    status, said = as_user(NOBODY, sendmail.main, *here, "-f", "root", "a@example.net", text=b"hi\n")
    assert (status, said) == (75, "sendmail: fatal: root(65534): not authorized to use sender='root'\n")
    status, said = as_user(1, sendmail.main, *here, "a@example.net", text=b"hi\n")
    assert (status, said) == (75, "sendmail: fatal: User daemon(1) is not allowed to submit mail\n")


@needs_root
def test_who_is_not_authorized_is_not_by_hand_either(mtad: Mtad, sink: Sink) -> None:
    """A file that a user has put there without sendmail."""
    mtad.command("install-commands", "--prefix", str(mtad.root / "usr"))
    before = len(sink.raw())

    def drop(arguments: Sequence[str]) -> int:
        path = mtad.queue / "maildrop" / "00000AAAAAA"
        path.write_bytes(b"T\x011S\x04rootR\x0da@example.netM\0N\x02hiX\0E\0")
        path.chmod(0o744)
        return 0

    for uid in (1, NOBODY):
        logged = len(mtad.log())
        assert as_user(uid, drop)[0] == 0
        wait_until(lambda logged=logged: "message moved to corrupt" in mtad.log()[logged:], "its end")
    assert len(sink.raw()) == before
    assert list((mtad.queue / "maildrop").iterdir()) == []


@needs_root
def test_who_may_see_and_flush(mtad: Mtad) -> None:
    here = ("-c", str(mtad.directory))
    (port,) = mtad.ports.values()
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.sendmail("alice@example.com", ["held@example.net"], b"Subject: held\r\n\r\nhi\r\n")
    status, said = as_user(NOBODY, postqueue.main, *here, "-p")
    assert (status, "held@example.net" in said, said.endswith("in 1 Request.\n")) == (0, True, True)
    status, said = as_user(NOBODY, postqueue.main, *here, "-j")
    assert json.loads(said)["queue_name"] == "hold"
    status, said = as_user(NOBODY, postqueue.main, *here, "-f")
    assert (status, said) == (
        69,
        "postqueue: fatal: User nobody(65534) is not allowed to flush the mail queue\n",
    )
    status, said = as_user(1, postqueue.main, *here, "-p")
    assert (status, said) == (69, "postqueue: fatal: User daemon(1) is not allowed to view the mail queue\n")
    status, said = as_user(NOBODY, postsuper.main, *here, "-d", "ALL")
    assert (status, said) == (1, "postsuper: fatal: use of this command is reserved for the superuser\n")
    assert mtad.command("postqueue", "-s", "example.net").returncode == 0
    assert mtad.command("postsuper", "-d", "ALL").stderr.endswith("postsuper: Deleted: 1 message\n")


def test_links_are_commands(mtad: Mtad, sink: Sink, tmp_path: Path) -> None:
    prefix = tmp_path / "usr"
    (prefix / "sbin").mkdir(parents=True)
    (prefix / "sbin" / "sendmail").write_text("somebody else's")
    done = mtad.command("install-commands", "--prefix", str(prefix))
    assert done.returncode == 1
    assert "sendmail: left alone" in done.stdout
    assert mtad.command("install-commands", "--prefix", str(prefix), "--force").returncode == 0
    environment = {**os.environ, "MAIL_CONFIG": str(mtad.directory)}

    def run(name: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [prefix / name, *arguments],
            env=environment,
            text=True,
            capture_output=True,
            input=text,
            timeout=60,
        )

    before = len(sink.raw())
    assert run("sbin/sendmail", "-t", text="To: x@example.net\nSubject: by a link\n\nhi\n").returncode == 0
    assert sink.wait_for(before + 1)[-1]["Subject"] == "by a link"
    wait_until(lambda: run("bin/mailq").stdout == "Mail queue is empty\n", "an empty queue")
    assert run("sbin/postconf", "-h", "myhostname").stdout == "mail.example.com\n"
    assert run("sbin/postfix", "status").returncode == 0
    assert run("sbin/mtad", "status").returncode == 0
    assert run("bin/newaliases").returncode == 0
    assert run("sbin/postqueue", "-f").returncode == 0
    assert "Deleted: 0 messages" in run("sbin/postsuper", "-d", "ABCDEF").stderr
    assert "TOTAL" in run("sbin/qshape").stdout
    assert run("sbin/postlog", "-t", "me", "hello").returncode == 0
    mtad.wait_for_log("me[")
    assert mtad.command("install-commands", "--prefix", str(prefix), "--remove").returncode == 0
    assert [path.name for path in (prefix / "sbin").iterdir()] == ["sendmail"]
    assert (prefix / "sbin" / "sendmail").read_text() == "somebody else's"


def test_submission_while_it_is_down(sink: Sink) -> None:
    with Mtad({"relayhost": f"[127.0.0.1]:{sink.port}"}) as mtad:
        mtad.command("stop")
        before = len(sink.raw())
        done = mtad.command(
            "sendmail", "-f", "a@example.com", "b@example.net", text_input="Subject: later\n\nhi\n"
        )
        assert (done.returncode, done.stderr) == (0, "")
        listed = mtad.command("postqueue", "-j")
        assert json.loads(listed.stdout)["queue_name"] == "maildrop"
        assert "Mail system is down -- accessing queue directly" in listed.stderr
        mtad.start()
        assert sink.wait_for(before + 1)[-1]["Subject"] == "later"


def test_content_that_is_refused_goes_back_to_its_sender(sink: Sink) -> None:
    settings = {"relayhost": f"[127.0.0.1]:{sink.port}", "message_size_limit": "20000"}
    settings["header_checks"] = "regexp:{{/^Subject: no/ REJECT not this}}"
    with Mtad(settings) as mtad:
        before = len(sink.raw())
        mtad.command("sendmail", "-f", "a@example.com", "b@example.net", text_input="Subject: no\n\nhi\n")
        mail = sink.wait_for(before + 1)[-1]
        assert mail["X-Sink-Recipient"] == "a@example.com"
        assert mail["Subject"] == "Undelivered Mail Returned to Sender"
        assert b"not this" in sink.raw()[-1]
        assert list((mtad.queue / "maildrop").iterdir()) == []


def test_large_mail_and_many_at_once(mtad: Mtad, sink: Sink) -> None:
    before = len(sink.raw())
    text = "Subject: large\n\n" + "0123456789" * 50 + "\n" + ("x" * 70 + "\n") * 20_000
    assert mtad.command("sendmail", "-f", "a@example.com", "b@example.net", text_input=text).returncode == 0
    bodies = sink.wait_for(before + 1)
    assert len(str(bodies[-1].get_payload())) > 1_400_000


def test_requeued_mail_goes_through_intake_again(sink: Sink) -> None:
    """By the rules that there are now, with a new queue id; while the system runs and while it does not."""
    settings = {
        "relayhost": f"[127.0.0.1]:{sink.port}",
        "mynetworks": "127.0.0.0/8",
        "smtpd_recipient_restrictions": "static:HOLD",
    }
    with Mtad(settings) as mtad:
        (port,) = mtad.ports.values()
        with smtplib.SMTP("127.0.0.1", port) as client:
            for name in ("old", "other"):
                text = f"Subject: for {name}\r\n\r\nhi\r\n".encode()
                client.sendmail("alice@example.com", [f"{name}@example.net"], text)
        one, two = (
            json.loads(line)["queue_id"] for line in mtad.command("postqueue", "-j").stdout.splitlines()
        )
        before = len(sink.raw())
        mtad.write_main_cf(virtual_alias_maps="inline:{ old@example.net=new@example.org }")
        assert mtad.command("reload").returncode == 0
        done = mtad.command("postsuper", "-r", one)
        assert done.stderr == f"postsuper: {one}: requeued\npostsuper: Requeued: 1 message\n"
        mail = sink.wait_for(before + 1)[-1]
        assert mail["X-Sink-Recipient"] == "new@example.org"
        assert len(mail.get_all("Received", [])) == 2
        log = mtad.wait_for_log(f"orig_id={one}")
        assert f"from=<alice@example.com> orig_id={one}\n" in log
        mtad.command("stop")
        assert mtad.command("postsuper", "-r", two).returncode == 0
        assert json.loads(mtad.command("postqueue", "-j").stdout)["queue_name"] == "maildrop"
        mtad.start()
        assert sink.wait_for(before + 2)[-1]["X-Sink-Recipient"] == "other@example.net"
        wait_until(
            lambda: mtad.command("postqueue", "-p").stdout == "Mail queue is empty\n", "an empty queue"
        )


def test_what_nobody_finished_is_purged_after_a_week(mtad: Mtad) -> None:
    maildrop = mtad.queue / "maildrop"
    for name, days in (("0A0B0C0D01", 8), ("0A0B0C0D02", 6)):
        path = maildrop / name
        path.write_bytes(b"T")
        path.chmod(0o600)
        then = time.time() - days * 86400
        os.utime(path, (then, then))
    done = mtad.command("postsuper", "-p")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in maildrop.glob("0A0B*")) == ["0A0B0C0D02"]
    (maildrop / "0A0B0C0D02").unlink()


def test_sendmail_starts_the_system() -> None:
    with Mtad({}) as other:
        other.command("stop")
        before = other.log().count("daemon started")
        assert other.command("sendmail", "-bd").returncode == 0
        assert other.log().count("daemon started") == before + 1
        with smtplib.SMTP("127.0.0.1", *other.ports.values()) as client:
            assert client.noop()[0] == 250
