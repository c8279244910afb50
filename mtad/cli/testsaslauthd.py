"""``mtad testsaslauthd``: ask a saslauthd about a login, as ``testsaslauthd(8)`` does.

``mtad testsaslauthd -u USER [-p PASSWORD] [-r REALM] [-s SERVICE] [-f SOCKET] [-R TIMES]``.  Without ``-p``
the password is asked for, or read from standard input where there is no terminal.

Exit status: 0 for OK, 255 for NO, 1 when nobody answers or the usage is wrong.
"""

from __future__ import annotations

import getopt
import os
import socket
import sys

from mtad.auth.saslauthd import AnswerReader, SaslauthdError, encode_request
from mtad.auth.setup import SASLAUTHD_PATHS
from mtad.cli.saslpasswd import ask_password

USAGE = """\
usage: mtad testsaslauthd -u USER [-p PASSWORD] [-r REALM] [-s SERVICE] [-f SOCKET] [-R TIMES]
  -u USER      whose password it is
  -p PASSWORD  the password (others on this host can see it; without -p it is asked for)
  -r REALM     the realm, empty by default
  -s SERVICE   the service, imap by default; mail servers say smtp
  -f SOCKET    the daemon's socket, by default /var/run/saslauthd/mux
  -R TIMES     how often to ask"""

#: Seconds for the daemon.
TIMEOUT = 60


def main(argv: list[str]) -> int:
    """Run the command on ``argv`` (without its name); the exit code."""
    try:
        flags, rest = getopt.getopt(argv, "u:p:r:s:f:R:h")
        given = dict(flags)
        times = int(given.get("-R", "1"))
    except (getopt.GetoptError, ValueError) as error:
        print(f"testsaslauthd: {error}\n{USAGE}", file=sys.stderr)
        return 1
    if "-u" not in given or rest or "-h" in given:
        print(USAGE, file=sys.stderr)
        return 1
    password = os.fsencode(given["-p"]) if "-p" in given else ask_password()
    default = next((path for path in SASLAUTHD_PATHS if os.path.exists(path)), SASLAUTHD_PATHS[0])
    status = 0
    for number in range(times):
        try:
            right, text = ask(
                given.get("-f", default), os.fsencode(given["-u"]), password,
                os.fsencode(given.get("-s", "imap")), os.fsencode(given.get("-r", "")),
            )  # fmt: skip
        except (OSError, SaslauthdError) as error:
            print(f"{number}: {error}", file=sys.stderr)
            return 1
        print(
            f'{number}: OK "Success."' if right else f'{number}: NO "authentication failed" {text}'.rstrip()
        )
        status = 0 if right else 255
    return status


def ask(path: str, user: bytes, password: bytes, service: bytes, realm: bytes) -> tuple[bool, str]:
    """Whether the daemon at ``path`` says OK, and what else it says; raises OSError, SaslauthdError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(path)
        connection.sendall(encode_request(user, password, service, realm))
        reader, told = AnswerReader(), b""
        while True:
            data = connection.recv(4096)
            if not data:
                raise reader.end()
            told += data
            right = reader.receive(data)
            if right is not None:
                return right, told[4:].decode("utf-8", "replace").strip()
