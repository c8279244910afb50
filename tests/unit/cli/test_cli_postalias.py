"""mtad postalias and newaliases: the format of aliases(5), and what is said of lines that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.cli import newaliases
from mtad.cli.postalias import main
from mtad.tables import open_table
from mtad.tables.aliases import looks_like_aliases, parse_aliases
from mtad.tables.table import Options

SOURCE = """\
# comment
root: alice,bob ,   "Joe Blow"@x.com
List-Owner:\t|"/usr/bin/prog -a b", /file/name,:include:/etc/list
"quoted key"  :  a@b (comment) , <c@d>
bad@dom: x
a,b: x
novalue:
nokey
cont:
  aa,
  bb
X"y z"W: v (c) w
utf: grüße@exämple.com
dup: 1
dup: 2
"""

ENTRIES = {
    b"root": b'alice, bob, "Joe Blow"@x.com',
    b"list-owner": b'|"/usr/bin/prog -a b", /file/name, :include:/etc/list',
    b"quoted key": b"a@b (comment), <c@d>",
    b"cont": b"aa, bb",
    b"x y z w": b"v (c) w",
    b"utf": "grüße@exämple.com".encode(),
    b"dup": b"1",
    b"@": b"@",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "main.cf").write_text(
        f"compatibility_level = 3.6\nalias_database = hash:{tmp_path}/a, cdb:{tmp_path}/a\n"
    )
    (tmp_path / "a").write_text(SOURCE)
    monkeypatch.setenv("MAIL_CONFIG", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_make(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["hash:a"]) == 0
    assert capfd.readouterr().err.splitlines() == [
        "postalias: warning: a, line 5: name must be local and have no domain",
        "postalias: warning: a, line 6: need name:value pair",
        "postalias: warning: a, line 7: need name:value pair",
        "postalias: warning: a, line 8: need name:value pair",
        'postalias: warning: a.db: duplicate entry: "dup"',
    ]
    assert dict(open_table("hash:a").items()) == ENTRIES
    assert main(["-q", "ROOT", "hash:a"]) == 0
    assert capfd.readouterr().out == 'alice, bob, "Joe Blow"@x.com\n'
    assert main(["-js", "inline:{a=b}"]) == 0
    assert capfd.readouterr().out == '{"a": "b"}\n'
    assert main(["-s", "inline:{a=b}"]) == 0
    assert capfd.readouterr().out == "a:\tb\n"
    assert main(["-d", "root", "hash:a"]) == 0
    assert main(["-q", "root", "hash:a"]) == 1
    assert main(["-h", "hash:a"]) == 1
    assert "usage: postalias [" in capfd.readouterr().err


def test_newaliases(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert newaliases.main([]) == 0
    assert dict(open_table("cdb:a").items()) == dict(open_table("hash:a").items()) == ENTRIES
    capfd.readouterr()
    assert newaliases.main(["x"]) == 75
    assert capfd.readouterr().err == "newaliases: fatal: alias initialization mode requires no recipient\n"


def test_an_alias_table_without_an_index_is_read_from_its_source(place: Path) -> None:
    assert open_table("hash:a").find(b"cont") == b"aa, bb"
    assert looks_like_aliases(SOURCE)
    assert not looks_like_aliases("a b\n")
    assert not looks_like_aliases("a b:c\n")


@given(st.text(alphabet=st.sampled_from('ab :,@%()<>"\\[]\n\t|;.#')))
def test_any_text_can_be_read(text: str) -> None:
    for _, key, value in parse_aliases(text, "x", Options()):
        assert key is not None
        assert value is not None
