"""Acceptance case 22: the certificates of root keys, and what is pinned."""

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.x509 import BasicConstraints

from signimage.errors import (
    ExpiredError,
    RootPinError,
    ThresholdError,
    TrustError,
)
from signimage.keys import PublicKey
from signimage.lookup import released
from signimage.metadata import ROOT, Role, Root
from signimage.pinning import PinRules, RootPins
from unit.certificates import Issued, issue
from unit.repositories import (
    GUN,
    IMAGE,
    NOW,
    GoodRepository,
    believe,
    certificate,
    good_root,
    key,
    next_root,
    root_file,
    sign,
)
from unit.trust_server import Peer

# --- Certificates -----------------------------------------------------------------------------


def _with_root_key(issued: Issued, *intermediates: Issued) -> GoodRepository:
    """A repository whose root key is certified by *issued*, which signs it."""
    public = issued.root_key(*intermediates)
    root = good_root("root")
    root = replace(
        root,
        keys={**root.keys, public.key_id: public},
        roles={**root.roles, ROOT: Role.of(public)},
    )
    return GoodRepository(root=root, signers={ROOT: [issued.signer]})


@pytest.mark.parametrize("name", [GUN, "registry.example/team/*", "registry.example/te*", "*"])
def test_a_certificate_may_name_the_repository_or_a_prefix(name: str) -> None:
    """Case 22: as Notary matches names."""
    believe(_with_root_key(issue(name, since=NOW)).files())


@pytest.mark.parametrize(
    "name",
    ["registry.example/team/ap", f"{GUN}x", "registry.example/*/app", "registry.example/other/*",
     f"{GUN}/*", "app", " "],
)  # fmt: skip
def test_a_certificate_for_another_name_is_refused(peer: Peer, tmp_path: Path, name: str) -> None:
    """Case 22: no other kind of pattern is one."""
    cache = tmp_path / "trust"
    peer.model.hold(_with_root_key(issue(name, since=NOW)))
    with (
        peer.untouched(cache),
        pytest.raises(
            TrustError, match=f"root of {GUN}: expected a certificate for {GUN}, got one"
        ),
    ):
        peer.client(cache).refresh()


@pytest.mark.parametrize(("hours", "is_good"), [(23, True), (24, True), (25, False)])
def test_a_certificate_may_be_from_tomorrow_and_not_later(hours: int, *, is_good: bool) -> None:
    """Case 22: the clock of whoever made it may run ahead by a day."""
    files = _with_root_key(issue(GUN, since=NOW + timedelta(hours=hours))).files()
    if is_good:
        believe(files)
        return
    with pytest.raises(TrustError, match=f"root of {GUN}: its root certificate is valid from 2026"):
        believe(files)


def test_an_expired_certificate_is_refused_in_a_first_root(peer: Peer, tmp_path: Path) -> None:
    """Case 22: nobody vouches for it any more."""
    cache = tmp_path / "trust"
    peer.model.hold(_with_root_key(issue(GUN, since=NOW - timedelta(days=2), days=1)))
    sentence = f"root of {GUN}: its root certificate expired at 2026-11-21T12:00:00Z"
    with peer.untouched(cache), pytest.raises(ExpiredError, match=sentence):
        peer.client(cache).refresh()


def test_an_expired_certificate_in_a_kept_root_still_leads_on(peer: Peer, tmp_path: Path) -> None:
    """Case 22: Docker's clients fail here, each ten years after the repository was made."""
    cache = tmp_path / "trust"
    old = _with_root_key(issue(GUN, since=NOW, days=30))
    peer.model.hold(old)
    peer.client(cache).refresh()
    peer.now = NOW + timedelta(days=31)
    repository = peer.client(cache).refresh()
    assert released(repository, "1.0") == IMAGE
    assert any("its certificate expires at 2026-12-22" in each for each in repository.warnings)
    (first,) = old.root.roles[ROOT].keyids
    new = next_root(old.root, "root")
    ids = (first, new.roles[ROOT].keyids[0])
    peer.model.carry_out({ROOT: sign(new, [old.signers[ROOT][0], key("root")], keyids=ids)})
    repository = peer.client(cache).refresh()
    assert (repository.root.body.version, repository.warnings) == (2, [])


