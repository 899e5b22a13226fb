"""What to believe of a repository's trust data: the ordered rules, and nothing else.

`TrustedRepository` is a state machine over bytes. It never fetches, stores or looks at a clock;
its caller brings the files in order and gives it one moment, at which all of them are judged:

    root -> (newer roots, one by one) -> timestamp -> snapshot -> targets -> delegations

Rules, for every file:

1. It parses (`FormatError`), and its length and hashes are those that the file before it names.
2. Enough distinct keys of its role signed it; a signature whose key ID and key disagree spoils
   the whole file, and signatures of foreign keys count for nothing.
3. Its version is not below the highest one ever seen for that role (the *floor*), delegations
   and root included.
4. It has not expired. Only a root that merely links an older root to a newer one may have.

And for root:

5. The first root is believed because its keys are pinned, or else on first use.
6. A newer root is signed by the one before it and by itself; versions go up one by one.
7. Only keys whose certificate names this repository count, and only while it is valid.

A delegation that fails is set aside with its error instead of spoiling the rest. Whoever needs
it gets that error: an invalid `targets/releases` never falls back to `targets`.

Specification: TUF 1.0 section 5 as Notary 0.7 practises it (`docs/protocol.md`).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from signimage.errors import (
    ExpiredError,
    FormatError,
    NotASignerError,
    NotSignedError,
    RollbackError,
    RootPinError,
    ThresholdError,
    TrustError,
)
from signimage.keys import PublicKey
from signimage.metadata import (
    RELEASES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Body,
    Delegation,
    FileMeta,
    Role,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
    is_delegation,
)
from signimage.pinning import NO_PINS, RootPins, certified_keys, either

# Docker writes one delegation per signer and one more; Notary's own tests go to 1000.
_MAX_DELEGATIONS = 2000

B = TypeVar("B", bound=Body)


@dataclass(frozen=True, slots=True)
class Signer:
    """A delegation as people see it: its name and the canonical IDs of its keys."""

    name: str
    key_ids: tuple[str, ...]


@dataclass(slots=True)
class TrustedRepository:
    """The believed state of one repository, built up file by file.

    Attributes:
        gun: The repository's globally unique name.
        now: The moment at which everything is judged.
        pins: What a first root must match.
        floors: Highest version ever seen, by role; the caller keeps them between runs.
        warnings: What people should know although everything is valid, one sentence each.
        files: The believed role files, whole, by role.
    """

    gun: str
    now: datetime
    pins: RootPins = NO_PINS
    floors: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    _root: Signed[Root] | None = None
    _timestamp: Signed[Timestamp] | None = None
    _snapshot: Signed[Snapshot] | None = None
    _targets: dict[str, Signed[Targets]] = field(default_factory=dict)
    _rejected: dict[str, TrustError | FormatError] = field(default_factory=dict)

    # --- Loading, in this order ---

    def trust_first_root(self, data: bytes) -> None:
        """Believe a root that nothing is known about yet (rules 1, 2, 4, 5, 7).

        Raises:
            RootPinError: It is not the pinned one.
            TrustError: Another rule fails.
        """
        what = self._name(ROOT)
        new = Signed.parse(data, Root, what=what)
        self.pins.check(new.body, what)
        self._check_self_signed(new, what, expired=False)
        self._check_floor(ROOT, new.body, what)
        self._check_expiry(new.body, what)
        self._accept_root(new, data)

    def resume_root(self, data: bytes) -> None:
        """Believe a root kept from an earlier run; it was judged then, and may have expired.

        Raises:
            RootPinError: Pins were given since, and this root does not match them.
            TrustError: It does not even hold by its own keys.
        """
        what = f"kept {self._name(ROOT)}"
        kept = Signed.parse(data, Root, what=what)
        self.pins.check(kept.body, what)
        self._check_self_signed(kept, what, expired=True)
        self._accept_root(kept, data)

    def rotate_root(self, data: bytes, *, newest: bool) -> None:
        """Follow the root to its next version (rules 1, 2, 3, 6, 7; 4 only for the *newest*).

        Raises:
            RootPinError: The next root is not signed by the believed one.
            TrustError: Another rule fails.
        """
        what = self._name(ROOT)
        old = self.root.body
        new = Signed.parse(data, Root, what=what)
        if new.body.version != old.version + 1:
            raise RollbackError(
                f"{what}: expected version {old.version + 1}, got {new.body.version}"
            )
        try:
            check_threshold(new, old.roles[ROOT], old.keys, what)
        except ThresholdError as error:
            raise RootPinError(
                f"{what}: version {new.body.version} is not signed by the root key that "
                f"version {old.version} names",
                hint="The repository was re-created, or somebody replaced its trust data. "
                "Ask its owner before you forget the old root",
            ) from error
        self._check_self_signed(new, what, expired=not newest)
        self._check_floor(ROOT, new.body, what)
        if newest:
            self._check_expiry(new.body, what)
        self._accept_root(new, data)

    def check_same_root(self, data: bytes) -> None:
        """Refuse another root under the version of the believed one.

        Raises:
            RootPinError: It has other keys or other content.
        """
        what = self._name(ROOT)
        if Signed.parse(data, Root, what=what).payload != self.root.payload:
            raise RootPinError(
                f"{what}: the trust server shows another root than the one believed before",
                hint="The repository was re-created, or somebody replaced its trust data. "
                "Ask its owner before you forget the old root",
            )

    def load_timestamp(self, data: bytes) -> None:
        """Believe the server's freshest word (rules 1 to 4)."""
        self._check_expiry(self.root.body, self._name(ROOT))
        self._timestamp = self._checked(data, Timestamp, TIMESTAMP)
        self._snapshot = None

    def load_snapshot(self, data: bytes) -> None:
        """Believe the snapshot that the timestamp names (rules 1 to 4).

        Raises:
            RootPinError: It belongs to another root than the believed one; look for a newer root.
            TrustError: Another rule fails.
        """
        self.timestamp.body.meta[SNAPSHOT].check(data, what=self._name(SNAPSHOT))
        snapshot = self._checked(data, Snapshot, SNAPSHOT)
        self._snapshot = snapshot
        self._targets.clear()
        self._rejected.clear()

    def check_root_is_current(self) -> None:
        """Refuse a snapshot that belongs to another root than the believed one.

        Raises:
            HashMismatchError: They do not belong together.
        """
        self.snapshot.body.meta[ROOT].check(self.files[ROOT], what=self._name(ROOT))

    def load_targets(self, data: bytes) -> None:
        """Believe the top-level targets that the snapshot names (rules 1 to 4)."""
        self.snapshot.body.meta[TARGETS].check(data, what=self._name(TARGETS))
        self._targets[TARGETS] = self._checked(data, Targets, TARGETS)

    def load_delegation(self, name: str, data: bytes) -> None:
        """Judge the delegation *name* (rules 1 to 4); a failure is kept for who needs the role."""
        parent, delegation = self._delegation(name)
        what = self._name(name)
        try:
            self.snapshot.body.meta[name].check(data, what=what)
            signed = Signed.parse(data, Targets, what=what)
            check_threshold(signed, delegation.role, parent.delegation_keys, what)
            self._check_floor(name, signed.body, what)
            self._check_expiry(signed.body, what)
        except (TrustError, FormatError) as error:
            self._rejected[name] = error
            self.warnings.append(error.sentence)
            return
        self._targets[name] = signed
        self.floors[name] = signed.body.version
        self.files[name] = data

    # --- What is believed ---

    @property
    def root(self) -> Signed[Root]:
        """The believed root."""
        return _loaded(self._root, ROOT)

    @property
    def timestamp(self) -> Signed[Timestamp]:
        """The believed timestamp."""
        return _loaded(self._timestamp, TIMESTAMP)

    @property
    def snapshot(self) -> Signed[Snapshot]:
        """The believed snapshot."""
        return _loaded(self._snapshot, SNAPSHOT)

    def targets(self, name: str = TARGETS) -> Targets:
        """The content of `targets` or of a delegation; empty when it was never published.

        Raises:
            TrustError: The role exists and is invalid.
        """
        if name in self._rejected:
            raise self._rejected[name]
        signed = self._targets.get(name)
        if signed is None and name == TARGETS:
            raise RuntimeError("targets are asked for before they were loaded")
        return Targets.empty() if signed is None else signed.body

    def delegations(self) -> Iterator[Delegation]:
        """Every delegation that a believed role names, parents before children.

        The walk is lazy: what is loaded while it goes on is walked as well. Entries that are
        not direct children of the role that holds them are passed over, as Notary does.

        Raises:
            TrustError: There are more than a repository can reasonably have.
        """
        pending = [TARGETS]
        count = 0
        for parent in pending:  # grows while it is walked: children become known by loading
            signed = self._targets.get(parent)
            for entry in signed.body.delegations if signed else ():
                if not _is_child(parent, entry.name) or entry.name in pending:
                    continue
                count += 1
                if count > _MAX_DELEGATIONS:
                    raise TrustError(
                        f"{self.gun}: expected at most {_MAX_DELEGATIONS} delegations, got more"
                    )
                pending.append(entry.name)
                yield entry

    def signers(self) -> tuple[Signer, ...]:
        """Who may sign: the direct delegations of `targets`, in its order, without `releases`."""
        top = self.targets()
        return tuple(
            Signer(entry.signer, canonical_ids(entry.role, top.delegation_keys))
            for entry in top.delegations
            if entry.name != RELEASES and _is_child(TARGETS, entry.name)
        )

    def signing_roles(self, tag: str, key_ids: Collection[str]) -> tuple[str, ...]:
        """The roles that keys with these canonical *key_ids* must publish *tag* to.

        As Docker does it: with delegations, every direct one that admits the tag and has one of
        the keys; `targets` itself only while there are no delegations at all.

        Raises:
            NotASignerError: There is no such role.
        """
        top = self.targets()
        if not top.delegations:
            root = self.root.body
            if not set(key_ids).isdisjoint(canonical_ids(root.roles[TARGETS], root.keys)):
                return (TARGETS,)
            raise self._not_a_signer(key_ids)
        mine = [
            entry
            for entry in top.delegations
            if _is_child(TARGETS, entry.name)
            and not set(key_ids).isdisjoint(canonical_ids(entry.role, top.delegation_keys))
        ]
        if not mine:
            raise self._not_a_signer(key_ids)
        roles = tuple(entry.name for entry in mine if entry.admits(tag))
        if not roles:
            paths = ", ".join(sorted({path for entry in mine for path in entry.paths or ()}))
            raise NotASignerError(
                f"key {either(key_ids)} may sign in {self.gun}, but not the tag {tag}; "
                f"its paths are {paths or 'none'}"
            )
        return roles

    def role_keys(self, name: str) -> tuple[Role, Mapping[str, PublicKey]]:
        """Who may sign the role *name*, with the keys by TUF key ID.

        Raises:
            TrustError: No believed role delegates to it.
        """
        if name in self.root.body.roles:
            return self.root.body.roles[name], self.root.body.keys
        parent, delegation = self._delegation(name)
        return delegation.role, parent.delegation_keys

    def released(self, tag: str) -> FileMeta:
        """What a consumer gets for *tag*: the entry of `targets/releases`, else of `targets`.

        Raises:
            TrustError: `targets/releases` exists and is invalid.
            NotSignedError: Neither has the tag.
        """
        has_releases = any(entry.name == RELEASES for entry in self.targets().delegations)
        for name in (RELEASES, TARGETS) if has_releases else (TARGETS,):
            meta = self._entry(name, tag)
            if meta is not None:
                return meta
        raise NotSignedError(
            f"{self.gun}:{tag} is not signed: neither {RELEASES} nor {TARGETS} has the tag"
        )

    def signers_of(self, tag: str, meta: FileMeta) -> tuple[str, ...]:
        """Names of the signers whose own role holds *tag* with the same SHA-256 hash."""
        return tuple(
            signer.name
            for signer in self.signers()
            if f"targets/{signer.name}" not in self._rejected
            and _same(self._entry(f"targets/{signer.name}", tag), meta)
        )

    # --- The rules ---

    def _checked(self, data: bytes, kind: type[B], name: str) -> Signed[B]:
        what = self._name(name)
        signed = Signed.parse(data, kind, what=what)
        root = self.root.body
        check_threshold(signed, root.roles[name], root.keys, what)
        self._check_floor(name, signed.body, what)
        self._check_expiry(signed.body, what)
        self.floors[name] = signed.body.version
        self.files[name] = data
        return signed

    def _check_floor(self, name: str, body: Body, what: str) -> None:
        floor = self.floors.get(name, 0)
        if body.version < floor:
            raise RollbackError(
                f"{what}: expected version {floor} or later, got {body.version}",
                hint="The trust server shows an older state than before. If it was restored "
                "from a backup, its operator must say so",
            )

    def _check_expiry(self, body: Body, what: str) -> None:
        if body.expires.moment <= self.now:
            raise ExpiredError(
                f"{what} expired at {body.expires.text}; this machine's clock says "
                f"{self.now:%Y-%m-%dT%H:%M:%SZ}",
                hint="If the clock is right, the owner of the role must sign it again",
            )

    def _check_self_signed(self, signed: Signed[Root], what: str, *, expired: bool) -> None:
        role = signed.body.roles[ROOT]
        keys = certified_keys(signed.body, self.gun, self.now, what=what, allow_expired=expired)
        usable = Role(tuple(key_id for key_id in role.keyids if key_id in keys), role.threshold)
        check_threshold(signed, usable, keys, what)

    def _accept_root(self, signed: Signed[Root], data: bytes) -> None:
        self._root = signed
        self.files = {ROOT: data}
        self.floors[ROOT] = max(signed.body.version, self.floors.get(ROOT, 0))
        self._timestamp = self._snapshot = None
        self._targets.clear()
        self._rejected.clear()

    # --- Delegations ---

    def _delegation(self, name: str) -> tuple[Targets, Delegation]:
        parent = self._targets.get(name.rpartition("/")[0])
        for entry in parent.body.delegations if parent else ():
            if parent is not None and entry.name == name and is_delegation(name):
                return parent.body, entry
        raise TrustError(f"{self.gun} has no delegation {name}")

    def _entry(self, name: str, tag: str) -> FileMeta | None:
        """The entry for *tag* in the role *name*, if that role may hold it."""
        meta = self.targets(name).targets.get(tag)
        if meta is not None and name != TARGETS and not self._delegation(name)[1].admits(tag):
            return None
        return meta

    def _not_a_signer(self, key_ids: Collection[str]) -> NotASignerError:
        signers = ", ".join(f"{each.name} ({either(each.key_ids)})" for each in self.signers())
        have = f"its signers are {signers}" if signers else "it has no signers yet"
        return NotASignerError(
            f"key {either(key_ids)} is not a signer of {self.gun}; {have}",
            hint=f"Its owner can add the key with: signimage signer add --key FILE.pub NAME "
            f"{self.gun}",
        )

    def _name(self, role: str) -> str:
        return f"{role} of {self.gun}"


