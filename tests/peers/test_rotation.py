"""`signimage.rotation` on the real server: new keys, judged and used by Docker and Notary at once.

Keys, key folders and caches are those of all three programs.
"""

import json

import pytest

from peers.trio import Shelf, Trio
from peers.workstation import IMAGE, Workstation
from signimage.errors import InputError, RootPinError, UnreachableError
from signimage.keys import PrivateKey, certificate
from signimage.metadata import RELEASES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from signimage.pinning import RootPins
from signimage.rotation import rotate_here
from signimage.transport import Transport
from signimage.trust import canonical_ids
from signimage.trustapi import TrustApi


def key_ids(trio: Trio, role: str) -> tuple[str, ...]:
    return canonical_ids(*trio.at.server(cache=False).refresh().role_keys(role))


def signing_key(trio: Trio, key_id: str) -> PrivateKey:
    return trio.at.store.load(key_id, trio.at.passphrases)


@pytest.mark.parametrize("role", [TARGETS, SNAPSHOT, TIMESTAMP, ROOT])
def test_after_a_rotation_the_other_two_go_on_where_we_are(trio: Trio, role: str) -> None:
    """They kept the old key in cache and folder; each sees the new one, and changes something."""
    ids = trio.begin("ci")
    trio.at.sign(signing_key(trio, ids["ci"]), "1.0")
    trio.check_agreement()
    trio.notary_lists()
    before = key_ids(trio, role)
    told = trio.json("rotate", role, trio.gun)
    assert key_ids(trio, role) == (told["keyId"],) != before
    assert [row["SignedTag"] for row in trio.check_agreement()["SignedTags"]] == ["1.0"]
    assert trio.notary_lists() == ["1.0"]
    trio.docker("trust", "key", "generate", "bob", "--dir", str(trio.at.folder))
    trio.docker("trust", "signer", "add", "--key", trio.public("bob"), "bob", trio.gun)
    trio.notary_adds("2.0")
    assert [each["Name"] for each in trio.check_agreement()["Signers"]] == ["ci", "bob"]
    assert trio.notary_lists() == ["1.0", "2.0"]


@pytest.mark.parametrize(
    ("role", "options"),
    [(TARGETS, []), (SNAPSHOT, ["-r"]), (TIMESTAMP, ["-r"])],
    ids=["targets", "snapshot", "timestamp"],
)
def test_after_a_rotation_of_notary_we_go_on(trio: Trio, role: str, options: list[str]) -> None:
    """What was rotated by Notary's program is rotated again by ours, and the other way round."""
    ids = trio.begin("ci")
    trio.notary("key", "rotate", *options, trio.gun, role)
    trio.add("qa")
    trio.ours("rotate", role, trio.gun)
    trio.notary("key", "rotate", *options, trio.gun, role)
    trio.at.sign(signing_key(trio, ids["ci"]), "1.0")
    assert len(trio.check_agreement()["SignedTags"]) == 1
    assert trio.at.server().refresh().root.body.version == 4


def test_a_snapshot_key_is_taken_home_used_and_given_back(trio: Trio, shelf: Shelf) -> None:
    """As `notary init` leaves it: whoever publishes then signs the snapshot as well."""
    trio.begin()
    shelf.image("one", "ours")
    told = trio.json("rotate", "snapshot", "--local", trio.gun)
    assert trio.held() == ["root", "snapshot", "targets"]
    assert key_ids(trio, SNAPSHOT) == (told["keyId"],)
    trio.add("ci")
    trio.notary_adds("1.0")
    trio.ours("sign", f"{trio.gun}:ours")
    trio.add("qa")
    trio.ours("signer", "remove", "qa", trio.gun)
    trio.ours("revoke", f"{trio.gun}:1.0")
    assert [row["SignedTag"] for row in trio.check_agreement()["SignedTags"]] == ["ours"]
    back = trio.json("rotate", "snapshot", trio.gun)
    assert back["removedKeyIds"] == [told["keyId"]]
    assert trio.held() == ["ci", "qa", "root", "targets"]
    trio.add("zoe")
    assert [each["Name"] for each in trio.check_agreement()["Signers"]] == ["zoe", "ci"]


def test_what_notary_keeps_at_home_is_given_to_the_server(trio: Trio) -> None:
    """A repository of `notary init`, whose snapshot key only its owner has."""
    trio.notary("init", "--publish", trio.gun)
    assert trio.held() == ["root", "snapshot", "targets"]
    trio.add("ci")
    trio.ours("rotate", "snapshot", trio.gun)
    assert trio.held() == ["ci", "root", "targets"]
    trio.notary_adds("1.0")
    assert [row["SignedTag"] for row in trio.check_agreement()["SignedTags"]] == ["1.0"]


