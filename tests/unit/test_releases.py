"""`signimage.releases`: gates, revocation, and whose key signs, on a server that can lie."""

from dataclasses import replace
from pathlib import Path

import pytest

from signimage.errors import (
    HashMismatchError,
    InputError,
    NotASignerError,
    NotSignedError,
    ThresholdError,
)
from signimage.keystore import REPOSITORY_VARIABLE, KeyStore, Passphrases
from signimage.lookup import invalid_roles, released_tags
from signimage.metadata import RELEASES
from signimage.oci import Digest, Repository
from signimage.publication import revocation_plan, signing_plan
from signimage.releases import gate_for, revoke, revoke_all, shared_roles, signing_key
from signimage.verification import Gate, pass_gate
from unit.repositories import GUN, IMAGE, GoodRepository, believe, content, key
from unit.test_publication import CI, NEW, QA, carried_out, two_signers
from unit.trust_server import Peer

NAME = Repository.parse(GUN)
OLD = Digest.of_raw(IMAGE.sha256)
WORDS = Passphrases({REPOSITORY_VARIABLE: "words"})


def store_of(folder: Path, *names: str) -> KeyStore:
    """A trust store with the keys *names*."""
    store = KeyStore(folder / "trust")
    for name in names:
        store.add(key(name), name, "", b"words")
    return store


# --- Gates ------------------------------------------------------------------------------------


def test_a_tag_passes_with_what_everybody_signed() -> None:
    repository = believe(two_signers("ci").files())
    gate = Gate(NAME, ("1.0",), {"1.0": OLD}, ("ci", "qa"))
    found = pass_gate(gate, repository)
    assert (found.digests, found.signers) == ({"1.0": OLD}, ("ci", "qa"))


def test_a_tag_of_another_digest_or_signer_does_not_pass() -> None:
    repository = believe(GoodRepository().files())
    with pytest.raises(HashMismatchError, match=f"1.0, as it is signed: expected .*, got {OLD}"):
        pass_gate(Gate(NAME, ("1.0",), {"1.0": Digest.of_raw(bytes(32))}), repository)
    with pytest.raises(NotSignedError, match=f"{GUN}:1.0 is not signed by qa; it is signed by ci"):
        pass_gate(Gate(NAME, ("1.0",), signers=("ci", "qa")), repository)


def test_a_digest_passes_under_the_tags_that_everybody_signed() -> None:
    good = two_signers("ci")
    good.delegated[RELEASES] = content({"1.0": IMAGE, "2.0": IMAGE, "other": NEW})
    repository = believe(good.files())
    assert gate_for(NAME, OLD, (), repository).tags == ("1.0", "2.0")
    assert gate_for(NAME, OLD, ("ci", "qa"), repository).tags == ("1.0",)


def test_a_digest_that_nobody_released_or_not_everybody_signed_does_not_pass() -> None:
    repository = believe(GoodRepository().files())
    with pytest.raises(NotSignedError, match="is not signed: it is released under no tag"):
        gate_for(NAME, Digest.of(b"unknown"), (), repository)
    with pytest.raises(NotSignedError, match=f"{GUN}@{OLD} is not signed by qa; it is signed by c"):
        gate_for(NAME, OLD, ("ci", "qa"), repository)


def test_a_digest_that_a_signer_holds_and_nobody_released_is_not_released() -> None:
    good = GoodRepository()
    good.delegated["targets/ci"] = content({"1.0": NEW})
    assert released_tags(believe(good.files()), Digest.of_raw(NEW.sha256)) == ()


def test_a_digest_under_a_tag_that_releases_have_otherwise_is_not_released() -> None:
    """The repository's own role holds it too, and counts only where the releases do not."""
    good = GoodRepository()
    good.targets = replace(good.targets, targets={"1.0": NEW, "old": NEW})
    repository = believe(good.files())
    assert released_tags(repository, Digest.of_raw(NEW.sha256)) == ("old",)
    assert released_tags(repository, OLD) == ("1.0",)


def test_no_digest_passes_by_releases_that_are_invalid() -> None:
    repository = believe(GoodRepository(signers={RELEASES: [key("stranger")]}).files())
    assert invalid_roles(repository) == (RELEASES,)
    with pytest.raises(ThresholdError, match=f"{RELEASES} of {GUN}: expected valid"):
        gate_for(NAME, OLD, (), repository)


# --- Whose key --------------------------------------------------------------------------------


def test_the_one_signers_key_that_is_here_signs(tmp_path: Path) -> None:
    repository = believe(two_signers("ci").files())
    assert signing_key(repository, store_of(tmp_path, "qa", "root", "stranger")) == QA


