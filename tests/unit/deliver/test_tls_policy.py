"""TLS policies of destinations: tables, sites, DANE, MTA-STS, and what a message wishes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.net.net_pki import Issued, log, parameters, texts

from mtad.deliver.dane import Dane, PolicyError
from mtad.deliver.failure import SessionFailure
from mtad.deliver.mta_sts import StsPolicy
from mtad.deliver.nexthop import Destination, Host
from mtad.deliver.requiretls import RequireTls
from mtad.deliver.security import Demands, Security, Wish
from mtad.deliver.starttls import TlsStatus
from mtad.deliver.tls_policy import TlsPolicies, matches_pattern
from mtad.net.dns import DnsError, DnsStatus
from mtad.net.dns_message import Record
from mtad.net.tls_policy import LEVELS, Policy, Tlsa, main_policy, rank
from mtad.queue.message import Message


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    return asyncio.run(coroutine)


class Answers:
    """A resolver with these records: ``secure`` where their names end in ``.s.example``."""

    def __init__(self, records: dict[tuple[str, str], list[Any]] | None = None) -> None:
        self.records = records or {}
        self.asked: list[tuple[str, str]] = []

    async def query(self, name: str, type_: str) -> tuple[Record, ...]:
        self.asked.append((name, type_))
        found = self.records.get((name, type_))
        if found is None:
            raise DnsError(DnsStatus.NOT_FOUND, f"{name} {type_}")
        if found == ["fails"]:
            raise DnsError(DnsStatus.RETRY, f"{name} {type_}: try again")
        return tuple(Record(name, type_, 60, data, name.endswith("s.example")) for data in found)


class Sts:
    """MTA-STS policies by domain."""

    def __init__(self, policies: dict[str, StsPolicy], failures: dict[str, str] | None = None) -> None:
        self._policies = policies
        self._failures = failures or {}

    async def policy(self, domain: str) -> StsPolicy | None:
        return self._policies.get(domain)

    def failure(self, domain: str) -> str:
        return self._failures.get(domain, "")


def host(nexthop: str = "dest.example", name: str = "mx.dest.example") -> Host:
    bare = nexthop.strip("[").partition("]")[0].partition(":")[0]
    literal = nexthop.startswith("[")
    return Host(name, "192.0.2.1", 25, 10, Destination(nexthop, bare, 25, literal), "" if literal else "MX")


def policies(sts: Any = None, **values: str) -> tuple[TlsPolicies, list[Any]]:
    values = {"smtp_tls_security_level": "may", "smtp_tls_fingerprint_digest": "sha256"} | values
    p = parameters(**values)
    maillog, lines = log()
    resolver: Any = Answers()
    return TlsPolicies(p, main_policy(p), resolver, maillog, sts), lines


def find(text: str, nexthop: str = "dest.example", **values: str) -> Policy:
    """What a table that has ``text`` for the next hop gives."""
    found, _ = policies(smtp_tls_policy_maps=f"inline:{{ {{ {nexthop} = {text} }} }}", **values)
    return run(found.find(host(nexthop)))  # type: ignore[no-any-return]


def test_attributes_of_a_table() -> None:
    text = "secure match=a.example:b.example protocols=TLSv1.2 ciphers=high exclude=MD5 servername=s.example"
    assert find(text) == Policy("secure", "TLSv1.2", "high", "MD5", ("a.example", "b.example"), "s.example")
    assert find("encrypt connection_reuse=yes").reuse is True
    assert find("encrypt connection_reuse=no enable_rpk=yes").reuse is False
    assert find("encrypt").reuse is None
    # Postfix 3.10: braces
    assert find("encrypt, { protocols = !TLSv1,  !SSLv3 }").protocols == "!TLSv1, !SSLv3"
    assert find("none ciphers=high").level == "none"
    assert find("verify").match == ("hostname",)
    assert find("secure").match == ("nexthop", "dot-nexthop")
    zeros = "00" * 32
    assert find(f"fingerprint match={zeros}|{'0a:' * 31}0A").match == (zeros, "0A" * 32)


def test_external_policies() -> None:
    text = (
        "secure match=x:y servername=hostname policy_type=sts policy_domain=dest.example policy_ttl=600 "
        "{ policy_string = version: STSv1 } { policy_string = mode: enforce } mx_host_pattern=*.dest.example"
    )
    policy = find(text)
    assert policy.match == ("hostname",)
    assert policy.external is not None
    other = find("may policy_type=STS policy_failure=Sts-Policy-Invalid").external
    assert other is not None and (other.kind, other.failure) == ("sts", "sts-policy-invalid")
    assert policy.external.strings == ("version: STSv1", "mode: enforce")
    found, lines = policies()
    assert found.authorized(policy, host())
    assert not found.authorized(policy, host(name="mx.else.example"))
    assert "MX name 'mx.else.example' does not match STS MX pattern for 'dest.example'" in texts(lines)[0]
    assert not found.authorized(replace(policy, level="dane"), host(name="mx.else.example"))
    assert found.authorized(replace(policy, level="encrypt"), host(name="mx.else.example"))
    kept = find(text, smtp_tls_enforce_sts_mx_patterns="no")
    assert kept.match == ("x", "y")
    assert policies(smtp_tls_enforce_sts_mx_patterns="no")[0].authorized(kept, host(name="mx.else.example"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "strong",
        "halfdane",
        "encrypt colour=blue",
        "encrypt ciphers",
        "encrypt =high",
        "encrypt ciphers=",
        "encrypt ciphers=high ciphers=high",
        "encrypt protocols=a protocols=b",
        "encrypt match=x",
        "may match=x",
        "dane match=x",
        "verify match=",
        "encrypt tafile=/x",
        "verify tafile=",
        "verify tafile=/nonexistent",
        "encrypt servername=-x-",
        "encrypt servername=a servername=b",
        "encrypt connection_reuse=perhaps",
        "encrypt policy_domain=x.example",
        "encrypt mx_host_pattern=x.example",
        "secure policy_type=other",
        "secure policy_type=sts policy_ttl=x",
        "secure policy_type=sts policy_ttl=99999999999",
        "secure policy_type=sts policy_ttl=\u0663",
        "secure policy_type=sts policy_ttl=1 policy_ttl=1",
        "secure policy_type=sts policy_domain=-x-",
        "secure policy_type=sts policy_type=sts",
        "secure policy_failure=validation-failure",
        "secure {match=x.example}{match=y.example}",
        "secure {match=x.example",
        "secure {match = {x.example}",
        "secure policy_string=x",
        "secure policy_type=sts policy_failure=none",
        "fingerprint",
        "fingerprint match=xyz",
    ],
)
def test_a_mistake_in_a_table_keeps_the_mail(text: str) -> None:
    maps = f"inline:{{ {{ dest.example = {text} }} }}" if text else "static:{ }"
    found, _ = policies(smtp_tls_policy_maps=maps)
    with pytest.raises(PolicyError) as caught:
        run(found.find(host()))
    assert (caught.value.dsn, caught.value.text) == ("4.7.5", "client TLS configuration problem")


@pytest.mark.parametrize("level", ["may", "encrypt", "verify"])
def test_a_mistake_in_main_cf_does_so_too(level: str) -> None:
    found, lines = policies(smtp_tls_security_level=level, smtp_tls_servername="-x-")
    with pytest.raises(PolicyError, match="client TLS configuration problem"):
        run(found.find(host()))
    assert texts(lines) == ['warning: "smtp_tls_servername = -x-" specifies an invalid hostname']
    found, _ = policies(smtp_tls_security_level="none", smtp_tls_servername="-x-")
    assert run(found.find(host())).level == "none"


@given(st.text(alphabet=st.sampled_from("encrypt may secure=match ciphers{}|:,.\t1é\0"), max_size=60))
def test_no_text_of_a_table_lowers_what_it_begins_with(text: str) -> None:
    found, _ = policies(smtp_tls_policy_maps="static:x")
    try:
        entry = found._parse(f"verify {text}", "x")
    except PolicyError:
        return
    assert entry.level == "verify"


def test_which_key_is_asked() -> None:
    maps = "inline:{ {[mx.dest.example]:587 = encrypt}, {.dest.example = verify}, {dest.example = none} }"
    found, _ = policies(smtp_tls_policy_maps=maps)
    asked = {
        "[mx.dest.example]:587": "encrypt",
        "[mx.dest.example]": "may",
        "mx.dest.example:587": "may",
        "sub.dest.example": "verify",
        "a.b.dest.example": "verify",
        "dest.example": "none",
        "else.example": "may",
    }
    assert {key: run(found.find(host(key))).level for key in asked} == asked


def test_a_failing_table_keeps_the_mail() -> None:
    for name in ("smtp_tls_policy_maps", "smtp_tls_per_site"):
        found, lines = policies(**{name: "fail:x"})
        with pytest.raises(PolicyError):
            run(found.find(host()))
        assert "lookup error" in texts(lines)[0]


@pytest.mark.parametrize(
    ("main", "hop", "mx", "level"),
    [
        ("may", "NONE", "", "none"),
        ("may", "", "MUST", "verify"),
        ("may", "NONE", "MUST_NOPEERMATCH", "encrypt"),
        ("encrypt", "MAY", "", "encrypt"),
        ("encrypt", "MAY", "NONE", "none"),
        ("none", "MAY", "", "may"),
        ("verify", "MUST_NOPEERMATCH", "", "encrypt"),
        ("may", "MUST_NOPEERMATCH", "MUST", "verify"),
        ("encrypt", "", "", "encrypt"),
        ("may", "PERHAPS", "", ""),
    ],
)
def test_sites(main: str, hop: str, mx: str, level: str) -> None:
    entries = (
        ", ".join(
            f"{{{key} = {value}}}" for key, value in (("dest.example", hop), ("mx.dest.example", mx)) if value
        )
        or "{x = y}"
    )
    found, _ = policies(smtp_tls_security_level=main, smtp_tls_per_site=f"inline:{{ {entries} }}")
    if not level:
        with pytest.raises(PolicyError):
            run(found.find(host()))
        return
    assert run(found.find(host())).level == level


# -- TLS-Required, REQUIRETLS


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "halfdane"])
def test_tls_required_no(level: str) -> None:
    values = {"smtp_tls_fingerprint_cert_match": "00" * 32, "smtp_dns_support_level": "dnssec"}
    found, _ = policies(smtp_tls_security_level=level, smtp_tls_policy_maps="static:strange", **values)
    assert run(found.find(host(), True)).level == ("none" if level == "none" else "may")
    wrapped, _ = policies(smtp_tls_security_level=level, smtp_tls_wrappermode="yes", **values)
    assert rank(run(wrapped.find(host(), True)).level) <= rank("encrypt")


def message(**attributes: str) -> Message:
    return Message("Q", b"a@example.com", [], 0.0, attributes=attributes)


def security(**values: str) -> tuple[Security, list[Any]]:
    p = parameters(**({"smtp_tls_security_level": "may"} | values))
    maillog, lines = log()
    return Security(p, main_policy(p), Answers(), maillog, None, False), lines  # type: ignore[arg-type]


def test_wishes() -> None:
    found, _ = security()
    assert found.wish(message()) == Wish()
    assert found.wish(message(tls_required_no="yes")) == Wish(not_required=True)
    assert found.wish(message(tls_required_no="yes", requiretls="yes")) == Wish(requiretls=True)
    off, _ = security(requiretls_enable="no", tls_required_enable="no")
    assert off.wish(message(tls_required_no="yes", requiretls="yes")) == Wish()


@pytest.mark.parametrize(
    ("policy", "nexthop", "level"),
    [
        ("enforce", "a.example", "enforce"),
        ("disable", "a.example", "disable"),
        ("", "a.example", "enforce"),
        ("inline:{ {a.example = opportunistic} }", "a.example", "opportunistic"),
        ("inline:{ {.example = opportunistic+starttls} }", "a.b.example", "opportunistic+starttls"),
        ("inline:{ {x = disable} }, error", "a.example", "error"),
        ("inline:{ {a.example = hash:x} }, disable", "a.example", "error"),
        ("inline:{ {a.example = nonsense} }, disable", "a.example", "error"),
        ("fail:x, disable", "a.example", "error"),
        ("cidr:{ {192.0.2.0/24 opportunistic} }, enforce", "192.0.2.9", "opportunistic"),
        ("inline:{{.foo.example = enforce}, {bar.foo.example = disable}}, x", "x.foo.example", "enforce"),
        ("inline:{{.foo.example = enforce}, {bar.foo.example = disable}}, x", "bar.foo.example", "disable"),
        ("inline:{{.foo.example = enforce}, {bar.foo.example = disable}}, x", "other", "error"),
        (r"regexp:{{/^foo\.example$$/ enforce}}, opportunistic", "foo.example", "enforce"),
        (r"regexp:{{/^foo\.example$$/ enforce}}, opportunistic", "x.foo.example", "opportunistic"),
    ],
)
def test_requiretls_policy(policy: str, nexthop: str, level: str) -> None:
    found = RequireTls(parameters(smtp_requiretls_policy=policy), log()[0])
    assert run(found.level(nexthop, True)) == level
    assert run(found.level(nexthop, False)) == "disable"


@pytest.mark.parametrize(
    ("requiretls", "level", "dsn", "status"),
    [
        ("enforce", "may", "5.7.10", "may?/!requiretls:nocertmatch"),
        ("enforce", "encrypt", "5.7.10", "encrypt?/!requiretls:nocertmatch"),
        ("enforce", "verify", "", ""),
        ("opportunistic+starttls", "none", "5.7.10", "none?/!requiretls:noencryption"),
        ("opportunistic+starttls", "may", "", ""),
        ("opportunistic", "none", "", ""),
        ("error", "verify", "4.7.10", "verify?/requiretls?"),
    ],
)
def test_what_requiretls_asks_of_a_policy(requiretls: str, level: str, dsn: str, status: str) -> None:
    found, _ = security(smtp_tls_security_level=level)
    demands = Demands(Wish(requiretls=True), requiretls)
    if not dsn:
        assert run(found.policy(host(), demands, "Q")).level == level
        return
    with pytest.raises(SessionFailure) as caught:
        run(found.policy(host(), demands, "Q"))
    assert (caught.value.dsn, caught.value.tls_status) == (dsn, status)
    assert caught.value.host_only


def test_status_field() -> None:
    status = TlsStatus("dane", "enforce")
    assert str(status) == "dane?/requiretls?"
    status.level.decide("encrypt", True)
    status.decide_requiretls("none", False)
    assert str(status) == "dane:encrypt/!requiretls:none"


# -- DANE

EE = bytes((3, 1, 1)) + b"\1" * 32
ZONE: dict[tuple[str, str], list[Any]] = {
    ("s.example", "MX"): [(10, "mx.s.example")],
    ("mx.s.example", "A"): ["192.0.2.1"],
    ("_25._tcp.mx.s.example", "TLSA"): [EE],
}
DNSSEC = {"smtp_dns_support_level": "dnssec", "smtp_tls_security_level": "dane"}


def applied(zone: dict[tuple[str, str], list[Any]], level: str = "dane", **values: str) -> Any:
    dane = Dane(parameters(**(DNSSEC | values)), Answers(zone), log()[0])  # type: ignore[arg-type]
    return run(dane.apply(level, host("s.example", "mx.s.example")))


def test_dane_by_srv_records() -> None:
    """It is the SRV record that must be secure, whatever there is of MX records."""

    def found(srv: str, level: str = "dane") -> Any:
        destination = Destination(f"{srv}:submission", srv, 587, False, "submission")
        one = Host("mx.s.example", "192.0.2.1", 587, 10, destination, "SRV")
        zone = {
            ("mx.s.example", "A"): ["192.0.2.1"],
            ("_587._tcp.mx.s.example", "TLSA"): [EE],
            (f"_submission._tcp.{srv}", "SRV"): [(10, 0, 587, "mx.s.example")],
        }
        return run(Dane(parameters(**DNSSEC), Answers(zone), log()[0]).apply(level, one))  # type: ignore[arg-type]

    secure = found("s.example")
    assert (secure.level, secure.names) == ("dane", ("mx.s.example", "_submission._tcp.s.example"))
    assert found("i.example").level == "halfdane"
    with pytest.raises(PolicyError, match="non DNSSEC destination"):
        found("i.example", "dane-only")


def test_dane_asks_for_nothing_where_it_has_an_address() -> None:
    answers = Answers({})
    dane = Dane(parameters(**DNSSEC), answers, log()[0])  # type: ignore[arg-type]
    there = Host("192.0.2.1", "192.0.2.1", 25, 0, Destination("[192.0.2.1]", "192.0.2.1", 25, True))
    assert run(dane.apply("dane", there)).level == "may"
    assert answers.asked == []


def test_dane_levels() -> None:
    found = applied(ZONE)
    assert (found.level, found.base_domain) == ("dane", "mx.s.example")
    assert found.records == (Tlsa(3, 1, 1, b"\1" * 32),)
    assert applied(ZONE, "dane-only").level == "dane-only"
    bare = {key: value for key, value in ZONE.items() if key[1] != "TLSA"}
    assert applied(bare).level == "may"
    with pytest.raises(PolicyError, match="no TLSA records found"):
        applied(bare, "dane-only")
    unusable = ZONE | {("_25._tcp.mx.s.example", "TLSA"): [b"\1\1\1" + b"\0" * 32]}
    assert applied(unusable).level == "encrypt"
    with pytest.raises(PolicyError, match="TLSA records unusable"):
        applied(unusable, "dane-only")
    for level in ("dane", "dane-only"):
        with pytest.raises(PolicyError, match=r"TLSA lookup error for mx\.s\.example:25"):
            applied(ZONE | {("_25._tcp.mx.s.example", "TLSA"): ["fails"]}, level)


@pytest.mark.parametrize("which", [("mx.s.example", "A"), ("s.example", "MX")])
@pytest.mark.parametrize("level", ["dane", "dane-only"])
def test_who_makes_lookups_fail_gets_no_mail_in_the_clear(which: tuple[str, str], level: str) -> None:
    """An answer that was there when the host was chosen may have to be looked up again."""
    with pytest.raises(PolicyError, match=r"TLSA lookup error for mx\.s\.example:25"):
        applied(ZONE | {which: ["fails"]}, level)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"smtp_dns_support_level": "enabled"}, "s.example: dane configured with dnssec lookups disabled"),
        ({"smtp_host_lookup": "native"}, "s.example: dane configured with dnssec lookups disabled"),
        ({"ignore_mx_lookup_error": "yes"}, "s.example: dane configured with MX lookup errors ignored"),
        (
            {"smtp_dns_resolver_options": "res_defnames"},
            "s.example: dns resolver options incompatible with dane TLS",
        ),
    ],
)
def test_settings_that_dane_cannot_live_with(values: dict[str, str], text: str) -> None:
    maillog, lines = log()
    dane = Dane(parameters(**(DNSSEC | values)), Answers(ZONE), maillog)  # type: ignore[arg-type]
    assert run(dane.apply("dane", host("s.example", "mx.s.example"))).level == "may"
    assert texts(lines) == [f"warning: {text}"]
    with pytest.raises(PolicyError):
        run(dane.apply("dane-only", host("s.example", "mx.s.example")))


def test_a_name_server_that_validates_nothing_is_told_of_once() -> None:
    zone: dict[tuple[str, str], list[Any]] = {
        ("x.example", "MX"): [(10, "mx.x.example")],
        ("mx.x.example", "A"): ["192.0.2.1"],
        (".", "NS"): ["a."],
    }
    maillog, lines = log()
    dane = Dane(parameters(**DNSSEC), Answers(zone), maillog)  # type: ignore[arg-type]
    for _ in range(2):
        assert run(dane.apply("dane", host("x.example", "mx.x.example"))).level == "may"
    assert texts(lines) == [
        "warning: DNSSEC validation may be unavailable",
        "warning: reason: dnssec_probe 'ns:.' received a response that is not DNSSEC validated",
    ]


def test_records_are_logged_where_wanted() -> None:
    for level, count in (("1", 0), ("dane", 1), ("2", 1)):
        maillog, lines = log()
        p = parameters(**DNSSEC, smtp_tls_loglevel=level)
        run(Dane(p, Answers(ZONE), maillog).apply("dane", host("s.example", "mx.s.example")))  # type: ignore[arg-type]
        text = f"DNSSEC-signed TLSA record: _25._tcp.mx.s.example: 3 1 1 {'01' * 32}"
        assert texts(lines) == [text] * count


# -- MTA-STS

ENFORCE = StsPolicy("enforce", ("mx.dest.example",), 86400, "1", 0.0)


def test_mta_sts() -> None:
    sts = Sts(
        {"dest.example": ENFORCE, "test.example": replace(ENFORCE, mode="testing")},
        {"bad.example": "sts-policy-invalid"},
    )
    found, _ = policies(sts)
    enforced = run(found.find(host()))
    assert (enforced.level, enforced.match, enforced.servername) == ("secure", ("hostname",), "hostname")
    assert found.authorized(enforced, host())
    assert not found.authorized(enforced, host(name="mx.evil.example"))
    tested = run(found.find(host("test.example")))
    assert tested.level == "may"
    assert tested.external.testing
    assert run(found.find(host("bad.example"))).external.failure == "sts-policy-invalid"
    assert run(found.find(host("else.example"))) == run(policies()[0].find(host("else.example")))
    assert run(found.find(host("[dest.example]"))).level == "may"
    assert run(found.find(host(), True)).level == "may"  # TLS-Required: no
    strict, _ = policies(sts, smtp_tls_security_level="encrypt")
    assert run(strict.find(host())).level == "secure"
    assert run(strict.find(host("test.example"))).level == "encrypt"
    table, _ = policies(sts, smtp_tls_policy_maps="static:encrypt")
    assert run(table.find(host())).level == "encrypt"


@pytest.mark.parametrize(
    ("name", "pattern", "good"),
    [
        ("mx.example.com", "mx.example.com", True),
        ("MX.example.com", "mx.Example.com", True),
        ("mx.example.com", "*.example.com", True),
        ("a.mx.example.com", "*.example.com", False),
        ("example.com", "*.example.com", False),
        (".example.com", "*.example.com", False),
        ("mx.example.com", "*.", False),
        ("mx.example.com", "example.com", False),
    ],
)
def test_patterns(name: str, pattern: str, good: bool) -> None:
    assert matches_pattern(name, (pattern,)) is good


def test_trust_anchors_are_read_again_when_they_change(tmp_path: Path) -> None:
    file = tmp_path / "ta.pem"
    Issued("one").write(file)
    found, _ = policies(smtp_tls_security_level="verify", smtp_tls_trust_anchor_file=str(file))
    first = run(found.find(host())).anchors
    assert [record.usage for record in first] == [2, 3]
    Issued("another, longer").write(file)
    assert run(found.find(host())).anchors != first
    file.unlink()
    with pytest.raises(PolicyError):
        run(found.find(host()))
