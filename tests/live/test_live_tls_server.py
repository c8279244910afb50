"""TLS of the server as clients meet it: resumed sessions, certificates that change, certificates by name."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.daemon import MTAD, Mtad, wait_until
from unit.net.net_pki import Issued, pem, pem_key

ROOT = Issued("Test Root", authority=True)


def issue(*names: str, kind: str = "ec") -> Issued:
    return Issued(names[0], ROOT, names=names, kind=kind)


@pytest.fixture(scope="module")
def pki() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="tls-"))
    directory.chmod(0o755)
    ROOT.write(directory / "root.pem", key=False)
    for name in ("mail", "one", "two"):
        issue(f"{name}.example.com").write(directory / f"{name}.pem", chain=(ROOT,))
    issue("rsa.example.com", kind="rsa").write(directory / "rsa.pem")
    issue("wild.example.com").write(directory / "below.pem")
    yield directory
    shutil.rmtree(directory)


def context(pki: Path, *, tls13: bool = True, ciphers: str = "") -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(pki / "root.pem"))
    made.check_hostname = False
    if not tls13:
        made.maximum_version = ssl.TLSVersion.TLSv1_2
    if ciphers:
        made.set_ciphers(ciphers)
    return made


class Client:
    """A session after STARTTLS and EHLO."""

    def __init__(self, port: int, context: ssl.SSLContext, name: str = "", session: object = None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), 60)
        self._file = plain.makefile("rb")
        for line in ("", "EHLO c.example", "STARTTLS"):
            if line:
                plain.sendall(f"{line}\r\n".encode())
            while self._file.readline()[3:4] == b"-":
                pass
        self.tls = context.wrap_socket(plain, server_hostname=name or None, session=session)  # type: ignore[arg-type]
        self.tls.sendall(b"EHLO c.example\r\n")
        reply = b""
        while not re.search(rb"^250 .*\r\n", reply, re.MULTILINE):
            reply += self.tls.recv(4096)

    def close(self) -> None:
        self.tls.sendall(b"QUIT\r\n")
        while self.tls.recv(4096):
            pass
        self.tls.close()


def names_shown(port: int, pki: Path, name: str = "", ciphers: str = "") -> str:
    """The name in the server's certificate, and the cipher where one was asked for."""
    client = Client(port, context(pki, tls13=not ciphers, ciphers=ciphers), name)
    certificate, cipher = client.tls.getpeercert(), client.tls.cipher()
    client.close()
    assert certificate is not None and cipher is not None
    return f"{certificate['subject'][0][0][1]}/{cipher[0] if ciphers else ''}"


MAIN = {"smtpd_tls_security_level": "may", "smtpd_tls_loglevel": "1", "mtad_smtpd_workers": "2"}


@pytest.mark.parametrize("tls13", [True, False], ids=["TLSv1.3", "TLSv1.2"])
def test_sessions_are_resumed_in_all_workers_and_after_a_reload(pki: Path, tls13: bool) -> None:
    main = {**MAIN, "smtpd_tls_chain_files": str(pki / "mail.pem"), "smtpd_tls_loglevel": "cache, summary"}
    ours = context(pki, tls13=tls13)
    with Mtad(main) as mtad:
        port = mtad.ports["submission"]

        def meet(session: object) -> tuple[object, bool | None]:
            client = Client(port, ours, "mail.example.com", session)
            found = client.tls.session, client.tls.session_reused
            client.close()
            return found

        def served() -> set[str]:
            text = r"smtpd\[(\d+)\]: localhost\[127\.0\.0\.1\]: Reusing old session"
            return set(re.findall(text, mtad.log()))

        session, reused = meet(None)
        assert not reused
        for _ in range(200):
            session, reused = meet(session)
            assert reused
            if len(served()) == 2:
                break
        assert len(served()) == 2
        assert mtad.command("reload").returncode == 0
        session, reused = meet(session)
        assert reused
        wait_until(lambda: len(served()) == 3, "the worker of the new configuration to tell")
        # a session is worth nothing under other rules
        mtad.write_main_cf(smtpd_tls_ask_ccert="yes", smtpd_tls_CAfile=str(pki / "root.pem"))
        assert mtad.command("reload").returncode == 0
        assert not meet(session)[1]


