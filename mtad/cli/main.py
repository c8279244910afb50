"""``mtad``: one program, the commands of Postfix as its subcommands.

``mtad [-c DIR] [-Dv] COMMAND`` with the commands of ``postfix(1)``, and ``mtad TOOL ...`` with the other
tools under their own names and options.  Called by the name of one of Postfix's commands (a link that
``mtad install-commands`` lays), the program is that command.  Exit status as there: 0 done, 1 failed.

Postfix counterpart: ``postfix(1)``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import mtad

#: Tools with options of their own, by the module that has their ``main(argv)``.
TOOLS = (
    "newaliases", "oauth", "postalias", "postconf", "postmap", "postqueue", "saslpasswd", "sasldblistusers",
    "saslauthd", "testsaslauthd", "pluginviewer", "auth-test", "explain", "sink", "demo",
    "postsuper", "postcat", "postlog", "sendmail", "mailq", "qshape", "queue", "install-commands",
)  # fmt: skip

#: Names by which the program may be called to be that tool.
NAMES = (
    "sendmail", "mailq", "newaliases", "postqueue", "postsuper", "postcat", "postmap", "postalias",
    "postconf", "postlog", "qshape",
)  # fmt: skip

#: Commands of postfix(1).
COMMANDS = ("start", "start-fg", "stop", "abort", "reload", "flush", "check", "status", "logrotate")

USAGE = """\
usage: mtad [-c config_dir] [-Dv] command

  start           start the mail system
  start-fg        the same, in the foreground (--single: in one process)
  stop            stop it, mail in hand first
  abort           stop it at once
  reload          check the configuration, then take it; no session is cut
  flush           try all deferred mail now
  logrotate       a new file for the maillog; the old one is compressed
  check [--json]  check the configuration
  status          is it running?

tools: mtad postconf | postmap | postalias | newaliases | sink | demo
       mtad sendmail | mailq | postqueue | postsuper | postcat | postlog | qshape
       mtad queue check | repair | import | export; mtad install-commands
       mtad explain | auth-test | oauth
       mtad saslpasswd | sasldblistusers | saslauthd | testsaslauthd | pluginviewer
       (try them with --help)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = os.path.basename(sys.argv[0])
    if argv is None and name in NAMES:
        return _tool(name, words)
    directory = ""
    verbose = 0
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word in ("-h", "--help"):
            sys.stdout.write(USAGE)
            return 0
        if word in ("-V", "--version"):
            print(f"mtad {mtad.__version__} (Postfix {mtad.POSTFIX_VERSION})")
            return 0
        if word == "-c" and words:
            directory = words.pop(0)
        elif word.startswith("-c") and len(word) > 2:
            directory = word[2:]
        elif set(word[1:]) <= {"v", "D"}:
            verbose += word.count("v")
        else:
            return _usage(f"unknown option {word}")
    if not words:
        return _usage("no command")
    name, *rest = words
    if name in TOOLS:
        if directory:
            option = "-C" if name in ("sendmail", "mailq", "newaliases") else "-c"
            rest = [option, os.path.abspath(directory), *rest]
        return _tool(name, rest)
    if name in COMMANDS:
        from mtad.cli import lifecycle

        return lifecycle.run(name, directory or None, rest, verbose)
    return _usage(f"unknown command {name}")


def _tool(name: str, arguments: list[str]) -> int:
    tool: Callable[[list[str]], int] = import_module(f"mtad.cli.{name.replace('-', '_')}").main
    return tool(arguments)


def _usage(problem: str) -> int:
    sys.stderr.write(f"mtad: fatal: {problem}\n{USAGE}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
