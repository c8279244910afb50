"""PEM files: which pairs they hold, and what is wrong with them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from net_pki import Issued, log, parameters, pem_key, texts
from OpenSSL import SSL

from mtad.errors import ConfigError
from mtad.net.certificates import load_pairs, make_self_signed


@pytest.fixture(scope="module")
def issued() -> dict[str, Issued]:
    root = Issued("Root", authority=True)
    return {
        "root": root,
        "ec": Issued("ec.example.com", root),
        "rsa": Issued("rsa.example.com", root, kind="rsa"),
        "old": Issued("old.example.com", root, days=-1),
    }


def load(**values: str) -> list[str]:
    """Common names of the pairs that the smtpd parameters name."""
    pairs = load_pairs(SSL.Context(SSL.TLS_SERVER_METHOD), parameters(**values), "smtpd", log()[0])
    return [str(pair.chain[0].subject.rfc4514_string()) for pair in pairs]


def test_nothing_named() -> None:
    assert load() == []
    assert load(smtpd_tls_cert_file="none") == []


def test_separate_files(tmp_path: Path, issued: dict[str, Issued]) -> None:
    key = issued["ec"].write(tmp_path / "k.pem", certificate=False)
    certificate = issued["ec"].write(tmp_path / "c.pem", key=False, chain=(issued["root"],))
    assert load(smtpd_tls_cert_file=certificate, smtpd_tls_key_file=key) == ["CN=ec.example.com"]


def test_rsa_and_ec(tmp_path: Path, issued: dict[str, Issued]) -> None:
    rsa = issued["rsa"].write(tmp_path / "rsa.pem")
    ec = issued["ec"].write(tmp_path / "ec.pem")
    names = load(smtpd_tls_cert_file=rsa, smtpd_tls_eccert_file=ec)
    assert names == ["CN=rsa.example.com", "CN=ec.example.com"]


@pytest.mark.parametrize("key_first", [True, False])
def test_chain_files_of_several_pairs(tmp_path: Path, issued: dict[str, Issued], key_first: bool) -> None:
    path = tmp_path / "all.pem"
    data = b""
    for name in ("rsa", "ec"):
        part = tmp_path / name
        key = Path(issued[name].write(part, certificate=False)).read_bytes()
        chain = Path(issued[name].write(part, key=False, chain=(issued["root"],))).read_bytes()
        data += key + chain if key_first else chain + key
    path.write_bytes(b"some text\n" + data)
    assert load(smtpd_tls_chain_files=str(path)) == ["CN=rsa.example.com", "CN=ec.example.com"]


def test_chain_files_across_files_win(tmp_path: Path, issued: dict[str, Issued]) -> None:
    key = issued["ec"].write(tmp_path / "k.pem", certificate=False)
    certificate = issued["ec"].write(tmp_path / "c.pem", key=False)
    maillog, lines = log()
    p = parameters(smtpd_tls_chain_files=f"{key}, {certificate}", smtpd_tls_cert_file="/nonexistent")
    assert len(load_pairs(SSL.Context(SSL.TLS_SERVER_METHOD), p, "smtpd", maillog)) == 1
    assert "legacy parameters will be ignored" in texts(lines)[0]


def refused(**values: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(**values)
    return caught.value


def test_what_is_wrong_is_said(tmp_path: Path, issued: dict[str, Issued]) -> None:
    missing = refused(smtpd_tls_cert_file=str(tmp_path / "missing.pem"))
    assert missing.parameter == "smtpd_tls_cert_file"
    assert str(tmp_path / "missing.pem") in missing.reason

    key = issued["rsa"].write(tmp_path / "rsa-key.pem", certificate=False)
    certificate = issued["ec"].write(tmp_path / "ec-cert.pem", key=False)
    mismatch = refused(smtpd_tls_cert_file=certificate, smtpd_tls_key_file=key)
    assert mismatch.reason == f"the private key in {key} does not match the certificate in {certificate}"

    assert "no private key" in refused(smtpd_tls_cert_file=certificate).reason
    assert "no certificate" in refused(smtpd_tls_cert_file=key).reason

    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"not PEM")
    assert "no PEM data" in refused(smtpd_tls_cert_file=str(empty)).reason

    broken = tmp_path / "broken.pem"
    broken.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "cannot be decoded" in refused(smtpd_tls_cert_file=str(broken)).reason

    locked = tmp_path / "locked.pem"
    locked.write_bytes(Path(certificate).read_bytes() + pem_key(issued["ec"].key, b"secret"))
    error = refused(smtpd_tls_cert_file=str(locked))
    assert "encrypted" in error.reason
    assert "secret" not in str(error)


def test_key_before_the_certificate_of_another(tmp_path: Path, issued: dict[str, Issued]) -> None:
    one = issued["ec"].write(tmp_path / "one.pem")
    other = issued["rsa"].write(tmp_path / "other.pem", certificate=False)
    error = refused(smtpd_tls_chain_files=f"{one} {other}")
    assert error.parameter == "smtpd_tls_chain_files"
    assert "other.pem" in error.reason


def test_expired_is_a_warning(tmp_path: Path, issued: dict[str, Issued]) -> None:
    path = issued["old"].write(tmp_path / "old.pem")
    maillog, lines = log()
    p = parameters(smtpd_tls_cert_file=path)
    assert len(load_pairs(SSL.Context(SSL.TLS_SERVER_METHOD), p, "smtpd", maillog)) == 1
    (text,) = texts(lines)
    assert text.startswith(
        f"warning: smtpd_tls_cert_file: certificate CN=old.example.com in {path} expired on"
    )


def test_pairs_do_not_show_their_key(tmp_path: Path, issued: dict[str, Issued]) -> None:
    path = issued["ec"].write(tmp_path / "ec.pem")
    p = parameters(smtpd_tls_cert_file=path)
    (pair,) = load_pairs(SSL.Context(SSL.TLS_SERVER_METHOD), p, "smtpd", log()[0])
    assert "key=" not in repr(pair)


def test_self_made(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    make_self_signed("demo.example.com", str(certificate), str(key))
    make_self_signed("demo.example.com", str(certificate), str(key))  # again, over the old ones
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"PRIVATE" not in certificate.read_bytes()
    names = load(smtpd_tls_cert_file=str(certificate), smtpd_tls_key_file=str(key))
    assert names == ["CN=demo.example.com"]
    both = tmp_path / "both.pem"
    make_self_signed("demo.example.com", str(both), str(both))
    assert load(smtpd_tls_chain_files=str(both)) == ["CN=demo.example.com"]
