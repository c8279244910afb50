"""The maildrop that everybody may write to."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest

from mtad.cli import postcat
from mtad.config.parameters import Parameters
from mtad.queue.listing import text_listing
from mtad.queue.postfix import records as rec
from mtad.queue.postfix.files import public_name
from mtad.queue.postfix.maildrop import FileDrop
from mtad.queue.postfix.records import pack
from mtad.queue.postfix.waiting import waiting


def test_names_that_open_a_file_are_nobody_elses(tmp_path: Path) -> None:
    """Where nobody may list the directory, a listing for all must not do it for them."""
    directory = tmp_path / "maildrop"
    directory.mkdir()
    directory.chmod(0o1733)
    drop = FileDrop(str(directory))
    drop.write(
        pack(rec.SENDER, b"a@b.example") + pack(rec.RECIPIENT, b"c@d.example") + pack(rec.MESSAGE, b"")
    )
    drop.write(pack(rec.EXTRACTED, b"") + pack(rec.END, b""))
    drop.commit()
    (name,) = os.listdir(directory)
    p = Parameters.from_mapping({"queue_directory": str(tmp_path)})
    assert [message.queue_id for message in waiting(p)] == [name]
    (shown,) = [message.queue_id for message in waiting(p, secret=True)]
    assert shown and name.startswith(shown)
    assert len(name) - len(shown) >= 32
    assert public_name("4jXRn01VPVz1n") == "4jXRn01VPVz1n"


def test_a_trap_hides_no_mail(tmp_path: Path) -> None:
    directory = tmp_path / "maildrop"
    directory.mkdir()
    for name in ("A1", "B2", "C3"):
        path = directory / name
        path.write_bytes(pack(rec.SENDER, b"a@b.example") + pack(rec.MESSAGE, b""))
        path.chmod(0o744)
    os.link(directory / "B2", tmp_path / "elsewhere")
    p = Parameters.from_mapping({"queue_directory": str(tmp_path)})
    assert sorted(message.queue_id for message in waiting(p)) == ["A1", "C3"]


SENDER = pack(rec.SENDER, b"a@b.example")
FAR = b"%15d" % (10**17)


@pytest.mark.parametrize(
    "envelope",
    [
        SENDER + pack(rec.POINTER, b"9" * 30),
        SENDER + pack(rec.POINTER, FAR),
        SENDER + pack(rec.POINTER, b"-5"),
        SENDER + pack(rec.PADDING, b"") * 200_000,
        SENDER + pack(rec.FULL_NAME, b"") * 600_000,
        SENDER + pack(rec.FULL_NAME, b"x" * 8_000_000) * 9,
        SENDER + pack(rec.RECIPIENT, b"a") * 100_001,
    ],
    ids=["number", "end", "negative", "padding", "records", "bytes", "recipients"],
)
def test_an_endless_envelope_hides_no_mail(tmp_path: Path, envelope: bytes) -> None:
    directory = tmp_path / "maildrop"
    directory.mkdir()
    for name, data in (("A1", SENDER), ("B2", envelope), ("C3", SENDER)):
        (directory / name).write_bytes(data + pack(rec.MESSAGE, b""))
        (directory / name).chmod(0o744)
    p = Parameters.from_mapping({"queue_directory": str(tmp_path)})
    assert sorted(message.queue_id for message in waiting(p)) == ["A1", "C3"]


@pytest.mark.parametrize(("stamp", "shown"), [(b"9" * 18, math.inf), (b"1000 0", 1000.0), (b"never", 2000.0)])
def test_when_it_came(tmp_path: Path, stamp: bytes, shown: float) -> None:
    """No later than now, and as the file says where its writer does not: any date can be printed."""
    (tmp_path / "maildrop").mkdir()
    path = tmp_path / "maildrop" / "A1"
    path.write_bytes(pack(rec.TIME, stamp) + SENDER + pack(rec.MESSAGE, b""))
    path.chmod(0o744)
    os.utime(path, (2000.0, 2000.0))
    p = Parameters.from_mapping({"queue_directory": str(tmp_path)})
    (message,) = waiting(p)
    assert message.arrival == pytest.approx(min(shown, time.time()), abs=100.0)
    assert list(text_listing([message], set(), False))


@pytest.mark.parametrize("pointer", [b"%15d" % 3, b"nowhere", b"9" * 30])
def test_postcat_ends(tmp_path: Path, pointer: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "A1"
    path.write_bytes(pack(rec.SENDER, b"a") + pack(rec.POINTER, pointer))
    (tmp_path / "main.cf").write_text("compatibility_level = 3.6\nmaillog_file = /dev/null\n")
    assert postcat.main(["-c", str(tmp_path), "-v", str(path)]) == 1
    assert "pointer" in capfd.readouterr().err


def test_postcat_shows_what_was_set_aside(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "corrupt").mkdir()
    (tmp_path / "corrupt" / "A1").write_bytes(pack(rec.SENDER, b"a@b.example") + pack(rec.MESSAGE, b""))
    (tmp_path / "main.cf").write_text(f"queue_directory = {tmp_path}\nmaillog_file = /dev/null\n")
    assert postcat.main(["-c", str(tmp_path), "-q", "A1"]) == 0
    assert capfd.readouterr().out.splitlines()[:2] == [
        "*** ENVELOPE RECORDS corrupt/A1 ***",
        "sender: a@b.example",
    ]
    assert postcat.main(["-c", str(tmp_path), "-q", "B2"]) == 1
    assert capfd.readouterr().err == "postcat: fatal: open queue file B2: No such file or directory\n"
    assert postcat.main(["-c", str(tmp_path), str(tmp_path / "none")]) == 1
    assert capfd.readouterr().err == f"postcat: fatal: open {tmp_path}/none: No such file or directory\n"
