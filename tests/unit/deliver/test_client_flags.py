"""``flags=`` of a line in master.cf."""

from __future__ import annotations

import pytest

from mtad.config.master_cf import parse_service
from mtad.deliver.client_flags import ClientFlags
from mtad.errors import ConfigError


def of(arguments: str) -> ClientFlags:
    return ClientFlags.of(parse_service(f"out unix - - n - - smtp {arguments}", line=7), "/x/master.cf")


def test_flags() -> None:
    assert of("flags=DORX") == ClientFlags("out", True, True, True, True)
    assert of("-o smtp_helo_name=x FLAGS=R") == ClientFlags("out", return_path=True)
    assert of("flags=D flags=O").single == "O"
    assert of("flags=DO").single == "D"
    assert not of("flags=X").headers and not of("flags=RX").single
    assert not of("flags=").headers
    assert ClientFlags.of(None) == ClientFlags()


@pytest.mark.parametrize(
    "arguments", ["flags=DRhu", "flags=x", "user=nobody", "flags", "x", "flags=D -o smtp_helo_name=x"]
)
def test_what_no_client_knows(arguments: str) -> None:
    with pytest.raises(ConfigError, match=r"/x/master.cf, line 7: .*smtp and lmtp take flags="):
        of(arguments)
