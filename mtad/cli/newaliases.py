"""``mtad newaliases``: make the alias tables that ``alias_database`` names, as ``newaliases(1)`` does."""

from __future__ import annotations

import getopt
import sys

from mtad.cli import postalias
from mtad.cli.directory import load_parameters
from mtad.errors import ConfigError


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    try:
        flags, rest = getopt.getopt(argv, "c:v")
        if rest:
            raise getopt.GetoptError("no arguments are known")
        directory = dict(flags).get("-c")
        tables = load_parameters(directory).words("alias_database")
    except getopt.GetoptError as error:
        sys.stderr.write(f"newaliases: fatal: {error}; usage: newaliases [-c config_dir]\n")
        return 1
    except ConfigError as error:
        sys.stderr.write(f"newaliases: fatal: {error}\n")
        return 1
    where = ["-c", directory] if directory else []
    return max((postalias.main([*where, spec]) for spec in tables), default=0)
