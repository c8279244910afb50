"""Postfix's own table of ``smtp_tls_per_site``, and its files of keys and certificates."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from peer_source import WHY, source
from unit.net.net_pki import log, parameters

from mtad.deliver.nexthop import Destination, Host
from mtad.deliver.tls_policy import TlsPolicies
from mtad.errors import ConfigError
from mtad.net.certificates import match_pairs, read_pem
from mtad.net.tls_policy import main_policy

pytestmark = pytest.mark.skipif(source("smtp") is None, reason=WHY)

_LEVELS = {"-": "none", "none": "none", "may": "may", "must_nopeermatch": "encrypt", "must": "verify"}


def _rows() -> list[list[str]]:
    directory = source("smtp")
    if directory is None:
        return [["-", "-", "-", "-"]]
    lines = (directory / "tls_policy.ref").read_text().splitlines()[1:]
    return [words for line in lines if (words := line.split())]


@pytest.mark.parametrize("row", _rows(), ids="/".join)
def test_sites(row: list[str]) -> None:
    """``host``, ``dest`` (the next hop), ``global``: the level that comes of them."""
    host, dest, everywhere, result = row
    said = {"mx.dest.example": host, "dest.example": dest}
    entries = ", ".join(f"{{{name} = {word}}}" for name, word in said.items() if word != "-") or "{x = may}"
    p = parameters(smtp_tls_per_site=f"inline:{{ {entries} }}", smtp_tls_security_level=_LEVELS[everywhere])
    resolver: Any = None
    policies = TlsPolicies(p, main_policy(p), resolver, log()[0])
    there = Host(
        "mx.dest.example", "192.0.2.1", 25, 0, Destination("dest.example", "dest.example", 25, False)
    )
    assert asyncio.run(policies.find(there)).level == _LEVELS[result]


def _files(pattern: str) -> list[Path]:
    directory = source("tls")
    return [Path("none")] if directory is None else sorted(directory.glob(pattern))


@pytest.mark.parametrize("file", _files("good*.pem"), ids=lambda file: str(file.name))
def test_good_files(file: Path) -> None:
    """The certificates that Postfix's reference names, each in the chain of its key."""
    pairs = match_pairs(read_pem(str(file), "x"), "x")
    names = [one.subject.rfc4514_string() for pair in pairs for one in pair.chain]
    reference = file.with_name(f"{file.name}.ref").read_text()
    wanted = [line.rpartition("/")[2] for line in reference.splitlines() if line.startswith("subject = ")]
    assert names == wanted


@pytest.mark.parametrize("file", _files("bad-key-cert*.pem"), ids=lambda file: str(file.name))
def test_bad_files(file: Path) -> None:
    """What is out of order we sort, but a key must fit."""
    with pytest.raises(ConfigError):
        match_pairs(read_pem(str(file), "x"), "x")
