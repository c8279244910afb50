"""The parameters that receiving mail goes by, read once per service into a frozen value.

Names are Postfix's without their ``smtpd_``; times are seconds, sizes bytes.  Raises
:class:`mtad.errors.ConfigError` for a value that cannot be used.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtad.config.parameters import Parameters
from mtad.errors import ConfigError
from mtad.smtpd.intake import IntakeRules
from mtad.wire.server import ServerSettings

_BARE_NEWLINE = {"yes": "normalize", "normalize": "normalize", "no": "no", "reject": "reject", "note": "note"}


@dataclass(frozen=True, slots=True)
class SmtpdSettings:
    """One smtpd service's settings."""

    ident: str  # "$syslog_name/smtpd"
    cleanup_ident: str  # cleanup(8) logs under main.cf's syslog_name
    service: str
    myhostname: str
    mail_name: str
    banner: str
    timeout: int
    starttls_timeout: int
    soft_error_limit: int
    hard_error_limit: int
    error_sleep_time: int
    junk_command_limit: int
    recipient_limit: int
    recipient_overshoot_limit: int
    delay_open: bool
    queue_minfree: int
    peername_lookup: bool
    client_port_logging: bool
    forbid_bare_newline: str  # no, normalize, reject, note
    forbid_bare_newline_code: int
    forbid_unauth_pipelining: bool
    strict_smtputf8: bool
    sasl_auth: bool
    sasl_authenticated_header: bool
    broken_sasl_auth_clients: bool
    tls_auth_only: bool
    tls_received_header: bool
    tls_loglevel: int
    hide_client_session: bool
    always_add_missing_headers: bool
    long_queue_ids: bool
    intake: IntakeRules


def read_settings(p: Parameters, service: str) -> SmtpdSettings:
    """The settings of ``service`` (its name in master.cf), ``p`` with its ``-o`` applied."""
    mode = p["smtpd_forbid_bare_newline"].strip().lower()
    if mode not in _BARE_NEWLINE:
        path, line = p.where("smtpd_forbid_bare_newline")
        raise ConfigError(
            f'bad value "{mode}"', path=path, line=line, parameter="smtpd_forbid_bare_newline",
            remedy="use yes, normalize, reject, note or no",
        )  # fmt: skip
    level = p["smtpd_tls_security_level"].strip().lower()
    wrapper = p.flag("smtpd_tls_wrappermode")
    return SmtpdSettings(
        ident=f"{p['syslog_name']}/smtpd",
        cleanup_ident=f"{p['syslog_name']}/cleanup",
        service=service,
        myhostname=p["myhostname"],
        mail_name=p["mail_name"],
        banner=p["smtpd_banner"],
        timeout=p.seconds("smtpd_timeout"),
        starttls_timeout=p.seconds("smtpd_starttls_timeout"),
        soft_error_limit=p.number("smtpd_soft_error_limit"),
        hard_error_limit=p.number("smtpd_hard_error_limit"),
        error_sleep_time=p.seconds("smtpd_error_sleep_time"),
        junk_command_limit=p.number("smtpd_junk_command_limit"),
        recipient_limit=p.number("smtpd_recipient_limit"),
        recipient_overshoot_limit=p.number("smtpd_recipient_overshoot_limit"),
        delay_open=p.flag("smtpd_delay_open_until_valid_rcpt"),
        queue_minfree=p.number("queue_minfree"),
        peername_lookup=p.flag("smtpd_peername_lookup"),
        client_port_logging=p.flag("smtpd_client_port_logging"),
        forbid_bare_newline=_BARE_NEWLINE[mode],
        forbid_bare_newline_code=p.number("smtpd_forbid_bare_newline_reject_code"),
        forbid_unauth_pipelining=p.flag("smtpd_forbid_unauth_pipelining"),
        strict_smtputf8=p.flag("strict_smtputf8"),
        sasl_auth=p.flag("smtpd_sasl_auth_enable"),
        sasl_authenticated_header=p.flag("smtpd_sasl_authenticated_header"),
        broken_sasl_auth_clients=p.flag("broken_sasl_auth_clients"),
        # an enforced level and wrapper mode leave no plaintext AUTH
        tls_auth_only=p.flag("smtpd_tls_auth_only") or wrapper or level not in ("", "none", "may"),
        tls_received_header=p.flag("smtpd_tls_received_header"),
        tls_loglevel=p.number("smtpd_tls_loglevel"),
        hide_client_session=p.flag("smtpd_hide_client_session"),
        always_add_missing_headers=p.flag("always_add_missing_headers"),
        long_queue_ids=p.flag("enable_long_queue_ids"),
        intake=IntakeRules(
            myhostname=p["myhostname"],
            message_size_limit=p.number("message_size_limit"),
            header_size_limit=p.number("header_size_limit"),
            hopcount_limit=p.number("hopcount_limit"),
            drop_headers=frozenset(name.lower().encode() for name in p.words("message_drop_headers")),
            long_queue_ids=p.flag("enable_long_queue_ids"),
            undisclosed=p["undisclosed_recipients_header"].encode(),
        ),
    )


__all__ = ["ServerSettings", "SmtpdSettings", "read_settings"]
