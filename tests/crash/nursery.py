"""Runs mtad again and again without loading it each time: a program that has it in memory, and forks.

Reads one JSON list a line, the arguments of ``mtad``, with the text of the standard input before them, and
answers with a line: ``start-fg`` gets a process group of its own, whose id is told; anything else, like this
program itself, is out of reach of the faults, and its exit status is told when it has ended.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import pkgutil
import sys
from contextlib import suppress

import mtad


def load() -> None:
    """Have all in memory that the daemon will need."""
    for module in pkgutil.walk_packages(mtad.__path__, "mtad."):
        with suppress(ImportError):  # what an extra is missing for
            importlib.import_module(module.name)
    for name in ("epollreactor", "tcp", "udp", "unix"):
        importlib.import_module(f"twisted.internet.{name}")
    assert "twisted.internet.reactor" not in sys.modules


def run(text: str, arguments: list[str], alone: bool) -> None:
    """In the child: be ``mtad``."""
    from mtad.cli.main import main

    read, write = os.pipe()
    os.write(write, text.encode())
    os.close(write)
    os.dup2(read, 0)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  (nothing was read from this one yet)
    if alone:
        os.setpgid(0, 0)
        ctypes.CDLL(None).spare_this_process(0)
    status = 1
    try:
        sys.argv = ["mtad", *arguments]
        status = main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(status)


def serve() -> None:
    load()
    ctypes.CDLL(None).spare_this_process(1)
    daemons: list[int] = []
    print("ready", flush=True)
    for line in sys.stdin:
        daemons = [pid for pid in daemons if os.waitpid(pid, os.WNOHANG) == (0, 0)]
        text, *arguments = json.loads(line)
        alone = "start-fg" in arguments
        pid = os.fork()
        if pid == 0:
            run(text, arguments, alone)
        if alone:
            with suppress(PermissionError, ProcessLookupError):
                os.setpgid(pid, pid)  # whoever comes first: who hears of the group may end it at once
            daemons.append(pid)
            print(pid, flush=True)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
