"""Rare states of caches, servers and rivals in which the rules must hold as well.

Most take two mishaps at once: a race and a death, a copy of a database that lags, two clients that
share a cache, a key that stands in two forms.
"""

from pathlib import Path

import pytest

from signimage import publisher
from signimage.errors import FormatError, HashMismatchError, RollbackError
from signimage.filemeta import FileMeta
from signimage.keys import PublicKey
from signimage.lookup import signing_roles
from signimage.metadata import RELEASES, ROOT, TARGETS, Targets, payload
from signimage.publication import (
    Changes,
    Recovery,
    signer_plan,
    signer_removal_plan,
    signing_plan,
    witness_plan,
)
from signimage.signing import check_may_sign
from signimage.trust import TrustedRepository
from signimage.trustcache import TrustCache
from unit.disks import full_disk
from unit.repositories import (
    GUN,
    NOW,
    GoodRepository,
    believe,
    certificate,
    content,
    good_root,
    good_targets,
    key,
    newer,
    next_root,
    root_file,
)
from unit.small_server import Reply, Request
from unit.trust_server import CI, NEW, Peer, TrustServerModel, error, refuse

QA = key("qa").public_key
AT_HAND = {CI: key("ci")}
OWNER = {key("targets").public_key.canonical_id: key("targets")}


def test_a_kept_root_that_was_brought_back_does_not_lower_the_floor_of_roots(
    peer: Peer, tmp_path: Path
) -> None:
    """Case 14: root, after that one cached file was damaged; its old keys are in wrong hands."""
    peer.client(tmp_path).refresh()
    kept = tmp_path / "tuf" / GUN / "metadata" / "root.json"
    first = kept.read_bytes()
    second = next_root(good_root("root"), "second")
    good = newer(GoodRepository(root=second))
    peer.model.hold(good)
    peer.model.store(ROOT, root_file(second, "root", "second"))
    peer.model.sign_snapshot()
    peer.client(tmp_path).refresh()
    kept.write_bytes(first)
    honest = dict(peer.model.current)
    peer.model.store(ROOT, first)
    peer.model.sign_snapshot()
    with pytest.raises(RollbackError, match=f"root of {GUN}: expected version 2 or later, got 1"):
        peer.client(tmp_path).refresh()
    peer.model.current.update(honest)
    peer.model.sign_snapshot()
    assert peer.client(tmp_path).refresh().root.body.version == 2


def test_releases_that_the_server_hides_are_not_begun_anew(peer: Peer, tmp_path: Path) -> None:
    """Case 14: whoever takes them for unpublished signs a list of their own tag alone."""
    peer.client(tmp_path).refresh()
    del peer.model.current[RELEASES]
    peer.model.sign_snapshot()
    with (
        peer.untouched(),
        pytest.raises(RollbackError, match=f"{RELEASES} of {GUN}: expected version 1 or later"),
    ):
        check_may_sign(peer.client(tmp_path).refresh(), "2.0", CI)
    again = peer.client(tmp_path).publish(witness_plan([RELEASES], Recovery.DROP), AT_HAND)
    assert again.repository.targets(RELEASES).version == 2


