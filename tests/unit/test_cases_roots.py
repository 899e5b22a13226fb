"""Acceptance cases 21, 23 and 24: rotated keys, and repositories that were made anew."""

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from signimage.errors import (
    ExpiredError,
    NotFoundError,
    RollbackError,
    RootPinError,
    SignImageError,
    ThresholdError,
    TrustError,
)
from signimage.lookup import released
from signimage.metadata import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Role, Root
from signimage.trust import TrustedRepository
from signimage.trustcache import TrustCache
from unit.repositories import (
    GUN,
    IMAGE,
    NOW,
    PAST,
    GoodRepository,
    certificate,
    good_root,
    key,
    newer,
    next_root,
    root_file,
    sign,
)
from unit.small_server import Reply
from unit.trust_server import Peer, error

# --- Rotations --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One rotation: the keys of the new root role, how many must sign, and who signs."""

    keys: tuple[str, ...]
    by: tuple[str, ...]
    threshold: int = 1
    is_expired: bool = False


def _chain(*steps: Step) -> list[bytes]:
    """The files of root 1, whose key is `root`, and of one more root for each step."""
    body = good_root("root")
    files = [root_file(body, "root")]
    for step in steps:
        body = next_root(body, *step.keys, threshold=step.threshold)
        body = replace(body, expires=PAST if step.is_expired else good_root("root").expires)
        files.append(root_file(body, *step.by))
    return files


GOOD_CHAINS = {
    "one step": [Step(("a",), ("root", "a"))],
    "many steps": [
        Step(("a",), ("root", "a")),
        Step(("b",), ("a", "b")),
        Step(("root",), ("b", "root")),
        Step(("c",), ("c", "root")),
    ],
    "the same key again": [Step(("root",), ("root",))],
    "one of several keys": [
        Step(("a", "b", "c"), ("root", "b")),
        Step(("d",), ("c", "d")),
    ],
    "a threshold that rises and falls": [
        Step(("a", "b"), ("root", "a", "b"), threshold=2),
        Step(("c",), ("a", "b", "c")),
    ],
    "an expired step between": [
        Step(("a",), ("root", "a"), is_expired=True),
        Step(("b",), ("a", "b")),
    ],
}

BAD_CHAINS: dict[str, tuple[list[Step], type[TrustError], str]] = {
    "signed by the new key alone": (
        [Step(("a",), ("a",))],
        RootPinError,
        "version 2 is not signed by the root key that version 1 names",
    ),
    "signed by the old key alone": (
        [Step(("a",), ("root",))],
        ThresholdError,
        "expected valid signatures by 1 of its keys, got 0",
    ),
    "too few old keys": (
        [
            Step(("a", "b"), ("root", "a", "b"), threshold=2),
            Step(("c",), ("a", "c")),
        ],
        RootPinError,
        "version 3 is not signed by the root key that version 2 names",
    ),
    "too few new keys": (
        [Step(("a", "b"), ("root", "a"), threshold=2)],
        ThresholdError,
        "expected valid signatures by 2 of its keys, got 1",
    ),
    "one old key twice": (
        [
            Step(("a", "b"), ("root", "a", "b"), threshold=2),
            Step(("c",), ("a", "a", "c")),
        ],
        RootPinError,
        "version 3 is not signed by the root key that version 2 names",
    ),
    "a step between by a stranger": (
        [
            Step(("a",), ("stranger", "a")),
            Step(("b",), ("a", "b", "root")),
        ],
        RootPinError,
        "version 2 is not signed by the root key that version 1 names",
    ),
    "a step between that does not sign itself": (
        [Step(("a",), ("root",)), Step(("b",), ("a", "b"))],
        ThresholdError,
        "expected valid signatures by 1 of its keys, got 0",
    ),
    "a step over one that was not taken": (
        [Step(("a",), ("root", "a")), Step(("b",), ("root", "b"))],
        RootPinError,
        "version 3 is not signed by the root key that version 2 names",
    ),
    "an expired end": (
        [Step(("a",), ("root", "a")), Step(("b",), ("a", "b"), is_expired=True)],
        ExpiredError,
        "expired at 2026-11-21T12:00:00Z",
    ),
}


def _publish(peer: Peer, chain: list[bytes]) -> None:
    for file in chain[1:]:
        peer.model.carry_out({ROOT: file})


