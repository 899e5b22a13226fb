"""The sentences of the product: what it means to build, push and sign images.

`push_and_sign`, the whole of it:
 1. Preflight: whatever can be known to fail fails here, before anything is built.
 2. Prepare the images: build them, or find or read what was built before.
 3. Bring them into the registry, which confirms each digest by handing out bytes that have it.
    No tag moves, unless the engine can push in no other way: then one for each image.
 4. Sign all tags in one publication, and find them again in freshly verified trust data.
 5. Only now move the tags, all of them, and look again at what is signed, after every move: of
    those who push one tag at once, the registry shows what the last one signed, and others fail.
    A tag that is something else all the same is moved again; one that stays so is an error.

If 4 fails, the tags that had to move in 3 go back to what they were; where that cannot be, or
where it is not known whether the signature arrived, the error says so, tag by tag.

`sign_pushed` does 1 and 4 for what is in the registry already. Nothing is called signed that was
not found so in verified trust data.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from signimage.cancellation import Canceled
from signimage.errors import (
    FormatError,
    HashMismatchError,
    InputError,
    NotASignerError,
    NotSignedError,
    RemoteError,
    SignImageError,
    UnavailableError,
    UnreachableError,
)
from signimage.filemeta import FileMeta
from signimage.keys import Signer
from signimage.lookup import signing_roles
from signimage.metadata import RELEASES, TARGETS
from signimage.notary import TrustServer
from signimage.oci import MAX_DEPTH, Digest, Manifest, Repository
from signimage.parallel import all_of, begin, results
from signimage.publication import signing_plan
from signimage.registry import PARALLEL, Registry
from signimage.tags import move_tags, restore, strayed
from signimage.trust import TrustedRepository
from signimage.verification import Progress, SignedTags, check_digest, verified

_MAY_SIGN = "Key {} may sign {}"

# A refusal is told although another server does not answer; of two at once, always the same one.
# Where one cannot be reached, the other's answer may say more.
_GRACE_S, _AWAY = 2.0, (UnavailableError, UnreachableError)
_MOVES = 8  # of a tag that does not stay where it was put; registries far away may show it late
_STRAY_S = 0.05  # before the second of them; twice as long before each further one
_LOOKS = 10  # at what a rival stores; each takes longer than it takes to store a manifest


class Source(Protocol):
    """Where images come from: what makes or finds them, and brings them into a registry."""

    @property
    def title(self) -> str:
        """What `prepare` does, for the log: `Build`, `Find` or `Read`."""

    def check(self) -> None:
        """Find out whether the work can begin at all.

        Raises:
            EngineError: The engine does not answer.
            InputError: What is asked for cannot be done with it.
        """

    @property
    def why_early(self) -> str:
        """Why tags move before they are signed; empty where they do not. After `check`."""

    def prepare(self) -> None:
        """Build, find or read the images.

        Raises:
            BuildError: The Dockerfile or its context is at fault.
            InputError: There is no such image.
            EngineError: The engine is at fault.
        """

    @property
    def early_tags(self) -> tuple[str, ...]:
        """The tags that `deliver` moves. After `prepare`."""

    def deliver(self, registry: Registry) -> Mapping[str, Manifest]:
        """Bring the images into the registry; gives, for each tag, what the registry confirmed.

        Raises:
            HashMismatchError: Something else was pushed than was built.
            RemoteError: Engine or registry failed.
        """

    def recognises(self, tag: str, manifest: Manifest) -> bool:
        """Tell whether *manifest* is what `deliver` may have put under one of the early tags."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be signed, and by whom.

    Attributes:
        repository: Where it is.
        tags: What it is called there; all are signed.
        signer: Makes the signature.
        digests: What some of the tags must be; the others are what they are found to be.
        is_recursive: Whether the manifests below an index are signed, too.
        needs_signature_first: Whether no tag may move before it is signed.
    """

    repository: Repository
    tags: tuple[str, ...]
    signer: Signer
    digests: Mapping[str, Digest] = field(default_factory=dict)
    is_recursive: bool = False
    needs_signature_first: bool = False

    @property
    def key_id(self) -> str:
        """The canonical ID of the signing key."""
        return self.signer.public_key.canonical_id


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
    questions: dict[str, Callable[[], None]] = {
        "registry": registry.check_push,
        "trust server": partial(preflight, order, trust_server),
    }
    answers = begin(questions, at_once=len(questions), grace_s=_GRACE_S, unless=_AWAY)
    source.check()
    if order.needs_signature_first and source.why_early:
        raise InputError(
            f"signBeforeTag: tags cannot be signed before they move: {source.why_early}",
            hint="Use a BuildKit builder that pushes by digest, or the command push with an "
            "imageArchive",
        )
    all_of(answers())
    progress.done(f"The registry lets us push to {order.repository}")
    progress.done(_MAY_SIGN.format(order.key_id, ", ".join(order.tags)))
    progress.step(source.title)
    source.prepare()
    progress.step("Push")
    early = _EarlyTags(order.repository, registry, source)
    manifests = early.delivered()
    for digest, tags in _by_digest(manifests).items():
        progress.done(f"{order.repository} has {digest}, to be {', '.join(tags)}")
    try:
        progress.step("Sign")
        sign(order, manifests, registry, trust_server, progress)
    except Canceled as canceled:
        canceled.state = early.when_canceled()
        raise
    except SignImageError as error:
        error.state = f"{early.after(error)}. {error.state}".removesuffix(". ")
        raise
    progress.step("Tag")
    return _tagged(order, manifests, registry, trust_server, progress)


def _by_digest(manifests: Mapping[str, Manifest]) -> dict[Digest, list[str]]:
    found: dict[Digest, list[str]] = {}
    for tag, manifest in manifests.items():
        found.setdefault(manifest.descriptor.digest, []).append(tag)
    return found


class _EarlyTags:
    """The tags that had to move before they were signed, and what they were before."""

    def __init__(self, repository: Repository, registry: Registry, source: Source) -> None:
        self._repository = repository
        self._registry = registry
        self._source = source
        self._before = {tag: registry.find(tag) for tag in source.early_tags}
        self._now: dict[str, Digest] = {}

    def delivered(self) -> Mapping[str, Manifest]:
        """What the source brings into the registry; if it fails, everything is put back.

        Raises:
            SignImageError: It failed.
        """
        try:
            manifests = self._source.deliver(self._registry)
        except (Canceled, SignImageError) as ending:
            ending.state = self._given_up()
            raise
        self._now = {tag: manifests[tag].descriptor.digest for tag in self._before}
        return manifests

    def after(self, error: SignImageError) -> str:
        """Put the tags back unless the signature may have arrived; tells how it ended."""
        if not self._before:
            return "No tag was moved"
        if error.state:  # in doubt: what the tags were may not be signed any more
            return f"{self._repository} has the tags {', '.join(self._before)}"
        try:
            return self._put_back()
        except SignImageError:
            return self._unsigned(tuple(self._before), "has")

    def when_canceled(self) -> str:
        """Tell which tags a cancel leaves as they are, as a signature may have arrived."""
        if not self._before:
            return ""
        tags = ", ".join(self._before)
        return f"{self._repository} has the tags {tags}, UNSIGNED unless that arrived already"

    def _given_up(self) -> str:
        try:
            return self._put_back_what_moved()
        except SignImageError:
            return self._unsigned(tuple(self._before), "may have")

    def _put_back_what_moved(self) -> str:
        for tag, before in self._before.items():
            found = self._registry.find(tag)
            if found != before and found is not None and self._source.recognises(tag, found):
                self._now[tag] = found.descriptor.digest
        return self._put_back() if self._now else ""

    def _put_back(self) -> str:
        before = {tag: self._before[tag] for tag in self._now}
        left = restore(self._registry, before, self._now)
        back = [tag for tag in before if tag not in left]
        states = [self._unsigned(left, "has")] if left else []
        if back:
            states.append(f"The tags {', '.join(back)} are again what they were before")
        return ". ".join(states)

    def _unsigned(self, tags: tuple[str, ...], has: str) -> str:
        return f"{self._repository} {has} the tags {', '.join(tags)} UNSIGNED"


def _tagged(
    order: Order,
    manifests: Mapping[str, Manifest],
    registry: Registry,
    trust_server: TrustServer,
    progress: Progress,
) -> SignedTags:
    """Move the tags to what was signed; whoever signed last has the last word.

    Each move is followed by a look. So whoever moves a tag last has seen what was signed last, or
    will be followed by whoever signed it: however many there are, all agree in the end.
    """
    names = f"{', '.join(manifests)} of {order.repository}"
    state = f"{names} are signed"

    def look() -> SignedTags:
        return verified(trust_server.refresh(), order.repository, tuple(manifests))

    wanted, moving, moves = dict(manifests), dict(manifests), 0
    try:
        while moving:
            move_tags(registry, moving)
            state = f"{names} were signed and moved"
            wanted |= moving
            found = look()
            moving = _overtaking(found, wanted, registry)
            if not moving and (astray := strayed(registry, wanted)):
                found = look()  # somebody else moved them, who may have signed before
                moving = _overtaking(found, wanted, registry)
                if not moving:
                    moving, moves = astray, moves + 1
                    _wait_for_tags(order.repository, moving, moves)
    except NotSignedError as error:
        error.state = f"{state}; somebody took a signature back since"
        raise
    except SignImageError as error:
        error.state = f"{state}. {error.state}".removesuffix(". ")
        raise
    for tag, manifest in manifests.items():
        if found.digests[tag] != manifest.descriptor.digest:
            name = f"{order.repository}:{tag}"
            raise _overtaken(name, manifest.descriptor.digest, found.digests[tag])
    progress.done(f"{order.repository} has the tags {', '.join(manifests)}")
    return found


def _overtaking(
    found: SignedTags, wanted: Mapping[str, Manifest], registry: Registry
) -> dict[str, Manifest]:
    """What somebody else signed since, by tag."""
    return {
        tag: _stored(registry, digest)
        for tag, digest in found.digests.items()
        if digest != wanted[tag].descriptor.digest
    }


def _wait_for_tags(repository: Repository, astray: Mapping[str, Manifest], moves: int) -> None:
    """Give a registry time that shows tags late, and rivals time to follow; but not for ever.

    Raises:
        RemoteError: The tags still are not what they were moved to.
    """
    if moves == _MOVES:
        tags = ", ".join(astray)
        raise RemoteError(
            f"registry {repository.host}: expected {tags} of {repository} to be what they were "
            f"moved to {moves} times, got something else",
            hint="Find out who else moves them without signing, or why the registry does not",
        )
    time.sleep(_STRAY_S * 2 ** (moves - 1))


def _stored(registry: Registry, digest: Digest) -> Manifest:
    """What somebody else signed, and stores under our tag just now.

    Distribution up to 2.8 answers 500 to whoever reads it in that very moment.
    """
    for _ in range(_LOOKS - 1):
        with suppress(UnavailableError):
            return registry.resolve(digest)
    return registry.resolve(digest)


def _overtaken(name: str, ours: Digest, theirs: Digest) -> HashMismatchError:
    error = HashMismatchError(
        f"{name}: expected {ours} to be signed, got {theirs}",
        hint="Let one job alone push a tag, or run the step again to have the last word",
    )
    error.state = "Somebody else signed it a moment later, and the registry has what they signed"
    return error


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
    check_signer(order, trust_server)
    progress.done(_MAY_SIGN.format(order.key_id, ", ".join(order.tags)))
    calls = {tag: partial(registry.resolve, tag) for tag in order.tags}
    manifests = results(calls, at_once=PARALLEL)
    for tag, manifest in manifests.items():
        found = manifest.descriptor.digest
        check_digest(f"{order.repository}:{tag}", order.digests.get(tag, found), found)
        progress.done(f"{order.repository}:{tag} is {found}")
    progress.step("Sign")
    try:
        return sign(order, manifests, registry, trust_server, progress)
    except SignImageError as error:
        error.state = error.state or "The registry was not changed, and nothing was signed by us"
        raise


def preflight(order: Order, trust_server: TrustServer) -> None:
    """Refuse an *order* whose signature is bound to fail, before the registry is changed.

    Raises:
        NotASignerError: As `check_signer`.
        RemoteError: The trust server does not let us publish.
    """
    check_signer(order, trust_server)
    trust_server.check_write()


def check_signer(order: Order, trust_server: TrustServer) -> None:
    """Refuse an *order* of a key that may not sign what is asked for.

    Raises:
        NotASignerError: The key may not sign one of the tags, or not release it.
        NotInitializedError: The repository has no trust data.
        TrustError: Its trust data breaks a rule, or a role that we must sign is invalid.
        RemoteError: The trust server refuses us or cannot be reached.
    """
    repository = trust_server.refresh()
    for tag in order.tags:
        check_may_sign(repository, tag, order.key_id)


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


def sign(
    order: Order,
    manifests: Mapping[str, Manifest],
    registry: Registry,
    trust_server: TrustServer,
    progress: Progress,
) -> SignedTags:
    """Sign the manifest of each tag, in one publication, and verify the result.

    Raises:
        NotSignedError: The publication went through, yet a tag is not released.
        HashMismatchError: It went through, yet a tag is not what we signed.
        SignImageError: The publication did not go through.
    """
    named = dict(manifests)
    if order.is_recursive:
        for manifest in manifests.values():
            named |= _platforms(manifest, registry)
    wanted = {name: _target(manifest) for name, manifest in named.items()}
    plan = signing_plan(wanted, [order.key_id])
    publication = trust_server.publish(plan, {order.key_id: order.signer})
    everything = verified(publication.repository, order.repository, tuple(wanted))
    for name, manifest in named.items():
        if everything.digests[name] != manifest.descriptor.digest:
            raise HashMismatchError(
                f"{order.repository}:{name}: expected {manifest.descriptor.digest} to be signed, "
                f"got {everything.digests[name]}"
            )
    progress.done(f"{order.repository}: {', '.join(wanted)} signed and verified")
    return verified(publication.repository, order.repository, tuple(manifests))


def _platforms(index: Manifest, registry: Registry) -> dict[str, Manifest]:
    """The manifests below an index, however deep, by the names that they are signed under.

    Attestations are no images, and are covered by the signature of the index.

    Raises:
        FormatError: There are more indexes in each other than a layout may have.
    """
    found: dict[str, Manifest] = {}
    level = [index]
    for _ in range(MAX_DEPTH):
        below = [child.digest for each in level for child in each.children() if child.is_image]
        new = {each.tag: each for each in below if each.tag not in found}
        level = [registry.resolve(each) for each in new.values()]
        found |= zip(new, level, strict=True)
    if any(each.children() for each in level):
        raise FormatError(
            f"index {index.descriptor.digest}: expected at most {MAX_DEPTH} indexes in each other"
        )
    return found


def _target(manifest: Manifest) -> FileMeta:
    """As Docker writes targets: SHA-256 only, and the length of the manifest in bytes."""
    described = manifest.descriptor
    return FileMeta(described.size, {"sha256": described.digest.raw})
