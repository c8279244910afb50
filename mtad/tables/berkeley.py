"""``hash:`` and ``btree:``: Postfix's own tables.

Postfix stores keys and values with or without a NUL at their end, as the platform had it
(``DICT_FLAG_TRY0NULL``, ``DICT_FLAG_TRY1NULL``); both are read.

Postfix counterpart: ``dict_db(3)``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from mtad.tables.bdb_live import LiveBdb
from mtad.tables.table import LocalTable, Options

#: How much newer than its index a source file must be for the warning, in seconds.
_STALE = 100

#: Answers that are remembered of each file that is in memory, as the same domains come again and again.
#: When there are more, all entries of a small file are.
_KNOWN_LIMIT = 1000
_UNKNOWN = b"not asked"  # by its identity


class BerkeleyTable(LocalTable):
    """A ``.db`` file."""

    def __init__(self, spec: str, options: Options, path: str) -> None:
        super().__init__(spec, options)
        self._db = LiveBdb(path, options.warn)
        warn_if_stale(path, path.removesuffix(".db"), options)

    def answer(self, key: bytes) -> bytes | None:
        db = self._db
        known = db.known()
        if db.complete:
            folded = self.folded(key)
            return None if folded is None else self.checked(key, known.get(folded))
        value = known.get(key, _UNKNOWN)
        if value is not _UNKNOWN:
            return value
        value = super().answer(key)
        if db.steady and known is db.known():
            if len(known) < _KNOWN_LIMIT:
                known[key] = value
            else:
                known.clear()
                db.read_whole(self.options.nulls)
        return value

    def get(self, key: bytes) -> bytes | None:
        return self._db.get_string(key, self.options.nulls)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._db.items():
            yield key.partition(b"\0")[0], value.partition(b"\0")[0]

    def close(self) -> None:
        self._db.close()


def warn_if_stale(index: str, source: str, options: Options) -> None:
    """Say so when the source file was changed after its index was made."""
    try:
        made, changed = os.stat(index).st_mtime, os.stat(source).st_mtime
    except OSError:
        return
    if changed > made + _STALE:
        options.warn(f"database {index} is older than source file {source}")
