"""The manual page mtad-parameters(5), made of the table of parameters.

:func:`page` gives the lines of the page, in roff.  What each parameter means is told by
postconf(5); this page tells its type, its default, and what mtad makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import mtad
from mtad.config.parameters import SERVICE_SUFFIXES, Spec, table

_KINDS = {
    "bool": "yes or no",
    "int": "number",
    "long": "number",
    "time": "time",
    "str": "text",
    "list": "list",
    "maps": "list of tables (type:name)",
    "networks": "list of hosts and networks",
    "enum": "one of",
    "enum?": "empty or one of",
    "set": "list of",
    "hostname": "domain name",
    "level": "compatibility level",
    "raw": "text, in which $ is not expanded",
    "legacy": "text",
}
_UNITS = {"s": "seconds", "h": "hours", "d": "days"}
#: How limits are told that are none of the number itself.
_LIMITS = {"str": "length {}", "time": "{} s"}
_RANGE = re.compile(r"(\d*)\.\.(\d*)")
_STATUS = {
    "honoured": "",
    "ignored": "Without effect here",
    "unimplemented": "Not implemented",
}


def page() -> Iterator[str]:
    """The lines of the page."""
    yield f'.TH MTAD-PARAMETERS 5 "" "mtad {mtad.__version__}"'
    yield ".nh"  # names are in one piece, so that they can be searched for
    yield ".ad l"
    yield ".SH NAME"
    yield "mtad-parameters \\- the parameters of main.cf and what mtad makes of them"
    yield ".SH DESCRIPTION"
    yield f"These are the parameters of Postfix {mtad.POSTFIX_VERSION}, which"
    yield "\\fBpostconf\\fR(5) explains, and mtad's own, whose names begin with \\fBmtad_\\fR."
    yield "A parameter without a remark is honoured. Types are checked when the configuration is read."
    yield "\\fBmtad check\\fR tells which settings have no effect."
    yield ".SH PARAMETERS"
    for row in table().values():
        yield from _parameter(row)
    yield ".SH PARAMETERS OF SERVICES"
    yield "Each delivery service of \\fBmaster.cf\\fR has parameters of its own:"
    for suffix, origin in SERVICE_SUFFIXES.items():
        yield f'.IP "\\fIservice\\fB{_text(suffix)}\\fR (default: ${_text(origin)})"'
    yield ".SH SEE ALSO"
    yield "postconf(5), mtad postconf \\-\\-help"


def _parameter(row: Spec) -> Iterator[str]:
    default = "computed" if row.default.startswith("@") else _text(row.default) or "empty"
    yield f'.IP "\\fB{_text(row.name)}\\fR (default: {default})"'
    yield f"Type: {_text(_type(row.type))}"
    if _STATUS[row.status]:
        yield ".br"
        yield f"{_STATUS[row.status]}{': ' if row.note else ''}{_text(row.note)}"
    if row.instead:
        yield ".br"
        yield f"Deprecated; instead, {_text(row.instead)}"


def _type(text: str) -> str:
    """A type in words: ``time s 1..`` is a time in seconds, of one at least."""
    kind, *details = text.split()
    words = [_KINDS[kind]]
    if kind == "time":
        words.append(f"(without a unit: {_UNITS[details.pop(0)]})")
    if details and (ends := _RANGE.fullmatch(details[-1])):
        least, most = ends.groups()
        limits = f"{least} to {most}" if least else f"at most {most}"
        if not most:
            limits = f"at least {least}"
        details[-1] = _LIMITS.get(kind, "{}").format(least if least == most else limits)
        words[-1] += ","
    return " ".join([*words, *details])


def _text(text: str) -> str:
    """``text`` with what roff would take for its own."""
    escaped = text.replace("\\", "\\e").replace('"', "\\(dq").replace("-", "\\-")
    return f"\\&{escaped}" if escaped[:1] in (".", "'") else escaped
