"""`administration.witness`: roles that have expired, the one that all others stand on included."""

from dataclasses import replace
from pathlib import Path

import pytest

from signimage.administration import witness
from signimage.errors import ExpiredError
from signimage.keystore import REPOSITORY_VARIABLE, KeyStore, Passphrases
from signimage.lookup import released
from signimage.metadata import RELEASES, TARGETS
from signimage.publication import Recovery
from unit.repositories import GUN, IMAGE, PAST, GoodRepository, key
from unit.trust_server import Peer

WORDS = Passphrases({REPOSITORY_VARIABLE: "words"})


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    """Put the keys of the owner and of a signer into a trust store."""
    it = KeyStore(tmp_path / "trust")
    it.add(key("targets"), TARGETS, GUN, b"words")
    it.add(key("ci"), "ci", "", b"words")
    return it


def expire(peer: Peer, *roles: str) -> None:
    """Show a repository whose *roles* have expired."""
    good = GoodRepository()
    if TARGETS in roles:
        good.targets = replace(good.targets, expires=PAST, version=2)
    for role in roles:
        if role in good.delegated:
            good.delegated[role] = replace(good.delegated[role], expires=PAST, version=2)
    peer.model.hold(good)


def test_expired_targets_are_signed_again_and_believed_by_everybody(
    peer: Peer, store: KeyStore, tmp_path: Path
) -> None:
    """They are renewed when signers change and never else, so this is how repositories end."""
    expire(peer, TARGETS)
    with pytest.raises(ExpiredError, match=f"targets of {GUN} expired at"):
        peer.client().refresh()
    client = peer.client(tmp_path / "cache")
    after = witness(client, store, WORDS, [TARGETS], Recovery.RESIGN)
    assert released(after, "1.0") == IMAGE
    assert peer.client().refresh().targets().version == 3
    assert not client.ignores_expiry


def test_targets_and_the_releases_below_them_are_signed_again_at_once(
    peer: Peer, store: KeyStore
) -> None:
    expire(peer, TARGETS, RELEASES)
    after = witness(peer.client(), store, WORDS, [TARGETS, RELEASES], Recovery.RESIGN)
    assert released(after, "1.0") == IMAGE
    assert peer.model.posts == 1


def test_expired_targets_are_an_error_for_whoever_did_not_name_them(
    peer: Peer, store: KeyStore
) -> None:
    expire(peer, TARGETS, RELEASES)
    with peer.untouched(), pytest.raises(ExpiredError, match=f"targets of {GUN} expired at"):
        witness(peer.client(), store, WORDS, [RELEASES], Recovery.RESIGN)


def test_what_is_valid_is_left_alone(peer: Peer, store: KeyStore) -> None:
    with peer.untouched():
        witness(peer.client(), store, WORDS, [TARGETS, RELEASES], Recovery.RESIGN)
