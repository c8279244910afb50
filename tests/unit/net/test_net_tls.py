"""TLS of both sides, shaking hands in memory."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from net_pki import Issued, handshake, log, parameters, texts
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_ASN1

from mtad.errors import ConfigError
from mtad.net.tls import ClientTLS, Policy, ServerTLS, main_policy
from mtad.net.tls_info import TLSInfo, access_name, log_summary, one_line, received_lines
from mtad.net.tls_names import issuer_of, matching, name_matches, subject_of
from mtad.net.tls_policy import External


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pki")
    root = Issued("Test (root) CA", authority=True)
    middle = Issued("Middle", root, authority=True)
    leaf = Issued("mail.example.com", middle, names=("mail.example.com", "*.mx.example.com"))
    root.write(directory / "root.pem", key=False)
    leaf.write(directory / "server.pem", chain=(middle,))
    Issued("other.example.org", names=("other.example.org",), kind="rsa").write(directory / "rsa.pem")
    Issued("client.example.net", root).write(directory / "client.pem")
    return directory


def server_tls(pki: Path, **values: str) -> ServerTLS:
    defaults = {
        "smtpd_tls_security_level": "may",
        "smtpd_tls_chain_files": str(pki / "server.pem"),
        "smtpd_tls_received_header": "yes",
    }
    return ServerTLS(parameters(**(defaults | values)), log()[0])


def client_tls(pki: Path, **values: str) -> tuple[ClientTLS, list[tuple[str, str, str]]]:
    defaults = {
        "smtp_tls_security_level": "may",
        "smtp_tls_CAfile": str(pki / "root.pem"),
        "smtp_tls_loglevel": "1",
    }
    maillog, lines = log()
    return ClientTLS(parameters(**(defaults | values)), maillog, lambda: 0.0), lines


def meet(server: ServerTLS, client: ClientTLS, policy: Policy | None = None) -> tuple[TLSInfo, TLSInfo, str]:
    """Shake hands: what the server sees, what the client sees, and its refusal."""
    hand = client.start(
        policy or client.policy, nexthop="example.com", host="mail.example.com", address="192.0.2.1", port=25
    )
    ours = server.connection("c[192.0.2.9]")
    theirs = hand.clientConnectionForTLS(None)  # type: ignore[arg-type]
    handshake(ours, theirs)
    info = hand.finish(theirs)
    hand.keep(theirs)
    theirs.shutdown()  # OpenSSL forgets the session of a connection that was not closed in order
    return server.describe(ours), info, hand.refusal(info)


def test_both_sides_agree(pki: Path) -> None:
    server = server_tls(pki, smtpd_tls_received_header="yes")
    client, lines = client_tls(pki)
    seen, info, refusal = meet(server, client)
    assert not refusal
    assert (seen.protocol, seen.secret_bits, seen.bits) == ("TLSv1.3", 256, 256)
    assert seen.cipher == info.cipher
    assert seen.key_exchange
    assert (seen.status, info.status) == ("Anonymous", "Trusted")
    assert info.peer_cn == "mail.example.com"
    assert info.issuer_cn == "Middle"
    assert re.fullmatch(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", info.fingerprint)
    assert texts(lines) == [
        "Trusted TLS connection established to mail.example.com[192.0.2.1]:25: TLSv1.3 with cipher "
        f"{info.cipher} (256/256 bits) key-exchange {info.key_exchange} "
        "server-signature ECDSA (prime256v1) server-digest SHA256"
    ]
    assert server.received_lines(seen) == [
        f"\t(using TLSv1.3 with cipher {info.cipher} (256/256 bits)",
        f"\t key-exchange {info.key_exchange} server-signature ECDSA (prime256v1) server-digest SHA256)",
        "\t(No client certificate requested)",
    ]


def test_rsa_signature_and_server_log(pki: Path) -> None:
    maillog, lines = log()
    p = parameters(
        smtpd_tls_security_level="may",
        smtpd_tls_cert_file=str(pki / "rsa.pem"),
        smtpd_tls_key_file=str(pki / "rsa.pem"),
        smtpd_tls_loglevel="1",
    )
    server = ServerTLS(p, maillog)
    seen, _, _ = meet(server, client_tls(pki)[0])
    server.log_established(seen, "client[192.0.2.9]")
    assert texts(lines) == [
        "Anonymous TLS connection established from client[192.0.2.9]: TLSv1.3 with cipher "
        f"{seen.cipher} (256/256 bits) key-exchange {seen.key_exchange} "
        "server-signature RSA-PSS (2048 bits) server-digest SHA256"
    ]


def test_untold_digest_is_left_out(pki: Path) -> None:
    client, _ = client_tls(pki, smtp_tls_loglevel="0")
    _, info, _ = meet(server_tls(pki, smtpd_tls_chain_files=str(pki / "rsa.pem")), client)
    assert info.server_signature.text("server") == " server-signature RSA-PSS (2048 bits)"


def test_tls12_has_no_signature(pki: Path) -> None:
    server = server_tls(pki, smtpd_tls_protocols="!SSLv2, !SSLv3, !TLSv1.3")
    seen, _, _ = meet(server, client_tls(pki)[0])
    assert seen.protocol == "TLSv1.2"
    assert received_lines(seen, True) == [
        f"\t(using TLSv1.2 with cipher {seen.cipher} (256/256 bits))",
        "\t(Client did not present a certificate)",
    ]


@pytest.mark.parametrize("protocols", ["TLSv1.3", ">=TLSv1.3", "!TLSv1, !TLSv1.1, !TLSv1.2"])
def test_protocol_lists(pki: Path, protocols: str) -> None:
    seen, _, _ = meet(server_tls(pki, smtpd_tls_protocols=protocols), client_tls(pki)[0])
    assert seen.protocol == "TLSv1.3"


def test_protocols_exclude(pki: Path) -> None:
    client, _ = client_tls(pki, smtp_tls_protocols="<=TLSv1.2")
    with pytest.raises(SSL.Error):
        meet(server_tls(pki, smtpd_tls_protocols=">=TLSv1.3"), client)


def test_old_protocols_and_security_level(pki: Path) -> None:
    """OpenSSL refuses TLS 1.0 above security level 0, which Postfix sets."""
    client, _ = client_tls(pki, smtp_tls_protocols="TLSv1")
    seen, _, _ = meet(server_tls(pki), client)
    assert seen.protocol == "TLSv1"


def test_cipher_exclusion(pki: Path) -> None:
    server = server_tls(
        pki,
        smtpd_tls_protocols="<=TLSv1.2",
        smtpd_tls_exclude_ciphers="AES256, CHACHA20 CAMELLIA:ARIA256 aNULL",
    )
    seen, _, _ = meet(server, client_tls(pki)[0])
    assert (seen.secret_bits, seen.bits) == (128, 128)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("smtpd_tls_protocols", ">=TLSv9"),
        ("smtpd_tls_protocols", "!SSLv4"),
        ("smtpd_tls_ciphers", "excellent"),
        ("smtpd_tls_exclude_ciphers", "+AES"),
        ("smtpd_tls_security_level", "sometimes"),
        ("smtpd_tls_CAfile", "/nonexistent.pem"),
        ("smtpd_tls_CApath", "/nonexistent"),
        ("tls_medium_cipherlist", "NONSENSE"),
    ],
)
def test_refused_settings(pki: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError):
        server_tls(pki, **{name: value})


def test_levels(pki: Path) -> None:
    assert server_tls(pki).level == "may"
    assert server_tls(pki, smtpd_tls_security_level="verify").level == "encrypt"
    assert server_tls(pki, smtpd_tls_security_level="", smtpd_use_tls="yes").level == "may"
    assert server_tls(pki, smtpd_tls_security_level="", smtpd_enforce_tls="yes").level == "encrypt"
    none = server_tls(pki, smtpd_tls_security_level="")
    assert (none.level, none.available, none.offered) == ("none", False, False)
    wrapper = server_tls(pki, smtpd_tls_security_level="none", smtpd_tls_wrappermode="yes")
    assert (wrapper.level, wrapper.wrapper, wrapper.available, wrapper.offered) == (
        "encrypt",
        True,
        True,
        False,
    )


def test_no_certificate_is_a_warning() -> None:
    maillog, lines = log()
    tls = ServerTLS(parameters(smtpd_tls_security_level="may"), maillog)
    assert not tls.available
    assert tls.offered  # Postfix announces it, and answers 454
    assert texts(lines) == ["warning: No server certs available. TLS won't be enabled"]
    with pytest.raises(RuntimeError):
        tls.connection()


def test_anonymous_server(pki: Path) -> None:
    """smtpd_tls_cert_file = none: anonymous ciphers only, so no TLS 1.3."""
    server = server_tls(pki, smtpd_tls_chain_files="", smtpd_tls_cert_file="none")
    client, lines = client_tls(pki)
    seen, info, _ = meet(server, client)
    assert (seen.protocol, info.status) == ("TLSv1.2", "Anonymous")
    assert texts(lines)[0].startswith("Anonymous TLS connection established to ")


def test_client_certificate(pki: Path) -> None:
    client, _ = client_tls(pki, smtp_tls_cert_file=str(pki / "client.pem"))
    server = server_tls(pki, smtpd_tls_ask_ccert="yes", smtpd_tls_CAfile=str(pki / "root.pem"))
    seen, info, _ = meet(server, client)
    assert (seen.status, seen.peer_cn, seen.issuer_cn) == ("Trusted", "client.example.net", "Test (root) CA")
    assert info.client_signature.name == "ECDSA"
    lines = server.received_lines(seen)
    assert lines[-1] == '\t(Client CN "client.example.net", Issuer "Test (root) CA" (verified OK))'
    assert lines[-2] == "\t client-signature ECDSA (prime256v1) client-digest SHA256)"
    again, _, _ = meet(server, client)
    assert again.reused
    assert again.status == "Trusted"


def test_untrusted_client_certificate_stays_so_when_resumed(pki: Path) -> None:
    client, _ = client_tls(pki, smtp_tls_cert_file=str(pki / "rsa.pem"))
    maillog, lines = log()
    values = {
        "smtpd_tls_chain_files": str(pki / "server.pem"),
        "smtpd_tls_security_level": "encrypt",
        "smtpd_tls_req_ccert": "yes",
        "smtpd_tls_CAfile": str(pki / "root.pem"),
    }
    server = ServerTLS(parameters(**values), maillog)
    for reused in (False, True):
        seen, _, _ = meet(server, client)
        assert (seen.reused, seen.peer_present, seen.trusted) == (reused, True, False)
        assert server.certificate_refusal(seen) == "Client certificate not trusted"
        assert server.received_lines(seen)[-1].endswith("(not verified))")
        server.log_established(seen, "c[192.0.2.9]")
    assert texts(lines) == [
        "certificate verification failed for c[192.0.2.9]: self-signed certificate",
        "c[192.0.2.9]: re-using session with untrusted certificate, look for details earlier in the log",
    ]


def test_required_certificate_missing(pki: Path) -> None:
    server = server_tls(pki, smtpd_tls_security_level="encrypt", smtpd_tls_req_ccert="yes")
    seen, _, _ = meet(server, client_tls(pki)[0])
    assert server.certificate_refusal(seen) == "No client certificate presented"


@pytest.mark.parametrize(
    ("level", "values", "status"),
    [
        ("verify", {}, "Verified"),
        ("secure", {}, "Trusted"),  # the certificate names mail.example.com, not example.com
        ("secure", {"smtp_tls_secure_cert_match": "nexthop, dot-nexthop"}, "Verified"),
        ("secure", {"smtp_tls_secure_cert_match": "nexthop, hostname"}, "Verified"),
        ("secure", {"smtp_tls_secure_cert_match": "a.mx.example.com"}, "Verified"),
        ("secure", {"smtp_tls_secure_cert_match": "a.b.mx.example.com"}, "Trusted"),
        ("verify", {"smtp_tls_verify_cert_match": "nexthop"}, "Trusted"),
        ("verify", {"smtp_tls_CAfile": ""}, "Untrusted"),
        ("encrypt", {}, "Trusted"),
        ("encrypt", {"smtp_tls_CAfile": ""}, "Untrusted"),
    ],
)
def test_client_levels(pki: Path, level: str, values: dict[str, str], status: str) -> None:
    if level == "secure" and not values:
        values = {"smtp_tls_secure_cert_match": "nexthop"}
    client, lines = client_tls(pki, **({"smtp_tls_security_level": level} | values))
    for _ in range(2):  # a resumed session comes to the same verdict
        _, info, refusal = meet(server_tls(pki), client)
        assert info.status == status
        wanted = "Server certificate not verified" if level != "encrypt" and status != "Verified" else ""
        assert refusal == wanted
    if status == "Untrusted" and level == "verify":
        assert texts(lines)[0] == (
            "certificate verification failed for mail.example.com[192.0.2.1]:25: "
            "untrusted issuer /CN=Test (root) CA"
        )


@pytest.mark.parametrize(("level", "refusal"), [("may", ""), ("secure", "Server certificate not verified")])
def test_who_gave_the_policy_says_that_it_can_not_be_met(pki: Path, level: str, refusal: str) -> None:
    client, lines = client_tls(pki, smtp_tls_loglevel="summary, untrusted")
    external = External("sts", failure="sts-webpki-invalid")
    policy = replace(main_policy(parameters(), level), external=external)
    _, info, refused = meet(server_tls(pki), client, policy)
    assert (info.status, refused) == ("Untrusted", refusal)
    assert "external policy failure (sts-webpki-invalid)" in lines[0][2]


def test_fingerprint_level(pki: Path) -> None:
    _, info, _ = meet(server_tls(pki), client_tls(pki)[0])
    for wanted in (info.fingerprint, info.key_fingerprint.lower(), f"{'00:' * 31}00 {info.fingerprint}"):
        client, _ = client_tls(
            pki, smtp_tls_security_level="fingerprint", smtp_tls_fingerprint_cert_match=wanted
        )
        assert meet(server_tls(pki), client)[1].status == "Verified"
    client, _ = client_tls(
        pki, smtp_tls_security_level="fingerprint", smtp_tls_fingerprint_cert_match="00:" * 31 + "00"
    )
    _, info, refusal = meet(server_tls(pki), client)
    assert info.status == "Untrusted"
    assert refusal


def test_fingerprint_level_needs_fingerprints(pki: Path) -> None:
    with pytest.raises(ConfigError, match="smtp_tls_fingerprint_cert_match"):
        client_tls(pki, smtp_tls_security_level="fingerprint")


def test_unknown_client_level(pki: Path) -> None:
    with pytest.raises(ConfigError, match="smtp_tls_security_level"):
        client_tls(pki, smtp_tls_security_level="halfdane")


def test_server_name_is_sent_where_asked(pki: Path) -> None:
    for servername, wanted in (("", ""), ("hostname", "mail.example.com"), ("nexthop", "example.com")):
        client, _ = client_tls(pki, smtp_tls_servername=servername)
        server = server_tls(pki, tls_server_sni_maps="inline:{x=y}")
        maillog, lines = log()
        server.serve(maillog, lambda _: None)
        meet(server, client)
        text = f"TLS SNI {wanted} from c[192.0.2.9] not matched, using default chain"
        assert texts(lines) == [text] * bool(wanted)


def test_what_nobody_wants_to_know_is_not_asked(pki: Path) -> None:
    client, _ = client_tls(pki)
    assert meet(server_tls(pki, smtpd_tls_received_header="no"), client)[0].cipher == ""


def test_session_is_resumed_for_the_same_policy_only(pki: Path) -> None:
    server = server_tls(pki)
    client, _ = client_tls(pki)
    assert not meet(server, client)[1].reused
    assert meet(server, client)[1].reused
    verify = main_policy(parameters(smtp_tls_CAfile=str(pki / "root.pem")), "verify")
    assert not meet(server, client, verify)[1].reused
    assert meet(server, client, verify)[1].reused


def test_no_ticket(pki: Path) -> None:
    for values in ({"smtpd_tls_session_cache_timeout": "0s"}, {"tls_ssl_options": "NO_TICKET"}):
        server, (client, _) = server_tls(pki, **values), client_tls(pki)
        meet(server, client)
        assert not meet(server, client)[1].reused


def test_session_is_resumed_in_another_worker(pki: Path) -> None:
    """A ticket is good in a process forked before it was given: the context holds the keys."""
    server, (client, _) = server_tls(pki), client_tls(pki)
    to_child, from_parent = os.pipe()
    to_parent, from_child = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer_from(server, to_child, from_child)
        finally:
            os._exit(0)
    meet(server, client)  # a full handshake in this process
    hand = client.start(
        client.policy, nexthop="example.com", host="mail.example.com", address="192.0.2.1", port=25
    )
    connection = hand.connection()
    connection.set_connect_state()
    for _ in range(2):
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            os.write(from_parent, connection.bio_read(1 << 16))
            connection.bio_write(os.read(to_parent, 1 << 16))
    assert hand.finish(connection).reused
    os.close(from_parent)
    os.waitpid(pid, 0)
    for descriptor in (to_child, to_parent, from_child):
        os.close(descriptor)


def answer_from(server: ServerTLS, source: int, target: int) -> None:
    """A worker's part in a handshake, over pipes."""
    connection = server.connection()
    connection.set_accept_state()
    connection.bio_write(os.read(source, 1 << 16))
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        pass
    os.write(target, connection.bio_read(1 << 16))


