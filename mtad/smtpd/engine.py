"""The engine's settings by the parameters of a service.

Raises :class:`mtad.errors.ConfigError` for a value that cannot be used.  Postfix counterpart: the tables of
parameters in ``smtpd.c``.
"""

from __future__ import annotations

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.net.interfaces import IPV4, IPV6, protocols
from mtad.smtpd.clients import keywords
from mtad.smtpd.commands import command_list
from mtad.wire.settings import ServerSettings

_BARE_NEWLINE = {"yes": "normalize", "normalize": "normalize", "no": "no", "reject": "reject", "note": "note"}


def engine_settings(p: Parameters, cleanup: Parameters, tls_level: str, tls_offered: bool) -> ServerSettings:
    """What the engine goes by.  ``cleanup``: the parameters of cleanup(8); ``tls_level``:
    ``smtpd_tls_security_level``, or what stands for it; ``tls_offered``: there is a certificate, too."""
    mode = p["smtpd_forbid_bare_newline"].strip().lower()
    if mode not in _BARE_NEWLINE:
        path, line = p.where("smtpd_forbid_bare_newline")
        raise ConfigError(
            f'bad value "{mode}"', path=path, line=line, parameter="smtpd_forbid_bare_newline",
            remedy="use yes, normalize, reject, note or no",
        )  # fmt: skip
    required = tls_level == "encrypt"
    return ServerSettings(
        hostname=p["myhostname"].encode(),
        helo_required=p.flag("smtpd_helo_required"),
        tls_offered=tls_offered,
        tls_required=required,
        auth_enabled=p.flag("smtpd_sasl_auth_enable"),
        # an enforced level and wrapper mode leave no AUTH in the clear
        auth_tls_only=p.flag("smtpd_tls_auth_only") or required,
        broken_auth_clients=p.flag("broken_sasl_auth_clients"),
        size_limit=p.number("message_size_limit"),
        disable_vrfy=p.flag("disable_vrfy_command"),
        strict_envelopes=p.flag("strict_rfc821_envelopes"),
        smtputf8=p.flag("smtputf8_enable"),
        strict_smtputf8=p.flag("strict_smtputf8"),
        discard=keywords(p["smtpd_discard_ehlo_keywords"]),
        forbidden_command=command_list(p, "smtpd_forbidden_commands"),
        noop_command=command_list(p, "smtpd_noop_commands"),
        filter_commands=bool(p["smtpd_command_filter"]),
        requiretls=p.flag("requiretls_enable"),
        extensions=frozenset(p.words("mtad_smtpd_extensions")),
        longest_hold=p.seconds("mtad_future_release_limit"),
        verp_filter=p["verp_delimiter_filter"].encode(),
        ipv4=IPV4 in protocols(p),
        ipv6=IPV6 in protocols(p),
        line_length_limit=p.number("line_length_limit"),
        sasl_response_limit=p.number("smtpd_sasl_response_limit"),
        recipient_limit=p.number("smtpd_recipient_limit"),
        recipient_overshoot_limit=p.number("smtpd_recipient_overshoot_limit"),
        bare_newline=_BARE_NEWLINE[mode],
        bare_newline_code=p.number("smtpd_forbid_bare_newline_reject_code"),
        keep_cr=not cleanup.flag("cleanup_replace_stray_cr_lf"),
        forbid_unauth_pipelining=p.flag("smtpd_forbid_unauth_pipelining"),
    )
