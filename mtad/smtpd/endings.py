"""How a session ended, for the log.

Postfix counterpart: the end of ``smtpd_proto()`` and of ``smtpd_service()``; ``tls_server_start()`` for a
handshake that fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from OpenSSL import SSL
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from mtad.smtpd.session import Session


def log_reason(session: Session, reason: str) -> None:
    """``lost connection after DATA (N bytes) from ...`` and the like; nothing without a reason."""
    engine = session.engine
    where = engine.where.decode()
    if not reason or (where == "END-OF-MESSAGE" and reason == "lost connection"):
        return
    queue_id = session.request.queue_id or "NOQUEUE"
    size = ""
    if where.endswith(" content"):
        where = where.removesuffix(" content")
        size = f" ({engine.body_size} bytes)"
    session.log.info(f"{queue_id}: {reason} after {where}{size} from {session.client}")


def log_end(session: Session) -> None:
    """``disconnect from ... ehlo=1 quit=1 commands=2``."""
    notes = " notes=bare_lf" if session.engine.saw_bare_newline else ""
    session.log.info(f"disconnect from {session.client} {session.counters}{notes}")


def log_handshake(session: Session, failure: Failure, reason: str) -> None:
    """A TLS handshake that came to nothing."""
    log, problem = session.log, failure.value
    if not isinstance(problem, SSL.Error):
        log.info(f"SSL_accept error from {session.client}: {reason}")
        return
    log.info(f"SSL_accept error from {session.client}: -1")
    for entry in problem.args[0] if problem.args else ():
        log.warning(f"TLS library problem: {':'.join(str(part) for part in entry)}")
