"""SASL mechanisms with real clients: gsasl, swaks, msmtp, curl, and mtad's own; certificates, bindings.

The server has every mechanism; its clients are the ones that Debian has.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from live.authority import Authority
from live.daemon import Mtad, Sink, mail_owner

from mtad.sasl import otp, scram
from mtad.tables.sasldb import SaslDb

REALM = "mail.example.com"
SCRAM = ("SCRAM-SHA-1", "SCRAM-SHA-256")


@dataclass
class House:
    mtad: Mtad
    sink: Sink
    ca: Authority
    foreign: Authority
    port: int


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    root = tmp_path_factory.mktemp("mechanisms")
    root.chmod(0o755)
    root.parent.chmod(0o755)
    ca, foreign = Authority(root / "ca"), Authority(root / "foreign")
    certificate, key = ca.issue("server", [x509.DNSName("localhost"), x509.DNSName(REALM)])
    with Sink() as sink:
        mtad = Mtad(
            {
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_security_options": "",
                "smtpd_sasl_mechanism_filter": "static:rest",
                "smtpd_recipient_restrictions": "permit_sasl_authenticated, reject",
                "smtpd_tls_security_level": "may",
                "smtpd_tls_cert_file": certificate,
                "smtpd_tls_key_file": key,
                "smtpd_tls_CAfile": ca.path,
                "smtpd_tls_ask_ccert": "yes",
                "cyrus_sasl_config_path": "{dir}/sasl",
                "mtad_sasl_channel_binding": "yes",
                "mtad_external_login_maps": "inline:{{cn:robot=alice}}",
                "mtad_external_login_names": "email",
                "relayhost": f"[127.0.0.1]:{sink.port}",
            },
            files={
                "sasl/smtpd.conf": "sasldb_path: {dir}/sasldb2\nauxprop_plugin: sasldb\n"
                "mech_list: scram-sha-512 scram-sha-384 scram-sha-256 scram-sha-224 scram-sha-1 digest-md5 "
                "external otp cram-md5 plain login anonymous\n"
            },
        )
        db = SaslDb(str(mtad.directory / "sasldb2"))
        db.set("alice", REALM, b"secret")
        keys = scram.derive("sha256", b"only hashed", b"0123456789abcdef", 10000)
        db.set("bob", REALM, scram.auth_password(b"SCRAM-SHA-256", keys), "authPassword")
        first = otp.Secret("md5", 100, "ab1234", otp.generate("md5", 100, "ab1234", b"a phrase"))
        db.set("carol", REALM, first.encode(), otp.PROPERTY)
        shutil.chown(mtad.directory / "sasldb2", mail_owner())
        shutil.chown(mtad.directory, mail_owner())
        with mtad:
            yield House(mtad, sink, ca, foreign, mtad.ports["submission"])


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")


def gsasl(
    house: House, mechanism: str, user: str = "alice", password: str = "secret", *, tls: bool = True,
    certificate: tuple[str, str] | None = None, more: tuple[str, ...] = (),
) -> str:  # fmt: skip
    need("gsasl")
    words = ["gsasl", "--smtp", "--connect", f"localhost:{house.port}", "--mechanism", mechanism]
    words += ["--authentication-id", user, "--password", password, "--no-cb", *more]
    words += ["--quality-of-protection", "qop-auth", "--realm", REALM] if mechanism == "DIGEST-MD5" else []
    if "-PLUS" in mechanism:
        words.remove("--no-cb")
    words += ["--x509-ca-file", house.ca.path] if tls else ["--no-starttls"]
    if certificate is not None:
        words += ["--x509-cert-file", certificate[0], "--x509-key-file", certificate[1]]
    done = subprocess.run(words, input="QUIT\n", capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


OK = "235 2.7.0 Authentication successful"


@pytest.mark.parametrize("mechanism", [*SCRAM, "DIGEST-MD5", "CRAM-MD5", "PLAIN", "LOGIN"])
@pytest.mark.parametrize("tls", [False, True])
def test_gsasl(house: House, mechanism: str, tls: bool) -> None:
    assert OK in gsasl(house, mechanism, tls=tls)
    assert "535 5.7.8 Error: authentication failed" in gsasl(house, mechanism, password="wrong", tls=tls)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"])
def test_gsasl_binds_to_the_channel(house: House, mechanism: str) -> None:
    said = gsasl(house, mechanism)
    assert OK in said, said
    assert "535 5.7.8" in gsasl(house, mechanism, password="wrong")


def test_stored_keys(house: House) -> None:
    assert OK in gsasl(house, "SCRAM-SHA-256", "bob", "only hashed")
    assert "535 5.7.8" in gsasl(house, "SCRAM-SHA-256", "bob", "wrong")
    assert "535 5.7.8" in gsasl(house, "SCRAM-SHA-256", "nobody", "wrong")


def test_anonymous(house: House) -> None:
    said = gsasl(house, "ANONYMOUS", more=("--anonymous-token", "me@example.net"))
    assert OK in said, said


def test_external(house: House) -> None:
    mail = house.ca.issue("mail", [x509.RFC822Name("dave@example.com")])
    robot = house.ca.issue("robot", [x509.DNSName("robot.example.com")])
    nobody = house.ca.issue("nobody", [x509.DNSName("nobody.example.com")])
    expired = house.ca.issue("expired", [x509.RFC822Name("eve@example.com")], until=-1)
    stranger = house.foreign.issue("stranger", [x509.RFC822Name("eve@example.com")])
    said = gsasl(house, "EXTERNAL", certificate=mail, more=("--authorization-id", ""))
    assert OK in said, said
    assert OK in gsasl(house, "EXTERNAL", certificate=robot, more=("--authorization-id", "alice"))
    assert "535" in gsasl(house, "EXTERNAL", certificate=robot, more=("--authorization-id", "bob"))
    assert "535" in gsasl(house, "EXTERNAL", certificate=nobody, more=("--authorization-id", ""))
    for certificate in (expired, stranger, None):
        said = gsasl(house, "EXTERNAL", certificate=certificate, more=("--authorization-id", ""))
        assert OK not in said
    log = house.mtad.log()
    assert "the client's certificate stands for no login" in log
    assert "sasl_username=eve@example.com" not in log


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "DIGEST-MD5"])
def test_swaks(house: House, mechanism: str) -> None:
    need("swaks")
    words = ["swaks", "--server", f"127.0.0.1:{house.port}", "--quit-after", "AUTH", "--auth", mechanism]
    words += ["--auth-user", "alice", "--auth-password", "secret"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    if "not available: requires" in done.stdout + done.stderr:
        pytest.skip("needs a Perl module")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "mechanism", ["scram-sha-1", "scram-sha-256", "digest-md5", "cram-md5", "scram-sha-256-plus"]
)
def test_msmtp(house: House, mechanism: str, tmp_path: Path) -> None:
    need("msmtp")
    settings = tmp_path / "msmtprc"
    settings.write_text(
        f"account default\nhost localhost\nport {house.port}\ntls on\ntls_trust_file {house.ca.path}\n"
        f'auth {mechanism}\nuser alice\npassword "secret"\nfrom alice@example.com\n'
    )
    settings.chmod(0o600)
    done = subprocess.run(
        ["msmtp", "-C", str(settings), "bob@example.net"], input=f"Subject: msmtp {mechanism}\n\nhello\n",
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if "not supported" in done.stderr or "invalid argument" in done.stderr:
        pytest.skip(f"msmtp does not know {mechanism}")
    assert done.returncode == 0, done.stderr
    assert f"sasl_method={mechanism.upper()}, sasl_username=alice" in house.mtad.log()


@pytest.mark.parametrize("mechanism", ["CRAM-MD5", "DIGEST-MD5", "SCRAM-SHA-256"])
def test_curl(house: House, mechanism: str, tmp_path: Path) -> None:
    need("curl")
    (tmp_path / "mail").write_text(f"Subject: curl {mechanism}\r\n\r\nhello\r\n")
    words = ["curl", "-sS", "--login-options", f"AUTH={mechanism}", "--user", "alice:secret"]
    words += ["--mail-from", "alice@example.com", "--mail-rcpt", "bob@example.net"]
    url = f"smtp://127.0.0.1:{house.port}"
    done = subprocess.run(
        [*words, "--upload-file", str(tmp_path / "mail"), url], capture_output=True, text=True, timeout=60
    )
    if done.returncode == 67 and "SCRAM" in mechanism:
        pytest.skip("this curl has no SCRAM")
    assert done.returncode == 0, done.stderr
    assert f"sasl_method={mechanism}, sasl_username=alice" in house.mtad.log()


# -- our own client

BINDING = {"mtad_smtp_sasl_channel_binding": "yes"}


def relay(house: House, tmp_path: Path, login: str, **main_cf: str) -> str:
    """What a second mtad, which has ``house`` for its smarthost, logs of a mail's delivery."""
    with Mtad(
        {
            "smtpd_recipient_restrictions": "permit_mynetworks, reject",
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
            "mynetworks": "127.0.0.0/8",
            "relayhost": f"[127.0.0.1]:{house.port}",
            "smtp_sasl_auth_enable": "yes",
            "smtp_sasl_password_maps": f"inline:{{{{[127.0.0.1]:{house.port}={login}}}}}",
            "smtp_tls_security_level": "encrypt",
            "smtp_tls_CAfile": house.ca.path,
            **main_cf,
        }
    ) as other:
        need("swaks")
        words = ["swaks", "--server", f"127.0.0.1:{other.ports['submission']}", "--from", "alice@example.com"]
        subprocess.run([*words, "--to", "bob@example.net"], check=True, capture_output=True, timeout=60)
        return other.wait_for_log("status=")