@pytest.mark.parametrize(("bits", "is_good"), [(1024, False), (2048, True)])
def test_a_short_rsa_key_is_refused(bits: int, *, is_good: bool) -> None:
    """Case 22: 2048 bits are the least."""
    issued = issue(GUN, since=NOW, rsa_bits=bits)
    if is_good:
        believe(_with_root_key(issued).files())
        return
    good = GoodRepository(root=_root_of(issued.root_key()))
    sentence = f"root of {GUN}: expected an RSA root key of 2048 bits or more, got 1024"
    with pytest.raises(TrustError, match=sentence):
        believe(good.files())


def _root_of(*keys: PublicKey) -> Root:
    root = good_root("root")
    known = {**root.keys, **{each.key_id: each for each in keys}}
    return replace(root, keys=known, roles={**root.roles, ROOT: Role.of(*keys)})


def test_a_certificate_with_sha1_is_refused(tmp_path: Path) -> None:
    """Case 22: made by OpenSSL, because our own library declines to."""
    file = tmp_path / "sha1.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-sha1", "-nodes", "-days", "3650", "-out", str(file),
         "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", str(tmp_path / "key"),
         "-subj", "/CN=" + GUN.replace("/", "\\/")],
        check=True,
        capture_output=True,
    )  # fmt: skip
    good = GoodRepository(root=_root_of(PublicKey("ecdsa-x509", file.read_bytes())))
    with pytest.raises(TrustError, match=f"root of {GUN}: its root certificate is signed with SHA"):
        believe(good.files())


# --- Pins -------------------------------------------------------------------------------------


def _pin(*names: str) -> RootPins:
    return RootPins(frozenset(certificate(name, GUN, NOW).key_id for name in names))


def test_a_pinned_key_must_sign_and_not_only_be_named(peer: Peer, tmp_path: Path) -> None:
    """Case 22: anybody can copy the pinned certificate into a root of their own."""
    cache = tmp_path / "trust"
    root = _root_of(certificate("root", GUN, NOW), certificate("stranger", GUN, NOW))
    data = root_file(root, "stranger")
    good = GoodRepository(root=root, reforge={ROOT: lambda _: data})
    believe(good.files())
    peer.model.hold(good)
    sentence = f"root of {GUN}: expected valid signatures by 1 of its keys, got 0"
    with peer.untouched(cache), pytest.raises(ThresholdError, match=sentence):
        peer.client(cache, pins=_pin("root")).refresh()


def test_one_of_several_pins_is_enough() -> None:
    """Case 22: for example before and after an announced change."""
    believe(GoodRepository().files(), pins=_pin("root", "next"))


def test_pins_count_towards_the_threshold_and_other_keys_do_not() -> None:
    """Case 22: with a threshold of two, two pinned keys must have signed."""
    root = replace(_root_of(certificate("root", GUN, NOW), certificate("b", GUN, NOW)))
    root = replace(root, roles={**root.roles, ROOT: replace(root.roles[ROOT], threshold=2)})
    data = root_file(root, "root", "b")
    files = GoodRepository(root=root, reforge={ROOT: lambda _: data}).files()
    believe(files, pins=_pin("root", "b"))
    with pytest.raises(ThresholdError, match="expected valid signatures by 2 of its keys, got 1"):
        believe(files, pins=_pin("root"))


def _follow_up(peer: Peer, *by: str) -> None:
    """Publish a root 2 whose only key is `a`."""
    peer.model.carry_out({ROOT: root_file(next_root(good_root("root"), "a"), *by)})


def test_a_pinned_key_that_was_rotated_away_leads_to_the_newest_root(peer: Peer) -> None:
    """Case 22: the chain is the proof, and it is followed from the pinned root."""
    _follow_up(peer, "root", "a")
    assert peer.client(pins=_pin("root")).refresh().root.body.version == 2
    assert peer.client(pins=_pin("a")).refresh().root.body.version == 2


def test_a_pinned_key_that_leads_nowhere_is_no_pin(peer: Peer, tmp_path: Path) -> None:
    """Case 22: an older root with the pin proves nothing about an unchained newer one."""
    cache = tmp_path / "trust"
    _follow_up(peer, "a")
    with peer.untouched(cache), pytest.raises(RootPinError, match=f"root of {GUN}: expected root"):
        peer.client(cache, pins=_pin("root")).refresh()


def test_pins_judge_what_was_kept_without_them(peer: Peer, tmp_path: Path) -> None:
    """Case 22: a root that was believed on first use is not believed against a later pin."""
    cache = tmp_path / "trust"
    peer.client(cache).refresh()
    peer.client(cache, pins=_pin("root")).refresh()
    with peer.untouched(cache), pytest.raises(RootPinError, match=r"expected root key [0-9a-f]+, "):
        peer.client(cache, pins=_pin("another")).refresh()