def test_the_old_repository_key_goes_and_the_old_root_key_stays(trio: Trio) -> None:
    """Another repository may have the same root; nothing can need an old repository key."""
    trio.begin()
    (targets,), (root,) = key_ids(trio, TARGETS), key_ids(trio, ROOT)
    assert trio.json("rotate", "targets", trio.gun)["removedKeyIds"] == [targets]
    assert trio.json("rotate", "root", trio.gun)["removedKeyIds"] == []
    assert trio.at.store.find(targets) is None
    assert trio.at.store.find(root) is not None
    assert trio.held() == ["root", "root", "targets"]


def test_a_rotation_that_the_server_refuses_leaves_the_old_key_and_no_new_one(trio: Trio) -> None:
    """Notary's program deletes the old key before it asks (case 41)."""
    trio.begin()
    held = trio.at.store.entries()
    gone = trio.gun + "-gone"
    stranger = Workstation(trio.at.stack, trio.at.folder / "stranger", trio.gun)
    with pytest.raises(InputError, match=r"its root key \w{64} is not in "):
        rotate_here(stranger.server(), stranger.store, stranger.passphrases, TARGETS)
    assert stranger.store.entries() == ()
    assert "has no trust data" in trio.ours("rotate", "targets", gone, code=1) + trio.said
    assert trio.at.store.entries() == held


def test_where_the_server_is_away_no_key_is_made_and_none_removed(trio: Trio) -> None:
    trio.begin()
    held = trio.at.store.entries()
    server = trio.at.server()
    server.api = TrustApi(Transport(), "https://localhost:1", trio.gun)
    with pytest.raises(UnreachableError, match="trust server https://localhost:1"):
        rotate_here(server, trio.at.store, trio.at.passphrases, TARGETS)
    assert trio.at.store.entries() == held


def test_who_pinned_the_old_root_key_is_led_to_the_new_one(trio: Trio) -> None:
    """Pins of pipelines need no change in the same minute; strangers' pins still fail."""
    trio.begin()
    (old,) = trio.at.server().refresh().root.body.roles[ROOT].keyids
    (new,) = trio.json("rotate", "root", trio.gun)["rootKeys"]
    assert new != old
    for pinned in (old, new):
        found = trio.at.server(cache=False, pins=RootPins(frozenset({pinned}))).refresh()
        assert found.root.body.roles[ROOT].keyids == (new,)
    with pytest.raises(RootPinError, match="expected root key 1"):
        trio.at.server(cache=False, pins=RootPins(frozenset({"1" * 64}))).refresh()


def test_a_root_is_renewed_with_the_key_that_it_has(trio: Trio) -> None:
    """A new certificate lives ten years from now on; Docker's and Notary's caches follow."""
    ids = trio.begin("ci")
    trio.at.sign(signing_key(trio, ids["ci"]), "1.0")
    trio.check_agreement()
    before = trio.at.server().refresh().root.body
    (old,) = before.roles[ROOT].keyids
    (new,) = trio.json("rotate", "root", "--renew", trio.gun)["rootKeys"]
    after = trio.at.server().refresh().root.body
    assert after.keys[new].canonical_id == before.keys[old].canonical_id
    assert certificate(after.keys[new]).not_after >= certificate(before.keys[old]).not_after
    assert trio.check_agreement()["SignedTags"]
    assert trio.notary_lists() == ["1.0"]


def test_a_root_key_of_the_store_becomes_the_root_of_a_second_repository(trio: Trio) -> None:
    """First made for one repository, then given to another by its ID."""
    other = f"{trio.gun}-other"
    trio.begin()
    trio.ours("repo", "init", other)
    key_id = trio.json("rotate", "root", trio.gun)["keyId"]
    assert trio.json("rotate", "root", "--key", key_id, other)["keyId"] == key_id
    third = f"{trio.gun}-third"
    before = trio.held()
    trio.ours("repo", "init", third, code=2)
    both = sorted(each.key_id for each in trio.at.store.entries() if each.role == ROOT)
    assert (len(both), key_id in both) == (2, True)
    assert f"got {', '.join(both)}." in trio.said
    assert trio.said.endswith(". Say with --key which one to use.\n")
    assert trio.held() == before
    trio.ours("repo", "init", "--key", key_id, third)
    found = Workstation(trio.at.stack, trio.at.folder / "x", third).server().refresh()
    assert canonical_ids(*found.role_keys(ROOT)) == (key_id,)


def test_a_signers_new_key_signs_what_the_old_one_signed(trio: Trio) -> None:
    """In one publication; Docker sees the new key alone, and signs on with it."""
    ids = trio.begin("ci", "qa")
    trio.at.sign(signing_key(trio, ids["qa"]), "0.9")
    trio.at.sign(signing_key(trio, ids["ci"]), "1.0")
    (row,) = trio.json("signer", "rotate", "--key", trio.new_key("ci"), "ci", trio.gun)
    (new,) = row["keyIds"]
    seen = trio.check_agreement()
    assert {each["Name"]: each["Keys"] for each in seen["Signers"]} == {
        "ci": [{"ID": new}],
        "qa": [{"ID": ids["qa"]}],
    }
    assert [(each["SignedTag"], each["Signers"]) for each in seen["SignedTags"]] == [
        ("0.9", ["qa"]),
        ("1.0", ["ci"]),
    ]
    trio.hide(ids["ci"])
    trio.notary_adds("2.0", "targets/ci", RELEASES)
    assert trio.notary_lists() == ["0.9", "1.0", "2.0"]


