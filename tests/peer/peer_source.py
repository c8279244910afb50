"""Where Postfix's source is, and how the recipes of its Makefiles are run with mtad in the programs' place.

``POSTFIX_SOURCE`` names a checkout (its directory that has ``src/``).  A :class:`Replay` is a copy of one
directory's test files in which each program is a script that runs its stand-in (see ``standins.py``), and in
which ``diff`` is a script, too, that leaves out what mtad has no counterpart for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

_VARIABLE = "POSTFIX_SOURCE"
WHY = f"set {_VARIABLE} to a checkout of Postfix's source (its directory that has src/)"
NO_MAKE = "needs make, which runs the recipes"

_SCRIPT = """\
#!{python}
import sys
sys.path.insert(0, {here!r})
import standins
sys.exit(standins.{function}(sys.argv))
"""


def source(part: str) -> Path | None:
    """``src/<part>`` of the checkout, or None where there is none."""
    top = os.environ.get(_VARIABLE, "")
    for middle in ("", "postfix"):
        path = Path(top, middle, "src", part)
        if top and path.is_dir():
            return path
    return None


def targets(part: str, pattern: str) -> list[str]:
    """The targets of a Makefile.in whose names match, in its order; without a checkout one, to be skipped."""
    directory = source(part)
    if directory is None:
        return ["none"]
    text = (directory / "Makefile.in").read_text("utf-8", "replace")
    return list(dict.fromkeys(re.findall(rf"^({pattern}):(?!=)", text, re.MULTILINE)))


class Replay:
    """One directory's recipes.  ``programs``: name of a program to the function that stands in for it."""

    def __init__(self, part: str, place: Path, programs: dict[str, str], mode: str = "") -> None:
        directory = source(part)
        assert directory is not None
        self.place = place / "src" / part
        self.mode = mode
        shutil.copytree(
            directory, self.place, ignore=shutil.ignore_patterns("*.o", "*.h", "*.so", "*.c", *programs)
        )
        self.tools = place / "bin"
        self.tools.mkdir()
        self._script(self.tools / "diff", "diff")
        for name, function in programs.items():
            path = self.place / name
            path.parent.mkdir(exist_ok=True, parents=True)
            self._script(path, function)
        self.programs = programs

    @staticmethod
    def _script(path: Path, function: str) -> None:
        here = str(Path(__file__).parent)
        path.write_text(_SCRIPT.format(python=sys.executable, here=here, function=function))
        path.chmod(0o755)

    def run(self, target: str) -> str:
        """Run a recipe; what was said when it failed, or nothing."""
        ready = [word for name in (*self.programs, "update", "all", "../../lib") for word in ("-o", name)]
        command = ["make", "-s", "-f", "Makefile.in", *ready, "HTABLE_FIX=", "NOSLEEP=", "LIB=", target]
        root = str(Path(__file__).parents[2])
        environment = {
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join((root, os.environ.get("PYTHONPATH", ""))),
            "LC_ALL": "C.UTF-8",
            "PEER_MODE": self.mode,
        }
        done = subprocess.run(command, cwd=self.place, env=environment, capture_output=True, timeout=100)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        return said or f"exit {done.returncode}" if done.returncode else ""
