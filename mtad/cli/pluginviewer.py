"""``mtad pluginviewer``: the mechanisms and stores that there are, as ``pluginviewer(8)`` lists them.

``mtad pluginviewer [-s] [-c] [-a] [-m MECH]``: server mechanisms, client mechanisms, auxiliary property
stores (all by default), only of mechanism ``MECH``.  Exit status: 0; 1 for bad usage.
"""

from __future__ import annotations

import getopt
import sys

from mtad.auth.stores import PLUGINS
from mtad.sasl import client, server
from mtad.sasl.mechanism import Property

USAGE = "usage: mtad pluginviewer [-s] [-c] [-a] [-m MECH]"

_FLAGS = {
    Property.NOANONYMOUS: "NO_ANONYMOUS", Property.NOPLAINTEXT: "NO_PLAINTEXT",
    Property.NOACTIVE: "NO_ACTIVE", Property.NODICTIONARY: "NO_DICTIONARY",
    Property.FORWARD_SECRECY: "FORWARD_SECRECY", Property.MUTUAL_AUTH: "MUTUAL_AUTH",
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    try:
        flags, rest = getopt.getopt(argv, "scam:h", ["help"])
        if rest:
            raise getopt.GetoptError(f"unexpected: {rest[0]}")
    except getopt.GetoptError as error:
        print(f"pluginviewer: {error}\n{USAGE}", file=sys.stderr)
        return 1
    given = dict(flags)
    if "-h" in given or "--help" in given:
        print(USAGE)
        return 0
    every = not {"-s", "-c", "-a"} & given.keys()
    only = given.get("-m", "").upper().encode()
    if every or "-a" in given:
        print(f"Installed auxprop mechanisms are:\n{' '.join(PLUGINS)}")
    for option, title, mechanisms in (
        ("-s", "server", server.MECHANISMS),
        ("-c", "client", client.MECHANISMS),
    ):
        if every or option in given:
            shown = [(each.name, each.properties) for each in mechanisms if only in (b"", each.name)]
            _show(title, shown)
    return 0


def _show(title: str, mechanisms: list[tuple[bytes, Property]]) -> None:
    names = " ".join(name.decode() for name, _ in mechanisms)
    print(f"Installed and properly configured SASL ({title} side) mechanisms are:\n  {names}")
    print(f"List of {title} plugins follows")
    for name, properties in mechanisms:
        flags = "|".join(text for flag, text in _FLAGS.items() if flag in properties)
        print(f'Plugin "mtad", \tSASL mechanism: {name.decode()}, best SSF: 0')
        print(f"\tsecurity flags: {flags or 'NONE'}")
