import base64
import hashlib
import hmac
import re
from pathlib import Path
from typing import Any

import pytest
from auth_support import SESSION, TLS_SESSION, Build, at_once
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import fail
from twisted.mail.interfaces import IMessageDeliveryFactory
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mtad.auth.authenticator import Authenticator, AuthSession, Challenge, Denied, Granted
from mtad.auth.interfaces import ISASLPassword, ISubmitter
from mtad.errors import ConfigError
from mtad.maillog import ListSink
from mtad.tables.sasldb import SaslDb

B64 = base64.b64encode
SCRAM = tuple(b"SCRAM-SHA-" + size for size in (b"512", b"384", b"256", b"224", b"1"))


def login(
    build: Build | Authenticator, mechanism: bytes, *data: bytes | None, session: AuthSession = SESSION
) -> Any:
    """The last outcome of an exchange in which all but the last are challenges."""
    authenticator = build if isinstance(build, Authenticator) else build()
    exchange = authenticator.begin(mechanism, session)
    for each in data[:-1]:
        assert isinstance(at_once(exchange.step(each)), Challenge)
    return at_once(exchange.step(data[-1]))


def denial(outcome: Any) -> tuple[str, str]:
    """The reason that the client reads, and whom the log names."""
    assert isinstance(outcome, Denied), outcome
    text = str(outcome.reply)
    match = re.fullmatch(
        r"(535 5\.7\.8 Error: authentication failed|454 4\.7\.0 Temporary authentication failure): (.*)", text
    )
    assert match is not None, text
    assert outcome.log.endswith(f" authentication failed: {match[2]}, sasl_username={outcome.username}")
    return f"{text[:3]} {match[2]}", outcome.username


def plain(user: bytes, password: bytes, authzid: bytes = b"") -> bytes:
    return B64(authzid + b"\0" + user + b"\0" + password)


def warnings(sink: ListSink) -> list[str]:
    return [text.removeprefix("warning: ") for severity, _, text in sink.lines if severity == "warning"]


def test_plain_is_granted_without_a_wait(build: Build) -> None:
    outcome = login(build, b"PLAIN", plain(b"alice", b"secret"))
    assert isinstance(outcome, Granted)
    avatar = outcome.avatar
    assert (avatar.username, avatar.mechanism, avatar.realm) == ("alice", "PLAIN", "mail.test")
    assert verifyObject(IMessageDeliveryFactory, avatar)
    assert verifyObject(ISubmitter, avatar)
    assert avatar.getMessageDelivery() is None


def test_a_wrong_password(build: Build, sink: ListSink) -> None:
    outcome = login(build, b"PLAIN", plain(b"alice", b"bad"))
    assert str(outcome.reply) == "535 5.7.8 Error: authentication failed: authentication failure"
    assert outcome.log == "SASL PLAIN authentication failed: authentication failure, sasl_username=alice"
    assert warnings(sink) == ["SASL authentication failure: Password verification failed"]


@pytest.mark.parametrize(
    ("user", "password", "expected"),
    [
        (b"nobody", b"x", ("535 authentication failure", "nobody")),
        (b"alice", b"", ("535 authentication failure", "alice")),
        (b"Alice", b"secret", ("535 authentication failure", "Alice")),
        (b"alice@example.com", b"secret", ("535 authentication failure", "alice@example.com")),
        (b"", b"x", ("454 generic failure", "(unavailable)")),
        (b"  ", b"x", ("454 generic failure", "(unavailable)")),
        (b"u" * 1025, b"x", ("535 overflowed buffer", "(unavailable)")),
        (b"al\xffice", b"x", ("535 authentication failure", "al?ice")),
        (b"al\nice", b"x", ("535 authentication failure", "al?ice")),
        (b"z\xc3\xbcrich", b"x", ("535 authentication failure", "zürich")),
    ],
)
def test_plain_denied(build: Build, user: bytes, password: bytes, expected: tuple[str, str]) -> None:
    assert denial(login(build, b"PLAIN", plain(user, password))) == expected


