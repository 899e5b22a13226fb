"""Acceptance cases 29 to 41: who signs what, and the lives of signers, tags and keys.

Against a trust server of our own. What is asked of plans alone stands in `test_publication.py`,
what needs the real server in `tests/peers`.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from signimage.administration import add_signer, remove_signer, witness
from signimage.errors import (
    ConflictError,
    ExpiredError,
    InputError,
    NotASignerError,
    NotInitializedError,
    NotSignedError,
    RemoteError,
    ThresholdError,
)
from signimage.keys import PrivateKey, PublicKey
from signimage.keystore import KeyStore, Passphrases
from signimage.lookup import released, signers, signers_of, signing_roles
from signimage.metadata import RELEASES, ROOT, TARGETS, Delegation, Role
from signimage.oci import Digest
from signimage.publication import (
    Changes,
    Recovery,
    revocation_plan,
    signer_plan,
    signer_removal_plan,
    signing_plan,
    whole_revocation_plan,
)
from signimage.trust import TrustedRepository
from unit.certificates import issue
from unit.repositories import (
    GUN,
    IMAGE,
    NOW,
    PAST,
    GoodRepository,
    believe,
    content,
    good_targets,
    key,
)
from unit.small_server import Reply
from unit.trust_server import (
    CI,
    NEW,
    Fate,
    Peer,
    TrustServerModel,
    carry_out_and_hang_up,
    error,
    refuse,
)

OWNER = key("targets").public_key.canonical_id
QA = key("qa").public_key.canonical_id
WORDS = {
    "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": "root words",
    "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "wörter %;\"'",
}
PASSPHRASES = Passphrases(WORDS)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the second look at changed targets soon: nobody else is there to interfere."""
    monkeypatch.setattr("signimage.publisher._SETTLE_S", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    """The owner's key store: the repository key, and that of the signer `ci`."""
    it = KeyStore(tmp_path / "owner")
    secret = WORDS["DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"].encode()
    it.add(key("targets"), "targets", GUN, secret)
    it.add(key("ci"), "ci", "", secret)
    return it


def two_signers() -> GoodRepository:
    """`ci` and `qa` may sign; each has signed 1.0, and `ci` has signed the releases last."""
    both = good_targets("ci").with_delegation("targets/qa", [key("qa").public_key])
    return GoodRepository(
        targets=both.with_delegation(RELEASES, [key("qa").public_key]),
        delegated={
            "targets/ci": content({"1.0": IMAGE}),
            "targets/qa": content({"1.0": IMAGE}),
            RELEASES: content({"1.0": IMAGE}),
        },
        signers={"targets/qa": [key("qa")]},
    )


# --- Who signs what ---------------------------------------------------------------------------


def test_without_delegations_the_repository_key_signs_in_targets(peer: Peer) -> None:
    """Case 29: and nowhere else."""
    peer.model.current.pop("targets/ci")
    peer.model.current.pop(RELEASES)
    peer.model.hold(GoodRepository(targets=content({}), delegated={}))
    plan = signing_plan({"2.0": NEW}, [OWNER])
    done = peer.client().publish(plan, {OWNER: key("targets")})
    assert done.roles == (TARGETS,)
    assert released(done.repository, "2.0") == NEW


def test_with_delegations_every_direct_role_of_the_key_is_signed(peer: Peer) -> None:
    """Case 29: those whose paths admit the tag; never targets, never a grandchild."""
    ci = key("ci").public_key
    targets = good_targets("ci")
    narrow = Delegation("targets/narrow", Role.of(ci), ("v",))
    foreign = Delegation("targets/foreign", Role.of(key("qa").public_key), ("",))
    targets = replace(
        targets,
        delegations=(*targets.delegations, narrow, foreign),
        delegation_keys={**targets.delegation_keys, QA: key("qa").public_key},
    )
    below = content({}).with_delegation("targets/ci/deep", [ci])
    good = GoodRepository(targets=targets)
    good.delegated["targets/ci"] = replace(below, targets={"1.0": IMAGE})
    peer.model.hold(good)
    assert set(peer.sign("2.0").roles) == {"targets/ci", RELEASES}
    assert set(peer.sign("v2").roles) == {"targets/ci", RELEASES, "targets/narrow"}


def test_a_key_that_is_in_no_role_is_told_which_roles_and_keys_there_are(peer: Peer) -> None:
    """Case 29: the repository key is one of them as soon as there are delegations."""
    with (
        peer.untouched(),
        pytest.raises(NotASignerError, match=rf"key {OWNER} is not .* signers are ci \({CI}\)"),
    ):
        peer.client().publish(signing_plan({"2.0": NEW}, [OWNER]), {OWNER: key("targets")})


def test_the_last_writer_of_a_tag_decides_and_the_others_no_longer_count(peer: Peer) -> None:
    """Case 30: without a condition."""
    peer.model.hold(two_signers())
    plan = signing_plan({"1.0": NEW}, [QA])
    repository = peer.client().publish(plan, {QA: key("qa")}).repository
    assert released(repository, "1.0") == NEW
    assert signers_of(repository, "1.0", NEW) == ("qa",)
    assert signers_of(repository, "1.0", IMAGE) == ("ci",)


def test_a_condition_that_does_not_hold_sends_nothing(peer: Peer) -> None:
    """Case 30: compare-and-set, also where a rival is faster between looking and sending."""
    was = Digest(f"sha256:{IMAGE.sha256.hex()}")
    plan = signing_plan({"1.0": NEW}, [CI], expected={"1.0": Digest.of(b"other")})
    with (
        peer.untouched(),
        pytest.raises(ConflictError, match=f"{GUN}:1.0: expected sha256:[0-9a-f]+ until now, got"),
    ):
        peer.client().publish(plan, {CI: key("ci")})

    def be_faster(_model: TrustServerModel, _files: dict[str, bytes]) -> Reply:
        rival = signing_plan({"1.0": replace(NEW, length=8, hashes={"sha256": b"8" * 32})}, [CI])
        peer.client().publish(rival, {CI: key("ci")})
        return error(400, "VERSION")

    peer.model.fates.append(be_faster)
    plan = signing_plan({"1.0": NEW}, [CI], expected={"1.0": was})
    with pytest.raises(ConflictError, match=rf"expected {was} until now, got sha256:{'38' * 32}"):
        peer.client().publish(plan, {CI: key("ci")})


def test_a_tag_outside_of_the_released_role_is_not_released() -> None:
    """Case 31: a signer vouches for it, and consumers do not get it."""
    repository = believe(GoodRepository().files())
    assert signers_of(repository, "unreleased", IMAGE) == ("ci",)
    with pytest.raises(NotSignedError, match=f"{GUN}:unreleased is not signed: neither"):
        released(repository, "unreleased")


# --- Roles that cannot be continued -----------------------------------------------------------


def _expired(good: GoodRepository) -> None:
    good.delegated = {name: replace(body, expires=PAST) for name, body in good.delegated.items()}


def _keys_replaced(good: GoodRepository) -> None:
    old = [key("before")]
    good.signers = {"targets/ci": old, RELEASES: old}


@pytest.mark.parametrize(
    ("lie", "recovery", "kept"),
    [
        (_expired, Recovery.RESIGN, {"1.0", "2.0"}),
        (_expired, Recovery.DROP, {"2.0"}),
        (_keys_replaced, Recovery.DROP, {"2.0"}),
    ],
)
def test_an_invalid_role_is_continued_only_as_told(
    peer: Peer, lie: Callable[[GoodRepository], None], recovery: Recovery, kept: set[str]
) -> None:
    """Case 32: above its version, which Go's client begins anew and never gets past."""
    good = GoodRepository()
    lie(good)
    for name in good.delegated:
        good.delegated[name] = replace(good.delegated[name], version=7)
    peer.model.hold(good)
    with (
        peer.untouched(),
        pytest.raises((ExpiredError, ThresholdError), match=f"targets/ci of {GUN}"),
    ):
        peer.sign()
    plan = signing_plan({"2.0": NEW}, [CI], recovery=recovery)
    repository = peer.client().publish(plan, {CI: key("ci")}).repository
    assert set(repository.targets(RELEASES).targets) == kept
    assert repository.floors[RELEASES] == 8


def test_content_that_is_signed_by_nobody_who_may_is_never_signed_again(peer: Peer) -> None:
    """Case 32: only what has merely expired was signed by its signers."""
    good = GoodRepository()
    _keys_replaced(good)
    peer.model.hold(good)
    plan = signing_plan({"2.0": NEW}, [CI], recovery=Recovery.RESIGN)
    with peer.untouched(), pytest.raises(ThresholdError, match=f"targets/ci of {GUN}: expected"):
        peer.client().publish(plan, {CI: key("ci")})


def test_an_expired_role_is_signed_again_by_its_witness(peer: Peer, store: KeyStore) -> None:
    """Case 32: with the key from the store, and both roles in one publication."""
    good = GoodRepository()
    _expired(good)
    peer.model.hold(good)
    repository = witness(
        peer.client(), store, PASSPHRASES, ["targets/ci", RELEASES], Recovery.RESIGN
    )
    assert released(repository, "1.0") == IMAGE
    assert signers_of(repository, "1.0", IMAGE) == ("ci",)
    assert peer.model.posts == 1


# --- Signers ----------------------------------------------------------------------------------


def test_a_removed_signer_who_signed_last_leaves_the_releases_valid(
    peer: Peer, store: KeyStore
) -> None:
    """Case 33: they are signed again by one who stays, in the same publication."""
    good = two_signers()
    good.signers[RELEASES] = [key("qa")]
    peer.model.hold(good)
    repository = remove_signer(peer.client(), store, PASSPHRASES, "qa")
    assert released(repository, "1.0") == IMAGE
    assert [signer.name for signer in signers(repository)] == ["ci"]
    assert peer.model.posts == 1


def test_without_a_remaining_key_the_signer_who_signed_last_stays(
    peer: Peer, store: KeyStore
) -> None:
    """Case 33: an error beats a repository that nobody can read."""
    peer.model.hold(two_signers())
    with peer.untouched(), pytest.raises(NotASignerError, match=f"signer ci signed {RELEASES} of"):
        remove_signer(peer.client(), store, PASSPHRASES, "ci")


def _qa_signs(peer: Peer) -> Fate:
    """Let `qa` sign before the update arrives."""

    def fate(model: TrustServerModel, files: dict[str, bytes]) -> Reply:
        peer.client().publish(signing_plan({"2.0": NEW}, [QA]), {QA: key("qa")})
        return model.carry_out(files)

    return fate


def test_who_signs_while_being_removed_leaves_the_releases_valid(
    peer: Peer, store: KeyStore
) -> None:
    """Case 33: it is a conflict, and one who stays signs what was released meanwhile."""
    peer.model.hold(two_signers())
    peer.model.fates.append(_qa_signs(peer))
    repository = remove_signer(peer.client(), store, PASSPHRASES, "qa")
    assert [signer.name for signer in signers(repository)] == ["ci"]
    assert (released(repository, "1.0"), released(repository, "2.0")) == (IMAGE, NEW)


def test_who_signs_while_being_removed_is_told_of_where_nobody_can_sign_again(
    peer: Peer, tmp_path: Path
) -> None:
    """Case 33: removed all the same, and never called well done."""
    alone = KeyStore(tmp_path / "alone")
    alone.add(key("targets"), "targets", GUN, b"words")
    words = Passphrases({"DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "words"})
    peer.model.hold(two_signers())
    peer.model.fates.append(_qa_signs(peer))
    with pytest.raises(ConflictError, match=f"signer qa was removed from {GUN} and signed") as told:
        remove_signer(peer.client(), alone, words, "qa")
    assert f"signimage witness --drop {GUN} {RELEASES}" in told.value.hint


def test_a_name_that_was_removed_does_not_bring_its_signatures_back(peer: Peer) -> None:
    """Case 33: the server keeps the old file, and with the same key it would count again."""
    peer.model.hold(two_signers())
    owner = {OWNER: key("targets")}
    peer.client().publish(signer_removal_plan("qa", [CI]), {**owner, CI: key("ci")})
    again = signer_plan("qa", [key("qa").public_key])
    with (
        peer.untouched(),
        pytest.raises(InputError, match=f"signer qa of {GUN} was removed once, and the trust"),
    ):
        peer.client().publish(again, owner)
    other = signer_plan("qa2", [key("qa").public_key])
    repository = peer.client().publish(other, owner).repository
    assert signers_of(repository, "1.0", IMAGE) == ("ci",)


def _pem(kind: str) -> bytes:
    if kind == "certificate":
        return issue("qa", since=NOW - timedelta(days=1)).root_key().public
    if kind == "RSA":
        return PrivateKey.of(rsa.generate_private_key(65537, 2048)).public_key.to_pem("qa")
    return key("qa").public_key.to_pem("qa" if kind == "with a header" else "")


@pytest.mark.parametrize("kind", ["bare", "with a header", "certificate", "RSA"])
def test_a_signer_is_added_with_a_key_in_any_usual_form(
    peer: Peer, store: KeyStore, kind: str
) -> None:
    """Case 35: and adding it again changes nothing."""
    public = PublicKey.from_pem(_pem(kind))
    for _ in range(2):
        repository = add_signer(peer.client(), store, PASSPHRASES, "qa", [public])
    assert [signer.name for signer in signers(repository)] == ["ci", "qa"]
    assert signing_roles(repository, "x", [public.canonical_id]) == (RELEASES, "targets/qa")
    assert peer.model.posts == 1


@pytest.mark.parametrize("name", ["releases", "Bad", "", "a/b", "-x", "ä"])
def test_a_signer_with_an_illegal_name_is_not_added(peer: Peer, store: KeyStore, name: str) -> None:
    """Case 35: nothing is asked of the server for it."""
    with peer.untouched(), pytest.raises(InputError, match=r"signer name .*: expected lower-case"):
        add_signer(peer.client(), store, PASSPHRASES, name, [key("qa").public_key])
    assert peer.fetched() == []


def test_a_signer_with_an_expired_certificate_is_not_added(peer: Peer, store: KeyStore) -> None:
    """Case 35: the bare key would do."""
    old = issue("qa", since=NOW - timedelta(days=9), days=1).root_key()
    with (
        peer.untouched(),
        pytest.raises(InputError, match="its certificate expired at 2026-11-14T12:00:00Z"),
    ):
        add_signer(peer.client(), store, PASSPHRASES, "qa", [old])


def test_a_signer_is_not_added_without_the_repository_key(peer: Peer, tmp_path: Path) -> None:
    """Case 35: the error names the key and where it was looked for."""
    empty = KeyStore(tmp_path / "empty")
    with peer.untouched(), pytest.raises(InputError, match=f"repository key {OWNER} is not in"):
        add_signer(peer.client(), empty, PASSPHRASES, "qa", [key("qa").public_key])


def test_a_signer_is_not_added_where_there_is_no_trust_data(peer: Peer, store: KeyStore) -> None:
    """Case 35: we do not initialise by the way, as Docker does."""
    peer.model.replies["root.json"] = error(404, "METADATA_NOT_FOUND")
    with peer.untouched(), pytest.raises(NotInitializedError, match=f"{GUN} has no trust data on"):
        add_signer(peer.client(), store, PASSPHRASES, "qa", [key("qa").public_key])


# --- Revoking ---------------------------------------------------------------------------------


def test_a_revoked_tag_is_gone_from_every_role_at_once(peer: Peer) -> None:
    """Case 34: and revoking it again sends nothing."""
    peer.model.hold(two_signers())
    keys = {CI: key("ci"), QA: key("qa")}
    done = peer.client().publish(revocation_plan(["1.0"], list(keys)), keys)
    assert set(done.roles) == {"targets/ci", "targets/qa", RELEASES}
    for role in done.roles:
        assert done.repository.targets(role).targets == {}
    with pytest.raises(NotSignedError, match=f"{GUN}:1.0 is not signed"):
        released(done.repository, "1.0")
    assert peer.client().publish(revocation_plan(["1.0"], list(keys)), keys).roles == ()


def test_all_tags_are_revoked_with_one_publication(peer: Peer) -> None:
    """Case 34: whatever their number."""
    peer.sign("2.0")
    done = peer.client().publish(whole_revocation_plan([CI]), {CI: key("ci")})
    assert [len(done.repository.targets(role).targets) for role in done.roles] == [0, 0]
    assert peer.model.posts == 2


def test_an_unknown_tag_is_no_reason_to_publish(peer: Peer) -> None:
    """Case 34: nothing is sent, and looking it up says why."""
    with peer.untouched():
        done = peer.client().publish(revocation_plan(["9.9"], [CI]), {CI: key("ci")})
    assert done.roles == ()
    with pytest.raises(NotSignedError, match=f"{GUN}:9.9 is not signed"):
        released(done.repository, "9.9")


def test_a_tag_that_others_still_vouch_for_is_not_half_revoked(peer: Peer) -> None:
    """Case 34: the roles whose keys are missing are named."""
    peer.model.hold(two_signers())
    sentence = f"{GUN}: no key at hand may take tags out of targets/qa"
    with peer.untouched(), pytest.raises(NotASignerError, match=sentence):
        peer.client().publish(revocation_plan(["1.0"], [CI]), {CI: key("ci")})


# --- Publishing -------------------------------------------------------------------------------


def test_a_repeated_step_sends_nothing(peer: Peer) -> None:
    """Case 38: an unchanged tag costs readers no new snapshot and other signers no conflict."""
    peer.sign("2.0")
    with peer.untouched():
        assert peer.sign("2.0").roles == ()
    assert peer.model.posts == 1


def test_in_the_last_months_of_a_root_signing_goes_on_with_a_warning(peer: Peer) -> None:
    """Case 39: Docker's client wants the root key for it, which no pipeline has."""
    peer.now = NOW + timedelta(days=300)
    repository = peer.sign("2.0").repository
    assert released(repository, "2.0") == NEW
    (warning,) = repository.warnings
    assert warning.startswith(f"root of {GUN} or its certificate expires at 2027-12-27; its owner")


@pytest.mark.parametrize(
    "fate", [refuse(400, "INVALID_UPDATE"), refuse(403, "DENIED"), refuse(413, "TOO_LARGE")]
)
def test_a_failed_publication_leaves_nothing_to_be_replayed(
    peer: Peer, tmp_path: Path, fate: Fate
) -> None:
    """Case 40: what others sign meanwhile stays as they signed it."""
    cache = tmp_path / "trust"
    client = peer.client(cache)
    client.refresh()
    peer.model.fates.append(fate)
    with peer.untouched(cache), pytest.raises(RemoteError, match=r"trust server .* answered 4"):
        client.publish(signing_plan({"1.0": NEW}, [CI]), {CI: key("ci")})
    done = client.publish(signing_plan({"2.0": NEW}, [CI]), {CI: key("ci")})
    assert released(done.repository, "1.0") == IMAGE
    assert released(done.repository, "2.0") == NEW


def test_a_publication_whose_answer_was_lost_is_found_and_not_repeated(peer: Peer) -> None:
    """Case 40: killed or cut off at any instant and run again, the result is that of one run."""
    peer.model.fates.append(carry_out_and_hang_up())
    done = peer.sign("2.0")
    assert (done.attempts, peer.model.posts) == (1, 1)
    assert done.repository.floors[RELEASES] == 2


def _rotation(new: PublicKey) -> Callable[[TrustedRepository], Changes]:
    """Give the repository a new targets key."""

    def plan(repository: TrustedRepository) -> Changes:
        root = repository.root.body
        if root.roles[TARGETS].keyids == (new.key_id,):
            return {}
        roles = {**root.roles, TARGETS: Role.of(new)}
        wanted = replace(root, keys={**root.keys, new.key_id: new}, roles=roles)
        return {ROOT: wanted, TARGETS: repository.targets()}

    return plan


def test_a_rotation_that_fails_leaves_the_old_key_in_place(peer: Peer, store: KeyStore) -> None:
    """Case 41: Go's client deletes it before it asks the server."""
    new = key("rotated")
    secret = WORDS["DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"].encode()
    store.add(new, "targets", GUN, secret)
    at_hand = {each.public_key.canonical_id: each for each in (key("root"), new)}
    peer.model.fates.append(refuse(400, "INVALID_UPDATE"))
    with peer.untouched(), pytest.raises(RemoteError, match="answered 400"):
        peer.client().publish(_rotation(new.public_key), at_hand)
    old = store.load(OWNER, PASSPHRASES)
    assert old.public_key == key("targets").public_key
    add_signer(peer.client(), store, PASSPHRASES, "qa", [key("qa").public_key])
    rotated = peer.client().publish(_rotation(new.public_key), at_hand).repository
    assert rotated.root.body.roles[TARGETS].keyids == (new.public_key.key_id,)
    assert store.load(OWNER, PASSPHRASES).public_key == old.public_key
