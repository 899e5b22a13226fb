"""`signimage.rotation`: which key files are there afterwards, whatever the server made of it."""

from pathlib import Path

import pytest

from signimage.errors import InputError, NotASignerError, PassphraseError, RemoteError
from signimage.keystore import REPOSITORY_VARIABLE, ROOT_VARIABLE, KeyStore, Passphrases
from signimage.metadata import ROOT, TARGETS
from signimage.rotation import (
    renew_root,
    replace_signer_keys,
    rotate_here,
    rotate_root,
    rotate_root_to,
    rotate_to_server,
)
from unit.repositories import GUN, key
from unit.trust_server import Peer, carry_out_and_hang_up, lose, refuse

WORDS = Passphrases({ROOT_VARIABLE: "root words", REPOSITORY_VARIABLE: "other words"})
OLD = key("targets").public_key.canonical_id
ROOT_ID = key("root").public_key.canonical_id


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    """Put the owner's keys into a trust store."""
    it = KeyStore(tmp_path / "trust")
    it.add(key("root"), "root", "", b"root words")
    it.add(key("targets"), "targets", GUN, b"other words")
    return it


def held(store: KeyStore) -> set[str]:
    return {entry.key_id for entry in store.entries()}


def test_the_old_key_goes_once_the_new_one_was_found_in_force(peer: Peer, store: KeyStore) -> None:
    done = rotate_here(peer.client(), store, WORDS, TARGETS)
    assert done.removed == (OLD,)
    assert held(store) == {ROOT_ID, done.key_id}
    assert (
        store.load(done.key_id, WORDS).public_key
        == done.repository.role_keys(TARGETS)[1][done.repository.root.body.roles[TARGETS].keyids[0]]
    )


def test_what_the_server_refuses_leaves_the_keys_as_they_were(peer: Peer, store: KeyStore) -> None:
    peer.model.fates.append(refuse(400, "INVALID_UPDATE"))
    with pytest.raises(RemoteError, match="answered 400"):
        rotate_here(peer.client(), store, WORDS, TARGETS)
    assert held(store) == {ROOT_ID, OLD}
    peer.model.fates.append(refuse(400, "INVALID_UPDATE"))
    with pytest.raises(RemoteError, match="answered 400"):
        rotate_root(peer.client(), store, WORDS)
    assert held(store) == {ROOT_ID, OLD}


def test_an_update_without_an_answer_is_looked_for_before_anything_goes(
    peer: Peer, store: KeyStore
) -> None:
    peer.model.fates.append(carry_out_and_hang_up())
    done = rotate_here(peer.client(), store, WORDS, TARGETS)
    assert held(store) == {ROOT_ID, done.key_id}


def test_an_update_that_the_server_loses_is_sent_again_before_anything_goes(
    peer: Peer, store: KeyStore
) -> None:
    """A delegation published at the same moment undoes a root and its targets (case 45)."""
    peer.model.fates.append(lose())
    done = rotate_here(peer.client(), store, WORDS, TARGETS)
    assert held(store) == {ROOT_ID, done.key_id}
    assert peer.model.posts == 2
    assert peer.client().refresh().role_keys(TARGETS) == done.repository.role_keys(TARGETS)


def test_a_root_key_is_never_removed(peer: Peer, store: KeyStore) -> None:
    """Other repositories may have it; and the renewed one is the same file."""
    done = rotate_root(peer.client(), store, WORDS)
    assert done.removed == ()
    assert held(store) == {ROOT_ID, OLD, done.key_id}
    assert renew_root(peer.client(), store, WORDS).key_id == done.key_id
    assert rotate_root_to(peer.client(), store, WORDS, ROOT_ID).key_id == ROOT_ID
    assert held(store) == {ROOT_ID, OLD, done.key_id}
    assert peer.client().refresh().root.body.version == 4


def test_a_key_of_another_repository_is_not_removed(peer: Peer, tmp_path: Path) -> None:
    """The file says whose it is; Notary's program goes by the ID alone."""
    store = KeyStore(tmp_path / "shared")
    store.add(key("root"), "root", "", b"root words")
    store.add(key("targets"), "targets", f"{GUN}/other", b"other words")
    assert rotate_here(peer.client(), store, WORDS, TARGETS).removed == ()
    assert store.find(OLD) is not None


def test_without_a_passphrase_no_file_is_written(peer: Peer, store: KeyStore) -> None:
    only_root = Passphrases({ROOT_VARIABLE: "root words"})
    with peer.untouched(), pytest.raises(PassphraseError, match="new targets key: expected a pass"):
        rotate_here(peer.client(), store, only_root, TARGETS)
    assert held(store) == {ROOT_ID, OLD}


def test_without_the_root_key_nothing_is_rotated(peer: Peer, tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "empty")
    with peer.untouched(), pytest.raises(InputError, match=f"{GUN}: its root key {ROOT_ID} is not"):
        rotate_root(peer.client(), store, WORDS)
    assert held(store) == set()


def test_a_root_key_must_be_one(peer: Peer, store: KeyStore) -> None:
    with peer.untouched(), pytest.raises(InputError, match=f"expected one of {ROOT_ID} in .*, got"):
        rotate_root_to(peer.client(), store, WORDS, OLD)


@pytest.mark.parametrize("role", [ROOT, TARGETS, "targets/ci"])
def test_the_server_holds_no_other_keys(peer: Peer, store: KeyStore, role: str) -> None:
    with peer.untouched(), pytest.raises(InputError, match="that the trust server can sign, snap"):
        rotate_to_server(peer.client(), store, WORDS, role)


@pytest.mark.parametrize("role", [ROOT, "timestamp", "targets/ci"])
def test_an_owner_holds_no_other_keys(peer: Peer, store: KeyStore, role: str) -> None:
    with peer.untouched(), pytest.raises(InputError, match="whose key its owner can hold, targets"):
        rotate_here(peer.client(), store, WORDS, role)


def test_a_signers_key_is_replaced_where_repository_key_and_new_key_are(
    peer: Peer, store: KeyStore
) -> None:
    new = key("ci2").public_key
    with peer.untouched(), pytest.raises(NotASignerError, match="signed with an old key of ci"):
        replace_signer_keys(peer.client(), store, WORDS, "ci", [new])
    store.add(key("ci2"), "ci", "", b"other words")
    after = replace_signer_keys(peer.client(), store, WORDS, "ci", [new])
    assert after.role_keys("targets/ci")[0].keyids == (new.key_id,)
    with peer.untouched():
        replace_signer_keys(peer.client(), store, WORDS, "ci", [new])


def test_where_it_is_in_doubt_both_keys_stay(peer: Peer, store: KeyStore) -> None:
    """Acknowledged, lost, and refused when it was sent again: it may come to light all the same."""
    peer.model.fates.extend([lose(), refuse(400, "INVALID_UPDATE")])
    with pytest.raises(RemoteError, match="answered 400") as caught:
        rotate_root(peer.client(), store, WORDS)
    assert caught.value.state == "What was sent to the trust server may be published all the same"
    assert {ROOT_ID, OLD} < held(store)
    assert len(held(store)) == 3