def test_a_new_key_that_is_elsewhere_signs_first_and_replaces_then(trio: Trio) -> None:
    """Owner and signer are two people: added by one, taking hold by the other, then alone."""
    ids = trio.begin("ci")
    trio.at.sign(signing_key(trio, ids["ci"]), "1.0")
    public = trio.new_key("ci")
    (new,) = {entry.key_id for entry in trio.at.store.entries() if entry.role == "ci"} - {ids["ci"]}
    trio.hide(new)
    before = trio.at.server().refresh().floors
    trio.ours("signer", "rotate", "--key", public, "ci", trio.gun, code=2)
    assert "is signed with an old key of ci alone, and the new one is not at hand" in trio.said
    assert trio.at.server().refresh().floors == before
    trio.ours("signer", "add", "--key", public, "ci", trio.gun)
    trio.hide(ids["ci"])
    trio.show(new)
    trio.ours("witness", "--again", trio.gun, "targets/ci", RELEASES)
    trio.hide(new)
    trio.ours("signer", "rotate", "--key", public, "ci", trio.gun)
    seen = trio.check_agreement()
    assert seen["Signers"] == [{"Name": "ci", "Keys": [{"ID": new}]}]
    assert seen["SignedTags"][0]["Signers"] == ["ci"]


def test_signing_again_twice_sends_nothing_the_second_time(trio: Trio) -> None:
    ids = trio.begin("ci")
    trio.at.sign(signing_key(trio, ids["ci"]), "1.0")
    trio.ours("signer", "add", "--key", trio.new_key("ci"), "ci", trio.gun)
    floors = []
    for _ in range(3):
        trio.ours("witness", "--again", trio.gun, "targets/ci", RELEASES)
        floors.append(trio.at.server().refresh().floors["targets/ci"])
    assert floors == [2, 2, 2]


def test_who_names_no_role_signs_again_what_has_its_key_here(trio: Trio) -> None:
    ids = trio.begin("ci")
    trio.at.sign(signing_key(trio, ids["ci"]), "1.0")
    trio.ours("signer", "add", "--key", trio.new_key("ci"), "ci", trio.gun)
    assert "targets, targets/ci, targets/releases" in trio.ours("witness", "--again", trio.gun)
    floors = trio.at.server().refresh().floors
    assert (floors["targets/ci"], floors[RELEASES]) == (2, 2)


@pytest.mark.parametrize("role", [ROOT, SNAPSHOT, TIMESTAMP])
def test_what_a_witness_cannot_sign_again_is_said(trio: Trio, role: str) -> None:
    trio.begin("ci")
    trio.ours("witness", trio.gun, role, code=2)
    assert f"role {role}: expected targets or a delegation, got another. " in trio.said


def test_a_rotation_is_no_conflict_for_a_pipeline_that_signs(trio: Trio) -> None:
    """It has the signer's key alone, and none of what was rotated."""
    ids = trio.begin("ci")
    for role in (TARGETS, SNAPSHOT, TIMESTAMP, ROOT):
        trio.ours("rotate", role, trio.gun)
        trio.at.sign(signing_key(trio, ids["ci"]), role, image=IMAGE)
    tags = [row["SignedTag"] for row in trio.check_agreement()["SignedTags"]]
    assert tags == sorted([TARGETS, SNAPSHOT, TIMESTAMP, ROOT])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["targets/ci"], "role 'targets/ci': expected root, targets, snapshot, timestamp"),
        (["melon"], "role 'melon': expected root, targets, snapshot, timestamp, got another"),
        (["--local", "targets"], "--local: expected the role snapshot, got targets"),
        (["--renew", "snapshot"], "--key and --renew: expected the role root, got snapshot"),
        (["--key", "12", "root"], "root key: expected one of"),
    ],
)
def test_what_cannot_be_rotated_is_said_and_nothing_changes(
    trio: Trio, arguments: list[str], sentence: str
) -> None:
    trio.begin()
    floors, held = trio.at.server().refresh().floors, trio.at.store.entries()
    trio.ours("rotate", *arguments, trio.gun, code=2)
    assert sentence in trio.said
    assert trio.said.count("\n") == 1
    assert (trio.at.server().refresh().floors, trio.at.store.entries()) == (floors, held)


def test_a_signer_that_does_not_exist_is_not_rotated(trio: Trio) -> None:
    trio.begin("ci")
    trio.ours("signer", "rotate", "--key", trio.public("ci"), "bob", trio.gun, code=2)
    assert f"{trio.gun} has no signer bob; its signers are ci" in trio.said
    assert json.loads(trio.docker("trust", "inspect", trio.gun))[0]["Signers"][0]["Name"] == "ci"
