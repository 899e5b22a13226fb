"""Releases: what consumers get for a tag; signed by whom, let through a gate, or taken back.

A gate that can also ask the registry is `verification.verify`; this file is for machines that
cannot, for references by digest, which no registry can bend, and for revocation.

`docs/rotation-and-revocation.md`, "Revoking"; `docs/protocol.md`, "Who signs what".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from signimage.administration import held_keys
from signimage.errors import InputError, NotASignerError, NotSignedError
from signimage.keys import Signer
from signimage.keystore import KeyStore, Passphrases
from signimage.lookup import (
    released,
    released_tags,
    signers,
    signers_of,
    signing_roles,
    who_signed,
)
from signimage.metadata import RELEASES, SNAPSHOT, TARGETS
from signimage.notary import TrustServer
from signimage.oci import Digest, Repository
from signimage.pinning import either
from signimage.publication import Changes, Plan, revocation_plan, whole_revocation_plan
from signimage.publisher import Publication
from signimage.trust import TrustedRepository, canonical_ids
from signimage.verification import Gate, check_digest, not_signed_by


@dataclass(frozen=True, slots=True)
class Revocation:
    """Tags that consumers get no more.

    Attributes:
        repository: What is believed now.
        tags: What was taken back, in alphabetical order.
        left: The signers in whose own roles some of the tags still are.
    """

    repository: TrustedRepository
    tags: tuple[str, ...]
    left: tuple[str, ...] = ()


def gate_for(
    name: Repository, digest: Digest, needed: tuple[str, ...], repository: TrustedRepository
) -> Gate:
    """The gate that *digest* has to pass: the tags under which it is released and signed by all.

    Raises:
        NotSignedError: There is no such tag.
        TrustError: What is released is not to be believed.
    """
    tags = released_tags(repository, digest)
    have = {tag: signers_of(repository, tag, released(repository, tag)) for tag in tags}
    if not tags:
        raise NotSignedError(f"{name}@{digest} is not signed: it is released under no tag")
    passing = tuple(tag for tag in tags if set(needed) <= set(have[tag]))
    if not passing:
        everyone = sorted({each for some in have.values() for each in some})
        missing = [each for each in needed if each not in everyone] or needed
        signed_by = who_signed(repository, tags[0], released(repository, tags[0]), everyone)
        raise not_signed_by(f"{name}@{digest}", missing, signed_by)
    return Gate(name, passing, dict.fromkeys(passing, digest), needed)


def signing_key(repository: TrustedRepository, store: KeyStore, name: str = "") -> str:
    """The canonical ID of the one key in *store* that may sign tags of *repository*.

    Args:
        repository: The believed state.
        store: Where to look.
        name: The signer whose key it must be; "" for whichever it is.

    Raises:
        NotASignerError: There is none.
        InputError: There are several, of different signers.
    """
    able = {signer.name: signer.key_ids for signer in signers(repository)}
    if not repository.targets().delegations:
        able[TARGETS] = canonical_ids(*repository.role_keys(TARGETS))
    wanted = {each: ids for each, ids in able.items() if name in ("", each)}
    # Of several keys of one signer the newest: older ones are about to be replaced.
    held = {each: [key_id for key_id in ids if store.find(key_id)][-1:]
            for each, ids in wanted.items()}  # fmt: skip
    found = {ids[0]: each for each, ids in held.items() if ids}
    if not found:
        known = ", ".join(f"{each} ({either(ids)})" for each, ids in able.items())
        raise NotASignerError(
            f"no key in {store.private} may sign in {repository.gun}"
            f"{f' as {name}' if name else ''}; its signers are {known or 'none'}",
            hint="Its owner can add a key with: signimage signer add --key FILE.pub NAME "
            f"{repository.gun}",
        )
    if len(found) > 1:
        raise InputError(
            f"{store.private} has the keys of several signers of {repository.gun}: "
            f"{', '.join(found.values())}",
            hint="Say as whom to sign with --as",
        )
    return next(iter(found))


def shared_roles(
    repository: TrustedRepository, store: KeyStore, tags: Iterable[str], key_id: str
) -> tuple[str, ...]:
    """The roles of *tags* in which one key is not enough, and of which *store* has enough."""

    def is_shared(name: str) -> bool:
        role, _ = repository.role_keys(name)
        return 1 < role.threshold <= len(held_keys(repository, store, name))

    names = (name for tag in tags for name in signing_roles(repository, tag, [key_id]))
    return tuple(filter(is_shared, dict.fromkeys(names)))


@dataclass(slots=True)
class KeyedServer(TrustServer):
    """A trust server with keys that sign whatever is published, such as a snapshot's at home."""

    more: Mapping[str, Signer] = field(default_factory=dict)

    @classmethod
    def beside(cls, server: TrustServer, more: Mapping[str, Signer]) -> "KeyedServer":
        """The same repository on the same *server*, with the keys *more* by canonical ID."""
        return cls(server.api, server.pins, server.cache, server.clock, more=more)

    def publish(self, plan: Plan, signers: Mapping[str, Signer]) -> Publication:
        """Publish as any trust server does, with more keys at hand."""
        return TrustServer.publish(self, plan, {**self.more, **signers})


