"""Who follows whom: plans that put new keys in the place of old ones.

Rules of this file:

1. The key that goes and what it signed go in one publication: at no moment is a role left with
   signatures that nobody believes.
2. Every key of a role is replaced; keys that no role has any more leave the file that named them.
3. A plan is satisfied by what it finds, not by what was sent: run again, it says nothing.

`docs/rotation-and-revocation.md`; Notary v1, `docs/protocol.md`, "Root" and "Who signs what".
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from signimage.errors import InputError, NotASignerError
from signimage.expiry import terms
from signimage.keys import PublicKey
from signimage.metadata import (
    RELEASES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    Delegation,
    Role,
    Root,
    Targets,
)
from signimage.publication import Changes, Plan, Recovery, continued, is_signed
from signimage.trust import TrustedRepository, canonical_ids


def base_key_plan(role: str, key: PublicKey) -> Plan:
    """Make *key* the one key of a base *role*; who signs the new root holds the root key.

    Args:
        role: `root`, whose key comes in a certificate for the repository, `targets`, `snapshot`
            or `timestamp`.
        key: Its new key. `targets` is signed again with it, so that its content stays valid.
    """

    def plan(repository: TrustedRepository) -> Changes:
        old = repository.root.body
        if old.roles[role] == Role.of(key):
            return {}
        roles = {**old.roles, role: Role.of(key)}
        used = {key_id for each in roles.values() for key_id in each.keyids}
        known = {**old.keys, key.key_id: key}
        keys = {key_id: each for key_id, each in known.items() if key_id in used}
        changes: dict[str, Root | Targets] = {ROOT: replace(old, keys=keys, roles=roles)}
        if role == TARGETS:
            changes[TARGETS] = repository.targets()
        return changes

    return plan


def again_plan(roles: Sequence[str], key_ids: Collection[str], recovery: Recovery) -> Plan:
    """Sign *roles* again that end soon, or that none of these keys has signed.

    What a key is added for keeps its old signatures until something in it changes; whoever wants
    the old key gone first needs the new one's signature.

    Args:
        roles: `targets` and delegations; one that was never published has nothing to sign. Or
            `snapshot`, where its key is at hand: it goes with whatever is signed, so `targets` is.
        key_ids: Canonical IDs of the keys at hand.
        recovery: What to do where a role is invalid.
    """

    def plan(repository: TrustedRepository) -> Changes:
        due = {term.role for term in terms(repository, key_ids) if term.is_due(repository.now)}
        changes = {
            role: continued(repository, role, recovery)
            for role in roles
            if role != SNAPSHOT
            and (
                role in due
                or repository.rejection(role) is not None
                or not _is_signed_by(repository, role, key_ids)
            )
        }
        if SNAPSHOT in roles and SNAPSHOT in due:
            changes.setdefault(TARGETS, repository.targets())
        return changes

    return plan


def signer_keys_plan(name: str, keys: Sequence[PublicKey], key_ids: Collection[str]) -> Plan:
    """Put *keys* in the place of all keys of the signer *name*; what it signed stays valid.

    The signer's role and `targets/releases` are signed again in the same publication where a
    remaining key of each is at hand, so that a signature made meanwhile by the old key is a
    conflict.

    Args:
        name: The signer.
        keys: Any one of them may sign from then on.
        key_ids: Canonical IDs of the keys at hand.

    The plan raises `InputError` where there is no such signer, and `NotASignerError` where what
    the old keys signed would be left without a valid signature.
    """

    def plan(repository: TrustedRepository) -> Changes:
        top = repository.targets()
        wanted = _with_keys(top, f"{TARGETS}/{name}", keys, repository.gun)
        if wanted == top:
            return {}
        changes: dict[str, Root | Targets] = {TARGETS: wanted}
        for entry in wanted.children(TARGETS):
            if entry.name not in (f"{TARGETS}/{name}", RELEASES):
                continue
            able = set(key_ids).intersection(canonical_ids(entry.role, wanted.delegation_keys))
            rejection = repository.rejection(entry.name)
            if entry.name not in repository.files and rejection is None:
                continue  # it was never published
            if len(able) >= entry.role.threshold:
                changes[entry.name] = continued(repository, entry.name, Recovery.RESIGN)
            elif rejection is not None or not is_signed(
                repository, entry.name, entry.role, wanted.delegation_keys
            ):
                raise _not_at_hand(repository.gun, name, entry.name)
        return changes

    return plan


def _with_keys(top: Targets, role: str, keys: Sequence[PublicKey], gun: str) -> Targets:
    """*top* with the keys of the signer's *role* replaced there and among the releasers."""
    entry = next((each for each in top.children(TARGETS) if each.name == role), None)
    if entry is None:
        known = [each.signer for each in top.children(TARGETS) if each.name != RELEASES]
        raise InputError(
            f"{gun} has no signer {role.removeprefix(f'{TARGETS}/')}; its signers are "
            f"{', '.join(known) or 'none'}"
        )
    new = {key.key_id: key for key in keys}
    delegation_keys = {**top.delegation_keys, **new}
    kept = {each for other in top.children(TARGETS) if other.name not in (role, RELEASES)
            for each in canonical_ids(other.role, top.delegation_keys)}  # fmt: skip
    kept |= {key.canonical_id for key in keys}
    gone = set(canonical_ids(entry.role, top.delegation_keys)) - kept
    delegations = []
    for each in top.delegations:
        if each.name == role:
            changed = _holding(each, tuple(new))
        elif each.name == RELEASES:
            ids = canonical_ids(each.role, top.delegation_keys)
            stay = [key_id for key_id, canonical_id in zip(each.role.keyids, ids, strict=True)
                    if canonical_id not in gone]  # fmt: skip
            changed = _holding(each, tuple(dict.fromkeys((*stay, *new))))
        else:
            changed = each
        delegations.append(changed)
    return replace(top, delegation_keys=delegation_keys).with_delegations(delegations)


def _holding(entry: Delegation, keyids: tuple[str, ...]) -> Delegation:
    return replace(entry, role=Role(keyids, min(entry.role.threshold, len(keyids))))


def _is_signed_by(repository: TrustedRepository, role: str, key_ids: Collection[str]) -> bool:
    """Whether one of these keys signed the valid *role*, if that was ever published."""
    its_role, keys = repository.role_keys(role)
    ids = canonical_ids(its_role, keys)
    mine = tuple(key_id for key_id, canonical_id in zip(its_role.keyids, ids, strict=True)
                 if canonical_id in key_ids)  # fmt: skip
    return is_signed(repository, role, Role(mine, 1), keys)


def _not_at_hand(gun: str, name: str, role: str) -> NotASignerError:
    return NotASignerError(
        f"{role} of {gun} is signed with an old key of {name} alone, and the new one is not at "
        "hand to sign it again",
        hint=f"Let both sign first: signimage signer add --key FILE.pub {name} {gun}; then, where "
        f"the new key is: signimage witness --again {gun} {TARGETS}/{name} {RELEASES}; then "
        "replace it",
    )
