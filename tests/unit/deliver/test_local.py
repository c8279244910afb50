"""Local names: what they stand for, who may have mail written, and the process that writes it."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from delivery_world import finish

from mtad.config.parameters import Parameters
from mtad.daemon.mailman import Refused, Rules, serve, write_maildir
from mtad.deliver.expansion import Aliases, Expansion, NotExpanded
from mtad.maillog import ListSink, MailLog
from mtad.tables.aliases import alias_targets

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
escaped: \\\\one
empty: ,
"""


@pytest.fixture
def aliases(tmp_path: Path) -> Aliases:
    (tmp_path / "members").write_text("# a list\nalice\n\nbob@far.test, carol@far.test\n")
    (tmp_path / "nesting").write_text(f":include:{tmp_path}/members\n")
    entries = [line.partition(": ") for line in TABLE.format(dir=tmp_path).strip().splitlines()]
    (tmp_path / "aliases").write_text("".join(f"{name} {value}\n" for name, _, value in entries))
    p = Parameters.from_mapping(
        {
            "alias_maps": f"texthash:{tmp_path}/aliases",
            "myorigin": "here.test",
            "recipient_delimiter": "+",
            "compatibility_level": "3.6",
        }
    )

    async def is_mine(address: bytes) -> bool:
        return address.endswith(b"@here.test")

    return Aliases(p, is_mine, MailLog(ListSink(), "postfix/local"))


def expand(aliases: Aliases, name: str) -> Expansion:
    found: Expansion = finish(aliases.expand(f"{name}@here.test".encode()))
    return found


@pytest.mark.parametrize(
    ("name", "mailboxes", "others"),
    [
        ("nobody", ["nobody"], []),
        ("one", ["alice"], []),
        ("ONE", ["alice"], []),
        ("one+box", ["alice"], []),
        ("two", ["alice"], ["bob@far.test"]),
        ("deep", ["alice"], ["bob@far.test", "quoted name@far.test", "carol@far.test"]),
        ("self", ["self"], ["bob@far.test"]),
        ("ring", ["ring"], []),
        ("included", ["alice"], ["bob@far.test", "carol@far.test"]),
    ],
)
def test_expansion(aliases: Aliases, name: str, mailboxes: list[str], others: list[str]) -> None:
    found = expand(aliases, name)
    assert found.mailboxes == [f"{user}@here.test".encode() for user in mailboxes]
    assert found.others == [address.encode() for address in others]
    assert found.aliased == (name != "nobody") and found.owner is None


def test_a_list_has_an_owner(aliases: Aliases) -> None:
    assert expand(aliases, "list").owner == b"owner-list@here.test"


@pytest.mark.parametrize(
    ("name", "dsn", "text"),
    [
        ("command", "4.3.0", "delivery to commands is not available in mtad"),
        ("file", "4.3.0", "delivery to files is not available in mtad"),
        ("lost", "4.3.5", "mail system configuration error"),
        ("nested", "5.4.6", ":include: nesting limit exceeded"),
        ("empty", "4.3.0", "alias database unavailable"),
    ],
)
def test_what_leads_nowhere(aliases: Aliases, name: str, dsn: str, text: str) -> None:
    with pytest.raises(NotExpanded) as caught:
        expand(aliases, name)
    assert (caught.value.dsn, caught.value.text) == (dsn, text)


def test_targets_of_a_line() -> None:
    assert alias_targets('a, "|prog x, y" ,/file, :include:/x,  b@c (no), D <d@e>') == [
        "a",
        "|prog x, y",
        "/file",
        ":include:/x",
        "b@c",
        "d@e",
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
