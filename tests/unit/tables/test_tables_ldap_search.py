"""What LDAP entries give, without a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.errors import TableError
from mtad.tables.ldap_search import BASE, SUBTREE, Attributes, Expansion
from mtad.tables.ldap_table import quote_dn, quote_filter
from mtad.tables.template import Results, Templates

PEOPLE = {
    "cn=joe": {"mail": [b"joe@x"], "maildrop": [b"joe@imap"]},
    "cn=ann": {"mail": [b"ann@x"], "Maildrop": [b"ann@imap", b"ann@two"]},
    "cn=group": {"mail": [b"group@x"], "member": [b"cn=joe", b"cn=ann"]},
    "cn=routed": {"mail": [b"routed@x"], "maildrop": [b"host"], "member": [b"cn=joe"]},
    "cn=gone": {"member": [b"cn=nobody", b"cn=joe"]},
    "cn=loop": {"member": [b"cn=loop"], "mail": [b"loop@x"]},
    "cn=url": {"member": [b"url:people"]},
    "cn=options": {"maildrop;lang-en": [b"en"], "maildropx": [b"other"]},
}


def parse_url(text):
    if text == "url:bad":
        raise ValueError(text)
    return ("base", SUBTREE, "(all)", ["mail", "sn"]) if text.startswith("url:") else None


class Directory:
    def __init__(self):
        self.asked = []

    def search(self, base, scope, condition, attributes):
        self.asked.append((base, scope, condition, tuple(attributes)))
        if base == "base":
            return [(name, {"mail": PEOPLE[name]["mail"]}) for name in ("cn=joe", "cn=ann")]
        return [(base, PEOPLE[base])] if base in PEOPLE else None


def collect(
    names, *, plain="", leaf="", terminal="", special="", size=0, depth=1000, limit=0, directory=None
):
    warnings = []
    attributes = Attributes(*(tuple(words.split()) for words in (terminal, leaf, plain, special)))
    expansion = Expansion("x.cf", attributes, size, depth, parse_url, warnings.append)
    templates = Templates("ldap:x.cf", "x.cf", warnings.append)
    results = Results(templates, templates.result("%s"), limit, "key")
    directory = directory or Directory()
    expansion.collect([(name, PEOPLE[name]) for name in names.split()], results, directory.search)
    return (results.joined() or b"").decode(), warnings


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        ("cn=joe", {"plain": "maildrop"}, "joe@imap"),
        ("cn=joe cn=ann", {"plain": "maildrop"}, "joe@imap,ann@imap,ann@two"),
        ("cn=joe", {"plain": "maildrop mail"}, "joe@x,joe@imap"),
        ("cn=joe", {"plain": "nothing"}, ""),
        ("cn=group", {"plain": "maildrop", "special": "member"}, "joe@imap,ann@imap,ann@two"),
        ("cn=group", {"plain": "mail", "special": "member"}, "group@x,joe@x,ann@x"),
        ("cn=group", {"leaf": "mail", "special": "member"}, "joe@x,ann@x"),
        ("cn=joe", {"leaf": "mail", "special": "member"}, "joe@x"),
        ("cn=routed", {"terminal": "maildrop", "leaf": "mail", "special": "member"}, "host"),
        (
            "cn=group",
            {"terminal": "maildrop", "leaf": "mail", "special": "member"},
            "joe@imap,ann@imap,ann@two",
        ),
        ("cn=options", {"plain": "maildrop"}, "en"),
        ("cn=options", {"plain": "maildrop;lang-en"}, "en"),
        ("cn=options", {"plain": "maildrop;lang-de"}, ""),
        ("cn=url", {"plain": "mail", "special": "member"}, "joe@x,ann@x"),
        ("cn=url", {"plain": "maildrop", "special": "member"}, ""),
    ],
)
def test_attributes(names, wanted, expected):
    assert collect(names, **wanted) == (expected, [])


def test_only_what_is_wanted_is_asked_of_a_url():
    directory = Directory()
    collect("cn=url", plain="maildrop MAIL", special="member", directory=directory)
    assert directory.asked == [("base", SUBTREE, "(all)", ("MAIL",))]
    directory = Directory()
    collect("cn=group", plain="mail", special="member", directory=directory)
    assert directory.asked[0] == ("cn=joe", BASE, "(objectclass=*)", ("mail", "member"))


def test_an_entry_that_is_not_there_is_left_out():
    assert collect("cn=gone", plain="mail", special="member") == (
        "joe@x",
        ["x.cf: DN cn=nobody not found, skipping"],
    )


def test_limits():
    with pytest.raises(TableError, match=r"Query size limit \(1\) exceeded"):
        collect("cn=joe cn=ann", plain="mail", size=1)
    with pytest.raises(TableError, match="Expansion limit exceeded"):
        collect("cn=group", plain="maildrop", special="member", limit=2)
    with pytest.raises(TableError, match="Recursion limit exceeded for special attribute member"):
        collect("cn=loop", plain="mail", special="member", depth=5)


def test_a_malformed_url_is_a_failure():
    PEOPLE["cn=bad"] = {"member": [b"url:bad"]}
    try:
        with pytest.raises(TableError, match="malformed URL"):
            collect("cn=bad", special="member")
    finally:
        del PEOPLE["cn=bad"]


def test_quoting():
    assert quote_filter("a*(b)\\c") == "a\\2A\\28b\\29\\5Cc"
    assert quote_dn('a b,c+"d"') == "a\\20b\\2Cc\\2B\\22d\\22"


@given(st.text())
def test_a_quoted_value_has_no_syntax(text):
    quoted = quote_filter(text)
    assert not set("*()") & set(quoted)
    assert quoted.count("\\") == sum(text.count(char) for char in "*()\\")
    assert not set(' ,+"<>;#') & set(quote_dn(text))