def test_of_several_signers_one_is_named(tmp_path: Path) -> None:
    repository = believe(two_signers("ci").files())
    store = store_of(tmp_path, "ci", "qa")
    with pytest.raises(InputError, match=r"has the keys of several signers of .*: ci, qa"):
        signing_key(repository, store)
    assert signing_key(repository, store, "ci") == CI
    with pytest.raises(NotASignerError, match=f"may sign in {GUN} as bob; its signers are ci"):
        signing_key(repository, store, "bob")


def test_of_several_keys_of_one_signer_the_newest_signs(tmp_path: Path) -> None:
    """The older one is about to be replaced."""
    good = GoodRepository()
    good.targets = good.targets.with_delegation("targets/ci", [key("ci2").public_key])
    store = store_of(tmp_path, "ci", "ci2")
    assert signing_key(believe(good.files()), store) == key("ci2").public_key.canonical_id


def test_the_repository_key_signs_only_while_there_are_no_signers(tmp_path: Path) -> None:
    store = store_of(tmp_path, "targets")
    alone = believe(GoodRepository(targets=content({}), delegated={}).files())
    assert signing_key(alone, store) == key("targets").public_key.canonical_id
    with pytest.raises(NotASignerError, match=r"no key in .* may sign in .*; its signers are ci"):
        signing_key(believe(GoodRepository().files()), store)


# --- Revoking ---------------------------------------------------------------------------------


def test_in_part_the_word_of_absent_signers_is_left_and_releases_never() -> None:
    good = two_signers("ci")
    seen = carried_out(good, revocation_plan(["1.0"], [CI], partial=True), key("ci"))
    assert "1.0" in seen.targets("targets/qa").targets
    assert "1.0" not in seen.targets("targets/ci").targets
    with pytest.raises(NotASignerError, match=f"no key at hand may take tags out of {RELEASES}$"):
        revocation_plan(["1.0"], [], partial=True)(believe(good.files()))


def test_as_a_whole_or_not_at_all_and_the_way_out_is_named_where_there_is_one() -> None:
    repository = believe(two_signers("ci").files())
    with pytest.raises(NotASignerError, match=r"out of targets/qa$") as caught:
        revocation_plan(["1.0"], [CI])(repository)
    assert "--partial" in caught.value.hint
    with pytest.raises(NotASignerError, match=r"out of targets/ci, targets/rel") as caught:
        revocation_plan(["1.0"], [])(repository)
    assert "--partial" not in caught.value.hint


def test_a_tag_is_revoked_with_the_keys_that_are_here(peer: Peer, tmp_path: Path) -> None:
    store = store_of(tmp_path, "ci")
    done = revoke(peer.client(), store, WORDS, "1.0", digest=OLD)
    assert (done.tags, done.left) == (("1.0",), ())
    with pytest.raises(NotSignedError, match=f"{GUN}:1.0 is not signed: no role has the tag"):
        revoke(peer.client(), store, WORDS, "1.0")
    assert revoke_all(peer.client(), store, WORDS).tags == ("unreleased",)
    assert peer.client().refresh().targets("targets/ci").targets == {}


def test_a_tag_that_was_moved_meanwhile_is_not_revoked(peer: Peer, tmp_path: Path) -> None:
    peer.client().publish(signing_plan({"1.0": NEW}, [CI]), {CI: key("ci")})
    with peer.untouched(), pytest.raises(HashMismatchError, match=f"signed: expected {OLD}, got"):
        revoke(peer.client(), store_of(tmp_path, "ci"), WORDS, "1.0", digest=OLD)


def test_without_a_key_nothing_is_revoked(peer: Peer, tmp_path: Path) -> None:
    with peer.untouched(), pytest.raises(NotASignerError, match="no key at hand may take tags out"):
        revoke_all(peer.client(), store_of(tmp_path), WORDS)


def test_where_two_keys_must_sign_both_are_taken(peer: Peer, tmp_path: Path) -> None:
    good = GoodRepository()
    for name in ("targets/ci", RELEASES):
        good.targets = good.targets.with_delegation(name, [key("dev").public_key])
        good.signers[name] = [key("ci"), key("dev")]
    entries = tuple(
        replace(each, role=replace(each.role, threshold=2)) for each in good.targets.delegations
    )
    good.targets = replace(good.targets, delegations=entries, version=2)
    good = replace(good, snapshot_version=2, timestamp_version=2)
    peer.model.hold(good)
    both, one = store_of(tmp_path, "ci", "dev"), store_of(tmp_path / "one", "ci")
    seen = peer.client().refresh()
    assert shared_roles(seen, both, ["2.0"], CI) == ("targets/ci", RELEASES)
    assert shared_roles(seen, one, ["2.0"], CI) == ()
    with peer.untouched(), pytest.raises(NotASignerError, match="expected 2 of its keys at hand"):
        revoke(peer.client(), one, WORDS, "1.0")
    assert revoke(peer.client(), both, WORDS, "1.0").left == ()
