"""mtad postconf without a Postfix beside it: the main modes, the exit status, the lines on standard error."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtad.cli.postconf import main

MAIN = "compatibility_level = 3.6\nmyhostname = a.example\nfoo = 1\nalways_bcc =  x   $mail_name\n"
MASTER = "submission inet n - n - - smtpd\n  -o syslog_name=postfix/$service_name -o { smtpd_banner = a b }\n"


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    (tmp_path / "main.cf").write_text(MAIN)
    (tmp_path / "master.cf").write_text(MASTER)

    def go(*arguments: str) -> tuple[int, list[str], list[str]]:
        status = main(["-c", str(tmp_path), *arguments])
        out, err = capfd.readouterr()
        return status, out.splitlines(), [line.replace(str(tmp_path), "DIR") for line in err.splitlines()]

    return go


def test_explicit_values(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("-n")
    assert status == 0
    assert out == [
        "always_bcc = x $mail_name",
        "compatibility_level = 3.6",
        f"config_directory = {tmp_path}",
        "myhostname = a.example",
    ]
    assert err == ["postconf: warning: DIR/main.cf: unused parameter: foo=1"]
    assert run("-nq")[2] == []


def test_names(run) -> None:  # type: ignore[no-untyped-def]
    assert run("-q", "-h", "myhostname") == (0, ["a.example"], [])
    assert run("-q", "-x", "always_bcc", "smtpd_banner")[1] == [
        "always_bcc = x Postfix", "smtpd_banner = a.example ESMTP Postfix",
    ]  # fmt: skip
    assert run("-q", "nothing") == (0, [], ["postconf: warning: nothing: unknown parameter"])
    assert run("-q", "-o", "mail_name=M", "-hx", "mail_name")[1] == ["M"]


def test_defaults_and_own_parameters(run) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("-d")
    assert (status, err) == (0, [])
    assert out == sorted(out, key=lambda line: line.split(" =")[0])
    assert "smtpd_timeout = ${stress?{10}:{300}}s" in out
    assert "mtad_queue_directory = $queue_directory/mtad" in out
    assert "config_directory = /etc/postfix" in out


def test_services(run) -> None:  # type: ignore[no-untyped-def]
    assert run("-q", "-M")[1] == [
        "submission inet  n       -       n       -       -       smtpd "
        "-o syslog_name=postfix/$service_name -o {smtpd_banner=a b}"
    ]
    assert run("-q", "-P", "-x", "submission/inet/syslog_name")[1] == [
        "submission/inet/syslog_name = postfix/submission"
    ]
    assert run("-q", "-F", "-h", "submission/inet/chroot")[1] == ["n"]
    assert run("-q", "-M", "x")[2] == ['postconf: warning: unmatched request: "x"']


def test_edit(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert run("foo=2", "mail_name = x") == (0, [], [])
    assert run("-X", "myhostname")[0] == 0
    assert (tmp_path / "main.cf").read_text() == (
        "compatibility_level = 3.6\nfoo = 2\nalways_bcc =  x   $mail_name\nmail_name = x\n"
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-Z"], "option -Z not recognized"),
        (["-n", "-d"], "specify one of -n -d"),
        (["-e"], "-e requires name=value argument"),
        (["-e", "x"], "missing '=' after attribute name"),
        (["-X", "a=b"], "requires parameter names without value"),
        (["-C", "some"], 'unknown -C option value "some"'),
        (["-o", "x", "mail_name"], "invalid parameter override: x: missing '='"),
        (["-j"], "option -j"),
        (["-Me", "a/b=c"], "master.cf is not edited here"),
        (["-x", "-o", "mail_name=${x", "mail_name"], "truncated macro reference"),
    ],
)
def test_refusals(run, arguments: list[str], text: str) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run(*arguments)
    assert (status, out) == (1, [])
    assert err[-1].startswith("postconf: fatal: ")
    assert text in err[-1]


def test_no_configuration(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", f"{tmp_path}/none", "-n"]) == 1
    assert f"fatal: {tmp_path}/none/main.cf: cannot read this file: No such file" in capfd.readouterr().err
