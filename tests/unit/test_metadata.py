"""`signimage.metadata`: role files come back byte for byte, and nothing odd is let in."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import FormatError, HashMismatchError
from signimage.filemeta import Expiry, FileMeta
from signimage.metadata import (
    RELEASES,
    Body,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
    is_delegation,
    payload,
    serialise,
)
from unit.repositories import GoodRepository, content, key, sign

VECTORS = Path(__file__).parent.parent / "vectors"
KINDS: dict[str, type[Body]] = {"root": Root, "snapshot": Snapshot, "timestamp": Timestamp}


def _kind(path: Path) -> type[Body]:
    return KINDS.get(path.stem.rpartition(".")[2], Targets)


GOLDEN = sorted(
    path for folder in ("docker-b", "notary-n1-rotated-root", "notary-n3")
    for path in (VECTORS / folder).rglob("*.json")
)  # fmt: skip


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: str(path.relative_to(VECTORS)))
def test_files_of_the_real_clients_come_back_byte_for_byte(path: Path) -> None:
    """Case 1."""
    data = path.read_bytes()
    signed = Signed.parse(data, _kind(path), what=path.name)
    assert serialise(signed.body, signed.signatures) == data
    assert payload(signed.body) == signed.payload


def test_there_are_golden_files() -> None:
    assert len(GOLDEN) == 23


@pytest.mark.parametrize("path", GOLDEN[::3], ids=lambda path: str(path.relative_to(VECTORS)))
def test_a_golden_file_with_one_bit_changed_is_refused_or_has_other_content(path: Path) -> None:
    data = path.read_bytes()
    original = Signed.parse(data, _kind(path), what="file")
    for position in range(0, len(data), 7):
        broken = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        try:
            assert Signed.parse(broken, _kind(path), what="file") != original
        except FormatError:
            continue


def test_a_thousand_signatures_are_read_and_more_are_refused() -> None:
    """Each of them may have to be verified, and a server can put any number into a file."""
    document = json.loads(GoodRepository().files()["timestamp"])
    document["signatures"] *= 1000
    signed = Signed.parse(json.dumps(document).encode(), Timestamp, what="file")
    assert len(signed.signatures) == 1000
    document["signatures"] += document["signatures"][:1]
    with pytest.raises(FormatError, match=r"^file: expected at most 1000 signatures, got 1001$"):
        Signed.parse(json.dumps(document).encode(), Timestamp, what="file")


@pytest.mark.parametrize("name", ["Signed", "SIGNATURES", "\u017figned"])
def test_a_second_envelope_in_another_letter_case_is_refused(name: str) -> None:
    """Go would read the last of both; whoever reads only one sees another document."""
    document = json.loads(GoodRepository().files()["timestamp"])
    document[name] = document["signed"]
    with pytest.raises(FormatError, match=r"^file: member '\w+' is misspelt in letter case$"):
        Signed.parse(json.dumps(document).encode(), Timestamp, what="file")


@pytest.mark.parametrize(
    "signatures", ["null", "[]", '[{"keyid":"a","method":"b","sig":"","signatures":[]}]']
)
def test_what_was_signed_does_not_depend_on_the_form_of_the_signatures(signatures: str) -> None:
    data = GoodRepository().files()["timestamp"]
    expected = Signed.parse(data, Timestamp, what="file").payload
    odd = b'{"signed":%b,"signatures":%b}' % (expected, signatures.encode())
    assert Signed.parse(odd, Timestamp, what="file").payload == expected


def test_names_that_somebody_else_chose_are_quoted_and_cut() -> None:
    document = json.loads(GoodRepository().files()["root"])
    document["signed"]["roles"]["\x1b[2J\n" + "x" * 999] = {"keyids": ["y"], "threshold": 1}
    with pytest.raises(FormatError, match=r"^file: role '\\x1b\[2J\\nx{59}': key 'y' is not in"):
        Signed.parse(json.dumps(document).encode(), Root, what="file")


@given(st.binary() | st.text().map(str.encode))
def test_anything_parses_or_is_a_format_error(data: bytes) -> None:
    for kind in (Root, Targets, Snapshot, Timestamp):
        with pytest.raises(FormatError):
            Signed.parse(data, kind, what="file")


MEMBERS = st.sampled_from(
    ["_type", "keys", "roles", "version", "expires", "targets", "meta", "delegations", "keyids",
     "threshold", "paths", "name", "hashes", "length", "root", "snapshot", "sha256", "keyval"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=4),
)


@given(st.sampled_from([Root, Targets, Snapshot, Timestamp]), st.data())
def test_one_member_replaced_by_anything_parses_or_is_a_format_error(
    kind: type[Body], data: st.DataObject
) -> None:
    role = {"Root": "root", "Targets": "targets"}.get(kind.TYPE, kind.TYPE.lower())
    document = json.loads(GoodRepository().files()[role])
    place = document["signed"]
    while True:
        name = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[name], dict) or not place[name] or data.draw(st.booleans()):
            break
        place = place[name]
    place[name] = data.draw(JSON)
    try:
        signed = Signed.parse(json.dumps(document).encode(), kind, what="file")
    except FormatError:
        return
    # What parses can be written, and what was written reads the same.
    again = serialise(signed.body, signed.signatures)
    assert Signed.parse(again, kind, what="file").body == signed.body


@pytest.mark.parametrize(
    "name", ["1.0", "<&>", "a\u2028b", "😀", 'quo"te', "back\\slash", "é", "\x7f"]
)
def test_awkward_target_names_are_stable(name: str) -> None:
    """Case 4."""
    body = content({name: FileMeta(1, {"sha256": bytes(32)})})
    data = sign(body, [key("ci")])
    assert not any(mark in data for mark in (b"<", b">", b"&", "\u2028".encode()))
    again = Signed.parse(data, Targets, what="file")
    assert again.body == body
    assert serialise(again.body, again.signatures) == data


def test_control_characters_are_refused() -> None:
    """Case 4."""
    with pytest.raises(FormatError, match="control character"):
        payload(content({"a\nb": FileMeta(1, {"sha256": bytes(32)})}))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"version":1', '"version":0', "version must be a whole number from 1 up"),
        ('"version":1', '"version":true', "version must be a whole number from 1 up"),
        ('"version":1', '"version":2147483648', "version must be at most 2147483647"),
        ('"version":1', '"Version":1,"version":1', "'Version' is misspelt in letter case"),
        ('"version":1', '"version":1,"version":1', "version"),
        ('"threshold":1', '"threshold":0', "threshold must be a whole number from 1 up"),
        ('"_type":"Targets"', '"_type":"Root"', "expected _type Targets, got 'Root'"),
        ('"targets":{}', '"targets":[]', "targets must be an object, got a list"),
        ('"paths":[""]', '"paths":[1]', "paths must hold strings, got a number"),
        ('"name":"targets/ci"', '"name":null', "name must be a string, got nothing"),
        ('"signatures":[', '"signatures":[5,', "signature: expected an object, got a number"),
        ('"keys":{"', '"keys":{"`|sh', "expected key IDs of 64 hex digits, got '`|sh"),
        ('"keys":{"', '"keys":{"F', "expected key IDs of 64 hex digits, got 'F"),
    ],
)
def test_one_odd_member_is_enough(old: str, new: str, message: str) -> None:
    """Case 13."""
    data = GoodRepository().files()["targets"].decode()
    assert old in data
    with pytest.raises(FormatError, match=message):
        Signed.parse(data.replace(old, new, 1).encode(), Targets, what="targets of x")


def test_nulls_that_go_writes_are_read_as_empty() -> None:
    data = GoodRepository().files()["targets"].decode()
    read = Signed.parse(data.replace('"targets":{}', '"targets":null').encode(), Targets, what="x")
    assert read.body.targets == {}


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2036-11-19T00:55:26.785083749Z", 785083),
        ("2036-11-19T01:55:26.7+01:00", 700000),
        ("2036-11-19T00:55:26Z", 0),
    ],
)
def test_expiry_is_read_as_go_writes_it(text: str, microsecond: int) -> None:
    """Case 8."""
    expiry = Expiry.parse(text, what="x")
    assert expiry.text == text
    assert expiry.moment == datetime(2036, 11, 19, 0, 55, 26, microsecond, timezone.utc)


@pytest.mark.parametrize(
    "text",
    ["", "2036-11-19", "2036-11-19T00:55:26", "2036-13-19T00:55:26Z", "٢036-11-19T00:55:26Z"],
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match="x: expires"):
        Expiry.parse(text, what="x")


@given(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)))  # noqa: DTZ001 -- hypothesis wants naive bounds
def test_written_expiry_is_read_back(moment: datetime) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(hours=2)))
    expiry = Expiry.at(aware)
    assert Expiry.parse(expiry.text, what="x").moment == aware.replace(microsecond=0)


def test_a_file_is_checked_by_length_and_every_hash() -> None:
    meta = FileMeta.of(b"content")
    meta.check(b"content", what="x")
    with pytest.raises(HashMismatchError, match="x: expected 7 bytes, got 8"):
        meta.check(b"content!", what="x")
    with pytest.raises(HashMismatchError, match="x: expected sha256"):
        meta.check(b"cOntent", what="x")
    lying = FileMeta(7, {"sha256": meta.hashes["sha256"], "sha512": bytes(64)})
    with pytest.raises(HashMismatchError, match="x: expected sha512 00"):
        lying.check(b"content", what="x")
    with pytest.raises(HashMismatchError, match="x: its description has no SHA-256 hash"):
        FileMeta(7, {"sha512": meta.hashes["sha512"]}).check(b"content", what="x")


@pytest.mark.parametrize("name", [RELEASES, "targets/a/b/c", "targets/a-b_c", "targets/1"])
def test_delegation_names(name: str) -> None:
    assert is_delegation(name)


@pytest.mark.parametrize(
    "name", ["targets", "targets/", "targets//a", "targets/A", "targets/..", "x/a", "targets/a/"]
)
def test_names_that_are_no_delegations(name: str) -> None:
    assert not is_delegation(name)
