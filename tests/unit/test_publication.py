"""`signimage.publication`: plans say what is missing, and the files for it are valid afterwards."""

from dataclasses import replace
from datetime import timedelta

import pytest

from signimage.errors import (
    ConflictError,
    ExpiredError,
    InputError,
    NotASignerError,
    ThresholdError,
)
from signimage.filemeta import FileMeta
from signimage.keys import PrivateKey
from signimage.lookup import released, signers, signers_of
from signimage.metadata import RELEASES, ROOT, TARGETS, Role, Root, Targets
from signimage.oci import Digest
from signimage.publication import (
    Plan,
    Recovery,
    check_signer_name,
    signed_files,
    signer_plan,
    signer_removal_plan,
    signing_plan,
    witness_plan,
)
from signimage.trust import TrustedRepository
from unit.repositories import (
    GUN,
    IMAGE,
    NOW,
    PAST,
    GoodRepository,
    believe,
    certificate,
    content,
    good_targets,
    key,
)

NEW = FileMeta(7, {"sha256": bytes(32)})
CI = key("ci").public_key.canonical_id
QA = key("qa").public_key.canonical_id


def carried_out(good: GoodRepository, plan: Plan, *keys: PrivateKey) -> TrustedRepository:
    """What a visitor believes after *plan* was carried out on *good* with *keys* at hand."""
    repository = believe(good.files())
    changes = plan(repository)
    versions = {role: body.version + 1 for role, body in changes.items()}
    at_hand = {each.public_key.canonical_id: each for each in keys}
    files = signed_files(repository, changes, versions, at_hand)
    after = replace(good, reforge={**good.reforge}, snapshot_version=2, timestamp_version=2)
    for role, data in files.items():
        body = changes[role]
        if isinstance(body, Targets) and role == TARGETS:
            after.targets = body
        elif isinstance(body, Targets):
            after.delegated = {**after.delegated, role: body}
        after.reforge[role] = lambda _old, data=data: data  # type: ignore[misc]  # bound default
    seen = believe(after.files())
    assert plan(seen) == {}, "a plan that was carried out has nothing left to say"
    return seen


def two_signers(last: str) -> GoodRepository:
    """`ci` and `qa` may sign; the signer *last* signed `targets/releases` last."""
    both = good_targets("ci").with_delegation("targets/qa", [key("qa").public_key])
    both = both.with_delegation(RELEASES, [key("qa").public_key])
    delegated = {role: content({"1.0": IMAGE}) for role in ("targets/ci", "targets/qa", RELEASES)}
    who = {"targets/qa": [key("qa")], RELEASES: [key(last)]}
    return GoodRepository(targets=both, delegated=delegated, signers=who)


def test_all_tags_are_signed_in_every_role_of_the_key_at_once() -> None:
    seen = carried_out(GoodRepository(), signing_plan({"2.0": NEW, "latest": NEW}, [CI]), key("ci"))
    for tag in ("2.0", "latest"):
        assert released(seen, tag) == NEW
        assert signers_of(seen, tag, NEW) == ("ci",)
    assert released(seen, "1.0") == IMAGE


def test_keys_that_are_not_at_hand_cannot_sign() -> None:
    repository = believe(GoodRepository().files())
    changes = signing_plan({"2.0": NEW}, [CI])(repository)
    with pytest.raises(NotASignerError, match="targets/ci: expected 1 of its keys at hand, got 0"):
        signed_files(repository, changes, dict.fromkeys(changes, 2), {QA: key("qa")})


class TestExpectations:
    """Compare-and-set: a tag changes only from what the caller expects (case 30)."""

    OLD = Digest(f"sha256:{IMAGE.sha256.hex()}")

    def test_the_expected_content_may_be_replaced(self) -> None:
        plan = signing_plan({"1.0": NEW}, [CI], expected={"1.0": self.OLD})
        assert set(plan(believe(GoodRepository().files()))) == {"targets/ci", RELEASES}

    def test_other_content_may_not(self) -> None:
        other = Digest.of(b"other")
        plan = signing_plan({"1.0": NEW}, [CI], expected={"1.0": other})
        with pytest.raises(
            ConflictError, match=f"{GUN}:1.0: expected {other} until now, got {self.OLD}"
        ):
            plan(believe(GoodRepository().files()))

    def test_a_new_tag_may_be_demanded(self) -> None:
        repository = believe(GoodRepository().files())
        assert signing_plan({"2.0": NEW}, [CI], expected={"2.0": None})(repository)
        with pytest.raises(ConflictError, match="expected no signature until now, got sha256"):
            signing_plan({"1.0": NEW}, [CI], expected={"1.0": None})(repository)

    def test_what_is_there_already_is_no_conflict(self) -> None:
        """A step that is run again after it was killed finds its own signature."""
        plan = signing_plan({"1.0": IMAGE}, [CI], expected={"1.0": Digest.of(b"older")})
        assert plan(believe(GoodRepository().files())) == {}


