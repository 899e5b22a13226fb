"""`signimage.bases`: which base images are signed, and a build from exactly what was signed."""

from dataclasses import dataclass, field

import pytest

from signimage.bases import BasePolicy, Bases, trusted_bases
from signimage.errors import (
    HashMismatchError,
    InputError,
    NotFoundError,
    NotSignedError,
    ThresholdError,
    UnavailableError,
)
from signimage.metadata import RELEASES
from signimage.notary import TrustServer
from signimage.oci import Digest, Reference, Repository
from signimage.stages import BuildOptions, read_stages
from signimage.trustapi import TrustApi
from unit.repositories import GUN, IMAGE, GoodRepository, content, key
from unit.small_server import Reply
from unit.trust_server import Peer, error

SIGNED = Digest.of_raw(IMAGE.sha256)
PIN = f"{GUN}@{SIGNED}"
CLASSIC = BuildOptions(is_classic=True)
PINNING = [BasePolicy.PIN, BasePolicy.REQUIRE]


@dataclass
class Asker:
    """Asks *peer* about every repository, and keeps what was told."""

    peer: Peer
    told: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def server(self, repository: Repository) -> TrustServer:
        """The peer's client for *repository*."""
        self.asked.append(repository.gun)
        if repository.gun == GUN:
            return self.peer.client()
        return TrustServer(TrustApi(self.peer.transport, self.peer.server.origin, repository.gun))

    def bases(self, text: str, policy: BasePolicy, options: BuildOptions | None = None) -> Bases:
        """What becomes of the images of *text*."""
        stages = read_stages(text, options or BuildOptions())
        return trusted_bases(stages, policy, self.server, self.told.append)


@pytest.fixture
def asker(peer: Peer) -> Asker:
    return Asker(peer)


# --- What is signed ---


@pytest.mark.parametrize("policy", [BasePolicy.VERIFY, *PINNING])
def test_a_signed_base_is_known_by_what_was_signed(asker: Asker, policy: BasePolicy) -> None:
    found = asker.bases(f"FROM {GUN}:1.0\nCOPY --from={GUN}:1.0 x y\n", policy)
    (base,) = found.bases
    assert (base.digest, base.signed_by, base.reason) == (SIGNED, "ci", "")
    assert asker.told == [f"base image {GUN}:1.0 (line 1, line 2) is {SIGNED}, signed by ci"]
    assert found.warnings == ()
    assert found.pins == ({f"{GUN}:1.0": PIN} if policy.pins else {})


@pytest.mark.parametrize("policy", [BasePolicy.VERIFY, BasePolicy.PIN])
@pytest.mark.parametrize(
    ("image", "why"),
    [
        ("elsewhere.example/x:1", "elsewhere.example/x has no trust data on https://"),
        (f"{GUN}:2.0", f"{GUN}:2.0 is not signed: neither {RELEASES} nor targets has the tag"),
        (f"{GUN}:unreleased", f"{GUN}:unreleased is not signed: neither"),
        (GUN, f"{GUN}:latest is not signed: neither"),
    ],
)
def test_an_unsigned_base_is_reported_and_left_alone(
    asker: Asker, policy: BasePolicy, image: str, why: str
) -> None:
    found = asker.bases(f"FROM {GUN}:1.0\nFROM {image}", policy)
    (warning,) = found.warnings
    assert warning.startswith(f"base image {image} (line 2) is not signed: {why}")
    assert image not in found.pins


def test_unsigned_bases_are_refused_all_at_once_where_they_must_be_signed(asker: Asker) -> None:
    with pytest.raises(
        NotSignedError,
        match=r"^base image a:1 \(line 2\) is not signed: docker.io/library/a has no .*; "
        rf"base image {GUN}:2.0 \(line 3\) is not signed: ",
    ) as caught:
        asker.bases(f"FROM {GUN}:1.0\nFROM a:1\nFROM {GUN}:2.0", BasePolicy.REQUIRE)
    assert "baseImages" not in caught.value.sentence  # no advice to weaken a check


@pytest.mark.parametrize("policy", [BasePolicy.VERIFY, *PINNING])
def test_a_base_that_is_named_by_digest_is_taken_as_it_is(asker: Asker, policy: BasePolicy) -> None:
    digest = Digest.of(b"")
    found = asker.bases(f"FROM a:1@{digest}", policy)
    assert asker.asked == []
    assert asker.told == [f"base image a:1@{digest} (line 1) is named by its digest"]
    assert (found.bases[0].digest, found.pins, found.warnings) == (digest, {}, ())
    assert found.build_arguments == ()


