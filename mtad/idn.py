"""Domain names beyond ASCII, as they stand in the DNS.

:func:`encode` maps a name and turns its U-labels into A-labels, and raises UnicodeError where that has no
ASCII form; :func:`to_ascii` gives the name back instead.  :func:`to_unicode` is the way back.  What a host
name may hold is not checked.

RFC 5890, Unicode Technical Standard 46 (non-transitional: ``ß`` stays).  Postfix counterpart:
``midna_domain(3)``.
"""

from __future__ import annotations

# at once, and the codec that sockets want: once privileges are gone, modules may be out of reach
import encodings.idna
import encodings.punycode  # noqa: F401
import unicodedata

import idna
import idna.uts46data

_LONGEST_LABEL = 63


def encode(name: str) -> str:
    """The name in ASCII; one that is ASCII already comes back as it is."""
    if name.isascii():
        return name
    mapped = idna.uts46_remap(name, std3_rules=False)
    return ".".join(_label(label) if label else "" for label in mapped.split("."))


def to_ascii(name: str) -> str:
    """A domain name, or ``.domain``, in ASCII; unchanged where it has no such form."""
    if name.isascii():
        return name
    try:
        return encode(name)
    except UnicodeError:
        return name


def to_unicode(name: str) -> str:
    """A domain name in ASCII as people read it; unchanged where it has no such form."""
    if "xn--" not in name.lower():
        return name
    try:
        labels = [_label(label) if label else "" for label in name.lower().split(".")]
    except UnicodeError:
        return name
    return ".".join([_plain(label) for label in labels])


def _plain(label: str) -> str:
    return label[4:].encode("ascii").decode("punycode") if label.startswith("xn--") else label


def _label(label: str) -> str:
    """A label that is mapped and not empty, checked by section 4.1 of UTS 46."""
    found = label
    if label.startswith("xn--"):
        label = label[4:].encode("ascii").decode("punycode")
        if label.isascii() or idna.uts46_remap(label, std3_rules=False) != label:
            raise UnicodeError("no A-label")
    elif not label.isascii():
        found = "xn--" + label.encode("punycode").decode("ascii")
    if label[:1] == "-" or label[-1:] == "-" or label[2:4] == "--":
        raise UnicodeError("misplaced hyphen")
    if "." in label or unicodedata.category(label[0])[0] == "M" or len(found) > _LONGEST_LABEL:
        raise UnicodeError("no label")
    return found
