"""What consumers find: whether tags are signed as they must be, and are what was signed.

Believes nobody and signs nothing: every answer comes from verified trust data.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from signimage.errors import HashMismatchError, NotSignedError
from signimage.lookup import released, signers_of, who_signed
from signimage.metadata import RELEASES, ROOT, TARGETS
from signimage.notary import TrustServer
from signimage.oci import Digest, Repository
from signimage.registry import Registry
from signimage.trust import TrustedRepository


class Progress(Protocol):
    """Where a use case tells what it is doing."""

    def step(self, text: str) -> None:
        """A new part of the work begins."""

    def done(self, text: str) -> None:
        """A part of the work has come to this result."""


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
    signed_by: Mapping[str, str]  # by tag, who signed it in words
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

    @property
    def who(self) -> str:
        """Who signed the tags, in words."""
        if self.signers:
            return ", ".join(self.signers)
        each = set(self.signed_by.values())
        return each.pop() if len(each) == 1 else "different signers"


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
    found = pass_gate(gate, repository)
    for tag, digest in found.digests.items():
        name = f"{gate.repository}:{tag}"
        # Whoever deploys by tag gets what the registry has under it.
        has = registry.resolve(tag).descriptor.digest
        check_digest(f"{name}, as the registry has it", digest, has)
        progress.done(f"{name} is {digest}, signed by {found.signed_by[tag]}")
    return found


def pass_gate(gate: Gate, repository: TrustedRepository) -> SignedTags:
    """Find out by trust data alone whether every tag of *gate* is signed as it must be.

    Raises:
        NotSignedError: A tag is not signed, or not by everybody who must have signed it.
        HashMismatchError: Another digest is signed than must be.
        TrustError: What is released is not to be believed.
    """
    found = verified(repository, gate.repository, gate.tags)
    for tag, digest in found.digests.items():
        name = f"{gate.repository}:{tag}"
        check_digest(f"{name}, as it is signed", gate.digests.get(tag, digest), digest)
        have = signers_of(repository, tag, released(repository, tag))
        if missing := [each for each in gate.signers if each not in have]:
            raise not_signed_by(name, missing, found.signed_by[tag])
    return found


def check_digest(what: str, wanted: Digest, found: Digest) -> None:
    """Refuse a digest that is not the *wanted* one.

    Raises:
        HashMismatchError: It is another.
    """
    if wanted != found:
        raise HashMismatchError(
            f"{what}: expected {wanted}, got {found}",
            hint="Find out who moved the tag; a reference by digest cannot be moved",
        )


def not_signed_by(name: str, missing: Iterable[str], signed_by: str) -> NotSignedError:
    """The error for *name*, which those who are *missing* have not signed."""
    return NotSignedError(
        f"{name} is not signed by {', '.join(missing)}; it is signed by {signed_by}"
    )


def verified(repository: TrustedRepository, name: Repository, tags: tuple[str, ...]) -> SignedTags:
    """What consumers will find under each of *tags*.

    Raises:
        NotSignedError: A tag is absent from what is released.
        TrustError: What is released is not to be believed.
    """
    metas = {tag: released(repository, tag) for tag in tags}
    signers = {tag: signers_of(repository, tag, meta) for tag, meta in metas.items()}
    everywhere = tuple(
        one for one in signers[tags[0]] if all(one in each for each in signers.values())
    )
    root = repository.root.body
    return SignedTags(
        repository=name,
        digests={tag: Digest.of_raw(meta.sha256) for tag, meta in metas.items()},
        signers=everywhere,
        signed_by={
            tag: who_signed(repository, tag, meta, signers[tag]) for tag, meta in metas.items()
        },
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