def test_unknown_log_level_is_a_warning(pki: Path) -> None:
    maillog, lines = log()
    ServerTLS(parameters(smtpd_tls_loglevel="loud"), maillog)
    assert texts(lines) == ['warning: unknown smtpd_tls_loglevel value "loud" in "loud"']


@pytest.mark.parametrize(
    ("presented", "wanted", "fits"),
    [
        ("mail.example.com", "MAIL.example.com", True),
        ("*.example.com", "mail.example.com", True),
        ("*.example.com", "a.mail.example.com", False),
        ("*.example.com", "example.com", False),
        ("*.com", "example.com", False),
        ("m*.example.com", "mail.example.com", False),
        ("mail.*.com", "mail.example.com", False),
        ("*", "mail", False),
        ("mail.example.com", ".example.com", True),
        ("a.b.example.com", ".example.com", True),
        ("*.example.com", ".example.com", True),
        ("example.com", ".example.com", False),
        ("badexample.com", ".example.com", False),
        ("mail.example.com\0.evil.org", "mail.example.com", False),
        ("", "", False),
    ],
)
def test_name_matches(presented: str, wanted: str, fits: bool) -> None:
    assert name_matches(presented, wanted) is fits


@pytest.mark.parametrize(
    ("names", "addresses", "wanted", "address", "found"),
    [
        (("a.example",), (), ["x.example", "a.example"], "", "a.example"),
        (("a.example",), (), ["a.example."], "", None),
        (("a.example.",), (), ["a.example"], "", None),
        (("a.example",), (), [], "", None),
        ((), ("192.0.2.1",), [], "192.0.2.1", ""),
        ((), ("192.0.2.1",), ["192.0.2.1"], "", None),
        ((), ("2001:db8::1",), [], "2001:DB8:0::1", ""),
        ((), ("192.0.2.1",), [], "192.0.2.2", None),
        (("a.example",), ("192.0.2.1",), ["a.example"], "192.0.2.1", "a.example"),
        (("b.example",), ("192.0.2.1",), ["a.example"], "192.0.2.1", None),
        (("a.example",), (), ["a.example"], "192.0.2.1", None),
    ],
)
def test_matching(
    names: tuple[str, ...], addresses: tuple[str, ...], wanted: list[str], address: str, found: str | None
) -> None:
    certificate = Issued("cn.example", names=names, addresses=addresses).certificate
    assert matching(certificate, wanted, address) == found


