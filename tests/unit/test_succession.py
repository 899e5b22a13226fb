"""`signimage.succession`: new keys in the place of old ones, and no signature is lost."""

from dataclasses import replace

import pytest

from signimage.errors import InputError, NotASignerError, ThresholdError
from signimage.expiry import OWNER_NOTICE
from signimage.filemeta import Expiry
from signimage.lookup import released, signers, signers_of
from signimage.metadata import RELEASES, ROOT, SNAPSHOT, TARGETS, Root, Signed, Snapshot, Targets
from signimage.publication import Recovery, signed_files, signer_plan, signing_plan
from signimage.succession import again_plan, base_key_plan, signer_keys_plan
from unit.repositories import (
    GUN,
    IMAGE,
    NOW,
    PAST,
    GoodRepository,
    believe,
    certificate,
    content,
    key,
)
from unit.test_publication import CI, NEW, QA, carried_out, two_signers

OWNER = {key(name).public_key.canonical_id: key(name) for name in ("root", "targets")}
BEFORE = key("ci").public_key
AFTER = key("ci2").public_key


# --- Base roles -------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [TARGETS, SNAPSHOT, "timestamp"])
def test_a_base_role_gets_its_one_new_key_and_the_root_forgets_the_old_one(role: str) -> None:
    repository = believe(GoodRepository().files())
    plan = base_key_plan(role, key("new").public_key)
    root = plan(repository)[ROOT]
    assert isinstance(root, Root)
    assert root.roles[role].keyids == (key("new").public_key.key_id,)
    assert set(root.keys) == {key_id for each in root.roles.values() for key_id in each.keyids}
    assert {name: each for name, each in root.roles.items() if name != role} == {
        name: each for name, each in repository.root.body.roles.items() if name != role
    }


def test_targets_are_signed_again_with_their_new_key_and_say_the_same() -> None:
    repository = believe(GoodRepository().files())
    plan = base_key_plan(TARGETS, key("new").public_key)
    changes = plan(repository)
    assert set(changes) == {ROOT, TARGETS}
    signer_keys = {**OWNER, key("new").public_key.canonical_id: key("new")}
    files = signed_files(repository, changes, {ROOT: 2, TARGETS: 2}, signer_keys)
    signed = Signed.parse(files[TARGETS], Targets, what=TARGETS)
    assert [each.keyid for each in signed.signatures] == [key("new").public_key.key_id]
    assert signed.body.delegations == repository.targets().delegations
    repository.rotate_root(files[ROOT], newest=True)
    assert plan(repository) == {}


def test_a_new_root_is_signed_by_both_and_the_same_key_may_have_a_new_certificate() -> None:
    for name in ("second", "root"):
        good = GoodRepository()
        repository = believe(good.files())
        new = certificate(name, GUN, NOW.replace(year=NOW.year - 1))
        changes = base_key_plan(ROOT, new)(repository)
        keys = {key(each).public_key.canonical_id: key(each) for each in ("root", name)}
        files = signed_files(repository, changes, {ROOT: 2}, keys)
        keyids = {each.keyid for each in Signed.parse(files[ROOT], Root, what=ROOT).signatures}
        assert keyids == {new.key_id, *good.root.roles[ROOT].keyids}
        repository.rotate_root(files[ROOT], newest=True)
        assert repository.root.body.roles[ROOT].keyids == (new.key_id,)


def test_without_the_old_root_key_there_is_no_new_root() -> None:
    repository = believe(GoodRepository().files())
    changes = base_key_plan(ROOT, certificate("second", GUN, NOW))(repository)
    keys = {key("second").public_key.canonical_id: key("second")}
    with pytest.raises(ThresholdError, match="new root: expected valid signatures by 1 of its"):
        signed_files(repository, changes, {ROOT: 2}, keys)


# --- A snapshot key that people keep ----------------------------------------------------------


def test_whoever_has_the_snapshot_key_signs_the_snapshot_as_well() -> None:
    repository = believe(GoodRepository().files())
    changes = signing_plan({"2.0": NEW}, [CI])(repository)
    keys = {key(name).public_key.canonical_id: key(name) for name in ("ci", "snapshot")}
    files = signed_files(repository, changes, dict.fromkeys(changes, 2), keys)
    assert list(files) == ["targets/ci", RELEASES, SNAPSHOT]
    snapshot = Signed.parse(files[SNAPSHOT], Snapshot, what=SNAPSHOT).body
    assert snapshot.version == repository.snapshot.body.version + 1
    assert snapshot.meta[TARGETS] == repository.snapshot.body.meta[TARGETS]
    for role in changes:
        snapshot.meta[role].check(files[role], what=role)


