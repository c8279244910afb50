"""A client has come: who it is, and the session that it gets.

:func:`arrive` looks at all that depends on the client alone: the PROXY header, its name, the lists that it
may be on.  It may take its time, and the client may be gone when it is done.  Nothing is raised.

Postfix counterpart: ``smtpd_peer_init()``, ``smtpd_state_init()``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mtad.net.hosts import PeerStatus
from mtad.net.proxy_protocol import ProxyError
from mtad.policy.request import Request
from mtad.smtpd.session import Session
from mtad.smtpd.upstream import UNKNOWN_ENDS, UNKNOWN_PEER, ends_of
from mtad.wire.server import ServerSession

if TYPE_CHECKING:
    from mtad.smtpd.service import SmtpdService


async def arrive(transport: Any, service: SmtpdService) -> tuple[Session, str]:
    """The session, and what is wrong with the PROXY header where something is."""
    problem = ""
    try:
        ends = await ends_of(transport, service)
        name = await service.peer_name(ends.client_address)
    except ProxyError as error:
        problem = str(error)
        ends, name = UNKNOWN_ENDS, UNKNOWN_PEER
    request = Request(
        client_name=name.name,
        client_address=name.address,
        client_port=ends.client_port,
        port_logged=service.settings.client_port_logging,
        internal_addresses=service.log.internal_addresses,
        reverse_name=name.reverse_name,
        name_temporary=name.status == PeerStatus.TEMPORARY,
        reverse_temporary=name.reverse_status == PeerStatus.TEMPORARY,
        server_address=ends.server_address,
        server_port=ends.server_port,
    )
    client = request.client
    settings = await service.clients.settings(request.client_address, request.client_name)
    session = Session(service, ServerSession(settings, client, tls=service.tls.wrapper), request, client)
    session.counts = await service.client_limits.of(request, client)
    if service.watching is not None:
        session.transcript = await service.watching.attend(request)
    for warning in filter(None, (problem, name.warning)):
        service.log.warning(warning)
    return session, problem
