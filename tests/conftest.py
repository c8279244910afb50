"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# a machine that is busy for a moment is no mistake of the program's
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@pytest.fixture(autouse=True)
def _umask_stays() -> Iterator[None]:
    """The tests of a process share its umask: who changes it puts it back."""
    before = _umask()
    yield
    after = _umask()
    os.umask(before)
    assert after == before, f"the test left umask {after:03o}"
