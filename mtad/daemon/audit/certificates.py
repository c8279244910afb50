"""The SMTP client's certificate; the servers' own are looked at as each service is made.

What OpenSSL would not take is an error, what has expired a warning.
"""

from __future__ import annotations

from collections.abc import Iterator

from OpenSSL import SSL

from mtad.config.lint import ERROR, WARNING, Finding
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.maillog import ListSink, MailLog
from mtad.net.certificates import load_pairs


def findings(p: Parameters) -> Iterator[Finding]:
    """What is wrong with ``smtp_tls_cert_file`` and its kin."""
    sink = ListSink()
    try:
        load_pairs(SSL.Context(SSL.TLS_CLIENT_METHOD), p, "smtp", MailLog(sink, "check"))
    except ConfigError as problem:
        path, line = p.where(problem.parameter)
        text = f"{problem.reason} ({problem.remedy})" if problem.remedy else problem.reason
        yield Finding(ERROR, path, line, problem.parameter, text)
    for _, _, text in sink.lines:
        yield Finding(WARNING, "", 0, "", text.removeprefix("warning: "))
