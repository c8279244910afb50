"""Local names: what they stand for, who may have mail written, and the process that writes it."""

from __future__ import annotations

import io
import json
import os
import pwd
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from delivery_world import finish

from mtad.config.parameters import Parameters
from mtad.daemon import mailman
from mtad.daemon.mailman import Refused, Rules, serve, write_maildir
from mtad.deliver.expansion import Aliases, Expansion, NotExpanded
from mtad.deliver.route import Route
from mtad.errors import TableError
from mtad.maillog import ListSink, MailLog

TABLE = """
one: alice
two: alice, bob@far.test
deep: two, "quoted name"@far.test, Carol <carol@far.test> (a comment)
self: self, bob@far.test
ring: rong
rong: ring
list: alice, bob@far.test
owner-list: boss@far.test, deputy@far.test
command: "|/bin/true arg, with comma"
file: /var/mail/x
included: :include:{dir}/members
lost: :include:{dir}/nothing
nested: :include:{dir}/nesting
included-command: :include:{dir}/commands
included-file: :include:{dir}/files
anybody: :include:{dir}/open
nobody-in-it: :include:{dir}/nobody
relative: :include:members
escaped: \\\\one
empty: ,
home: ~/x
odd: "a@b"@x..y
inner: carol, dave@far.test
owner-inner: ida@far.test
outer: bob@far.test, inner, alice
owner-outer: otto@far.test
around: inner, bob@far.test
plain: one, bob@far.test
"""


@pytest.fixture
def aliases(tmp_path: Path) -> Aliases:
    (tmp_path / "members").write_text("# a list\nalice\n\nbob@far.test, carol@far.test\n")
    (tmp_path / "nesting").write_text(f":include:{tmp_path}/members\n:include:{tmp_path}/nesting\nerin\n")
    (tmp_path / "commands").write_text("|/bin/true\n")
    (tmp_path / "files").write_text("/var/mail/x\n")
    (tmp_path / "open").write_text("alice\n")
    (tmp_path / "open").chmod(0o666)
    (tmp_path / "nobody").write_text("# nobody\n\n")
    entries = [line.partition(": ") for line in TABLE.format(dir=tmp_path).strip().splitlines()]
    (tmp_path / "aliases").write_text("".join(f"{name} {value}\n" for name, _, value in entries))
    return make(f"{tmp_path}/aliases")


def make(path: str, **settings: str) -> Aliases:
    p = Parameters.from_mapping(
        {
            "alias_maps": f"texthash:{path}",
            "myorigin": "here.test",
            "recipient_delimiter": "+",
            "compatibility_level": "3.6",
            **settings,
        }
    )

    async def resolve(address: bytes) -> Route:
        if address.endswith(b"@x..y"):
            return Route("error", "5.1.3 bad address syntax")
        if address.endswith(b"@fails.test"):
            raise TableError("no table")
        return Route("local" if address.endswith(b"@here.test") else "smtp", "x")

    async def pause() -> None:
        pass

    return Aliases(p, "local", resolve, pause, MailLog(ListSink(), "postfix/local"))


def expand(aliases: Aliases, name: str) -> Expansion:
    found: Expansion = finish(aliases.expand(f"{name}@here.test".encode()))
    return found


def shown(found: Expansion) -> dict[str, list[str]]:
    """Who gets which copy: ``user`` those that are delivered here, else the owner, or ``-``."""
    return {
        f"{(copy.sender or b'-').decode()}{' user' if copy.direct else ''}": [
            each.decode() for each in people
        ]
        for copy, people in found.copies.items()
    }


