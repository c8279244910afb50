"""TLS by pyOpenSSL for both sides, under one name.

- server: :class:`ServerTLS` (``tls_server``), whose sessions outlive it (``tls_sessions``);
- client: :class:`ClientTLS`, :class:`Handshake` (``tls_client``), :class:`Policy` (``tls_policy``); who a
  server is, by name (``tls_names``) or by TLSA records and trust anchors (``tls_trust``);
- what was agreed on: :class:`TLSInfo`, :func:`describe`, :func:`log_summary`, :func:`received_lines`
  (``tls_info``).
"""

from mtad.net.certificates import make_self_signed
from mtad.net.tls_client import ClientTLS, Handshake
from mtad.net.tls_info import TLSInfo, describe, log_summary, received_lines
from mtad.net.tls_policy import Policy, main_policy
from mtad.net.tls_server import ServerTLS, server_level

__all__ = [
    "ClientTLS",
    "Handshake",
    "Policy",
    "ServerTLS",
    "TLSInfo",
    "describe",
    "log_summary",
    "main_policy",
    "make_self_signed",
    "received_lines",
    "server_level",
]
