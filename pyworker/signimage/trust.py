"""What to believe of a repository's trust data: the ordered rules, and nothing else.

`TrustedRepository` is a state machine over bytes. It never fetches, stores or looks at a clock;
its caller brings the files in order and gives it one moment, at which all of them are judged:

    root -> (newer roots, one by one) -> timestamp -> snapshot -> targets -> delegations

Rules, for every file:

1. It parses (`FormatError`), and its length and hashes are those that the file before it names.
2. Enough distinct keys of its role signed it; a signature whose key ID and key disagree spoils
   the whole file, and signatures of foreign keys count for nothing.
3. Its version is not below the highest one ever seen for that role (the *floor*), delegations
   and root included; a delegation that was seen and has no file any more is below it, too.
4. It has not expired. Only a root that merely links an older root to a newer one may have.

And for root:

5. The first root is believed because pinned keys signed it, or else on first use.
6. A newer root is signed by the one before it and by itself; versions go up one by one.
7. Only keys whose certificate names this repository count, and only while it is valid.

A delegation that fails is set aside with its error instead of spoiling the rest. Whoever needs
it gets that error: an invalid `targets/releases` never falls back to `targets`.

Specification: TUF 1.0 section 5 as Notary 0.7 practises it (`docs/protocol.md`).
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from signimage.errors import (
    ExpiredError,
    FormatError,
    RollbackError,
    RootPinError,
    ThresholdError,
    TrustError,
)
from signimage.keys import PublicKey, certificate
from signimage.metadata import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Body,
    Delegation,
    Role,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from signimage.pinning import NO_PINS, RootPins, certified_keys

# Docker writes one delegation per signer and one more; Notary's own tests go to 1000.
_MAX_DELEGATIONS = 2000
# Notary's clients refuse to publish within this time of the root's expiry; we only warn.
ROOT_NOTICE = timedelta(days=183)

B = TypeVar("B", bound=Body)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a delegation's file is not believed, and what may be taken from it all the same.

    Attributes:
        error: The rule it breaks.
        version: Its version, which is used up; 0 where the file cannot be read.
        expired: Its content, if expiry is all that is wrong: its signers did sign it.
    """

    error: TrustError | FormatError
    version: int = 0
    expired: Targets | None = None


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
        ignores_expiry: Drop rule 4: for files that were judged before, which still say what
            versions there were.
    """

    gun: str
    now: datetime
    pins: RootPins = NO_PINS
    floors: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    ignores_expiry: bool = False
    _root: Signed[Root] | None = None
    _timestamp: Signed[Timestamp] | None = None
    _snapshot: Signed[Snapshot] | None = None
    _targets: dict[str, Signed[Targets]] = field(default_factory=dict)
    _entries: dict[str, Delegation] = field(default_factory=dict)  # by name, of believed parents
    _rejected: dict[str, Rejection] = field(default_factory=dict)

    # --- Loading, in this order ---

    def trust_first_root(self, data: bytes, *, newest: bool = True) -> None:
        """Believe a root that nothing is known about yet (rules 1, 2, 5, 7; 4 if the *newest*).

        Raises:
            RootPinError: It is not the pinned one.
            TrustError: Another rule fails.
        """
        what = self._name(ROOT)
        new = Signed.parse(data, Root, what=what)
        counting = self.pins.select(new.body, self.gun, self.now, what)
        self._check_root_signed(new, new.body, what, expired=not newest, counting=counting)
        if newest:
            self._check_floor(ROOT, new.body, what)
            self._check_expiry(new.body, what)
        self._accept_root(new, data)

    def resume_root(self, data: bytes) -> None:
        """Believe a root kept from before; it was judged then, and may have expired since.

        Raises:
            TrustError: It does not even hold by its own keys.
            FormatError: It is damaged.
        """
        what = f"kept {self._name(ROOT)}"
        try:
            kept = Signed.parse(data, Root, what=what)
            self._check_root_signed(kept, kept.body, what, expired=True)
        except (FormatError, ThresholdError) as error:
            error.hint = f"Find out who changed it; then run: signimage repo forget {self.gun}"
            raise
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
            self._check_root_signed(new, old, what, expired=True)
        except ThresholdError as error:
            raise RootPinError(
                f"{what}: version {new.body.version} is not signed by the root key that "
                f"version {old.version} names",
                hint=self._stranger_hint(),
            ) from error
        self._check_root_signed(new, new.body, what, expired=not newest)
        if newest:
            self._check_floor(ROOT, new.body, what)
            self._check_expiry(new.body, what)
        self._accept_root(new, data)

    def check_same_root(self, data: bytes) -> None:
        """Refuse another root that has the version of the believed one, or a lower one.

        Raises:
            RollbackError: It is an older root of the same owner.
            RootPinError: It is somebody else's, or two have one version.
        """
        what = self._name(ROOT)
        found = Signed.parse(data, Root, what=what)
        if found.payload == self.root.payload:
            return
        try:
            self._check_root_signed(found, self.root.body, what, expired=True)
        except TrustError:
            pass  # strangers made it
        else:
            self._check_floor(ROOT, found.body, what)
        raise RootPinError(
            f"{what}: the trust server shows another root than the one believed before",
            hint=self._stranger_hint(),
        )

    def _stranger_hint(self) -> str:
        return (
            "The repository was re-created, or somebody replaced its trust data. Ask its owner "
            f"before you forget the old root with: signimage repo forget {self.gun}"
        )

    def load_timestamp(self, data: bytes) -> None:
        """Believe the server's freshest word (rules 1 to 4)."""
        self.warnings.clear()
        # A kept root may be an older one than was believed since: a file that was brought back.
        self._check_floor(ROOT, self.root.body, self._name(ROOT))
        self._check_expiry(self.root.body, self._name(ROOT))
        self._warn_of_root_expiry()
        self.files = {ROOT: self.files[ROOT]}  # of a state that failed half-way nothing is left
        self._timestamp = self._checked(data, Timestamp, TIMESTAMP)
        self._snapshot = None

    def load_snapshot(self, data: bytes) -> None:
        """Believe the snapshot that the timestamp names (rules 1 to 4)."""
        self.timestamp.body.meta[SNAPSHOT].check(data, what=self._name(SNAPSHOT))
        snapshot = self._checked(data, Snapshot, SNAPSHOT)
        self._snapshot = snapshot
        self._forget_targets()

    def check_root_is_current(self) -> None:
        """Refuse a snapshot that belongs to another root than the believed one.

        Raises:
            HashMismatchError: They do not belong together.
        """
        self.snapshot.body.meta[ROOT].check(self.files[ROOT], what=self._name(ROOT))

    def load_targets(self, data: bytes) -> None:
        """Believe the top-level targets that the snapshot names (rules 1 to 4)."""
        self.snapshot.body.meta[TARGETS].check(data, what=self._name(TARGETS))
        self._accept_targets(TARGETS, self._checked(data, Targets, TARGETS))

    def load_delegation(self, name: str, data: bytes) -> None:
        """Judge the delegation *name* (rules 1 to 4); a failure is kept for who needs the role."""
        what = self._name(name)
        signed: Signed[Targets] | None = None
        try:
            self.snapshot.body.meta[name].check(data, what=what)
            signed = Signed.parse(data, Targets, what=what)
            check_threshold(signed, *self.role_keys(name), what)
            self._check_floor(name, signed.body, what)
            self._check_expiry(signed.body, what)
        except (TrustError, FormatError) as error:
            if isinstance(error, ThresholdError):
                error.hint = (
                    "If whoever signed it last is no signer any more, one who is can begin it "
                    f"anew: signimage witness --drop {self.gun} {name}"
                )
            content = signed.body if signed and isinstance(error, ExpiredError) else None
            self._rejected[name] = Rejection(error, signed.body.version if signed else 0, content)
            self.warnings.append(error.sentence)
            return
        self._accept_targets(name, signed)
        self._rejected.pop(name, None)
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
            raise self._rejected[name].error
        signed = self._targets.get(name)
        if signed is None and name == TARGETS:
            raise RuntimeError("targets are asked for before they were loaded")
        return Targets.empty() if signed is None else signed.body

    def rejection(self, name: str) -> Rejection | None:
        """Why the delegation *name* is not believed; None when it is, or was never published."""
        return self._rejected.get(name)

    def admits(self, name: str, target: str) -> bool:
        """Whether the role *name* may speak for *target*: by its paths and all its parents'."""
        if name == TARGETS:
            return True
        return self._delegation(name).admits(target) and self.admits(_parent(name), target)

    def delegations(self) -> Iterator[Delegation]:
        """Every delegation that a believed role names, parents before children.

        The walk is lazy: what is loaded while it goes on is walked as well. Entries that are
        not direct children of the role that holds them are passed over, as Notary does.

        Raises:
            TrustError: There are more than a repository can reasonably have.
        """
        pending = self._children(TARGETS)
        for number, entry in enumerate(pending):  # grows while it is walked
            if number == _MAX_DELEGATIONS:
                raise TrustError(
                    f"{self.gun}: expected at most {_MAX_DELEGATIONS} delegations, got more"
                )
            yield entry
            pending += self._children(entry.name)

    def role_keys(self, name: str) -> tuple[Role, Mapping[str, PublicKey]]:
        """Who may sign the role *name*, with the keys by TUF key ID.

        Raises:
            TrustError: No believed role delegates to it.
        """
        if name in self.root.body.roles:
            return self.root.body.roles[name], self.root.body.keys
        role = self._delegation(name).role
        return role, self._targets[_parent(name)].body.delegation_keys

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
        if body.expires.moment <= self.now and not self.ignores_expiry:
            raise ExpiredError(
                f"{what} expired at {body.expires.text}; this machine's clock says "
                f"{self.now:%Y-%m-%dT%H:%M:%SZ}",
                hint="If the clock is right, the owner of the role must sign it again",
            )

    def _warn_of_root_expiry(self) -> None:
        root = self.root.body
        ends = [root.expires.moment]
        for key_id in root.roles[ROOT].keyids:
            with suppress(FormatError):
                ends.append(certificate(root.keys[key_id]).not_after)
        if min(ends) < self.now + ROOT_NOTICE:
            sentence = (
                f"{self._name(ROOT)} or its certificate expires at {min(ends):%Y-%m-%d}; its owner "
                "must renew it with the root key before then"
            )
            if sentence not in self.warnings:
                self.warnings.append(sentence)

    def _check_root_signed(
        self,
        signed: Signed[Root],
        by: Root,
        what: str,
        *,
        expired: bool,
        counting: Collection[str] | None = None,
    ) -> None:
        """Rules 2 and 7 for the root keys of *by*, all of them or the *counting* ones alone."""
        role = by.roles[ROOT]
        keys = certified_keys(by, self.gun, self.now, what=what, allow_expired=expired)
        usable = [each for each in role.keyids if each in keys]
        if counting is not None:
            usable = [each for each in usable if each in counting]
        check_threshold(signed, Role(tuple(usable), role.threshold), keys, what)

    def _accept_root(self, signed: Signed[Root], data: bytes) -> None:
        self._root = signed
        self.files = {ROOT: data}
        self.floors[ROOT] = max(signed.body.version, self.floors.get(ROOT, 0))
        self._timestamp = self._snapshot = None
        self._forget_targets()

    # --- Delegations ---

    def _accept_targets(self, name: str, signed: Signed[Targets]) -> None:
        self._targets[name] = signed
        for entry in signed.body.children(name):
            self._entries.setdefault(entry.name, entry)  # of two with one name, the first counts
            self._check_not_gone(entry.name)

    def _check_not_gone(self, name: str) -> None:
        """Refuse a delegation that was seen before and that the snapshot names no more (rule 3)."""
        floor = self.floors.get(name, 0)
        if not floor or name in self.snapshot.body.meta:
            return
        error = RollbackError(
            f"{self._name(name)}: expected version {floor} or later, got none",
            hint="The trust server hides what it showed before. If its signer was removed and "
            f"added again, begin the role anew: signimage witness --drop {self.gun} {name}",
        )
        self._rejected[name] = Rejection(error, floor)
        if error.sentence not in self.warnings:
            self.warnings.append(error.sentence)

    def _forget_targets(self) -> None:
        self._targets.clear()
        self._entries.clear()
        self._rejected.clear()

    def _children(self, name: str) -> list[Delegation]:
        signed = self._targets.get(name)
        names = dict.fromkeys(each.name for each in signed.body.children(name)) if signed else ()
        return [self._entries[each] for each in names]

    def _delegation(self, name: str) -> Delegation:
        if name not in self._entries:
            raise TrustError(f"{self.gun} has no delegation {name}")
        return self._entries[name]

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
    keyids = frozenset(role.keyids)
    for signature in signed.signatures:
        if signature.keyid not in keyids or signature.keyid in valid:
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


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


T = TypeVar("T")


def _loaded(value: T | None, name: str) -> T:
    if value is None:
        raise RuntimeError(f"{name} is asked for before it was loaded")
    return value
