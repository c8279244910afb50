"""``mtad sasldblistusers``: who is in sasldb2, as ``sasldblistusers2(8)`` tells.

``mtad sasldblistusers [-f FILE] [-a APP]``: a line ``user@realm: property`` for each secret.  The file is
``-f``, else ``sasldb_path`` of the SASL configuration of ``APP`` (the server's own by default).

Exit status: 0; 1 for bad usage and for a file that can't be read.
"""

from __future__ import annotations

import getopt
import sys

from mtad.cli.saslpasswd import configured_path
from mtad.errors import ConfigError, TableError
from mtad.maillog import printable
from mtad.tables.sasldb import SaslDb

USAGE = "usage: mtad sasldblistusers [-f FILE] [-a APP]"


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    try:
        flags, rest = getopt.getopt(argv, "f:a:v")
        given = dict(flags)
        if rest:
            raise getopt.GetoptError(f"unexpected: {rest[0]}")
        db = SaslDb(given.get("-f") or configured_path(given.get("-a")))
        for user, realm, name in db.list():
            print(f"{printable(user)}@{printable(realm)}: {printable(name)}")
    except getopt.GetoptError as error:
        print(f"sasldblistusers: {error}\n{USAGE}", file=sys.stderr)
        return 1
    except (ConfigError, TableError) as error:
        print(f"sasldblistusers: {error}", file=sys.stderr)
        return 1
    return 0
