"""The parts of ``mtad postconf`` that change main.cf and master.cf: -e, -X and -#, alone or with -M, -F, -P.

:func:`edit` gives warnings back; it raises :class:`~mtad.cli.postconf_options.UsageError` for a request
that means nothing, :class:`~mtad.config.edit_master.BadEdit` for one that cannot be carried out, and
ConfigError for files.  Postfix counterpart: ``postconf_edit.c``.
"""

from __future__ import annotations

from mtad.cli.postconf_options import Request, UsageError
from mtad.cli.postconf_services import service_pattern
from mtad.config import edit as files
from mtad.config import edit_master
from mtad.config.lines import SPACE, WORD_SEPARATORS, split_assignment
from mtad.config.master_cf import FIELDS

_HOW = {"-e": files.SET, "-X": files.REMOVE, "-#": files.COMMENT_OUT}
_USAGE = {
    edit_master.ENTRY: "-Me, -MX or -M# requires service_name/type",
    edit_master.FIELD: "-Fe or -FX requires service_name/type/field_name",
    edit_master.PARAMETER: "-Pe or -PX requires service_name/type/parameter",
}


def edit(request: Request) -> list[str]:
    """Carry out the request."""
    how = next(_HOW[flag] for flag in _HOW if flag in request.flags)
    what = next((flag for flag in _USAGE if flag in request.flags), "")
    if not what:
        return _main(request, how)
    changes = [_change(text, how, what) for text in request.names]
    return edit_master.edit_master(f"{request.directory}/master.cf", changes, how, what)


def _plain(text: str, options: str) -> str:
    if "\n" in text:
        raise UsageError(f"{options} no multi-line input")
    text = text.lstrip(SPACE)
    if text.startswith("#"):
        raise UsageError(f"{options} no comment input")
    return text


def _assignment(text: str) -> tuple[str, str]:
    try:
        return split_assignment(text)
    except ValueError as error:
        raise UsageError(f'{error}: "{text}"') from error


def _main(request: Request, how: str) -> list[str]:
    changes: dict[str, str] = {}
    warnings: list[str] = []
    for word in request.names:
        text = _plain(word, "-e, -X, or -# accepts")
        name, value = text.strip(SPACE), ""
        if how == files.SET:
            name, value = _assignment(text)
        elif not text:
            raise UsageError("-X or -# requires non-blank parameter names")
        elif "=" in text:
            raise UsageError("-X or -# requires parameter names without value")
        if how == files.SET and changes.get(name, value) != value:
            warnings.append(f"ignoring earlier request: '{name} = {changes[name]}'")
        changes[name] = value
    return warnings + files.edit_main(f"{request.directory}/main.cf", changes, how)


def _change(word: str, how: str, what: str) -> edit_master.Request:
    """One argument of a change to master.cf."""
    text = _plain(word, "-Me, -Fe, -Pe, -X, or -# accept")
    pattern, value = text.strip(SPACE), ""
    if how == files.SET:
        pattern, value = _assignment(text)
    elif "=" in text:
        raise UsageError("-X or -# requires names without value")
    parts = 2 if what == edit_master.ENTRY else 3
    name, kind, third = service_pattern(pattern, parts, parts, _USAGE[what])
    blank = any(char in WORD_SEPARATORS for char in value)
    if what == edit_master.FIELD:
        if third not in (*FIELDS, "*"):
            raise UsageError(f'invalid service attribute name: "{third}"')
        if third == "*":
            raise UsageError("-Fe does not accept wild-card field name")
        if blank and third != FIELDS[-1]:
            raise UsageError("-Fe does not accept whitespace in non-command field")
    elif what == edit_master.PARAMETER:
        if third == "*":
            raise UsageError("-Pe does not accept wild-card parameter name")
        if blank:
            raise UsageError("-Pe does not accept whitespace in parameter value")
    return edit_master.Request(word, name, kind, third, value)
