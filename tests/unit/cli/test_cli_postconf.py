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


def test_json(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "main.cf").write_bytes(b'mail_name = a "b" \\ \t \x7f \xff\n')
    assert run("-q", "-j", "mail_name")[1] == ['{"mail_name": "a \\"b\\" \\\\ \\t \\u007F \ufffd"}']
    assert run("-q", "-j", "-P")[1] == [
        '{"submission/inet/smtpd_banner": "a b"}',
        '{"submission/inet/syslog_name": "postfix/$service_name"}',
    ]


def test_all_that_is_in_effect(run) -> None:  # type: ignore[no-untyped-def]
    assert run("-q", "-PP", "-x", "*/*/myhostname", "*/*/syslog_name")[1] == [
        "submission/inet/myhostname = a.example",
        "submission/inet/syslog_name = postfix/submission",
    ]
    assert len(run("-q", "-PP")[1]) > 800


def test_edit_master(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "master.cf"
    path.write_text("# head\n" + MASTER + "# tail\nqmgr unix n - n 300 1 qmgr\n")
    assert run("-F", "qmgr/unix/chroot=y", "submission/inet/command={sm tpd} -v {x y}")[0] == 0
    assert run("-P", "qmgr/unix/soft_bounce=yes")[0] == 0
    assert path.read_text() == (
        "# head\n"
        "submission inet  n       -       n       -       -       {sm tpd} -v {x y}\n"
        "# tail\n"
        "qmgr       unix  n       -       n       300     1       qmgr\n"
    ).replace("n       300", "y       300").replace("qmgr\n", "qmgr\n    -o soft_bounce=yes\n")
    assert run("-P", "none/unix/x=y")[2] == [
        'postconf: warning: unmatched service_name/type: "none/unix/x=y"'
    ]
    assert run("-PX", "qmgr/unix/soft_bounce")[0] == 0
    assert "soft_bounce" not in path.read_text()
    assert run("-M#", "submission/inet")[0] == 0
    assert run("-MX", "qmgr/unix")[0] == 0
    assert run("-M", "relay/unix=relay unix - - n - - smtp")[0] == 0
    lines = path.read_text().splitlines()
    assert lines[0] == "# head"
    assert lines[1].startswith("#submission")
    assert lines[-2:] == ["# tail", "relay      unix  -       -       n       -       -       smtp"]


def test_what_there_is(run) -> None:  # type: ignore[no-untyped-def]
    assert "cyrus" in run("-a")[1]
    assert run("-l")[1] == ["flock", "fcntl", "dotlock"]
    assert {"hash", "pcre", "cidr"} <= set(run("-m")[1])
    assert run("-T", "public-key-algorithms")[1] == ["dsa", "ecdsa", "rsa"]
    assert run("-T", "run-version")[1][0].startswith("OpenSSL ")


def test_texts_of_notifications(run) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = run("-b")
    assert out[:2] == ["expanded_failure_text = <<EOF", "This is the mail system at host a.example."]
    assert [line for line in out if line.startswith("expanded_")] == [
        f"expanded_{name}_text = <<EOF" for name in ("failure", "delay", "success", "verify")
    ]
    assert any("be retried until it is 5 day(s) old." in line for line in out)
    _, out, _ = run("-t")
    assert "It will be retried until it is $maximal_queue_lifetime_days day(s) old." in out
    assert "Subject: Undelivered Mail Returned to Sender" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-Z"], "usage: postconf [-a (server"),
        (["-n", "-d"], "specify one of -d -n"),
        (["-e"], "-e requires name=value argument"),
        (["-e", "x"], "missing '=' after attribute name"),
        (["-X", "a=b"], "specify one of -e -X"),
        (["-X", "a", "b=c"], "requires parameter names without value"),
        (["-X"], "missing service argument"),
        (["-X", ""], "-X or -# requires non-blank parameter names"),
        (["-e", "#x=y"], "accepts no comment input"),
        (["-C", "some"], 'unknown -C option value "some"'),
        (["-o", "x", "mail_name"], "invalid parameter override: x: missing '='"),
        (["-jf"], "with option -j, do not specify -f"),
        (["-PPe", "a/b/c=d"], "specify one of -e -PP"),
        (["-b", "-t"], "specify one of -b and -t"),
        (["-b", "/some/file"], "open /some/file: No such file or directory"),
        (["-T", "x"], "unknown 'postconf -T' mode: x"),
        (["-Me", "a/b=c"], 'bad field count: "a/b=c"'),
        (["-Me", "a=c"], "-Me, -MX or -M# requires service_name/type"),
        (["-Fe", "a/b/c=d"], 'invalid service attribute name: "c"'),
        (["-Fe", "a/b/*=d"], "-Fe does not accept wild-card field name"),
        (["-Fe", "a/b/chroot=d e"], "-Fe does not accept whitespace in non-command field"),
        (["-Fe", "submission/inet/chroot=d"], 'invalid chroot field "d"'),
        (["-Pe", "a/b/*=d"], "-Pe does not accept wild-card parameter name"),
        (["-Pe", "a/b/c=d e"], "-Pe does not accept whitespace in parameter value"),
        (["-M#", "a"], "-Me, -MX or -M# requires service_name/type"),
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
    assert f"fatal: open {tmp_path}/none/main.cf: No such file or directory\n" in capfd.readouterr().err


def test_manual(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--man"]) == 0
    page = capfd.readouterr().out
    assert page.startswith(".TH MTAD-PARAMETERS 5 ")
    assert '\n.IP "\\fBsmtpd_timeout\\fR (default: ${stress?{10}:{300}}s)"\n' in page
    assert "mtad_queue_directory" in page
    for name, type_ in (
        ("anvil_rate_time_unit", "time (without a unit: seconds), at least 1 s"),
        ("smtpd_timeout", "time (without a unit: seconds), at least 1 s"),
        ("smtpd_error_sleep_time", "time (without a unit: seconds)"),
        ("myorigin", "text, length at least 1"),
        ("unverified_sender_reject_code", "number, 200 to 599"),
    ):
        assert page.partition(f"\\fB{name}\\fR ")[2].split("\n")[1] == f"Type: {type_}"
