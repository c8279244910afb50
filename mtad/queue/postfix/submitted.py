"""The envelope that a user of this host wrote into a file of the maildrop.

Users may write such files themselves, so :class:`Submitted` takes no more of it than a user may say: the
attributes that sendmail(1) leaves there, not those by which the mail system tells itself where a message came
from, how it is to be routed, or what was done to it; times that have been; so many recipients, records and
bytes, and no more.  Raises :class:`~mtad.queue.postfix.records.BadRecord` for more of these, and for
delimiters of VERP that are none.

Postfix counterpart: the checks of ``postdrop(1)`` and ``pickup(8)``.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtad.queue.postfix import records as rec
from mtad.queue.postfix.envelope import TLS_OPTIONAL, Envelope
from mtad.queue.postfix.records import MAPPED, BadRecord

#: More than fit on a command line, by far.
MOST_RECIPIENTS = 100_000
#: Four records for each recipient, and others; and their bytes.
_MOST_RECORDS, _MOST_BYTES = 5 * MOST_RECIPIENTS, 64 * 1024 * 1024

#: Attributes that a user may give, with the values that they may have.
_ALLOWED = {
    b"encoding": (b"7bit", b"8bit", b"none"),
    b"rewrite_context": (b"local", b"remote"),
    b"trace_flags": (b"512", b"1024"),
}
#: Records that the mail system alone writes.
_OURS = (rec.FILTER, rec.INSPECTOR, rec.REDIRECT, rec.WARN)


@dataclass(slots=True)
class Submitted(Envelope):
    """See the module.  ``now``: the time; ``delimiters``: those of ``verp_delimiter_filter``."""

    now: float = 0.0
    delimiters: bytes = b"-=+"
    records: int = 0
    size: int = 0

    def take(self, kind: bytes, data: bytes) -> None:
        """One record of it; what a user may not say is left out."""
        self.records += 1
        self.size += len(data)
        if self.records > _MOST_RECORDS or self.size > _MOST_BYTES:
            raise BadRecord("envelope too long")
        if kind in _OURS:
            return
        if kind == rec.ATTRIBUTE:
            name, _, value = data.partition(b"=")
            if name == b"create_time" or (name not in MAPPED and value not in _ALLOWED.get(name, ())):
                return
        elif kind == rec.VERP and (len(data) != 2 or data.strip(self.delimiters)):
            raise BadRecord("bad VERP delimiters")
        elif kind == rec.RECIPIENT and len(self.recipients) == MOST_RECIPIENTS:
            raise BadRecord(f"more than {MOST_RECIPIENTS} recipients")
        Envelope.take(self, kind, data)
        if kind == rec.TIME:
            self.arrival = min(self.arrival, self.now)
        elif kind == rec.SIZE:
            self.options &= ~TLS_OPTIONAL  # the header is read again