@pytest.mark.parametrize("name", GOOD_CHAINS)
def test_a_good_chain_of_roots_is_followed(peer: Peer, tmp_path: Path, name: str) -> None:
    """Cases 16 and 21: step by step, in one refresh, expired steps between included."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    _publish(peer, _chain(*GOOD_CHAINS[name]))
    repository = peer.client(cache).refresh()
    assert repository.root.body.version == 1 + len(GOOD_CHAINS[name])
    assert released(repository, "1.0") == IMAGE
    assert peer.client(cache).refresh().files[ROOT] == peer.model.current[ROOT]


@pytest.mark.parametrize("name", BAD_CHAINS)
def test_a_broken_chain_of_roots_is_refused_whole(peer: Peer, tmp_path: Path, name: str) -> None:
    """Case 21: the kept root stays the last one that was reached in good order."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    steps, kind, message = BAD_CHAINS[name]
    _publish(peer, _chain(*steps))
    for _ in range(2):
        with peer.untouched(cache), pytest.raises(kind, match=f"root of {GUN}.*{message}"):
            peer.client(cache).refresh()


@pytest.mark.parametrize("missing", [2, 3])
def test_a_chain_with_a_missing_link_is_refused(peer: Peer, tmp_path: Path, missing: int) -> None:
    """Case 21: nothing is skipped."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    _publish(peer, _chain(*GOOD_CHAINS["many steps"]))
    peer.model.replies[f"{missing}.root.json"] = error(404, "METADATA_NOT_FOUND")
    with peer.untouched(cache), pytest.raises(NotFoundError, match=f"/{missing}.root.json answ"):
        peer.client(cache).refresh()


def test_a_link_under_anothers_number_is_refused(peer: Peer, tmp_path: Path) -> None:
    """Case 21: version 3 in the place of version 2."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    chain = _chain(*GOOD_CHAINS["many steps"])
    _publish(peer, chain)
    peer.model.replies["2.root.json"] = Reply(200, chain[2])
    sentence = f"root of {GUN}: expected version 2, got 3"
    with peer.untouched(cache), pytest.raises(RollbackError, match=sentence):
        peer.client(cache).refresh()


def test_an_older_root_of_the_same_owner_is_a_rollback(peer: Peer, tmp_path: Path) -> None:
    """Case 14: for root too."""
    cache = tmp_path / "trust"
    first = dict(peer.model.current)
    _publish(peer, _chain(Step(("root",), ("root",))))
    peer.client(cache).refresh()
    peer.model.current.update(first)
    sentence = f"root of {GUN}: expected version 2 or later, got 1"
    with peer.untouched(cache), pytest.raises(RollbackError, match=sentence):
        peer.client(cache).refresh()


def test_an_older_root_is_a_rollback_for_whoever_lost_the_cache(peer: Peer, tmp_path: Path) -> None:
    """Case 14: the floor of root outlives the file."""
    cache = tmp_path / "trust"
    first = dict(peer.model.current)
    _publish(peer, _chain(Step(("a",), ("root", "a"))))
    peer.client(cache).refresh()
    (cache / "tuf" / GUN / "metadata" / "root.json").unlink()
    peer.model.current.update(first)
    sentence = f"root of {GUN}: expected version 2 or later, got 1"
    with peer.untouched(cache), pytest.raises(RollbackError, match=sentence):
        peer.client(cache).refresh()


def test_a_key_whose_certificate_is_anothers_rotates_nothing() -> None:
    """Case 21: it stands in the root role, and still does not count, now and later."""
    foreign = certificate("foreign", "registry.example/team/other", NOW)
    old = good_root("root")
    both = Role((*old.roles[ROOT].keyids, foreign.key_id), 1)
    old = replace(old, keys={**old.keys, foreign.key_id: foreign}, roles={**old.roles, ROOT: both})
    repository = TrustedRepository(GUN, NOW)
    repository.trust_first_root(root_file(old, "root"))
    new = next_root(old, "new")
    data = sign(
        new,
        [key("foreign"), key("new")],
        keyids=(foreign.key_id, certificate("new", GUN, NOW).key_id),
    )
    with pytest.raises(RootPinError, match="version 2 is not signed by the root key"):
        repository.rotate_root(data, newest=True)


# --- Rotated keys of the other roles ----------------------------------------------------------


