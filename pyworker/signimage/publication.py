"""What to publish: plans over a believed state, and the signed files that carry them out.

A *plan* looks at a repository and says which roles must change, and to what. It is a pure
function, asked again after every conflict, and it is satisfied when it has nothing to say: the
same question that starts a publication proves it. Intents live in memory only.

`docs/protocol.md`, "Publishing".
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum

from signimage.errors import (
    ConflictError,
    FormatError,
    InputError,
    NotASignerError,
    NotSignedError,
    ThresholdError,
)
from signimage.filemeta import Expiry, FileMeta
from signimage.keys import PublicKey, Signer, signature
from signimage.lookup import released, signing_roles
from signimage.metadata import (
    LIFETIMES,
    RELEASES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    Body,
    Role,
    Root,
    Signed,
    Snapshot,
    Targets,
    envelope,
    payload,
)
from signimage.oci import Digest
from signimage.trust import TrustedRepository, canonical_ids, check_threshold

_SIGNER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,200}")

# For each role to change, its new content; version and expiry are given when it is signed.
Changes = Mapping[str, Root | Targets]
Plan = Callable[[TrustedRepository], Changes]


class Recovery(Enum):
    """What to do with a role that is to be signed and is not valid."""

    REFUSE = "refuse"  # let its error end the operation
    RESIGN = "resign"  # keep its content if it has only expired: its signers did sign it
    DROP = "drop"  # go on without its content


def signing_plan(
    tags: Mapping[str, FileMeta],
    key_ids: Sequence[str],
    *,
    expected: Mapping[str, Digest | None] | None = None,
    recovery: Recovery = Recovery.REFUSE,
) -> Plan:
    """Sign each of *tags*, in every role that keys with these canonical *key_ids* may sign for.

    Args:
        tags: What each tag is to be.
        key_ids: Of the keys at hand.
        expected: For tags that may only replace a certain content: what must be released for
            them until now; None for a tag that must not be released yet. The plan raises
            `ConflictError` where something else is, unless it is what we want.
        recovery: What to do where a role is invalid.

    The plan raises `NotASignerError` where the keys may not sign a tag.
    """

    def plan(repository: TrustedRepository) -> Changes:
        wanted: dict[str, dict[str, FileMeta]] = {}
        base: dict[str, Targets] = {}
        for tag, meta in tags.items():
            for role in signing_roles(repository, tag, key_ids):
                if role not in base:
                    base[role] = continued(repository, role, recovery)
                if base[role].targets.get(tag) != meta or repository.rejection(role):
                    wanted.setdefault(role, {})[tag] = meta
        if wanted and expected:
            for tag in expected:
                _check_expected(repository, tag, tags[tag], expected[tag])
        return {role: base[role].with_targets(entries) for role, entries in wanted.items()}

    return plan


def revocation_plan(
    tags: Collection[str], key_ids: Collection[str], *, partial: bool = False
) -> Plan:
    """Take *tags* out of every role that holds them, so that nobody vouches for them any more.

    Args:
        tags: Those that no role holds are passed over.
        key_ids: Canonical IDs of the keys at hand.
        partial: Leave them in roles of signers whose keys are not at hand; consumers, who look
            at what is released, get them no more.

    The plan raises `NotASignerError` where a role holds one of them and no key of it is at hand:
    somebody would still vouch for what is called revoked.
    """
    return lambda repository: _without_tags(
        repository, lambda tag: tag in tags, key_ids, partial=partial
    )


def whole_revocation_plan(key_ids: Collection[str], *, partial: bool = False) -> Plan:
    """Take all tags out of every role, on the terms of `revocation_plan`."""
    return lambda repository: _without_tags(repository, lambda _tag: True, key_ids, partial=partial)


def _without_tags(
    repository: TrustedRepository,
    is_revoked: Callable[[str], bool],
    key_ids: Collection[str],
    *,
    partial: bool,
) -> Changes:
    changes: dict[str, Root | Targets] = {}
    missing = []
    for role in (TARGETS, *(entry.name for entry in repository.targets().children(TARGETS))):
        old = repository.targets(role)
        kept = {tag: meta for tag, meta in old.targets.items() if not is_revoked(tag)}
        if len(kept) == len(old.targets):
            continue
        if not set(key_ids).isdisjoint(canonical_ids(*repository.role_keys(role))):
            changes[role] = replace(old, targets=kept)
        elif not partial or role in (TARGETS, RELEASES):
            missing.append(role)
    if missing:
        raise NotASignerError(
            f"{repository.gun}: no key at hand may take tags out of {', '.join(missing)}",
            hint="Nothing was changed. Revoke them where the keys of all these roles are"
            + ("" if {TARGETS, RELEASES} & set(missing) else ", or with --partial elsewhere first"),
        )
    return changes


def continued(repository: TrustedRepository, role: str, recovery: Recovery) -> Targets:
    """The content that a new version of *role* builds on.

    Raises:
        TrustError: The role is invalid, and *recovery* does not apply.
    """
    rejection = repository.rejection(role)
    if rejection is None or recovery is Recovery.REFUSE:
        return repository.targets(role)
    if rejection.expired is not None and recovery is Recovery.RESIGN:
        return rejection.expired
    if recovery is Recovery.DROP:
        return replace(Targets.empty(), version=rejection.version)
    raise rejection.error


def witness_plan(roles: Sequence[str], recovery: Recovery = Recovery.RESIGN) -> Plan:
    """Sign *roles* that are invalid again; valid ones are left alone."""

    def plan(repository: TrustedRepository) -> Changes:
        return {
            role: continued(repository, role, recovery)
            for role in roles
            if repository.rejection(role) is not None or _has_expired(repository, role)
        }

    return plan


def _has_expired(repository: TrustedRepository, role: str) -> bool:
    """Whether a *role* that was loaded all the same is past its expiry."""
    content = repository.targets(role)
    return bool(content.version) and content.expires.moment <= repository.now


def signer_plan(name: str, keys: Sequence[PublicKey], *, again: bool = False) -> Plan:
    """Let *keys* sign every tag as the signer *name*, and release what they sign, as Docker does.

    Args:
        name: The signer's name.
        keys: Any one of them may sign.
        again: Allow a name that a removed signer had. The server keeps that signer's last file:
            with the same key, every signature in it would count again.

    Raises:
        InputError: *name* is not a legal signer name. The plan raises it for a name that was
            used before.
    """
    check_signer_name(name)
    role = f"{TARGETS}/{name}"

    def plan(repository: TrustedRepository) -> Changes:
        top = repository.targets()
        is_known = any(entry.name == role for entry in top.delegations)
        if not is_known and not again and role in repository.snapshot.body.meta:
            raise InputError(
                f"signer {name} of {repository.gun} was removed once, and the trust server still "
                "holds what it signed",
                hint="Choose another name; with --again its old signatures may count again",
            )
        wanted = top.with_delegation(role, keys).with_delegation(RELEASES, keys)
        return {} if wanted == top else {TARGETS: wanted}

    return plan


def signer_removal_plan(name: str, key_ids: Collection[str]) -> Plan:
    """Take from the signer *name* the right to sign; `targets/releases` stays valid.

    That role is signed again in the same publication, by a remaining key that is at hand: the
    signer may have signed it last, or may do so at this very moment, which is then a conflict.

    Args:
        name: The signer's name.
        key_ids: Canonical IDs of all keys at hand, those of signers included. Where no remaining
            one is among them, the signer must not have signed last, nor be signing.

    The plan raises `NotASignerError` where nobody at hand may sign `targets/releases` again and
    the signer signed it last.
    """
    role = f"{TARGETS}/{name}"

    def plan(repository: TrustedRepository) -> Changes:
        top = repository.targets()
        entry = next((each for each in top.delegations if each.name == role), None)
        if entry is None:
            return {}
        wanted = top.without_delegation(role)
        shared = {each for other in wanted.children(TARGETS) if other.name != RELEASES
                  for each in canonical_ids(other.role, top.delegation_keys)}  # fmt: skip
        gone = set(canonical_ids(entry.role, top.delegation_keys)) - shared
        # A key may stand there in another form than in the signer's own role: its certificate.
        forms = {key_id for other in wanted.children(TARGETS) if other.name == RELEASES
                 for key_id, each in zip(
                     other.role.keyids, canonical_ids(other.role, top.delegation_keys), strict=True
                 ) if each in gone}  # fmt: skip
        wanted = wanted.without_keys(RELEASES, forms)
        changes: dict[str, Root | Targets] = {TARGETS: wanted}
        left = next((each for each in wanted.delegations if each.name == RELEASES), None)
        rejection = repository.rejection(RELEASES)
        if left is None or (rejection is not None and rejection.expired is None):
            return changes
        able = set(key_ids).intersection(canonical_ids(left.role, wanted.delegation_keys))
        if len(able) >= left.role.threshold:
            # What has only expired could not be signed again once its signer is gone.
            changes[RELEASES] = continued(repository, RELEASES, Recovery.RESIGN)
        elif rejection is not None:
            raise NotASignerError(
                f"{RELEASES} of {repository.gun} has expired, and no key of another signer is at "
                f"hand to sign it again before {name} goes",
                hint="Afterwards nobody could; sign it again first where such a key is: "
                f"signimage witness {repository.gun} {RELEASES}",
            )
        elif not is_signed(repository, RELEASES, left.role, wanted.delegation_keys):
            raise NotASignerError(
                f"signer {name} signed {RELEASES} of {repository.gun} last, and no key of "
                "another signer is at hand to sign it again",
                hint="Remove the signer where such a key is, or let another signer sign "
                "any tag first",
            )
        return changes

    return plan


def is_signed(
    repository: TrustedRepository, name: str, role: Role, keys: Mapping[str, PublicKey]
) -> bool:
    """Whether the valid delegation *name* has signatures enough for *role* and its *keys* as well.

    One that was never published has nothing to sign.
    """
    data = repository.files.get(name)
    if data is None:
        return True
    signed = Signed.parse(data, Targets, what=name)
    try:
        check_threshold(signed, role, keys, name)
    except ThresholdError:
        return False
    return True


def _check_expected(
    repository: TrustedRepository, tag: str, wanted: FileMeta, expected: Digest | None
) -> None:
    try:
        found: bytes | None = released(repository, tag).sha256
    except NotSignedError:
        found = None
    if found not in (expected.raw if expected else None, wanted.sha256):
        raise ConflictError(
            f"{repository.gun}:{tag}: expected {expected or 'no signature'} until now, "
            f"got {f'sha256:{found.hex()}' if found else 'none'}"
        )


def check_signer_name(name: str) -> None:
    """Refuse a *name* that Docker would not take for a signer.

    Raises:
        InputError: It breaks the grammar, or is reserved.
    """
    if not _SIGNER_NAME.fullmatch(name) or name == "releases":
        raise InputError(
            f"signer name {name[:100]!r}: expected lower-case letters, digits, '-' and '_', "
            "beginning with a letter or digit, and not 'releases'"
        )


def first_files(
    keys: Mapping[str, PublicKey], signers: Mapping[str, Signer], now: datetime
) -> dict[str, bytes]:
    """The root and the empty targets that create a repository, signed.

    Args:
        keys: One key for each base role; the server holds those of snapshot and timestamp.
        signers: The private halves of the other two, by canonical key ID.
        now: Where the files' lifetimes begin.
    """
    root = Root(
        keys={key.key_id: key for key in keys.values()},
        roles={role: Role.of(key) for role, key in keys.items()},
        version=1,
        expires=Expiry.at(now + LIFETIMES[ROOT]),
    )
    targets = replace(Targets.empty(), version=1, expires=Expiry.at(now + LIFETIMES[TARGETS]))
    return {
        ROOT: signed_file(ROOT, root, root.roles[ROOT], root.keys, signers),
        TARGETS: signed_file(TARGETS, targets, root.roles[TARGETS], root.keys, signers),
    }


def signed_files(
    repository: TrustedRepository,
    changes: Changes,
    versions: Mapping[str, int],
    signers: Mapping[str, Signer],
) -> dict[str, bytes]:
    """The files that carry *changes* out, signed by the keys that speak for each role then.

    A snapshot is among them where its key is at hand; otherwise the server makes it.

    Raises:
        NotASignerError: Fewer keys of a role are at hand than it needs.
    """
    files = {}
    for role, content in changes.items():
        lifetime = LIFETIMES[ROOT if role == ROOT else TARGETS]
        expires = Expiry.at(repository.now + lifetime)
        new = replace(content, version=versions[role], expires=expires)
        if isinstance(new, Root):
            files[role] = signed_root(repository.root.body, new, signers)
            continue
        keys = _role_keys(repository, changes, role)
        files[role] = signed_file(role, new, *keys, signers)
    return {**files, **_signed_snapshot(repository, changes, files, signers)}


def _signed_snapshot(
    repository: TrustedRepository,
    changes: Changes,
    files: Mapping[str, bytes],
    signers: Mapping[str, Signer],
) -> dict[str, bytes]:
    """The snapshot that goes with *files*, where its key is kept by people."""
    root = changes.get(ROOT, repository.root.body)
    if not isinstance(root, Root):
        raise TypeError(f"{ROOT}: expected a root, got {type(root).__name__}")
    role = root.roles[SNAPSHOT]
    if set(signers).isdisjoint(canonical_ids(role, root.keys)):
        return {}
    old = repository.snapshot.body
    new = Snapshot(
        {**old.meta, **{name: FileMeta.of(data) for name, data in files.items()}},
        1 + max(old.version, repository.floors.get(SNAPSHOT, 0)),
        Expiry.at(repository.now + LIFETIMES[TARGETS]),
    )
    return {SNAPSHOT: signed_file(SNAPSHOT, new, role, root.keys, signers)}


def signed_root(old: Root, new: Root, signers: Mapping[str, Signer]) -> bytes:
    """The file of a root that follows *old*: signed by the old root role and by its own.

    Raises:
        NotASignerError: Too few keys of either are at hand.
    """
    before, after = old.roles[ROOT], new.roles[ROOT]
    everyone = Role(tuple(dict.fromkeys((*after.keyids, *before.keyids))), after.threshold)
    data = signed_file(ROOT, new, everyone, {**old.keys, **new.keys}, signers)
    check_threshold(Signed.parse(data, Root, what="new root"), before, old.keys, "new root")
    return data


def _role_keys(
    repository: TrustedRepository, changes: Changes, role: str
) -> tuple[Role, Mapping[str, PublicKey]]:
    """Who may sign *role* once *changes* are in force: they may change that, too."""
    if role == TARGETS and isinstance(root := changes.get(ROOT), Root):
        return root.roles[TARGETS], root.keys
    parent = changes.get(role.rpartition("/")[0])
    if isinstance(parent, Targets):
        for entry in parent.delegations:
            if entry.name == role:
                return entry.role, parent.delegation_keys
    return repository.role_keys(role)


def signed_file(
    name: str,
    body: Body,
    role: Role,
    keys: Mapping[str, PublicKey],
    signers: Mapping[str, Signer],
) -> bytes:
    """The file of the role *name*, signed with every key of the role that is at hand.

    Raises:
        NotASignerError: Fewer keys are at hand than the role's threshold.
    """
    message = payload(body)
    signatures = [
        signature(signers[canonical_id], keys[key_id], message)
        for key_id, canonical_id in zip(role.keyids, canonical_ids(role, keys), strict=True)
        if canonical_id in signers
    ]
    if len(signatures) < role.threshold:
        raise NotASignerError(
            f"{name}: expected {role.threshold} of its keys at hand, got {len(signatures)}"
        )
    data = envelope(message, signatures)
    _check_own_file(name, data, body, message, role, keys)
    return data


def _check_own_file(
    name: str, data: bytes, body: Body, message: bytes, role: Role, keys: Mapping[str, PublicKey]
) -> None:
    """Refuse to send what the server would store and nobody could read back."""
    again = Signed.parse(data, type(body), what=f"new {name}")
    # What was written came from this body alone: where it reads back as the same body, with the
    # same payload, the server's own rendering of it is the same bytes.
    if again.body != body or again.payload != message:
        raise FormatError(f"new {name}: its bytes would change when the server reads them")
    check_threshold(again, role, keys, f"new {name}")
