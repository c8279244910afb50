"""The names of restrictions: what each of them runs.

``PLAIN`` restrictions stand alone; ``TABLES`` take a table and make a rule of it; ``REMOVED`` were Postfix's
once.  Names are
lower case here; Postfix takes them in any case.

Postfix counterpart: ``mail_params.h``, ``generic_checks()``.
"""

from __future__ import annotations

from collections.abc import Callable

from mtad.policy import access_restrictions as access
from mtad.policy import dns_lists, unlisted, verify
from mtad.policy import restrictions_address as address
from mtad.policy import restrictions_dns as dns
from mtad.policy import restrictions_generic as generic
from mtad.policy import restrictions_login as login
from mtad.policy.access import AccessTable
from mtad.policy.check import Run

PLAIN: dict[str, Run] = {
    "check_recipient_maps": unlisted.reject_unlisted_recipient,
    "defer": generic.defer,
    "defer_if_permit": generic.defer_if_permit,
    "defer_if_reject": generic.defer_if_reject,
    "defer_unauth_destination": address.defer_unauth_destination,
    "permit": generic.permit,
    "permit_auth_destination": address.permit_auth_destination,
    "permit_inet_interfaces": generic.permit_inet_interfaces,
    "permit_mx_backup": dns.permit_mx_backup,
    "permit_mynetworks": generic.permit_mynetworks,
    "permit_sasl_authenticated": login.permit_sasl_authenticated,
    "permit_tls_all_clientcerts": generic.permit_tls_all_clientcerts,
    "permit_tls_clientcerts": generic.permit_tls_clientcerts,
    "reject": generic.reject,
    "reject_authenticated_sender_login_mismatch": login.reject_authenticated_sender_login_mismatch,
    "reject_invalid_helo_hostname": address.reject_invalid_helo_hostname,
    "reject_invalid_hostname": address.reject_invalid_helo_hostname,
    "reject_known_sender_login_mismatch": login.reject_known_sender_login_mismatch,
    "reject_multi_recipient_bounce": generic.reject_multi_recipient_bounce,
    "reject_non_fqdn_helo_hostname": address.reject_non_fqdn_helo_hostname,
    "reject_non_fqdn_hostname": address.reject_non_fqdn_helo_hostname,
    "reject_non_fqdn_recipient": address.reject_non_fqdn_recipient,
    "reject_non_fqdn_sender": address.reject_non_fqdn_sender,
    "reject_plaintext_session": generic.reject_plaintext_session,
    "reject_unauth_destination": address.reject_unauth_destination,
    "reject_unauth_pipelining": generic.reject_unauth_pipelining,
    "reject_unauthenticated_sender_login_mismatch": login.reject_unauthenticated_sender_login_mismatch,
    "reject_unknown_address": dns.reject_unknown_sender_domain,
    "reject_unknown_client": generic.reject_unknown_client_hostname,
    "reject_unknown_client_hostname": generic.reject_unknown_client_hostname,
    "reject_unknown_helo_hostname": dns.reject_unknown_helo_hostname,
    "reject_unknown_hostname": dns.reject_unknown_helo_hostname,
    "reject_unknown_recipient_domain": dns.reject_unknown_recipient_domain,
    "reject_unknown_reverse_client_hostname": generic.reject_unknown_reverse_client_hostname,
    "reject_unknown_sender_domain": dns.reject_unknown_sender_domain,
    "reject_unlisted_recipient": unlisted.reject_unlisted_recipient,
    "reject_unlisted_sender": unlisted.reject_unlisted_sender,
    "reject_unverified_recipient": verify.reject_unverified_recipient,
    "reject_unverified_sender": verify.reject_unverified_sender,
}

TABLES: dict[str, Callable[[AccessTable], Run]] = {
    "check_ccert_access": access.check_ccert_access,
    "check_client_access": access.check_client_access,
    "check_etrn_access": access.check_etrn_access,
    "check_helo_access": access.check_helo_access,
    "check_recipient_access": access.check_recipient_access,
    "check_reverse_client_hostname_access": access.check_reverse_client_hostname_access,
    "check_sasl_access": access.check_sasl_access,
    "check_sender_access": access.check_sender_access,
    **{
        f"check_{what}_{type_.lower()}_access": dns.server_access(what, type_)
        for what in ("client", "reverse_client_hostname", "helo", "sender", "recipient")
        for type_ in ("A", "MX", "NS")
    },
}

#: What a bare ``type:table`` may stand for, by the list it is in.
BARE_TABLES = (
    "check_client_access",
    "check_reverse_client_hostname_access",
    "check_helo_access",
    "check_sender_access",
    "check_recipient_access",
    "check_etrn_access",
)

#: The built-in restriction class ``reject_sender_login_mismatch``.
LOGIN_MISMATCH = "reject_authenticated_sender_login_mismatch reject_unauthenticated_sender_login_mismatch"

#: Those that take a list in the DNS.
DNS_LISTS: dict[str, Callable[[str], Run]] = {
    "permit_dnswl_client": dns_lists.permit_dnswl_client,
    "permit_rhswl_client": dns_lists.permit_rhswl_client,
    "reject_rbl": dns_lists.reject_rbl_client,
    "reject_rbl_client": dns_lists.reject_rbl_client,
    "reject_rhsbl_client": dns_lists.reject_rhsbl_client,
    "reject_rhsbl_helo": dns_lists.reject_rhsbl_helo,
    "reject_rhsbl_recipient": dns_lists.reject_rhsbl_recipient,
    "reject_rhsbl_reverse_client": dns_lists.reject_rhsbl_reverse_client,
    "reject_rhsbl_sender": dns_lists.reject_rhsbl_sender,
}

REMOVED: dict[str, str] = {
    "check_relay_domains": '"reject_unauth_destination"',
    "permit_naked_ip_address": '"permit_mynetworks" or "permit_sasl_authenticated"',
    "reject_maps_rbl": '"reject_rbl_client domain-name"',
}
