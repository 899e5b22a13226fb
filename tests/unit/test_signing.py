"""`signimage.signing`: who may sign, and what counts as signed."""

from dataclasses import replace
from datetime import timedelta

import pytest

from signimage.errors import NotASignerError, NotSignedError, ThresholdError
from signimage.filemeta import Expiry, FileMeta
from signimage.metadata import RELEASES, TARGETS
from signimage.oci import Digest, Repository
from signimage.signing import check_may_sign
from signimage.verification import Gate, pass_gate, verified
from unit.repositories import GUN, IMAGE, NOW, GoodRepository, believe, content, good_targets, key

CI = key("ci").public_key.canonical_id
DIGEST = Digest(f"sha256:{IMAGE.hashes['sha256'].hex()}")
NAME = Repository.parse(GUN)
OTHER = FileMeta(7, {"sha256": bytes(32)})


def test_a_signer_whose_signature_is_released_may_sign() -> None:
    check_may_sign(believe(GoodRepository().files()), "any", CI)


def test_a_signature_that_nobody_would_see_is_refused_before_it_is_made() -> None:
    """Case 31: Docker lets such a key sign, and then no consumer finds the tag."""
    hidden = content({}).with_delegation("targets/ci", [key("ci").public_key])
    repository = believe(GoodRepository(targets=hidden, delegated={}).files())
    with pytest.raises(NotASignerError, match=f"as targets/ci, but not in {RELEASES}, where"):
        check_may_sign(repository, "1.0", CI)


def test_a_role_that_cannot_be_continued_is_refused() -> None:
    good = GoodRepository(signers={RELEASES: [key("stranger")]})
    with pytest.raises(ThresholdError, match=f"{RELEASES} of {GUN}: expected valid signatures"):
        check_may_sign(believe(good.files()), "1.0", CI)


def test_the_repository_key_may_sign_where_there_are_no_signers() -> None:
    repository = believe(GoodRepository(targets=content({}), delegated={}).files())
    check_may_sign(repository, "1.0", key("targets").public_key.canonical_id)


def test_what_was_signed_is_reported() -> None:
    good = GoodRepository()
    found = verified(believe(good.files()), NAME, ("1.0",))
    assert found.references == (f"{GUN}:1.0@{DIGEST}",)
    assert found.images == (DIGEST,)
    assert found.signers == ("ci",)
    assert found.root_key_ids == good.root.roles["root"].keyids


def test_what_expires_first_is_reported() -> None:
    """Of what people must renew; snapshot and timestamp are renewed by the server."""
    soon = replace(content({"1.0": IMAGE}), expires=Expiry.at(NOW + timedelta(days=3)))
    good = GoodRepository(delegated={"targets/ci": soon, RELEASES: content({"1.0": IMAGE})})
    found = verified(believe(good.files()), NAME, ("1.0",))
    assert found.expires == NOW + timedelta(days=3)


def test_a_signer_of_some_tags_is_not_named_for_all() -> None:
    both = good_targets("ci").with_delegation("targets/qa", [key("qa").public_key])
    one, two = content({"1.0": IMAGE}), content({"1.0": IMAGE, "2.0": OTHER})
    good = GoodRepository(
        targets=both,
        delegated={"targets/ci": two, "targets/qa": one, RELEASES: two},
        signers={"targets/qa": [key("qa")]},
    )
    found = verified(believe(good.files()), NAME, ("1.0", "2.0"))
    assert found.signers == ("ci",)
    assert (found.who, found.signed_by["1.0"]) == ("ci", "ci, qa")
    assert found.images == (DIGEST, Digest.of_raw(OTHER.sha256))


def test_the_repository_key_is_not_named_where_each_tag_has_another_signer() -> None:
    both = good_targets("ci").with_delegation("targets/qa", [key("qa").public_key])
    one, two = content({"1.0": IMAGE}), content({"2.0": OTHER})
    delegated = {"targets/ci": two, "targets/qa": one}
    everything = content({"1.0": IMAGE, "2.0": OTHER})
    good = GoodRepository(
        targets=both,
        delegated={**delegated, RELEASES: everything},
        signers={"targets/qa": [key("qa")]},
    )
    found = verified(believe(good.files()), NAME, ("1.0", "2.0"))
    assert (found.signers, found.who) == ((), "different signers")
    assert (found.signed_by["1.0"], found.signed_by["2.0"]) == ("qa", "ci")


def test_a_signer_whose_role_is_invalid_is_named_as_nobody() -> None:
    """What it released stays valid; and it was not the repository key that signed it."""
    good = GoodRepository(signers={"targets/ci": [key("qa")]})
    good.delegated[RELEASES] = content({"1.0": IMAGE})
    found = verified(believe(good.files()), NAME, ("1.0",))
    assert (found.signers, found.who) == ((), "targets/releases alone")
    gate = Gate(NAME, ("1.0",), signers=("ci",))
    sentence = f"{NAME}:1.0 is not signed by ci; it is signed by targets/releases alone"
    with pytest.raises(NotSignedError, match=f"^{sentence}$"):
        pass_gate(gate, believe(good.files()))


def test_without_signers_it_is_the_repository_key_that_signed() -> None:
    good = GoodRepository(targets=content({"1.0": IMAGE}), delegated={})
    assert verified(believe(good.files()), NAME, ("1.0",)).who == "the repository key"


def test_a_tag_that_is_absent_is_not_signed() -> None:
    with pytest.raises(NotSignedError, match=f"{GUN}:absent is not signed: neither {RELEASES} nor"):
        verified(believe(GoodRepository().files()), NAME, ("1.0", "absent"))


def test_targets_are_looked_at_where_releases_has_no_such_tag() -> None:
    good = GoodRepository(targets=content({"1.0": IMAGE}), delegated={})
    assert verified(believe(good.files()), NAME, ("1.0",)).signers == ()
    assert TARGETS in good.files()
