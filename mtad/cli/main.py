"""``mtad``: one program, the commands of Postfix as its subcommands.

``mtad [-c DIR] [-Dv] COMMAND`` with the commands of ``postfix(1)``, and ``mtad TOOL ...`` with the other
tools under their own names and options.  Called by the name of one of Postfix's commands (a link that
``mtad install-commands`` lays), the program is that command.  Exit status as there: 0 done, 1 failed.

Here, for all commands, is seen to what they would have to see to one by one: standard files that are closed,
``-c`` (by way of ``$MAIL_CONFIG``), the file mode mask, and ends of which a command itself knows nothing:
nobody reads the output any more, there is no room for it, Ctrl-C.

Postfix counterpart: ``postfix(1)``.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper

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

#: The file mode mask of Postfix's commands, whatever that of their user is.
_MASK = 0o022

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
    _open_standard_files()
    name = os.path.basename(sys.argv[0])
    try:
        if argv is None and name in NAMES:
            status = _tool(name, sys.argv[1:])
        else:
            status = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:
        return _end_by(signal.SIGPIPE)
    except KeyboardInterrupt:
        return _end_by(signal.SIGINT)
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        sys.stderr.write(f"{name}: fatal: {where}{problem.strerror}\n")
        # what is left in the buffer would fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    return status


def _open_standard_files() -> None:
    """Those that are closed lead nowhere: else files that are opened later would be in their places.  What
    passes through the others is UTF-8 whatever the locale says; bytes that are none stay as they are."""
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    if isinstance(sys.stderr, TextIOWrapper):
        sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")


def _end_by(number: signal.Signals) -> int:
    """End as a program does that leaves this signal alone."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def _run(words: list[str]) -> int:
    """Options, and then a command or a tool with its own words."""
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word in ("-h", "--help"):
            sys.stdout.write(USAGE)
            return 0
        if word in ("-V", "--version"):
            print(f"mtad {mtad.__version__} (Postfix {mtad.POSTFIX_VERSION})")
            return 0
        if word == "-c" and words:
            os.environ["MAIL_CONFIG"] = os.path.abspath(words.pop(0))
        elif word.startswith("-c") and len(word) > 2:
            os.environ["MAIL_CONFIG"] = os.path.abspath(word[2:])
        elif not set(word[1:]) <= {"v", "D"}:
            return _usage(f"unknown option {word}")
    if not words:
        return _usage("no command")
    name, *rest = words
    if name in TOOLS:
        return _tool(name, rest)
    if name in COMMANDS:
        from mtad.cli import lifecycle

        os.umask(_MASK)
        return lifecycle.run(name, None, rest)
    return _usage(f"unknown command {name}")


def _tool(name: str, arguments: list[str]) -> int:
    if name in NAMES:
        os.umask(_MASK)
    tool: Callable[[list[str]], int] = import_module(f"mtad.cli.{name.replace('-', '_')}").main
    return tool(arguments)


def _usage(problem: str) -> int:
    sys.stderr.write(f"mtad: fatal: {problem}\n{USAGE}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
