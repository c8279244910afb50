"""Every type of table, opened by its name."""

import asyncio
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.lines import tokens
from mtad.errors import ConfigError, TableError
from mtad.tables import Table, open_table
from mtad.tables.bdb_write import write_hash
from mtad.tables.memory import load_source
from mtad.tables.registry import open_or_defer
from mtad.tables.source import extract_braces, parse_source, split_name_value
from mtad.tables.table import Options, Text, fold


def ask(table: Table, key: bytes) -> bytes | None:
    return asyncio.run(table.lookup(key))


@pytest.mark.parametrize(
    ("spec", "key", "value"),
    [
        ("inline:{a=b}", b"A", b"b"),
        ("inline:{a=b, {Key = two  words}}", b"key", b"two  words"),
        ('inline:{{"a b" = c}}', b'"A b"', b"c"),
        ("inline:{a=b}", b"c", None),
        ("static:yes", b"whatever", b"yes"),
        ("static:{some text}", b"", b"some text"),
        ("cidr:{{10.0.0.0/8 ten}, {!192.168.0.0/16 other}}", b"10.1.2.3", b"ten"),
        ("cidr:{{10.0.0.0/8 ten}, {!192.168.0.0/16 other}}", b"8.8.8.8", b"other"),
        ("cidr:{{10.0.0.0/8 ten}, {!192.168.0.0/16 other}}", b"2001:db8::1", None),
        ("cidr:{{2001:db8::/32 six}}", b"2001:db8::1", b"six"),
        ("cidr:{{10.0.0.0/8 ten}}", b"not.an.address", None),
        ("pipemap:{inline:{a=b},inline:{b=c}}", b"a", b"c"),
        ("pipemap:{inline:{a=x},inline:{b=c}}", b"a", None),
        ("unionmap:{inline:{a=b},static:{c d},inline:{x=y}}", b"a", b"b,c d"),
        ("unionmap:{inline:{a=b}}", b"z", None),
        ("regexp:{{/^(.*)@Example\\.com$/ x-$1-${1}-$(1)-$$}}", b"joe@example.com", b"x-joe-joe-joe-$"),
        ("regexp:{{/a/i lower}}", b"A", None),
        ("regexp:{{!/a/ none}}", b"b", b"none"),
        ("regexp:{{/^not/!/never/ found}}", b"nothing", b"found"),
        ("regexp:{{/^not/!/never/ found}}", b"notnever", None),
        ("regexp:{{/a(b)?c(d)/ <$1|$2>}}", b"acd", b"<|d>"),
        ("pcre:{{/^(?<n>\\w+)@/ $1}}", b"joe@x", b"joe"),
        ("pcre:{{/a(b)?c(d)/ <$1|$2>}}", b"acd", b"<|d>"),
        ("pcre:{{/(d)(e)?/ <$1|$2>}}", b"d", b"<d|>"),
    ],
)
def test_lookup(spec, key, value):
    try:
        table = open_table(spec)
    except ConfigError as error:
        if error.remedy.startswith("install"):
            pytest.skip(str(error))
        raise
    assert ask(table, key) == value


@pytest.mark.parametrize("kind", ["cidr", "pcre", "regexp"])
def test_tables_of_patterns_have_no_fixed_key(kind):
    pattern = "1.2.3.4" if kind == "cidr" else "/x/"
    assert not open_table(f"{kind}:{{{{{pattern} y}}}}").fixed_key
    assert open_table("inline:{a=b}").fixed_key


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("foo:bar", "unsupported dictionary type: foo"),
        ("hash", 'open dictionary: expecting "type:name" form instead of "hash"'),
        ("hash:", 'open dictionary: expecting "type:name" form instead of "hash:"'),
        ("inline:x", 'bad syntax: "inline:x"; need "inline:{name=value...}"'),
        ("inline:{}", 'empty table: "inline:{}"; need "inline:{name=value...}"'),
        ("inline:{a}", 'missing \'=\' after attribute name: "inline:{a}"; need "inline:{name=value...}"'),
        ("static:{a", "bad static:name syntax: missing '}' in \"{a\""),
        ("unionmap:{}", 'bad syntax: "unionmap:{}"; need "unionmap:{type:name...}"'),
        ("pipemap:{x}", 'bad syntax: "pipemap:{x}"; need "pipemap:{type:name...}"'),
    ],
)
def test_bad_specifications(spec, message):
    with pytest.raises(ConfigError) as caught:
        open_table(spec)
    assert caught.value.reason == message


