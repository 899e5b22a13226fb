"""`signimage.administration.initialise_repository` against a server that is strange afterwards."""

from pathlib import Path

import pytest

from signimage.administration import initialise_repository
from signimage.errors import FormatError, SignImageError
from signimage.keystore import KeyStore, Passphrases
from signimage.variables import REPOSITORY_VARIABLE, ROOT_VARIABLE
from unit.small_server import Reply
from unit.trust_server import Peer, TrustServerModel, carry_out_and_hang_up, refuse

PASSPHRASES = {ROOT_VARIABLE: "root phrase", REPOSITORY_VARIABLE: "repository phrase"}


@pytest.fixture
def store(tmp_path: Path, peer: Peer) -> KeyStore:
    """A store without keys, and a server without trust data."""
    empty = TrustServerModel()
    peer.model.current, peer.model.versions = empty.current, empty.versions
    return KeyStore(tmp_path / "trust")


def roles(store: KeyStore) -> list[str]:
    """What the keys in *store* are for."""
    return [entry.role for entry in store.entries()]


def test_keys_that_the_server_has_taken_are_kept_whatever_it_shows_then(
    peer: Peer, store: KeyStore
) -> None:
    """They may be the only ones there are: without them the repository is lost."""
    peer.model.replies["timestamp.json"] = Reply(200, b"strange")
    with pytest.raises(FormatError, match=r"timestamp of .*: expected JSON") as caught:
        initialise_repository(peer.client(), store, Passphrases(PASSPHRASES))
    assert peer.model.current["root"]
    assert roles(store) == ["root", "targets"]
    assert "may be initialised" in caught.value.state


def test_keys_that_the_server_may_have_taken_are_kept_too(peer: Peer, store: KeyStore) -> None:
    peer.model.replies["timestamp.json"] = Reply(200, b"strange")
    peer.model.fates.append(carry_out_and_hang_up())
    with pytest.raises(SignImageError, match=r"timestamp of .*: expected JSON"):
        initialise_repository(peer.client(), store, Passphrases(PASSPHRASES))
    assert roles(store) == ["root", "targets"]


def test_keys_that_the_server_has_refused_go_again(peer: Peer, store: KeyStore) -> None:
    peer.model.fates.append(refuse(403, "DENIED"))
    with pytest.raises(SignImageError, match="trust server"):
        initialise_repository(peer.client(), store, Passphrases(PASSPHRASES))
    assert roles(store) == []
