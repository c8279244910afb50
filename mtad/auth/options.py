"""Every option of Cyrus SASL's ``smtpd.conf`` that the library or one of its plug-ins reads.

An option that is not here is read by nobody: Cyrus says nothing about it, ``mtad check`` does.
:func:`notes` compares a file with this list; it raises nothing.

Cyrus counterpart: ``doc/legacy/options.html``, the ``getopt`` calls of ``lib/`` and ``plugins/``.
"""

from __future__ import annotations

from collections.abc import Iterator

from mtad.config.sasl_conf import SaslConf
from mtad.config.types import nearest

#: What mtad goes by.
HONOURED = frozenset(
    {
        "pwcheck_method",
        "mech_list",
        "auxprop_plugin",
        "sasldb_path",
        "saslauthd_path",
        "canon_user_plugin",
        "auto_transition",
        "log_level",
        "scram_iteration_counter",
        "keytab",
        "sql_engine",
        "sql_hostnames",
        "sql_user",
        "sql_passwd",
        "sql_database",
        "sql_usessl",
        "sql_select",
        "sql_statement",
        "sql_insert",
        "sql_update",
        "ldapdb_uri",
        "ldapdb_id",
        "ldapdb_pw",
        "ldapdb_mech",
        "ldapdb_starttls",
        "ldapdb_canon_attr",
    }
)

#: The others, and what they are for.
OTHERS = {
    "ad_compat": "GSSAPI",
    "allow_plaintext": "nothing any more",
    "authdaemond_path": "the verifier authdaemond",
    "ccache_store": "GSSAPI",
    "client_mech_list": "clients, not servers",
    "ldapdb_rc": "the plug-in ldapdb",
    "ntlm_server": "NTLM",
    "ntlm_v2": "NTLM",
    "opiekeys": "OTP",
    "otp_mda": "OTP",
    "plugin_list": "debugging",
    "reauth_timeout": "DIGEST-MD5",
    "sasldb_mapsize": "sasldb in LMDB format",
    "sasldb_maxreaders": "sasldb in LMDB format",
    "scram_secret_generate": "making SCRAM secrets",
    "service_principal": "GSSAPI",
    "sql_verbose": "the plug-in sql",
    "srp_mda": "SRP",
    "srvtab": "KERBEROS_V4",
}

#: Those whose value is a secret.
SECRETS = frozenset({"sql_passwd", "ldapdb_pw"})


#: Mechanisms that Cyrus has and that are not offered here, and why.
NOT_OFFERED = {
    "NTLM": "it was broken long ago, and Windows itself has given it up",
    "SRP": "no client uses it",
    "PASSDSS-3DES-1": "no client uses it",
    "GSS-SPNEGO": "clients that have it use GSSAPI as well",
    "GS2-KRB5": "clients that have it use GSSAPI as well",
    "GS2-IAKERB": "clients that have it use GSSAPI as well",
}


def notes(conf: SaslConf) -> Iterator[tuple[bool, str]]:
    """(whether anything at all reads the option, what there is to say about it)."""
    for word in conf.words("mech_list"):
        if word.upper() in NOT_OFFERED:
            yield True, f"mechanism {word.upper()} is not offered ({NOT_OFFERED[word.upper()]})"
    known = (*HONOURED, *OTHERS)
    for name in conf.names():
        # libsasl asks for <plug-in>_<option> first
        plain = next((word for word in known if name == word or name.endswith(f"_{word}")), "")
        if plain in OTHERS:
            yield True, f"option {name} is not used here (it is for {OTHERS[plain]})"
        elif not plain:
            guess = nearest(name, known)
            yield False, f"option {name} is unknown: nothing reads it" + (f" ({guess})" if guess else "")