class TestInvalidRoles:
    """A role that cannot be continued ends the operation, or is continued as told (case 32)."""

    def expired(self) -> GoodRepository:
        good = GoodRepository()
        good.delegated[RELEASES] = replace(good.delegated[RELEASES], expires=PAST)
        return good

    def foreign(self) -> GoodRepository:
        return GoodRepository(signers={RELEASES: [key("stranger")]})

    def test_by_default_its_error_is_told(self) -> None:
        with pytest.raises(ExpiredError, match=f"{RELEASES} of {GUN} expired"):
            signing_plan({"2.0": NEW}, [CI])(believe(self.expired().files()))

    def test_expired_content_can_be_signed_again(self) -> None:
        plan = signing_plan({"2.0": NEW}, [CI], recovery=Recovery.RESIGN)
        seen = carried_out(self.expired(), plan, key("ci"))
        assert (released(seen, "1.0"), released(seen, "2.0")) == (IMAGE, NEW)

    def test_content_that_nobody_signed_is_never_signed_again(self) -> None:
        plan = signing_plan({"2.0": NEW}, [CI], recovery=Recovery.RESIGN)
        with pytest.raises(ThresholdError, match=f"{RELEASES} of {GUN}: expected valid"):
            plan(believe(self.foreign().files()))

    def test_it_can_be_dropped(self) -> None:
        plan = signing_plan({"2.0": NEW}, [CI], recovery=Recovery.DROP)
        seen = carried_out(self.foreign(), plan, key("ci"))
        assert set(seen.targets(RELEASES).targets) == {"2.0"}
        assert seen.floors[RELEASES] == 2

    def test_a_witness_signs_what_has_expired_and_nothing_else(self) -> None:
        seen = carried_out(self.expired(), witness_plan([RELEASES, "targets/ci"]), key("ci"))
        assert released(seen, "1.0") == IMAGE
        assert (seen.floors[RELEASES], seen.floors["targets/ci"]) == (2, 1)


