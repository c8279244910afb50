"""The $ language of main.cf, form by form, and that no text breaks it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.config.expand import RESULT_LIMIT, ExpansionError, expand, references
from mtad.config.parameters import Parameters
from mtad.errors import ConfigError

VALUES = {"a": "A", "empty": "", "n3": "3", "n10": "10", "ref": "$a", "level": "3.9"}


def value(text: str) -> str:
    return expand(text, lambda name, depth: VALUES.get(name, ""), lambda name, depth: bool(VALUES.get(name)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("x $a y", "x A y"),
        ("${a}$(a)${ a }", "AAA"),
        ("$a.b $a_b|$nothing|", "A.b ||"),
        ("$$a $$$a $$$$", "$a $A $$"),
        ("${a?yes}", "yes"),
        ("${a? yes }", " yes "),
        ("${a ? yes}", " yes"),
        ("${empty?yes}", ""),
        ("${nothing?yes}", ""),
        ("${empty:no}${nothing:no}${a:no}", "nono"),
        ("${a?{yes}:{no}}", "yes"),
        ("${empty?{yes}:{no}}", "no"),
        ("${a ? {yes} : {no} }", "yes"),
        ("${empty?{yes}:no:no}", "no:no"),
        ("${a??foo:{b}ar}", "?foo:{b}ar"),
        ("${a:{x}}", ""),
        ("${empty:{x y}}", "x y"),
        ("${a?{$a${a?{b}:{c}}}:{d}}", "Ab"),
        ("${{$a} == {A} ? {same} : {other}}", "same"),
        ("${{$a}=={B}?{same}:{other}}", "other"),
        ("${{$a} == {A}}", "true"),
        ("${{$a} == {B}}", ""),
        ("${{$a} != {B} ? {x}}", "x"),
        ("${{$a} == {B} ? {x}}", ""),
        ("${{$a} == {B} : {x}}", "x"),
        ("${{$n3} < {$n10} ? {number} : {text}}", "number"),
        ("${{3x} < {10x} ? {yes} : {no}}", "no"),
        ("${{ a } == {a} ? {yes} : {no}}", "no"),
        ("${{b} >= {a}}${{a} <= {a}}${{a} > {a}}", "truetrue"),
        ("${{3.9} <level {3.10} ? {older} : {newer}}", "older"),
        ("${{3.9} < {3.10} ? {older} : {newer}}", "newer"),
        ("${{3} ==level {3.0.0}}", "true"),
        ("${{$level} >=level {3.9}}", "true"),
        ("${{} == {} ? {} : {x}}", ""),
        ("${domain_to_ascii{EXAMPLE.com}}", "example.com"),
        ("${domain_to_ascii { bücher.example }}", "xn--bcher-kva.example"),
        ("${domain_to_utf8{xn--bcher-kva.example}}", "bücher.example"),
        ("${domain_to_ascii{$a}}", "a"),
        ("$(a?{x}:{y})", "x"),
        ("${a?text with } brace", "text with  brace"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${a", "truncated macro reference"),
        ("$(a", "truncated macro reference"),
        ("$", "empty macro name"),
        ("$ a", "empty macro name"),
        ("${}", "empty macro name"),
        ("${a-b}", "attribute name syntax error"),
        ("${a b}", "attribute name syntax error"),
        ("${a?{x}y}", '":" expected'),
        ("${a?{x}:{y}z}", "unexpected input"),
        ("${{a}}", "expected at"),
        ("${{a} = {b}}", "expected at"),
        ("${{a} == b}", "expression"),
        ("${{a} == {b} x}", "expected at"),
        ("${{a} <version {b}}", "bad operator suffix"),
        ("${{x} <level {1}}", "malformed compatibility level"),
        ("${{} <level {1}}", "malformed compatibility level"),
        ("${{3.2000} <level {1}}", "malformed compatibility level"),
        ("${{%s} == {1}}" % ("9" * 30), "bad conversion"),
        ("${upper{x}}", 'unknown function "upper"'),
        ("${domain_to_ascii{x}y}", "unexpected input"),
        ("${domain_to_ascii{ä..b}}", "bad domain name"),
    ],
)
def test_errors(text: str, reason: str) -> None:
    with pytest.raises(ExpansionError, match=reason):
        value(text)


def test_references_are_found_in_all_branches() -> None:
    text = "$a ${b?{$c}:{${d:$e}}} ${{$f} == {$g} ? {$h} : {$i}} $$j ${domain_to_ascii{$k}}"
    assert references(text) == list("abcdefghik")
    assert references("$a ${b") == []


def load(**values: str) -> Parameters:
    return Parameters.from_mapping(values)


def test_values_are_expanded_late_and_through_each_other() -> None:
    p = load(first="$second", second="<$third>", third="3")
    assert p["first"] == "<3>"
    assert load(x="${y?text}", y="$z", z="")["x"] == "text"  # the text of y counts, not its value
    assert load(dollars="$$x", x="1", other="$dollars")["other"] == "$x"


@pytest.mark.parametrize(
    "values",
    [{"a": "$a"}, {"a": "$b", "b": "$c", "c": "${a}"}, {"a": "x$a$a"}, {"a": "${{$a} == {1}}"}],
)
def test_a_circle_is_an_error(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="unreasonable macro call nesting") as caught:
        load(**values)["a"]
    assert caught.value.parameter in values


def test_a_test_of_itself_is_no_circle() -> None:
    assert load(a="${a?set}")["a"] == "set"


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    deep = "${a?{" * 5000 + "x" + "}}" * 5000
    with pytest.raises(ConfigError, match="nesting"):
        load(a="1", deep=deep)["deep"]
    fine = "${a?{" * 40 + "x" + "}}" * 40
    assert load(a="1", fine=fine)["fine"] == "x"
    chain = {f"p{i}": f"$p{i + 1}" for i in range(90)} | {"p90": "end"}
    assert load(**chain)["p0"] == "end"


def test_doubling_ends_before_the_memory_does() -> None:
    values = {f"p{i}": f"$p{i + 1}$p{i + 1}" for i in range(60)} | {"p60": "x" * 1000}
    started = time.perf_counter()
    with pytest.raises(ConfigError, match="too long"):
        load(**values)["p0"]
    many = load(big="x" * (RESULT_LIMIT // 2), all="$big" * 100_000)
    with pytest.raises(ConfigError, match="too long"):
        many["all"]
    assert time.perf_counter() - started < 5


EXPRESSION = st.text(alphabet=st.sampled_from("$$$${{}}()?:=<>!ab3 \tlev"), max_size=40)


@given(EXPRESSION)
def test_any_text_expands_or_is_refused(text: str) -> None:
    try:
        result = value(text)
    except ExpansionError:
        return
    assert isinstance(result, str)
    if "$" not in text:
        assert result == text


@given(st.dictionaries(st.sampled_from("abcd"), EXPRESSION))
def test_any_set_of_values_expands_or_is_refused(values: dict[str, str]) -> None:
    p = Parameters.from_mapping(values)
    for name in values:
        try:
            assert len(p[name]) <= RESULT_LIMIT
        except ConfigError as error:
            assert error.parameter in values


@given(st.text(max_size=30))
def test_literal_text_survives(text: str) -> None:
    assert value(text.replace("$", "$$")) == text
