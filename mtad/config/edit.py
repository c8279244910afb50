"""Editing main.cf in place: set, remove or comment out parameters, everything else left as it stands.

Comments inside a changed entry stay; its continuation lines go.  How the file is replaced is the matter of
:mod:`mtad.config.edit_file`.  Raises ConfigError when a file cannot be read or written.

Postfix counterpart: ``pcf_edit_main()``.
"""

from __future__ import annotations

from collections.abc import Mapping

from mtad.config.edit_file import rewrite
from mtad.config.lines import SPACE

SET, REMOVE, COMMENT_OUT = "set", "remove", "comment out"


def edit_main(path: str, changes: Mapping[str, str], how: str) -> list[str]:
    """Change the parameters named in ``changes`` in the file at ``path``; warnings come back."""
    warnings: list[str] = []
    rewrite(path, lambda text: edited(text, changes, how, path, warnings))
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
