"""What a report says of a good repository, and of one in which one thing is odd."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.filemeta import Expiry, FileMeta
from signimage.keys import PrivateKey
from signimage.lookup import natural
from signimage.metadata import RELEASES, SNAPSHOT, TARGETS, Targets
from signimage.oci import Digest
from signimage.report import (
    ABSENT,
    Anomaly,
    Basis,
    Chapter,
    Subject,
    chapter,
    listed,
    unread,
)
from unit.repositories import (
    GUN,
    IMAGE,
    NOW,
    PAST,
    GoodRepository,
    believe,
    certificate,
    content,
    good_root,
    good_targets,
    key,
)

OTHER = FileMeta(530, {"sha256": bytes(32)})
HERE, ELSEWHERE = Digest.of_raw(IMAGE.sha256), Digest.of_raw(OTHER.sha256)
RELEASED = {"targets/ci": content({"1.0": IMAGE}), RELEASES: content({"1.0": IMAGE})}


def good(**changes: object) -> GoodRepository:
    """A repository in which nothing is odd, but for what is changed."""
    return replace(GoodRepository(delegated=RELEASED), **changes)  # type: ignore[arg-type]  # fields of many types


def told(repository: GoodRepository, **more: object) -> Chapter:
    subject = Subject(believe(repository.files()), "https://notary.example", Basis.PINNED)
    return chapter(replace(subject, **more))  # type: ignore[arg-type]  # the same


def only(found: Chapter) -> Anomaly:
    (anomaly,) = found.anomalies
    return anomaly


def two_signers(*releasers: str) -> Targets:
    """Targets with the signers `ci` and `qa`, of whom *releasers* may release."""
    targets = content({})
    for name in ("ci", "qa"):
        targets = targets.with_delegation(f"targets/{name}", [key(name).public_key])
    return targets.with_delegation(RELEASES, [key(each).public_key for each in releasers])


def test_of_a_good_repository_all_is_said_and_nothing_is_odd() -> None:
    found = told(good())
    assert found.anomalies == ()
    (signer,) = found.signatories
    assert (signer.name, signer.paths, signer.releases, signer.tags) == ("ci", ("",), True, 1)
    (row,) = found.released
    assert (row.tag, row.digest, row.signers, row.in_registry) == ("1.0", HERE.text, ("ci",), "")
    assert [(node.role, node.parent) for node in found.nodes] == [
        ("root", ""), ("targets", "root"), ("snapshot", "root"), ("timestamp", "root"),
        ("targets/ci", "targets"), ("targets/releases", "targets"),
    ]  # fmt: skip
    assert found.root_key_ids == (certificate("root", GUN, NOW).key_id,) == found.nodes[0].key_ids


def test_what_could_not_be_read_is_a_problem_with_its_reason() -> None:
    found = unread(GUN, NOW, "the trust server is away")
    assert only(found) == Anomaly("the trust server is away", is_problem=True)
    assert found.problems == 1


def test_the_newest_tag_comes_first() -> None:
    tags = dict.fromkeys(("v9", "v10", "latest", "v1.10", "v1.9"), IMAGE)
    found = told(good(delegated={RELEASES: content(tags), "targets/ci": content(tags)}))
    assert [row.tag for row in found.released] == ["v10", "v9", "v1.10", "v1.9", "latest"]


@given(st.lists(st.text()))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    assert sorted(sorted(names, key=natural)) == sorted(names)


@pytest.mark.parametrize("digits", ["1" * 5000, "٣", "²"])
def test_numbers_of_any_kind_and_length_are_names(digits: str) -> None:
    assert natural(digits)


# --- Problems -----------------------------------------------------------------------------------


def test_an_expired_delegation_is_a_problem_and_its_tags_are_not_believed() -> None:
    late = replace(RELEASED["targets/ci"], expires=PAST)
    found = told(good(delegated={**RELEASED, "targets/ci": late}))
    expired, alone = found.anomalies
    assert expired.is_problem
    assert "targets/ci of registry.example/team/app expired" in expired.text
    assert "no signer vouches for 1 released tag (1.0)" in alone.text
    assert found.signatories[0].tags is None


def test_an_expired_release_leaves_no_tag() -> None:
    late = replace(RELEASED[RELEASES], expires=PAST)
    found = told(good(delegated={**RELEASED, RELEASES: late}))
    assert found.released == ()
    assert only(found).text.endswith("no tag is released")


def test_a_tag_that_a_required_signer_has_not_signed_is_a_problem() -> None:
    found = only(told(good(targets=two_signers("ci", "qa")), required=("qa",)))
    assert found.is_problem
    assert found.text == "qa must sign every tag, and has not signed 1 tag (1.0)"
    assert found.remedy.endswith(f"signimage revoke {GUN}:TAG")


def test_a_tag_that_was_moved_in_the_registry_is_a_problem() -> None:
    found = told(good(), in_registry={"1.0": ELSEWHERE})
    assert only(found).is_problem
    assert "the registry has another image than was signed under 1 tag (1.0)" in only(found).text
    assert found.released[0].in_registry == ELSEWHERE.text


def test_a_tag_that_left_the_registry_is_a_notice() -> None:
    found = told(good(), in_registry={"1.0": None})
    assert not only(found).is_problem
    assert found.released[0].in_registry == ABSENT


def test_a_tag_that_the_registry_has_as_it_was_signed_is_nothing_to_tell() -> None:
    found = told(good(), in_registry={"1.0": HERE})
    assert found.anomalies == ()
    assert found.is_compared


def test_a_registry_that_could_not_be_asked_is_a_problem() -> None:
    assert only(told(good(), registry_fault="it is away.")).is_problem


def test_a_release_that_no_signer_vouches_for_is_a_problem() -> None:
    found = only(told(good(delegated={**RELEASED, "targets/ci": content({})})))
    assert found.is_problem
    assert found.text == "no signer vouches for 1 released tag (1.0)"


def test_a_signer_whom_consumers_do_not_see_is_a_problem() -> None:
    found = only(told(good(targets=two_signers("ci"))))
    assert found.is_problem
    assert "qa is not in targets/releases" in found.text
    assert found.remedy.endswith(f"signimage signer add --key FILE.pub qa {GUN}")


def test_a_key_that_may_release_and_belongs_to_nobody_is_a_problem() -> None:
    found = only(told(good(targets=two_signers("ci", "qa").with_delegation(
        RELEASES, [key("nobody").public_key]))))  # fmt: skip
    assert found.is_problem
    assert key("nobody").public_key.canonical_id[:12] in found.text


# --- Notices ------------------------------------------------------------------------------------


def test_what_ends_soon_is_a_notice_with_the_command_that_renews_it() -> None:
    soon = Expiry.at(NOW + timedelta(days=30))
    found = only(told(good(targets=replace(good_targets("ci"), expires=soon))))
    assert found.text == "targets ends in 30 days, on 2026-12-22"
    assert found.remedy.endswith(f"signimage witness --again {GUN} targets")
    assert not found.is_problem


def test_a_tag_that_was_signed_and_not_released_is_a_notice() -> None:
    assert "ci signed 1 tag (unreleased), and no consumer sees it" in (
        only(told(GoodRepository())).text
    )


def test_a_signer_of_another_image_than_the_released_one_is_named() -> None:
    targets = two_signers("ci", "qa")
    delegated = {**RELEASED, "targets/qa": content({"1.0": OTHER})}
    signers = {"targets/qa": [key("qa")]}
    found = only(told(good(targets=targets, delegated=delegated, signers=signers)))
    assert found.text == ("qa signed another image than the one that is released as 1 tag (1.0)")


def test_a_key_in_no_role_is_a_notice() -> None:
    targets = good_targets("ci")
    idle = key("idle").public_key
    keys = {**targets.delegation_keys, idle.key_id: idle}
    found = only(told(good(targets=replace(targets, delegation_keys=keys))))
    assert found.text == f"1 key ({idle.key_id[:12]}) listed for signers, and in no role"


def test_two_signers_with_one_key_are_told() -> None:
    targets = good_targets("ci").with_delegation("targets/twin", [key("ci").public_key])
    assert "ci and twin share the key" in only(told(good(targets=targets))).text


def test_one_key_for_two_base_roles_is_told() -> None:
    root = good_root("root")
    roles = {**root.roles, TARGETS: root.roles[SNAPSHOT]}
    signers: dict[str, list[PrivateKey]] = {TARGETS: [key("snapshot")]}
    found = only(told(good(root=replace(root, roles=roles), signers=signers)))
    assert "is used for targets and snapshot" in found.text


def test_a_snapshot_key_on_this_machine_is_told() -> None:
    held = frozenset({key("snapshot").public_key.canonical_id})
    found = told(good(), held=held)
    assert "nobody else can publish" in only(found).text
    assert [node.keeper for node in found.nodes if node.role == SNAPSHOT] == ["owner"]


def test_a_repository_without_signers_is_told() -> None:
    found = told(good(targets=content({"1.0": IMAGE}), delegated={}))
    assert "there are no signers" in only(found).text
    assert [each.name for each in found.signatories] == ["repository key"]


def test_a_root_that_was_believed_at_first_sight_is_told_with_its_pin() -> None:
    found = only(told(good(), basis=Basis.FIRST_USE))
    assert f"--root-key {certificate('root', GUN, NOW).key_id}" in found.remedy


def test_what_was_kept_is_told_from_what_the_server_shows() -> None:
    found = only(told(good(), is_kept=True))
    assert "this is what was kept, and will be believed until 2027-12-27" in found.text
    assert not found.is_problem


def test_problems_come_before_notices() -> None:
    found = told(good(), basis=Basis.FIRST_USE, in_registry={"1.0": ELSEWHERE})
    assert [each.is_problem for each in found.anomalies] == [True, False]


def test_of_many_names_the_first_are_listed_and_long_ones_are_cut() -> None:
    assert listed(["a"], "tag") == "1 tag (a)"
    assert listed([str(each) for each in range(10)], "tag") == (
        "10 tags (0, 1, 2, 3, 4, 5, 6, 7 and 2 others)"
    )
    assert listed(["x" * 128], "tag") == f"1 tag ({'x' * 40}…)"
