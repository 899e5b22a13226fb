"""Acceptance cases 1 to 10: formats (`docs/protocol.md`, "Acceptance cases").

What the real clients wrote is believed, and what we write is what a Go program would make of it.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage import canonical
from signimage.errors import FormatError, ThresholdError
from signimage.filemeta import FileMeta
from signimage.keys import PrivateKey, PublicKey
from signimage.lookup import released, signers
from signimage.metadata import (
    RELEASES,
    ROOT,
    TARGETS,
    TIMESTAMP,
    Delegation,
    Role,
    Root,
    Signed,
    Targets,
    serialise,
)
from signimage.publication import signed_file
from signimage.trust import TrustedRepository
from unit.repositories import (
    GUN,
    IMAGE,
    LATER,
    GoodRepository,
    believe,
    content,
    good_root,
    key,
    sign,
)
from unit.vectors import GUNS, MOMENT, role_files, roots


@pytest.mark.parametrize(
    ("folder", "names"),
    [("docker-b", ["alice"]), ("notary-n1-rotated-root", []), ("notary-n3", [])],
)
def test_golden_repositories_are_believed(folder: str, names: list[str]) -> None:
    """Case 1: every file that Docker and Notary wrote passes every rule at its time."""
    repository = believe(role_files(folder), now=MOMENT, gun=GUNS[folder])
    assert [signer.name for signer in signers(repository)] == names
    assert repository.files == role_files(folder)
    assert repository.warnings == []


def test_golden_roots_follow_each_other() -> None:
    """Case 1: six roots of Notary, rotated in every role, are one chain."""
    folder = "notary-n1-rotated-root"
    first, *others = roots(folder)
    repository = TrustedRepository(GUNS[folder], MOMENT)
    repository.trust_first_root(first)
    for root in others:
        repository.rotate_root(root, newest=root == others[-1])
    assert repository.root.body.version == 6
    assert repository.files[ROOT] == role_files(folder)[ROOT]


# --- What Go would make of our files ----------------------------------------------------------


def rendered_by_go(data: bytes) -> bytes:
    """Render a targets file as the server does: into Go's structures, and out of them again.

    Written from the structures alone: fixed members in Go's order, `omitempty` where Go has it,
    the default encoder's escapes. Knows nothing of our own serialiser.
    """
    document = json.loads(data)
    signed = document["signed"]
    inner = signed.get("delegations") or {}
    struct = {
        "_type": signed["_type"],
        "delegations": {
            "keys": {name: _go_key(each) for name, each in (inner.get("keys") or {}).items()},
            "roles": [_go_role(role) for role in inner.get("roles") or []],
        },
        "expires": _go_time(signed["expires"]),
        "targets": {name: _go_meta(meta) for name, meta in (signed["targets"] or {}).items()},
        "version": signed["version"],
    }
    signatures = [
        {"keyid": each["keyid"], "method": each["method"].lower(), "sig": each["sig"]}
        for each in document["signatures"]
    ]
    text = (
        f'{{"signed":{canonical.encode(struct).decode()},'
        f'"signatures":{json.dumps(signatures, separators=(",", ":"))}}}'
    )
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def _go_key(value: Any) -> Any:
    keyval = {"private": None, "public": value["keyval"]["public"]}
    return {"keytype": value["keytype"], "keyval": keyval}


def _go_role(value: Any) -> Any:
    shown = {name: value[name] for name in ("keyids", "name", "threshold")}
    return shown | ({"paths": value["paths"]} if value.get("paths") else {})


def _go_meta(value: Any) -> Any:
    shown = {"hashes": value["hashes"], "length": value["length"]}
    return shown | ({"custom": value["custom"]} if value.get("custom") is not None else {})


def _go_time(text: str) -> str:
    head, dot, fraction = text.removesuffix("Z").replace("+00:00", "").partition(".")
    fraction = fraction.rstrip("0")
    return head + (dot + fraction if fraction else "") + "Z"


BRICKS = {
    "a blank": lambda text: text.replace('":', '": ', 1),
    "a line end": lambda text: text + "\n",
    "signatures first": lambda text: "{" + text[text.index('"signatures"') : -1] + ","
    + text[1 : text.index(',"signatures"')] + "}",
    "an upper-case method": lambda text: text.replace('"ecdsa","sig"', '"ECDSA","sig"'),
    "an offset": lambda text: text.replace('Z","targets"', '+00:00","targets"'),
    "zeros of a fraction": lambda text: text.replace('Z","targets"', '.500000Z","targets"'),
    "a further member": lambda text: text.replace('"_type"', '"_aux":1,"_type"', 1),
    "a further member of a role": lambda text: text.replace('"threshold"', '"spec":1,"threshold"'),
    "no delegations": lambda text: text[: text.index('"delegations"')]
    + text[text.index('"expires"') :],
    "null keys": lambda text: text.replace('"keys":{}', '"keys":null'),
    "empty paths": lambda text: text.replace('"paths":[""]', '"paths":[]'),
    "null paths": lambda text: text.replace('"paths":[""]', '"paths":null'),
    "null custom": lambda text: text.replace('"1.0":{', '"1.0":{"custom":null,'),
    "a key without its private null": lambda text: text.replace('"private":null,', ""),
    "raw HTML": lambda text: text.replace("\\u003c", "<"),
}  # fmt: skip


@pytest.mark.parametrize("name", BRICKS)
def test_no_form_that_bricks_a_repository_can_be_written(name: str) -> None:
    """Case 3: each of them is seen to be one, and is gone once we have written the file."""
    roles = content({"1.0": IMAGE, "<": IMAGE})
    if name != "null keys":
        roles = roles.with_delegation("targets/ci", [key("ci").public_key])
    good = sign(roles, [key("targets")])
    assert rendered_by_go(good) == good
    brick = BRICKS[name](good.decode()).encode()
    assert brick != good
    assert rendered_by_go(brick) != brick, "the model is blind to this form"
    own = key("targets").public_key
    body = replace(Signed.parse(brick, Targets, what="brick").body, version=2, expires=LATER)
    written = signed_file(
        TARGETS, body, Role.of(own), {own.key_id: own}, {own.canonical_id: key("targets")}
    )
    assert rendered_by_go(written) == written


NAMES = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=9)
PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NAMES
CUSTOM = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)
METAS = st.builds(
    FileMeta,
    st.integers(0, 2**53),
    st.dictionaries(st.sampled_from(["sha256", "sha512"]), st.binary(min_size=32, max_size=64)),
    CUSTOM,
)
DELEGATIONS = st.builds(
    Delegation,
    st.from_regex(r"targets/[a-z0-9_-]{1,9}", fullmatch=True),
    st.just(Role.of(key("ci").public_key)),
    st.none() | st.lists(NAMES, max_size=3).map(tuple),
)


@given(
    st.dictionaries(NAMES, METAS, max_size=4),
    st.lists(DELEGATIONS, max_size=3),
    st.integers(1, 2**31 - 1),
)
def test_whatever_we_sign_go_renders_as_the_same_bytes(
    targets: Mapping[str, FileMeta], delegations: list[Delegation], version: int
) -> None:
    """Case 3: or else we do not sign it."""
    ci, own = key("ci").public_key, key("targets").public_key
    body = Targets(targets, tuple(delegations), {ci.key_id: ci}, version, LATER)
    at_hand = {own.canonical_id: key("targets")}
    try:
        data = signed_file(TARGETS, body, Role.of(own), {own.key_id: own}, at_hand)
    except FormatError:
        return
    assert rendered_by_go(data) == data
    assert Signed.parse(data, Targets, what="own").body.to_json() == body.to_json()


# --- Custom data ------------------------------------------------------------------------------


def test_custom_data_is_sorted_and_escaped_before_it_is_signed() -> None:
    """Case 5: Docker's client signs it unsorted, which its own server refuses."""
    custom = {"z": [{"b": 1, "a": "<&>"}], "é": None, "a": 2**53}
    good = GoodRepository()
    good.delegated[RELEASES] = content({"1.0": replace(IMAGE, custom=custom)})
    files = good.files()
    assert (
        b'"custom":{"a":9007199254740992,"z":[{"a":"\\u003c\\u0026\\u003e","b":1}]'
        in (files[RELEASES])
    )
    assert rendered_by_go(files[RELEASES]) == files[RELEASES]
    assert released(believe(files), "1.0").custom == custom


