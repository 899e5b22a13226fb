"""Acceptance cases 47 and 48 in small: two who begin at once, and many on one trust directory.

The real server's part in them is tested in `tests/peers`.
"""

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from signimage.errors import ConflictError, RootPinError
from signimage.keys import PrivateKey
from signimage.lookup import released
from signimage.metadata import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Signed, Snapshot, Timestamp
from signimage.notary import TrustServer
from signimage.publication import first_files, signing_plan
from signimage.trust import TrustedRepository
from signimage.trustcache import TrustCache
from unit.repositories import GUN, NOW, certificate, key
from unit.trust_server import CI, NEW, Peer, first, kept


def _at_hand(name: str) -> Mapping[str, PrivateKey]:
    return {each.public_key.canonical_id: each for each in (key(name), key("targets"))}


def _initialise(server: TrustServer, name: str) -> TrustedRepository:
    root = certificate(name, GUN, NOW)
    return server.initialise(root, key("targets").public_key, _at_hand(name))


def test_who_initialises_second_keeps_nothing_and_goes_on_with_the_firsts(
    peer: Peer, tmp_path: Path
) -> None:
    """Case 47: Docker's client keeps its own root, and can never use the repository again."""
    cache = tmp_path / "trust"
    peer.model.versions.clear()
    peer.model.current.clear()
    keys = {
        ROOT: certificate("rival", GUN, NOW),
        **{role: key(role).public_key for role in (TARGETS, SNAPSHOT, TIMESTAMP)},
    }
    peer.model.fates.append(first(first_files(keys, _at_hand("rival"), NOW)))
    with pytest.raises(ConflictError, match=f"{GUN} was initialised by somebody else at the same"):
        _initialise(peer.client(cache), "root")
    # What is kept is the winner's, verified; nothing of the loser's is.
    assert kept(cache)["tuf/" + GUN + "/metadata/root.json"] == peer.model.current[ROOT]
    repository = peer.client(cache).refresh()
    assert repository.root.body.roles[ROOT].keyids == (keys[ROOT].key_id,)


def test_who_initialises_what_was_there_before_is_stopped_before_sending(
    peer: Peer, tmp_path: Path
) -> None:
    """Case 47: a new root would contradict the kept one for everybody who has it."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    with peer.untouched(cache), pytest.raises(RootPinError, match=f"{GUN} had trust data when we"):
        _initialise(peer.client(cache), "root")
    assert peer.model.posts == 0


def test_a_cache_that_was_deleted_does_not_make_a_repository_new(
    peer: Peer, tmp_path: Path
) -> None:
    """Case 47: `notary delete` takes the cache along, and our floors would contradict the new."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    shutil.rmtree(cache / "tuf")
    peer.model.versions.clear()
    peer.model.current.clear()
    with peer.untouched(cache), pytest.raises(RootPinError, match=f"{GUN} had trust data when we"):
        _initialise(peer.client(cache), "root")


def test_readers_and_writers_of_one_cache_see_whole_files(peer: Peer, tmp_path: Path) -> None:
    """Case 48: each file is the old one or the new one, whoever looks while it is replaced."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    is_over = Event()

    def write(number: int) -> None:
        for round_ in range(4):
            plan = signing_plan({f"{number}-{round_}": NEW}, [CI])
            peer.client(cache).publish(plan, {CI: key("ci")})

    def read() -> int:
        count = 0
        files = TrustCache(cache, GUN)
        while not is_over.is_set() or not count:
            Signed.parse(files.read(TIMESTAMP) or b"", Timestamp, what="kept timestamp")
            Signed.parse(files.read(SNAPSHOT) or b"", Snapshot, what="kept snapshot")
            assert files.floors()[TIMESTAMP] >= 1
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        list(pool.map(write, range(4)))
        is_over.set()
        assert all(reader.result() for reader in readers)
    repository = peer.client(cache).refresh()
    for number in range(4):
        for round_ in range(4):
            assert released(repository, f"{number}-{round_}") == NEW
    assert kept(cache)[f"tuf/{GUN}/metadata/timestamp.json"] == repository.files[TIMESTAMP]
    assert not [name for name in kept(cache) if "/." in name], "no temporary file is left"
