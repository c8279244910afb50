"""The table of parameters tells the truth about the program: what code reads is not called unimplemented."""

from __future__ import annotations

import re
from pathlib import Path

import mtad
from mtad.config.names import SERVICE_SUFFIXES
from mtad.config.parameters import table

READ = re.compile(r'(?:\[|\b(?:flag|number|seconds|words|choice)\(\s*)"([A-Za-z0-9_]+)"')


def names_read() -> dict[str, str]:
    """Each parameter that some module reads by its literal name, and that module."""
    root = Path(mtad.__file__).parent
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        for name in READ.findall(path.read_text("utf-8")):
            if name in table():
                found[name] = str(path.relative_to(root))
    return found


def test_what_is_read_is_honoured() -> None:
    wrong = {name: where for name, where in names_read().items() if table()[name].status != "honoured"}
    assert wrong == {}, "set the status of these rows of parameters.tsv to honoured"


def test_what_is_not_honoured_has_a_reason_or_is_plain() -> None:
    for row in table().values():
        if row.status == "honoured":
            assert row.note == "", row
        if row.status == "ignored":
            assert row.note, row


def test_deprecated_names_name_known_ones() -> None:
    for row in table().values():
        for name in re.findall(r'specify "(\w+)"', row.instead):
            assert name in table(), row


def test_defaults_mention_known_names_only() -> None:
    for row in table().values():
        if row.type != "raw":
            for name in re.findall(r"\$\{?([a-z]\w+)", row.default):
                assert name in table() or name in ("domain_to_ascii",), (row.name, name)
    for origin in SERVICE_SUFFIXES.values():
        assert origin in table()


def test_names_are_read_in_any_case() -> None:
    """What was written for an ``enum`` is not compared; ``choice`` gives the name as the table has it."""
    compared = re.compile(r'\["(\w+)"\] (?:[!=]=|in) ')
    found = {
        name
        for path in Path(mtad.__file__).parent.rglob("*.py")
        for name in compared.findall(path.read_text("utf-8"))
        if name in table() and table()[name].type.startswith("enum")
    }
    assert found == {"smtpd_sasl_type"}  # which Postfix compares as it is
