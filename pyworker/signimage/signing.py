"""The sentences of the product: what it means to build, push and sign an image.

`build_push_sign`:
 1. Preflight: whatever can be known to fail fails here, before anything is built.
 2. Build.
 3. Push one tag; the registry confirms the digest by handing out bytes that have it.
 4. Point the other tags at the same manifest.
 5. Sign all tags in one publication, and find them again in freshly verified trust data.

Nothing is called signed before step 5 is through. An error after step 3 says what the registry
holds by then.
"""

from dataclasses import dataclass
from typing import Protocol

from signimage.errors import HashMismatchError, NotASignerError, SignImageError
from signimage.filemeta import FileMeta
from signimage.keys import Signer
from signimage.lookup import released, signers_of, signing_roles
from signimage.metadata import RELEASES, ROOT, TARGETS
from signimage.notary import TrustServer
from signimage.oci import Digest, Repository
from signimage.publication import signing_plan
from signimage.registry import Manifest, Registry
from signimage.trust import TrustedRepository


class Progress(Protocol):
    """Where a use case tells what it is doing."""

    def step(self, text: str) -> None:
        """A new part of the work begins."""

    def done(self, text: str) -> None:
        """A part of the work has come to this result."""


class Builder(Protocol):
    """What can turn a Dockerfile into an image and hand it to a registry."""

    def check(self) -> None:
        """Find out whether building can begin at all.

        Raises:
            EngineError: The engine does not answer.
        """

    def build(self) -> str:
        """Build the image; gives its ID, `sha256:…`, as the engine has it.

        Raises:
            BuildError: The Dockerfile or its context is at fault.
            EngineError: The engine is.
        """

    def push(self, tag: str) -> Digest:
        """Push the built image under *tag*; gives the digest that the engine reports."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be signed, and by whom."""

    repository: Repository
    tags: tuple[str, ...]
    signer: Signer

    @property
    def key_id(self) -> str:
        """The canonical ID of the signing key."""
        return self.signer.public_key.canonical_id


@dataclass(frozen=True, slots=True)
class SignedImage:
    """Tags that were found signed in freshly verified trust data."""

    repository: Repository
    digest: Digest
    tags: tuple[str, ...]
    signers: tuple[str, ...]  # those who signed every one of the tags
    root_key_ids: tuple[str, ...]  # TUF key IDs, as pins name them
    warnings: tuple[str, ...]

    @property
    def references(self) -> tuple[str, ...]:
        """`repository:tag@digest` for every tag."""
        return tuple(f"{self.repository}:{tag}@{self.digest}" for tag in self.tags)


def build_push_sign(
    order: Order,
    builder: Builder,
    registry: Registry,
    trust_server: TrustServer,
    progress: Progress,
) -> SignedImage:
    """Build an image, push it under every tag of *order*, sign all of them.

    Raises:
        SignImageError: Nothing was called signed; `state` says what was pushed, if anything.
    """
    progress.step("Preflight")
    builder.check()
    preflight(order, registry, trust_server, progress)
    progress.step("Build")
    image_id = builder.build()
    progress.step("Push")
    manifest = push(order, builder, image_id, registry, progress)
    progress.step("Sign")
    try:
        image = sign(order, manifest, trust_server)
    except SignImageError as error:
        error.state = f"{order.repository} has the tags {', '.join(order.tags)} UNSIGNED"
        raise
    progress.done(f"{image.repository}: {', '.join(image.tags)} signed and verified")
    return image


def preflight(
    order: Order, registry: Registry, trust_server: TrustServer, progress: Progress
) -> None:
    """Refuse an *order* that is bound to fail.

    Raises:
        NotASignerError: The key may not sign one of the tags, or not release it.
        NotInitializedError: The repository has no trust data.
        TrustError: Its trust data breaks a rule, or a role that we must sign is invalid.
        RemoteError: Registry or trust server refuse us or cannot be reached.
    """
    registry.check_push()
    progress.done(f"The registry lets us push to {order.repository}")
    repository = trust_server.refresh()
    for tag in order.tags:
        check_may_sign(repository, tag, order.key_id)
    trust_server.check_write()
    progress.done(f"Key {order.key_id} may sign {', '.join(order.tags)}")


def check_may_sign(repository: TrustedRepository, tag: str, key_id: str) -> None:
    """Refuse a key whose signature on *tag* would be invalid or not be seen by consumers.

    Raises:
        NotASignerError: The key may not sign the tag, or is missing from `targets/releases`.
        TrustError: A role that it must sign is invalid.
    """
    roles = signing_roles(repository, tag, [key_id])
    if RELEASES not in roles and TARGETS not in roles:
        raise NotASignerError(
            f"key {key_id} may sign {repository.gun}:{tag} as {', '.join(roles)}, but not in "
            f"{RELEASES}, where consumers look",
            hint="The owner of the repository must add the key to that role as well",
        )
    for role in roles:
        repository.targets(role)


def push(
    order: Order, builder: Builder, image_id: str, registry: Registry, progress: Progress
) -> Manifest:
    """Push the built image under every tag; gives the manifest that the registry confirmed.

    Raises:
        HashMismatchError: Another image was pushed than *image_id*: on an agent with several
            jobs, a tag can be moved between building and pushing.
        RemoteError: Engine or registry failed.
    """
    first, *others = order.tags
    reported = builder.push(first)
    pushed = [first]
    try:
        manifest = registry.resolve(reported)
        manifest.check_image(image_id)
        for tag in others:
            registry.put_manifest(tag, manifest)
            pushed.append(tag)
    except SignImageError as error:
        error.state = f"{order.repository} has the tags {', '.join(pushed)} UNSIGNED"
        raise
    progress.done(f"{order.repository} has {manifest.descriptor.digest} as {', '.join(pushed)}")
    return manifest


def sign(order: Order, manifest: Manifest, trust_server: TrustServer) -> SignedImage:
    """Sign *manifest* under every tag of *order*, in one publication, and verify the result.

    Raises:
        NotSignedError: The publication went through, yet a tag is not what we signed.
        SignImageError: The publication did not go through.
    """
    described = manifest.descriptor
    # As Docker writes targets: SHA-256 only, and the length of the manifest in bytes.
    meta = FileMeta(described.size, {"sha256": described.digest.raw})
    plan = signing_plan(dict.fromkeys(order.tags, meta), [order.key_id])
    publication = trust_server.publish(plan, {order.key_id: order.signer})
    return verified(publication.repository, order, described.digest)


def verified(repository: TrustedRepository, order: Order, digest: Digest) -> SignedImage:
    """What consumers will find, or the error that they will not find *digest* under every tag.

    Raises:
        NotSignedError: A tag is absent from what is released.
        HashMismatchError: A tag is released with another digest.
    """
    signers: list[tuple[str, ...]] = []
    for tag in order.tags:
        meta = released(repository, tag)
        if meta.sha256 != digest.raw:
            raise HashMismatchError(
                f"{repository.gun}:{tag}: expected {digest} to be signed, "
                f"got sha256:{meta.sha256.hex()}",
                hint="Somebody else signed the tag at the same moment",
            )
        signers.append(signers_of(repository, tag, meta))
    root = repository.root.body
    return SignedImage(
        repository=order.repository,
        digest=digest,
        tags=order.tags,
        signers=tuple(name for name in signers[0] if all(name in each for each in signers)),
        root_key_ids=root.roles[ROOT].keyids,
        warnings=tuple(repository.warnings),
    )