def revoke(
    server: TrustServer,
    store: KeyStore,
    passphrases: Passphrases,
    tag: str,
    *,
    digest: Digest | None = None,
    partial: bool = False,
) -> Revocation:
    """Take *tag* out of every role that holds it.

    Args:
        server: The repository.
        store: Holds keys of those roles.
        passphrases: For the keys.
        tag: The tag.
        digest: Only if this is what consumers get for it; anything else is an error.
        partial: Leave it in roles of signers whose keys are not in *store*.

    Raises:
        NotSignedError: No role holds the tag.
        HashMismatchError: Another digest than *digest* is released.
        NotASignerError: A key is missing, and nothing was changed.
        SignImageError: The change could not be published.
    """
    before = server.refresh()
    held = [role for role in _roles(before) if tag in before.targets(role).targets]
    if not held:
        raise NotSignedError(f"{server.gun}:{tag} is not signed: no role has the tag")
    keys = _keys(before, store, held)
    plan = revocation_plan([tag], keys, partial=partial)
    if digest is not None:
        plan = _only_if(tag, digest, plan)
    at_hand = {key_id: store.load(key_id, passphrases) for key_id in keys}
    after = server.publish(plan, at_hand).repository
    return Revocation(after, (tag,), _still_vouching(after, [tag]))


def revoke_all(
    server: TrustServer, store: KeyStore, passphrases: Passphrases, *, partial: bool = False
) -> Revocation:
    """Take all tags out of every role, on the terms of `revoke`."""
    before = server.refresh()
    held = [role for role in _roles(before) if before.targets(role).targets]
    tags = sorted({tag for role in held for tag in before.targets(role).targets})
    keys = _keys(before, store, held)
    at_hand = {key_id: store.load(key_id, passphrases) for key_id in keys}
    after = server.publish(whole_revocation_plan(keys, partial=partial), at_hand).repository
    return Revocation(after, tuple(tags), _still_vouching(after, tags))


def _roles(repository: TrustedRepository) -> tuple[str, ...]:
    return (TARGETS, *(entry.name for entry in repository.targets().children(TARGETS)))


def _keys(repository: TrustedRepository, store: KeyStore, roles: Iterable[str]) -> list[str]:
    """The canonical IDs of as many keys as *roles* and the snapshot need, if *store* has them."""
    found = []
    for name in (*roles, SNAPSHOT):
        role, _ = repository.role_keys(name)
        found += held_keys(repository, store, name)[: role.threshold]
    return list(dict.fromkeys(found))


def _only_if(tag: str, digest: Digest, plan: Plan) -> Plan:
    def guarded(repository: TrustedRepository) -> Changes:
        changes = plan(repository)
        if changes:
            found = Digest.of_raw(released(repository, tag).sha256)
            check_digest(f"{repository.gun}:{tag}, as it is signed", digest, found)
        return changes

    return guarded


def _still_vouching(repository: TrustedRepository, tags: Iterable[str]) -> tuple[str, ...]:
    wanted = set(tags)
    return tuple(
        signer.name
        for signer in signers(repository)
        if signer.role != RELEASES
        and repository.rejection(signer.role) is None
        and not wanted.isdisjoint(repository.targets(signer.role).targets)
    )