def canonical_ids(role: Role, keys: Mapping[str, PublicKey]) -> tuple[str, ...]:
    """The canonical IDs of the keys of *role*; a certificate that nobody can read has none.

    Such a key can never sign, so its TUF ID is as good a name for it as any.
    """
    ids = []
    for key_id in role.keyids:
        try:
            ids.append(keys[key_id].canonical_id)
        except FormatError:
            ids.append(key_id)
    return tuple(ids)


def check_threshold(
    signed: Signed[B], role: Role, keys: Mapping[str, PublicKey], what: str
) -> None:
    """Rule 2: enough distinct keys of *role* signed.

    Raises:
        ThresholdError: Too few valid signatures.
        TrustError: A key does not have the ID under which the role names it.
    """
    valid = set()
    for signature in signed.signatures:
        if signature.keyid not in role.keyids or signature.keyid in valid:
            continue
        key = keys[signature.keyid]
        if key.key_id != signature.keyid:
            raise TrustError(f"{what}: expected key {signature.keyid}, got key {key.key_id}")
        if key.verify(signature.method, signature.sig, signed.payload):
            valid.add(signature.keyid)
    if len(valid) < role.threshold:
        raise ThresholdError(
            f"{what}: expected valid signatures by {role.threshold} of its keys, got {len(valid)}"
        )


def _is_child(parent: str, name: str) -> bool:
    return is_delegation(name) and name.rpartition("/")[0] == parent


def _same(one: FileMeta | None, other: FileMeta) -> bool:
    return one is not None and bool(one.sha256) and one.sha256 == other.sha256


T = TypeVar("T")


def _loaded(value: T | None, name: str) -> T:
    if value is None:
        raise RuntimeError(f"{name} is asked for before it was loaded")
    return value
