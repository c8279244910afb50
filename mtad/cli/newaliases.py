"""``mtad newaliases``: make the alias tables that ``alias_database`` names; sendmail(1) under another name,
with its options."""

from __future__ import annotations

from collections.abc import Sequence

from mtad.cli import sendmail


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name; the exit status."""
    return sendmail.run("newaliases", argv)
