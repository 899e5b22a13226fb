"""When tags move: after they are signed, and back if they had to move before and never were.

Real dockerd, registry and notary-server; what a step leaves is asked of registry and trust server.
"""

import json
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from peers.shop import Shop, opened_shop
from peers.stack import Stack
from peers.workstation import Workstation
from signimage.administration import remove_signer
from signimage.cancellation import Canceled
from signimage.errors import (
    FormatError,
    HashMismatchError,
    InputError,
    NotASignerError,
    NotInitializedError,
    NotSignedError,
    RemoteError,
)
from signimage.oci import Descriptor, Digest, Manifest
from signimage.registry import Registry
from signimage.releases import revoke
from signimage.signing import push_and_sign, sign_pushed

MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


@pytest.fixture
def shop(workstation: Workstation, stack: Stack, tmp_path: Path) -> Iterator[Shop]:
    """Set up a shop with the signer `ci`."""
    with opened_shop(workstation, stack, tmp_path) as shop:
        yield shop


def fire(shop: Shop) -> None:
    """Take the signer's right to sign, so that signing fails."""
    at = shop.workstation
    remove_signer(at.server(cache=False), at.store, at.passphrases, "ci")


def test_an_archive_has_no_tag_until_it_is_signed(shop: Shop) -> None:
    """And then all of them, with what was signed."""
    seen: list[dict[str, str]] = []
    shop.events = {part: lambda: seen.append(shop.tags()) for part in ("Push", "Sign", "Tag")}
    found = shop.signs(shop.order("1.0", "latest"), shop.archived("1.0", "latest"))
    assert seen == [{}, {}, {}]
    (digest,) = found.images
    assert shop.tags() == {"1.0": digest.text, "latest": digest.text}
    assert shop.signed("latest") == digest


def test_an_archive_that_cannot_be_signed_gets_no_tag(shop: Shop) -> None:
    shop.events["Sign"] = lambda: fire(shop)
    with pytest.raises(NotASignerError, match=r"is not a signer of .* no signers yet") as caught:
        shop.signs(shop.order("1.0"), shop.archived("1.0"))
    assert caught.value.state == "No tag was moved"
    assert shop.tags() == {}


def test_the_engine_moves_one_tag_of_an_image_before_it_is_signed(shop: Shop) -> None:
    """There is no other way; the others move when they are signed."""
    seen: list[str] = []
    shop.events["Sign"] = lambda: seen.extend(shop.tags())
    found = shop.signs(shop.order("1.0", "latest"), shop.built("1.0", "latest"))
    assert seen == ["1.0"]
    assert shop.tags() == dict.fromkeys(("1.0", "latest"), found.images[0].text)


def test_a_tag_that_moved_and_was_never_signed_goes_back(shop: Shop) -> None:
    """Case 43: the registry shows again what was signed before."""
    before = shop.signs(shop.order("1.0"), shop.built("1.0")).images[0]
    shop.events["Sign"] = lambda: fire(shop)
    with pytest.raises(NotASignerError, match=r"is not a signer of .* no signers yet") as caught:
        shop.signs(shop.order("1.0", "latest"), shop.built("1.0", "latest"))
    assert caught.value.state == "The tags 1.0 are again what they were before"
    assert shop.tags() == {"1.0": before.text}


def test_a_new_tag_that_cannot_be_removed_is_said_to_be_unsigned(shop: Shop) -> None:
    """Case 43: registries of this kind cannot remove a tag."""
    shop.events["Sign"] = lambda: fire(shop)
    with pytest.raises(NotASignerError, match=r"is not a signer of .* no signers yet") as caught:
        shop.signs(shop.order("1.0", "latest"), shop.built("1.0", "latest"))
    assert caught.value.state == f"{shop.repository} has the tags 1.0 UNSIGNED"
    assert list(shop.tags()) == ["1.0"]
    with pytest.raises(NotSignedError, match=r":1\.0 is not signed"):
        shop.signed("1.0")


