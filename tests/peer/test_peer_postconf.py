"""``src/postconf/test*.ref``: each recipe of its Makefile.in, with mtad in postconf's place.

Lines are compared as a set: Postfix warns in the order of its hash table.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from peer_source import NO_MAKE, WHY, Replay, source, targets

pytestmark = [
    pytest.mark.skipif(source("postconf") is None, reason=WHY),
    pytest.mark.skipif(shutil.which("make") is None, reason=NO_MAKE),
]


@pytest.mark.parametrize("target", targets("postconf", "test[0-9]+[a-z]*"))
def test_postconf(tmp_path: Path, target: str) -> None:
    said = Replay("postconf", tmp_path, {"postconf": "postconf"}, "sorted").run(target)
    assert not said, said
