from __future__ import annotations

import pytest

from mtad.errors import ConfigError
from mtad.tables.accounts import AccountTable
from mtad.tables.table import Options


def test_accounts_of_this_host() -> None:
    users = AccountTable("unix:passwd.byname", Options(), "passwd.byname")
    assert (users.find(b"Root") or b"").startswith(b"root:x:0:0:")
    assert users.find(b"no such user") is None
    assert users.find(b"ro\0ot") is None
    groups = AccountTable("unix:group.byname", Options(), "group.byname")
    assert (groups.find(b"root") or b"").startswith(b"root:x:0:")


def test_other_names_are_refused() -> None:
    with pytest.raises(ConfigError):
        AccountTable("unix:shadow", Options(), "shadow")
