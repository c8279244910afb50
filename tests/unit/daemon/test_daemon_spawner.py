"""What master.cf says of commands that are run for those who connect."""

from __future__ import annotations

import os
import pwd

import pytest

from mtad.config.master_cf import parse_service
from mtad.config.parameters import Parameters
from mtad.daemon.paths import Owner
from mtad.daemon.spawner import Command, read_command, spawns

OWNER = Owner("mail", 8, 8)
ME = pwd.getpwuid(os.geteuid()) if os.geteuid() else pwd.getpwnam("nobody")


def read(arguments: str, fields: str = "unix - n n - 7", **settings: str) -> Command:
    service = parse_service(f"policy {fields} spawn {arguments}")
    p = Parameters.from_mapping({"queue_directory": "/q", **settings})
    return read_command(p.for_service(service), service, OWNER)


def test_all_of_it() -> None:
    command = read(f"user={ME.pw_name} argv=/bin/x -a {{ b c }} d", policy_time_limit="1h")
    assert command == Command(
        "policy", "/q/private/policy", ME.pw_uid, ME.pw_gid, ("/bin/x", "-a", "b c", "d"), 3600, 7
    )


def test_defaults() -> None:
    command = read(f"USER={ME.pw_name}: ARGV=x", "unix n n n - -", default_process_limit="5")
    assert (command.path, command.time_limit, command.limit) == ("/q/public/policy", 1000, 5)
    assert read(f"user={ME.pw_name} argv=x", "unix - n n - 0").limit == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("argv=/bin/x", "missing user= attribute"),
        (f"user={ME.pw_name}", "missing argv= attribute"),
        (f"user={ME.pw_name} argv=", "missing argv= attribute"),
        (f"user={ME.pw_name} flags=x argv=y", "unknown attribute name: flags=x"),
        ("user=no-such-user argv=x", "unknown user name: no-such-user"),
        (f"user={ME.pw_name}:no-such-group argv=x", "unknown group name: no-such-group"),
    ],
)
def test_mistakes(arguments: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(arguments)
    assert str(caught.value) == problem


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize(
    ("user", "problem"),
    [
        ("root", "request to deliver as root"),
        ("mail", "request to deliver as mail system owner"),
        ("nobody:root", "request to use privileged group id 0"),
        ("nobody:mail", "request to use mail system owner group id 8"),
    ],
)
def test_users_that_may_not(user: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(f"user={user} argv=/bin/x")
    assert str(caught.value) == problem


def test_which_services() -> None:
    lines = [
        "a unix - n n - 0 spawn",
        "b unix - n n - 0 pipe",
        "25 inet n n n - 0 spawn",
        "d unix - n n - 0 /x/spawn",
    ]
    assert [each.name for each in spawns([parse_service(line) for line in lines])] == ["a", "d"]