@pytest.mark.parametrize(
    ("user", "password", "domain", "username", "realm"),
    [
        (b" alice ", b"secret", "", "alice", "mail.test"),
        (b"alice@mail.test", b"secret", "", "alice@mail.test", "mail.test"),
        (b"alice", b"secret", "mail.test", "alice@mail.test", "mail.test"),
        (b"bob", b"pass word", "example.com", "bob@example.com", "example.com"),
        (b"bob@example.com", b"pass word", "", "bob@example.com", "example.com"),
        (b"carol@x@y", b"pw", "", "carol@x@y", "x@y"),
    ],
)
def test_realms(build: Build, user: bytes, password: bytes, domain: str, username: str, realm: str) -> None:
    outcome = login(build(smtpd_sasl_local_domain=domain), b"PLAIN", plain(user, password))
    assert isinstance(outcome, Granted)
    assert (outcome.avatar.username, outcome.avatar.realm) == (username, realm)


def test_nobody_acts_as_another(build: Build, sink: ListSink) -> None:
    assert isinstance(login(build, b"PLAIN", plain(b"alice", b"secret", b"alice")), Granted)
    assert denial(login(build, b"PLAIN", plain(b"alice", b"secret", b"bob"))) == (
        "535 authentication failure",
        "bob",
    )
    assert warnings(sink) == ["SASL authentication failure: Requested identity not authenticated identity"]
    local = build(smtpd_sasl_local_domain="mail.test")
    assert isinstance(login(local, b"PLAIN", plain(b"alice", b"secret", b"alice@mail.test")), Granted)


def test_login(build: Build) -> None:
    exchange = build().begin(b"LOGIN", SESSION)
    assert at_once(exchange.step(None)) == Challenge(b"VXNlcm5hbWU6")
    assert at_once(exchange.step(B64(b"alice"))) == Challenge(b"UGFzc3dvcmQ6")
    outcome = at_once(exchange.step(B64(b"secret")))
    assert isinstance(outcome, Granted)
    assert outcome.avatar.mechanism == "LOGIN"
    assert isinstance(login(build, b"LOGIN", B64(b"alice"), B64(b"secret")), Granted)


def test_login_denied(build: Build, sink: ListSink) -> None:
    assert denial(login(build, b"LOGIN", None, B64(b"alice"), B64(b"bad")))[0] == "535 authentication failure"
    assert warnings(sink) == []
    assert denial(login(build, b"LOGIN", None, b"", b""))[0] == "454 generic failure"
    assert denial(login(build, b"LOGIN", None, B64(b"\0alice"), B64(b"secret")))[0] == "454 generic failure"
    assert denial(login(build, b"LOGIN", None, B64(b"a\0lice"), B64(b"secret"))) == (
        "535 authentication failure",
        "a",
    )
    assert denial(login(build, b"LOGIN", None, B64(b"alice"), B64(b"secret\0"))) == (
        "535 authentication failure",
        "alice",
    )


def test_cram_md5(build: Build) -> None:
    exchange = build().begin(b"CRAM-MD5", SESSION)
    challenge = base64.b64decode(at_once(exchange.step(None)).data)
    assert re.fullmatch(rb"<\d+\.\d+@mail\.test>", challenge)
    digest = hmac.new(b"secret", challenge, hashlib.md5).hexdigest().encode()
    outcome = at_once(exchange.step(B64(b"alice " + digest)))
    assert isinstance(outcome, Granted)
    assert outcome.avatar.username == "alice"
    assert denial(login(build, b"CRAM-MD5", None, B64(b"alice " + digest))) == (
        "535 authentication failure",
        "alice",
    )
    assert denial(login(build, b"CRAM-MD5", None, B64(b"nobody 0"))) == (
        "535 authentication failure",
        "nobody",
    )


@pytest.mark.parametrize(
    ("mechanism", "data", "reason"),
    [
        (b"PLAIN", b"=", "another step is needed in authentication"),
        (b"PLAIN", b"YQ", "another step is needed in authentication"),
        (b"PLAIN", b"!!!!", "bad protocol / cancel"),
        (b"PLAIN", b"YQ==YQ==", "bad protocol / cancel"),
        (b"PLAIN", B64(b"alice"), "bad protocol / cancel"),
        (b"FOO", None, "no mechanism available"),
        (b"FOO", b"!!!!", "bad protocol / cancel"),
        (b"EXTERNAL", None, "no mechanism available"),
    ],
)
def test_malformed(build: Build, mechanism: bytes, data: bytes | None, reason: str) -> None:
    assert denial(login(build, mechanism, data)) == (f"535 {reason}", "(unavailable)")


def test_malformed_response_to_a_challenge(build: Build) -> None:
    assert denial(login(build, b"PLAIN", None, b"!!!!"))[0] == "535 bad protocol / cancel"
    assert denial(login(build, b"LOGIN", None, b"YWxpY2U=", b"x"))[0].endswith(
        "another step is needed in authentication"
    )


