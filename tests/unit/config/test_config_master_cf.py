"""master.cf: fields, options, braces, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.master_cf import parse_service, read_entries, read_master_cf
from mtad.errors import ConfigError

TEXT = """\
# comment
smtp      inet  n       -       y       -       -       smtpd
submission inet n       -       n       -       20      smtpd
  -o syslog_name=postfix/submission
#  -o commented=out
  -o smtpd_relay_restrictions=
  -o { smtpd_banner = $myhostname ESMTP  two }
  -v -vD
pickup    fifo  n       n       -       60?     1       pickup
maildrop  unix  -       n       n       -       0       pipe
  flags=DRXhu user=vmail argv={/bin/sh -c true} -o ${recipient}
"""


def write(directory: Path, text: str) -> str:
    path = directory / "master.cf"
    path.write_text(text)
    return str(path)


def test_services(tmp_path: Path) -> None:
    smtp, submission, pickup, maildrop = read_master_cf(write(tmp_path, TEXT))
    assert (smtp.name, smtp.type, smtp.command, smtp.line) == ("smtp", "inet", "smtpd", 2)
    assert (smtp.private, smtp.unprivileged, smtp.chroot) == (False, True, True)
    assert (smtp.wakeup, smtp.maxproc, smtp.args, smtp.overrides) == (0, None, (), {})
    assert submission.overrides == {
        "syslog_name": "postfix/submission",
        "smtpd_relay_restrictions": "",
        "smtpd_banner": "$myhostname ESMTP  two",
    }
    assert (submission.verbose, submission.debug, submission.args) == (2, True, ())
    assert (submission.chroot, submission.maxproc, submission.line) == (False, 20, 3)
    assert (pickup.wakeup, pickup.maxproc, pickup.chroot, pickup.unprivileged) == (60, 1, None, False)
    assert maildrop.private
    assert maildrop.maxproc == 0
    assert maildrop.args == ("flags=DRXhu", "user=vmail", "argv={/bin/sh -c true}", "-o", "${recipient}")
    assert maildrop.overrides == {}


def test_the_last_of_two_counts(tmp_path: Path) -> None:
    path = write(tmp_path, "a inet n - n - - smtpd\nb inet n - n - - smtpd\na inet n - n - - smtpd -v\n")
    warnings: list[str] = []
    services = read_master_cf(path, warnings)
    assert [(service.name, service.verbose) for service in services] == [("a", 1), ("b", 0)]
    assert warnings == [
        f'{path}, line 3: duplicate master.cf entry for service "a" (inet) -- using the last entry'
    ]
    assert len(read_entries(path)) == 3


@pytest.mark.parametrize(
    ("arguments", "overrides", "args"),
    [
        ("-o a=1 -o a=2", {"a": "2"}, ()),
        ("-oa=1", {"a": "1"}, ()),
        ("-vo a=1", {"a": "1"}, ()),
        ("-va=1", {}, ("-a=1",)),
        ("-o {a = b c}", {"a": "b c"}, ()),
        ("-o{a = b c}", {"a": "b c"}, ()),
        ("-o a=$b,{c d}", {"a": "$b,{c d}"}, ()),
        ("-- -o a=1", {}, ("--", "-o", "a=1")),
        ("x {y z} -o a=1", {}, ("x", "y z", "-o", "a=1")),
    ],
)
def test_arguments(arguments: str, overrides: dict[str, str], args: tuple[str, ...]) -> None:
    service = parse_service(f"s unix - - - - - smtp {arguments}")
    assert service.overrides == overrides
    assert service.args == args


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("smtp inet n - n - -", 'field "command" is missing'),
        ("smtp inet", 'field "private" is missing'),
        ("smtp tcp n - n - - smtpd", 'field "type": bad value: "tcp"'),
        ("smtp inet x - n - - smtpd", 'field "private": bad value: "x"'),
        ("smtp inet n - maybe - - smtpd", 'field "chroot": bad value: "maybe"'),
        ("smtp inet n - n 5s - smtpd", 'field "wakeup": bad value: "5s"'),
        ("smtp inet n - n - many smtpd", 'field "process_limit": bad value: "many"'),
        ("smtp inet - - n - - smtpd", "inet service cannot be private"),
        ("host:0 inet n - n - - smtpd", "bad port"),
        ("smtp inet n - n - - smtpd -o", "option -o needs"),
        ("smtp inet n - n - - smtpd -o a", "missing '=' after attribute name"),
        ("smtp inet n - n - - smtpd -o {a=b", "missing '}'"),
        ("smtp inet n - n - - smtpd -o {a=b}c", "syntax error after '}'"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path, f"# c\n\n{text}\n")
    with pytest.raises(ConfigError, match=reason) as caught:
        read_master_cf(path)
    assert (caught.value.path, caught.value.line) == (path, 3)


@given(st.text(alphabet=st.sampled_from("smtpd inet-o=a{}1?0vD$ \t,"), max_size=80))
def test_any_line_is_a_service_or_an_error(text: str) -> None:
    for line in (text, f"smtp inet n - n - - smtpd {text}"):
        try:
            service = parse_service(line, "/x", 1)
        except ConfigError as error:
            assert error.path == "/x"
        else:
            assert len(service.fields) >= 8
