"""The dates of headers: :func:`mail_date`, which raises nothing.

RFC 5322 section 3.3.  Postfix counterpart: ``mail_date(3)``.
"""

from __future__ import annotations

import time

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_last: tuple[int, bytes] = (-1, b"")


def mail_date(when: float) -> bytes:
    """``when`` (seconds since the epoch) as an RFC 5322 date with the zone's name, e.g.
    ``Mon, 05 Oct 2026 10:00:00 +0000 (UTC)``."""
    global _last
    second = int(when)
    if _last[0] == second:
        return _last[1]
    t = time.localtime(second)
    minutes = t.tm_gmtoff // 60
    sign = "-" if minutes < 0 else "+"
    hours, minutes = divmod(abs(minutes), 60)
    text = (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
        f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} {sign}{hours:02d}{minutes:02d} ({t.tm_zone})"
    ).encode("ascii", "replace")
    _last = (second, text)
    return text