def test_a_cancel_while_signing_names_the_tags_that_moved_before(shop: Shop) -> None:
    """There is no time to find out whether the signature arrived."""

    def cancel() -> None:
        raise Canceled

    shop.events["Sign"] = cancel
    with pytest.raises(Canceled) as caught:
        shop.signs(shop.order("1.0", "latest"), shop.built("1.0", "latest"))
    assert caught.value.state == (
        f"{shop.repository} has the tags 1.0, UNSIGNED unless that arrived already"
    )
    shop.events["Sign"] = cancel
    with pytest.raises(Canceled) as caught:
        shop.signs(shop.order("2.0"), shop.archived("2.0"))
    assert caught.value.state == ""


def test_a_signature_that_is_taken_back_before_the_tags_move_is_no_signature(shop: Shop) -> None:
    at = shop.workstation
    shop.events["Tag"] = lambda: revoke(at.server(cache=False), at.store, at.passphrases, "1.0")
    with pytest.raises(NotSignedError, match=r":1\.0 is not signed") as caught:
        shop.signs(shop.order("1.0"), shop.archived("1.0"))
    assert caught.value.state.endswith("somebody took a signature back since")


def test_a_tag_that_somebody_else_moved_meanwhile_is_left_alone(shop: Shop) -> None:
    before = shop.signs(shop.order("1.0"), shop.built("1.0")).images[0]
    other = shop.signs(shop.order("other"), shop.archived("other")).images[0]

    def happens() -> None:
        shop.registry.put_manifest("1.0", shop.registry.resolve(other))
        fire(shop)

    shop.events["Sign"] = happens
    with pytest.raises(NotASignerError, match=r"is not a signer of"):
        shop.signs(shop.order("1.0"), shop.built("1.0"))
    assert before != other
    assert shop.tags()["1.0"] == other.text


def test_of_two_who_sign_one_tag_at_once_the_registry_has_what_was_signed_last(shop: Shop) -> None:
    """The other one fails: it is not what it pushed that consumers get."""
    ours, theirs = shop.archived("1.0"), shop.archived("1.0")
    shop.events["Tag"] = lambda: shop.signs(shop.order("1.0"), theirs)
    with pytest.raises(HashMismatchError, match=r":1\.0: expected .* to be signed, got") as caught:
        shop.signs(shop.order("1.0"), ours)
    assert caught.value.state == (
        "Somebody else signed it a moment later, and the registry has what they signed"
    )
    assert shop.tags() == {"1.0": shop.signed("1.0").text}


class Eventful(Registry):
    """A registry in which something happens whenever we have moved a tag."""

    happens: Callable[[str], object] = staticmethod(lambda _: None)

    def put_manifest(self, reference: str | Digest, manifest: Manifest) -> None:
        """Do it, and then let happen what is to happen."""
        super().put_manifest(reference, manifest)
        if isinstance(reference, str):
            self.happens(reference)


def test_a_tag_that_somebody_moves_without_signing_it_is_moved_again(shop: Shop) -> None:
    """Who goes on with it gets the tag, and we no success."""
    other = shop.registry.resolve(shop.signs(shop.order("other"), shop.archived("other")).images[0])
    registry = Eventful(shop.transport, shop.repository, None)
    times = 2

    def somebody_moves(tag: str) -> None:
        nonlocal times
        times -= 1
        if times >= 0:
            shop.registry.put_manifest(tag, other)

    registry.happens = somebody_moves
    server = shop.workstation.server(cache=False)
    found = push_and_sign(shop.order("1.0"), shop.archived("1.0"), registry, server, shop)
    assert shop.tags()["1.0"] == found.images[0].text
    times = 100
    with pytest.raises(RemoteError, match=r"expected 1\.0 of .* to be what they were") as caught:
        push_and_sign(shop.order("1.0"), shop.archived("1.0"), registry, server, shop)
    assert caught.value.state == f"1.0 of {shop.repository} were signed and moved"
    assert shop.tags()["1.0"] == other.descriptor.digest.text


def test_tags_that_moved_are_told_where_the_look_after_that_is_in_vain(shop: Shop) -> None:
    at = shop.workstation
    registry = Eventful(shop.transport, shop.repository, None)
    registry.happens = lambda _: delete_trust_data(at)
    with pytest.raises(NotInitializedError, match=r"has no trust data on") as caught:
        push_and_sign(
            shop.order("1.0"), shop.archived("1.0"), registry, at.server(cache=False), shop
        )
    assert caught.value.state == f"1.0 of {shop.repository} were signed and moved"
    assert list(shop.tags()) == ["1.0"]


