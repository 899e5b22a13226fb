"""What to publish: plans over a believed state, and the signed files that carry them out.

A *plan* looks at a repository and says which roles must change, and to what. It is a pure
function, asked again after every conflict, and it is satisfied when it has nothing to say: the
same question that starts a publication proves it. Intents live in memory only.

`docs/protocol.md`, "Publishing".
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from signimage.errors import FormatError, InputError, NotASignerError
from signimage.keys import PublicKey, Signer, signature
from signimage.metadata import (
    LIFETIMES,
    RELEASES,
    ROOT,
    TARGETS,
    Body,
    Expiry,
    FileMeta,
    Role,
    Root,
    Signed,
    Targets,
    payload,
    serialise,
)
from signimage.trust import TrustedRepository, canonical_ids, check_threshold

_SIGNER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,200}")

# For each role to change, its new content; version and expiry are given when it is signed.
Plan = Callable[[TrustedRepository], Mapping[str, Targets]]


def signing_plan(tags: Mapping[str, FileMeta], key_ids: Sequence[str]) -> Plan:
    """Sign each of *tags*, in every role that keys with these canonical *key_ids* may sign for.

    The plan raises `NotASignerError` where the keys may not sign a tag.
    """

    def plan(repository: TrustedRepository) -> Mapping[str, Targets]:
        wanted: dict[str, dict[str, FileMeta]] = {}
        for tag, meta in tags.items():
            for role in repository.signing_roles(tag, key_ids):
                if repository.targets(role).targets.get(tag) != meta:
                    wanted.setdefault(role, {})[tag] = meta
        return {
            role: repository.targets(role).with_targets(entries) for role, entries in wanted.items()
        }

    return plan


def signer_plan(name: str, keys: Sequence[PublicKey]) -> Plan:
    """Let *keys* sign every tag as the signer *name*, and release what they sign, as Docker does.

    Raises:
        InputError: *name* is not a legal signer name.
    """
    check_signer_name(name)
    role = f"{TARGETS}/{name}"

    def plan(repository: TrustedRepository) -> Mapping[str, Targets]:
        top = repository.targets()
        wanted = top.with_delegation(role, keys).with_delegation(RELEASES, keys)
        return {} if wanted == top else {TARGETS: wanted}

    return plan


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
    data = serialise(body, signatures)
    _check_own_file(name, data, body, role, keys)
    return data


def _check_own_file(
    name: str, data: bytes, body: Body, role: Role, keys: Mapping[str, PublicKey]
) -> None:
    """Refuse to send what the server would store and nobody could read back."""
    again = Signed.parse(data, type(body), what=f"new {name}")
    if serialise(again.body, again.signatures) != data:
        raise FormatError(f"new {name}: its bytes would change when the server reads them")
    check_threshold(again, role, keys, f"new {name}")
