"""Postfix's own cases of MIME content (``src/global/mime_*``)."""

from __future__ import annotations

import re

import pytest
from peer_source import WHY, source

from mtad.mime.events import (
    FAULTS,
    MULTIPART,
    NESTED,
    PRIMARY,
    Body,
    Header,
    HeadersEnd,
    MimeLimits,
    MimeOptions,
    Report,
    Wants,
)
from mtad.mime.state import MimeState

GLOBAL = source("global")
pytestmark = pytest.mark.skipif(GLOBAL is None, reason=WHY)

CASES = {
    "mime_test.in": "mime_test.ref",
    "mime_nest.in": "mime_nest.ref",
    "mime_8bit.in": "mime_8bit.ref",
    "mime_dom.in": "mime_dom.ref",
    "mime_trunc.in": "mime_trunc.ref",
    "mime_cvt.in": "mime_cvt.ref",
    "mime_cvt.in2": "mime_cvt.ref2",
    "mime_cvt.in3": "mime_cvt.ref3",
    "mime_garb1.in": "mime_garb1.ref",
    "mime_garb2.in": "mime_garb2.ref",
    "mime_garb3.in": "mime_garb3.ref",
    "mime_garb4.in": "mime_garb4.ref",
}
#: As the program that made the references has them.
RECORD = 1024
LIMITS = MimeLimits(header_size=2000, line_length=RECORD, boundary_length=2000, nesting=20)
WANTS = (
    Wants.CONVERT
    | Wants.EIGHT_BIT_HEADERS
    | Wants.EIGHT_BIT_BODY
    | Wants.ENCODING
    | Wants.NESTING
    | Wants.END_OF_HEADERS
)
_PLACES = {PRIMARY: "MAIN", MULTIPART: "MULT", NESTED: "NEST"}
_TOO_LONG = "message header length exceeds safety limit"


def _wanted(text: str) -> str:
    """The reference without what only that program says, and without the offsets of headers."""
    text = re.sub(r"^mime_state: (?!warning: [^\n]*: )[^\n]*\n", "", text, flags=re.MULTILINE)
    text = re.sub(rf"^mime_state: warning: {_TOO_LONG}[^\n]*\n", "", text, flags=re.MULTILINE)
    text = text.replace("BODY END\n", "")
    return re.sub(r"^(MAIN|MULT|NEST) \d+\t", r"\1\t", text, flags=re.MULTILINE)


def _said(content: bytes, step: int) -> str:
    state = MimeState(MimeOptions(WANTS, LIMITS))
    events = [event for at in range(0, len(content), step) for event in state.feed(content[at : at + step])]
    out, offset = "", 0
    for event in [*events, *state.finish()]:
        match event:
            case Header(kind, _, text):
                out += f"{_PLACES[kind]}\t|{text.decode('latin-1')}\n"
            case HeadersEnd():
                out += "HEADER END\n"
            case Report(fault, text):
                shown = text.decode("ascii", "replace").replace(chr(0xFFFD), "?")
                out += f"mime_state: warning: {FAULTS[fault][1]}: {shown}\n"
            case Body(data, restart):
                offset = 0 if restart else offset
                for line in re.findall(rb"[^\n]*\n|[^\n]+", data):
                    for record in _records(line.decode("latin-1")):
                        out += f"BODY {'N' if record.endswith(chr(10)) else 'L'} {offset}\t|{record}"
                        offset += len(record.rstrip("\n")) + 1
    return out


def _records(line: str) -> list[str]:
    text = line.replace("\r\n", "\n")
    whole = text.endswith("\n")
    bare = text.rstrip("\n")
    records = [bare[at : at + RECORD] for at in range(0, len(bare), RECORD)]
    if whole and len(bare) % RECORD == 0:
        records.append("")
    return [*records[:-1], records[-1] + "\n"] if whole else records


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [100_000, 7, 1])
def test_mime(name: str, step: int) -> None:
    assert GLOBAL is not None
    content = (GLOBAL / name).read_bytes()
    content = re.sub(rb"\r?\n", b"\r\n", content)
    if content and not content.endswith(b"\n"):
        content += b"\r\n"
    wanted = _wanted((GLOBAL / CASES[name]).read_bytes().decode("latin-1"))
    assert _said(content, step).split("\n") == wanted.split("\n")
