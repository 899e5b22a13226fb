"""What a believed repository says: who may sign which tag, what is released, and by whom.

Pure questions to a `TrustedRepository`; none changes it. The rules are Docker's, except that an
invalid `targets/releases` is an error wherever its content would matter:

1. A role speaks only for target names that its paths, and those of its parents, admit.
2. What consumers get for a tag is the entry of `targets/releases`, else of `targets`.
3. A signer counts for a tag when its own role holds the tag with the same SHA-256 hash.
4. A tag is signed in every direct delegation that admits it and has one of the keys; with the
   repository key in `targets` only while there are no delegations at all.

`docs/protocol.md`, "Who signs what".
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from signimage.errors import NotASignerError, NotSignedError
from signimage.filemeta import FileMeta
from signimage.metadata import RELEASES, TARGETS
from signimage.oci import Digest
from signimage.pinning import either
from signimage.trust import TrustedRepository, canonical_ids


@dataclass(frozen=True, slots=True)
class SignerRole:
    """A delegation as people see it: its name and the canonical IDs of its keys."""

    name: str
    key_ids: tuple[str, ...]

    @property
    def role(self) -> str:
        """The role in which this signer signs alone."""
        return f"{TARGETS}/{self.name}"


def signers(repository: TrustedRepository) -> tuple[SignerRole, ...]:
    """Who may sign: the direct delegations of `targets`, in its order, without `releases`."""
    top = repository.targets()
    return tuple(
        SignerRole(entry.signer, canonical_ids(entry.role, top.delegation_keys))
        for entry in top.children(TARGETS)
        if entry.name != RELEASES
    )


def releasers(repository: TrustedRepository) -> tuple[str, ...]:
    """Canonical IDs of the keys that may sign `targets/releases`; none where nobody may."""
    return canonical_ids(*repository.role_keys(RELEASES)) if _has_releases(repository) else ()


def signing_roles(
    repository: TrustedRepository, tag: str, key_ids: Collection[str]
) -> tuple[str, ...]:
    """The roles that keys with these canonical *key_ids* must publish *tag* to (rule 4).

    Raises:
        NotASignerError: There is no such role.
    """
    top = repository.targets()
    if not top.delegations:
        if not set(key_ids).isdisjoint(canonical_ids(*repository.role_keys(TARGETS))):
            return (TARGETS,)
        raise _not_a_signer(repository, key_ids)
    mine = [
        entry
        for entry in top.children(TARGETS)
        if not set(key_ids).isdisjoint(canonical_ids(entry.role, top.delegation_keys))
    ]
    if not mine:
        raise _not_a_signer(repository, key_ids)
    roles = tuple(entry.name for entry in mine if entry.admits(tag))
    if not roles:
        paths = ", ".join(sorted({path for entry in mine for path in entry.paths or ()}))
        raise NotASignerError(
            f"key {either(key_ids)} may sign in {repository.gun}, but not the tag {tag}; "
            f"its paths are {paths or 'none'}"
        )
    return roles


def released(repository: TrustedRepository, tag: str, *, fall_back: bool = False) -> FileMeta:
    """What a consumer gets for *tag* (rules 1 and 2).

    Args:
        repository: The believed state.
        tag: The target's name.
        fall_back: Look at `targets` alone where `targets/releases` is invalid, as Docker does.
            Whoever can make that role invalid then chooses which of two contents is served.

    Raises:
        TrustError: `targets/releases` exists and is invalid.
        NotSignedError: Neither role has the tag.
    """
    skip = fall_back and repository.rejection(RELEASES) is not None
    for name in (RELEASES, TARGETS) if _has_releases(repository) and not skip else (TARGETS,):
        meta = entry_of(repository, name, tag)
        if meta is not None:
            return meta
    raise NotSignedError(
        f"{repository.gun}:{tag} is not signed: neither {RELEASES} nor {TARGETS} has the tag"
    )


def released_tags(repository: TrustedRepository, digest: Digest) -> tuple[str, ...]:
    """The tags under which a consumer gets *digest*, in alphabetical order.

    Raises:
        TrustError: `targets/releases` exists and is invalid.
    """
    metas = all_released(repository)
    return tuple(sorted(tag for tag, meta in metas.items() if meta.sha256 == digest.raw))


def all_released(repository: TrustedRepository) -> dict[str, FileMeta]:
    """What a consumer gets for each tag (rules 1 and 2).

    Raises:
        TrustError: `targets/releases` exists and is invalid.
    """
    found: dict[str, FileMeta] = {}
    for role in (RELEASES, TARGETS) if _has_releases(repository) else (TARGETS,):
        for tag, meta in repository.targets(role).targets.items():
            if repository.admits(role, tag):
                found.setdefault(tag, meta)
    return found


def signers_of(repository: TrustedRepository, tag: str, meta: FileMeta) -> tuple[str, ...]:
    """Names of the signers who vouch for *tag* with the content *meta* (rule 3)."""
    return tuple(
        signer.name
        for signer in signers(repository)
        if repository.rejection(signer.role) is None
        and is_same(entry_of(repository, signer.role, tag), meta)
    )


def who_signed(
    repository: TrustedRepository, tag: str, meta: FileMeta, names: Collection[str]
) -> str:
    """Who signed *meta*, which is what a consumer gets for *tag*, in words.

    Signers whose roles are invalid count for nothing, and what they released stays valid.
    *names* are those that count, as `signers_of` has them.
    """
    if names:
        return ", ".join(names)
    is_releases = repository.rejection(RELEASES) is None and is_same(
        entry_of(repository, RELEASES, tag), meta
    )
    return f"{RELEASES} alone" if is_releases else "the repository key"


def entry_of(repository: TrustedRepository, role: str, tag: str) -> FileMeta | None:
    """The entry for *tag* in *role*, if that role may hold it (rule 1).

    Raises:
        TrustError: The role is invalid.
    """
    meta = repository.targets(role).targets.get(tag)
    return meta if meta is not None and repository.admits(role, tag) else None


def invalid_roles(repository: TrustedRepository) -> tuple[str, ...]:
    """The delegations that are not believed as they are shown."""
    names = (entry.name for entry in repository.delegations())
    return tuple(name for name in names if repository.rejection(name) is not None)


def _has_releases(repository: TrustedRepository) -> bool:
    return any(entry.name == RELEASES for entry in repository.targets().delegations)


def natural(tag: str) -> list[tuple[int, int, str]]:
    """Sort key that puts v9 before v10 and numbers before words, as Docker does."""
    parts = re.findall(r"[0-9]+|[^0-9]+", tag)
    return [(0, int(part), "") if _is_number(part) else (1, 0, part) for part in parts]


def _is_number(part: str) -> bool:
    # Longer ones are hashes or dates, and Python reads no more than 4300 digits.
    return part.isascii() and part.isdecimal() and len(part) <= 64  # noqa: PLR2004 -- see above


def is_same(one: FileMeta | None, other: FileMeta) -> bool:
    """Whether two entries are there and mean the same content, by its SHA-256 hash (rule 3)."""
    return one is not None and bool(one.sha256) and one.sha256 == other.sha256


def _not_a_signer(repository: TrustedRepository, key_ids: Collection[str]) -> NotASignerError:
    known = ", ".join(f"{each.name} ({either(each.key_ids)})" for each in signers(repository))
    have = f"its signers are {known}" if known else "it has no signers yet"
    gun = repository.gun
    return NotASignerError(
        f"key {either(key_ids)} is not a signer of {gun}; {have}",
        hint=f"Its owner can add the key with: signimage signer add --key FILE.pub NAME {gun}",
    )


def orphans_releases(repository: TrustedRepository) -> bool:
    """Whether the trust server holds releases of signers who were all removed."""
    delegated = {entry.name for entry in repository.targets().delegations}
    return RELEASES in repository.snapshot.body.meta and RELEASES not in delegated
