"""Editing main.cf: what changes, what stays, and that it is whole or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mtad.config import edit, edit_master
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


def test_editors_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "main.cf"
    path.write_text("a = 1\n")

    def change(number: int) -> None:
        edit.edit_main(str(path), {f"p{number}": "x"}, edit.SET)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(40)))
    assert sorted(path.read_text().split()[::3]) == sorted(["a", *(f"p{number}" for number in range(40))])
    assert os.listdir(tmp_path) == ["main.cf"]


def test_what_a_crash_left_behind_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "main.cf"
    path.write_text("a = 1\n")
    (tmp_path / "main.cf.tmp").write_text("half of\n")
    edit.edit_main(str(path), {"b": "2"}, edit.SET)
    os.link(path, tmp_path / "main.cf.tmp")
    edit.edit_main(str(path), {"c": "3"}, edit.SET)
    assert path.read_text() == "a = 1\nb = 2\nc = 3\n"
    assert os.listdir(tmp_path) == ["main.cf"]


MASTER = """\
# head
a unix - - n - - smtp
  -o x=1
  # inside
  -o { y = 2 3 } -v
# before b

b inet n - n - - smtpd
"""


def master(how: str, what: str, *requests: edit_master.Request, text: str = MASTER) -> str:
    editor = edit_master._Editor("/x/master.cf", requests, how, what)
    return editor.edited(text)


def test_settings_of_a_service() -> None:
    change = edit_master.Request("", "a", "unix", "x", "9")
    assert master(edit.SET, edit_master.PARAMETER, change) == (
        "# head\n  # inside\n"
        "a          unix  -       -       n       -       -       smtp\n"
        "    -o x=9\n    -o {y=2 3}\n    -v\n"
        "# before b\n\nb inet n - n - - smtpd\n"
    )
    gone = master(edit.REMOVE, edit_master.PARAMETER, change)
    assert "x=1" not in gone
    assert "-o {y=2 3}" in gone
    assert gone.endswith("# before b\n\nb inet n - n - - smtpd\n")
    odd = master(edit.SET, edit_master.PARAMETER, change, text="a unix - - n - - smtp { } b\n")
    assert odd.split() == ["a", "unix", "-", "-", "n", "-", "-", "smtp", "-o", "x=9", "b"]


def test_whole_services() -> None:
    both = edit_master.Request("", "*", "*")
    assert master(edit.REMOVE, edit_master.ENTRY, both) == "# head\n  # inside\n# before b\n\n"
    assert master(edit.COMMENT_OUT, edit_master.ENTRY, edit_master.Request("", "a", "unix")) == (
        "# head\n#a unix - - n - - smtp\n#  -o x=1\n  # inside\n#  -o { y = 2 3 } -v\n"
        "# before b\n\nb inet n - n - - smtpd\n"
    )
    new = edit_master.Request("", "c", "unix", "", "c unix - - n - - smtp {d e}")
    assert master(edit.SET, edit_master.ENTRY, new) == (
        MASTER + "c          unix  -       -       n       -       -       smtp {d e}\n"
    )
    with pytest.raises(edit_master.BadEdit, match="invalid chroot field"):
        master(edit.SET, edit_master.FIELD, edit_master.Request("", "a", "unix", "chroot", "maybe"))
