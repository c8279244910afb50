"""Domain names beyond ASCII, as they stand in the DNS.

:func:`to_ascii` maps a name and turns its U-labels into A-labels; it raises UnicodeError for a name that has no
ASCII form.  :func:`ascii_or_same` gives the name back instead.  What a host name may hold is not checked.

RFC 5890, Unicode Technical Standard 46 (non-transitional: ``ß`` stays).  Postfix counterpart:
``midna_domain(3)``.
"""

from __future__ import annotations

import encodings.punycode  # noqa: F401  at once: once privileges are gone, modules may be out of reach
import unicodedata

import idna
import idna.uts46data  # the same

_LONGEST_LABEL = 63


def to_ascii(name: str) -> str:
    """The name in ASCII; one that is ASCII already comes back as it is."""
    if name.isascii():
        return name
    mapped = idna.uts46_remap(name, std3_rules=False)
    return ".".join(_label(label) if label else "" for label in mapped.split("."))


def ascii_or_same(name: str) -> str:
    """A domain name, or ``.domain``, in ASCII; unchanged where it has no such form."""
    if name.isascii():
        return name
    try:
        return to_ascii(name)
    except UnicodeError:
        return name


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