def test_targets_that_arrived_without_an_answer_are_looked_at_twice(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_SETTLE_S", 0.01)

    def carried_out_and_504(model: TrustServerModel, files: dict[str, bytes]) -> Reply:
        model.carry_out(files)
        return error(504, "TIMEOUT")

    peer.model.fates.append(carried_out_and_504)
    done = peer.client().publish(signer_plan("qa", [QA]), OWNER)
    assert done.roles == (TARGETS,)
    assert peer.fetched().count("timestamp") == 3, "before, after, and after the server's race"


def test_a_root_that_somebody_rotated_meanwhile_is_not_called_wedged(peer: Peer) -> None:
    old = good_root("root")

    def rotate(model: TrustServerModel, files: dict[str, bytes]) -> Reply:
        del files
        model.store(ROOT, root_file(next_root(old, "root"), "root"))
        model.sign_snapshot()
        return error(400, "VERSION")

    peer.model.fates.extend([refuse(400, "VERSION"), rotate])
    keys = {key("root").public_key.canonical_id: key("root")}

    def plan(repository: TrustedRepository) -> Changes:
        return {} if repository.root.body.version == 3 else {ROOT: repository.root.body}

    assert peer.client().publish(plan, keys).repository.root.body.version == 3


def test_a_removed_signer_releases_nothing_by_the_certificate_of_the_same_key() -> None:
    """As `notary delegation add … targets/releases cert.pem` beside `signer add --key ci.pub`."""
    top = good_targets("ci").with_delegation("targets/qa", [QA]).with_delegation(RELEASES, [QA])
    form = certificate("qa", "qa", NOW)
    top = top.without_keys(RELEASES, {QA.key_id}).with_delegation(RELEASES, [form])
    changes = signer_removal_plan("qa", [CI])(believe(GoodRepository(targets=top).files()))
    left = changes[TARGETS]
    assert isinstance(left, Targets)
    assert [each.role.keyids for each in left.delegations] == [(CI,), (CI,)]
    assert form.key_id not in left.delegation_keys


def test_a_key_that_another_signer_has_as_a_certificate_stays() -> None:
    top = good_targets("ci").with_delegation("targets/qa", [QA]).with_delegation(RELEASES, [QA])
    top = top.with_delegation("targets/twin", [certificate("qa", "qa", NOW)])
    changes = signer_removal_plan("qa", [CI])(believe(GoodRepository(targets=top).files()))
    left = changes[TARGETS]
    assert isinstance(left, Targets)
    releases = next(each for each in left.delegations if each.name == RELEASES)
    assert releases.role.keyids == (CI, QA.key_id)


def test_to_forget_a_repository_forgets_none_whose_name_begins_with_its(tmp_path: Path) -> None:
    for gun in (GUN, f"{GUN}/part"):
        TrustCache(tmp_path, gun).write({ROOT: b"r", RELEASES: b"x"}, {ROOT: 1})
    TrustCache(tmp_path, GUN).forget()
    assert TrustCache(tmp_path, GUN).read(ROOT) is None
    assert TrustCache(tmp_path, GUN).read(RELEASES) is None
    assert TrustCache(tmp_path, f"{GUN}/part").read(ROOT) == b"r"


@pytest.mark.parametrize("leaf", ["floors", "writing"])
@pytest.mark.parametrize("is_outer_first", [True, False])
def test_repositories_may_be_called_as_our_own_files_are(
    tmp_path: Path, leaf: str, *, is_outer_first: bool
) -> None:
    guns = [GUN, f"{GUN}/{leaf}"][:: 1 if is_outer_first else -1]
    for gun in guns:
        TrustCache(tmp_path, gun).write({ROOT: b"r"}, {ROOT: 1})
    assert all(TrustCache(tmp_path, gun).floors() == {ROOT: 1} for gun in guns)


def test_a_full_disk_keeps_what_was_kept_and_says_which_file_it_was(tmp_path: Path) -> None:
    cache = TrustCache(tmp_path, GUN)
    cache.write({TARGETS: b"old"}, {TARGETS: 1})
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    with full_disk(), pytest.raises(OSError, match=r"File too large: .*floors\.json"):
        cache.write({TARGETS: b"new"}, {TARGETS: 2})
    with full_disk(), pytest.raises(OSError, match=r"File too large: .*targets\.json"):
        cache.write({TARGETS: b"new"}, {TARGETS: 1})
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before
    assert (cache.read(TARGETS), cache.floors()) == (b"old", {TARGETS: 1})


def test_offline_a_kept_root_without_its_snapshot_is_not_shown(peer: Peer, tmp_path: Path) -> None:
    """Case 15: Docker writes a new root first, and may go no further."""
    peer.client(tmp_path).refresh()
    root = next_root(good_root("root"), "root")
    kept = tmp_path / "tuf" / GUN / "metadata" / "root.json"
    kept.write_bytes(root_file(root, "root"))
    peer.model.replies["timestamp.json"] = error(500, "UNKNOWN")
    with pytest.raises(HashMismatchError, match=f"root of {GUN}: expected"):
        peer.client(tmp_path).refresh(offline=True)


@pytest.mark.parametrize("name", ["\ud800", "a\x01"])
def test_names_without_canonical_form_are_refused_before_anything_is_signed(name: str) -> None:
    repository = believe(GoodRepository().files())
    with pytest.raises(FormatError, match=r"^canonical JSON: expected"):
        signing_plan({name: NEW}, [CI])(repository)
    with pytest.raises(FormatError, match=r"^canonical JSON: expected"):
        payload(content({name: NEW}))


def test_a_file_that_a_copy_of_the_server_shows_late_is_waited_for(peer: Peer) -> None:
    def late(model: TrustServerModel, files: dict[str, bytes]) -> Reply:
        reply = model.carry_out(files)
        name = f"snapshot.{FileMeta.of(model.current['snapshot']).sha256.hex()}.json"
        model.replies[name] = error(404, "METADATA_NOT_FOUND")
        left = [4]
        answer = model.answer

        def counting(request: Request) -> Reply:
            if request.path.endswith(name):
                left[0] -= 1
                if not left[0]:
                    del model.replies[name]
            return answer(request)

        peer.server.answer_with(counting)
        return reply

    peer.model.fates.append(late)
    assert peer.sign().roles == ("targets/ci", RELEASES)


def test_what_was_acknowledged_late_is_looked_at(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_PUBLISH_DEADLINE_S", 0.0)
    assert peer.sign().roles == ("targets/ci", RELEASES)


def test_a_server_that_answers_by_no_number_is_tried_again(peer: Peer) -> None:
    peer.model.fates.extend([refuse(400, "VERSION")] * 2)
    for role in ("targets/ci", RELEASES):
        peer.model.replies[f"2.{role}.json"] = error(405, "UNSUPPORTED")
    assert peer.sign().attempts == 3


def test_killed_between_an_update_and_its_loss_the_next_run_repairs_it(
    peer: Peer, tmp_path: Path
) -> None:
    class Killed(BaseException):
        """What no code of ours catches."""

    before = peer.model.current[TARGETS]
    client = peer.client(tmp_path)
    looks = []

    def plan(repository: TrustedRepository) -> Changes:
        looks.append(repository.targets().version)
        if len(looks) == 2:  # seen, and about to be lost
            peer.model.current[TARGETS] = before
            peer.model.sign_snapshot()
            raise Killed
        return signer_plan("qa", [QA])(repository)

    with pytest.raises(Killed):
        client.publish(plan, OWNER)
    assert looks == [1, 2]
    done = peer.client(tmp_path).publish(signer_plan("qa", [QA]), OWNER)
    roles = signing_roles(done.repository, "2.0", [QA.canonical_id])
    assert set(roles) == {"targets/qa", RELEASES}
    assert TrustCache(tmp_path, GUN).floors()[TARGETS] == 3


@pytest.mark.parametrize("where", ["outer", "inner"])
def test_a_key_with_a_member_in_two_letter_cases_is_refused(where: str) -> None:
    value = key("ci").public_key.to_json()
    if where == "outer":
        value["KeyType"] = "rsa"
    else:
        value["keyval"]["Public"] = "AA=="
    with pytest.raises(FormatError, match="misspelt in letter case"):
        PublicKey.from_json(value)


def test_every_folder_of_the_cache_is_for_its_owner_alone(tmp_path: Path) -> None:
    TrustCache(tmp_path, GUN).write({ROOT: b"r", RELEASES: b"x"}, {ROOT: 1})
    folders = [each for each in tmp_path.rglob("*") if each.is_dir()]
    assert {each.stat().st_mode & 0o777 for each in folders} == {0o700}
