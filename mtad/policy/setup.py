"""What the evaluator needs of the configuration, read once.

:class:`Setup` holds the compiled lists, reply codes and match lists of one service.  What is wrong is
collected, not raised: ``errors`` (:class:`~mtad.errors.ConfigError`, the service must not start) and
``warnings`` (Postfix would start, and answer 451 when it gets there).

Postfix counterpart: ``smtpd_check_init()``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from typing import TYPE_CHECKING, Protocol

from mtad.config.expand import parse_level
from mtad.errors import ConfigError, MtadError, TableError
from mtad.maillog import MailLog, printable
from mtad.net.interfaces import protocols
from mtad.net.lookup import Lookup
from mtad.policy.check import Rule
from mtad.policy.compiler import FAKE_RELAY, Compiler
from mtad.policy.expansion import Expander
from mtad.policy.header_context import HeaderContext
from mtad.policy.policy_service import NoWay, PolicyServices
from mtad.policy.unlisted import ROUTING, UnlistedTables
from mtad.policy.verify import Known
from mtad.rewrite.resolve import Resolver
from mtad.tables import AddressList, Maps, StringList

if TYPE_CHECKING:
    from mtad.config.parameters import Parameters
    from mtad.net.dns import Resolver as DnsResolver
    from mtad.policy.policy_service import Dial
    from mtad.policy.request import Request
    from mtad.rewrite.address import Rewriter
    from mtad.rewrite.classes import AddressClasses

Sleep = Callable[[float], Awaitable[None]]


class Way(Protocol):
    """Where an address's mail would go: the transport, and its next hop or text."""

    @property
    def transport(self) -> str: ...

    @property
    def nexthop(self) -> str: ...


#: Of a sender's mail to an address.
WayTo = Callable[[bytes, bytes], Awaitable[Way]]

#: What is known of an address: a status and the words for it.
Verify = Callable[[bytes], Awaitable[tuple[Known, str]]]

_CODES = (
    "access_map_defer_code",
    "access_map_reject_code",
    "defer_code",
    "invalid_hostname_reject_code",
    "maps_rbl_reject_code",
    "multi_recipient_bounce_reject_code",
    "non_fqdn_reject_code",
    "plaintext_reject_code",
    "reject_code",
    "relay_domains_reject_code",
    "unknown_address_reject_code",
    "unknown_client_reject_code",
    "unknown_hostname_reject_code",
    "unknown_local_recipient_reject_code",
    "unknown_relay_recipient_reject_code",
    "unknown_virtual_alias_reject_code",
    "unknown_virtual_mailbox_reject_code",
    "unverified_recipient_defer_code",
    "unverified_recipient_reject_code",
    "unverified_sender_defer_code",
    "unverified_sender_reject_code",
)

_OLD = "using backwards-compatible default setting"
_TEMPFAIL = (
    "unknown_address_tempfail_action",
    "unknown_helo_hostname_tempfail_action",
    "unverified_recipient_tempfail_action",
    "unverified_sender_tempfail_action",
)


