"""What the server engine must know of the configuration: plain values.

:class:`ServerSettings` is made once per service and shared by all its sessions.  The names in
the comments are the ``main.cf`` parameters that each value comes from.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_NO_LETTER_FIRST = re.compile(rb"[^A-Za-z]")


def forbidden_by_default(verb: bytes) -> bool:
    """The built-in ``smtpd_forbidden_commands``: ``CONNECT GET POST regexp:{{/^[^A-Z]/ Bogus}}``."""
    return verb.upper() in (b"CONNECT", b"GET", b"POST") or _NO_LETTER_FIRST.match(verb) is not None


def _never(verb: bytes) -> bool:
    return False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ServerSettings:
    """Settings of :class:`mtad.wire.server.ServerSession`."""

    hostname: bytes = b"localhost"  # myhostname
    helo_required: bool = False  # smtpd_helo_required
    #: STARTTLS is offered (smtpd_tls_security_level may, encrypt), and there is a certificate
    tls_offered: bool = False
    #: commands other than a few are refused without TLS (smtpd_tls_security_level = encrypt)
    tls_required: bool = False
    auth_enabled: bool = False  # smtpd_sasl_auth_enable
    auth_tls_only: bool = False  # smtpd_tls_auth_only
    broken_auth_clients: bool = False  # broken_sasl_auth_clients: an AUTH= line too
    size_limit: int = 10240000  # message_size_limit; 0: none
    disable_vrfy: bool = False  # disable_vrfy_command
    strict_envelopes: bool = False  # strict_rfc821_envelopes
    smtputf8: bool = True  # smtputf8_enable
    strict_smtputf8: bool = False  # strict_smtputf8
    discard: frozenset[str] = frozenset()  # smtpd_discard_ehlo_keywords, lower case
    #: is this unknown verb a reason to hang up? (smtpd_forbidden_commands)
    forbidden_command: Callable[[bytes], bool] = forbidden_by_default
    #: is this verb answered 250 without being looked at? (smtpd_noop_commands)
    noop_command: Callable[[bytes], bool] = _never
    line_length_limit: int = 2048  # line_length_limit
    sasl_response_limit: int = 12288  # smtpd_sasl_response_limit
    recipient_limit: int = 1000  # smtpd_recipient_limit; 0: none
    recipient_overshoot_limit: int = 1000  # smtpd_recipient_overshoot_limit
    bare_newline: str = "normalize"  # smtpd_forbid_bare_newline: no, normalize, note, reject
    bare_newline_code: int = 550  # smtpd_forbid_bare_newline_reject_code
    keep_cr: bool = False  # cleanup_replace_stray_cr_lf = no
    forbid_unauth_pipelining: bool = True  # smtpd_forbid_unauth_pipelining
    #: each line goes to the shell first, as CommandLine (smtpd_command_filter)
    filter_commands: bool = False
    requiretls: bool = False  # requiretls_enable: offered once TLS is active
    extensions: frozenset[str] = frozenset()  # mtad_smtpd_extensions, lower case
    longest_hold: int = 0  # mtad_future_release_limit, in seconds
    verp_filter: bytes = b"-=+"  # verp_delimiter_filter
    ipv4: bool = True  # inet_protocols, for addresses in XCLIENT and XFORWARD
    ipv6: bool = True
    # What may differ from client to client (beside ``discard`` and ``bare_newline``):
    xclient: bool = False  # smtpd_authorized_xclient_hosts
    xforward: bool = False  # smtpd_authorized_xforward_hosts
    verp_delimiters: bytes = b""  # default_verp_delimiters for smtpd_authorized_verp_clients, else empty

    def discards(self, keyword: str) -> bool:
        """Is this EHLO keyword (lower case) suppressed?"""
        return keyword in self.discard

    def offers(self, extension: str) -> bool:
        """Is this extension beyond Postfix's offered?"""
        return extension in self.extensions and extension not in self.discard

    @property
    def offers_binary(self) -> bool:
        """Is BINARYMIME offered?  It needs BDAT (RFC 3030 section 3)."""
        return self.offers("binarymime") and not self.discards("chunking")
