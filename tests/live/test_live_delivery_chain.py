"""mtad before real servers: Debian's Postfix with a login and TLS, Exim, Dovecot's LMTP, and a bad one."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import smtplib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from live.daemon import Mtad, Sink, wait_until
from live.peers import Peer, Talk
from oracle.postfix import AVAILABLE, WHY_NOT, Postfix, free_port, wait_for_port

from mtad.net.certificates import make_self_signed
from mtad.tables.sasldb import SaslDb

ROOT = os.geteuid() == 0
EXIM = shutil.which("exim4") or "/opt/exim/usr/sbin/exim4"
LMTPD = "/usr/lib/dovecot/lmtp"
#: A mail with all that is easily spoilt on the way.
TEXT = "Subject: chain\r\n\r\n.\r\n..dots\r\n" + "long " * 190 + "\r\n\r\nlast line\r\n"


def send(mtad: Mtad, *recipients: str, text: str = TEXT) -> None:
    with smtplib.SMTP("127.0.0.1", mtad.ports["submission"], timeout=60) as client:
        client.sendmail("me@example.com", list(recipients), text)


def body(raw: str) -> str:
    return raw.replace("\r\n", "\n").partition("\n\n")[2]


EXPECTED = body(TEXT)


@contextmanager
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="chain-"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def process(*command: str, quiet: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """A server of the test, ended by its own pid."""
    output = subprocess.DEVNULL if quiet else None
    running = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)


@pytest.mark.skipif(not AVAILABLE, reason=WHY_NOT)
def test_postfix_with_a_login_and_tls() -> None:
    with Sink() as sink, directory() as place:
        certificate, key = str(place / "cert.pem"), str(place / "key.pem")
        make_self_signed("localhost", certificate, key)
        database = place / "sasldb2"
        SaslDb(str(database)).set("relay", "example.com", b"looking glass:1")
        database.chmod(0o644)
        smtpd = (
            f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {database}\n"
            "mech_list: PLAIN SCRAM-SHA-256\n"
        )
        upstream = Postfix(
            {
                "relayhost": f"[127.0.0.1]:{sink.port}",
                "smtpd_tls_chain_files": f"{key}, {certificate}",
                "smtpd_tls_security_level": "encrypt",
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_local_domain": "example.com",
                "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
                "cyrus_sasl_config_path": "{dir}/sasl",
            },
            files={"sasl/smtpd.conf": smtpd},
        )
        with upstream:
            port = upstream.ports["submission"]
            main = {
                "mynetworks": "127.0.0.0/8",
                "relayhost": f"[127.0.0.1]:{port}",
                "smtp_tls_security_level": "encrypt",
                "smtp_sasl_auth_enable": "yes",
                "smtp_sasl_security_options": "noanonymous",
                "smtp_sasl_password_maps": f"inline:{{ {{ [127.0.0.1]:{port} = relay:looking glass:1 }} }}",
            }
            with Mtad(main) as mtad:
                send(mtad, "you@far.example", "he@far.example")
                (mail,) = sink.wait_for(1)
                assert sorted(mail.get_all("X-Sink-Recipient")) == ["he@far.example", "you@far.example"]
                assert body(sink.raw()[0].decode()) == EXPECTED
                assert any("ESMTPSA" in received for received in mail.get_all("Received"))
                mtad.wait_for_log("removed")
                assert mtad.log().count("status=sent") == 2


EXIM_CONF = """
exim_path = {exim}
spool_directory = {place}/spool
log_file_path = {place}/spool/%slog
primary_hostname = exim.example
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
never_users = root
acl_smtp_rcpt = accept
acl_smtp_data = accept
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts =
chunking_advertise_hosts = *
queue_only = true
begin routers
begin transports
"""


@pytest.mark.skipif(not ROOT or not os.path.exists(EXIM), reason="needs root and exim4 (exim4-daemon-light)")
def test_exim() -> None:
    try:
        user = pwd.getpwnam("Debian-exim")
    except KeyError:
        pytest.skip("needs the user Debian-exim")
    with directory() as place:
        (place / "spool").mkdir()
        os.chown(place / "spool", user.pw_uid, user.pw_gid)
        port = free_port()
        configuration = place / "exim.conf"
        configuration.write_text(EXIM_CONF.format(exim=EXIM, place=place, port=port))
        with process(EXIM, "-C", str(configuration), "-bdf", "-oP", str(place / "spool" / "pid")):
            wait_for_port(port)
            with Mtad({"mynetworks": "127.0.0.0/8", "relayhost": f"[127.0.0.1]:{port}"}) as mtad:
                send(mtad, "you@far.example", "he@far.example")
                mtad.wait_for_log("removed")
                assert mtad.log().count("status=sent (250 OK id=") == 2
                (data,) = (place / "spool" / "input").glob("*-D")
                (envelope,) = (place / "spool" / "input").glob("*-H")
                assert data.read_text().partition("\n")[2] == EXPECTED
                assert "you@far.example" in envelope.read_text() and "he@far.example" in envelope.read_text()


DOVECOT = """
base_dir = {place}/run
state_dir = {place}/state
log_path = {place}/log
protocols = lmtp
ssl = no
mail_location = maildir:{place}/mail/%u
mail_uid = {uid}
mail_gid = {gid}
first_valid_uid = 1
postmaster_address = postmaster@example.com
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = passwd-file
  args = {place}/users
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service lmtp {{
  unix_listener {place}/lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"""


@pytest.mark.skipif(
    not ROOT or shutil.which("dovecot") is None or not os.path.exists(LMTPD),
    reason="needs root and dovecot (dovecot-lmtpd)",
)
def test_dovecot_by_lmtp_over_both_kinds_of_sockets() -> None:
    with directory() as place:
        owner = pwd.getpwnam("nobody")
        port = free_port()
        (place / "mail").mkdir()
        os.chown(place / "mail", owner.pw_uid, owner.pw_gid)
        lines = [
            f"{name}::{owner.pw_uid}:{owner.pw_gid}::/nonexistent::\n"
            for name in ("one@box.test", "two@box.test")
        ]
        (place / "users").write_text("".join(lines))
        configuration = place / "dovecot.conf"
        configuration.write_text(DOVECOT.format(place=place, port=port, uid=owner.pw_uid, gid=owner.pw_gid))
        main = {
            "mynetworks": "127.0.0.0/8",
            "virtual_mailbox_domains": "box.test",
            "virtual_mailbox_maps": "",
            "virtual_transport": f"lmtp:unix:{place}/lmtp",
            "transport_maps": f"inline:{{ {{two@box.test=lmtp:inet:127.0.0.1:{port}}} }}",
        }
        with process("dovecot", "-F", "-c", str(configuration)):
            wait_for_port(port)
            with Mtad(main) as mtad:
                send(mtad, "one@box.test", "two@box.test", "nosuch@box.test")

                def mails(user: str) -> list[Path]:
                    return list((place / "mail" / user / "new").glob("*"))

                wait_until(lambda: mails("one@box.test") and mails("two@box.test"), "two mails")
                for user in ("one@box.test", "two@box.test"):
                    (mail,) = mails(user)
                    assert body(mail.read_text()) == EXPECTED
                mtad.wait_for_log("status=bounced (host mail.example.com[")
                mtad.wait_for_log("to=<one@box.test>")
                log = mtad.wait_for_log("to=<two@box.test>")
                assert f"to=<one@box.test>, relay=mail.example.com[{place}/lmtp], delay=" in log
                assert f"to=<two@box.test>, relay=127.0.0.1[127.0.0.1]:{port}, delay=" in log
                assert "User doesn't exist: nosuch@box.test (in reply to RCPT TO command)" in log


# -- a bad server

Bad = Callable[[Talk], bytes | None]


def cut(talk: Talk) -> bytes:
    talk.close()
    return b""


def stall(talk: Talk) -> bytes:
    time.sleep(3)
    return b""


def garbage(talk: Talk) -> bytes:
    talk.say(b"\x00\xffwhat?\r\n" * 3)
    return cut(talk)


def endless(talk: Talk) -> bytes:
    talk.say(b"250-" + b"x" * 100_000 + b"\r\n")
    return cut(talk)


def half(talk: Talk) -> bytes:
    talk.say(b"25")
    return cut(talk)


BAD: dict[str, Bad] = {
    "cut": cut,
    "stall": stall,
    "garbage": garbage,
    "endless": endless,
    "later": lambda talk: b"451 4.3.0 later\r\n",
    "closing": lambda talk: b"421 4.3.2 closing\r\n",
    "half": half,
}
STAGES = ("connect", "helo", "mail", "rcpt", "data", "dot")


def once(bad: Bad, stage: str, acknowledged: list[bytes]) -> dict[str, Bad]:
    """Stages that go wrong at ``stage`` the first time, and note what they take later."""
    failed: list[bool] = []

    def go_wrong(talk: Talk) -> bytes | None:
        if failed:
            return take(talk) if stage == "dot" else USUAL[stage]
        failed.append(True)
        return bad(talk)

    def take(talk: Talk) -> bytes:
        if talk.bodies[-1]:  # else the lone dot that ends a transaction which was refused before
            acknowledged.append(talk.bodies[-1])
        return b"250 2.0.0 kept\r\n"

    return {"dot": take, stage: go_wrong}


USUAL = {
    "connect": b"220 peer.example ESMTP\r\n",
    "helo": b"250-peer.example\r\n250 PIPELINING\r\n",
    "mail": b"250 ok\r\n",
    "rcpt": b"250 ok\r\n",
    "data": b"354 go on\r\n",
}
QUICK = {
    "mynetworks": "127.0.0.0/8",
    "minimal_backoff_time": "1s",
    "maximal_backoff_time": "1s",
    "queue_run_delay": "1s",
    **{
        f"smtp_{stage}_timeout": "1s"
        for stage in (
            "connect",
            "helo",
            "mail",
            "rcpt",
            "data_init",
            "data_xfer",
            "data_done",
            "rset",
            "quit",
        )
    },
}


def test_a_bad_server_costs_no_mail_and_doubles_none() -> None:
    peers: dict[str, tuple[Peer, list[bytes]]] = {}
    for stage in STAGES:
        for name, bad in BAD.items():
            acknowledged: list[bytes] = []
            number = f"{stage}-{name}".replace(" ", "-")
            peers[number] = (Peer(once(bad, stage, acknowledged)), acknowledged)
    transports = "".join(f"{name}.test smtp:[127.0.0.1]:{peer.port}\n" for name, (peer, _) in peers.items())
    main = {**QUICK, "transport_maps": "texthash:{dir}/transport"}
    started = [peer.__enter__() for peer, _ in peers.values()]
    try:
        with Mtad(main, files={"transport": transports}) as mtad:
            for name in peers:
                send(mtad, f"you@{name}.test", text=f"Subject: {name}\r\n\r\nbody of {name}\r\n")
            wait_until(
                lambda: mtad.log().count(": removed") >= len(peers), "all mails\n" + mtad.log()[-3000:], 40
            )
            log = mtad.log()
            assert "status=bounced" not in log and "Traceback" not in log
    finally:
        for peer in started:
            peer.__exit__()
    for name, (_, acknowledged) in peers.items():
        assert [body(mail.decode()) for mail in acknowledged] == [f"body of {name}\n"], name
