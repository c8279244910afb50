"""``mtad postalias``: make, change and ask alias tables, as ``postalias(1)`` does.

The same as :mod:`mtad.cli.postmap`, for sources in aliases(5) format.
"""

from __future__ import annotations

from mtad.cli.postmap import Tool, run_tool
from mtad.tables.aliases import parse_aliases

POSTALIAS = Tool(
    "postalias",
    "usage: postalias [-Nfijnoprsuvw] [-c config_dir] [-d key] [-q key] [map_type:]file...",
    "Nc:d:fijnopq:rsuvw",
    parse_aliases,
    separator=b":\t",
    ending=((b"@", b"@"),),  # which tells Sendmail's kin that the table is whole
)


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    return run_tool(POSTALIAS, argv)