def test_the_name_of_the_mechanism_is_logged_as_written(build: Build) -> None:
    outcome = login(build, b"plain", plain(b"alice", b"secret"))
    assert outcome.avatar.mechanism == "plain"
    long = login(build, b"x" * 300 + b"\n", None)
    assert long.log.startswith("SASL " + "x" * 100 + " authentication failed: ")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mechanism=st.sampled_from([b"PLAIN", b"LOGIN", b"CRAM-MD5"]),
    data=st.lists(st.binary(max_size=40).map(B64) | st.binary(max_size=12), min_size=1, max_size=4),
    bare=st.booleans(),
)
def test_any_dialogue_ends_and_grants_nothing(
    build: Build, mechanism: bytes, data: list[bytes], bare: bool
) -> None:
    exchange = build().begin(mechanism, SESSION)
    outcome: Any = None
    for each in [*([None] if bare else []), *data]:
        outcome = at_once(exchange.step(each))
        if not isinstance(outcome, Challenge):
            break
    assert isinstance(outcome, Challenge | Denied)


def test_announced(build: Build) -> None:
    strong = (*SCRAM, b"DIGEST-MD5", b"CRAM-MD5")
    assert build().mechanisms(False) == (*strong, b"PLAIN", b"LOGIN")
    assert build({"mech_list": "login plain foo"}).mechanisms(False) == (b"LOGIN", b"PLAIN")
    assert build(smtpd_sasl_mechanism_filter="!plain, static:rest").mechanisms(True) == (*strong, b"LOGIN")
    strict = build(
        smtpd_sasl_security_options="noanonymous, noplaintext", smtpd_sasl_tls_security_options="noanonymous"
    )
    assert strict.mechanisms(False) == strong
    assert strict.mechanisms(True) == (*strong, b"PLAIN", b"LOGIN")


def test_the_filter_hides_and_the_list_forbids(build: Build) -> None:
    response = plain(b"alice", b"secret")
    assert isinstance(login(build(smtpd_sasl_mechanism_filter="login"), b"PLAIN", response), Granted)
    assert denial(login(build({"mech_list": "login"}), b"PLAIN", response))[0] == "535 no mechanism available"


def test_security_options_go_by_tls(build: Build) -> None:
    authenticator = build(
        smtpd_sasl_security_options="noanonymous, noplaintext", smtpd_sasl_tls_security_options="noanonymous"
    )
    response = plain(b"alice", b"secret")
    assert denial(login(authenticator, b"PLAIN", response)) == (
        "535 encryption needed to use mechanism",
        "(unavailable)",
    )
    assert isinstance(login(authenticator, b"PLAIN", response, session=TLS_SESSION), Granted)


def test_no_database_is_no_user_and_a_broken_one_is_temporary(
    build: Build, sink: ListSink, tmp_path: Path
) -> None:
    response = plain(b"alice", b"secret")
    none = tmp_path / "none"
    absent = build({"sasldb_path": str(none), "mech_list": "cram-md5 external anonymous plain login"})
    assert warnings(sink) == [
        f"user database {none} does not exist: no login will succeed by pwcheck_method auxprop, CRAM-MD5"
    ]
    assert denial(login(absent, b"PLAIN", response)) == ("535 authentication failure", "alice")
    broken = tmp_path / "broken"
    broken.write_bytes(b"hello" * 1000)
    authenticator = build({"sasldb_path": str(broken)})
    sink.lines.clear()
    assert denial(login(authenticator, b"PLAIN", response)) == ("454 generic failure", "alice")
    assert warnings(sink)[0].startswith(f"SASL authentication problem: unable to open Berkeley db {broken}: ")
    assert denial(login(authenticator, b"CRAM-MD5", None, B64(b"alice 0")))[0] == "454 generic failure"


def test_any_error_of_a_foreign_checker_is_a_denial(build: Build) -> None:
    from twisted.cred.error import UnauthorizedLogin

    @implementer(ICredentialsChecker)
    class Never:
        credentialInterfaces = (ISASLPassword,)

        def requestAvatarId(self, credentials: object) -> Any:
            return fail(UnauthorizedLogin())

    authenticator = build()
    authenticator.portal.registerChecker(Never())
    response = plain(b"alice", b"secret")
    assert denial(login(authenticator, b"PLAIN", response)) == ("535 authentication failure", "alice")