def odd(before: bytes, after: bytes, **options: Any) -> tuple[bytes, Issued]:
    """A certificate with ``after`` in the place of ``before``, as nobody should make them."""
    issued = Issued("oddities.example.com", **options)
    data = issued.certificate.public_bytes(Encoding.DER)
    assert data.count(before) >= 1 and len(before) == len(after)
    return data.replace(before, after), issued


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        (b"\x0c\x14oddities", b"\x14\x14oddit\xe9s\xe9", ""),  # Latin-1 in a T61String
        (b"\x17\x0d2", b"\x17\x0dX", ""),  # a date that is none
        (b"\x17\x0d", b"\x17\x0d", "oddities.example.com"),
    ],
)
@pytest.mark.parametrize(("level", "refusal"), [("may", ""), ("verify", "Server certificate not verified")])
def test_certificates_that_can_not_be_read(
    tmp_path: Path, pki: Path, before: bytes, after: bytes, name: str, level: str, refusal: str
) -> None:
    data, issued = odd(before, after, names=("mail.example.com",))
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    (tmp_path / "odd.der").write_bytes(data)
    context.use_certificate_file(str(tmp_path / "odd.der"), FILETYPE_ASN1)
    context.use_privatekey(issued.key)
    tls, _ = client_tls(pki, smtp_tls_security_level=level, smtp_tls_loglevel="2")
    meeting = tls.start(tls.policy, nexthop="x", host="mail.example.com", address="192.0.2.1", port=25)
    server, client = SSL.Connection(context, None), meeting.connection()
    handshake(server, client)
    info = meeting.finish(client)
    assert (info.status, info.peer_cn) == ("Untrusted", name)
    assert meeting.refusal(info) == refusal