@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb", "cdb", "texthash", "pcre", "regexp", "cidr"])
def test_missing_files(kind, tmp_path):
    with pytest.raises(TableError, match="No such file or directory"):
        open_table(f"{kind}:{tmp_path}/none")


def test_a_missing_table_fails_at_lookup_until_it_is_there(tmp_path, monkeypatch):
    problems = []
    table = open_or_defer(f"texthash:{tmp_path}/x", Options(), problems)
    assert len(problems) == 1
    with pytest.raises(TableError, match="No such file"):
        ask(table, b"a")
    (tmp_path / "x").write_text("a b\n")
    with pytest.raises(TableError):
        ask(table, b"a")
    monkeypatch.setattr("time.monotonic", lambda: 1e12)
    assert ask(table, b"a") == b"b"


def test_texthash(tmp_path):
    source = tmp_path / "x"
    source.write_bytes(b"# c\nA one\n  more\nb two\na again\n\xff bad\nnovalue\n\xc3\x84 uml\n")
    warnings = []
    table = open_table("texthash:x", str(tmp_path), warn=warnings.append)
    assert ask(table, b"a") == b"one  more"
    assert ask(table, b"B") == b"two"
    assert ask(table, "ä".encode()) == b"uml"
    assert ask(table, b"\xff") is None
    assert [text.replace(str(tmp_path), "") for text in warnings[:3]] == [
        '/x, line 5: duplicate entry: "a"',
        '/x, line 6: non-UTF-8 input "\udcff bad" -- ignoring this line',
        "/x, line 7: expected format: key whitespace value -- ignoring this line",
    ]
    source.write_text("a changed\n")
    assert ask(table, b"a") == b"changed"
    source.unlink()
    source.mkdir()
    warnings.clear()
    assert ask(table, b"a") == b"changed"
    assert ask(table, b"a") == b"changed"
    assert warnings == [f"open {source}: Is a directory; what was read before stays in use"]


def test_hash_reads_what_there_is(tmp_path):
    (tmp_path / "x").write_text("a source\n")
    warnings = []
    assert ask(open_table("hash:x", str(tmp_path), warn=warnings.append), b"a") == b"source"
    assert "the text source" in warnings.pop()
    pytest.importorskip("lmdb")
    from mtad.tables.lmdb_table import write_lmdb

    write_lmdb(str(tmp_path / "x.lmdb"), [(b"a\0", b"from lmdb\0")])
    assert ask(open_table("hash:x", str(tmp_path), warn=warnings.append), b"a") == b"from lmdb"
    assert "x.lmdb is used" in warnings.pop()
    assert ask(open_table("lmdb:x", str(tmp_path)), b"A") == b"from lmdb"
    write_hash(str(tmp_path / "x.db"), [(b"a\0", b"from db\0")])
    assert ask(open_table("hash:x", str(tmp_path), warn=warnings.append), b"a") == b"from db"
    assert not warnings


@pytest.mark.parametrize("end", [b"", b"\0"])
def test_keys_with_and_without_nul(tmp_path, end):
    write_hash(str(tmp_path / "x.db"), [(b"a" + end, b"1" + end), (b"b" + end, b"2" + end)])
    table = open_table("hash:x", str(tmp_path))
    assert [ask(table, key) for key in (b"a", b"B", b"c")] == [b"1", b"2", None]
    table.close()


