"""Acceptance cases 11 to 20 and 25: what is believed of a trust server, and what is not.

Each test is a good repository and one lie; the matrices are in `test_cases_matrix.py`.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from signimage.errors import (
    ExpiredError,
    FormatError,
    HashMismatchError,
    NotFoundError,
    NotSignedError,
    SignImageError,
    ThresholdError,
    TrustError,
    UnavailableError,
)
from signimage.filemeta import Expiry
from signimage.lookup import released, signers_of
from signimage.metadata import (
    RELEASES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Delegation,
    Role,
    Targets,
)
from unit.repositories import (
    GUN,
    IMAGE,
    LATER,
    NOW,
    PAST,
    GoodRepository,
    believe,
    content,
    good_root,
    key,
    newer,
    next_root,
    root_file,
)
from unit.small_server import Reply
from unit.trust_server import NEW, Peer, error

CI_KEY = key("ci").public_key


# --- The server cannot be asked ---------------------------------------------------------------

SILENCES = {
    "unavailable": Reply(503),
    "failing": Reply(500),
    "hanging up": Reply(raw=b""),
}


@pytest.mark.parametrize("silence", SILENCES)
def test_a_silent_server_is_an_error_unless_the_kept_state_is_asked_for(
    peer: Peer, tmp_path: Path, silence: str
) -> None:
    """Case 11: on request the kept state serves, until its timestamp expires, and says so."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    peer.model.replies["timestamp.json"] = SILENCES[silence]
    message = "trust server https://127"
    with peer.untouched(cache):
        with pytest.raises(SignImageError, match=message):
            peer.client(cache).refresh()
        repository = peer.client(cache).refresh(offline=True)
    assert released(repository, "1.0") == IMAGE
    (warning,) = repository.warnings
    assert warning.startswith(
        f"{GUN} is shown as it was kept, until {LATER.text} at the latest: trust server https://127"
    )


def test_without_a_kept_state_a_silent_server_stays_an_error(peer: Peer, tmp_path: Path) -> None:
    """Case 11: also on request there is nothing to show."""
    cache = tmp_path / "trust"
    peer.model.replies["timestamp.json"] = Reply(503)
    with peer.untouched(cache), pytest.raises(UnavailableError, match="answered 503"):
        peer.client(cache).refresh(offline=True)
    with pytest.raises(UnavailableError, match="answered 503"):
        peer.client().refresh(offline=True)


def test_a_kept_state_that_has_expired_is_not_shown(peer: Peer, tmp_path: Path) -> None:
    """Case 11: the freeze that offline use allows ends with the timestamp."""
    cache = tmp_path / "trust"
    peer.model.hold(GoodRepository(expiry={TIMESTAMP: Expiry.at(NOW + timedelta(days=1))}))
    peer.client(cache).refresh()
    peer.model.replies["timestamp.json"] = Reply(503)
    peer.now = NOW + timedelta(days=1)
    with peer.untouched(cache), pytest.raises(ExpiredError, match=f"timestamp of {GUN} expired at"):
        peer.client(cache).refresh(offline=True)


@pytest.mark.parametrize("role", [SNAPSHOT, TARGETS, "targets/ci", RELEASES])
def test_a_server_that_falls_silent_after_a_newer_timestamp_is_an_error(
    peer: Peer, tmp_path: Path, role: str
) -> None:
    """Case 11: it is known that there is something newer, so the kept state does not serve."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    peer.model.hold(newer(GoodRepository()))
    peer.replace_by_hash(role, Reply(503))
    with peer.untouched(cache), pytest.raises(UnavailableError, match=rf"/{role}\.\w+\.json ans"):
        peer.client(cache).refresh(offline=True)


def test_an_answer_that_there_is_nothing_is_an_answer(peer: Peer, tmp_path: Path) -> None:
    """Case 11: a 404 is never taken for silence, and a page is none either."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    for reply, kind in ((error(404, "METADATA_NOT_FOUND"), NotFoundError), (Reply(), FormatError)):
        peer.model.replies["timestamp.json"] = reply
        with peer.untouched(cache), pytest.raises(kind, match="timestamp"):
            peer.client(cache).refresh(offline=True)


# --- Files that do not belong together --------------------------------------------------------