def test_first_use_can_be_forbidden(peer: Peer, tmp_path: Path) -> None:
    """Case 22: then only pins, or what was believed before, make a root believable."""
    cache = tmp_path / "trust"
    no_first_use = RootPins(first_use=False)
    sentence = f"root of {GUN}: nothing is pinned for {GUN}, and first use is not trusted"
    with peer.untouched(cache), pytest.raises(RootPinError, match=sentence) as caught:
        peer.client(cache, pins=no_first_use).refresh()
    assert certificate("root", GUN, NOW).key_id in caught.value.hint
    peer.client(cache, pins=replace(_pin("root"), first_use=False)).refresh()
    peer.client(cache, pins=no_first_use).refresh()


# --- Pinned authorities -----------------------------------------------------------------------

CA = BasicConstraints(ca=True, path_length=None)
NO_CA = BasicConstraints(ca=False, path_length=None)
AUTHORITY = issue("Authority", since=NOW, constraints=CA)
MIDDLE = issue("Middle", AUTHORITY, since=NOW, constraints=CA)
LEAF_OF_MIDDLE = issue(GUN, MIDDLE, since=NOW)

Chain = Callable[[], tuple[Issued, GoodRepository]]


def _direct() -> tuple[Issued, GoodRepository]:
    return AUTHORITY, _with_root_key(issue(GUN, AUTHORITY, since=NOW))


def _over_one() -> tuple[Issued, GoodRepository]:
    return AUTHORITY, _with_root_key(LEAF_OF_MIDDLE, MIDDLE)


def _to_the_middle() -> tuple[Issued, GoodRepository]:
    return MIDDLE, _with_root_key(LEAF_OF_MIDDLE)


def _over_two_in_disorder() -> tuple[Issued, GoodRepository]:
    low = issue("Low", MIDDLE, since=NOW, constraints=CA)
    stray = issue("Stray", since=NOW, constraints=CA)
    return AUTHORITY, _with_root_key(issue(GUN, low, since=NOW), MIDDLE, stray, low)


def _the_leaf_itself() -> tuple[Issued, GoodRepository]:
    leaf = issue(GUN, since=NOW)
    return leaf, _with_root_key(leaf)


def _within_the_path_length() -> tuple[Issued, GoodRepository]:
    short = issue("Short", since=NOW, constraints=BasicConstraints(ca=True, path_length=1))
    middle = issue("Under", short, since=NOW, constraints=CA)
    return short, _with_root_key(issue(GUN, middle, since=NOW), middle)


@pytest.mark.parametrize(
    "chain",
    [_direct, _over_one, _to_the_middle, _over_two_in_disorder, _the_leaf_itself,
     _within_the_path_length],
)  # fmt: skip
def test_a_root_certified_by_the_pinned_authority_is_believed(chain: Chain) -> None:
    """Case 22: directly, or over intermediates that the root key brings along."""
    authority, good = chain()
    believe(good.files(), pins=RootPins(authorities=(authority.as_pin,), first_use=False))


def _by_another_of_that_name() -> tuple[Issued, GoodRepository]:
    other = issue("Authority", since=NOW, constraints=CA)
    return AUTHORITY, _with_root_key(issue(GUN, other, since=NOW))


def _self_signed_beside_the_authority() -> tuple[Issued, GoodRepository]:
    return AUTHORITY, _with_root_key(issue(GUN, since=NOW), AUTHORITY)


def _without_its_intermediate() -> tuple[Issued, GoodRepository]:
    return AUTHORITY, _with_root_key(LEAF_OF_MIDDLE)


def _over_an_expired_one() -> tuple[Issued, GoodRepository]:
    old = issue("Old", AUTHORITY, since=NOW - timedelta(days=9), days=8, constraints=CA)
    return AUTHORITY, _with_root_key(issue(GUN, old, since=NOW), old)


def _over_one_that_is_no_authority() -> tuple[Issued, GoodRepository]:
    plain = issue("Plain", AUTHORITY, since=NOW, constraints=NO_CA)
    return AUTHORITY, _with_root_key(issue(GUN, plain, since=NOW), plain)


