"""Commands counted as ``disconnect from ... ehlo=1 mail=1 rcpt=1/2 commands=3/4`` shows them.

Postfix counterpart: ``smtpd_format_cmd_stats()``.
"""

from __future__ import annotations

#: In the order in which they are shown.
_ORDER = (
    b"HELO", b"EHLO", b"XCLIENT", b"XFORWARD", b"STARTTLS", b"AUTH", b"MAIL", b"RCPT", b"DATA", b"BDAT",
    b"RSET", b"NOOP", b"VRFY", b"ETRN", b"QUIT", b"HELP", b"UNKNOWN",
)  # fmt: skip
_RANK = {verb: rank for rank, verb in enumerate(_ORDER)}


class Counters:
    """How often each command was given, and succeeded."""

    __slots__ = ("_done", "_given")

    def __init__(self) -> None:
        self._given: dict[bytes, int] = {}
        self._done: dict[bytes, int] = {}

    def given(self, verb: bytes) -> None:
        """A command was given."""
        self._given[verb] = self._given.get(verb, 0) + 1

    def done(self, verb: bytes) -> None:
        """A command succeeded."""
        self._done[verb] = self._done.get(verb, 0) + 1

    def __str__(self) -> str:
        out = []
        all_done = all_given = 0
        for verb in sorted(self._given, key=lambda verb: _RANK.get(verb, len(_RANK))):
            given, done = self._given[verb], self._done.get(verb, 0)
            out.append(f"{verb.decode().lower()}={done}" + ("" if done == given else f"/{given}"))
            all_given += given
            all_done += done
        out.append(f"commands={all_done}" + ("" if all_done == all_given and all_given else f"/{all_given}"))
        return " ".join(out)
