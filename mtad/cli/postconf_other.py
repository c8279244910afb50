"""The parts of ``mtad postconf`` that tell what there is: SASL types, locks, tables, TLS, bounce texts.

:func:`show` gives the lines; it raises :class:`~mtad.cli.postconf_options.UsageError` for what mtad has not.
Postfix counterpart: ``postconf_other.c``, ``bounce -S``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from mtad.cli.directory import load_parameters
from mtad.cli.postconf_options import Request, UsageError

_EXPANDED, _TEMPLATE = "-b", "-t"


def show(request: Request) -> list[str] | None:
    """The lines for these options; None where they ask for something else."""
    for option, lines in _SHOWS.items():
        if option in request.flags:
            return lines(request)
    return None


def _server_types(request: Request) -> list[str]:
    from mtad.auth.setup import SERVER_TYPES

    return list(SERVER_TYPES)


def _client_types(request: Request) -> list[str]:
    return ["cyrus"]


def _locks(request: Request) -> list[str]:
    return ["flock", "fcntl", "dotlock"]


def _tables(request: Request) -> list[str]:
    from mtad.tables.registry import TYPES

    return sorted(TYPES)


def _tls(request: Request) -> list[str]:
    if request.tls in ("compile-version", "run-version"):
        from OpenSSL import SSL

        return [SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()]
    if request.tls == "public-key-algorithms":
        return ["dsa", "ecdsa", "rsa"]
    raise UsageError(f"unknown 'postconf -T' mode: {request.tls}")


def _expanded(request: Request) -> list[str]:
    return _bounces(request, _EXPANDED)


def _templates(request: Request) -> list[str]:
    return _bounces(request, _TEMPLATE)


def _bounces(request: Request, option: str) -> list[str]:
    """The texts of notifications, as they are sent (-b) or with the names of parameters (-t)."""
    from mtad.deliver.bounce_template import Templates, load_templates

    if len(request.names) > 1:
        raise UsageError("options -b and -t require at most one template file")
    p = load_parameters(request.directory if request.explicit_directory else None)
    path = request.names[0] if request.names else p["bounce_template_file"]
    templates = load_templates(path, _warn) if path else Templates()
    lines: list[str] = []
    for template in templates:
        if option == _EXPANDED:
            lines += [f"expanded_{template.name}_text = <<EOF", *template.expanded(p, _warn)]
        else:
            lines.append(f"{template.name}_template = <<EOF")
            lines += template.dump(p.choice("header_from_format") == "obsolete")
        lines += ["EOF", ""]
    return lines[:-1]


def _warn(text: str) -> None:
    sys.stderr.write(f"postconf: warning: {text}\n")


_SHOWS: dict[str, Callable[[Request], list[str]]] = {
    "-m": _tables,
    "-l": _locks,
    "-a": _server_types,
    "-A": _client_types,
    "-T": _tls,
    "-b": _expanded,
    "-t": _templates,
}
