"""The reply to EHLO: what this server offers, in the order in which Postfix offers it.

RFC 5321 section 4.1.1.1; RFC 1870 (SIZE), 1985 (ETRN), 2034 (ENHANCEDSTATUSCODES), 2852 (DELIVERBY), 2920
(PIPELINING), 3030 (CHUNKING, BINARYMIME), 3207 (STARTTLS), 3461 (DSN), 4865 (FUTURERELEASE), 4954 (AUTH),
6152 (8BITMIME), 6531 (SMTPUTF8), 6710 (MT-PRIORITY), 8689 (REQUIRETLS), 9422 (LIMITS).  Postfix counterpart:
``ehlo_cmd`` in ``smtpd(8)``.
"""

from __future__ import annotations

from functools import lru_cache

from mtad.wire.extensions import BEYOND, offers_requiretls
from mtad.wire.reply import Reply
from mtad.wire.settings import ServerSettings
from mtad.wire.xclient import XCLIENT, XFORWARD

#: Keywords in the order in which the log names those that are discarded.
_KEYWORDS = (
    "8bitmime", "auth", "etrn", "pipelining", "size", "verp", "vrfy", "xclient", "xforward", "starttls",
    "enhancedstatuscodes", "dsn", "smtputf8", "chunking", "requiretls", *BEYOND,
)  # fmt: skip


@lru_cache(maxsize=64)
def discarding(discarded: frozenset[str]) -> str:
    """The line for the log that these keywords (lower case) make at each EHLO; may be empty."""
    if "silent-discard" in discarded or "enhancedstatuscodes" in discarded:  # the latter as in Postfix
        return ""
    names = ", ".join(word.upper() for word in _KEYWORDS if word in discarded)
    return f"discarding EHLO keywords: {names}" if names else ""


@lru_cache(maxsize=256)
def ehlo_reply(
    settings: ServerSettings, tls: bool = False, mechanisms: tuple[bytes, ...] = (), latest: bytes = b""
) -> Reply:
    """The 250 reply of several lines.

    ``mechanisms`` are those announced to this client (none: AUTH is not announced).  Keywords
    that ``settings.discard`` names are left out.
    """
    size = b"SIZE %d" % settings.size_limit if settings.size_limit else b"SIZE"
    auth = b" ".join(mechanisms)
    announce_auth = settings.auth_enabled and (tls or not settings.auth_tls_only) and bool(mechanisms)
    offers: list[tuple[str, bytes, bool]] = [
        ("pipelining", b"PIPELINING", True),
        ("size", size, True),
        ("vrfy", b"VRFY", not settings.disable_vrfy),
        ("etrn", b"ETRN", True),
        ("starttls", b"STARTTLS", settings.tls_offered and not tls),
        ("auth", b"AUTH " + auth, announce_auth),
        ("auth", b"AUTH=" + auth, announce_auth and settings.broken_auth_clients),
        ("verp", b"XVERP", bool(settings.verp_delimiters)),
        ("xclient", b"XCLIENT " + XCLIENT, settings.xclient),
        ("xforward", b"XFORWARD " + XFORWARD, settings.xforward),
        ("enhancedstatuscodes", b"ENHANCEDSTATUSCODES", True),
        ("8bitmime", b"8BITMIME", True),
        ("dsn", b"DSN", True),
        ("smtputf8", b"SMTPUTF8", settings.smtputf8),
        ("chunking", b"CHUNKING", True),
        ("requiretls", b"REQUIRETLS", offers_requiretls(settings, tls)),
        *_beyond(settings, latest),
    ]
    lines = [line for keyword, line, offered in offers if offered and keyword not in settings.discard]
    return Reply(250, b"\n".join([settings.hostname, *lines]))


def _beyond(settings: ServerSettings, latest: bytes) -> list[tuple[str, bytes, bool]]:
    """The extensions that Postfix has not."""
    if not settings.extensions:
        return []
    limits = b"LIMITS RCPTMAX=%d" % settings.recipient_limit
    hold = b"FUTURERELEASE %d %b" % (settings.longest_hold, latest)
    return [
        ("binarymime", b"BINARYMIME", settings.offers_binary),
        ("limits", limits, settings.offers("limits") and bool(settings.recipient_limit)),
        ("futurerelease", hold, settings.offers("futurerelease")),
        ("deliverby", b"DELIVERBY", settings.offers("deliverby")),
        ("mt-priority", b"MT-PRIORITY", settings.offers("mt-priority")),
    ]


@lru_cache(maxsize=64)
def helo_reply(settings: ServerSettings) -> Reply:
    """The reply to HELO: the host name alone."""
    return Reply(250, settings.hostname)