@pytest.mark.parametrize("value", [1.5, 2**53 + 1, float("nan"), "\x01", "\ud800"])
def test_custom_data_without_a_canonical_form_is_refused(value: object) -> None:
    """Case 5: nothing is signed that Go would read as something else."""
    body = content({"1.0": replace(IMAGE, custom={"a": [value]})})
    with pytest.raises(FormatError, match="canonical JSON: expected"):
        sign(body, [key("ci")])


# --- Odd and foreign things that must not disturb ---------------------------------------------


def _timestamp_with(good: GoodRepository, change: dict[str, str]) -> dict[str, bytes]:
    def forge(data: bytes) -> bytes:
        document = json.loads(data)
        document["signatures"][0] |= change
        return json.dumps(document).encode()

    good.spoil[TIMESTAMP] = forge
    return good.files()


@pytest.mark.parametrize("method", ["ECDSA", "EcDsa"])
def test_a_method_in_other_letter_case_counts(method: str) -> None:
    """Case 7: it is read as Notary reads it."""
    believe(_timestamp_with(GoodRepository(), {"method": method}))


@pytest.mark.parametrize("method", ["rsapss", "eddsa", "pycrypto-pkcs#1 pss", "", "quantum"])
def test_a_signature_by_another_or_unknown_method_does_not_count(method: str) -> None:
    """Case 7: it is passed over, and then there is none left."""
    with pytest.raises(ThresholdError, match=f"timestamp of {GUN}: expected valid signatures by 1"):
        believe(_timestamp_with(GoodRepository(), {"method": method}))


