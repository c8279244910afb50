"""How clients log in: the Cyrus ``smtpd.conf`` that counts, what in it does, and what does not."""

from __future__ import annotations

from collections.abc import Iterator

from mtad.auth.options import notes
from mtad.auth.setup import describe
from mtad.config.lint import NOTE, WARNING, Finding
from mtad.config.parameters import Parameters
from mtad.config.sasl_conf import find_sasl_conf, read_sasl_conf
from mtad.errors import ConfigError


def findings(p: Parameters) -> Iterator[Finding]:
    """The findings about one service's ``smtpd.conf``, if it has one; errors are told by who needs it."""
    try:
        if not p.flag("smtpd_sasl_auth_enable") or p["smtpd_sasl_type"] != "cyrus":
            return
        yield Finding(NOTE, "", 0, "", describe(p))
        path = find_sasl_conf(p)
        if path is not None:
            for known, text in notes(read_sasl_conf(path)):
                yield Finding(NOTE if known else WARNING, path, 0, "", text)
    except ConfigError:
        return
