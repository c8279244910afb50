"""MTA-STS: records, policies, what is kept, and when it is fetched."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from unit.net.net_pki import log, texts

from mtad.deliver import mta_sts
from mtad.deliver.mta_sts import MtaSts, PolicyStore, StsPolicy, parse_policy, parse_record
from mtad.net.dns import DnsError, DnsStatus
from mtad.net.http import HttpAnswer, HttpError


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    return asyncio.run(coroutine)


TEXT = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmx: *.Example.net\r\nmax_age: 604800\r\n"


@pytest.mark.parametrize(
    ("records", "identifier"),
    [
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        ([b"v=STSv1;id=a"], "a"),
        ([b"v=STSv1; id=a", b"something else"], "a"),
        ([b"v=STSv1; id=a", b"v=STSv1; id=b"], ""),
        ([b"v=STSv1; id=" + b"a" * 33], ""),
        ([b"v=STSv1; id=a-b"], ""),
        ([b"v=STSv1"], ""),
        ([b"v=STSv2; id=a"], ""),
        ([], ""),
    ],
)
def test_records(records: list[bytes], identifier: str) -> None:
    assert parse_record(records) == identifier


def test_a_policy() -> None:
    policy = parse_policy(TEXT, "1", 5.0)
    assert policy == StsPolicy("enforce", ("mx.example.com", "*.example.net"), 604800, "1", 5.0)
    assert policy.ends == 604805.0
    assert policy.strings[:2] == ("version: STSv1", "mode: enforce")
    assert parse_policy(TEXT.replace(b"604800", b"9999999999"), "1", 0).max_age == mta_sts.MAX_AGE_LIMIT
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 5\n", "1", 0).mode == "none"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"STSv1", b"STSv2", "no version"),
        (b"enforce", b"enforced", "no known mode"),
        (b"604800", b"a week", "no max_age"),
        (b"604800", b"-1", "no max_age"),
        (b"604800", b"\xd9\xa3", "no max_age"),
        (b"mx: mx.example.com\r\nmx: *.Example.net\r\n", b"", "names no host"),
        (b"mx.example.com", b"m x", "no host name"),
        (b"mx.example.com", b"mx.*.example.com", "no host name"),
        (b"mx: mx.example.com\r\n", b"mx: mx.example.com\r\n" * 300, "too many hosts"),
        (b"mx: mx.example.com\r\n", b"x" * 70000, "too long"),
    ],
)
def test_no_policies(old: bytes, new: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_policy(TEXT.replace(old, new), "1", 0)


@given(st.binary(max_size=300))
@example(TEXT)
def test_any_bytes(data: bytes) -> None:
    try:
        policy = parse_policy(data, "1", 0)
    except ValueError:
        return
    assert policy.mode in ("enforce", "testing", "none")
    assert all(re.fullmatch(r"(\*\.)?[a-z0-9_.-]+", pattern) for pattern in policy.patterns)


def test_the_store(tmp_path: Path) -> None:
    maillog, lines = log()
    store = PolicyStore(str(tmp_path / "sts"), maillog)
    assert store.load("example.com") is None
    policy = parse_policy(TEXT, "1", 5.0)
    store.keep("example.com", policy)
    assert store.load("example.com") == policy
    for text in ("{", "[]", '{"mode": "odd"}', "\xff"):
        (tmp_path / "sts" / "bad.example.json").write_text(text)
        assert store.load("bad.example") is None
    assert len(lines) == 4
    blocked = PolicyStore(str(tmp_path / "sts" / "example.com.json"), maillog)
    blocked.keep("example.com", policy)
    assert "MTA-STS: cannot write" in texts(lines)[-1]


class World:
    """A domain's DNS and web server, and the time."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.record: list[bytes] | DnsStatus = [b"v=STSv1; id=1"]
        self.body: bytes | int | str = TEXT
        self.fetched = 0
        self.directory = directory
        self.log, self.lines = log()

    async def txt(self, name: str) -> list[bytes]:
        if isinstance(self.record, DnsStatus):
            raise DnsError(self.record, "no answer")
        return self.record

    async def get(self, url: str, accept: str) -> HttpAnswer:
        assert (url, accept) == ("https://mta-sts.example.com/.well-known/mta-sts.txt", "text/plain")
        self.fetched += 1
        if isinstance(self.body, str):
            raise HttpError(self.body)
        if isinstance(self.body, int):
            return HttpAnswer("there", self.body, b"")
        return HttpAnswer(
            "there", 200, self.body, "text/html" if self.body.startswith(b"<") else "text/plain"
        )

    def sts(self) -> MtaSts:
        """As after a start."""
        store = PolicyStore(str(self.directory), self.log)
        return MtaSts(self, self, store, self.log, lambda: self.now)  # type: ignore[arg-type]


def mode(sts: MtaSts) -> str:
    policy = run(sts.policy("Example.COM."))
    return "" if policy is None else str(policy.mode)


def test_when_a_policy_is_fetched(tmp_path: Path) -> None:
    world = World(tmp_path)
    sts = world.sts()
    assert [mode(sts), mode(sts), world.fetched] == ["enforce", "enforce", 1]
    assert mode(world.sts()) == "enforce"  # from disk
    assert world.fetched == 1
    world.record, world.body = [b"v=STSv1; id=2"], TEXT.replace(b"enforce", b"testing")
    assert [mode(sts), world.fetched] == ["testing", 2]
    world.now += mta_sts.REFRESH + 1
    assert [mode(sts), world.fetched] == ["testing", 3]


@pytest.mark.parametrize("gone", [DnsStatus.NOT_FOUND, DnsStatus.RETRY, []])
def test_who_suppresses_answers_does_not_make_us_forget(tmp_path: Path, gone: Any) -> None:
    world = World(tmp_path)
    sts = world.sts()
    assert mode(sts) == "enforce"
    world.record, world.body = gone, "cannot ask"
    world.now += 604000
    assert [mode(sts), mode(world.sts())] == ["enforce", "enforce"]
    world.now += 1000
    assert [mode(sts), mode(world.sts())] == ["", ""]


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (404, "sts-policy-fetch-error"),
        (301, "sts-policy-fetch-error"),
        ("cannot ask x: Connection refused", "sts-policy-fetch-error"),
        ("cannot ask x: TLS: certificate verify failed", "sts-webpki-invalid"),
        (b"nonsense", "sts-policy-invalid"),
        (b"<pre>\n" + TEXT, "sts-policy-invalid"),
    ],
)
def test_a_failure_is_no_policy_and_not_tried_again_at_once(tmp_path: Path, body: Any, failure: str) -> None:
    world = World(tmp_path)
    world.body = body
    sts = world.sts()
    assert [mode(sts), mode(sts), world.fetched] == ["", "", 1]
    assert sts.failure("example.com") == failure
    assert len(world.lines) == 1
    world.now += mta_sts.PATIENCE + 1
    world.body = TEXT
    assert [mode(sts), world.fetched] == ["enforce", 2]
    assert sts.failure("example.com") == ""
    # a fetch that fails leaves what there is
    world.record, world.body = [b"v=STSv1; id=3"], body
    assert [mode(sts), sts.failure("example.com")] == ["enforce", ""]


def test_who_has_no_record_any_more_has_no_failure_to_report(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.body = 404
    sts = world.sts()
    assert [mode(sts), sts.failure("example.com")] == ["", "sts-policy-fetch-error"]
    world.record = DnsStatus.NOT_FOUND
    assert [mode(sts), sts.failure("example.com")] == ["", ""]