def test_without_the_snapshot_key_the_snapshot_is_the_servers() -> None:
    repository = believe(GoodRepository().files())
    changes = signing_plan({"2.0": NEW}, [CI])(repository)
    files = signed_files(repository, changes, dict.fromkeys(changes, 2), {CI: key("ci")})
    assert list(files) == ["targets/ci", RELEASES]


def test_a_snapshot_that_comes_home_is_signed_with_the_key_that_the_new_root_names() -> None:
    repository = believe(GoodRepository().files())
    changes = base_key_plan(SNAPSHOT, key("home").public_key)(repository)
    keys = {key(name).public_key.canonical_id: key(name) for name in ("root", "home")}
    files = signed_files(repository, changes, {ROOT: 2}, keys)
    signed = Signed.parse(files[SNAPSHOT], Snapshot, what=SNAPSHOT)
    assert [each.keyid for each in signed.signatures] == [key("home").public_key.key_id]
    signed.body.meta[ROOT].check(files[ROOT], what=ROOT)


# --- Signers ----------------------------------------------------------------------------------


def test_a_signers_new_key_signs_again_what_the_old_one_signed() -> None:
    plan = signer_keys_plan("ci", [AFTER], [AFTER.canonical_id])
    seen = carried_out(GoodRepository(), plan, key("targets"), key("ci2"))
    assert [(each.name, each.key_ids) for each in signers(seen)] == [("ci", (AFTER.key_id,))]
    assert released(seen, "1.0") == IMAGE
    assert signers_of(seen, "1.0", IMAGE) == ("ci",)
    assert BEFORE.key_id not in seen.targets().delegation_keys


def test_releases_that_another_signer_signed_stay_signed_by_that_one() -> None:
    """Only what the old key alone signed needs the new one."""
    good = two_signers("qa")
    plan = signer_keys_plan("ci", [AFTER], [AFTER.canonical_id])
    seen = carried_out(good, plan, key("targets"), key("ci2"))
    assert signers_of(seen, "1.0", IMAGE) == ("ci", "qa")
    (entry,) = [each for each in seen.targets().delegations if each.name == RELEASES]
    assert set(entry.role.keyids) == {key("qa").public_key.key_id, AFTER.key_id}


def test_a_new_key_that_has_signed_already_need_not_be_at_hand() -> None:
    both = replace(GoodRepository(), targets=GoodRepository().targets)
    both.targets = both.targets.with_delegation("targets/ci", [AFTER])
    both.targets = both.targets.with_delegation(RELEASES, [AFTER])
    both.signers = {"targets/ci": [key("ci2")], RELEASES: [key("ci2")]}
    seen = carried_out(both, signer_keys_plan("ci", [AFTER], []), key("targets"))
    assert signers_of(seen, "1.0", IMAGE) == ("ci",)


@pytest.mark.parametrize("role", ["targets/ci", RELEASES])
def test_a_new_key_that_is_elsewhere_must_have_signed_first(role: str) -> None:
    good = GoodRepository()
    good.targets = good.targets.with_delegation("targets/ci", [AFTER])
    good.targets = good.targets.with_delegation(RELEASES, [AFTER])
    other = ({"targets/ci", RELEASES} - {role}).pop()
    good.signers = {other: [key("ci2")]}
    with pytest.raises(NotASignerError, match=f"^{role} of {GUN} is signed with an old key of ci"):
        signer_keys_plan("ci", [AFTER], [])(believe(good.files()))


def test_paths_and_thresholds_of_a_role_outlive_its_keys() -> None:
    """Adding a signer opens every path, as Docker does; replacing a key opens none."""
    good = GoodRepository()
    entries = tuple(
        replace(each, paths=("1.",)) if each.name == "targets/ci" else each
        for each in good.targets.delegations
    )
    good.targets = replace(good.targets, delegations=entries)
    plan = signer_keys_plan("ci", [AFTER], [AFTER.canonical_id])
    seen = carried_out(good, plan, key("targets"), key("ci2"))
    assert {each.name: each.paths for each in seen.targets().delegations} == {
        "targets/ci": ("1.",),
        RELEASES: ("",),
    }


def test_a_key_that_another_signer_shares_stays_among_the_releasers() -> None:
    good = GoodRepository()
    good.targets = good.targets.with_delegation("targets/twin", [BEFORE])
    seen = carried_out(
        good, signer_keys_plan("ci", [AFTER], [AFTER.canonical_id]), key("targets"), key("ci2")
    )
    (entry,) = [each for each in seen.targets().delegations if each.name == RELEASES]
    assert set(entry.role.keyids) == {BEFORE.key_id, AFTER.key_id}


