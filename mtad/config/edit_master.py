"""Editing master.cf in place: entries, fields and ``-o`` settings; everything else left as it stands.

Comments stay in their order; an entry that is changed is written anew, folded, and the comments between its
lines go before it.  :func:`entry` reads an entry as ``postconf(1)`` does, which is more tolerant than the
master; :func:`edit_master` changes the file and gives warnings back.  :class:`BadEdit` is a request or entry
that cannot be worked with, in Postfix's words; ConfigError a file that cannot be read or written.

Postfix counterpart: ``pcf_edit_master()``, ``pcf_parse_master_entry()``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtad.config.edit import COMMENT_OUT, REMOVE, SET
from mtad.config.edit_file import rewrite
from mtad.config.lines import SPACE, WORD_SEPARATORS, cut, logical_lines, read_text, tokens
from mtad.config.master_cf import FIELDS, Service, bad_field, make_service
from mtad.config.master_text import entry_lines

#: What is changed: a whole entry, a field, a ``-o`` setting.
ENTRY, FIELD, PARAMETER = "-M", "-F", "-P"

_OPTIONS = "-Me, -Fe, -Pe, -X, or -#"


class BadEdit(ValueError):
    """What cannot be done, and why."""


@dataclass(slots=True)
class Request:
    """``name/type[/what]`` and its new value; ``text`` is how it was written."""

    text: str
    name: str
    type: str
    what: str = ""
    value: str = ""
    matches: int = 0

    def matching(self, name: str, kind: str) -> bool:
        """Whether the request is about the entry of that name and type."""
        return self.name in ("*", name) and self.type in ("*", kind)


def entry(text: str, line: int = 0, warnings: list[str] | None = None) -> Service:
    """One logical line of master.cf."""
    fields = tokens(text, WORD_SEPARATORS)
    if len(fields) < len(FIELDS):
        raise BadEdit("bad field count")
    return _checked(fields, text, line, warnings)


def _checked(fields: list[str], text: str, line: int, warnings: list[str] | None) -> Service:
    bad = bad_field(fields)
    if bad:
        shown = text.replace("\n", " ")
        raise BadEdit(f'invalid {bad} field "{fields[FIELDS.index(bad)]}" in "{shown}"')
    odd: list[str] = []
    service = make_service(fields, line, odd)
    if warnings is not None:
        warnings += [f"master.cf: {what}" for what in odd]
    return service


def read_tolerantly(path: str, warnings: list[str]) -> list[Service]:
    """All entries of the file, as ``postconf(1)`` reads them."""
    found = []
    for number, line in logical_lines(read_text(path), path, warnings):
        try:
            found.append(entry(line, number, warnings))
        except BadEdit as problem:
            if str(problem) == "bad field count":
                raise BadEdit(f"file {path}: line {number}: {problem}") from problem
            raise
    return found


def edit_master(path: str, requests: Sequence[Request], how: str, what: str) -> list[str]:
    """Carry out the requests on the file at ``path``; warnings come back."""
    editor = _Editor(path, requests, how, what)
    rewrite(path, editor.edited)
    return editor.warnings


class _Editor:
    """One pass over the file."""

    def __init__(self, path: str, requests: Sequence[Request], how: str, what: str) -> None:
        self.path = path
        self.requests = requests
        self.how = how
        self.what = what
        self.warnings: list[str] = []
        self._lines: list[str] = []
        self._result: list[str] = []

    def edited(self, text: str) -> str:
        """``text`` of a master.cf after the change."""
        self._lines = text.removesuffix("\n").split("\n") if text else []
        self._result = []
        hidden = False
        position = 0
        while position < len(self._lines):
            line = self._lines[position]
            position += 1
            if _is_comment(line):
                self._result.append(line)
            elif line[0] in SPACE:
                if not hidden:
                    self._result.append(line)
                elif self.how == COMMENT_OUT:
                    self._result.append(f"#{line}")
            else:
                hidden, position = self._entry(line, position)
        for request in self.requests:
            if not request.matches:
                self._unmatched(request)
        return "".join(f"{line}\n" for line in self._result)

    def _unmatched(self, request: Request) -> None:
        if self.what != ENTRY:
            self.warnings.append(f'unmatched service_name/type: "{request.text}"')
        elif self.how == SET:
            self._write(self._given(request))

    def _given(self, request: Request) -> Service:
        """The entry that a request gives."""
        try:
            return entry(request.value, 0, self.warnings)
        except BadEdit as problem:
            if str(problem) == "bad field count":
                raise BadEdit(f'{problem}: "{request.text}"') from problem
            raise

    def _write(self, service: Service) -> None:
        self._result.append(entry_lines(service, True, exact=True))

    def _entry(self, line: str, position: int) -> tuple[bool, int]:
        """The first line of an entry.  Whether the rest of it goes, and where to read on."""
        name, kind = self._name(line, position)
        matching = [request for request in self.requests if request.matching(name, kind)]
        new: Service | None = None
        if self.what == ENTRY and self.how == SET:
            hit = False
            for request in self.requests:
                given = self._given(request)
                if request in matching or (given.name, given.type) == (name, kind):
                    hit = True
                    request.matches += 1
                    new = given if request.matches == 1 else new
            if hit:
                if new is not None:
                    self._write(new)
                return True, position
            self._result.append(line)
            return False, position
        for request in matching:
            request.matches += 1
        if matching and self.what != ENTRY and self.how != COMMENT_OUT:
            text, position = self._gobble(line, position)
            try:
                new = entry(text, 0, self.warnings)
            except BadEdit as problem:
                if str(problem) == "bad field count":
                    raise BadEdit(f"file {self.path}: line {position}: {problem}") from problem
                raise
            for request in matching:
                new = self._changed(new, request)
            self._write(new)
        elif not matching:
            self._result.append(line)
        elif self.how == COMMENT_OUT:
            self._result.append(f"#{line}")
        return bool(matching), position

    def _name(self, line: str, number: int) -> tuple[str, str]:
        words = cut(line, WORD_SEPARATORS)
        where = f"file {self.path}: line {number}: "
        if len(words) < 2:
            raise BadEdit(f"{where}specify service name and type on the same line")
        name, kind = words[:2]
        if "=" in name:
            raise BadEdit(f'{where}service name syntax "{name}" is unsupported with {_OPTIONS}')
        if "=" in kind or "/" in kind:
            raise BadEdit(f'{where}service type syntax "{kind}" is unsupported with {_OPTIONS}')
        return name, kind

    def _gobble(self, line: str, position: int) -> tuple[str, int]:
        """The whole entry; comments between its lines are kept, before it."""
        comments: list[str] = []
        ahead = position
        while ahead < len(self._lines):
            following = self._lines[ahead]
            ahead += 1
            if _is_comment(following):
                comments.append(following)
            elif following[0] in SPACE:
                line += f"\n{following}"
                self._result += comments
                comments = []
                position = ahead
            else:
                break
        return line, position

    def _changed(self, service: Service, request: Request) -> Service:
        fields = list(service.fields)
        if self.what == FIELD:
            index = FIELDS.index(request.what)
            if index == len(FIELDS) - 1:
                fields[index:] = tokens(request.value, WORD_SEPARATORS)
                if len(fields) < len(FIELDS):
                    raise BadEdit(f'bad field count: "{request.text}"')
            else:
                fields = [*_quoted(fields[:index]), request.value, *_quoted(fields[index + 1 :])]
            return _checked(fields, request.value, 0, self.warnings)
        return make_service(_quoted(_with_setting(fields, request, self.how)), 0, [])


def _is_comment(line: str) -> bool:
    return line.lstrip(SPACE)[:1] in ("", "#")


def _quoted(fields: list[str]) -> list[str]:
    """Arguments with braces where they have blanks, as they are split again."""
    return [f"{{{word}}}" if any(char in WORD_SEPARATORS for char in word) else word for word in fields]


def _with_setting(fields: list[str], request: Request, how: str) -> list[str]:
    """The fields with one ``-o`` setting changed, added or removed."""
    start = f"{request.what}="
    done, rest = fields[: len(FIELDS)], fields[len(FIELDS) :]
    found = False
    while rest and rest[0].startswith("-") and rest[0] != "--":
        option = rest.pop(0)
        if option != "-o" or not rest:
            done.append(option)
            continue
        setting = rest.pop(0)
        if setting.startswith(start):
            found = True
            if how == REMOVE:
                continue
            setting = start + request.value
        done += [option, setting]
    if how == SET and not found:
        done += ["-o", start + request.value]
    return done + rest
