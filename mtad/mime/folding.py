"""Headers as they are written: folded after rewriting, cut where they are too long.

A header's text has LF between its lines and none at its end.  Nothing is raised.

RFC 5322 section 2.2.3.  Postfix counterpart: ``cleanup_fold_header()``, ``cleanup_out_header()``.
"""

from __future__ import annotations

_LONGEST = 70


def folded(text: bytes) -> bytes:
    """An address list that has one address a line, with as many on each line as fit."""
    lines = text.split(b"\n")
    out = [lines[0]]
    for line in lines[1:]:
        if len(out[-1]) + 1 + len(line) < _LONGEST:
            out[-1] += b" " + line
        else:
            out.append(line)
    return b"\n".join(out)


def limited(text: bytes, limit: int = 0) -> bytes:
    """The header with CRLF line ends, its further lines beginning with a blank.  What exceeds ``limit`` (0:
    none) goes: at a line's end, unless too much would be lost."""
    if b"\n" not in text and (not limit or len(text) <= limit):
        return text + b"\r\n"
    out: list[bytes] = []
    at = 0
    for line in text.split(b"\n"):
        over = limit and at + len(line) > limit
        if over:
            if at > 0.9 * limit:
                break
            line = text[at:limit]
        out.append(line if not at or line[:1] in (b" ", b"\t") else b"\t" + line)
        if over:
            break
        at += len(line) + 1
    return b"\r\n".join(out) + b"\r\n"