def test_a_signature_by_an_unknown_method_does_not_disturb_a_good_one() -> None:
    """Case 7: unknown methods are ignored, wherever they stand."""

    def forge(data: bytes) -> bytes:
        document = json.loads(data)
        odd = document["signatures"][0] | {"method": "quantum"}
        document["signatures"] = [odd, *document["signatures"], odd]
        return json.dumps(document).encode()

    believe(GoodRepository(spoil={TIMESTAMP: forge}).files())


def test_a_key_of_an_unknown_type_is_kept_and_signs_nothing() -> None:
    """Case 9: beside a good key it does not disturb; alone it is worth nothing."""
    odd = PublicKey("quantum", b"?")
    role = Role((odd.key_id, key("targets").public_key.key_id), 1)
    root = good_root("root")
    root = replace(root, keys={**root.keys, odd.key_id: odd}, roles={**root.roles, TARGETS: role})
    files = GoodRepository(root=root).files()
    assert believe(files).root.body.keys[odd.key_id] == odd
    assert serialise(*_body_and_signatures(files[ROOT])) == files[ROOT]
    alone = replace(root, roles={**root.roles, TARGETS: Role.of(odd)})
    with pytest.raises(ThresholdError, match=f"targets of {GUN}: expected valid signatures by 1"):
        believe(GoodRepository(root=alone).files())


def _body_and_signatures(data: bytes) -> tuple[Root, Any]:
    signed = Signed.parse(data, Root, what="root")
    return signed.body, signed.signatures


def test_unused_keys_are_tolerated_in_root_and_targets() -> None:
    """Case 9: Notary's purge leaves them behind."""
    stray = key("stray").public_key
    good = GoodRepository()
    good.root = replace(good.root, keys={**good.root.keys, stray.key_id: stray})
    keys = {**good.targets.delegation_keys, stray.key_id: stray}
    good.targets = replace(good.targets, delegation_keys=keys)
    assert released(believe(good.files()), "1.0") == IMAGE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"roles":[]', '"roles":null'),
        ('"targets":{}', '"targets":null'),
        ('"keys":{},"roles":[]', '"keys":null,"roles":null'),
        ('"delegations":{"keys":{},"roles":[]}', '"delegations":null'),
    ],
)
def test_nulls_in_signed_targets_are_empty(old: str, new: str) -> None:
    """Case 9: the signature holds over the null that was received."""
    files = _resigned_targets(old, new)
    assert believe(files).targets().delegations == ()


def test_a_delegation_whose_keys_are_null_is_known_and_signed_by_nobody() -> None:
    """Case 9: what a purge leaves behind is a role without keys."""
    good = GoodRepository()
    without = Delegation(RELEASES, Role((), 1), ("",))
    good.targets = replace(good.targets, delegations=(*good.targets.delegations[:1], without))
    good.reforge[TARGETS] = lambda data: _signed_again(data, '"keyids":[],', '"keyids":null,')
    repository = believe(good.files())
    assert [each.name for each in repository.delegations()] == ["targets/ci", RELEASES]
    with pytest.raises(ThresholdError, match=f"{RELEASES} of {GUN}: expected valid signatures by"):
        released(repository, "1.0")


def _resigned_targets(old: str, new: str) -> dict[str, bytes]:
    good = GoodRepository(targets=content({}), delegated={})
    good.reforge[TARGETS] = lambda data: _signed_again(data, old, new)
    return good.files()


def _signed_again(data: bytes, old: str, new: str, signer: PrivateKey | None = None) -> bytes:
    """Put *new* for *old* into a role file, and sign the result."""
    signer = signer or key("targets")
    text = data.decode()
    assert old in text
    signed = json.loads(text.replace(old, new, 1))["signed"]
    method, sig = signer.sign(canonical.encode(signed))
    signature = {
        "keyid": signer.public_key.key_id,
        "method": method,
        "sig": base64.b64encode(sig).decode(),
    }
    return json.dumps({"signed": signed, "signatures": [signature]}).encode()
