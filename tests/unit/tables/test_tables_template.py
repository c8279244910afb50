"""Templates of queries and results."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.errors import ConfigError, TableError
from mtad.tables.template import Results, Templates


def templates(warnings=None):
    return Templates("test:name", "name", (warnings if warnings is not None else []).append)


def query(text, key, quote=None):
    made = templates()
    template = made.query(text)
    values = made.for_query(key)
    return None if values is None else template.fill(values, quote)


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("%s", "a@b.c", "a@b.c"),
        ("<%u>", "a@b.c", "<a>"),
        ("<%u>", "plain", "<plain>"),
        ("%d", "a@b.c", "b.c"),
        ("%d", "plain", None),
        ("%d", "a@", None),
        ("%D", "@b.c", "b.c"),
        ("%u", "@b.c", None),
        ("%U", "@b.c", None),
        ("%s", "@b.c", "@b.c"),
        ("%u", "a@", "a"),
        ("%u at %d", "a@b@c.d", "a@b at c.d"),
        ("%1.%2.%3", "u@mail.example.com", "com.example.mail"),
        ("%3", "u@example.com", None),
        ("%1", "plain", None),
        ("%2", "u@.example..com.", "example"),
        ("100%% %S", "k", "100% k"),
        ("nothing", "k", "nothing"),
        ("%s", "", None),
    ],
)
def test_queries(text, key, expected):
    assert query(text, key) == expected


@pytest.mark.parametrize("text", ["%x", "50%", "%0", "%%%", "% s"])
def test_malformed_templates(text):
    with pytest.raises(ConfigError, match="Invalid query template"):
        templates().query(text)
    with pytest.raises(ConfigError, match="Invalid result template"):
        templates().result(text)


def found(result_format, key, *values, limit=0, query_text="%s", warnings=None):
    made = templates(warnings)
    made.query(query_text)
    results = Results(made, made.result(result_format), limit, key)
    for value in values:
        results.add(value)
    return results.joined()


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("%s", [b"x", b"y@z"], b"x,y@z"),
        ("%u", [b"x", b"y@z", b"@z"], b"x,y"),
        ("%d", [b"x", b"y@z", b"y@"], b"z"),
        ("smtp:[%s]", [b"h1", b"h2"], b"smtp:[h1],smtp:[h2]"),
        ("%S %U %D %1", [b"x"], b"a@b.c a b.c c"),
        ("%s", [None, b""], None),
        ("%s", [], None),
        ("%s", [b"\xff\xfe"], b"\xff\xfe"),
        ("%s", [b"cut\0here"], b"cut"),
    ],
)
def test_results(text, values, expected):
    assert found(text, "a@b.c", *values) == expected


def test_empty_values_and_keys_are_told():
    warnings = []
    assert found("%s", "key", b"", warnings=warnings) is None
    assert templates(warnings).for_query("") is None
    assert warnings == [
        'table "test:name": empty lookup result for: "key" -- ignored',
        'table "test:name": empty query string -- ignored',
    ]


def test_the_limit_of_results():
    assert found("%s", "k", b"a", b"b", limit=2) == b"a,b"
    assert found("%d", "k", b"a", b"b", b"c@d", limit=1) == b"d"  # what is left out does not count
    with pytest.raises(TableError, match="Expansion limit exceeded for key: 'k'"):
        found("%s", "k", b"a", b"b", b"c", limit=2)


def test_what_the_result_needs_the_key_must_have():
    made = templates()
    made.query("%s")
    made.result("%D")
    assert made.for_query("plain") is None
    assert made.for_query("a@b") is not None


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_quoted_keys_are_one_value(key):
    """Whatever the key, the database sees it as the text it is."""
    statement = query("SELECT '%s', '%u'", key, lambda text: text.replace("'", "''"))
    user = key.rpartition("@")[0] if "@" in key else key
    if statement is None:
        assert not user
        return
    database = sqlite3.connect(":memory:")
    assert database.execute(statement).fetchall() == [(key, user)]
    database.close()


@given(st.text(alphabet="%suSd1@. x", max_size=12), st.text(alphabet="ab@.%", max_size=12))
def test_never_anything_else_than_a_text_or_nothing(text, key):
    try:
        assert isinstance(query(text, key), str | None)
    except ConfigError:
        pass
