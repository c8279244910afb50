"""``src/postconf/test*.ref``: each recipe of its Makefile.in, with mtad in postconf's place.

The recipes are run by ``make`` in a copy of the directory, where ``postconf`` is a script that runs
``mtad postconf`` under the name that the expected output has.  Where a recipe finds a difference in the order
of lines only, the lines are compared as a set: Postfix warns in the order of its hash table.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from peer_source import WHY, source

SOURCE = source("postconf")
pytestmark = [
    pytest.mark.skipif(SOURCE is None, reason=WHY),
    pytest.mark.skipif(shutil.which("make") is None, reason="needs make, which runs the recipes"),
]

_SCRIPT = f"""\
#!{sys.executable}
import sys
from mtad.cli import postconf
postconf.PROGRAM = "./postconf"
sys.exit(postconf.main(sys.argv[1:]))
"""


def targets() -> list[str]:
    """The names of the tests in Makefile.in, in its order."""
    if SOURCE is None:
        return ["none"]
    text = (SOURCE / "Makefile.in").read_text("utf-8", "replace")
    return re.findall(r"^(test[0-9]+[a-z]*):", text, re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    assert SOURCE is not None
    for path in (SOURCE / "Makefile.in", *SOURCE.glob("test*")):
        shutil.copy(path, tmp_path)
    script = tmp_path / "postconf"
    script.write_text(_SCRIPT)
    script.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("target", targets())
def test_postconf(place: Path, target: str) -> None:
    command = ["make", "-s", "-f", "Makefile.in", "-o", "postconf", "HTABLE_FIX=", target]
    path = os.pathsep.join((str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, timeout=60)
    if done.returncode != 0 and not same_lines(place, target):
        pytest.fail((done.stdout + done.stderr).decode("utf-8", "replace"))


def same_lines(place: Path, target: str) -> bool:
    """Whether what a failed recipe left behind has the expected lines in another order."""
    try:
        expected = (place / f"{target}.ref").read_text().replace("PWD", str(place))
        found = (place / f"{target}.tmp").read_text()
    except OSError:
        return False
    return sorted(expected.splitlines()) == sorted(found.splitlines())