def test_alwaystrue_is_warned_of(build: Build, sink: ListSink) -> None:
    authenticator = build({"pwcheck_method": "AlwaysTrue"})
    assert "any password is accepted" in warnings(sink)[0]
    sink.lines.clear()
    assert isinstance(login(authenticator, b"PLAIN", plain(b"eve", b"x")), Granted)
    assert warnings(sink) == ["SASL authentication problem: AlwaysTrue Password Verifier Verified: eve"]


@pytest.mark.parametrize(
    ("conf", "values", "words"),
    [
        ({"pwcheck_method": "auxprop authdaemond"}, {}, "authdaemond"),
        ({"auxprop_plugin": "sql"}, {}, "auxprop_plugin sql needs sql_select"),
        ({"canon_user_plugin": "other"}, {}, "canon_user plugin other"),
        ({"canon_user_plugin": "ldapdb"}, {}, "needs ldapdb_canon_attr"),
        ({}, {"smtpd_sasl_type": "other"}, "smtpd_sasl_type"),
        ({}, {"smtpd_sasl_security_options": "noplaintxt"}, "noplaintxt"),
        (
            {"mech_list": "plain login"},
            {"smtpd_sasl_security_options": "noplaintext"},
            "no SASL authentication mech",
        ),
        ({}, {"smtpd_sasl_mechanism_filter": "hash:/nonexistent/x"}, "SASL mechanism filter failed"),
        ({}, {"smtpd_sasl_mechanism_filter": "none"}, "discards all mechanisms in 'SCRAM-SHA-512 "),
    ],
)
def test_what_cannot_work_is_refused(
    build: Build, conf: dict[str, str], values: dict[str, str], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(conf, **values)
    assert words in str(caught.value)


def test_nothing_to_announce_without_tls_is_fine_where_nobody_asks(build: Build) -> None:
    authenticator = build(
        {"mech_list": "plain"},
        smtpd_sasl_security_options="noplaintext",
        smtpd_sasl_tls_security_options="noanonymous",
        smtpd_tls_auth_only="yes",
        smtpd_tls_security_level="may",
    )
    assert authenticator.mechanisms(False) == ()
    assert authenticator.mechanisms(True) == (b"PLAIN",)


def test_passwords_stay_out_of_logs_and_values(build: Build, sink: ListSink) -> None:
    outcome = login(build, b"PLAIN", plain(b"alice", b"hunter2"))
    assert "hunter2" not in repr(outcome) + repr(sink.lines)


def test_salted_secrets(build: Build, tmp_path: Path) -> None:
    """``cmusaslsecretPLAIN``, as old versions of saslpasswd wrote it, counts beside ``userPassword``."""
    path = str(tmp_path / "old")
    salt = bytes(range(1, 17))
    value = salt + b"\0" + hashlib.md5(salt + b"sasldb" + b"older").digest()
    SaslDb(path).set("alice", "mail.test", value, "cmusaslsecretPLAIN")
    SaslDb(path).set("bob", "mail.test", b"newer")
    SaslDb(path).set("bob", "mail.test", value, "cmusaslsecretPLAIN")
    SaslDb(path).set("eve", "mail.test", b"short", "cmusaslsecretPLAIN")
    authenticator = build({"sasldb_path": path})
    for user, password in ((b"alice", b"older"), (b"bob", b"older"), (b"bob", b"newer")):
        assert isinstance(login(authenticator, b"PLAIN", plain(user, password)), Granted)
    for user, password in ((b"alice", b"newer"), (b"alice", b""), (b"eve", b"short"), (b"eve", b"older")):
        reason, _ = denial(login(authenticator, b"PLAIN", plain(user, password)))
        assert reason == "535 authentication failure"


def test_an_empty_stored_password_lets_nobody_in(build: Build, tmp_path: Path) -> None:
    path = str(tmp_path / "empty")
    SaslDb(path).set("alice", "mail.test", b"")
    outcome = login(build({"sasldb_path": path}), b"PLAIN", plain(b"alice", b""))
    assert denial(outcome)[0] == "535 authentication failure"


def test_the_old_chroot_may_hold_the_database(build: Build, tmp_path: Path) -> None:
    inside = tmp_path / "spool" / "nonexistent-here"
    inside.mkdir(parents=True)
    SaslDb(str(inside / "sasldb2")).set("alice", "mail.test", b"other")
    authenticator = build({"sasldb_path": "/nonexistent-here/sasldb2"})
    assert isinstance(login(authenticator, b"PLAIN", plain(b"alice", b"other")), Granted)
