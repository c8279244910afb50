"""What ``mtad check`` tells of OAuth accounts; whose their tokens are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from mtad.config.lint import ERROR, WARNING
from mtad.config.parameters import Parameters
from mtad.daemon.audit import oauth
from mtad.daemon.paths import Owner, hand_over, make_directories

GOOD = "provider = microsoft\nclient_id = x\nclient_secret = y\n"


def test_findings(tmp_path: Path) -> None:
    p = Parameters.from_mapping(
        {"smtp_sasl_auth_enable": "yes", "mtad_queue_directory": str(tmp_path / "q")}, str(tmp_path)
    )
    directory = tmp_path / "oauth"
    assert list(oauth.findings(p)) == []
    directory.mkdir()
    (directory / "bad").write_text("\nprovidr = gmail\n")
    (directory / "good").write_text(GOOD)
    (directory / "good").chmod(0o644)
    (directory / "own").write_text(GOOD + "tenant = t\ngrant = client_credentials\n")
    (directory / "own").chmod(0o600)
    found = [(each.severity, os.path.basename(each.path), each.line, each.text) for each in oauth.findings(p)]
    assert [each[:3] for each in found] == [(ERROR, "bad", 2), (WARNING, "good", 0), (WARNING, "good", 0)]
    assert found[0][3] == 'unknown name providr (did you mean "provider"?)'
    assert "others can read it" in found[1][3]
    assert "mtad oauth login good" in found[2][3]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_tokens_are_handed_over_but_no_link_is_followed() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        _hand_over_in(Path(name))


def _hand_over_in(tmp_path: Path) -> None:
    p = Parameters.from_mapping({"queue_directory": str(tmp_path / "q")})
    nobody = Owner("nobody", 65534, 65534)
    found = make_directories(p, nobody)
    tokens = Path(found.tokens)
    tokens.mkdir(mode=0o700)
    (tokens / "hop.json").write_text("{}")
    (tmp_path / "other").write_text("")
    (tokens / "link.json").symlink_to(tmp_path / "other")
    hand_over(found, nobody)
    assert (tokens / "hop.json").stat().st_uid == 65534
    assert (tmp_path / "other").stat().st_uid == 0
    outside = tmp_path / "outside"
    tokens.rename(outside)
    (outside / "mine").write_text("")
    tokens.symlink_to(outside)
    with pytest.raises(Exception, match=r"oauth"):
        hand_over(found, nobody)
    assert (outside / "mine").stat().st_uid == 0