def _over_one_without_constraints() -> tuple[Issued, GoodRepository]:
    plain = issue("Plain", AUTHORITY, since=NOW)
    return AUTHORITY, _with_root_key(issue(GUN, plain, since=NOW), plain)


def _over_one_that_may_not_sign() -> tuple[Issued, GoodRepository]:
    mute = issue("Mute", AUTHORITY, since=NOW, constraints=CA, may_sign=False)
    return AUTHORITY, _with_root_key(issue(GUN, mute, since=NOW), mute)


def _beyond_the_path_length() -> tuple[Issued, GoodRepository]:
    short = issue("Short", since=NOW, constraints=BasicConstraints(ca=True, path_length=0))
    middle = issue("Under", short, since=NOW, constraints=CA)
    return short, _with_root_key(issue(GUN, middle, since=NOW), middle)


def _by_an_expired_authority() -> tuple[Issued, GoodRepository]:
    old = issue("Old", since=NOW - timedelta(days=9), days=8, constraints=CA)
    return old, _with_root_key(issue(GUN, old, since=NOW))


def _over_a_weak_one() -> tuple[Issued, GoodRepository]:
    weak = issue("Weak", AUTHORITY, since=NOW, constraints=CA, rsa_bits=1024)
    return AUTHORITY, _with_root_key(issue(GUN, weak, since=NOW), weak)


@pytest.mark.parametrize(
    "chain",
    [_by_another_of_that_name, _self_signed_beside_the_authority, _without_its_intermediate,
     _over_an_expired_one, _over_one_that_is_no_authority, _over_one_without_constraints,
     _over_one_that_may_not_sign, _beyond_the_path_length, _by_an_expired_authority,
     _over_a_weak_one],
)  # fmt: skip
def test_a_root_not_certified_by_the_pinned_authority_is_refused(
    peer: Peer, tmp_path: Path, chain: Chain
) -> None:
    """Case 22: and without the pin each of them would have been believed."""
    cache = tmp_path / "trust"
    authority, good = chain()
    believe(good.files())
    peer.model.hold(good)
    sentence = f"root of {GUN}: none of its root keys is certified by the pinned authority"
    with peer.untouched(cache), pytest.raises(RootPinError, match=sentence):
        peer.client(cache, pins=RootPins(authorities=(authority.as_pin,))).refresh()


def test_a_certified_key_must_sign_and_not_only_be_named() -> None:
    """Case 22: the authority speaks for its key, not for whoever stands beside it."""
    certified = issue(GUN, AUTHORITY, since=NOW).root_key()
    root = _root_of(certified, certificate("stranger", GUN, NOW))
    data = root_file(root, "stranger")
    good = GoodRepository(root=root, reforge={ROOT: lambda _: data})
    with pytest.raises(ThresholdError, match="expected valid signatures by 1 of its keys, got 0"):
        believe(good.files(), pins=RootPins(authorities=(AUTHORITY.as_pin,)))


# --- Rules for many repositories --------------------------------------------------------------


@pytest.mark.parametrize(
    ("gun", "expected"),
    [
        ("reg/team/app", {"exact"}),
        ("reg/team/app/more", {"long"}),
        ("reg/team/other", {"long"}),
        ("reg/elsewhere", {"short"}),
        ("other/x", set()),
    ],
)
def test_the_longest_match_decides_which_keys_are_pinned(gun: str, expected: set[str]) -> None:
    """Case 22: an exact name before every prefix, key IDs before authorities."""
    rules = PinRules(
        key_ids={
            "reg/*": frozenset({"short"}),
            "reg/team/*": frozenset({"long"}),
            "reg/team/app": frozenset({"exact"}),
            "reg/team": frozenset({"no prefix without a star"}),
        },
        authorities={"reg/": (AUTHORITY.as_pin,)},
        first_use=False,
    )
    pins = rules.select(gun)
    assert pins.key_ids == expected
    assert (pins.authorities, pins.first_use) == ((), False)


def test_the_longest_prefix_decides_which_authority_is_pinned() -> None:
    """Case 22: where no key ID is."""
    rules = PinRules(authorities={"reg/": (AUTHORITY.as_pin,), "reg/team/": (MIDDLE.as_pin,)})
    assert rules.select("reg/team/app").authorities == (MIDDLE.as_pin,)
    assert rules.select("reg/app").authorities == (AUTHORITY.as_pin,)
    assert not rules.select("elsewhere").is_pinned
    assert rules.select("elsewhere").first_use
