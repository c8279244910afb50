"""Where the configuration is.

The directory that ``-c`` names; else ``$MAIL_CONFIG``; else ``/etc/mtad`` where it has a ``main.cf``; else
``/etc/postfix``.
"""

from __future__ import annotations

import os


def config_directory(option: str | None = None) -> str:
    """The configuration directory; ``option`` is what ``-c`` said."""
    if option:
        return option
    named = os.environ.get("MAIL_CONFIG", "")
    if named:
        return named
    return "/etc/mtad" if os.path.exists("/etc/mtad/main.cf") else "/etc/postfix"
