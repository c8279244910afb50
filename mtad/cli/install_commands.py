"""``mtad install-commands``: lay ``mtad`` and the commands of Postfix as links to mtad.

``mtad install-commands --prefix DIR [--force] [--remove] [-c DIR]`` makes links below DIR, in ``sbin`` and
``bin`` as Postfix has them.  What is there already and is no link to us is left alone, and said, unless
``--force`` is given: then it is kept beside as ``NAME.before-mtad``.  ``--remove`` takes the links away and
puts back what was kept.

So that every user may submit mail, the maildrop must let them: where Postfix's set-gid postdrop(1) is
installed, it goes on to do that, and nothing is changed; else the maildrop gets mode 1733: everybody may
leave a file there, nobody may list it, or touch the file of another.  With ``--group`` it gets mode 1730
instead: members of ``setgid_group`` alone may submit.

Postfix counterpart: ``post-install``, ``postfix-files``.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress

from mtad.cli.directory import load_parameters
from mtad.config.parameters import Parameters
from mtad.daemon.paths import make_directories, owner
from mtad.errors import MtadError

#: Where each command is, below the prefix.
COMMANDS = {
    "mailq": "bin", "newaliases": "bin", "sendmail": "sbin", "postfix": "sbin", "postqueue": "sbin",
    "postsuper": "sbin", "postcat": "sbin", "postmap": "sbin", "postalias": "sbin", "postconf": "sbin",
    "postlog": "sbin", "qshape": "sbin", "mtad": "sbin",
}  # fmt: skip
_KEPT = ".before-mtad"


def main(argv: Sequence[str]) -> int:
    """Run with the arguments behind the command's name; the exit status."""
    parser = argparse.ArgumentParser(
        prog="mtad install-commands", description="Lay links with Postfix's names."
    )
    parser.add_argument("--prefix", required=True, metavar="DIR", help="for example /usr or /usr/local")
    parser.add_argument(
        "--force", action="store_true", help="also in the place of other programs, which are kept"
    )
    parser.add_argument("--remove", action="store_true", help="take the links away again")
    parser.add_argument("--group", action="store_true", help="only setgid_group may submit mail")
    parser.add_argument("-c", dest="directory", metavar="DIR", help="the configuration")
    chosen = parser.parse_args(list(argv))
    try:
        if chosen.remove:
            return _remove(chosen.prefix)
        left = _install(chosen.prefix, _program(), chosen.force)
        _open_maildrop(load_parameters(chosen.directory), chosen.group)
    except (MtadError, OSError) as error:
        sys.stderr.write(f"mtad install-commands: fatal: {error}\n")
        return 1
    return 1 if left else 0


def _program() -> str:
    """The file that is run as mtad."""
    beside = os.path.join(os.path.dirname(sys.executable), "mtad")
    return beside if os.path.exists(beside) else os.path.abspath(sys.argv[0])


def _install(prefix: str, program: str, force: bool) -> int:
    """Lay the links; how many could not be."""
    left = 0
    for name, part in COMMANDS.items():
        path = os.path.join(prefix, part, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.lexists(path) and not _is_ours(path):
            if not force:
                print(f"{path}: left alone: it is not mtad's (--force: keep it as {name}{_KEPT})")
                left += 1
                continue
            os.rename(path, path + _KEPT)
        with suppress(FileNotFoundError):
            os.unlink(f"{path}.new")
        os.symlink(program, f"{path}.new")
        os.rename(f"{path}.new", path)  # the command is never missing
        print(f"{path} -> {program}")
    return left


def _is_ours(path: str) -> bool:
    return os.path.islink(path) and os.path.basename(os.readlink(path)) == "mtad"


def _remove(prefix: str) -> int:
    for name, part in COMMANDS.items():
        path = os.path.join(prefix, part, name)
        if _is_ours(path):
            os.unlink(path)
            print(f"{path}: removed")
            if os.path.lexists(path + _KEPT):
                os.rename(path + _KEPT, path)
                print(f"{path}: put back")
    return 0


def _open_maildrop(p: Parameters, group: bool) -> None:
    """Let users submit mail, and say how they may."""
    found = make_directories(p, owner(p))
    postdrop = os.path.join(p["command_directory"], "postdrop")
    try:
        by_postdrop = bool(os.stat(postdrop).st_mode & stat.S_ISGID)
    except OSError:
        by_postdrop = False
    if by_postdrop and not group:
        print(f"{found.maildrop}: users submit mail through {postdrop}, which is set-gid")
        return
    os.chmod(found.maildrop, 0o1730 if group else 0o1733)
    who = f"the group {p['setgid_group']}" if group else "everybody"
    print(f"{found.maildrop}: {who} may submit mail (authorized_submit_users says more)")
