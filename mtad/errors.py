"""The tree of errors.

Every error that may leave a package descends from :class:`MtadError`.  It says
whether trying again may help (``temporary``) and which reply a client sees
when nothing nearer to the fault has a better one (``code``, ``dsn``, ``text``:
RFC 5321 section 4.2, RFC 3463).  Errors for the operator name the file, the
line, the parameter and the remedy.
"""

from __future__ import annotations


class MtadError(Exception):
    """Root of the tree.  ``temporary`` tells whether a retry may succeed."""

    temporary: bool = True
    code: int = 451
    dsn: str = "4.3.0"
    text: str = "Error: internal error"


class ConfigError(MtadError):
    """A configuration that cannot be taken.

    ``path`` and ``line`` say where (line 0: the file as a whole), ``parameter``
    which setting, ``reason`` what is wrong, ``remedy`` what to do about it.
    Postfix counterpart: the ``fatal:`` messages of its programs.
    """

    temporary = True
    code = 451
    dsn = "4.3.5"
    text = "Server configuration error"

    def __init__(
        self, reason: str, *, path: str = "", line: int = 0, parameter: str = "", remedy: str = ""
    ) -> None:
        self.reason = reason
        self.path = path
        self.line = line
        self.parameter = parameter
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        where = self.path
        if where and self.line:
            where += f", line {self.line}"
        head = f"{where}: " if where else ""
        if self.parameter:
            head += f"parameter {self.parameter}: "
        tail = f" ({self.remedy})" if self.remedy else ""
        return f"{head}{self.reason}{tail}"


class TableError(MtadError):
    """A lookup table that cannot be opened or asked now (Postfix: ``dict_errno``)."""

    temporary = True
    code = 451
    dsn = "4.3.0"
    text = "Temporary lookup failure"


class QueueError(MtadError):
    """The queue cannot take or give a message now; nothing was lost or accepted."""

    temporary = True
    code = 451
    dsn = "4.3.0"
    text = "Error: queue file write error"


class QueueFull(QueueError):
    """No room on the queue's file system."""

    code = 452
    dsn = "4.3.1"
    text = "Error: insufficient system storage"
