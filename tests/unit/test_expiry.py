"""What ends when, and from when on somebody is told."""

from dataclasses import replace
from datetime import timedelta

import pytest

from signimage.expiry import OWNER_NOTICE, Term, terms
from signimage.filemeta import Expiry
from signimage.keys import PublicKey
from signimage.metadata import ROOT, SNAPSHOT, TIMESTAMP
from signimage.trust import ROOT_NOTICE
from unit.repositories import GUN, NOW, PAST, GoodRepository, believe, certificate, key

_DAY = timedelta(days=1)


def named(terms_: tuple[Term, ...]) -> dict[str, Term]:
    return {term.what: term for term in terms_}


def test_every_published_role_and_every_root_certificate_ends() -> None:
    root: PublicKey = certificate("root", GUN, NOW)
    assert named(terms(believe(GoodRepository().files()))).keys() == {
        "root", f"certificate of root key {root.key_id[:8]}", "targets", "snapshot", "timestamp",
        "targets/ci", "targets/releases",
    }  # fmt: skip


def test_the_first_to_end_comes_first() -> None:
    good = GoodRepository(expiry={TIMESTAMP: Expiry.at(NOW + 13 * _DAY)})
    found = terms(believe(good.files()))
    assert found[0].what == "timestamp"
    assert [term.ends for term in found] == sorted(term.ends for term in found)


def test_what_the_server_renews_is_never_due_before_its_end() -> None:
    soon = Expiry.at(NOW + timedelta(minutes=1))
    good = GoodRepository(expiry={TIMESTAMP: soon, SNAPSHOT: soon})
    found = named(terms(believe(good.files())))
    assert not found["timestamp"].is_due(NOW)
    assert not found["snapshot"].is_due(NOW)


def test_a_snapshot_whose_key_an_owner_has_is_the_owners_to_renew() -> None:
    good = GoodRepository(expiry={SNAPSHOT: Expiry.at(NOW + 9 * _DAY)})
    held = [key("snapshot").public_key.canonical_id]
    found = named(terms(believe(good.files()), held))["snapshot"]
    assert found.is_due(NOW)
    assert found.remedy == f"signimage witness --again {GUN} snapshot"


@pytest.mark.parametrize(("days", "is_due"), [(0, True), (1, False)])
def test_owners_are_told_a_season_ahead_and_of_root_half_a_year(days: int, *, is_due: bool) -> None:
    good = GoodRepository()
    ends = Expiry.at(NOW + OWNER_NOTICE + days * _DAY)
    root_ends = Expiry.at(NOW + ROOT_NOTICE + days * _DAY)
    found = named(
        terms(
            believe(
                replace(
                    good,
                    targets=replace(good.targets, expires=ends),
                    root=replace(good.root, expires=root_ends),
                ).files()
            )
        )
    )
    assert found["targets"].is_due(NOW) is is_due
    assert found[ROOT].is_due(NOW) is is_due
    assert found[ROOT].remedy == f"signimage rotate root --renew {GUN}"


def test_a_delegation_that_has_expired_is_listed_as_ended() -> None:
    good = GoodRepository()
    late = replace(good.delegated["targets/ci"], expires=PAST)
    repository = believe(replace(good, delegated={**good.delegated, "targets/ci": late}).files())
    found = named(terms(repository))["targets/ci"]
    assert found.has_ended(NOW)
    assert found.is_due(NOW)
