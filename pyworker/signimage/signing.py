"""The sentences of the product: what it means to build, push, sign and verify images.

`push_and_sign`, the whole of it:
 1. Preflight: whatever can be known to fail fails here, before anything is built.
 2. Build, or find what was built before.
 3. Push each image once; the registry confirms the digest by handing out bytes that have it.
 4. Point the image's other tags at the same manifest.
 5. Sign all tags in one publication, and find them again in freshly verified trust data.

`sign_pushed` does 1 and 5 for what is in the registry already; `verify` believes nobody and
signs nothing. Nothing is called signed that was not found so in verified trust data. An error
after step 3 says what the registry holds by then.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from signimage.errors import HashMismatchError, NotASignerError, NotSignedError, SignImageError
from signimage.filemeta import FileMeta
from signimage.keys import Signer
from signimage.lookup import released, signers_of, signing_roles
from signimage.metadata import RELEASES, ROOT, TARGETS
from signimage.notary import TrustServer
from signimage.oci import Digest, Manifest, Repository
from signimage.publication import signing_plan
from signimage.registry import Registry
from signimage.trust import TrustedRepository


class Progress(Protocol):
    """Where a use case tells what it is doing."""

    def step(self, text: str) -> None:
        """A new part of the work begins."""

    def done(self, text: str) -> None:
        """A part of the work has come to this result."""


class Source(Protocol):
    """Where images come from: what builds or finds them, and hands them to a registry."""

    @property
    def title(self) -> str:
        """What `images` does, for the log: `Build`, or `Find`."""

    def check(self) -> None:
        """Find out whether the work can begin at all.

        Raises:
            EngineError: The engine does not answer.
        """

    def images(self) -> Mapping[str, str]:
        """Build or find the images; gives the ID of each tag's, `sha256:…`, as the engine has it.

        Raises:
            BuildError: The Dockerfile or its context is at fault.
            InputError: There is no such image.
            EngineError: The engine is at fault.
        """

    def push(self, tag: str) -> Digest:
        """Push the image under *tag*; gives the digest that the engine reports."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be signed, and by whom.

    `digests` says of some tags what they must be; the others are what they are found to be.
    """

    repository: Repository
    tags: tuple[str, ...]
    signer: Signer
    digests: Mapping[str, Digest] = field(default_factory=dict)

    @property
    def key_id(self) -> str:
        """The canonical ID of the signing key."""
        return self.signer.public_key.canonical_id


@dataclass(frozen=True, slots=True)
class Gate:
    """What must be signed, and by whom, before something may pass."""

    repository: Repository
    tags: tuple[str, ...]
    digests: Mapping[str, Digest] = field(default_factory=dict)
    signers: tuple[str, ...] = ()  # each of them must have signed each tag


@dataclass(frozen=True, slots=True)
class SignedTags:
    """Tags that were found signed in freshly verified trust data."""

    repository: Repository
    digests: Mapping[str, Digest]  # by tag
    signers: tuple[str, ...]  # those who signed every one of the tags
    root_key_ids: tuple[str, ...]  # TUF key IDs, as pins name them
    expires: datetime  # when the first of root, targets and the signers' roles has to be renewed
    warnings: tuple[str, ...]

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags, in the order in which they were asked for."""
        return tuple(self.digests)

    @property
    def images(self) -> tuple[Digest, ...]:
        """The digests, each once."""
        return tuple(dict.fromkeys(self.digests.values()))

    @property
    def references(self) -> tuple[str, ...]:
        """`repository:tag@digest` for every tag."""
        return tuple(f"{self.repository}:{tag}@{self.digests[tag]}" for tag in self.digests)


def push_and_sign(
    order: Order,
    source: Source,
    registry: Registry,
    trust_server: TrustServer,
    progress: Progress,
) -> SignedTags:
    """Push what *source* has under every tag of *order*, and sign all of them.

    Raises:
        SignImageError: Nothing was called signed; `state` says what was pushed, if anything.
    """
    progress.step("Preflight")
    source.check()
    registry.check_push()
    progress.done(f"The registry lets us push to {order.repository}")
    preflight(order, trust_server, progress)
    progress.step(source.title)
    images = source.images()
    progress.step("Push")
    manifests = push(order.repository, source, images, registry, progress)
    progress.step("Sign")
    try:
        return sign(order, manifests, trust_server, progress)
    except SignImageError as error:
        pushed = f"{order.repository} has the tags {', '.join(order.tags)}"
        error.state = f"{pushed}. {error.state}" if error.state else f"{pushed} UNSIGNED"
        raise


def sign_pushed(
    order: Order, registry: Registry, trust_server: TrustServer, progress: Progress
) -> SignedTags:
    """Sign what the registry has under every tag of *order*.

    Raises:
        NotFoundError: The registry does not have a tag.
        HashMismatchError: A tag is not what the order says that it must be.
        SignImageError: Nothing was called signed.
    """
    progress.step("Preflight")
    preflight(order, trust_server, progress)
    manifests = {tag: registry.resolve(tag) for tag in order.tags}
    for tag, manifest in manifests.items():
        found = manifest.descriptor.digest
        _check_digest(f"{order.repository}:{tag}", order.digests.get(tag, found), found)
        progress.done(f"{order.repository}:{tag} is {found}")
    progress.step("Sign")
    try:
        return sign(order, manifests, trust_server, progress)
    except SignImageError as error:
        error.state = error.state or "The registry was not changed, and nothing was signed by us"
        raise


