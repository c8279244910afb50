"""``mtad logrotate``: the maillog gets a new file, and the old one is compressed.

The file is renamed (``maillog_file_rotate_suffix``), a running mail system takes its configuration again, so
that new sessions write to the new file, and ``maillog_file_compressor`` is called on the old one.  Where open
sessions still write to that, it is left as it is: no line is lost.  Raises ConfigError where there is no file
to rotate, or something goes wrong.

Postfix counterpart: ``postfix logrotate``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mtad.config.parameters import Parameters
from mtad.daemon.lock import holder
from mtad.daemon.logs import close_sink, maillog_path, open_sink
from mtad.daemon.paths import paths
from mtad.errors import ConfigError

#: Seconds to wait for processes that end.
_PATIENCE = 3.0
_STEP = 0.05


def rotate(directory: str, reload: Callable[[], int]) -> int:
    """Rotate the maillog of the configuration in ``directory``; ``reload`` makes the daemon open it anew."""
    p = Parameters.load(directory)
    path = maillog_path(p)
    for name in ("maillog_file", "maillog_file_compressor", "maillog_file_rotate_suffix"):
        if not p[name]:
            raise ConfigError(
                f"empty '{name}' parameter value - logfile rotation failed", parameter=name,
                remedy="syslogd rotates its own files",
            )  # fmt: skip
    if path.startswith("/dev/"):
        raise ConfigError(f"not rotating '{path}'", parameter="maillog_file")
    old = f"{path}.{time.strftime(p['maillog_file_rotate_suffix'])}"
    try:
        if Path(old).exists():
            raise FileExistsError(f"{old} exists")
        os.rename(path, old)
        close_sink(open_sink(p))  # with its mode, before anybody else makes it
        status = reload() if holder(paths(p).lock) else 0
        if not _let_go(old):
            sys.stderr.write(f"mtad: note: {old} is not compressed: open sessions still write to it\n")
            return status
        done = subprocess.run([p["maillog_file_compressor"], old], capture_output=True, text=True)
    except OSError as problem:
        raise ConfigError(f"logfile '{path}' rotation failed: {problem}") from problem
    if done.returncode != 0:
        raise ConfigError(f"logfile '{path}' rotation failed: {done.stderr.strip()}")
    return status


def _let_go(path: str) -> bool:
    """Whether nobody has the file open any more, or soon."""
    deadline = time.monotonic() + _PATIENCE
    while _is_open(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(_STEP)
    return True


def _is_open(path: str) -> bool:
    wanted = os.stat(path)
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            found = link.stat()
        except OSError:  # it has gone, or is none of ours
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False