class Setup:
    """The configuration of one service's restrictions."""

    def __init__(
        self,
        p: Parameters,
        log: MailLog,
        rewriter: Rewriter,
        classes: AddressClasses,
        sleep: Sleep | None,
        actions: frozenset[str],
        dial: Dial | None = None,
        resolver: DnsResolver | None = None,
        route: WayTo | None = None,
        verify: Verify | None = None,
    ) -> None:
        self._verify = verify
        self._polls = (p.number("address_verify_poll_count"), p.seconds("address_verify_poll_delay"))
        self.p = p
        self.log = log
        self.rewriter = rewriter
        self.classes = classes
        self.sleep = sleep
        self.actions = actions
        self.proxied = bool(p["smtpd_proxy_filter"].strip())  # nobody is here to carry them out
        self.route = route
        self.policy = PolicyServices(p, log.warning, dial or NoWay)
        self.errors: list[ConfigError] = []
        self.warnings: list[ConfigError] = []
        self._opened: list[Maps] = []
        for name, problem in classes.problems:
            self._note(name, [problem], False)
        self.resolver = Resolver(rewriter, classes)
        self._flags(p)
        parents = {word.lower() for word in p.words("parent_domain_matches_subdomains")}
        self.access_parents = "smtpd_access_maps" in parents
        self._clients(p, "mynetworks" in parents)
        self.login_maps = self.maps("smtpd_sender_login_maps")
        self._dns(p, resolver, parents)
        self._relay_certs: Maps | None = None
        self._unlisted: UnlistedTables | None = None
        self.headers = HeaderContext(self)
        self._lists(p)
        if self.reject_unlisted_recipient or self.reject_unlisted_sender:
            _ = self.unlisted

    def _flags(self, p: Parameters) -> None:
        self.codes = {name: p.number(name) for name in _CODES}
        self.soft_bounce = p.flag("soft_bounce")
        self.delay_reject = p.flag("smtpd_delay_reject")
        self.sasl = p.flag("smtpd_sasl_auth_enable")
        self.ask_cert = p.flag("smtpd_tls_ask_ccert")
        self.untrusted_routing = p.flag("allow_untrusted_routing")
        self.null_key = p["smtpd_null_access_lookup_key"].encode()
        self.delimiter = p["recipient_delimiter"]
        self.myorigin = p["myorigin"].encode()
        self.check_listed = "no_unknown_recipient_checks" not in p.words("receive_override_options")
        self.reject_unlisted_recipient = self.check_listed and p.flag("smtpd_reject_unlisted_recipient")
        self.reject_unlisted_sender = self.check_listed and p.flag("smtpd_reject_unlisted_sender")

    def _clients(self, p: Parameters, parent_matches: bool) -> None:
        """Who is of our networks, and whose permission is logged."""
        networks, permits = "mynetworks", "smtpd_log_access_permit_actions"
        warn = self.log.warning
        self.mynetworks = AddressList(
            networks, p[networks], p.directory, parent_matches=parent_matches, warn=warn
        )
        self._note(networks, self.mynetworks.problems, True)
        self.logged_permits = StringList(permits, p[permits], p.directory, warn=warn)

    def _dns(self, p: Parameters, resolver: DnsResolver | None, parents: Container[str]) -> None:
        title = "smtpd_dns_reply_filter"
        replies = self.maps(title)
        self.lookup: Lookup | None = None
        if resolver is not None:
            self.lookup = Lookup(
                resolver,
                self.log.warning,
                self.log.info,
                protocols(p),
                replies.lookup if replies else None,
                title,
            )
        self.defer_at_once = {name: p.choice(name) == "defer" for name in _TEMPFAIL}
        self.expander = Expander(p, self.log)
        self.rbl_reply = p["default_rbl_reply"]
        self.rbl_replies = self.maps("rbl_reply_maps")
        self.mx_backup_noted = False
        self.mx_backup_networks: AddressList | None = None
        name = "permit_mx_backup_networks"
        if p[name]:
            self.mx_backup_networks = AddressList(
                name, p[name], p.directory, parent_matches=name in parents, warn=self.log.warning
            )
            self._note(name, self.mx_backup_networks.problems, True)

    def _lists(self, p: Parameters) -> None:
        compiler = self.compiler = Compiler(self)
        self.client = compiler.parameter("smtpd_client_restrictions")
        self.helo = compiler.parameter("smtpd_helo_restrictions")
        self.sender = compiler.parameter("smtpd_sender_restrictions")
        relay = compiler.parameter("smtpd_relay_restrictions")
        recipient = compiler.parameter("smtpd_recipient_restrictions")
        self.data = compiler.parameter("smtpd_data_restrictions", bare_tables=False)
        self.end_of_data = compiler.parameter("smtpd_end_of_data_restrictions", bare_tables=False)
        self.etrn = compiler.parameter("smtpd_etrn_restrictions")
        compiler.require_rejection()
        level = parse_level(p["compatibility_level"])
        #: below level 2 more is ours by default: say where that made a difference
        self.old_relay_domains = level < (2, 0, 0) and not p.explicit("relay_domains")
        self.old_networks = level < (2, 0, 0) and not (
            p.explicit("mynetworks") or p.explicit("mynetworks_style")
        )
        relay_first = p.flag("smtpd_relay_before_recipient_restrictions")
        #: below level 1 an unset relay list is empty; say when the later default would have refused
        self.relay_unset = level < (1, 0, 0) and not p.explicit("smtpd_relay_restrictions")
        #: below level 3.6 the relay list comes last unless told otherwise; say when that made a difference
        self.relay_last_by_default = level < (3, 6, 0) and not p.explicit(
            "smtpd_relay_before_recipient_restrictions"
        )
        if self.relay_unset:
            relay, relay_first = compiler.compile(FAKE_RELAY, "smtpd_relay_restrictions"), False
        self.recipient: tuple[tuple[Rule, ...], tuple[Rule, ...]] = (
            (relay, recipient) if relay_first else (recipient, relay)
        )

    async def verified(self, address: bytes) -> tuple[Known, str]:
        """What is known of ``address``, after some waiting for what is not known yet."""
        if self._verify is None:
            raise TableError("there is no verify service")
        count, delay = self._polls
        while True:
            found = await self._verify(address)
            count -= 1
            if found[0] is not Known.TODO or count <= 0 or self.sleep is None:
                return found
            await self.sleep(delay)

    # -- tables

    def maps(self, parameter: str) -> Maps:
        """The tables of a parameter."""
        return self.open(self.p[parameter], parameter)

    def open(self, spec: str, parameter: str, lenient: bool = False) -> Maps:
        """Tables named in a parameter; what can't be opened is noted, as a warning if ``lenient``."""
        maps = Maps(spec, self.p.directory, title=parameter, warn=self.log.warning)
        self._opened.append(maps)
        self._note(parameter, maps.problems, lenient)
        return maps

    def close(self) -> None:
        """Let go of tables and policy services."""
        self.policy.close()
        for maps in self._opened:
            maps.close()
        self.mynetworks.close()
        self.logged_permits.close()
        if self.mx_backup_networks is not None:
            self.mx_backup_networks.close()

    def _note(self, parameter: str, problems: list[MtadError], lenient: bool) -> None:
        for problem in problems:
            if isinstance(problem, ConfigError) and not lenient:
                self.errors.append(self.p.error(parameter, problem.reason, problem.remedy))
            else:
                self.warn(parameter, str(problem))

    def warn(self, parameter: str, text: str) -> None:
        """Note what is wrong with a parameter's value, and no reason not to start."""
        self.warnings.append(self.p.error(parameter, text))

    @property
    def relay_certs(self) -> Maps:
        """``relay_clientcerts``, opened when first needed."""
        if self._relay_certs is None:
            self._relay_certs = self.maps("relay_clientcerts")
        return self._relay_certs

    @property
    def unlisted(self) -> UnlistedTables:
        """The tables of valid recipients, opened when first needed."""
        if self._unlisted is None:
            self._unlisted = UnlistedTables(self)
        return self._unlisted

    @property
    def asks_routes(self) -> bool:
        """Whether the transports of addresses depend on tables."""
        return any(self.rewriter.p[name] for name in ROUTING)

    # -- notes on old defaults

    def note_relay_unset(self, request: Request) -> None:
        """Say that the default of level 1 would have refused."""
        self.log.info(
            f'{_OLD} "smtpd_relay_restrictions = (empty)" to avoid '
            f'"Relay access denied" error for {_parties(request)}'
        )

    def note_network(self, request: Request) -> None:
        """Say that the default of level 2 would not have had this client in ``mynetworks``."""
        self.log.info(
            f"{_OLD} mynetworks_style={self.p['mynetworks_style']} to permit request from "
            f'client "{request.client}"'
        )

    def note_relay_domain(self, kind: str, name: bytes) -> None:
        """Say that the default of level 2 would not have taken this domain for one to relay to."""
        self.log.info(f'{_OLD} relay_domains=$mydestination to accept mail for {kind} "{printable(name)}"')

    def note_relay_last(self, request: Request) -> None:
        """Say that the default of level 3.6 would have asked the relay list first."""
        self.log.info(f"{_OLD} smtpd_relay_before_recipient_restrictions=no to reject {_parties(request)}")


def _parties(request: Request) -> str:
    recipient = printable(request.recipient.text) if request.recipient else ""
    return f'recipient "{recipient}" from client "{request.client}"'
