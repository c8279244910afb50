import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtad.sasl.encoding import Malformed, decode, encode

ALPHABET = (string.ascii_letters + string.digits + "+/= \r\n-_.").encode()


@given(st.binary(max_size=200))
def test_what_was_encoded_decodes(data: bytes) -> None:
    assert encode(data) == base64.b64encode(data)
    assert decode(encode(data)) == data


@given(st.lists(st.sampled_from(ALPHABET), max_size=24).map(bytes))
def test_whatever_decodes_is_canonical_up_to_unused_bits(data: bytes) -> None:
    try:
        octets = decode(data)
    except Malformed:
        return
    assert len(encode(octets)) == len(data)
    assert base64.b64decode(data, validate=True) == octets


@pytest.mark.parametrize(
    ("data", "partial"),
    [
        (b"=", True),
        (b"YQ", True),
        (b"YWJjZA", True),
        (b"YWJj=", True),
        (b"YQ==Y", False),
        (b"YQ==YQ==", False),
        (b"Y===", False),
        (b"====", False),
        (b"Y=Q=", False),
        (b"YW Jj", False),
        (b" YWJj", False),
        (b"YWJj\r\n", True),
        (b"Y-Jj", False),
        (b"\xc3\xa4bc", False),
    ],
)
def test_malformed(data: bytes, partial: bool) -> None:
    with pytest.raises(Malformed) as caught:
        decode(data)
    assert caught.value.partial is partial
    assert data.decode("latin-1").strip() not in str(caught.value) or data == b" "