class TestSigners:
    """The life of a signer without the traps of Docker's client (cases 32 to 35)."""

    def test_a_new_signer_may_sign_and_is_released(self) -> None:
        seen = carried_out(
            GoodRepository(), signer_plan("qa", [key("qa").public_key]), key("targets")
        )
        assert [each.name for each in signers(seen)] == ["ci", "qa"]
        assert set(signing_plan({"2.0": NEW}, [QA])(seen)) == {"targets/qa", RELEASES}

    def test_a_removed_name_is_not_given_again_unawares(self) -> None:
        good = GoodRepository(targets=good_targets("qa"), signers={RELEASES: [key("qa")]})
        plan = signer_plan("ci", [key("ci").public_key])
        with pytest.raises(InputError, match=f"signer ci of {GUN} was removed once, and the"):
            plan(believe(good.files()))
        again = signer_plan("ci", [key("ci").public_key], again=True)
        assert set(again(believe(good.files()))) == {TARGETS}

    def test_removing_a_signer_leaves_the_others_releases_valid(self) -> None:
        plan = signer_removal_plan("qa", [])
        seen = carried_out(two_signers("ci"), plan, key("targets"))
        assert [each.name for each in signers(seen)] == ["ci"]
        assert released(seen, "1.0") == IMAGE

    def test_removing_the_last_to_sign_has_releases_signed_again(self) -> None:
        plan = signer_removal_plan("qa", [CI])
        seen = carried_out(two_signers("qa"), plan, key("targets"), key("ci"))
        assert released(seen, "1.0") == IMAGE
        assert signers_of(seen, "1.0", IMAGE) == ("ci",)
        assert seen.floors[RELEASES] == 2

    def test_a_key_at_hand_signs_releases_again_in_any_case(self) -> None:
        """The version that is used up holds off whoever signs at the moment of being removed."""
        changes = signer_removal_plan("qa", [CI])(believe(two_signers("ci").files()))
        assert set(changes) == {TARGETS, RELEASES}
        never = two_signers("ci")
        del never.delegated[RELEASES]
        assert set(signer_removal_plan("qa", [CI])(believe(never.files()))) == {TARGETS, RELEASES}

    def test_releases_that_have_only_expired_are_saved_from_their_signers_removal(self) -> None:
        """Nobody could sign that content again afterwards: its signatures would count no more."""
        good = two_signers("qa")
        good.delegated[RELEASES] = replace(good.delegated[RELEASES], expires=PAST)
        seen = carried_out(good, signer_removal_plan("qa", [CI]), key("targets"), key("ci"))
        assert released(seen, "1.0") == IMAGE

    def test_expired_releases_keep_the_signer_while_no_other_key_is_at_hand(self) -> None:
        good = two_signers("qa")
        good.delegated[RELEASES] = replace(good.delegated[RELEASES], expires=PAST)
        with pytest.raises(NotASignerError, match=f"{RELEASES} of {GUN} has expired, and no key"):
            signer_removal_plan("qa", [QA])(believe(good.files()))

    def test_too_few_keys_at_hand_leave_valid_releases_as_they_are(self) -> None:
        good = two_signers("ci")
        third = good.targets.with_delegation(RELEASES, [key("dev").public_key])
        entries = tuple(
            replace(each, role=replace(each.role, threshold=2)) if each.name == RELEASES else each
            for each in third.delegations
        )
        good.targets = replace(third, delegations=entries)
        good.signers[RELEASES] = [key("ci"), key("dev")]
        assert set(signer_removal_plan("qa", [CI])(believe(good.files()))) == {TARGETS}

    def test_without_another_key_the_last_to_sign_is_not_removed(self) -> None:
        with pytest.raises(NotASignerError, match=f"signer qa signed {RELEASES} of {GUN} last"):
            signer_removal_plan("qa", [QA])(believe(two_signers("qa").files()))

    def test_the_only_signer_takes_releases_along(self) -> None:
        seen = carried_out(GoodRepository(), signer_removal_plan("ci", []), key("targets"))
        assert signers(seen) == ()
        assert seen.targets().delegations == ()
        assert seen.targets().delegation_keys == {}

    def test_a_key_that_another_signer_shares_stays(self) -> None:
        shared = good_targets("ci").with_delegation("targets/twin", [key("ci").public_key])
        good = GoodRepository(targets=shared)
        seen = carried_out(good, signer_removal_plan("twin", []), key("targets"))
        assert released(seen, "1.0") == IMAGE

    def test_an_unknown_signer_needs_no_removal(self) -> None:
        assert signer_removal_plan("nobody", [])(believe(GoodRepository().files())) == {}

    @pytest.mark.parametrize("name", ["releases", "", "A", "-a", "a/b", "ü", "a" * 202, "a b"])
    def test_illegal_names(self, name: str) -> None:
        with pytest.raises(InputError, match="signer name"):
            check_signer_name(name)


def test_a_root_is_signed_by_the_key_before_and_by_its_own() -> None:
    good = GoodRepository()
    repository = believe(good.files())
    old, new = good.root, certificate("second", GUN, NOW)
    keys = {**old.keys, new.key_id: new}
    body: Root = replace(old, keys=keys, roles={**old.roles, ROOT: Role.of(new)}, version=1)
    ids = {each.public_key.canonical_id: each for each in (key("root"), key("second"))}
    files = signed_files(repository, {ROOT: body}, {ROOT: 2}, ids)
    repository.rotate_root(files[ROOT], newest=True)
    assert repository.root.body.version == 2
    with pytest.raises(ThresholdError, match="new root: expected valid signatures by 1 of its"):
        signed_files(
            believe(good.files()),
            {ROOT: body},
            {ROOT: 2},
            {key("second").public_key.canonical_id: key("second")},
        )


def test_a_root_near_its_end_warns_and_stops_nobody() -> None:
    """Docker's client cannot publish in the last six months without the root key (case 39)."""
    good = GoodRepository()
    repository = believe(good.files(), now=NOW + timedelta(days=300))
    assert [text for text in repository.warnings if text.startswith(f"root of {GUN} or its")]
    assert signing_plan({"2.0": NEW}, [CI])(repository)
