"""`signimage.filemeta`: descriptions kept as text say the same as descriptions that were read."""

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import FormatError
from signimage.filemeta import Expiry, FileMeta, FileMetas
from signimage.metadata import Signed, Targets, serialise
from unit.repositories import key, sign

METAS = st.builds(
    FileMeta,
    st.integers(0, 2**50),
    st.binary(min_size=32, max_size=32).map(lambda raw: {"sha256": raw}),
)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
TAGS = st.dictionaries(NAMES, METAS, min_size=1, max_size=6)
PIECES = st.sampled_from(
    ['"', "{", "}", ",", ":", " ", "0", "9", "=", "B", "\x00", "\u2028", "<", '"a":', "null", "ü"]
)


def targets(metas: dict[str, FileMeta]) -> Targets:
    """Content of a role, as nobody has read it yet."""
    expiry = Expiry.at(datetime(2036, 1, 1, tzinfo=timezone.utc))
    return Targets(metas, (), {}, 1, expiry)


def outcome(data: bytes) -> object:
    """All that reading says; None for a file that is refused."""
    try:
        signed = Signed.parse(data, Targets, what="file")
    except FormatError:
        return None
    body = signed.body
    return dict(body.targets), body.version, body.expires, signed.signatures, signed.payload


def differently_spelt(data: bytes) -> bytes:
    """The same document with a blank, which nobody's canonical spelling has."""
    return b" " + data


GOOD = sign(targets({f"1.{n}": FileMeta(n, {"sha256": bytes([n]) * 32}) for n in range(3)}),
            [key("ci")])  # fmt: skip


def test_a_usual_file_is_kept_as_text() -> None:
    assert isinstance(Signed.parse(GOOD, Targets, what="file").body.targets, FileMetas)


@given(TAGS)
def test_text_and_objects_say_the_same(metas: dict[str, FileMeta]) -> None:
    data = sign(targets(metas), [key("ci")])
    assert outcome(data) == outcome(differently_spelt(data))
    body = Signed.parse(data, Targets, what="file").body
    assert dict(body.targets) == metas
    assert body == targets(metas)


@given(TAGS, TAGS)
def test_adding_to_text_is_adding_to_objects(
    old: dict[str, FileMeta], new: dict[str, FileMeta]
) -> None:
    signed = Signed.parse(sign(targets(old), [key("ci")]), Targets, what="file")
    assert serialise(signed.body.with_targets(new), ()) == serialise(targets({**old, **new}), ())


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 3), PIECES)
def test_a_lie_in_a_usual_file_is_seen_as_in_any_other(begin: int, length: int, piece: str) -> None:
    data = GOOD[:begin] + piece.encode() + GOOD[begin + length :]
    assert outcome(data) == outcome(differently_spelt(data))


ENTRY = '"1.0":{"hashes":{"sha256":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},"length":0}'


@pytest.mark.parametrize(
    "text",
    [
        f"{ENTRY},{ENTRY}",
        f"{ENTRY.replace('1.0', '2.0')},{ENTRY}",
        f"{ENTRY}, ",
        f"{ENTRY},",
        f"x{ENTRY}",
        ENTRY.replace("AAA=", "AAB="),
        ENTRY.replace('"length":0', '"length":00'),
        ENTRY.replace('"length":0', '"length":-0'),
        ENTRY.replace("1.0", "1\\u002e0"),
        ENTRY.replace("1.0", "1\n0"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_not_canonical_is_left_to_the_general_way(text: str) -> None:
    assert FileMetas.spelt(ENTRY) is not None
    assert FileMetas.spelt(text) is None


def test_a_cut_in_the_wrong_place_is_noticed() -> None:
    """A key ID that is called `targets`, whose value is empty, stands before the targets."""
    data = GOOD.replace(b'"keys":{}', b'"keys":{"targets":{},"version":{}}')
    assert outcome(data) == outcome(differently_spelt(data))
    assert (
        outcome(GOOD.replace(b'"keys":{}', b'"keys":{"a":1,"targets":{%b}}' % ENTRY.encode()))
        is None
    )
