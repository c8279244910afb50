"""How a command says something: to standard error, and to the maillog where it may write there.

``Voice("postsuper").info("Deleted: 1 message")`` writes ``postsuper: Deleted: 1 message``; once a command has
read its parameters, :meth:`Voice.log_to` has the same logged as ``postfix/postsuper``.  :class:`Fatal` ends a
command: its ``main`` catches it, says why, and returns its status.  Nothing is raised.

Postfix counterpart: ``msg(3)``, ``msg_vstream(3)``, ``maillog_client(3)``.
"""

from __future__ import annotations

import sys
from getopt import GetoptError

from mtad.config.parameters import Parameters
from mtad.daemon.logs import open_sink, program_log
from mtad.errors import ConfigError, MtadError
from mtad.maillog import MailLog, printable


class Fatal(MtadError):
    """The command ends with this text and exit status (0: the command's usual one)."""

    def __init__(self, text: str, status: int = 0) -> None:
        self.status = status
        super().__init__(text)


def complaint(error: GetoptError) -> str:
    """What getopt(3) says of such an option."""
    what = "option requires an argument" if "requires argument" in error.msg else "invalid option"
    return f"{what} -- '{error.opt}'"


class Voice:
    """The voice of the command ``name``; ``program`` is its name in the log where that is another."""

    def __init__(self, name: str, program: str = "") -> None:
        self.name = name
        self._program = program or name
        self._log: MailLog | None = None

    def log_to(self, p: Parameters) -> None:
        """Log from now on, if this user may."""
        try:
            self._log = program_log(p, open_sink(p), self._program)
        except ConfigError:
            self._log = None

    def info(self, text: str) -> None:
        """Something was done."""
        self._say(text)
        if self._log is not None:
            self._log.info(text)

    def note(self, text: str) -> None:
        """For the log alone."""
        if self._log is not None:
            self._log.info(text)

    def warning(self, text: str) -> None:
        """Something is odd, and the command goes on."""
        self._say(f"warning: {text}")
        if self._log is not None:
            self._log.warning(text)

    def fatal(self, text: str) -> None:
        """Why the command ends."""
        self._say(f"fatal: {text}")
        if self._log is not None:
            self._log.fatal(text)

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{self.name}: {printable(text)}\n")
        sys.stderr.flush()
