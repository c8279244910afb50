"""The ``.cf`` files of tables, and the same in main.cf."""

import pytest

from mtad.errors import ConfigError, TableError
from mtad.tables.settings import Settings, main_cf
from mtad.tables.table import Options


@pytest.fixture
def settings(tmp_path):
    def make(text):
        (tmp_path / "x.cf").write_text(text)
        return Settings(Options(directory=str(tmp_path)), "./x.cf")

    return make


def test_a_file(settings):
    cf = settings("# comment\na = b c\n  d\nempty =\nhosts = x, y z\nn = 12\nyes = Yes\ndollar = $a\n")
    assert cf.text("a") == "b c  d"
    assert cf.text("empty", "default") == ""
    assert cf.text("missing", "default") == "default"
    assert cf.words("hosts") == ("x", "y", "z")
    assert cf.number("n", 1) == 12
    assert cf.number("missing", 1) == 1
    assert cf.flag("yes", False) is True
    assert cf.flag("missing", True) is True
    assert cf.text("dollar") == "$a"
    assert cf.given("empty")
    assert not cf.given("missing")


@pytest.mark.parametrize("value", ["", "x", "1x", "1_0", "0x10", "1.5"])
def test_numbers_that_are_none(settings, value):
    with pytest.raises(ConfigError, match="bad numerical configuration: n ="):
        settings(f"n = {value}\n").number("n", 1)


def test_what_is_wrong_and_where(settings, tmp_path):
    with pytest.raises(ConfigError, match=r"x\.cf, line 2: invalid n parameter value 0 < 1"):
        settings("a = b\nn = 0\n").number("n", 5, 1)
    with pytest.raises(ConfigError, match=r"x\.cf, line 1: bad boolean configuration: f = maybe"):
        settings("f = maybe\n").flag("f", True)
    with pytest.raises(ConfigError, match=r"x\.cf, line 1: bad string length 0 < 1: s ="):
        settings("s =\n").text("s", empty=False)
    with pytest.raises(ConfigError, match=r"line 3: missing '=' after attribute name"):
        settings("a = b\n\nnonsense\n")
    with pytest.raises(TableError, match="No such file"):
        Settings(Options(), str(tmp_path / "missing.cf"))


def test_in_main_cf(tmp_path):
    (tmp_path / "main.cf").write_text("host = h.example\naccounts_hosts = $host, other\naccounts_n = 0\n")
    cf = Settings(Options(directory="elsewhere", config_directory=str(tmp_path)), "accounts")
    assert cf.words("hosts") == ("h.example", "other")
    assert cf.text("missing", "default") == "default"
    with pytest.raises(ConfigError, match="accounts: invalid n parameter value 0 < 1") as caught:
        cf.number("n", 5, 1)
    assert caught.value.parameter == "accounts_n"


def test_main_cf_is_read_once_and_again_when_it_changes(tmp_path):
    options = Options(directory=str(tmp_path))
    assert main_cf(options)["socketmap_max_reply_size"] == "100000"
    (tmp_path / "main.cf").write_text("socketmap_max_reply_size = 7\n")
    assert main_cf(options)["socketmap_max_reply_size"] == "7"
    assert main_cf(options) is main_cf(options)
