"""Configurations of many styles, and made-up ones: ``mtad postconf`` and the installed one say the same.

The files in ``configs`` are main.cf as people have them; NAME.master is the master.cf that goes with NAME.cf.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_oracle_postconf import CHANGED, MASTER, POSTCONF, theirs, unchanged, warnings

from mtad.cli.postconf import main
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.tables import open_table

pytestmark = pytest.mark.skipif(
    not Path(POSTCONF).exists(), reason="needs Debian's postfix package for its postconf"
)

CONFIGS = sorted(Path(__file__).with_name("configs").glob("*.cf"))
OPTIONS = ("-n", "-nf", "-nx", "-nh", "-x", "-C user", "-C service,user -x", "-Mf", "-Mx", "-Px", "-F")
#: Defaults that mention parameters whose own defaults have changed.
_DEPENDENT = (
    "proxy_",
    "postscreen_",
    "tlsproxy_",
    "milter_macro_v",
    "local_recipient_maps",
    "address_verify_",
)


def write(directory: Path, main_cf: bytes, master: str = MASTER) -> None:
    """Files that are not new: postconf waits a second for one that was just written."""
    (directory / "main.cf").write_bytes(main_cf)
    (directory / "master.cf").write_text(master)
    for name in ("main.cf", "master.cf"):
        os.utime(directory / name, (1_000_000_000, 1_000_000_000))


def comparable(output: bytes, expanded: bool) -> list[bytes]:
    lines = unchanged(output)
    if expanded:
        lines = [line for line in lines if not line.decode("utf-8", "replace").startswith(_DEPENDENT)]
    return lines


def test_there_are_enough() -> None:
    assert len(CONFIGS) >= 25


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_same_configuration(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], path: Path) -> None:
    master = path.with_suffix(".master")
    write(tmp_path, path.read_bytes(), master.read_text() if master.exists() else MASTER)
    for options in OPTIONS:
        arguments = ["-c", str(tmp_path), *options.split()]
        out, err, status = theirs(arguments)
        assert b"fatal" not in err, err
        assert main(arguments) == status
        ours = capfdbinary.readouterr()
        expanded = "x" in options
        assert comparable(ours.out, expanded) == comparable(out, expanded), options
        assert warnings(ours.err) == warnings(err), options


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_same_values_by_name(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], path: Path) -> None:
    write(tmp_path, path.read_bytes())
    names = re.findall(r"^([a-z0-9_]+)\s*=", path.read_text(), re.MULTILINE)
    names = [name for name in dict.fromkeys(names) if name not in CHANGED]
    for options in (["-d"], ["-dx"], ["-x"], ["-h"]):
        arguments = ["-c", str(tmp_path), *options, *names]
        out, err, _ = theirs(arguments)
        assert main(arguments) == 0
        ours = capfdbinary.readouterr()
        assert comparable(ours.out, True) == comparable(out, True), options
        assert warnings(ours.err) == warnings(err), options


MASTER_EDITS = [
    ["-M", "relay/unix=relay unix - - n - - smtp -o a=b -v x {c d}"],
    ["-Me", "smtp/unix=smtp unix - - n - 7 smtp"],
    ["-M", "smtp/unix=other inet n - n - - smtpd", "*/fifo=x fifo - - - - - y"],
    ["-MX", "smtp/unix", "slow/unix"],
    ["-MX", "*/inet"],
    ["-M#", "submission/inet"],
    ["-M#", "policy/*", "nothing/unix"],
    ["-F", "smtp/inet/chroot=n", "slow/unix/process_limit=9"],
    ["-F", "submission/inet/command=smtpd -v -o x=y z {a b}"],
    ["-Fe", "*/unix/private=n"],
    ["-F", "none/unix/chroot=n"],
    ["-P", "submission/inet/syslog_name=x", "submission/inet/new=$y"],
    ["-P", "*/unix/soft_bounce=yes"],
    ["-PX", "submission/inet/smtpd_relay_restrictions", "slow/unix/smtp_helo_timeout", "slow/unix/none"],
]


@pytest.mark.parametrize("arguments", MASTER_EDITS, ids=" ".join)
def test_same_edit_of_master_cf(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], arguments: list[str]
) -> None:
    text = MASTER.replace("  -o smtpd_relay", "# inside\n\n  -o smtpd_relay").replace(
        "two words}", "two} words"
    )
    write(tmp_path, b"", text)
    _, err, status = theirs(["-c", str(tmp_path), *arguments])
    expected = (tmp_path / "master.cf").read_text()
    write(tmp_path, b"", text)
    assert main(["-c", str(tmp_path), *arguments]) == status == 0
    assert (tmp_path / "master.cf").read_text() == expected
    assert warnings(capfdbinary.readouterr().err) == warnings(err)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["main.cf", "master.cf"]


# Made-up files

_NAMES = ("alpha", "beta", "mydestination", "always_bcc", "relayhost", "mail_name", "smtpd_banner")
_TEXT = st.text(alphabet="ab ,\t${}?:=<!>1\\\"'()", max_size=12)


def _expression(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    name = st.sampled_from((*_NAMES, "nothing"))
    return st.one_of(
        name.map(lambda word: f"${word}"),
        name.map(lambda word: f"$({word})"),
        st.tuples(name, inner).map(lambda pair: "${" + "?".join(pair) + "}"),
        st.tuples(name, inner, inner).map(lambda parts: f"${{{parts[0]}?{{{parts[1]}}}:{{{parts[2]}}}}}"),
        st.tuples(inner, st.sampled_from(("==", "!=", "<", ">=", "== ")), inner, inner).map(
            lambda parts: f"${{{{{parts[0]}}} {parts[1]} {{{parts[2]}}} ? {{{parts[3]}}}}}"
        ),
        st.tuples(inner, inner).map("".join),
        _TEXT,
    )


#: A broken expression.  How much of the rest is looked at then differs, as it does for a circle of names, at
#: which the installed postconf may crash.
_BROKEN = re.compile(
    rb"warning: (truncated|empty) macro|expected at: |unexpected input at: |syntax error at: "
)

_VALUE = st.recursive(_TEXT, _expression, max_leaves=4)
_LINE = st.one_of(
    st.tuples(st.sampled_from(_NAMES), st.sampled_from(("=", " = ", "  =\t")), _VALUE).map("".join),
    _TEXT.map(lambda text: f" {text}"),
    _TEXT.map(lambda text: f"#{text}"),
    st.just(""),
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(_LINE, max_size=8))
@example(["alpha = }{ a b }", "always_bcc = $alpha"])
@example(["mydestination = {", " a", "# b", "}"])
def test_same_of_made_up_files(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], lines: list[str]
) -> None:
    write(tmp_path, "\n".join(lines).encode())
    try:
        Parameters.load(str(tmp_path)).check()
    except ConfigError:
        pass
    arguments = ["-c", str(tmp_path), "-nx"]
    out, err, status = theirs(arguments)
    capfdbinary.readouterr()
    ours_status = main(arguments)
    ours = capfdbinary.readouterr()
    if status < 0 or _BROKEN.search(err):
        assert ours_status in (0, 1)
        return
    assert ours_status == status, err
    if status:
        assert (b"fatal: " in ours.err) == (b"fatal: " in err)
    else:
        assert unchanged(ours.out) == unchanged(out)
        # of braces, 3.7 tells the file without its directory
        plain = re.sub(rb"[^ ]*/main\.cf: (?=missing '|syntax error after)", b"main.cf: ", ours.err)
        assert warnings(plain) == warnings(err)


def test_a_large_configuration_loads(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    lines = [f"table_{number} = inline:{{{{key{number} = value{number}}}}}" for number in range(60)]
    lines += [f"user_{number} = $user_{number - 1} text {number}" for number in range(1, 40)]
    lines += [
        f"# comment {number}\nplain_{number} = some, words, of, value, {number}" for number in range(950)
    ]
    lines.append("virtual_alias_maps = " + ", ".join(f"$table_{number}" for number in range(60)))
    text = "\n".join(lines)
    assert text.count("\n") > 1950
    (tmp_path / "main.cf").write_text(text)
    start = time.perf_counter()
    p = Parameters.load(str(tmp_path))
    problems = p.check()
    tables = [open_table(spec) for spec in p["virtual_alias_maps"].split(", ")]
    took = time.perf_counter() - start
    record_property("seconds", f"{took:.3f}")
    print(f"{text.count(chr(10))} lines and {len(tables)} tables in {took:.3f} s")
    assert problems == []
    assert len(tables) == 60