def test_nothing_is_asked_where_nothing_is_wanted(asker: Asker) -> None:
    found = asker.bases("# syntax=x\nFROM a", BasePolicy.OFF)
    assert (found.bases, found.warnings, found.pins, asker.asked) == ((), (), {}, [])
    assert (found.build_arguments, found.dockerfile()) == ((), None)


def test_each_repository_is_asked_for_once(asker: Asker) -> None:
    asker.bases(f"FROM {GUN}:1.0\nFROM {GUN}:2.0\nFROM a\nFROM docker.io/library/a:2",
                BasePolicy.VERIFY)  # fmt: skip
    assert asker.asked == [GUN, "docker.io/library/a"]


def test_a_reader_from_elsewhere_is_reported(asker: Asker) -> None:
    found = asker.bases(f"# syntax=docker/dockerfile:1\nFROM {GUN}:1.0", BasePolicy.REQUIRE)
    assert found.warnings == (
        "the Dockerfile is read by the image docker/dockerfile:1, which is not verified",
    )


# --- What cannot be known ---


def test_a_name_that_is_not_known_is_reported(asker: Asker) -> None:
    found = asker.bases("FROM a-$TARGETARCH", BasePolicy.VERIFY)
    (warning,) = found.warnings
    assert warning == f"base image in line 1 is not known: {found.stages.uses[0].fault}"


@pytest.mark.parametrize("policy", PINNING)
def test_a_name_that_is_not_known_cannot_be_pinned(asker: Asker, policy: BasePolicy) -> None:
    with pytest.raises(
        InputError, match=r"^base image in line 1 is not known: it depends on TARGET"
    ):
        asker.bases("FROM a-$TARGETARCH", policy)


def test_a_name_that_is_none_is_refused(asker: Asker) -> None:
    with pytest.raises(InputError, match="'No' is not a legal name"):
        asker.bases("FROM No", BasePolicy.VERIFY)


BUSY = Reply(503, b"busy")


def test_a_server_that_cannot_answer_leaves_the_question_open(asker: Asker) -> None:
    asker.peer.model.replies["root.json"] = BUSY
    found = asker.bases(f"FROM {GUN}:1.0", BasePolicy.VERIFY)
    (warning,) = found.warnings
    assert warning.startswith(f"base image {GUN}:1.0 (line 1) was not verified: trust server https")
    assert (found.bases[0].digest, found.bases[0].reason) == (None, "")


@pytest.mark.parametrize("policy", PINNING)
def test_a_server_that_cannot_answer_ends_a_build_that_depends_on_it(
    asker: Asker, policy: BasePolicy
) -> None:
    asker.peer.model.replies["root.json"] = BUSY
    with pytest.raises(UnavailableError, match=rf"^base image {GUN}:1.0 \(line 1\): trust server"):
        asker.bases(f"FROM {GUN}:1.0", policy)


@pytest.mark.parametrize("policy", [BasePolicy.VERIFY, *PINNING])
def test_trust_data_that_breaks_a_rule_ends_the_step(peer: Peer, policy: BasePolicy) -> None:
    peer.model.hold(GoodRepository(signers={RELEASES: [key("stranger")]}))
    with pytest.raises(ThresholdError, match=rf"^base image {GUN}:1.0 \(line 1\): {RELEASES} of"):
        Asker(peer).bases(f"FROM {GUN}:1.0", policy)


def test_a_host_without_any_trust_data_has_unsigned_images(asker: Asker) -> None:
    """A registry that never heard of content trust answers with a page of its own."""
    asker.peer.model.replies["root.json"] = Reply(404, b"no such page")
    found = asker.bases(f"FROM {GUN}:1.0", BasePolicy.PIN)
    assert found.bases[0].reason.startswith(f"{asker.peer.server.origin} is no trust server: ")
    assert found.pins == {}


def test_a_damaged_repository_is_not_an_unsigned_one(asker: Asker) -> None:
    asker.peer.replace_by_hash("targets", error(404, "METADATA_NOT_FOUND"))
    with pytest.raises(NotFoundError, match=r"\(line 1\): targets of .* names a file that it does"):
        asker.bases(f"FROM {GUN}:1.0", BasePolicy.PIN)


# --- What the registry has ---


