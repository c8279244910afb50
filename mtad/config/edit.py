"""Editing main.cf in place: set, remove or comment out parameters, everything else left as it stands.

The new file is written beside the old one, flushed to disk and renamed over it, with the old one's owner and
mode, so that a reader sees the old file or the new one, never half of one.  Comments inside a changed entry
stay; its continuation lines go.  Raises ConfigError when a file cannot be read or written.

Postfix counterpart: ``postconf_edit.c``, ``edit_file(3)``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from mtad.config.lines import SPACE, read_text
from mtad.errors import ConfigError

SET, REMOVE, COMMENT_OUT = "set", "remove", "comment out"


def edit_main(path: str, changes: Mapping[str, str], how: str) -> list[str]:
    """Change the parameters named in ``changes`` in the file at ``path``; warnings come back."""
    warnings: list[str] = []
    text = edited(read_text(path), changes, how, path, warnings)
    replace_file(path, text)
    return warnings


def edited(text: str, changes: Mapping[str, str], how: str, path: str, warnings: list[str]) -> str:
    """``text`` of a main.cf after the change."""
    result: list[str] = []
    found: dict[str, int] = {}
    inside = False
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    for line in lines:
        content = line.lstrip(SPACE)
        if not content or content[0] == "#":
            result.append(line)
            continue
        if line[0] not in SPACE:
            name = _name(line)
            inside = name in changes
            if inside:
                found[name] = found.get(name, 0) + 1
                if found[name] == 2:
                    warnings.append(f'{path}: multiple entries for "{name}"')
                if how == SET:
                    result.append(f"{name} = {changes[name]}")
        if not inside:
            result.append(line)
        elif how == COMMENT_OUT:
            result.append(f"#{line}")
    if how == SET:
        result += [f"{name} = {changes[name]}" for name in sorted(changes) if name not in found]
    return "".join(f"{line}\n" for line in result)


def _name(line: str) -> str:
    end = next((index for index, char in enumerate(line) if char in " \t\r\n="), len(line))
    return line[:end]


def replace_file(path: str, text: str) -> None:
    """Put ``text`` in place of the file, whole or not at all; owner and mode stay."""
    new = f"{path}.tmp"
    try:
        old = os.stat(path)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(stream.fileno(), old.st_uid, old.st_gid)
                os.fchmod(stream.fileno(), old.st_mode & 0o7777)
                stream.write(text.encode("utf-8", "surrogateescape"))
                stream.flush()
                os.fsync(stream.fileno())
            os.rename(new, path)
        except OSError:
            os.unlink(new)
            raise
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigError(
            f"cannot write the file: {error.strerror}", path=path, remedy="check the directory's permissions"
        ) from error