ALICE, BOB, CAROL = "alice@here.test", "bob@far.test", "carol@far.test"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("nobody", {"- user": ["nobody@here.test"]}),
        ("one", {"- user": [ALICE]}),
        ("ONE", {"- user": [ALICE]}),
        ("one+box", {"- user": [ALICE]}),
        ("nobody+box", {"- user": ["nobody+box@here.test"]}),
        ("two", {"- user": [ALICE], "-": [BOB]}),
        ("deep", {"- user": [ALICE], "-": [BOB, "quoted name@far.test", CAROL]}),
        ("self", {"- user": ["self@here.test"], "-": [BOB]}),
        ("included", {"-": [ALICE, BOB, CAROL]}),
        ("nested", {"-": [ALICE, BOB, CAROL, "erin@here.test"]}),
        ("nobody-in-it", {}),
        ("escaped", {"- user": ["one@here.test"]}),
        ("plain", {"- user": [ALICE], "-": [BOB]}),
        ("list", {"owner-list@here.test": [ALICE, BOB]}),
        ("around", {"owner-inner@here.test": ["carol@here.test", "dave@far.test"], "-": [BOB]}),
        (
            "outer",
            {
                "owner-outer@here.test": [BOB, ALICE],
                "owner-inner@here.test": ["carol@here.test", "dave@far.test"],
            },
        ),
    ],
)
def test_expansion(aliases: Aliases, name: str, wanted: dict[str, list[str]]) -> None:
    found = expand(aliases, name)
    assert shown(found) == wanted
    assert found.aliased == (not name.startswith("nobody") or name == "nobody-in-it")
    assert found.owned == (name in ("list", "outer"))


def test_owners_and_extensions(tmp_path: Path, aliases: Aliases) -> None:
    path = f"{tmp_path}/aliases"
    assert shown(expand(make(path, expand_owner_alias="yes"), "list")) == {"boss@far.test": [ALICE, BOB]}
    assert shown(expand(make(path, owner_request_special="no"), "list")) == {"- user": [ALICE], "-": [BOB]}
    (tmp_path / "more").write_text(
        "lists plain\nowner-lists o@far.test\nplain one\none alice\nto bob@far.test\n"
    )
    more = f"{tmp_path}/more"
    assert shown(expand(make(more), "lists")) == {"owner-lists@here.test": [ALICE]}
    found = expand(make(more, reset_owner_alias="yes"), "lists")
    assert shown(found) == {"owner-lists@here.test user": [ALICE]} and found.user is None
    (copy,) = expand(make(more), "to").copies
    assert copy.delivered == b"to@here.test"
    past = make(more, propagate_unmatched_extensions="alias")
    assert shown(expand(past, "to+box")) == {"-": ["bob+box@far.test"]}
    assert shown(expand(past, "one+box")) == {"- user": ["alice+box@here.test"]}


def test_delivered_to_may_follow(tmp_path: Path, aliases: Aliases) -> None:
    found = expand(make(f"{tmp_path}/aliases", frozen_delivered_to="no"), "deep")
    assert {copy.delivered: people for copy, people in found.copies.items() if not copy.direct} == {
        b"two@here.test": [BOB.encode()],
        b"deep@here.test": [b"quoted name@far.test", CAROL.encode()],
    }


@pytest.mark.parametrize(
    ("name", "dsn", "text"),
    [
        ("command", "4.3.0", "delivery to commands is not available in mtad"),
        ("file", "4.3.0", "delivery to files is not available in mtad"),
        ("included-command", "5.7.1", "mail to command is restricted"),
        ("included-file", "5.7.1", "mail to file is restricted"),
        ("lost", "5.3.5", "mail system configuration error"),
        ("anybody", "5.3.5", "mail system configuration error"),
        ("relative", "5.3.5", "mail system configuration error"),
        ("home", "5.3.5", "mail system configuration error"),
        ("ring", "5.4.6", "recipient nesting limit exceeded"),
        ("empty", "4.3.0", "alias database unavailable"),
        ("odd", "5.1.3", "bad recipient address syntax: a@b@x..y"),
    ],
)
def test_what_leads_nowhere(aliases: Aliases, name: str, dsn: str, text: str) -> None:
    if dsn[0] == "4":
        with pytest.raises(NotExpanded) as caught:
            expand(aliases, name)
        error = caught.value
    else:
        found = expand(aliases, name)
        ((_, _, error),) = found.failed
        assert not found.copies
    assert (error.dsn, error.text) == (dsn, text)


def test_what_fails_does_not_stop_the_others(tmp_path: Path, aliases: Aliases) -> None:
    (tmp_path / "mixed").write_text(
        "some x@x..y, lost, alice\nlost :include:/nowhere\nowner-lost boss@far.test\n"
    )
    found = expand(make(f"{tmp_path}/mixed"), "some")
    assert shown(found) == {"- user": [ALICE]} and found.user is None
    assert [(copy.sender, address, error.dsn) for copy, address, error in found.failed] == [
        (None, b"some@here.test", "5.1.3"),
        (b"owner-lost@here.test", b"lost@here.test", "5.3.5"),
    ]