def delete_trust_data(at: Workstation) -> None:
    """As the operator of the trust server may."""
    url = f"{at.stack.trust_server}/v2/{at.gun}/_trust/tuf/"
    request = urllib.request.Request(url, method="DELETE")  # noqa: S310 -- a peer's
    context = ssl.create_default_context(cafile=str(at.stack.ca_file))
    urllib.request.urlopen(request, context=context).close()  # noqa: S310 -- the same


def test_a_step_that_must_sign_first_refuses_an_engine_before_it_builds(shop: Shop) -> None:
    with pytest.raises(InputError, match=r"signBeforeTag: .* pushes nothing without a tag"):
        shop.signs(shop.order("1.0", first=True), shop.built("1.0"))
    assert shop.tags() == {}
    shop.signs(shop.order("1.0", first=True), shop.archived("1.0"))


def test_the_platforms_below_an_index_are_signed_where_that_is_wanted(shop: Shop) -> None:
    """Each under a name made of its digest; attestations are covered by the index."""
    source = shop.archived("1.0")
    source.check()
    one = source.deliver(shop.registry)["1.0"].descriptor
    entry = {"mediaType": one.media_type, "digest": one.digest.text, "size": one.size}
    unknown = {"os": "unknown", "architecture": "unknown"}
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_LIST,
        "manifests": [
            {**entry, "platform": {"os": "linux", "architecture": "amd64"}},
            {**entry, "platform": unknown, "digest": one.digest.text},
        ],
    }
    content = json.dumps(document).encode()
    index = Manifest(Descriptor(MANIFEST_LIST, Digest.of(content), len(content)), content)
    shop.registry.put_manifest("multi", index)
    server = shop.workstation.server(cache=False)
    sign_pushed(shop.order("multi", is_recursive=True), shop.registry, server, shop)
    assert shop.signed("multi") == index.descriptor.digest
    assert shop.signed(one.digest.tag) == one.digest
    names = [row["SignedTag"] for row in shop.workstation.inspected()["SignedTags"]]
    assert sorted(names) == ["multi", one.digest.tag]


def test_the_platforms_below_an_index_in_an_index_are_signed_too(shop: Shop) -> None:
    """Layouts of several builds hold such; one that goes on and on is refused."""
    source = shop.archived("1.0")
    source.check()
    one = source.deliver(shop.registry)["1.0"]
    inner = index_of(shop, one)
    outer = index_of(shop, inner, one)
    shop.registry.put_manifest("multi", outer)
    server = shop.workstation.server(cache=False)
    sign_pushed(shop.order("multi", is_recursive=True), shop.registry, server, shop)
    names = [row["SignedTag"] for row in shop.workstation.inspected()["SignedTags"]]
    below = [each.descriptor.digest.tag for each in (inner, one)]
    assert sorted(names) == sorted(["multi", *below])
    for _ in range(3):
        outer = index_of(shop, outer)
    shop.registry.put_manifest("deep", outer)
    with pytest.raises(FormatError, match=r"expected at most 4 indexes in each other$"):
        sign_pushed(shop.order("deep", is_recursive=True), shop.registry, server, shop)


def test_what_is_told_of_an_index_in_an_index_is_its_first_image(shop: Shop) -> None:
    source = shop.archived("1.0")
    source.check()
    one = source.deliver(shop.registry)["1.0"]
    outer = index_of(shop, index_of(shop, one)).descriptor.digest
    told = source.described(shop.registry, outer, ("1.0",))
    assert (told.digest, told.image_id) == (outer, one.config_digest)


def index_of(shop: Shop, *manifests: Manifest) -> Manifest:
    """Store an index of *manifests*, untagged."""
    described = [each.descriptor for each in manifests]
    entries = [
        {"mediaType": each.media_type, "digest": each.digest.text, "size": each.size}
        for each in described
    ]
    document = {"schemaVersion": 2, "mediaType": MANIFEST_LIST, "manifests": entries}
    content = json.dumps(document).encode()
    index = Manifest(Descriptor(MANIFEST_LIST, Digest.of(content), len(content)), content)
    shop.registry.put_manifest(index.descriptor.digest, index)
    return index