def test_a_stale_index_is_told(tmp_path):
    (tmp_path / "x").write_text("a b\n")
    write_hash(str(tmp_path / "x.db"), [(b"a\0", b"b\0")])
    os.utime(tmp_path / "x.db", (1000, 1000))
    warnings = []
    open_table("hash:x", str(tmp_path), warn=warnings.append)
    assert warnings == [f"database {tmp_path}/x.db is older than source file {tmp_path}/x"]


def test_a_value_that_is_no_utf8_is_an_error(tmp_path):
    write_hash(str(tmp_path / "x.db"), [(b"a\0", b"\xff\0")])
    with pytest.raises(TableError, match="non-UTF-8 value"):
        ask(open_table("hash:x", str(tmp_path)), b"a")


def cdb(entries):
    """A constant database, made slowly."""
    import struct

    body, places = b"", []
    for key, value in entries:
        code = 5381
        for byte in key:
            code = (code * 33 & 0xFFFFFFFF) ^ byte
        places.append((code, 2048 + len(body)))
        body += struct.pack("<II", len(key), len(value)) + key + value
    head, tables, offset = b"", b"", 2048 + len(body)
    for number in range(256):
        mine = [place for place in places if place[0] & 255 == number]
        slots = [(0, 0)] * (2 * len(mine))
        for code, position in mine:
            slot = (code >> 8) % len(slots)
            while slots[slot][1]:
                slot = (slot + 1) % len(slots)
            slots[slot] = (code, position)
        head += struct.pack("<II", offset + len(tables), len(slots))
        tables += b"".join(struct.pack("<II", *slot) for slot in slots)
    return head + body + tables


def test_cdb(tmp_path):
    entries = {b"key%d\0" % n: b"value%d\0" % n for n in range(500)}
    (tmp_path / "x.cdb").write_bytes(cdb(entries.items()))
    table = open_table("cdb:x", str(tmp_path))
    assert all(ask(table, b"Key%d" % n) == b"value%d" % n for n in range(500))
    assert ask(table, b"key500") is None
    assert len(list(table.items())) == 500
    assert ask(open_table("hash:x", str(tmp_path)), b"key7") == b"value7"
    (tmp_path / "x.cdb").write_bytes(cdb(entries.items())[:3000])
    table = open_table("cdb:x", str(tmp_path))
    with pytest.raises(TableError, match="damaged"):
        ask(table, b"key7")


def test_rules_in_a_file(tmp_path):
    (tmp_path / "x").write_text(
        "if /^foo/\n/bar$/ foobar\nif !/qux/\n/baz/ deep\nendif\nendif\nif /(/\n/zux/ unguarded\nendif\n"
        "/q/ $2\n!/^(x)/ $1\nqwe rty\nendif\n/^z/ last\n"
    )
    warnings = []
    table = open_table("regexp:x", str(tmp_path), warn=warnings.append)
    assert [ask(table, key) for key in (b"foobar", b"foobaz", b"foobazqux", b"bar", b"z", b"zux")] == [
        b"foobar", b"deep", None, None, b"last", b"unguarded",
    ]  # fmt: skip
    assert [text.partition(f"{tmp_path}/x, ")[2] for text in warnings[:6]] == [
        "line 7: Unmatched ( or \\(",
        "line 9: ignoring ENDIF without matching IF",
        'line 10: out of range replacement index "2": skipping this rule',
        "line 11: $number found in negative match replacement text: skipping this rule",
        "line 12: ignoring unrecognized request",
        "line 13: ignoring ENDIF without matching IF",
    ]
    (tmp_path / "x").write_text("/./ new\n")
    assert ask(table, b"foobar") == b"new"


