"""What the higher TLS log levels tell of one handshake: certificates, OpenSSL's steps, bytes.

:class:`Trace` hangs itself on a connection of :mod:`mtad.net.openssl`; nothing is raised.

Postfix counterpart: ``tls_verify_certificate_callback()``, ``tls_info_callback()``, ``tls_bio_dump_cb()``.
"""

from __future__ import annotations

from functools import partial

from OpenSSL import SSL

from mtad.maillog import MailLog
from mtad.net import openssl
from mtad.net.tls_context import Logging

_WIDTH = 16
_CLOSE_NOTIFY = 0

#: OpenSSL's words for alerts (RFC 8446 section 6)
_ALERTS = {
    10: "unexpected message", 20: "bad record mac", 21: "decryption failed", 22: "record overflow",
    30: "decompression failure", 40: "handshake failure", 41: "no certificate", 42: "bad certificate",
    43: "unsupported certificate", 44: "certificate revoked", 45: "certificate expired",
    46: "certificate unknown", 47: "illegal parameter", 48: "unknown CA", 49: "access denied",
    50: "decode error", 51: "decrypt error", 60: "export restriction", 70: "protocol version",
    71: "insufficient security", 80: "internal error", 86: "inappropriate fallback", 90: "user canceled",
    100: "no renegotiation", 109: "missing extension", 110: "unsupported extension",
    111: "certificate unobtainable", 112: "unrecognized name", 113: "bad certificate status response",
    114: "bad certificate hash value", 115: "unknown PSK identity", 116: "certificate required",
    120: "no application protocol",
}  # fmt: skip


class Trace:
    """What is told of one connection with ``peer``, by ``side`` (``SSL_connect`` or ``SSL_accept``)."""

    def __init__(self, logging: Logging, log: MailLog, peer: str, side: str) -> None:
        self._logging = logging
        self._log = log
        self._peer = peer
        self._side = side

    def connection(self, context: SSL.Context, chain: bool = True) -> openssl.Connection:
        """A connection that is watched as far as the log level asks for it; without ``chain`` nothing is told
        of what OpenSSL finds in it."""
        logging = self._logging
        if not logging.packets:
            made = openssl.Connection(context, None)
        else:
            made = openssl.OpenConnection(context, None)
            made.on_packet = partial(self._packet, id(self), id(made))
        if logging.verbose and chain:
            made.on_certificate = self._certificate
        if logging.debug:
            made.on_step = self._step
            openssl.hear_steps(made)
        return made

    def finished(self, connection: SSL.Connection) -> None:
        """The handshake is done."""
        if isinstance(connection, openssl.OpenConnection) and not self._logging.all_packets:
            connection.on_packet = None

    def judged(self, connection: SSL.Connection, good: bool) -> None:
        """What another than OpenSSL finds of the peer's own certificate."""
        if self._logging.verbose:
            self._certificate(0, good, openssl.peer_subject(connection))

    def _certificate(self, depth: int, good: bool, subject: str) -> None:
        self._log.info(f"{self._peer}: depth={depth} verify={int(good)} subject={subject}")

    def _step(self, _: openssl.Connection, where: int, result: int, words: str) -> None:
        if where & SSL.SSL_CB_LOOP:
            self._log.info(f"{self._side}:{words}")
        elif where & SSL.SSL_CB_ALERT:
            level, alert = result >> 8, result & 0xFF
            if alert != _CLOSE_NOTIFY:
                which = "read" if where & SSL.SSL_CB_READ else "write"
                kind = {1: "warning", 2: "fatal"}.get(level, "unknown")
                self._log.info(f"SSL3 alert {which}:{kind}:{_ALERTS.get(alert, 'unknown')}")
        elif where & SSL.SSL_CB_EXIT and result <= 0:
            self._log.info(f"{self._side}:{'error' if result else 'failed'} in {words}")

    def _packet(self, stream: int, buffer: int, sent: bool, data: bytes) -> None:
        which, size = "write to" if sent else "read from", len(data)
        head = f"{which} {stream:08X} [{buffer:08X}]"
        self._log.info(f"{head} ({size} bytes => {size} (0x{size:X}))")
        shown = data.rstrip(b" \0")
        for at in range(0, len(shown), _WIDTH):
            self._log.info(_row(at, shown[at : at + _WIDTH]))
        if len(shown) < size:
            self._log.info(f"{len(shown):04x} - <SPACES/NULLS>")


def _row(at: int, data: bytes) -> str:
    """``0010 61 62 ... 68|69 ... ab....h i...``."""
    half = _WIDTH // 2
    digits = "".join(f"{byte:02x}{'|' if column == half - 1 else ' '}" for column, byte in enumerate(data))
    text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
    space = " " if len(data) >= half else ""
    return f"{at:04x} {digits:<{3 * _WIDTH}} {text[:half]}{space}{text[half:]}"
