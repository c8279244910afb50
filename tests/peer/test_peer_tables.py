"""The recipes of ``src/util`` and ``src/global`` for tables, match lists and ``$`` expressions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from peer_source import NO_MAKE, WHY, Replay, source, targets

pytestmark = [
    pytest.mark.skipif(source("util") is None, reason=WHY),
    pytest.mark.skipif(shutil.which("make") is None, reason=NO_MAKE),
]

#: Recipes that change tables through the interface for lookups, which in mtad only postmap(1) can.
WRITING = ("dict_test", "dict_seq_test", "dict_utf8_test", "surrogate_test", "dict_debug_test")
#: Those whose programs have no table of the tests in a file, but in C: see test_peer_cases.py.
COMPILED = ("dict_stream_test", "dict_pipe_test", "dict_union_test")

#: Those that list a hash table, whose order is its own.
HASHED = ("dict_thash_test",)

UTIL = targets("util", "(?:dict_[a-z0-9_]*|miss_endif_[a-z]*|mac_expand|surrogate)_test")
GLOBAL = targets("global", "compat_level_[a-z]+_test|namadr_list_test")


@pytest.mark.parametrize("target", [name for name in UTIL if name not in COMPILED])
def test_util(tmp_path: Path, target: str) -> None:
    if target in WRITING:
        pytest.skip("mtad's tables are opened for reading; postmap writes them")
    programs = {"dict_open": "dict_open", "mac_expand": "mac_expand", "../postmap/postmap": "postmap"}
    replay = Replay("util", tmp_path, programs, "sorted" if target in HASHED else "")
    said = replay.run(target)
    assert not said, said


@pytest.mark.parametrize("target", GLOBAL)
def test_global(tmp_path: Path, target: str) -> None:
    replay = Replay("global", tmp_path, {"compat_level": "compat_level", "namadr_list": "namadr_list"})
    said = replay.run(target)
    assert not said, said
