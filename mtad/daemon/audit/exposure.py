"""What a stranger could do: read passwords on their way, or send mail through this host to anywhere.

Each listening service is tried out with the parts that would serve it.  An open relay is found by asking the
restriction lists, not by reading them: a client from nowhere, not logged in, gives a recipient elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from ipaddress import ip_address

from mtad.auth.authenticator import Authenticator
from mtad.config.lint import WARNING, Finding
from mtad.errors import MtadError
from mtad.net.listen import Endpoint
from mtad.policy.evaluator import Evaluator, Verdict
from mtad.policy.request import Request
from mtad.smtpd.service import ServicePlan
from mtad.wire.address import from_text

#: Mechanisms that put on the wire what is enough to log in later.
_PLAINTEXT = frozenset({b"PLAIN", b"LOGIN", b"XOAUTH2", b"OAUTHBEARER"})
#: Addresses that are nobody's (RFC 5737, RFC 3849).
_STRANGERS = ("203.0.113.25", "2001:db8::25")
_SENDER, _RECIPIENT = b"someone@example.net", b"someone@elsewhere.invalid"
_SUBMISSION, _SUBMISSIONS = 587, 465


def findings(
    plan: ServicePlan,
    endpoints: list[Endpoint],
    evaluator: Evaluator,
    authenticator: Authenticator | None,
) -> Iterator[Finding]:
    """The findings about one service."""
    if all(ip_address(endpoint.host).is_loopback for endpoint in endpoints):
        return
    path = f"{plan.p.directory}/master.cf"
    stranger = _relays(evaluator)
    if stranger:
        yield Finding(
            WARNING, path, plan.service.line, "",
            f"service {plan.service.name} is an open relay: a client from anywhere ({stranger}) may send to "
            "anywhere without logging in (end smtpd_relay_restrictions with reject, or with "
            "reject_unauth_destination; see mynetworks)",
        )  # fmt: skip
    for text in (*_clear(plan, authenticator), *_mode(plan, {endpoint.port for endpoint in endpoints})):
        yield Finding(WARNING, path, plan.service.line, "", f"service {plan.service.name} {text}")


def _clear(plan: ServicePlan, authenticator: Authenticator | None) -> Iterator[str]:
    """Passwords in the clear."""
    if authenticator is None:
        return
    p, tls = plan.p, plan.tls
    if tls.wrapper or tls.level == "encrypt":
        return
    if p.flag("smtpd_tls_auth_only"):
        if tls.level == "none":
            yield (
                "never offers AUTH: smtpd_tls_auth_only = yes, and there is no TLS "
                "(set smtpd_tls_security_level = encrypt)"
            )
        return
    names = [name.decode() for name in authenticator.mechanisms(False) if name in _PLAINTEXT]
    if not names:
        return
    offer = " ".join(names)
    if tls.level == "none":
        yield (
            f"has no TLS: passwords (AUTH {offer}) cross the network in the clear "
            "(set smtpd_tls_security_level = encrypt)"
        )
    else:
        yield (
            f"offers AUTH {offer} before STARTTLS: passwords can cross the network in the clear "
            "(set smtpd_tls_auth_only = yes)"
        )


def _mode(plan: ServicePlan, ports: set[int]) -> Iterator[str]:
    """TLS that is not as clients of these ports expect it (RFC 8314)."""
    if _SUBMISSIONS in ports and not plan.tls.wrapper:
        yield "listens on port 465, where clients begin TLS at once (set smtpd_tls_wrappermode = yes)"
    elif _SUBMISSION in ports and plan.tls.wrapper:
        yield "listens on port 587, where clients speak before TLS (remove smtpd_tls_wrappermode = yes)"
    elif _SUBMISSION in ports and plan.tls.level == "none" and not plan.p.flag("smtpd_sasl_auth_enable"):
        yield "is for submission, and has no TLS (set smtpd_tls_security_level = encrypt)"


def _relays(evaluator: Evaluator) -> str:
    """The address of a stranger whose mail to elsewhere is taken, or nothing."""
    for address in _STRANGERS:
        request = Request(
            "mail.example.net", address, "25", "mail.example.net", helo=b"mail.example.net", protocol="ESMTP"
        )
        request.sender = from_text(_SENDER)
        request.recipient = from_text(_RECIPIENT)
        stages: tuple[Callable[[Request], Awaitable[Verdict | None]], ...] = (
            evaluator.connect, evaluator.helo, evaluator.mail, evaluator.rcpt,
        )  # fmt: skip
        if all(_passes(stage(request)) for stage in stages):
            return address
    return ""


def _passes(question: Awaitable[Verdict | None]) -> bool:
    """Whether the answer is yes; what would have to ask a server first counts as no."""
    steps = question.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value is None
    except MtadError:
        return False
    steps.close()
    return False