# -- the process that writes


def rules(**changes: Any) -> Rules:
    values = {
        "home_mailbox": "Maildir/",
        "virtual_base": "",
        "virtual_minimum_uid": 100,
        "client": os.getuid(),
    }
    return Rules(**{**values, **changes})


def ask(request: object, body: bytes = b"", **changes: Any) -> dict[str, Any]:
    """What the process answers; it is run in a thread, and so becomes nobody."""
    ours, its = socket.socketpair()
    with ours, its:
        head = request if isinstance(request, bytes) else json.dumps(request).encode()
        thread = threading.Thread(target=_serve, args=(its, rules(**changes)))
        thread.start()
        ours.sendall(head + b"\n" + body)
        ours.shutdown(socket.SHUT_WR)
        thread.join(10)
        found: dict[str, Any] = json.loads(ours.recv(65536))
    return found


def _serve(connection: socket.socket, rules: Rules) -> None:
    serve(connection, rules, alone=False)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (b"", "malformed request"),
        (b"[]", "malformed request"),
        ({"user": "root"}, "malformed request"),
        ({"user": "no-such-user", "name": "1.Q", "size": 0}, 'unknown user: "no-such-user"'),
        ({"user": "a\0b", "name": "1.Q", "size": 0}, "unknown user"),
        ({"user": "root", "name": "../x", "size": 0}, "malformed request"),
        ({"user": "root", "name": "a/b", "size": 0}, "malformed request"),
        ({"user": "root", "name": "x", "size": -1}, "malformed request"),
        ({"path": "a/../../b/", "uid": 1000, "gid": 1000, "name": "x", "size": 0}, "configuration error"),
        ({"path": "a", "uid": 1000, "gid": 1000, "name": "x", "size": 0}, "configuration error"),
        ({"path": "a/", "uid": 0, "gid": 1000, "name": "x", "size": 0}, "configuration error"),
        ({"path": "a/", "uid": 99, "gid": 1000, "name": "x", "size": 0}, "configuration error"),
    ],
)
def test_requests_that_are_refused(request_: object, says: str) -> None:
    assert says in ask(request_, virtual_base="/nonexistent")["text"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to see it refused")
def test_nothing_is_written_as_root() -> None:
    assert "no mail is written as root" in ask({"user": "root", "name": "x", "size": 0})["text"]


@pytest.mark.parametrize("required", [True, False])
def test_a_home_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, required: bool) -> None:
    """``require_home_directory``; else directories are made on the way, as by Postfix."""
    home = f"{tmp_path}/home"
    entry = pwd.struct_passwd(("me", "x", os.getuid() or 65534, os.getgid(), "", home, ""))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: entry)
    monkeypatch.setattr(os, "umask", lambda mask: mask)  # that child is a thread here
    monkeypatch.setattr(mailman, "_become", lambda uid, gid, name: None)
    found = ask({"user": "me", "name": "1.Q", "size": 2}, b"x\n", require_home=required)
    if required:
        text = f"cannot access home directory {home}: No such file or directory"
        assert found == {"dsn": "4.3.0", "text": text, "unknown": False}
    else:
        assert found == {"ok": True} and os.listdir(f"{home}/Maildir/new") == ["1.Q"]


def test_only_the_mail_system_may_ask() -> None:
    if os.geteuid() == 0:
        pytest.skip("root may always ask")
    assert ask({"user": "x", "name": "x", "size": 0}, client=os.getuid() + 1)["text"] == "not permitted"


def test_a_maildir_is_made_and_the_same_mail_is_there_once(tmp_path: Path) -> None:
    for _ in range(2):
        write_maildir(f"{tmp_path}/Maildir/", "1.QABC", io.BytesIO(b"hello"), 5)
    assert [path.name for path in (tmp_path / "Maildir" / "new").iterdir()] == ["1.QABC"]
    assert (tmp_path / "Maildir" / "new" / "1.QABC").read_bytes() == b"hello"
    assert list((tmp_path / "Maildir" / "tmp").iterdir()) == []


def test_a_mail_that_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cut off"):
        write_maildir(f"{tmp_path}/Maildir/", "1.QABC", io.BytesIO(b"hel"), 5)
    assert list((tmp_path / "Maildir" / "new").iterdir()) == []
    assert list((tmp_path / "Maildir" / "tmp").iterdir()) == []