def test_a_name_that_can_not_be_read_is_none() -> None:
    latin = (b"\x0c\x14oddities", b"\x14\x14oddit\xe9s\xe9")
    certificate = x509.load_der_x509_certificate(odd(*latin, names=("mail.example.com",))[0])
    assert (list(subject_of(certificate)), list(issuer_of(certificate))) == ([], [])
    assert matching(certificate, ["mail.example.com"]) == "mail.example.com"
    certificate = x509.load_der_x509_certificate(odd(*latin)[0])
    assert matching(certificate, ["mail.example.com"]) is None


def test_summary_without_details() -> None:
    info = TLSInfo("TLSv1.2", "AECDH-AES256-SHA", 256, 256)
    assert log_summary(info, True, "c[192.0.2.1]") == (
        "Anonymous TLS connection established from c[192.0.2.1]: "
        "TLSv1.2 with cipher AECDH-AES256-SHA (256/256 bits)"
    )


def test_names_as_openssl_and_sendmail_write_them() -> None:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "NL"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, 'A/B "C" (D) + <E>'),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, "7"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Zoë"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "z@example.com"),
        ]
    )
    assert one_line(name) == '/C=NL/O=A/B "C" (D) + <E>/serialNumber=7/CN=Zoë/emailAddress=z@example.com'
    assert access_name(name) == (
        "/C=NL/O=A+2FB+20+22C+22+20+28D+29+20+2B+20+3CE+3E/serialNumber=7/CN=Zo+C3+AB"
        "/emailAddress=z@example.com"
    )
