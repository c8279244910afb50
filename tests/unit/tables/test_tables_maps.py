"""Maps: several tables, and the order of keys for an address."""

import asyncio

import pytest

from mtad.errors import TableError
from mtad.tables import Maps
from mtad.tables.maps import Find, quote_local, split_extension


class Recorder:
    """A table that writes down what it is asked."""

    def __init__(self, spec, fixed_key=True, answers=None):
        self.spec = spec
        self.fixed_key = fixed_key
        self.asked = []
        self.answers = answers or {}

    async def lookup(self, key):
        self.asked.append(key.decode())
        return self.answers.get(key)

    def close(self):
        pass


def recording(*tables):
    maps = Maps("")
    maps.tables = tables
    return maps


def run(awaitable):
    return asyncio.run(awaitable)


def test_first_table_answers():
    maps = Maps("inline:{a=1}, inline:{a=2,b=3} static:{x y}")
    assert [run(maps.lookup(key)) for key in (b"a", b"b", b"c", b"")] == [b"1", b"3", b"x y", None]
    assert not Maps("") and maps
    maps.close()


def test_an_empty_result_is_an_error():
    with pytest.raises(TableError, match="empty string result"):
        run(recording(Recorder("x", answers={b"a": b""})).lookup(b"a"))


def test_a_bad_table_fails_at_lookup():
    warnings = []
    maps = Maps("inline:{a=1} foo:bar inline:{b=2}", warn=warnings.append)
    assert len(maps.problems) == 1 and len(warnings) == 1
    assert run(maps.lookup(b"a")) == b"1"
    with pytest.raises(TableError, match="unsupported dictionary type: foo"):
        run(maps.lookup(b"b"))


@pytest.mark.parametrize(
    ("address", "strategy", "asked"),
    [
        ("u+x@d", Find.DEFAULT, ["u+x@d", "u@d", "@d"]),
        ("u+x@local", Find.DEFAULT, ["u+x@local", "u@local", "u+x", "u", "@local"]),
        ("u@Origin", Find.DEFAULT, ["u@Origin", "u", "@Origin"]),
        ("u", Find.DEFAULT, ["u"]),
        ("u+x", Find.DEFAULT, ["u+x", "u"]),
        ("u+x@a.b", Find.FULL, ["u+x@a.b"]),
        ("u+x@a.b", Find.NO_EXTENSION, ["u@a.b"]),
        ("u+x@local", Find.LOCAL | Find.LOCAL_AT, ["u+x", "u+x@"]),
        ("u+x@local", Find.NO_EXTENSION | Find.LOCAL_AT, ["u@local", "u+x@", "u@"]),
        ("u@a.b.c", Find.FULL | Find.DOMAIN, ["u@a.b.c", "a.b.c"]),
        ("u@a.b.c", Find.FULL | Find.DOMAIN | Find.PARENTS, ["u@a.b.c", "a.b.c", "b.c", "c"]),
        ("u@a.b.c", Find.FULL | Find.DOMAIN | Find.DOT_PARENTS, ["u@a.b.c", "a.b.c", ".b.c", ".c"]),
        ("u@a.b", Find.FULL | Find.ANY_LOCAL_AT, ["u@a.b", "u@"]),
        ("a b@d", Find.DEFAULT, ['"a b"@d', "a b@d", "@d"]),
        ("a b@local", Find.DEFAULT, ['"a b"@local', "a b@local", '"a b"', "a b", "@local"]),
    ],
)
def test_order_of_keys(address, strategy, asked):
    table = Recorder("x")
    found = run(
        recording(table).find_address(
            address.encode(), "+", lambda domain: domain == b"local", b"origin", strategy
        )
    )
    assert found is None
    assert table.asked == asked


def test_tables_of_patterns_see_only_the_whole_address():
    fixed, pattern = Recorder("x"), Recorder("y", fixed_key=False)
    run(recording(fixed, pattern).find_address(b"u+x@local", "+", lambda domain: True))
    assert pattern.asked == ["u+x@local"]
    assert fixed.asked == ["u+x@local", "u@local", "u+x", "u", "@local"]


def test_the_extension_that_did_not_match():
    maps = Maps("inline:{a@d=1, b+x@d=2, c=3, @e=4}")

    def match(address):
        return run(maps.match_address(address, "+-", lambda domain: domain == b"d"))

    assert match(b"a+ext@d") == (b"1", b"+ext")
    assert match(b"a-ext@D") == (b"1", b"-ext")
    assert match(b"b+x@d") == (b"2", b"")
    assert match(b"c+y@d") == (b"3", b"+y")
    assert match(b"q+y@e") == (b"4", b"")
    assert match(b"q+y@f") is None


def test_is_local_may_have_to_wait():
    async def is_local(domain):
        return domain == b"d"

    maps = Maps("inline:{a=1}")
    assert run(maps.find_address(b"a@d", "", is_local)) == b"1"
    assert run(maps.find_address(b"a@e", "", is_local)) is None


@pytest.mark.parametrize(
    ("local", "delimiter", "expected"),
    [
        (b"u+x+y", "+", (b"u", b"+x+y")),
        (b"u-x+y", "+-", (b"u", b"-x+y")),
        (b"u-x+y", "+", (b"u-x", b"+y")),
        (b"u", "+", (b"u", b"")),
        (b"u+", "+", (b"u", b"+")),
        (b"+x", "+", (b"+x", b"")),
        (b"u+x", "", (b"u+x", b"")),
        (b"Mailer-Daemon", "-", (b"Mailer-Daemon", b"")),
        (b"double-bounce", "-", (b"double-bounce", b"")),
        (b"owner-list", "-", (b"owner-list", b"")),
        (b"list-Request", "-", (b"list-Request", b"")),
        (b"-request", "-", (b"-request", b"")),
        (b"owner+list", "+", (b"owner", b"+list")),
    ],
)
def test_split_extension(local, delimiter, expected):
    assert split_extension(local, delimiter) == expected


def test_quoting():
    assert quote_local(b"a.b") == b"a.b"
    assert quote_local("ü".encode()) == "ü".encode()
    assert quote_local(b"a b") == b'"a b"'
    assert quote_local(b'a"\\') == b'"a\\"\\\\"'
    assert quote_local(b"a..b") == b'"a..b"'
    assert quote_local(b"a.") == b'"a."'
    assert quote_local(b"") == b'""'
