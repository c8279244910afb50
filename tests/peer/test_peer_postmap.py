"""The recipes of ``src/postmap`` and ``src/postalias``, with mtad in these programs' place."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from peer_source import NO_MAKE, WHY, Replay, source, targets

pytestmark = [
    pytest.mark.skipif(source("postmap") is None, reason=WHY),
    pytest.mark.skipif(shutil.which("make") is None, reason=NO_MAKE),
]

_PATTERN = "test[0-9]+|[a-z_]+_test"


@pytest.mark.parametrize("target", targets("postmap", _PATTERN))
def test_postmap(tmp_path: Path, target: str) -> None:
    if target.startswith("lmdb") and find_spec("lmdb") is None:
        pytest.skip("needs the package lmdb")
    if "bulk" in target or "incr" in target:
        _words()
    said = Replay("postmap", tmp_path, {"postmap": "postmap"}).run(target)
    assert not said, said


@pytest.mark.parametrize("target", targets("postalias", _PATTERN))
def test_postalias(tmp_path: Path, target: str) -> None:
    said = Replay("postalias", tmp_path, {"postalias": "postalias"}).run(target)
    assert not said, said


def _words() -> None:
    if not Path("/usr/share/dict/words").exists():
        pytest.skip("needs /usr/share/dict/words")