def test_certificates_are_renewed_without_a_reload(pki: Path) -> None:
    directory = Path(tempfile.mkdtemp(prefix="renew-"))  # for root alone
    try:
        first, second = issue("first.example.com"), issue("second.example.com")
        certificate, key = directory / "cert.pem", directory / "key.pem"

        def install(issued: Issued, with_key: bool = True) -> None:
            certificate.write_bytes(pem(issued.certificate))
            if with_key:
                key.write_bytes(pem_key(issued.key))
                key.chmod(0o600)

        install(first)
        main = {
            **MAIN,
            "smtpd_tls_cert_file": str(certificate),
            "smtpd_tls_key_file": str(key),
            "mtad_tls_reload_interval": "1s",
        }
        with Mtad(main) as mtad:
            port = mtad.ports["submission"]
            assert names_shown(port, pki) == "first.example.com/"
            held = Client(port, context(pki))
            # what somebody is editing is not read
            mtad.write("main.cf", (mtad.directory / "main.cf").read_text() + "mynetworks = [broken\nx y\n")
            install(second, with_key=False)
            wait_until(lambda: "certificates are not loaded anew: " in mtad.log(), "a word about the key")
            assert "does not match the certificate" in mtad.log()
            assert names_shown(port, pki) == "first.example.com/"
            install(second)
            wait_until(lambda: names_shown(port, pki) == "second.example.com/", "the new certificate")
            assert mtad.log().count("certificates or ticket keys renewed") == 1
            held.tls.sendall(b"NOOP\r\n")
            assert held.tls.recv(100).startswith(b"250 ")
            held.close()
    finally:
        shutil.rmtree(directory)


def test_certificates_by_name(pki: Path) -> None:
    main = {
        **MAIN,
        "smtpd_tls_chain_files": f"{pki}/mail.pem, {pki}/rsa.pem",
        "tls_server_sni_maps": f"hash:{{dir}}/sni, inline:{{ inline.example.com={pki}/two.pem }}",
    }
    source = (
        f"one.example.com {pki}/one.pem\ntwo.example.com {pki}/two.pem {pki}/rsa.pem\n"
        f".example.net {pki}/below.pem\n"
    )
    mtad = Mtad(main, files={"sni": source})
    made = subprocess.run(
        [*MTAD, "postmap", "-c", str(mtad.directory), "-F", f"hash:{mtad.directory}/sni"],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    (mtad.directory / "sni.db").chmod(0o600)
    with mtad:
        port = mtad.ports["submission"]
        assert names_shown(port, pki) == "mail.example.com/"
        assert names_shown(port, pki, "one.example.com") == "one.example.com/"
        assert names_shown(port, pki, "ONE.example.com") == "one.example.com/"
        assert names_shown(port, pki, "two.example.com") == "two.example.com/"
        assert names_shown(port, pki, "a.b.example.net") == "wild.example.com/"
        assert names_shown(port, pki, "inline.example.com") == "two.example.com/"
        assert names_shown(port, pki, "three.example.com") == "mail.example.com/"
        # both kinds of key, and Diffie-Hellman for who wants it
        rsa = "ECDHE-RSA-AES256-GCM-SHA384"
        assert names_shown(port, pki, "", rsa) == f"rsa.example.com/{rsa}"
        assert names_shown(port, pki, "two.example.com", rsa) == f"rsa.example.com/{rsa}"
        old = "DHE-RSA-AES256-GCM-SHA384"
        assert names_shown(port, pki, "", f"{old}:@SECLEVEL=1") == f"rsa.example.com/{old}"
        log = mtad.log()
    who = "localhost[127.0.0.1]"
    assert f"Anonymous TLS connection established from {who} to one.example.com: TLSv1.3" in log
    assert f"TLS SNI three.example.com from {who} not matched, using default chain" in log
    assert f"Anonymous TLS connection established from {who}: TLSv1.3" in log


def test_a_table_that_cannot_be_asked_fails_the_handshake(pki: Path) -> None:
    main = {**MAIN, "smtpd_tls_chain_files": str(pki / "mail.pem"), "tls_server_sni_maps": "fail:broken"}
    with Mtad(main) as mtad:
        with pytest.raises(ssl.SSLError):
            Client(mtad.ports["submission"], context(pki), "mail.example.com")
        wait_until(
            lambda: "tls_server_sni_maps: mail.example.com map lookup problem" in mtad.log(), "a warning"
        )