def test_a_signer_who_never_signed_gets_a_key_that_nobody_has_here() -> None:
    good = GoodRepository(delegated={})
    seen = carried_out(good, signer_keys_plan("ci", [AFTER], []), key("targets"))
    assert [each.key_ids for each in signers(seen)] == [(AFTER.key_id,)]


def test_expired_roles_are_signed_again_with_the_new_key() -> None:
    good = GoodRepository()
    good.delegated[RELEASES] = replace(good.delegated[RELEASES], expires=PAST)
    plan = signer_keys_plan("ci", [AFTER], [AFTER.canonical_id])
    seen = carried_out(good, plan, key("targets"), key("ci2"))
    assert released(seen, "1.0") == IMAGE


def test_an_unknown_signer_has_no_keys_to_replace() -> None:
    with pytest.raises(InputError, match=f"^{GUN} has no signer bob; its signers are ci$"):
        signer_keys_plan("bob", [AFTER], [])(believe(GoodRepository().files()))
    empty = GoodRepository(targets=content({}), delegated={})
    with pytest.raises(InputError, match=r"its signers are none$"):
        signer_keys_plan("ci", [AFTER], [])(believe(empty.files()))


# --- Taking hold ------------------------------------------------------------------------------


def test_a_key_takes_hold_where_it_has_not_signed_and_nowhere_else() -> None:
    good = GoodRepository()
    good.targets = good.targets.with_delegation("targets/ci", [AFTER])
    good.targets = good.targets.with_delegation(RELEASES, [AFTER])
    good.signers = {RELEASES: [key("ci2")]}
    plan = again_plan(["targets/ci", RELEASES], [AFTER.canonical_id], Recovery.RESIGN)
    assert set(plan(believe(good.files()))) == {"targets/ci"}
    carried_out(good, plan, key("ci2"))


def test_what_ends_soon_is_signed_again_though_the_same_key_has_signed_it() -> None:
    soon = Expiry.at(NOW + OWNER_NOTICE)
    good = GoodRepository()
    good.targets = replace(good.targets, expires=soon)
    good.delegated = {
        **good.delegated,
        "targets/ci": replace(good.delegated["targets/ci"], expires=soon),
    }
    plan = again_plan([TARGETS, "targets/ci", RELEASES], [CI, *OWNER], Recovery.RESIGN)
    assert set(plan(believe(good.files()))) == {TARGETS, "targets/ci"}
    seen = carried_out(good, plan, key("ci"), key("targets"))
    assert seen.targets("targets/ci").expires.moment > NOW + OWNER_NOTICE


def test_a_snapshot_at_home_that_ends_soon_is_signed_again_with_targets() -> None:
    good = GoodRepository(expiry={SNAPSHOT: Expiry.at(NOW + OWNER_NOTICE)})
    home = key("snapshot").public_key.canonical_id
    repository = believe(good.files())
    assert again_plan([SNAPSHOT], [], Recovery.RESIGN)(repository) == {}
    changes = again_plan([SNAPSHOT], [home], Recovery.RESIGN)(repository)
    assert set(changes) == {TARGETS}
    files = signed_files(repository, changes, {TARGETS: 2}, {**OWNER, home: key("snapshot")})
    signed = Signed.parse(files[SNAPSHOT], Snapshot, what=SNAPSHOT)
    assert signed.body.expires.moment > NOW + OWNER_NOTICE


def test_what_was_never_published_is_not_signed_again() -> None:
    good = GoodRepository()
    good.targets = good.targets.with_delegation("targets/qa", [key("qa").public_key])
    plan = again_plan(["targets/qa"], [QA], Recovery.RESIGN)
    assert plan(believe(good.files())) == {}


def test_an_invalid_role_is_signed_again_on_the_terms_of_a_witness() -> None:
    good = GoodRepository(signers={RELEASES: [key("stranger")]})
    with pytest.raises(ThresholdError, match=f"{RELEASES} of {GUN}: expected valid"):
        again_plan([RELEASES], [CI], Recovery.RESIGN)(believe(good.files()))
    seen = carried_out(good, again_plan([RELEASES], [CI], Recovery.DROP), key("ci"))
    assert seen.targets(RELEASES).targets == {}


def test_a_signer_who_was_added_stands_beside_the_old_key_until_it_is_replaced() -> None:
    seen = carried_out(GoodRepository(), signer_plan("ci", [AFTER]), key("targets"))
    assert signers(seen)[0].key_ids == (BEFORE.key_id, AFTER.key_id)
    assert again_plan(["targets/ci"], [AFTER.canonical_id], Recovery.REFUSE)(seen)