@pytest.mark.parametrize("role", [TIMESTAMP, SNAPSHOT, TARGETS])
def test_a_rotated_key_is_followed_by_a_client_that_kept_the_old_one(
    peer: Peer, tmp_path: Path, role: str
) -> None:
    """Case 23: the new root is fetched, in the same refresh."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    _rotate_key(peer, role)
    seen = len(peer.fetched())
    repository = peer.client(cache).refresh()
    assert released(repository, "1.0") == IMAGE
    assert repository.root.body.version == 2
    assert peer.fetched()[seen:].count(ROOT) == 1
    assert peer.fetched()[seen:].count(TIMESTAMP) == 2


def _rotate_key(peer: Peer, role: str, *, signers: tuple[str, ...] = ("root",)) -> None:
    new = key("rotated").public_key
    root = next_root(GoodRepository().root, "root")
    root = replace(
        root, keys={**root.keys, new.key_id: new}, roles={**root.roles, role: Role.of(new)}
    )
    data = root_file(root, *signers)
    good = newer(GoodRepository(root=root, reforge={ROOT: lambda _: data}))
    good.signers[role] = [key("rotated")]
    peer.model.hold(good)


@pytest.mark.parametrize("role", [TIMESTAMP, SNAPSHOT, TARGETS])
def test_a_key_rotated_by_a_stranger_is_refused(peer: Peer, tmp_path: Path, role: str) -> None:
    """Case 23: the root that names it is not signed by the one before."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    _rotate_key(peer, role, signers=("stranger",))
    with peer.untouched(cache), pytest.raises(RootPinError, match="version 2 is not signed by the"):
        peer.client(cache).refresh()


# --- A repository that was made anew ----------------------------------------------------------


@pytest.mark.parametrize("rotations", [0, 2])
def test_a_recreated_repository_is_refused_until_it_is_forgotten(
    peer: Peer, tmp_path: Path, rotations: int
) -> None:
    """Case 24: nothing tells it from an attack, so a person has to say that the old one is gone."""
    cache = tmp_path / "trust"
    names = ("a", "b")[:rotations]
    _publish(peer, _chain(*(Step((name,), ("root", "a", name)) for name in names)))
    peer.client(cache).refresh()
    anew = GoodRepository(root=good_root("stranger"), signers={ROOT: [key("stranger")]})
    peer.model.versions.clear()
    peer.model.hold(anew)
    for _ in range(2):
        with peer.untouched(cache), pytest.raises(SignImageError) as caught:
            peer.client(cache).refresh()
        assert isinstance(caught.value, RootPinError)
        assert str(caught.value) == (
            f"root of {GUN}: the trust server shows another root than the one believed before"
        )
        assert caught.value.hint.startswith("The repository was re-created, or somebody replaced")
    TrustCache(cache, GUN).forget()
    assert released(peer.client(cache).refresh(), "1.0") == IMAGE


# --- A kept root that does not hold -----------------------------------------------------------


@pytest.mark.parametrize("content", ["", "{", "<html>", '"expires":"3'])
def test_a_kept_root_that_is_damaged_is_no_first_use(
    peer: Peer, tmp_path: Path, content: str
) -> None:
    """Case 24: what was believed before leaves nobody the chance to be the first."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    file = cache / "tuf" / GUN / "metadata" / "root.json"
    whole = file.read_text()
    file.write_text(whole.replace('"expires":"2', content) if "expires" in content else content)
    _recreate(peer, good_root("stranger", version=5))
    for _ in range(2):
        with (
            peer.untouched(cache),
            pytest.raises(SignImageError, match=f"kept root of {GUN}: expected ") as caught,
        ):
            peer.client(cache).refresh()
        assert caught.value.hint.endswith(f"then run: signimage repo forget {GUN}")
    TrustCache(cache, GUN).forget()
    assert released(peer.client(cache).refresh(), "1.0") == IMAGE


def test_a_clock_that_is_behind_makes_no_first_use_of_a_kept_root(
    peer: Peer, tmp_path: Path
) -> None:
    """Case 24: a certificate that is not valid yet is no reason to believe a stranger's."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    peer.now = NOW - timedelta(days=30)
    _recreate(peer, good_root("stranger", version=5, since=NOW - timedelta(days=60)))
    with (
        peer.untouched(cache),
        pytest.raises(TrustError, match=f"kept root of {GUN}: its root certificate is valid from"),
    ):
        peer.client(cache).refresh()


def _recreate(peer: Peer, root: Root) -> None:
    """Show trust data that a stranger made anew, under *root*."""
    anew = newer(GoodRepository(root=root, signers={ROOT: [key("stranger")]}))
    peer.model.versions.clear()
    peer.model.hold(anew)