def test_a_rule_with_a_runaway_pattern_does_not_apply():
    warnings = []
    rules = "{/^(a+)+$/ x}, {!/^(a+)+$/ y}, {if !/^(a+)+$/}, {/./ z}, {endif}, {/./ last}"
    try:
        table = open_table(f"pcre:{{{rules}}}", warn=warnings.append)
    except ConfigError as error:
        pytest.skip(str(error))
    assert ask(table, b"a" * 5000 + b"b") == b"last"
    assert [text.rpartition("}, ")[2] for text in warnings] == [
        f"line {number}: match limit exceeded" for number in (1, 2, 3)
    ]
    assert ask(table, b"b") == b"y"


@pytest.mark.parametrize("kind", ["regexp", "pcre", "cidr"])
def test_line_ends_of_other_systems(tmp_path, kind):
    pattern = "10.0.0.1" if kind == "cidr" else "/10/"
    (tmp_path / "x").write_bytes(f"{pattern} REJECT no\r\n".encode())
    assert ask(open_table(f"{kind}:x", str(tmp_path)), b"10.0.0.1") == b"REJECT no"


def test_environ(monkeypatch):
    monkeypatch.setenv("some_name", "value")
    assert ask(open_table("environ:x"), b"Some_Name") == b"value"


def test_fail():
    with pytest.raises(TableError):
        ask(open_table("fail:x"), b"a")


@given(st.text())
def test_any_source_can_be_parsed(text):
    entries = list(parse_source(text, "x", Options()))
    assert all(key and value for _, key, value in entries)
    assert all(line > 0 for line, _, _ in entries)


def test_source_lines():
    text = '"a b" c\n\\  d\n"open\na:\tb\nq"x y"z w\n'
    warnings = []
    found = [(key, value) for _, key, value in parse_source(text, "x", Options(warn=warnings.append))]
    assert found == [(b'"a b"', b"c"), (b"\\ ", b"d"), (b"a:", b"b"), (b'q"x y"z', b"w")]
    assert warnings == [
        "x, line 3: unbalanced '\"' in '\"open' -- ignoring this line",
        'x, line 4: record is in "key: value" format; is this an alias file?',
    ]


def test_duplicates(tmp_path):
    (tmp_path / "x").write_text("a 1\nA 2\n")
    path = str(tmp_path / "x")
    assert load_source(path, Options()) == {b"a": b"1"}
    assert load_source(path, Options(duplicates="replace")) == {b"a": b"2"}
    assert load_source(path, Options(fold=False)) == {b"a": b"1", b"A": b"2"}


@given(st.text(alphabet='{}, ab="'))
def test_list_syntax_never_loses_text(text):
    assert "".join(tokens(text)).replace(",", "").replace(" ", "") == text.replace(",", "").replace(" ", "")


def test_list_syntax():
    assert tokens("a, b {c d, e} inline:{x=y, z=w}f ,") == [
        "a", "b", "{c d, e}", "inline:{x=y, z=w}f",
    ]  # fmt: skip
    assert extract_braces("{ a {b} }") == "a {b}"
    for bad in ("a", "{a", "{a}b"):
        with pytest.raises(ConfigError):
            extract_braces(bad)
    assert split_name_value(' "x y" = z ') == ('"x y"', "z")
    for bad in ("", "x", '"x = y'):
        with pytest.raises(ConfigError):
            split_name_value(bad)


def test_folding():
    assert fold(b"AbC") == b"abc"
    assert fold("Straße Ä".encode()) == "strasse ä".encode()
    assert fold(b"A\xff") == b"a\xff"
    assert fold("Straße Ä".encode(), utf8=False) == "straße Ä".encode()


def test_without_smtputf8_bytes_are_bytes(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes("\xc4@example.com gr\xfc\xdf\n".encode("latin-1"))
    monkeypatch.setattr(Text, "utf8", False)
    warnings = []
    table = open_table("texthash:x", str(tmp_path), warn=warnings.append)
    assert ask(table, b"\xc4@Example.COM") == b"gr\xfc\xdf"
    assert ask(table, b"\xe4@example.com") is None
    assert warnings == []
