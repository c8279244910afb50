"""The parameters that receiving mail goes by, read once per service into a frozen value.

Names are Postfix's without their ``smtpd_``; times are seconds, sizes bytes.  Raises
:class:`mtad.errors.ConfigError` for a value that cannot be used.
"""

from __future__ import annotations

from dataclasses import dataclass

from mtad.config.parameters import Parameters
from mtad.smtpd.proxy_filter import ProxyFilter
from mtad.smtpd.rules import detects_utf8


@dataclass(frozen=True, slots=True)
class SmtpdSettings:
    """One smtpd service's settings."""

    ident: str  # "$syslog_name/smtpd"
    service: str
    myhostname: str
    mail_name: str
    banner: str
    timeout: int
    starttls_timeout: int
    soft_error_limit: int
    hard_error_limit: int
    error_sleep_time: int
    in_flow_delay: int
    junk_command_limit: int
    recipient_overshoot_limit: int
    delay_open: bool
    queue_minfree: int
    peername_lookup: bool
    client_port_logging: bool
    sasl_authenticated_header: bool
    tls_received_header: bool
    hide_client_session: bool
    message_size_limit: int  # 0: none
    overrides: frozenset[str]  # receive_override_options
    detect_utf8: bool
    content_filter: str
    per_request_deadline: bool
    min_data_rate: int
    upstream_proxy: bool  # smtpd_upstream_proxy_protocol = haproxy
    upstream_proxy_timeout: int
    proxy_filter: ProxyFilter | None


def read_settings(p: Parameters, service: str) -> SmtpdSettings:
    """The settings of ``service`` (its name in master.cf), ``p`` with its ``-o`` applied."""
    return SmtpdSettings(
        ident=f"{p['syslog_name']}/smtpd",
        service=service,
        myhostname=p["myhostname"],
        mail_name=p["mail_name"],
        banner=p["smtpd_banner"],
        timeout=p.seconds("smtpd_timeout"),
        starttls_timeout=p.seconds("smtpd_starttls_timeout"),
        soft_error_limit=p.number("smtpd_soft_error_limit"),
        hard_error_limit=p.number("smtpd_hard_error_limit"),
        error_sleep_time=p.seconds("smtpd_error_sleep_time"),
        in_flow_delay=p.seconds("in_flow_delay"),
        junk_command_limit=p.number("smtpd_junk_command_limit"),
        recipient_overshoot_limit=p.number("smtpd_recipient_overshoot_limit"),
        delay_open=p.flag("smtpd_delay_open_until_valid_rcpt"),
        queue_minfree=p.number("queue_minfree"),
        peername_lookup=p.flag("smtpd_peername_lookup"),
        client_port_logging=p.flag("smtpd_client_port_logging"),
        sasl_authenticated_header=p.flag("smtpd_sasl_authenticated_header"),
        tls_received_header=p.flag("smtpd_tls_received_header"),
        hide_client_session=p.flag("smtpd_hide_client_session"),
        message_size_limit=p.number("message_size_limit"),
        overrides=frozenset(p.words("receive_override_options")),
        detect_utf8=detects_utf8(p, "smtpd"),
        content_filter=p["content_filter"].strip(),
        per_request_deadline=p.flag("smtpd_per_request_deadline"),
        min_data_rate=p.number("smtpd_min_data_rate"),
        upstream_proxy=p["smtpd_upstream_proxy_protocol"].strip().lower() == "haproxy",
        upstream_proxy_timeout=p.seconds("smtpd_upstream_proxy_timeout"),
        proxy_filter=ProxyFilter.of(p),
    )
