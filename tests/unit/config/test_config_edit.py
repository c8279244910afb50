"""Editing main.cf: what changes, what stays, and that it is whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtad.config import edit
from mtad.config.expand import RESULT_LIMIT
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError

MAIN = """\
# head
a = 1
  # inside
  2

b=3
a = 4
#a = 5
 c
"""


def edited(changes: dict[str, str], how: str) -> tuple[str, list[str]]:
    warnings: list[str] = []
    return edit.edited(MAIN, changes, how, "/x/main.cf", warnings), warnings


def test_set() -> None:
    text, warnings = edited({"a": "x $y", "z": "", "k": "1"}, edit.SET)
    assert text == "# head\na = x $y\n  # inside\n\nb=3\na = x $y\n#a = 5\nk = 1\nz = \n"
    assert warnings == ['/x/main.cf: multiple entries for "a"']


def test_remove() -> None:
    assert edited({"b": "", "nothing": ""}, edit.REMOVE) == (MAIN.replace("b=3\n", ""), [])
    assert edited({"a": ""}, edit.REMOVE)[0] == "# head\n  # inside\n\nb=3\n#a = 5\n"


def test_comment_out() -> None:
    text, _ = edited({"a": ""}, edit.COMMENT_OUT)
    assert text == "# head\n#a = 1\n  # inside\n#  2\n\nb=3\n#a = 4\n#a = 5\n# c\n"


def test_replace_keeps_the_mode_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "main.cf"
    path.write_bytes(b"a = \xff\n")
    path.chmod(0o604)
    inode = path.stat().st_ino
    assert edit.edit_main(str(path), {"b": "2"}, edit.SET) == []
    assert path.read_bytes() == b"a = \xff\nb = 2\n"
    assert path.stat().st_mode & 0o7777 == 0o604
    assert path.stat().st_ino != inode
    assert os.listdir(tmp_path) == ["main.cf"]
    assert Parameters.load(str(tmp_path))["b"] == "2"


def test_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "main.cf"
    path.write_text("a = 1\n")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        edit.edit_main(str(path), {"a": "2"}, edit.SET)
    assert path.read_text() == "a = 1\n"
    assert os.listdir(tmp_path) == ["main.cf"]
    assert RESULT_LIMIT > 0


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        edit.edit_main(f"{tmp_path}/main.cf", {"a": "2"}, edit.SET)
