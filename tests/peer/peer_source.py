"""Where Postfix's source is: a checkout that ``POSTFIX_SOURCE`` names (its directory that has ``src/``)."""

from __future__ import annotations

import os
from pathlib import Path

_VARIABLE = "POSTFIX_SOURCE"
WHY = f"set {_VARIABLE} to a checkout of Postfix's source (its directory that has src/)"


def source(part: str) -> Path | None:
    """``src/<part>`` of the checkout, or None where there is none."""
    top = os.environ.get(_VARIABLE, "")
    for middle in ("", "postfix"):
        path = Path(top, middle, "src", part)
        if top and path.is_dir():
            return path
    return None
