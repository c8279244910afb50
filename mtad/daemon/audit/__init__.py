"""A look at what the configuration names: tables, files, certificates, and who could do what.

:func:`audit` gives findings that reading the parameters alone cannot: each module here looks at one kind of
thing.  Nothing is changed and no server is asked.

Postfix counterpart: ``postfix check``.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtad.config.lint import Finding
from mtad.config.parameters import Parameters
from mtad.daemon.audit import certificates, files, oauth, tables, tls
from mtad.errors import ConfigError


def audit(p: Parameters, services: Sequence[Parameters]) -> list[Finding]:
    """The findings about files; ``services`` are the parameters of each service that mtad runs."""
    used = tables.tables_in_use(p, services)
    found: list[Finding] = []
    for look in (
        certificates.findings(p),
        files.findings(p, services, used),
        tables.findings(p, services, used),
        oauth.findings(p),
        tls.findings(p),
    ):
        try:
            found.extend(look)
        except ConfigError:  # a value that cannot be used, which is among the errors already
            continue
    return found
