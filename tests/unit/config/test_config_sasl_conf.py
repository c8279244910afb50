"""smtpd.conf: grammar and search path."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.parameters import Parameters
from mtad.config.sasl_conf import SaslConf, find_sasl_conf, read_sasl_conf, search_path
from mtad.errors import ConfigError


def write(directory: Path, text: str) -> str:
    directory.mkdir(exist_ok=True)
    path = directory / "smtpd.conf"
    path.write_text(text)
    return str(path)


def test_options(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "# comment\n\n  # another\nPwcheck_Method: auxprop saslauthd\r\nmech_list:\tPLAIN LOGIN  \n"
        "mech_list: CRAM-MD5\nsql_select: SELECT a FROM b WHERE u = '%u@%r'\n",
    )
    conf = read_sasl_conf(path)
    assert conf.path == path
    assert conf.get("pwcheck_method") == "auxprop saslauthd"
    assert conf.words("MECH_LIST") == ("PLAIN", "LOGIN")
    assert conf.get("sql_select") == "SELECT a FROM b WHERE u = '%u@%r'"
    assert conf.get("log_level") is None
    assert conf.get("log_level", "1") == "1"
    assert conf.words("auxprop_plugin") == ()
    assert conf.names() == ("pwcheck_method", "mech_list", "sql_select")


@pytest.mark.parametrize(
    "line", ["mech_list : PLAIN", "mech_list", "mech_list:", "mech_list:  ", "a b: c", ": x", "a=b", "é: x"]
)
def test_any_other_line_spoils_the_file(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, f"log_level: 7\n{line}\n")
    with pytest.raises(ConfigError, match="error when parsing configuration file") as caught:
        read_sasl_conf(path)
    assert (caught.value.path, caught.value.line) == (path, 2)


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    assert "geheim" not in repr(read_sasl_conf(write(tmp_path, "sql_passwd: geheim\n")))


def test_no_file_is_all_defaults() -> None:
    assert SaslConf().get("mech_list") is None


def test_search_path(tmp_path: Path) -> None:
    p = Parameters.from_mapping({}, directory=str(tmp_path))
    path = search_path(p)
    assert path[:4] == (f"{tmp_path}/sasl", "/usr/lib/sasl", "/etc/sasl2", "/etc/sasl")
    assert path[-1] == "/usr/lib/sasl2"
    assert find_sasl_conf(p) != f"{tmp_path}/sasl/smtpd.conf"
    expected = write(tmp_path / "sasl", "log_level: 1\n")
    assert find_sasl_conf(p) == expected


def test_configured_path_and_name(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    first.mkdir()
    second.mkdir()
    (second / "other.conf").write_text("log_level: 1\n")
    values = {"cyrus_sasl_config_path": f"{first}:{second}", "smtpd_sasl_path": "x/other"}
    assert find_sasl_conf(Parameters.from_mapping(values)) == f"{second}/other.conf"
    values["smtpd_sasl_path"] = "smtpd"
    assert find_sasl_conf(Parameters.from_mapping(values)) is None


@given(st.text(alphabet=st.sampled_from("ab:_-# \t\n\r\0é\\"), max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.conf"
    path.write_text(text, newline="")
    try:
        conf = read_sasl_conf(str(path))
    except ConfigError as error:
        assert error.line
    else:
        assert all(conf.get(name) for name in conf.names())
