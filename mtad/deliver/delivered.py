"""Was this mail here before?  Its Delivered-To headers tell.

Postfix counterpart: ``delivered_hdr(3)``.
"""

from __future__ import annotations

import re
from itertools import islice

from mtad.deliver.bounce import content_of, header_section
from mtad.deliver.report import external
from mtad.queue.message import Message
from mtad.queue.store import QueueStore
from mtad.tables.table import fold

_HEADER = re.compile(rb"^delivered-to:[ \t]*(.*?)\r?$", re.IGNORECASE | re.MULTILINE)
#: Bytes of headers, and headers among them, that are looked at.
_LIMIT = 256 * 1024
_MOST = 1000


def was_delivered_to(store: QueueStore, message: Message, address: bytes) -> bool:
    """Whether a Delivered-To header of ``message`` names ``address`` (internal form), in whatever case."""
    headers = header_section(content_of(store, message, _LIMIT)[:_LIMIT])
    if b"elivered-" not in headers and b"ELIVERED-" not in headers:
        return False
    return fold(external(address)) in [fold(found[1]) for found in islice(_HEADER.finditer(headers), _MOST)]
