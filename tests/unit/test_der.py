"""DER reading and writing: laws, known encodings, and the forms that are refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage import der
from signimage.errors import FormatError


@pytest.mark.parametrize(
    ("dotted", "encoded"),
    [
        ("1.2.840.113549.1.5.13", "06092a864886f70d01050d"),
        ("2.16.840.1.101.3.4.1.42", "060960864801650304012a"),
        ("1.3.6.1.4.1.11591.15.1", "06092b06010401da470f01"),
        ("2.999.3", "0603883703"),
        ("0.0", "060100"),
    ],
)
def test_object_identifiers(dotted: str, encoded: str) -> None:
    assert der.oid(dotted).hex() == encoded
    assert der.Reader(bytes.fromhex(encoded), "oid").oid() == dotted


@given(st.integers(0, 2**2100))
def test_integers_survive(number: int) -> None:
    reader = der.Reader(der.integer(number), "number")
    assert reader.integer() == number
    reader.end()


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_sequences_survive(parts: list[bytes]) -> None:
    outer = der.Reader(der.sequence(*[der.element(4, part) for part in parts]), "parts")
    inner = outer.enter()
    outer.end()
    assert [inner.read(der.OCTET_STRING) for _ in parts] == parts
    assert inner.peek() is None
    assert inner.optional(der.NULL) is None


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        ("", "expected tag 0x04, got the end"),
        ("04", "got no tag and length"),
        ("0500", "expected tag 0x04, got 0x05"),
        ("0402ff", "expected 2 bytes, got 1"),
        ("0480ff0000", "expected a definite, minimal length"),
        ("048101ff", "expected a definite, minimal length"),
        ("04820001ff", "expected a definite, minimal length"),
        ("0482", "expected a definite, minimal length"),
        ("0485ffffffffff", "expected a definite, minimal length"),
        ("0484ffffffff", "expected 4294967295 bytes, got 0"),
    ],
)
def test_other_forms_are_refused(encoded: str, message: str) -> None:
    with pytest.raises(FormatError, match=f"^key: not valid DER: .*{message}"):
        der.Reader(bytes.fromhex(encoded), "key").read(der.OCTET_STRING)


def test_what_is_left_over_is_refused() -> None:
    reader = der.Reader(b"\x05\x00\x05\x00", "key")
    reader.read(der.NULL)
    with pytest.raises(FormatError, match="expected the end, got 2 more bytes"):
        reader.end()


@pytest.mark.parametrize("encoded", ["0600", "06022a86", "060188", "0641" + "2a" * 65])
def test_cut_off_object_identifiers_are_refused(encoded: str) -> None:
    with pytest.raises(FormatError, match=r"not valid DER"):
        der.Reader(bytes.fromhex(encoded), "key").oid()


def test_empty_integers_are_refused() -> None:
    with pytest.raises(FormatError, match="expected an integer, got an empty one"):
        der.Reader(b"\x02\x00", "key").integer()


@given(st.binary(max_size=60))
def test_anything_reads_or_raises_format_error(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        der.Reader(data, "anything").integer()
    with contextlib.suppress(FormatError):
        der.Reader(data, "anything").oid()
    with contextlib.suppress(FormatError):
        der.Reader(data, "anything").enter().skip()
