"""The suite's assertions tell what they saw."""

import pytest

pytest.register_assert_rewrite("conformance")
