"""`signimage.trust`: a good repository is believed, and with any one lie it is not."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from signimage.errors import (
    ExpiredError,
    FormatError,
    HashMismatchError,
    NotASignerError,
    NotSignedError,
    RollbackError,
    RootPinError,
    ThresholdError,
    TrustError,
)
from signimage.filemeta import FileMeta
from signimage.lookup import released, signers, signers_of, signing_roles
from signimage.metadata import RELEASES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Delegation, Role
from signimage.pinning import RootPins
from signimage.trust import TrustedRepository
from unit.repositories import (
    GUN,
    IMAGE,
    NOW,
    PAST,
    GoodRepository,
    believe,
    content,
    good_root,
    good_targets,
    key,
    newer,
    sign,
)

OTHER_IMAGE = FileMeta(7, {"sha256": bytes(32)})
Lie = Callable[[GoodRepository], None]


def test_a_good_repository_is_believed() -> None:
    repository = believe(GoodRepository().files())
    assert released(repository, "1.0") == IMAGE
    assert signers_of(repository, "1.0", IMAGE) == ("ci",)
    assert [signer.name for signer in signers(repository)] == ["ci"]
    assert repository.warnings == []
    assert repository.floors == {
        ROOT: 1, TIMESTAMP: 1, SNAPSHOT: 1, TARGETS: 1, "targets/ci": 1, RELEASES: 1,
    }  # fmt: skip


def test_only_the_pinned_root_key_is_believed() -> None:
    good = GoodRepository()
    pinned = good.root.roles[ROOT].keyids[0]
    believe(good.files(), pins=RootPins(frozenset({pinned})))
    with pytest.raises(RootPinError, match=f"root of {GUN}: expected root key {'0' * 64}, got"):
        believe(good.files(), pins=RootPins(frozenset({"0" * 64})))


def _expired_root(good: GoodRepository) -> None:
    good.root = replace(good.root, expires=PAST)


def _expired_targets(good: GoodRepository) -> None:
    good.targets = replace(good.targets, expires=PAST)


def _expired_snapshot(good: GoodRepository) -> None:
    good.expiry[SNAPSHOT] = PAST


def _expired_timestamp(good: GoodRepository) -> None:
    good.expiry[TIMESTAMP] = PAST


def _foreign_signature(role: str) -> Lie:
    def lie(good: GoodRepository) -> None:
        good.signers[role] = [key("stranger")]

    return lie


def _spoilt(role: str) -> Lie:
    def lie(good: GoodRepository) -> None:
        good.spoil[role] = lambda data: data.replace(b'"version":1', b'"version":2')

    return lie


def _padded(role: str) -> Lie:
    def lie(good: GoodRepository) -> None:
        good.spoil[role] = lambda data: data + b" "

    return lie


def _foreign_certificate(good: GoodRepository) -> None:
    good.root = good_root("root", gun="registry.example/team/other")


def _future_certificate(good: GoodRepository) -> None:
    good.root = good_root("root", since=NOW + timedelta(days=2))


def _old_certificate(good: GoodRepository) -> None:
    good.root = good_root("root", since=NOW - timedelta(days=3651))


def _bare_root_key(good: GoodRepository) -> None:
    bare = key("root").public_key
    good.root = replace(
        good.root,
        keys={**good.root.keys, bare.key_id: bare},
        roles={**good.root.roles, ROOT: Role.of(bare)},
    )


def _threshold_of_two(good: GoodRepository) -> None:
    role = good.root.roles[TARGETS]
    keys = {**good.root.keys, key("ci").public_key.key_id: key("ci").public_key}
    two = Role((*role.keyids, key("ci").public_key.key_id), 2)
    good.root = replace(good.root, keys=keys, roles={**good.root.roles, TARGETS: two})
    good.signers[TARGETS] = [key("targets"), key("targets")]  # one key twice is one signature


def _right_id_wrong_key(good: GoodRepository) -> None:
    key_id = good.root.roles[TARGETS].keyids[0]
    keys = {**good.root.keys, key_id: key("stranger").public_key}
    good.root = replace(good.root, keys=keys)


def _wrong_type(good: GoodRepository) -> None:
    good.reforge[TARGETS] = lambda data: data.replace(b'"Targets"', b'"Snapshot"')


@pytest.mark.parametrize(
    ("lie", "error", "message"),
    [
        (_expired_root, ExpiredError, (f"root of {GUN} expired at 2026-11-21T12:00:00Z; this "
         "machine's clock says 2026-11-22T12:00:00Z")),
        (_expired_targets, ExpiredError, f"targets of {GUN} expired at"),
        (_expired_snapshot, ExpiredError, f"snapshot of {GUN} expired at"),
        (_expired_timestamp, ExpiredError, f"timestamp of {GUN} expired at"),
        (_foreign_signature(ROOT), ThresholdError, (f"root of {GUN}: expected valid signatures by "
         "1 of its keys, got 0")),
        (_foreign_signature(TARGETS), ThresholdError, f"targets of {GUN}: expected valid"),
        (_foreign_signature(SNAPSHOT), ThresholdError, f"snapshot of {GUN}: expected valid"),
        (_foreign_signature(TIMESTAMP), ThresholdError, f"timestamp of {GUN}: expected valid"),
        (_spoilt(SNAPSHOT), HashMismatchError, f"snapshot of {GUN}: expected sha256"),
        (_spoilt(TARGETS), HashMismatchError, f"targets of {GUN}: expected sha256"),
        (_spoilt(ROOT), ThresholdError, f"root of {GUN}: expected valid signatures"),
        (_spoilt(TIMESTAMP), ThresholdError, f"timestamp of {GUN}: expected valid signatures"),
        (_padded(TARGETS), HashMismatchError, r"expected \d+ bytes, got \d+"),
        (_padded(ROOT), HashMismatchError, f"root of {GUN}: expected"),
        (_foreign_certificate, TrustError, ("expected a certificate for registry.example/team/app, "
         "got one for 'registry.example/team/other'")),
        (_future_certificate, TrustError, "its root certificate is valid from 2026-11-24"),
        (_old_certificate, ExpiredError, "its root certificate expired at 2026-11-2"),
        (_bare_root_key, TrustError, "expected a certificate, got a bare 'ecdsa' key"),
        (_threshold_of_two, ThresholdError, (f"targets of {GUN}: expected valid signatures by 2 of "
         "its keys, got 1")),
        (_right_id_wrong_key, TrustError, f"targets of {GUN}: expected key [0-9a-f]+, got key"),
        (_wrong_type, FormatError, f"targets of {GUN}: expected _type Targets, got 'Snapshot'"),
    ],
)  # fmt: skip
def test_one_lie_is_enough(lie: Lie, error: type[Exception], message: str) -> None:
    """Case 16."""
    good = GoodRepository()
    lie(good)
    with pytest.raises(error, match=message):
        believe(good.files())


@pytest.mark.parametrize("role", [TIMESTAMP, SNAPSHOT, TARGETS])
def test_no_base_role_goes_back(role: str) -> None:
    """The floor of every role holds against a perfectly signed older version."""
    with pytest.raises(RollbackError, match=f"{role} of {GUN}: expected version 2 or later, got 1"):
        believe(GoodRepository().files(), floors={role: 2})


def test_a_delegation_that_goes_back_is_not_believed() -> None:
    repository = believe(GoodRepository().files(), floors={RELEASES: 5})
    with pytest.raises(RollbackError, match=f"{RELEASES} of {GUN}: expected version 5 or later"):
        released(repository, "1.0")


@pytest.mark.parametrize("role", ["targets/ci", RELEASES])
def test_a_delegation_that_was_seen_and_is_hidden_has_gone_back(role: str) -> None:
    """Case 14: to say nothing of a role is to show it as it was before it was published."""
    good = GoodRepository()
    good.targets = replace(good.targets, targets={"1.0": OTHER_IMAGE})
    del good.delegated[role]
    repository = believe(good.files(), floors={role: 5})
    with pytest.raises(RollbackError, match=f"{role} of {GUN}: expected version 5 or later, got n"):
        repository.targets(role)
    assert [role in warning for warning in repository.warnings] == [True]
    if role == RELEASES:
        with pytest.raises(RollbackError, match=f"{RELEASES} of {GUN}: expected version 5"):
            released(repository, "1.0")
    else:
        assert signers_of(repository, "1.0", released(repository, "1.0")) == ()


def test_an_invalid_releases_role_never_falls_back_to_targets() -> None:
    """Case 17."""
    good = GoodRepository()
    good.targets = replace(good.targets, targets={"1.0": OTHER_IMAGE})
    good.delegated[RELEASES] = replace(good.delegated[RELEASES], expires=PAST)
    repository = believe(good.files())
    with pytest.raises(ExpiredError, match=f"{RELEASES} of {GUN} expired"):
        released(repository, "1.0")


def test_an_invalid_signer_is_not_counted_and_spoils_nobody_else() -> None:
    good = GoodRepository()
    good.signers["targets/ci"] = [key("stranger")]
    repository = believe(good.files())
    assert released(repository, "1.0") == IMAGE
    assert signers_of(repository, "1.0", IMAGE) == ()
    assert len(repository.warnings) == 1
    with pytest.raises(ThresholdError, match=f"targets/ci of {GUN}: expected valid signatures"):
        repository.targets("targets/ci")


def test_a_signer_counts_only_for_the_same_content() -> None:
    good = GoodRepository()
    good.delegated["targets/ci"] = content({"1.0": OTHER_IMAGE})
    assert signers_of(believe(good.files()), "1.0", IMAGE) == ()


def test_a_delegation_signs_only_below_its_paths() -> None:
    """Case 25."""
    good = GoodRepository()
    good.targets = replace(
        good.targets,
        delegations=tuple(replace(each, paths=("v",)) for each in good.targets.delegations),
    )
    good.delegated[RELEASES] = content({"1.0": IMAGE, "v1": IMAGE})
    repository = believe(good.files())
    assert released(repository, "v1") == IMAGE
    with pytest.raises(NotSignedError, match=f"{GUN}:1.0 is not signed"):
        released(repository, "1.0")
    with pytest.raises(NotASignerError, match=r"but not the tag 1\.0; its paths are v"):
        signing_roles(repository, "1.0", [key("ci").public_key.canonical_id])


@pytest.mark.parametrize("name", ["targets/ci/deep", "targets/", "other/ci", "targets/../x", "ci"])
def test_a_delegation_that_is_no_child_is_passed_over(name: str) -> None:
    """Case 25."""
    good = GoodRepository()
    stray = Delegation(name, Role.of(key("ci").public_key), ("",))
    good.targets = replace(good.targets, delegations=(*good.targets.delegations, stray))
    good.delegated[name] = content({"stray": IMAGE})
    repository = believe(good.files())
    assert [each.name for each in repository.delegations()] == ["targets/ci", RELEASES]
    with pytest.raises(NotSignedError, match="neither targets/releases nor targets"):
        released(repository, "stray")


def test_every_role_of_a_key_is_to_be_signed_once_there_are_delegations() -> None:
    repository = believe(GoodRepository().files())
    roles = signing_roles(repository, "2.0", [key("ci").public_key.canonical_id])
    assert roles == ("targets/ci", RELEASES)


def test_the_repository_key_signs_only_while_there_are_no_delegations() -> None:
    lonely = GoodRepository(targets=content({}), delegated={})
    targets_key = [key("targets").public_key.canonical_id]
    assert signing_roles(believe(lonely.files()), "1.0", targets_key) == (TARGETS,)
    with pytest.raises(NotASignerError, match=f"is not a signer of {GUN}; its signers are ci"):
        signing_roles(believe(GoodRepository().files()), "1.0", targets_key)


def test_a_refused_key_is_told_who_may_sign() -> None:
    ci, stranger = key("ci").public_key.canonical_id, key("stranger").public_key.canonical_id
    repository = believe(GoodRepository().files())
    with pytest.raises(NotASignerError) as caught:
        signing_roles(repository, "1.0", [stranger])
    assert caught.value.sentence == (
        f"key {stranger} is not a signer of {GUN}; its signers are ci ({ci}). Its owner can add "
        f"the key with: signimage signer add --key FILE.pub NAME {GUN}."
    )


class TestRootRotation:
    """Roots follow each other one by one, each signed by the one before it and by itself."""

    def _at_version_1(self) -> TrustedRepository:
        repository = TrustedRepository(GUN, NOW)
        repository.trust_first_root(GoodRepository().files()[ROOT])
        return repository

    def _next(self, old: str, new: str, version: int, *, by: tuple[str, ...]) -> bytes:
        body = good_root(new, version=version)
        ids = {new: body.roles[ROOT].keyids[0]}
        previous = GoodRepository().root
        ids.setdefault(old, previous.roles[ROOT].keyids[0])
        body = replace(body, keys={**previous.keys, **body.keys})
        return sign(body, [key(name) for name in by], keyids=tuple(ids[name] for name in by))

    def test_a_root_signed_by_old_and_new_key_is_followed(self) -> None:
        repository = self._at_version_1()
        repository.rotate_root(self._next("root", "new", 2, by=("root", "new")), newest=True)
        assert repository.root.body.version == 2

    def test_a_root_not_signed_by_the_old_key_is_refused(self) -> None:
        repository = self._at_version_1()
        with pytest.raises(RootPinError, match="version 2 is not signed by the root key that"):
            repository.rotate_root(self._next("root", "new", 2, by=("new",)), newest=True)
        assert repository.root.body.version == 1

    def test_a_root_not_signed_by_itself_is_refused(self) -> None:
        repository = self._at_version_1()
        with pytest.raises(ThresholdError, match=f"root of {GUN}: expected valid signatures"):
            repository.rotate_root(self._next("root", "new", 2, by=("root",)), newest=True)

    def test_a_skipped_version_is_refused(self) -> None:
        repository = self._at_version_1()
        with pytest.raises(RollbackError, match="expected version 2, got 3"):
            repository.rotate_root(self._next("root", "new", 3, by=("root", "new")), newest=True)

    def test_another_root_under_the_same_version_is_refused(self) -> None:
        repository = self._at_version_1()
        other = GoodRepository(root=good_root("new"), signers={ROOT: [key("new")]})
        with pytest.raises(RootPinError, match="shows another root than the one believed before"):
            repository.check_same_root(other.files()[ROOT])


def test_a_later_state_keeps_no_file_of_the_one_before() -> None:
    """What was loaded of a state that failed half-way is not taken for a part of the next."""
    repository = believe(GoodRepository().files())
    good = newer(GoodRepository())
    del good.delegated["targets/ci"]
    files = good.files()
    repository.load_timestamp(files[TIMESTAMP])
    repository.load_snapshot(files[SNAPSHOT])
    repository.load_targets(files[TARGETS])
    repository.load_delegation(RELEASES, files[RELEASES])
    assert repository.files == files


def test_plain_targets_have_no_rejected_roles() -> None:
    """Without delegations nothing is asked of `targets/releases`."""
    good = GoodRepository(targets=replace(content({"1.0": IMAGE})), delegated={})
    assert released(believe(good.files()), "1.0") == IMAGE
    assert good_targets("ci").delegations[0].signer == "ci"
