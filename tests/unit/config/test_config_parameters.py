"""Parameters: where values come from, types, errors, services."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mtad.config.master_cf import parse_service
from mtad.config.parameters import Facts, Parameters, table
from mtad.config.types import parse_type
from mtad.errors import ConfigError

FACTS = Facts("mail", lambda style: f"<{style}>")


def write(directory: Path, text: str) -> str:
    (directory / "main.cf").write_text(text)
    return str(directory)


def test_table_is_whole() -> None:
    rows = table()
    assert len(rows) > 850
    for row in rows.values():
        assert row.status in ("honoured", "ignored", "unimplemented"), row
        parse_type(row.type)
        assert parse_type(row.type).kind in (
            "bool", "int", "long", "time", "str", "list", "maps", "networks", "enum", "enum?",
            "set", "hostname", "level", "raw", "legacy",
        ), row  # fmt: skip
    assert list(rows) == sorted(rows)
    assert rows["mail_version"].default == "3.11.6"
    assert [name for name in rows if name.startswith("mtad_")]


def test_all_defaults_are_of_their_type() -> None:
    assert Parameters.from_mapping({}, facts=FACTS).check() == []
    assert Parameters.from_mapping({"compatibility_level": "3.11"}, facts=FACTS).check() == []


def test_load(tmp_path: Path) -> None:
    directory = write(tmp_path, "# c\nmyhostname = a.example\nmydomain =\n\nfoo = $myhostname,\n  b\n")
    p = Parameters.load(directory, FACTS, {"mail_name": "Other"})
    assert p.directory == directory
    assert p["myhostname"] == "a.example"
    assert p["foo"] == "a.example,  b"
    assert p["smtpd_banner"] == "a.example ESMTP Other"
    assert p["mydomain"] == ""
    assert p["config_directory"] == directory
    assert p.where("foo") == (f"{directory}/main.cf", 5)
    assert p.where("mail_owner") == (f"{directory}/main.cf", 0)
    assert p.explicit("mydomain")
    assert p.explicit("mail_name")
    assert not p.explicit("mail_owner")
    assert "mail_owner" in p
    assert "no_such_name" not in p
    with pytest.raises(KeyError):
        p["no_such_name"]


def test_last_line_counts_with_a_warning(tmp_path: Path) -> None:
    directory = write(tmp_path, "a = 1\na = 2\n")
    p = Parameters.load(directory)
    assert p["a"] == "2"
    assert p.warnings == [f"{directory}/main.cf, line 2: overriding earlier entry: a=1"]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [("a = 1\nb\n", 2, "missing '=' after attribute name"), ("= 1\n", 1, "missing attribute name")],
)
def test_malformed_lines(tmp_path: Path, text: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        Parameters.load(write(tmp_path, text))
    assert (caught.value.path, caught.value.line) == (f"{tmp_path}/main.cf", line)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Parameters.load(str(tmp_path))


@pytest.mark.parametrize(
    ("hostname", "values", "myhostname", "mydomain"),
    [
        ("mail", {}, "mail.localdomain", "localdomain"),
        ("mail.example.com", {}, "mail.example.com", "example.com"),
        ("mail", {"mydomain": "example.com"}, "mail.example.com", "example.com"),
        ("x", {"myhostname": "a.b.c"}, "a.b.c", "b.c"),
        ("mail", {"mydomain": ""}, "mail.", ""),
        ("x", {"myhostname": "vm"}, "vm", "localdomain"),
    ],
)
def test_host_and_domain(hostname: str, values: dict[str, str], myhostname: str, mydomain: str) -> None:
    p = Parameters.from_mapping(values, facts=Facts(hostname))
    assert (p["myhostname"], p["mydomain"]) == (myhostname, mydomain)


def test_mynetworks_follow_style_and_level() -> None:
    assert Parameters.from_mapping({}, facts=FACTS)["mynetworks"] == "<subnet>"
    assert Parameters.from_mapping({"compatibility_level": "3.6"}, facts=FACTS)["mynetworks"] == "<host>"
    assert Parameters.from_mapping({"mynetworks_style": "class"}, facts=FACTS)["mynetworks"] == "<class>"
    assert Parameters.from_mapping({"mynetworks": "10.0.0.0/8"}, facts=FACTS)["mynetworks"] == "10.0.0.0/8"


def test_defaults_by_level() -> None:
    old, new = Parameters.from_mapping({}), Parameters.from_mapping({"compatibility_level": "3.11"})
    assert old.flag("append_dot_mydomain")
    assert not new.flag("append_dot_mydomain")
    assert old["smtpd_relay_restrictions"] == ""
    assert new.words("smtpd_relay_restrictions")[-1] == "defer_unauth_destination"
    assert (old["smtp_tls_security_level"], new["smtp_tls_security_level"]) == ("", "may")


def test_origin_from_a_file(tmp_path: Path) -> None:
    name = tmp_path / "mailname"
    name.write_text("  example.org \nsecond\n")
    assert Parameters.from_mapping({"myorigin": str(name)})["myorigin"] == "example.org"
    with_reference = Parameters.from_mapping({"myorigin": str(name), "mydestination": "$myorigin"})
    assert with_reference["mydestination"] == str(name)  # which is a pattern file for a match list
    name.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        Parameters.from_mapping({"myorigin": str(name)})["myorigin"]
    with pytest.raises(ConfigError, match="No such file") as caught:
        Parameters.from_mapping({"myorigin": f"{tmp_path}/none"})["myorigin"]
    assert caught.value.parameter == "myorigin"


def test_typed_values() -> None:
    p = Parameters.from_mapping(
        {
            "smtpd_helo_required": "YES",
            "message_size_limit": "5000000000",
            "smtpd_timeout": "10min",
            "maximal_queue_lifetime": "3",
            "delay_warning_time": "4",
            "mynetworks": "127.0.0.0/8, [::1]/128\thost",
            "smtpd_recipient_restrictions": "check_policy_service { inet:h:1, timeout=5s }, permit",
            "smtpd_tls_security_level": "Encrypt",
            "stress": "yes",
        }
    )
    assert p.flag("smtpd_helo_required") is True
    assert p.flag("smtpd_delay_reject") is True
    assert p.number("message_size_limit") == 5_000_000_000
    assert p.number("smtpd_hard_error_limit") == 1
    assert p.seconds("smtpd_timeout") == 600
    assert p.seconds("maximal_queue_lifetime") == 3 * 86400
    assert p.seconds("delay_warning_time") == 4 * 3600
    assert p.seconds("smtpd_starttls_timeout") == 10
    assert p.words("mynetworks") == ("127.0.0.0/8", "[::1]/128", "host")
    assert p.words("smtpd_recipient_restrictions") == (
        "check_policy_service", "inet:h:1, timeout=5s", "permit",
    )  # fmt: skip
    assert p.choice("smtpd_tls_security_level") == "encrypt"
    assert p.choice("smtp_dns_support_level") == ""
    assert p.words("notify_classes") == ("resource", "software")
    assert p.expand("<$stress>") == "<yes>"


@pytest.mark.parametrize(
    ("name", "text", "reason", "remedy"),
    [
        ("smtpd_helo_required", "true", "bad boolean configuration: smtpd_helo_required = true", "yes"),
        ("smtpd_helo_required", "", "bad boolean configuration", "yes"),
        ("message_size_limit", "10M", "bad numerical configuration: message_size_limit = 10M", "digits"),
        ("message_size_limit", "", "bad numerical configuration", "decimal"),
        ("smtpd_recipient_limit", "9" * 12, "bad numerical configuration", ""),
        ("smtpd_recipient_limit", "٣", "bad numerical configuration", ""),
        ("line_length_limit", "100", "invalid line_length_limit parameter value 100 < 512", "at least 512"),
        ("in_flow_delay", "11", "invalid in_flow_delay parameter value 11 > 10", "at most 10"),
        ("smtpd_timeout", "5x", "bad time value or unit: 5x", "s, m, h"),
        ("smtpd_timeout", "-5s", "bad time value or unit", ""),
        ("smtpd_timeout", "1.5h", "bad time value or unit", ""),
        ("smtpd_timeout", "99999w", "bad time value or unit", ""),
        ("smtpd_timeout", "", "bad time value or unit", ""),
        ("smtpd_tls_security_level", "mey", 'unknown value: "mey"', 'did you mean "may"?'),
        ("smtpd_sasl_security_options", "noanonymous, noplain", 'unknown value: "noplain"', "noplaintext"),
        ("default_verp_delimiters", "+", "bad string length 1 < 2", ""),
        ("mynetworks", "{127.0.0.0/8", "unbalanced braces", ""),
        ("mynetworks", "{127.0.0.0/8}x", "syntax error after '}'", ""),
        ("myhostname", "a.b # x", r"invalid character 32\(decimal\)", "comment"),
        ("myhostname", "-a.b", "misplaced", ""),
        ("myhostname", "1.2.3.4", "numeric", "name"),
        ("compatibility_level", "", "malformed compatibility level syntax", "3.6"),
        ("compatibility_level", "3.x", "malformed compatibility level syntax", ""),
        ("slow_destination_concurrency_limit", "x", "bad numerical configuration", ""),
    ],
)
def test_bad_values(tmp_path: Path, name: str, text: str, reason: str, remedy: str) -> None:
    p = Parameters.load(write(tmp_path, f"# x\n{name} = {text}\n"), FACTS)
    errors = [error for error in p.check() if error.parameter == name]
    assert len(errors) == 1
    assert (errors[0].path, errors[0].line) == (f"{tmp_path}/main.cf", 2)
    with pytest.raises(ConfigError, match=reason) as caught:
        p.check_one(name)
    assert remedy in caught.value.remedy


def test_getters_name_the_place(tmp_path: Path) -> None:
    p = Parameters.load(write(tmp_path, "soft_bounce = 1\nsmtpd_timeout = x\nqueue_minfree = x\n"))
    for get, name in ((p.flag, "soft_bounce"), (p.seconds, "smtpd_timeout"), (p.number, "queue_minfree")):
        with pytest.raises(ConfigError) as caught:
            get(name)
        assert caught.value.parameter == name
        assert caught.value.line


def test_raw_values_keep_their_dollars() -> None:
    p = Parameters.from_mapping(
        {"smtpd_reject_footer": "ask $myhostname about $localtime", "x": "$myhostname"}
    )
    assert p["smtpd_reject_footer"] == "ask $myhostname about $localtime"
    assert "$rbl_code" in p["default_rbl_reply"]


def test_derived_names() -> None:
    p = Parameters.from_mapping(
        {"default_destination_concurrency_limit": "7", "slow_transport_rate_delay": "2m"}
    )
    assert p.number("slow_destination_concurrency_limit") == 7
    assert p.number("local_destination_concurrency_limit") == 2
    assert p.seconds("slow_transport_rate_delay") == 120
    assert p.seconds("slow_destination_rate_delay") == 0
    assert p.seconds("policyd_time_limit") == 1000
    assert p["slow_extra_recipient_limit"] == "1000"
    assert p["slow_destination_recipient_limit"] == "50"
    assert p["slow_initial_destination_concurrency"] == "5"


def test_old_names_reach_the_new_ones() -> None:
    p = Parameters.from_mapping({"virtual_maps": "hash:/v", "smtpd_per_record_deadline": "yes"})
    assert p["virtual_alias_maps"] == "hash:/v"
    assert p["smtpd_per_request_deadline"] == "yes"


def test_facts_may_come_later() -> None:
    p = Parameters.from_mapping({"compatibility_level": "3.6", "myhostname": "a.b"}, facts=FACTS)
    later = p.with_facts(Facts("other", lambda style: f"({style})"))
    assert (p["mynetworks"], later["mynetworks"]) == ("<host>", "(host)")
    assert later["myhostname"] == "a.b"


def test_service_sees_its_overrides() -> None:
    p = Parameters.from_mapping({"mua": "permit_sasl_authenticated,reject", "soft_bounce": "no"})
    service = parse_service(
        "submission inet n - y - - smtpd -o syslog_name=postfix/$service_name "
        "-o smtpd_client_restrictions=$mua -o { soft_bounce = yes }",
        line=7,
    )
    local = p.for_service(service)
    assert local["syslog_name"] == "postfix/submission"
    assert local.words("smtpd_client_restrictions") == ("permit_sasl_authenticated", "reject")
    assert local.flag("soft_bounce")
    assert local["process_name"] == "smtpd"
    assert local.where("soft_bounce") == ("/etc/postfix/master.cf", 7)
    assert not p.flag("soft_bounce")
    assert p["syslog_name"] == "postfix"
    assert p["service_name"] == "amnesiac"


def test_it_is_quick(tmp_path: Path) -> None:
    directory = write(tmp_path, "".join(f"user_{i} = a, b, $myhostname\n" for i in range(100)))
    table()
    best = 1.0
    for _ in range(5):
        started = time.perf_counter()
        p = Parameters.load(directory)
        assert p["user_7"]
        best = min(best, time.perf_counter() - started)
    assert best < 0.015
