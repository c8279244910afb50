"""Domain names in the form that the DNS knows."""

from __future__ import annotations

import pytest

from mtad.idn import encode, to_ascii, to_unicode


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Plain.Example", "Plain.Example"),
        ("B\u00dccher.example", "xn--bcher-kva.example"),
        ("fu\u00df.example", "xn--fu-hia.example"),  # not fuss
        ("a\u3002\u00fc", "a.xn--tda"),
        ("\u2615.example", "xn--53h.example"),
        ("xn--tda.\u00fc", "xn--tda.xn--tda"),
        (".\u00fc.example", ".xn--tda.example"),
        ("\u00fc..x", "xn--tda..x"),
    ],
)
def test_names(name: str, wanted: str) -> None:
    assert encode(name) == to_ascii(name) == wanted


@pytest.mark.parametrize(
    "name",
    [
        "-\u00fc.x",
        "\u00fc-.x",
        "ab--\u00fc.x",
        "\u0301\u00fc.x",
        "xn--.\u00fc",
        "xn--a.\u00fc",
        "\u00fc" * 60,
        "\ue000.x",
    ],
)
def test_names_without_an_ascii_form(name: str) -> None:
    with pytest.raises(UnicodeError):
        encode(name)
    assert to_ascii(name) == name


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("mail.xn--tda.example", "mail.\u00fc.example"),
        ("Mail.XN--TDA.example.", "mail.\u00fc.example."),
        ("Mail.example", "Mail.example"),
        ("xn--.example", "xn--.example"),
        ("xn--999999b.example", "xn--999999b.example"),
    ],
)
def test_names_for_people(name: str, wanted: str) -> None:
    assert to_unicode(name) == wanted