def verify(
    gate: Gate, registry: Registry, trust_server: TrustServer, progress: Progress
) -> SignedTags:
    """Find out whether every tag of *gate* is signed as it must be, and is what was signed.

    Raises:
        NotSignedError: A tag is not signed, or not by everybody who must have signed it.
        HashMismatchError: Another digest is signed than must be, or than the registry has.
        TrustError: The trust data is not to be believed.
        RemoteError: It could not be found out.
    """
    progress.step("Verify")
    repository = trust_server.refresh()
    found = verified(repository, gate.repository, gate.tags)
    for tag, digest in found.digests.items():
        name = f"{gate.repository}:{tag}"
        _check_digest(f"{name}, as it is signed", gate.digests.get(tag, digest), digest)
        signers = signers_of(repository, tag, released(repository, tag))
        _check_signers(name, gate.signers, signers)
        # Whoever deploys by tag gets what the registry has under it.
        has = registry.resolve(tag).descriptor.digest
        _check_digest(f"{name}, as the registry has it", digest, has)
        progress.done(f"{name} is {digest}, signed by {', '.join(signers) or 'the repository key'}")
    return found


def _check_digest(what: str, wanted: Digest, found: Digest) -> None:
    if wanted != found:
        raise HashMismatchError(
            f"{what}: expected {wanted}, got {found}",
            hint="Find out who moved the tag; a reference by digest cannot be moved",
        )


def _check_signers(name: str, wanted: tuple[str, ...], found: tuple[str, ...]) -> None:
    missing = [each for each in wanted if each not in found]
    if missing:
        raise NotSignedError(
            f"{name} is not signed by {', '.join(missing)}; it is signed by "
            f"{', '.join(found) or 'the repository key alone'}"
        )


def preflight(order: Order, trust_server: TrustServer, progress: Progress) -> None:
    """Refuse an *order* whose signature is bound to fail.

    Raises:
        NotASignerError: The key may not sign one of the tags, or not release it.
        NotInitializedError: The repository has no trust data.
        TrustError: Its trust data breaks a rule, or a role that we must sign is invalid.
        RemoteError: The trust server refuses us or cannot be reached.
    """
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
    repository: Repository,
    source: Source,
    images: Mapping[str, str],
    registry: Registry,
    progress: Progress,
) -> dict[str, Manifest]:
    """Push each image, and name it with all of its tags; gives what the registry confirmed.

    Raises:
        HashMismatchError: Another image was pushed than was built: on an agent with several
            jobs, a tag can be moved between building and pushing.
        RemoteError: Engine or registry failed.
    """
    manifests: dict[str, Manifest] = {}
    by_image: dict[str, Manifest] = {}
    begun: list[str] = []
    try:
        for tag, image_id in images.items():
            if image_id in by_image:
                registry.put_manifest(tag, by_image[image_id])
                begun.append(tag)
            else:
                reported = source.push(tag)
                begun.append(tag)
                by_image[image_id] = registry.resolve(reported)
                by_image[image_id].check_image(image_id)
            manifests[tag] = by_image[image_id]
    except SignImageError as error:
        if begun:
            error.state = f"{repository} has the tags {', '.join(begun)} UNSIGNED"
        raise
    for image_id, manifest in by_image.items():
        tags = ", ".join(tag for tag in images if images[tag] == image_id)
        progress.done(f"{repository} has {manifest.descriptor.digest} as {tags}")
    return manifests


def sign(
    order: Order, manifests: Mapping[str, Manifest], trust_server: TrustServer, progress: Progress
) -> SignedTags:
    """Sign the manifest of each tag, in one publication, and verify the result.

    Raises:
        NotSignedError: The publication went through, yet a tag is not what we signed.
        SignImageError: The publication did not go through.
    """
    wanted = {tag: _target(manifest) for tag, manifest in manifests.items()}
    plan = signing_plan(wanted, [order.key_id])
    publication = trust_server.publish(plan, {order.key_id: order.signer})
    found = verified(publication.repository, order.repository, tuple(wanted))
    for tag, manifest in manifests.items():
        if found.digests[tag] != manifest.descriptor.digest:
            raise HashMismatchError(
                f"{found.repository}:{tag}: expected {manifest.descriptor.digest} to be signed, "
                f"got {found.digests[tag]}",
                hint="Somebody else signed the tag at the same moment",
            )
    progress.done(f"{found.repository}: {', '.join(found.tags)} signed and verified")
    return found


def _target(manifest: Manifest) -> FileMeta:
    """As Docker writes targets: SHA-256 only, and the length of the manifest in bytes."""
    described = manifest.descriptor
    return FileMeta(described.size, {"sha256": described.digest.raw})


def verified(repository: TrustedRepository, name: Repository, tags: tuple[str, ...]) -> SignedTags:
    """What consumers will find under each of *tags*.

    Raises:
        NotSignedError: A tag is absent from what is released.
        TrustError: What is released is not to be believed.
    """
    metas = {tag: released(repository, tag) for tag in tags}
    signers = [signers_of(repository, tag, meta) for tag, meta in metas.items()]
    everywhere = tuple(one for one in signers[0] if all(one in each for each in signers))
    root = repository.root.body
    return SignedTags(
        repository=name,
        digests={tag: Digest.of_raw(meta.sha256) for tag, meta in metas.items()},
        signers=everywhere,
        root_key_ids=root.roles[ROOT].keyids,
        expires=min(_ends(repository, everywhere)),
        warnings=tuple(repository.warnings),
    )


def _ends(repository: TrustedRepository, signers: tuple[str, ...]) -> Iterator[datetime]:
    """When what the signers' owners must renew expires; the server renews the rest by itself."""
    yield repository.root.body.expires.moment
    for role in (TARGETS, RELEASES, *(f"{TARGETS}/{name}" for name in signers)):
        content = repository.targets(role)
        if content.version:
            yield content.expires.moment