@pytest.mark.parametrize(
    ("wanted", "more"),
    [
        ("SCRAM-SHA-512", {}),
        ("SCRAM-SHA-512-PLUS", BINDING),
        ("SCRAM-SHA-1-PLUS", BINDING | {"smtp_sasl_mechanism_filter": "scram-sha-1-plus"}),
        ("SCRAM-SHA-512", BINDING | {"smtp_sasl_mechanism_filter": "scram-sha-512"}),
        ("SCRAM-SHA-512-PLUS", BINDING | {"smtp_tls_mandatory_protocols": ">=TLSv1.2, !TLSv1.3"}),
        ("DIGEST-MD5", {"smtp_sasl_mechanism_filter": "digest-md5, cram-md5"}),
        ("PLAIN", {"smtp_sasl_mechanism_filter": "plain", "smtp_sasl_tls_security_options": "noanonymous"}),
    ],
)
def test_our_client(house: House, tmp_path: Path, wanted: str, more: dict[str, str]) -> None:
    before = len(house.mtad.log())
    log = relay(house, tmp_path, "alice:secret", **more)
    assert "status=sent" in log, log
    assert f"sasl_method={wanted}, sasl_username=alice" in house.mtad.log()[before:]


def test_our_client_by_certificate(house: House, tmp_path: Path) -> None:
    certificate, key = house.ca.issue("robot", [x509.DNSName("robot.example.com")])
    before = len(house.mtad.log())
    log = relay(house, tmp_path, "robot:", smtp_tls_cert_file=certificate, smtp_tls_key_file=key)
    assert "status=sent" in log, log
    assert "sasl_method=EXTERNAL, sasl_username=alice" in house.mtad.log()[before:]
