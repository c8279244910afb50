"""The SMTP client's part of the configuration, read once for each transport.

:class:`SmtpSettings` holds ``smtp_*`` values as Postfix's ``smtp(8)`` would see them for its service of
master.cf.  Raises :class:`~mtad.errors.ConfigError`.

Postfix counterpart: ``smtp_params.c``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtad.config.parameters import Parameters
from mtad.net.interfaces import unbracket
from mtad.net.lookup import is_address
from mtad.wire.ehlo import discarding


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds for each stage of a session."""

    connect: int
    helo: int
    starttls: int
    mail: int
    rcpt: int
    data_init: int
    data_xfer: int
    data_done: int
    rset: int
    quit: int
    xforward: int
    pix_delay: int  # before the end of a message
    lingers: bool  # QUIT's answer is waited for
    per_request: bool  # they are deadlines: for a command and its whole answer
    data_rate: int  # bytes a second that move the deadline of a message's body

    @classmethod
    def of(cls, p: Parameters) -> Timeouts:
        """The ``smtp_*_timeout`` of one service, in seconds."""
        usual = [
            name for name in cls.__slots__ if name not in ("pix_delay", "lingers", "per_request", "data_rate")
        ]
        seconds = {name: p.seconds(f"smtp_{name}_timeout") for name in usual}
        return cls(
            **seconds,
            pix_delay=p.seconds("smtp_pix_workaround_delay_time"),
            lingers=not p.flag("smtp_skip_quit_response"),
            per_request=p.flag("smtp_per_request_deadline"),
            data_rate=p.number("smtp_min_data_rate"),
        )


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """See the module.  0 as a limit means none."""

    lmtp: bool
    myhostname: str
    helo_name: bytes
    default_port: str
    timeouts: Timeouts
    bind4: str
    bind6: str
    bind_enforce: bool
    address_limit: int
    session_limit: int
    fallback: tuple[str, ...]
    line_limit: int
    keep_cr: bool
    discard_keywords: frozenset[str]
    discarding: str  # a line for the log at each EHLO, may be empty
    always_ehlo: bool
    never_ehlo: bool
    skip_5xx_greeting: bool
    wrappermode: bool
    wrapper_hint: str  # for who uses port 465 without it
    dummy_mail_auth: bool
    quote_envelope: bool
    soft_bounce: bool
    sasl_options: Sequence[str]
    sasl_tls_options: Sequence[str]
    sasl_verified_options: Sequence[str]
    sasl_soft_bounce: bool
    sasl_authzid: bool
    log_tls: bool
    tls_reuse: bool
    block_early_reply: bool
    best_mx_transport: str
    pix_threshold: int
    xforward: bool
    probe_data: bool  # probes go on to DATA
    assume_final: bool
    cache_on_demand: bool
    cache_time: int
    reuse_time: int
    reuse_count: int

    @classmethod
    def of(cls, p: Parameters, lmtp: bool = False) -> SmtpSettings:
        """The settings that ``p``, the parameters of one service, describe."""
        return cls(
            lmtp=lmtp,
            myhostname=p["myhostname"],
            helo_name=p["smtp_helo_name"].encode(),
            default_port=p["smtp_tcp_port"] or "smtp",
            timeouts=Timeouts.of(p),
            bind4=_bind_address(p, "smtp_bind_address"),
            bind6=_bind_address(p, "smtp_bind_address6"),
            bind_enforce=p.flag("smtp_bind_address_enforce"),
            address_limit=p.number("smtp_mx_address_limit"),
            session_limit=p.number("smtp_mx_session_limit"),
            fallback=p.words("smtp_fallback_relay"),
            line_limit=_line_limit(p),
            keep_cr=not p.flag("cleanup_replace_stray_cr_lf"),
            discard_keywords=frozenset(word.lower() for word in p.words("smtp_discard_ehlo_keywords")),
            discarding=discarding(p.words("smtp_discard_ehlo_keywords")),
            always_ehlo=p.flag("smtp_always_send_ehlo"),
            never_ehlo=p.flag("smtp_never_send_ehlo"),
            skip_5xx_greeting=p.flag("smtp_skip_5xx_greeting"),
            wrappermode=p.flag("smtp_tls_wrappermode"),
            wrapper_hint=_wrapper_hint(p),
            dummy_mail_auth=p.flag("smtp_send_dummy_mail_auth"),
            quote_envelope=p.flag("smtp_quote_rfc821_envelope"),
            soft_bounce=p.flag("soft_bounce"),
            sasl_options=p.words("smtp_sasl_security_options"),
            sasl_tls_options=p.words("smtp_sasl_tls_security_options"),
            sasl_verified_options=p.words("smtp_sasl_tls_verified_security_options"),
            sasl_soft_bounce=p.flag("smtp_sasl_auth_soft_bounce"),
            sasl_authzid=p.flag("send_cyrus_sasl_authzid"),
            log_tls=p.flag("smtp_log_tls_feature_status"),
            # the reason for Postfix's default is that its connections change processes
            tls_reuse=p.flag("smtp_tls_connection_reuse") or not p.explicit("smtp_tls_connection_reuse"),
            block_early_reply=p.flag("smtp_tls_block_early_mail_reply"),
            best_mx_transport=p["best_mx_transport"],
            pix_threshold=p.seconds("smtp_pix_workaround_threshold_time"),
            xforward=p.flag("smtp_send_xforward_command"),
            probe_data=p.choice("smtp_address_verify_target") == "data",
            assume_final=lmtp and p.flag("lmtp_assume_final"),
            cache_on_demand=p.flag("smtp_connection_cache_on_demand"),
            cache_time=min(
                p.seconds("smtp_connection_cache_time_limit"), p.seconds("connection_cache_ttl_limit")
            ),
            reuse_time=p.seconds("smtp_connection_reuse_time_limit"),
            reuse_count=p.number("smtp_connection_reuse_count_limit"),
        )


def _bind_address(p: Parameters, name: str) -> str:
    address = unbracket(p[name])
    if address and not is_address(address):
        raise p.error(name, f'bad address "{address}"', "use an address of this host")
    return address


def _line_limit(p: Parameters) -> int:
    name = "smtp_line_length_limit"
    limit = p.number(name)
    if limit == 1:  # the blank of a continued line would take all of it
        raise p.error(name, "no text has room in lines of one byte", "use 998, or 0 for no limit")
    return limit


def _wrapper_hint(p: Parameters) -> str:
    if p.flag("smtp_tls_wrappermode") or not p.flag("helpful_warnings"):
        return ""
    mode, level = p.written("smtp_tls_wrappermode"), p.written("smtp_tls_security_level")
    head = "SMTPS wrappermode (TCP port 465) requires setting"
    return f'{head} "{mode} = yes", and "{level} = encrypt" (or stronger)'