@pytest.mark.parametrize("role", [SNAPSHOT, TARGETS, "targets/ci", RELEASES])
def test_files_of_two_states_are_not_mixed(peer: Peer, tmp_path: Path, role: str) -> None:
    """Case 15: snapshot 2 with the targets of snapshot 1, each of them well signed."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    before = peer.model.current[role]
    peer.model.hold(newer(GoodRepository()))
    peer.replace_by_hash(role, Reply(200, before))
    with (
        peer.untouched(cache),
        pytest.raises(HashMismatchError, match=f"{role} of {GUN}: expected sha256"),
    ):
        peer.client(cache).refresh()


def test_a_snapshot_of_a_newer_root_has_it_fetched(peer: Peer, tmp_path: Path) -> None:
    """Case 15: and the root is followed, in the same refresh."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    new = next_root(GoodRepository().root, "second")
    peer.model.carry_out({ROOT: root_file(new, "root", "second")})
    seen = len(peer.fetched())
    assert peer.client(cache).refresh().root.body.version == 2
    assert peer.fetched()[seen:] == [TIMESTAMP, SNAPSHOT, ROOT, TIMESTAMP]


def test_a_snapshot_of_another_root_is_refused(peer: Peer, tmp_path: Path) -> None:
    """Case 15: where the server has no newer root, the two do not belong together."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    other = root_file(replace(GoodRepository().root, consistent_snapshot=True), "root")
    peer.model.sign_snapshot(without={ROOT: other})
    with (
        peer.untouched(cache),
        pytest.raises(HashMismatchError, match=f"root of {GUN}: expected"),
    ):
        peer.client(cache).refresh()


# --- An invalid `targets/releases`, and others ------------------------------------------------


def _expired_releases(good: GoodRepository) -> None:
    good.delegated[RELEASES] = replace(good.delegated[RELEASES], expires=PAST)


def _unsigned_releases(good: GoodRepository) -> None:
    good.signers[RELEASES] = [key("stranger")]


def _too_few_for_releases(good: GoodRepository) -> None:
    both = Role((CI_KEY.key_id, key("qa").public_key.key_id), 2)
    _with_keys(good, "qa")
    _with_entry(good, Delegation(RELEASES, both, ("",)))


def _senseless_releases(good: GoodRepository) -> None:
    good.reforge[RELEASES] = lambda _: b"[]"


def _with_keys(good: GoodRepository, *names: str) -> None:
    more = {key(name).public_key.key_id: key(name).public_key for name in names}
    good.targets = replace(good.targets, delegation_keys={**good.targets.delegation_keys, **more})


def _with_entry(good: GoodRepository, entry: Delegation) -> None:
    others = tuple(each for each in good.targets.delegations if each.name != entry.name)
    good.targets = replace(good.targets, delegations=(*others, entry))


@pytest.mark.parametrize(
    ("lie", "kind", "message"),
    [
        (_expired_releases, ExpiredError, "expired at 2026-11-21"),
        (_unsigned_releases, ThresholdError, "expected valid signatures by 1 of its keys, got 0"),
        (_too_few_for_releases, ThresholdError, "valid signatures by 2 of its keys, got 1"),
        (_senseless_releases, FormatError, "expected an object, got a list"),
    ],
)
def test_an_invalid_releases_role_is_not_replaced_by_targets_unasked(
    lie: Callable[[GoodRepository], None], kind: type[Exception], message: str
) -> None:
    """Case 17: Docker takes the other digest; we take it only where that is asked for by name."""
    good = GoodRepository()
    good.targets = replace(good.targets, targets={"1.0": NEW})
    lie(good)
    repository = believe(good.files())
    with pytest.raises(kind, match=f"{RELEASES} of {GUN}.*{message}"):
        released(repository, "1.0")
    assert released(repository, "1.0", fall_back=True) == NEW
    assert len(repository.warnings) == 1


def test_falling_back_means_nothing_while_releases_is_valid() -> None:
    """Case 17: the option is no way to choose between two contents."""
    good = GoodRepository()
    good.targets = replace(good.targets, targets={"1.0": NEW})
    assert released(believe(good.files()), "1.0", fall_back=True) == IMAGE


def test_a_release_role_that_was_never_published_leaves_targets_in_force() -> None:
    """Case 17: absent is not invalid."""
    good = GoodRepository()
    good.targets = replace(good.targets, targets={"1.0": NEW})
    del good.delegated[RELEASES]
    assert released(believe(good.files()), "1.0") == NEW


@pytest.mark.parametrize("lie", ["expired", "stranger", "senseless"])
def test_an_invalid_signer_is_warned_of_and_not_counted(lie: str) -> None:
    """Case 18: what is released stays usable."""
    good = GoodRepository()
    if lie == "expired":
        good.delegated["targets/ci"] = replace(good.delegated["targets/ci"], expires=PAST)
    elif lie == "stranger":
        good.signers["targets/ci"] = [key("stranger")]
    else:
        good.reforge["targets/ci"] = lambda _: b""
    repository = believe(good.files())
    assert released(repository, "1.0") == IMAGE
    assert signers_of(repository, "1.0", IMAGE) == ()
    assert [warning[:10] for warning in repository.warnings] == ["targets/ci"]


# --- Signatures -------------------------------------------------------------------------------


def _two_of_three(good: GoodRepository, *signers: str) -> dict[str, bytes]:
    keys = [key(name).public_key for name in ("targets", "second", "third")]
    role = replace(Role.of(*keys), threshold=2)
    known = {**good.root.keys, **{each.key_id: each for each in keys}}
    good.root = replace(good.root, keys=known, roles={**good.root.roles, TARGETS: role})
    good.signers[TARGETS] = [key(name) for name in signers]
    return good.files()


@pytest.mark.parametrize(
    "signers",
    [
        ("targets", "second"),
        ("third", "targets"),
        ("targets", "second", "third"),
        ("stranger", "second", "stranger", "third"),
    ],
)
def test_enough_distinct_keys_in_any_order_and_company_are_enough(signers: tuple[str]) -> None:
    """Case 19: foreign signatures neither help nor hurt."""
    believe(_two_of_three(GoodRepository(), *signers))


@pytest.mark.parametrize(
    ("signers", "count"),
    [
        ((), 0),
        (("targets",), 1),
        (("targets", "targets"), 1),
        (("targets", "stranger"), 1),
        (("stranger", "stranger"), 0),
    ],
)
def test_too_few_distinct_keys_are_too_few(signers: tuple[str], count: int) -> None:
    """Case 19: one key twice is one, and foreign keys are none."""
    sentence = f"targets of {GUN}: expected valid signatures by 2 of its keys, got {count}"
    with pytest.raises(ThresholdError, match=sentence):
        believe(_two_of_three(GoodRepository(), *signers))


def test_a_key_that_is_listed_twice_in_a_role_is_one_key() -> None:
    """Case 19: a threshold of two is not met by naming one key twice."""
    good = GoodRepository()
    (key_id,) = good.root.roles[TARGETS].keyids
    twice = Role((key_id, key_id), 2)
    good.root = replace(good.root, roles={**good.root.roles, TARGETS: twice})
    good.signers[TARGETS] = [key("targets"), key("targets")]
    with pytest.raises(ThresholdError, match="valid signatures by 2 of its keys, got 1"):
        believe(good.files())


def test_a_delegation_key_under_anothers_id_spoils_the_role() -> None:
    """Case 19: the right key ID over the wrong key, in `targets` this time."""
    good = GoodRepository()
    keys = {CI_KEY.key_id: key("stranger").public_key}
    good.targets = replace(good.targets, delegation_keys=keys)
    repository = believe(good.files())
    stranger = key("stranger").public_key.key_id
    sentence = f"{RELEASES} of {GUN}: expected key {CI_KEY.key_id}, got key {stranger}"
    with pytest.raises(TrustError, match=sentence):
        released(repository, "1.0")


def test_one_signature_by_a_misnamed_key_spoils_the_file_beside_good_ones() -> None:
    """Case 19: Notary gives up on the whole file, so whoever wants its verdict must as well."""
    good = GoodRepository()
    _two_of_three(good)
    wrong = key("second").public_key.key_id
    good.root = replace(good.root, keys={**good.root.keys, wrong: key("stranger").public_key})
    good.signers[TARGETS] = [key("second"), key("targets"), key("third")]
    with pytest.raises(TrustError, match=f"targets of {GUN}: expected key {wrong}, got key"):
        believe(good.files())


# --- Roots that do not say everything ---------------------------------------------------------


def _without_role(name: str) -> Callable[[bytes], bytes]:
    old, new = f'"{name}":{{"keyids"'.encode(), f'"{name}-":{{"keyids"'.encode()
    return lambda data: data.replace(old, new)


def _without_key(name: str) -> Callable[[bytes], bytes]:
    def lie(data: bytes) -> bytes:
        key_id = good_root("root").roles[name].keyids[0].encode()
        return data.replace(b'"' + key_id + b'":{', b'"' + b"0" * 64 + b'":{', 1)

    return lie


@pytest.mark.parametrize("role", [ROOT, TARGETS, SNAPSHOT, TIMESTAMP])
@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (_without_role, "root of .*: role {role} is missing"),
        (_without_key, "root of .*: role {role}: key '[0-9a-f]+' is not in the same file"),
    ],
)
def test_a_root_without_a_role_or_its_key_is_refused(
    peer: Peer,
    tmp_path: Path,
    role: str,
    lie: Callable[[str], Callable[[bytes], bytes]],
    message: str,
) -> None:
    """Case 20: for every base role."""
    cache = tmp_path / "trust"
    peer.model.replies["root.json"] = Reply(200, lie(role)(peer.model.current[ROOT]))
    expected = message.replace("{role}", role)
    with peer.untouched(cache), pytest.raises(FormatError, match=expected):
        peer.client(cache).refresh()


@pytest.mark.parametrize("role", [ROOT, TARGETS, SNAPSHOT, TIMESTAMP])
@pytest.mark.parametrize("threshold", [b"0", b"-1", b"null", b"1.5", b'"1"', b"true"])
def test_a_threshold_that_is_no_positive_number_is_refused(role: str, threshold: bytes) -> None:
    """Case 20: zero signatures are never enough."""
    data = GoodRepository().files()[ROOT]
    place = data.index(b'"threshold":1', data.index(b'"' + role.encode() + b'":{"keyids"'))
    forged = data[:place] + b'"threshold":' + threshold + data[place + len(b'"threshold":1') :]
    with pytest.raises(FormatError, match=r"whole number from 1 up|expected an integer"):
        believe({**GoodRepository().files(), ROOT: forged})


@pytest.mark.parametrize("role", [TARGETS, SNAPSHOT, TIMESTAMP])
def test_a_role_without_keys_is_signed_by_nobody(role: str) -> None:
    """Case 20: an empty list of keys is no open door."""
    good = GoodRepository()
    good.root = replace(good.root, roles={**good.root.roles, role: Role((), 1)})
    with pytest.raises(ThresholdError, match=f"{role} of {GUN}: expected valid signatures by 1"):
        believe(good.files())


# --- Delegations ------------------------------------------------------------------------------


def _nested(outer: tuple[str, ...] | None, inner: tuple[str, ...] | None) -> GoodRepository:
    """`targets/ci` entrusts `targets/ci/deep`, each below its paths; the latter has three tags."""
    good = GoodRepository()
    _with_entry(good, Delegation("targets/ci", Role.of(CI_KEY), outer))
    deep = Delegation("targets/ci/deep", Role.of(CI_KEY), inner)
    good.delegated["targets/ci"] = Targets({}, (deep,), {CI_KEY.key_id: CI_KEY}, 1, LATER)
    tags = dict.fromkeys(("v1", "v2", "x"), IMAGE)
    good.delegated["targets/ci/deep"] = content(tags)
    return good


@pytest.mark.parametrize(
    ("outer", "inner", "admitted"),
    [
        (("",), ("",), {"v1", "v2", "x"}),
        (("v",), ("",), {"v1", "v2"}),
        (("",), ("v1", "x"), {"v1", "x"}),
        (("v",), ("v1",), {"v1"}),
        (("v1",), ("v",), {"v1"}),
        (("v",), ("x",), set()),
        (("",), None, set()),
        (None, ("",), set()),
        (("",), (), set()),
        (("v*",), ("",), set()),
    ],
)
def test_a_nested_delegation_speaks_only_where_all_its_parents_may(
    outer: tuple[str, ...] | None, inner: tuple[str, ...] | None, admitted: set[str]
) -> None:
    """Case 25: paths are prefixes, no patterns; none admits nothing."""
    repository = believe(_nested(outer, inner).files())
    names = [each.name for each in repository.delegations()]
    assert names == [RELEASES, "targets/ci", "targets/ci/deep"]
    deep = "targets/ci/deep"
    tags = repository.targets(deep).targets
    assert {tag for tag in tags if repository.admits(deep, tag)} == admitted


def test_what_a_nested_delegation_says_is_not_released() -> None:
    """Case 25: consumers look into `targets/releases` and `targets`, never deeper."""
    good = _nested(("",), ("",))
    del good.delegated[RELEASES]
    with pytest.raises(NotSignedError, match=f"{GUN}:v1 is not signed"):
        released(believe(good.files()), "v1")


def test_children_of_an_invalid_delegation_are_not_looked_at() -> None:
    """Case 25: whoever is not believed cannot entrust anybody."""
    good = _nested(("",), ("",))
    good.signers["targets/ci"] = [key("stranger")]
    repository = believe(good.files())
    assert [each.name for each in repository.delegations()] == [RELEASES, "targets/ci"]
    with pytest.raises(TrustError, match=f"{GUN} has no delegation targets/ci/deep"):
        repository.admits("targets/ci/deep", "v1")


def test_of_two_delegations_with_one_name_the_first_counts() -> None:
    """Case 25: a second entry cannot widen what the first one allows."""
    good = GoodRepository()
    _with_keys(good, "stranger")
    again = Delegation(RELEASES, Role.of(key("stranger").public_key), ("",))
    good.targets = replace(good.targets, delegations=(*good.targets.delegations, again))
    assert released(believe(good.files()), "1.0") == IMAGE
    good.signers[RELEASES] = [key("stranger")]
    with pytest.raises(ThresholdError, match=f"{RELEASES} of {GUN}: expected valid signatures"):
        released(believe(good.files()), "1.0")
