"""Canonical JSON, against Notary's own files and the laws that keep signatures valid."""

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage import canonical
from signimage.errors import FormatError
from unit.vectors import ROLE_FILES, VECTORS

_TEXT = st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"]))
_SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _TEXT
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner) | st.dictionaries(_TEXT, inner), max_leaves=20
)


@pytest.mark.parametrize("path", ROLE_FILES, ids=lambda path: str(path.relative_to(VECTORS)))
def test_golden_files_are_spelled_as_notary_spells_them(path: Any) -> None:
    """Canonical text, HTML-escaped, is what stands after `"signed":` in Notary's own files."""
    data = path.read_bytes()
    signed = canonical.parse(data, what=path.name)["signed"]
    text = canonical.escape_html(canonical.encode(signed).decode())
    assert data.startswith(b'{"signed":' + text.encode() + b',"signatures":[')


def test_golden_files_were_found() -> None:
    assert len(ROLE_FILES) == 23


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"b": 1, "a": [True, False, None]}, '{"a":[true,false,null],"b":1}'),
        ({"é": 1, "z": 2, "Z": 3, "😀": 4, "\uffff": 5}, '{"Z":3,"z":2,"é":1,"\uffff":5,"😀":4}'),
        ('back\\slash "quote" / <&> \x7f\u2028', '"back\\\\slash \\"quote\\" / <&> \x7f\u2028"'),
        ([1.0, 1e3, -0.0, -7, 2**53, -(2**53)], f"[1,1000,0,-7,{2**53},{-(2**53)}]"),
        ({}, "{}"),
        ([], "[]"),
        (("tuples", "are", "lists"), '["tuples","are","lists"]'),
    ],
)
def test_canonical_spelling(value: object, expected: str) -> None:
    assert canonical.encode(value).decode() == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "expected an integer, got 1.5"),
        (math.inf, "expected an integer, got inf"),
        (math.nan, "expected an integer, got nan"),
        (2**53 + 1, r"expected an integer within 2\*\*53"),
        (-(2**53) - 1, r"expected an integer within 2\*\*53"),
        (1e300, r"expected an integer within 2\*\*53"),
        ("a\nb", r"expected no control characters, got U\+000A"),
        ({"\x00": 1}, r"expected no control characters, got U\+0000"),
        ("\ud800", "got a lone surrogate"),
    ],
)
def test_values_without_canonical_form_are_refused(value: object, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        canonical.encode({"custom": [value]})


@pytest.mark.parametrize("value", [{1: 2}, {None: 1}, b"bytes", {"set"}, object()])
def test_what_json_does_not_have_is_a_programming_error(value: object) -> None:
    with pytest.raises(TypeError, match=r"."):
        canonical.encode(value)


def test_endless_nesting_is_refused_when_writing() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(FormatError, match="nested too deeply"):
        canonical.encode(value)


def test_html_escaping_is_that_of_go() -> None:
    assert canonical.escape_html("<a> & \u2028\u2029 é \x7f") == (
        "\\u003ca\\u003e \\u0026 \\u2028\\u2029 é \x7f"
    )


@given(_VALUES)
def test_parsing_undoes_writing(value: Any) -> None:
    encoded = canonical.encode(value)
    assert canonical.parse(encoded, what="value", max_depth=100) == value
    escaped = canonical.escape_html(encoded.decode()).encode()
    assert canonical.parse(escaped, what="value", max_depth=100) == value


@given(_VALUES)
def test_every_spelling_of_a_value_has_one_canonical_form(value: Any) -> None:
    for spelling in (json.dumps(value, indent=1), json.dumps(value, ensure_ascii=False)):
        parsed = canonical.parse(spelling.encode(), what="value", max_depth=100)
        assert canonical.encode(parsed) == canonical.encode(value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected JSON, got nothing"),
        (b"\xef\xbb\xbf{}", "expected JSON, got other text at character 0 .Unexpected UTF-8 BOM"),
        (b'"\xff"', "expected UTF-8, got byte 0xff at 1"),
        (b'"\xed\xa0\x80"', "expected UTF-8, got byte 0xed at 1"),
        ('{"a":1}'.encode("utf-16"), "expected UTF-8, got byte 0x"),
        (b'{"a":1,"b":2,"a":1}', "expected each member once, got 'a' twice"),
        (b'{"a":1,"\\u0061":1}', "expected each member once, got 'a' twice"),
        (b"[NaN]", "expected a number, got NaN"),
        (b"[-Infinity]", "expected a number, got -Infinity"),
        (b"[1.5]", "expected an integer, got 1.5"),
        (b"[1e999]", "expected an integer, got 1e999"),
        (b"[9007199254740993]", r"expected an integer within 2\*\*53"),
        (b"9" * 100_000, r"expected an integer within 2\*\*53"),
        (b'"\\ud800"', "got a lone surrogate"),
        (b'{"\\udfff\\ud800":1}', "got a lone surrogate"),
        (b'"a\nb"', "Invalid control character"),
        (b"{} {}", "Extra data"),
        (b"[1,]", "expected JSON"),
        (b"{'a':1}", "expected JSON"),
        (b"[" * 65 + b"]" * 65, "expected at most 64 levels, got more"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "expected at most 64 levels, got more"),
        (b"[" * 100_000, "expected at most 64 levels, got many more"),
    ],
)
def test_bad_json_is_refused_with_the_reason(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=rf"^root\.json: .*{message}"):
        canonical.parse(data, what="root.json")


def test_numbers_go_takes_for_integers_are_integers() -> None:
    value = canonical.parse(b"[1.0, 1e3, -0, -0.0, 9007199254740992]", what="numbers")
    assert value == [1, 1000, 0, 0, 2**53]
    assert all(type(number) is int for number in value)


def test_nesting_up_to_the_limit_is_read() -> None:
    assert canonical.parse(b"[" * 64 + b"]" * 64, what="lists")
    assert canonical.parse(b"1", what="scalar", max_depth=0) == 1
    with pytest.raises(FormatError, match="expected at most 0 levels"):
        canonical.parse(b"[]", what="list", max_depth=0)


def test_surrogate_pairs_are_one_character() -> None:
    assert canonical.parse(b'"\\ud83d\\ude00"', what="emoji") == "😀"
    assert canonical.parse(b'"\\\\ud83d"', what="text") == "\\ud83d"


@given(st.binary() | st.text(alphabet='{}[]":,.0123456789eE-+\\u dtrfnals', max_size=60))
def test_anything_parses_or_raises_format_error(data: bytes | str) -> None:
    with contextlib.suppress(FormatError):
        value = canonical.parse(data if isinstance(data, bytes) else data.encode(), what="x")
        canonical.encode(value)
