"""Where no rule looks at the body, no Python touches its lines: their number does not change what is run."""

from __future__ import annotations

import asyncio
import io
import sys
from types import FrameType
from typing import Any

import pytest
from intake_support import BASE

from mtad.config.parameters import Parameters
from mtad.maillog import ListSink, MailLog
from mtad.rewrite.address import Rewriter
from mtad.rewrite.classes import AddressClasses
from mtad.smtpd.headers import Birth
from mtad.smtpd.intake import Intake
from mtad.smtpd.rules import CleanupRules, detects_utf8
from mtad.smtpd.state import MessageState, Origin
from mtad.wire.body import ChunkDecoder, DataDecoder

HEADERS = b"From: alice@example.com\r\nTo: bob\r\nSubject: x\r\n"
MULTIPART = b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="x"\r\n'
#: Bodies of the same size, in lines of 1000 bytes and in lines of 10; the last ones have 8 bits.
LONG, SHORT = (b"a" * 998 + b"\r\n") * 120, (b"a" * 8 + b"\r\n") * 12000
EIGHT_LONG, EIGHT_SHORT = LONG.replace(b"a", b"\xe4"), SHORT.replace(b"a", b"\xe4")

RULES: dict[str, dict[str, str]] = {
    "none": {},
    "for headers": {"header_checks": "static:DUNNO", "mime_header_checks": ""},
    "for addresses": {
        "canonical_maps": "inline:{{a@b=c@d}}",
        "masquerade_domains": "example.com",
        "virtual_alias_maps": "inline:{{a@b=c@d}}",
        "always_bcc": "x@example.com",
        "header_size_limit": "1000",
        "always_add_missing_headers": "yes",
    },
    "for characters": {"message_strip_characters": "\\0", "message_reject_characters": "\\33"},
    "for 8 bits": {"strict_8bitmime_body": "yes"},
    "for nothing": {"receive_override_options": "no_header_body_checks", "body_checks": "static:REJECT"},
    "that went": {"header_checks": "static:PASS", "body_checks": "static:REJECT"},
}


class Counter:
    """Counts the operations of the interpreter in code of this program, within the block."""

    def __init__(self) -> None:
        self.operations = 0

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if "mtad" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        self.operations += event == "opcode"
        return self._trace

    def __enter__(self) -> Counter:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


def operations(body: bytes, headers: bytes, chunked: bool, settings: dict[str, str]) -> tuple[int, int]:
    """What taking this in takes, and how much comes of it."""
    p = Parameters.from_mapping({**BASE, **settings})
    log = MailLog(ListSink(), "postfix/cleanup")
    rules = CleanupRules(p, Rewriter(p), AddressClasses(p, own=()), log)
    state = MessageState("ID", log, Origin(), overrides=frozenset(p.words("receive_override_options")))
    state.detect_utf8 = detects_utf8(p, "smtpd")
    data = headers + b"\r\n" + body + (b"" if chunked else b".\r\n")

    async def take() -> int:
        intake = Intake(rules, state, Birth(0, 0, "local"), size_limit=10**9, spool=io.BytesIO)
        await intake.begin(b"", b"Received: here\r\n")
        decoder = ChunkDecoder() if chunked else DataDecoder()
        for at in range(0, len(data), 30000):
            piece = data[at : at + 30000]
            text = decoder.feed(piece) if isinstance(decoder, ChunkDecoder) else decoder.feed(piece, 0)[0]
            more = intake.feed(text)
            if more is not None:
                await more
        await intake.finish()
        assert intake.refusal is None
        intake.discard()
        return intake.size

    with Counter() as counter:
        size = asyncio.run(take())
    return counter.operations, size


@pytest.mark.parametrize("settings", RULES.values(), ids=RULES)
@pytest.mark.parametrize("headers", [HEADERS, HEADERS + MULTIPART], ids=["text", "multipart"])
@pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])
def test_lines_cost_nothing(settings: dict[str, str], headers: bytes, chunked: bool) -> None:
    few, size = operations(LONG, headers, chunked, settings)
    many, same = operations(SHORT, headers, chunked, settings)
    assert size == same and size > len(LONG)
    assert abs(many - few) < 500, (few, many)  # there are 11,880 lines more
    if "strict_8bitmime_body" not in settings:
        few, _ = operations(EIGHT_LONG, headers, chunked, settings)
        many, _ = operations(EIGHT_SHORT, headers, chunked, settings)
        assert abs(many - few) < 500, (few, many)


def test_the_counter_counts() -> None:
    few, _ = operations(LONG, HEADERS, False, {"body_checks": "static:DUNNO"})
    many, _ = operations(SHORT, HEADERS, False, {"body_checks": "static:DUNNO"})
    assert many - few > 11_880