def test_a_tag_that_was_moved_after_signing_does_not_verify(asker: Asker) -> None:
    stages = read_stages(f"FROM {GUN}:1.0", BuildOptions())
    moved = Digest.of(b"another")
    with pytest.raises(
        HashMismatchError, match=rf"{GUN}:1.0 in the registry: expected {SIGNED}, .* got {moved}$"
    ):
        trusted_bases(stages, BasePolicy.VERIFY, asker.server, asker.told.append, lambda _: moved)


def test_a_tag_is_asked_for_at_the_registry_by_its_name(asker: Asker) -> None:
    asked: list[Reference] = []

    def digest_of(reference: Reference) -> Digest:
        asked.append(reference)
        return SIGNED

    stages = read_stages(f"FROM {GUN}:1.0\nFROM other:2", BuildOptions())
    trusted_bases(stages, BasePolicy.VERIFY, asker.server, asker.told.append, digest_of)
    assert list(map(str, asked)) == [f"{GUN}:1.0"]
    trusted_bases(stages, BasePolicy.PIN, asker.server, asker.told.append, digest_of)
    assert len(asked) == 1


# --- What is built from ---


def test_buildkit_is_given_contexts_for_what_was_signed(asker: Asker) -> None:
    text = f"FROM {GUN}:1.0 AS a\nFROM a\nCOPY --from=other:2 x y"
    found = asker.bases(text, BasePolicy.PIN)
    context = f"{GUN}:1.0=docker-image://{PIN}"
    assert found.build_arguments == ("--build-context", context)
    assert found.contexts == {f"{GUN}:1.0": f"docker-image://{PIN}"}
    assert found.dockerfile() is None


def test_an_image_that_is_a_context_of_the_users_own_is_pinned_too(asker: Asker) -> None:
    options = BuildOptions(contexts={"base": f"docker-image://{GUN}:1.0"})
    found = asker.bases("FROM base", BasePolicy.PIN, options)
    assert found.build_arguments == ("--build-context", f"base=docker-image://{PIN}")


def test_the_classic_builder_is_given_another_dockerfile(asker: Asker) -> None:
    text = f"FROM {GUN}:1.0 AS a\r\nFROM other:2\r\n"
    found = asker.bases(text, BasePolicy.PIN, CLASSIC)
    assert found.build_arguments == ()
    assert found.dockerfile() == f"FROM {PIN} AS a\r\nFROM other:2\r\n"
    assert asker.bases("FROM other:2", BasePolicy.PIN, CLASSIC).dockerfile() is None
    assert asker.bases(text, BasePolicy.VERIFY, CLASSIC).dockerfile() is None


@pytest.mark.parametrize(
    ("text", "policy", "is_labelled"),
    [
        (f"FROM other:2\nFROM {GUN}:1.0", BasePolicy.PIN, True),
        (f"FROM other:2\nFROM {GUN}:1.0", BasePolicy.VERIFY, False),
        (f"FROM {GUN}:1.0\nFROM other:2", BasePolicy.PIN, False),
        (f"FROM {GUN}:1.0 AS x\nFROM x", BasePolicy.PIN, False),
    ],
)
def test_labels_name_what_the_last_stage_is_pinned_to(
    asker: Asker,
    text: str,
    policy: BasePolicy,
    is_labelled: bool,  # noqa: FBT001 -- a row of a table
) -> None:
    labels = {"image.base.ref.name": f"{GUN}:1.0", "image.base.digest": SIGNED.text}
    assert asker.bases(text, policy).labels == (labels if is_labelled else {})


@pytest.mark.parametrize("name", ["app", "App"])
def test_a_context_never_stands_in_for_a_stage(peer: Peer, name: str) -> None:
    """`FROM app AS app`: BuildKit would drop what that stage does to the image."""
    released = {"latest": IMAGE}
    peer.model.hold(
        GoodRepository(delegated={"targets/ci": content(released), RELEASES: content(released)})
    )
    options = BuildOptions(contexts={"own": "docker-image://other"})
    stages = read_stages(f"FROM app AS {name}\nRUN x\nFROM {name}\nCOPY --from=own x y", options)
    found = trusted_bases(stages, BasePolicy.PIN, lambda _: peer.client(), lambda _: None)
    assert found.dockerfile() == (
        f"FROM docker.io/library/app@{SIGNED} AS {name}\nRUN x\nFROM {name}\nCOPY --from=own x y"
    )
    own = f"own=docker-image://docker.io/library/other@{SIGNED}"
    assert found.build_arguments == ("--build-context", own)
