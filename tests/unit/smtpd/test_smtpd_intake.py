"""Intake beyond what the installed Postfix can be asked: later parameters, slow and failing tables, seams."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from intake_support import BASE, Taken, body_of, headers_of

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError, TableError
from mtad.queue.message import HOLD, Message, Recipient
from mtad.rewrite.address import Rewriter
from mtad.smtpd.actions import act
from mtad.tables.maps import Maps

EIGHT = "Content-Transfer-Encoding: 8bit\r\nSubject: x\r\n\r\ngrün = \r\n".encode()


# -- Postfix 3.9 and later


def test_eight_bits_become_seven_on_the_way_in() -> None:
    taken = Taken([EIGHT], force_mime_input_conversion="yes", body_checks="pcre:{{/=C3/ WARN converted}}")
    assert headers_of(taken.content)[:2] == [b"Subject: x", b"Content-Transfer-Encoding: quoted-printable"]
    assert body_of(taken.content) == b"gr=C3=BCn =3D=20\r\n"
    assert not taken.state.eight_bit
    assert any("warning: body gr=C3=BCn" in line for line in taken.log)


def test_conversion_needs_mime() -> None:
    with pytest.raises(ConfigError, match="do not specify both"):
        Taken([EIGHT], force_mime_input_conversion="yes", disable_mime_input_processing="yes")


@pytest.mark.parametrize(
    ("action", "refusal", "marked"),
    [
        ("fix_quietly", "", False),
        ("add_header", "", True),
        ("reject", "550 5.6.0 primary header was terminated with non-empty line", False),
    ],
)
def test_headers_that_end_without_an_empty_line(action: str, refusal: str, marked: bool) -> None:
    taken = Taken([b"Subject: x\r\nno header\r\nmore\r\n"], non_empty_end_of_header_action=action)
    assert taken.refusal == refusal
    if not refusal:
        mark = b"MIME-Error: message header was not terminated by empty line"
        assert (mark in headers_of(taken.content)) is marked
        assert body_of(taken.content) == b"no header\r\nmore\r\n"
    told = [line for line in taken.log if "mime-error primary header was terminated" in line]
    assert bool(told) is bool(refusal)


@pytest.mark.parametrize(
    ("name", "form", "written"),
    [
        ("Alice Example", "standard", b"From: Alice Example <alice@example.com>"),
        ("A. Example", "standard", b'From: "A. Example" <alice@example.com>'),
        ("A. Example", "Obsolete", b"From: alice@example.com (A. Example)"),
        ("Ällice", "standard", b"From: =?utf-8?Q?=C3=84llice?= <alice@example.com>"),
        ("", "standard", b"From: alice@example.com"),
    ],
)
def test_names_of_senders(name: str, form: str, written: bytes) -> None:
    taken = Taken([b"Subject: x\r\n\r\ny\r\n"], full_name=name.encode(), header_from_format=form)
    assert headers_of(taken.content)[-1] == written


def test_names_are_in_the_charset_that_is_said() -> None:
    taken = Taken([b"\r\n"], full_name="Ällice".encode(), full_name_encoding_charset="x-known")
    assert headers_of(taken.content)[-1] == b"From: =?x-known?Q?=C3=84llice?= <alice@example.com>"


def test_copies_go_to_addresses_in_external_form() -> None:
    maps = 'inline:{{alice@example.com="a b"@example.org}}'
    taken = Taken([b"\r\n"], sender_bcc_maps=maps, recipient_bcc_maps="static:c@example.org")
    assert taken.recipients == [b"a b@example.org", b"bob@example.net", b"c@example.org"]
    assert taken.envelope.recipients[0].notify == frozenset((b"NEVER",))


# -- what tables do


class _Slow:
    """A table that takes its time."""

    fixed_key = True
    spec = "slow:"

    def __init__(self, answers: dict[bytes, bytes], failing: bool = False) -> None:
        self.answers = answers
        self.failing = failing
        self.asked: list[bytes] = []

    async def lookup(self, key: bytes) -> bytes | None:
        self.asked.append(key)
        await asyncio.sleep(0)
        if self.failing:
            raise TableError("slow: is down")
        return self.answers.get(key)

    def close(self) -> None:
        pass


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> dict[str, _Slow]:
    """Tables of that kind in place of those of these parameters."""
    tables: dict[str, _Slow] = {}
    usual = Maps.__init__

    def init(self: Maps, specs: str, *arguments: Any, **named: Any) -> None:
        usual(self, "" if named.get("title") in tables else specs, *arguments, **named)
        if (table := tables.get(named.get("title", ""))) is not None:
            self.tables = (table,)

    monkeypatch.setattr(Maps, "__init__", init)
    return tables


def test_slow_tables_are_waited_for(slow: dict[str, _Slow]) -> None:
    slow["canonical_maps"] = _Slow({b"alice@example.com": b"a@example.org"})
    slow["virtual_alias_maps"] = _Slow({b"bob@example.net": b"x@example.org, y@example.org"})
    slow["header_checks"] = _Slow({b"Subject: x": b"REPLACE Subject: slow"})
    slow["body_checks"] = _Slow({b"two": b"IGNORE"})
    text = b"From: alice@example.com\r\nSubject: x\r\n\r\none\r\ntwo\r\nthree\r\n"
    pieces = [text[at : at + 7] for at in range(0, len(text), 7)]
    taken = Taken(pieces)
    assert headers_of(taken.content) == [b"From: a@example.org", b"Subject: slow"]
    assert body_of(taken.content) == b"one\r\nthree\r\n"
    assert taken.state.sender == b"a@example.org"
    assert taken.recipients == [b"x@example.org", b"y@example.org"]
    assert slow["body_checks"].asked == [b"one", b"two", b"three"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("canonical_maps", "canonical_maps map lookup problem for alice@example.com"),
        ("virtual_alias_maps", "virtual_alias_maps map lookup problem for bob@example.net"),
        ("recipient_bcc_maps", "recipient_bcc_maps map lookup problem"),
        ("header_checks", "header_checks map lookup problem"),
        ("body_checks", "body_checks map lookup problem"),
    ],
)
def test_failing_tables_refuse_for_now(slow: dict[str, _Slow], name: str, told: str) -> None:
    slow[name] = _Slow({}, failing=True)
    taken = Taken([b"Subject: x\r\n\r\nbody\r\n"])
    assert taken.refusal == "451 4.3.0 Error: queue file write error"
    assert "warning: slow: is down" in taken.log
    assert f"warning: 4ABC: {told} -- message not accepted, try again later" in taken.log


def test_an_alias_that_leads_back_is_refused() -> None:
    taken = Taken([b"\r\n"], virtual_alias_maps="inline:{a@b.c=d@e.f, d@e.f=a@b.c}", recipients=[b"a@b.c"])
    assert taken.refusal == "451 4.6.0 Alias expansion error"


def test_a_sender_who_wants_to_know_is_told_of_the_expansion_only() -> None:
    both = frozenset((b"SUCCESS", b"FAILURE"))
    maps = "inline:{{bob@example.net=x@example.org, y@example.org}}"
    taken = Taken([b"\r\n"], virtual_alias_maps=maps, notify=both)
    assert [one.notify for one in taken.envelope.recipients] == [frozenset((b"FAILURE",))] * 2
    assert [one.address for one in taken.envelope.expanded] == [b"bob@example.net"]


# -- other clients and overrides


def test_no_mapping_and_no_checks_where_that_is_said() -> None:
    taken = Taken(
        [b"Subject: x\r\n\r\ny\r\n"],
        receive_override_options="no_address_mappings, no_header_body_checks",
        virtual_alias_maps="static:x@example.org",
        always_bcc="all@example.org",
        header_checks="static:REJECT",
        body_checks="static:REJECT",
        strict_8bitmime="yes",
    )
    assert taken.refusal == ""
    assert taken.recipients == [b"bob@example.net"]


@pytest.mark.parametrize(("classes", "found"), [("smtpd", True), ("all", True), ("sendmail, verify", False)])
def test_utf8_is_found_where_it_is_looked_for(classes: str, found: bool) -> None:
    taken = Taken(["Subject: grün\r\n\r\ny\r\n".encode()], smtputf8_autodetect_classes=classes)
    assert taken.state.smtputf8 is found
    taken = Taken([b"\r\n"], sender="ä@example.com".encode(), smtputf8_autodetect_classes=classes)
    assert taken.state.smtputf8 is found


def test_nothing_is_kept_of_a_message_that_was_given_up() -> None:
    taken = Taken([b"Subject: x\r\n\r\n", b"y" * 100_000 + b"\r\n"])
    taken.intake.discard()
    assert taken.intake.feed(b"more\r\n") is None
    assert taken.intake.spool is None


def test_one_recipient_is_served_in_place_of_all() -> None:
    """The first by domain, those without one last; so does Postfix, when it comes to deliver the message."""
    addresses = (b"zed@b.example", b"ab", b"ab@a.example", b"ab+c@A.example", b"Zed@b.example")
    recipients = [Recipient(each, each, orcpt=b"rfc822;" + each) for each in addresses]
    message = Message("ID", b"", recipients, 0.0)
    taken = Taken([b"\r\n"])
    taken.state.redirect = b"bob"
    act(message, taken.state, Rewriter(Parameters.from_mapping(BASE)), filter="smtp:x", hold=True)
    (one,) = message.recipients
    assert (one.address, one.original, message.state) == (b"bob@example.com", b"ab+c@A.example", HOLD)
    assert "filter" not in message.attributes
