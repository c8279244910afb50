"""The parts of ``mtad postconf`` that tell what there is: SASL types, locks, tables, TLS, bounce texts.

:func:`show` gives the lines; it raises :class:`~mtad.cli.postconf_options.UsageError` for what mtad has not.
Postfix counterpart: ``postconf_other.c``, ``bounce -S``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mtad.cli.directory import load_parameters
from mtad.cli.postconf_options import Request, UsageError

if TYPE_CHECKING:
    from mtad.deliver.dsn_text import Kind

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
    from mtad.deliver import dsn_text

    if len(request.names) > 1:
        raise UsageError("options -b and -t require at most one template file")
    if any(request.names):
        raise UsageError(f"template file {request.names[0]}: mtad sends its built-in texts only")
    p = load_parameters(request.directory if request.explicit_directory else None)
    lines: list[str] = []
    for name in ("failure", "delay", "success"):
        kind: Kind = getattr(dsn_text, name.upper())
        if option == _EXPANDED:
            frame = dsn_text.Frame(
                p["myhostname"].encode(),
                p["myorigin"].encode(),
                p["mail_name"].encode(),
                p.seconds("delay_warning_time") // 3600,
                p.seconds("maximal_queue_lifetime"),
            )
            lines.append(f"expanded_{name}_text = <<EOF")
            lines += dsn_text.explanation(kind, frame).decode().splitlines()
        else:
            lines += [f"{name}_template = <<EOF", *_header(kind), ""]
            lines += dsn_text.template(kind).decode().splitlines()
        lines += ["EOF", ""]
    return lines[:-1]


def _header(kind: Kind) -> list[str]:
    lines = ["Charset: utf-8", "From: Mail Delivery System <MAILER-DAEMON>"]
    lines.append(f"Subject: {kind.subject.decode()}")
    return [*lines, f"Postmaster-Subject: {kind.copy_subject.decode()}"] if kind.copy_subject else lines


_SHOWS: dict[str, Callable[[Request], list[str]]] = {
    "-m": _tables,
    "-l": _locks,
    "-a": _server_types,
    "-A": _client_types,
    "-T": _tls,
    "-b": _expanded,
    "-t": _templates,
}
