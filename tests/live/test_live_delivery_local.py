"""Local deliveries by the running daemon: maildirs of users, aliases, lists, virtual mailboxes."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live.daemon import Mtad, Sink, wait_until
from live.host_users import changed

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("useradd") is None, reason="makes a user, which needs root"
)

LOCAL = """\
local unix - n n - - local
virtual unix - n n - - virtual
mbox unix - n n - - local -o home_mailbox=mbox
spool unix - n n - - local -o home_mailbox=
maildrop unix - n n - - pipe flags=DRXhu user=vmail argv=/usr/bin/maildrop -d ${recipient}
"""


@contextmanager
def user(name: str) -> Iterator[Path]:
    """A user of this host for as long as the test takes; the home directory."""
    home = Path(tempfile.mkdtemp(prefix="home-"))
    with changed():
        subprocess.run(["useradd", "-M", "-N", "-d", str(home), "-s", "/bin/false", name], check=True)
    try:
        entry = pwd.getpwnam(name)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        yield home
    finally:
        with changed():
            subprocess.run(["userdel", name], check=True)
        shutil.rmtree(home, ignore_errors=True)


def send(
    mtad: Mtad, *recipients: str, sender: str = "me@example.com", text: str = "Subject: x\n\nhello\n"
) -> None:
    with smtplib.SMTP("127.0.0.1", mtad.ports["submission"]) as client:
        client.sendmail(sender, list(recipients), text)


def mails(maildir: Path, count: int) -> list[str]:
    def found() -> list[Path]:
        return sorted((maildir / "new").glob("*")) if (maildir / "new").is_dir() else []

    wait_until(lambda: len(found()) >= count, f"{count} mails in {maildir}")
    return [path.read_text() for path in found()]


def main_cf(**more: str) -> dict[str, str]:
    return {
        "mydestination": "here.test",
        "myorigin": "here.test",
        "mynetworks": "127.0.0.0/8",
        "home_mailbox": "Maildir/",
        "alias_maps": "texthash:{dir}/aliases",
        "recipient_delimiter": "+",
        **more,
    }


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with user("mtadtest") as found:
        yield found


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as running:
        yield running


@pytest.fixture(scope="module")
def mtad(home: Path, sink: Sink) -> Iterator[Mtad]:
    values = main_cf(
        relayhost=f"[127.0.0.1]:{sink.port}",
        virtual_mailbox_domains="box.test",
        transport_maps="inline:{ mbox.test=mbox, spool.test=spool, drop.test=maildrop, gone.test=uucp:x }",
        virtual_mailbox_base=str(home),
        virtual_mailbox_maps="inline:{ you@box.test=virtual/you/, up@box.test=../up/, mbox@box.test=mbox }",
        virtual_uid_maps=f"static:{pwd.getpwnam('mtadtest').pw_uid}",
        virtual_gid_maps=f"static:{pwd.getpwnam('mtadtest').pw_gid}",
    )
    aliases = (
        "one mtadtest\nlist mtadtest, far@example.net, nested\nnested near@example.net, one\n"
        "owner-list boss@example.net\ncommand |/bin/true\nfile /tmp/file\nincluded :include:{dir}/list\n"
        "both mtadtest, far@example.net\npartly far@example.net, :include:/nowhere\n"
    )
    files = {"aliases": aliases, "list": "# who\nfar@example.net\nmtadtest\n"}
    with Mtad(values, files=files, master_extra=LOCAL) as running:
        for name in files:
            (running.directory / name).chmod(0o644)
        yield running


def test_a_user_has_mail(mtad: Mtad, home: Path) -> None:
    text = "Subject: first\n\nhello\n.dot\n" + "x" * 70 + "\n"
    send(mtad, "mtadtest+box@here.test", text=text)
    (mail,) = mails(home / "Maildir", 1)
    assert mail.startswith("Return-Path: <me@example.com>\nX-Original-To: mtadtest+box@here.test\n")
    assert "\nDelivered-To: mtadtest+box@here.test\n" in mail
    assert mail.endswith("\n\nhello\n.dot\n" + "x" * 70 + "\n")
    status = os.stat(next((home / "Maildir" / "new").iterdir()))
    assert (status.st_uid, status.st_mode & 0o777) == (pwd.getpwnam("mtadtest").pw_uid, 0o600)
    mtad.wait_for_log("relay=local, delay=")
    assert "status=sent (delivered to maildir)" in mtad.log()


def test_a_large_mail_is_whole(mtad: Mtad, home: Path) -> None:
    body = "".join(f"{n} " + "y" * 60 + "\n" for n in range(20_000))
    send(mtad, "mtadtest@here.test", text="Subject: large\n\n" + body)
    wait_until(lambda: any("large" in mail for mail in mails(home / "Maildir", 1)), "the large mail")
    large = next(mail for mail in mails(home / "Maildir", 1) if "Subject: large" in mail)
    assert large.endswith("\n\n" + body)


def test_nobody_has_none(mtad: Mtad) -> None:
    send(mtad, "mtadnobody@here.test")
    mtad.wait_for_log('status=bounced (unknown user: "mtadnobody")')
    send(mtad, "root@here.test")
    mtad.wait_for_log("status=deferred (no mail is written as root: make root an alias of somebody)")


def test_an_alias_of_one_is_that_one(mtad: Mtad, home: Path) -> None:
    send(mtad, "one@here.test", text="Subject: alias\n\nx\n")
    wait_until(lambda: any("Subject: alias" in mail for mail in mails(home / "Maildir", 1)), "the mail")
    mtad.wait_for_log("to=<mtadtest@here.test>, orig_to=<one@here.test>, relay=local")
    (mail,) = [mail for mail in mails(home / "Maildir", 1) if "Subject: alias" in mail]
    assert mail.startswith(
        "Return-Path: <me@example.com>\nX-Original-To: one@here.test\nDelivered-To: one@here.test\nReceived: "
    )


def test_an_alias_of_two_is_a_mail_for_each(mtad: Mtad, home: Path, sink: Sink) -> None:
    before = len(sink.raw())
    send(mtad, "both@here.test", text="Subject: both\n\nx\n")
    (got,) = sink.wait_for(before + 1)[before:]
    assert got.get_all("Delivered-To") == ["both@here.test"] and len(got.get_all("Received")) == 2
    wait_until(lambda: any("Subject: both" in mail for mail in mails(home / "Maildir", 1)), "the mail")
    (mail,) = [mail for mail in mails(home / "Maildir", 1) if "Subject: both" in mail]
    assert mail.count("Delivered-To: both@here.test\n") == 1 and mail.count("Received: ") == 1
    mtad.wait_for_log("to=<mtadtest@here.test>, orig_to=<both@here.test>, relay=local")


def test_a_list_goes_to_all_once_and_its_owner_hears(mtad: Mtad, home: Path, sink: Sink) -> None:
    before = len(sink.raw())
    send(mtad, "list@here.test", text="Subject: list\n\nx\n")
    (got,) = sink.wait_for(before + 1)[before:]
    assert got["X-Sink-Sender"] == "owner-list@here.test"
    assert sorted(got.get_all("X-Sink-Recipient")) == ["far@example.net", "near@example.net"]
    assert got["Delivered-To"] == "list@here.test"
    wait_until(lambda: any("Subject: list" in mail for mail in mails(home / "Maildir", 1)), "the mail")
    found = [mail for mail in mails(home / "Maildir", 1) if "Subject: list" in mail]
    assert len(found) == 1 and "Return-Path: <owner-list@here.test>" in found[0]
    assert "forwarded as" in mtad.log()


def test_what_is_wrong_in_an_alias_stops_nobody_else(mtad: Mtad, sink: Sink) -> None:
    before = len(sink.raw())
    send(mtad, "partly@here.test", text="Subject: partly\n\nx\n")
    found = {mail["X-Sink-Recipient"]: mail for mail in sink.wait_for(before + 2)[before:]}
    assert found["far@example.net"]["Subject"] == "partly"
    notice = found["me@example.com"].as_string()
    assert "<partly@here.test>: mail system configuration error" in notice and "Status: 5.3.5" in notice


def test_an_included_list(mtad: Mtad, home: Path, sink: Sink) -> None:
    before = len(sink.raw())
    send(mtad, "included@here.test", text="Subject: included\n\nx\n")
    sink.wait_for(before + 1)
    wait_until(lambda: any("Subject: included" in mail for mail in mails(home / "Maildir", 1)), "the mail")


def test_commands_and_files_wait(mtad: Mtad) -> None:
    send(mtad, "command@here.test", "file@here.test")
    mtad.wait_for_log("status=deferred (delivery to commands is not available in mtad)")
    mtad.wait_for_log("status=deferred (delivery to files is not available in mtad)")


def test_what_others_deliver_waits(mtad: Mtad) -> None:
    """mbox, the mail spool, programs: deferred, and there until somebody sees to it."""
    people = ["mtadtest@mbox.test", "mtadtest@spool.test", "x@drop.test", "x@gone.test"]
    send(mtad, *people)
    for one, why in zip(
        people,
        (
            *("home_mailbox does not end in a slash: mtad writes only maildirs",) * 2,
            'mail transport "maildrop" is not available in mtad',
            'mail transport "uucp" is not available in mtad',
        ),
        strict=True,
    ):
        wait_until(
            lambda one=one, why=why: re.search(rf"to=<{one}>.* status=deferred \({why}\)", mtad.log()), one
        )
    listed = mtad.command("postqueue", "-p").stdout
    assert all(one in listed for one in people)


def test_a_forward_file_is_not_looked_at(mtad: Mtad, home: Path, sink: Sink) -> None:
    before = len(sink.raw())
    (home / ".forward").write_text("far@example.net\n")
    send(mtad, "mtadtest@here.test", text="Subject: mine\n\nx\n")
    wait_until(lambda: any("Subject: mine" in mail for mail in mails(home / "Maildir", 1)), "the mail")
    (home / ".forward").unlink()
    assert len(sink.raw()) == before


def test_mail_that_was_here_before_is_a_loop(mtad: Mtad) -> None:
    send(mtad, "list@here.test", text="Delivered-To: list@here.test\nSubject: loop\n\nx\n")
    mtad.wait_for_log("status=bounced (mail forwarding loop for list@here.test)")


def test_virtual_mailboxes(mtad: Mtad, home: Path) -> None:
    send(mtad, "you@box.test", "up@box.test", "mbox@box.test")
    (mail,) = mails(home / "virtual" / "you", 1)
    assert "\nDelivered-To: you@box.test\n" in mail
    mtad.wait_for_log("to=<up@box.test>, relay=virtual")
    mtad.wait_for_log("status=deferred (mail system configuration error)")
    mtad.wait_for_log("status=deferred (the mailbox is no maildir: mtad writes no other)")


def test_a_new_process_writes_after_a_reload(mtad: Mtad, home: Path) -> None:
    assert mtad.command("reload").returncode == 0
    send(mtad, "mtadtest@here.test", text="Subject: reloaded\n\nx\n")
    wait_until(lambda: any("Subject: reloaded" in mail for mail in mails(home / "Maildir", 1)), "the mail")
