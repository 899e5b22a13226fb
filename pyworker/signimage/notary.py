"""The conversation with a trust server: refresh what is believed, publish what is new.

This module moves bytes; `signimage.trust` decides. One `TrustServer` speaks for one repository.

Refresh:
 1. Start from the root kept from before, else from the newest, or from an older one that is
    pinned and leads to it.
 2. Fetch the timestamp by name, everything else by the hash that the file before it names.
 3. If a rule fails, there may be a newer root: follow the roots one by one, then try once more.
 4. Only when all of it holds is anything kept.

Publish, until the plan has nothing left to do:
 1. Refresh, and ask the plan what is missing. Nothing: it is there, verified; done.
 2. Sign each changed role with a version above every one seen; check the bytes we made.
 3. Send all roles in one form. Then go to 1: a 200 proves nothing, the next refresh does.
    The server may also have lost an acknowledged update, even one that was seen; the plan then
    finds it missing again.
 4. Where root or targets changed, look once more after a while: they are what the server loses.

Server behaviour: `docs/protocol.md`, "Publishing".
"""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone

from signimage.errors import (
    ConflictError,
    FormatError,
    NotFoundError,
    NotInitializedError,
    RemoteError,
    RollbackError,
    RootPinError,
    TooLargeError,
    TrustError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
    WedgedRootError,
)
from signimage.filemeta import FileMeta
from signimage.keys import PublicKey, Signer
from signimage.metadata import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Root, Signed
from signimage.pinning import NO_PINS, RootPins
from signimage.publication import Changes, Plan, first_files, signed_files
from signimage.trust import TrustedRepository
from signimage.trustapi import TrustApi
from signimage.trustcache import TrustCache

_MAX_ROOT_STEPS = 1000

# 64 writers on one repository needed at most 9 tries; the time limit is what ends a hopeless one.
_PUBLISH_DEADLINE_S = 180.0
# A server that restarts is back by then; one that stays away is not waited for.
_OUTAGE_S = 60.0
_BACKOFF_S, _BACKOFF_CAP_S = 0.02, 1.0
# The server's race ends with the publication it ran beside; those take some hundredths.
_SETTLE_S = 1.0
# Whoever is hit by it notices after that time, and repairs it within a few tries.
_PATIENCE_S = 10.0

# No later attempt will be answered differently.
_FINAL = (UnauthorizedError, NotFoundError, TooLargeError)

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Publication:
    """A finished publication: what is believed now, and which roles were sent for it."""

    repository: TrustedRepository
    roles: tuple[str, ...]  # empty: everything was there already, nothing was sent
    attempts: int


def utc_now() -> datetime:
    """The clock that refreshes are judged by unless the caller brings another."""
    return datetime.now(timezone.utc)


@dataclass(slots=True)
class TrustServer:
    """One repository on one trust server.

    Attributes:
        api: How the server is reached, and which repository is meant.
        pins: What the first root must match.
        cache: Where verified files are kept; None keeps them for the life of this object.
        clock: Tells the moment at which a refresh is judged.
    """

    api: TrustApi
    pins: RootPins = NO_PINS
    cache: TrustCache | None = None
    clock: Clock = utc_now
    _root: bytes = b""
    _files: dict[bytes, bytes] = field(default_factory=dict)  # by SHA-256
    _floors: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cache is not None:
            self._resume(self.cache)

    @property
    def gun(self) -> str:
        """The repository's globally unique name."""
        return self.api.gun

    # --- Refresh ---

    def refresh(self, *, offline: bool = False) -> TrustedRepository:
        """Fetch and verify the repository's current state.

        Args:
            offline: Where the server cannot be asked, make do with what was kept, until that
                expires; its warnings say so. Somebody who keeps us from the server can then hide
                newer publications for as long.

        Raises:
            NotInitializedError: The server holds no trust data for the repository.
            TrustError: What the server shows breaks a rule of `signimage.trust`.
            RemoteError: The server could not be asked.
        """
        try:
            return self._refresh()
        except (UnreachableError, UnavailableError) as error:
            if not offline or self.cache is None:
                raise
            try:
                repository = self._kept(self.cache)
            except RollbackError:
                raise error from None  # it fell silent after it had shown something newer
            if repository is None:
                raise
            end = repository.timestamp.body.expires.text
            repository.warnings.append(
                f"{self.gun} is shown as it was kept, until {end} at the latest: {error}"
            )
            return repository

    def _refresh(self) -> TrustedRepository:
        repository = TrustedRepository(self.gun, self.clock(), self.pins, self._floors)
        if self._root:
            repository.resume_root(self._root)
        else:
            self._meet(repository)
        try:
            self._load(repository)
        except (TrustError, NotFoundError):
            self._follow_root(repository)
            self._load(repository)
        if self.cache is not None:
            self.cache.write(repository.files, self._floors)
        return repository

    def _meet(self, repository: TrustedRepository) -> None:
        """Believe a first root: the newest, or an older one that is pinned and leads to it."""
        newest = self.api.root()
        try:
            repository.trust_first_root(newest)
            self._root = newest
        except RootPinError:
            version = Signed.parse(newest, Root, what=f"root of {self.gun}").body.version
            if not self.pins.is_pinned or not self._meet_older(repository, version):
                raise

    def _meet_older(self, repository: TrustedRepository, newest: int) -> bool:
        for version in range(newest - 1, max(0, newest - 1 - _MAX_ROOT_STEPS), -1):
            older = self.api.old_root(version)
            with suppress(RootPinError):
                repository.trust_first_root(older, newest=False)
                self._root = older
                self._follow_root(repository)
                return True
        return False

    def _load(self, repository: TrustedRepository) -> None:
        repository.load_timestamp(self.api.timestamp())
        files = repository.timestamp.body.meta
        repository.load_snapshot(self._fetch(SNAPSHOT, files[SNAPSHOT]))
        repository.check_root_is_current()
        files = repository.snapshot.body.meta
        repository.load_targets(self._fetch(TARGETS, files[TARGETS]))
        for delegation in repository.delegations():
            meta = files.get(delegation.name)
            if meta is not None:
                repository.load_delegation(delegation.name, self._fetch(delegation.name, meta))

    def _follow_root(self, repository: TrustedRepository) -> None:
        newest_bytes = self.api.root()
        newest = Signed.parse(newest_bytes, Root, what=f"root of {self.gun}").body.version
        known = repository.root.body.version
        if newest - known > _MAX_ROOT_STEPS:
            raise TrustError(
                f"root of {self.gun}: expected at most {_MAX_ROOT_STEPS} rotations since version "
                f"{known}, got version {newest}"
            )
        for version in range(known + 1, newest):
            repository.rotate_root(self.api.old_root(version), newest=False)
        if newest > known:
            repository.rotate_root(newest_bytes, newest=True)
            self._root = newest_bytes
        elif newest_bytes != self._root:
            # Another root under a version that is believed already: a re-created repository.
            repository.check_same_root(newest_bytes)

    def _fetch(self, role: str, meta: FileMeta) -> bytes:
        known = self._files.get(meta.sha256)
        if known is None:
            if not meta.sha256:
                raise FormatError(f"{role} of {self.gun}: its description has no usable hash")
            known = self.api.by_hash(role, meta.sha256, meta.length)
            meta.check(known, what=f"{role} of {self.gun}")
            self._files[meta.sha256] = known
        return known

    # --- Publish ---

    def publish(self, plan: Plan, signers: Mapping[str, Signer]) -> Publication:
        """Bring the repository to where *plan* has nothing left to do, and prove it.

        Args:
            plan: Says, of a believed state, which roles must change to what. It is asked again
                after every conflict, so it must be a pure function of that state.
            signers: The keys at hand, by canonical key ID.

        Raises:
            TrustError: The state breaks a rule, or the keys may not sign what the plan wants.
            ConflictError: Other publishers kept winning until the time was over.
            RemoteError: The server refused or could not be reached.
        """
        with self.cache.lock() if self.cache is not None else nullcontext():
            attempt = _Attempt(self, plan, signers)
            while True:
                done = attempt.run()
                if done is not None:
                    return done

    def restore_floors(self, floors: Mapping[str, int]) -> None:
        """Lower floors to what they were before an update of ours that the server undid."""
        self._floors.update(floors)

    # --- First publication ---

    def check_write(self) -> None:
        """Ask for something that only publishers get, so that a refusal comes early.

        Raises:
            UnauthorizedError: The credentials do not allow publishing here.
        """
        self.api.key(TIMESTAMP)

    def initialise(
        self, root_key: PublicKey, targets_key: PublicKey, signers: Mapping[str, Signer]
    ) -> TrustedRepository:
        """Create the trust data: server-held snapshot and timestamp keys, no targets yet.

        Args:
            root_key: The certificate of the root key for this repository.
            targets_key: The repository key, which names the signers.
            signers: Holds the private half of both, by canonical key ID.

        Raises:
            ConflictError: Somebody initialised the repository at the same moment.
            RootPinError: The repository had trust data before, which would contradict the new.
        """
        if self._root:
            raise RootPinError(
                f"{self.gun} had trust data when we looked last, and {self.api.url} has none now",
                hint="If it was deleted on purpose, forget it first: "
                f"signimage repo forget {self.gun}",
            )
        server_keys = {role: self.api.key(role) for role in (SNAPSHOT, TIMESTAMP)}
        keys = {ROOT: root_key, TARGETS: targets_key, **server_keys}
        files = first_files(keys, signers, self.clock())
        trouble: RemoteError | None = None
        try:
            self.api.post(files)
        except RemoteError as error:
            trouble = error  # ours may have arrived all the same, or somebody else's before
        return self._initialised(files[ROOT], trouble)

    def _initialised(self, root: bytes, trouble: RemoteError | None) -> TrustedRepository:
        try:
            repository = self.refresh()
        except (NotInitializedError, RemoteError) as error:
            if trouble is not None:
                raise trouble from error
            raise UnavailableError(f"{self.gun} was initialised, and is not shown") from error
        if repository.files[ROOT] != root:
            raise ConflictError(
                f"{self.gun} was initialised by somebody else at the same moment"
            ) from trouble
        return repository

    # --- The cache ---

    def _resume(self, cache: TrustCache) -> None:
        """Start from what was kept: floors always, files as far as they still hold."""
        self._floors.update(cache.floors())
        with suppress(TrustError, FormatError):
            # What has expired says at least which versions there were.
            self._kept(cache, ignores_expiry=True)

    def _kept(self, cache: TrustCache, *, ignores_expiry: bool = False) -> TrustedRepository | None:
        """What was kept, judged again; None where that is not a whole repository.

        Raises:
            TrustError: It has expired or breaks another rule.
        """
        repository = TrustedRepository(
            self.gun, self.clock(), self.pins, self._floors, ignores_expiry=ignores_expiry
        )
        root = cache.read(ROOT)
        if root is None:
            return None
        if self.pins.is_pinned:
            # Pins may be newer than what was kept: it is believed only if they speak for it.
            repository.trust_first_root(root, newest=False)
        else:
            repository.resume_root(root)
        self._root = root
        for role, load in (
            (TIMESTAMP, repository.load_timestamp),
            (SNAPSHOT, repository.load_snapshot),
            (TARGETS, repository.load_targets),
        ):
            data = cache.read(role)
            if data is None:
                return None
            load(data)
            self._files[FileMeta.of(data).sha256] = data
        for delegation in repository.delegations():
            if delegation.name not in repository.snapshot.body.meta:
                continue
            data = cache.read(delegation.name)
            if data is None:
                return None
            repository.load_delegation(delegation.name, data)
            self._files[FileMeta.of(data).sha256] = data
        return repository


@dataclass(slots=True)
class _Attempt:
    """The tries of one publication: what was sent, and what came of it."""

    server: TrustServer
    plan: Plan
    signers: Mapping[str, Signer]
    number: int = 0
    roles: tuple[str, ...] = ()
    trouble: RemoteError | RollbackError | None = None
    _begun: float = field(default_factory=time.monotonic)
    _used: dict[str, int] = field(default_factory=dict)  # versions that are taken, by role
    _conflicted: dict[str, int] = field(default_factory=dict)  # the base of the last conflict
    _believed: dict[str, int] = field(default_factory=dict)  # floors of what was sent, before it
    _patience_until: float | None = None
    _outdated: int = 0  # the timestamp that was current before the last acknowledged update
    _is_settled: bool = False
    _acknowledged: int = 0
    _outage_since: float | None = None

    def run(self) -> Publication | None:
        """Look, and send what is missing; gives the publication once nothing is."""
        try:
            done = self._step()
        except RollbackError as error:
            done = None
            self._take_back(error)
        if done is None:
            self._pause()
        return done

    def _step(self) -> Publication | None:
        try:
            repository = self.server.refresh()
            self._check_later(repository)
        except RemoteError as error:
            if self.number == 0 or isinstance(error, _FINAL):
                raise
            self.trouble = error
            return None
        changes = self.plan(repository)
        self._patience_until = None
        if not changes and self._may_rest():
            return Publication(repository, self.roles, self.number)
        if changes:
            self._send(repository, changes)
        return None

    def _take_back(self, error: RollbackError) -> None:
        """Look again after the server's race undid an update that was seen already.

        If it was ours, it is as if it had never been taken; another's will be published again.
        """
        now = time.monotonic()
        self._patience_until = self._patience_until or now + _PATIENCE_S
        if now > self._patience_until:
            raise error
        self.server.restore_floors(self._believed)
        self.trouble = error

    def _check_later(self, repository: TrustedRepository) -> None:
        """Refuse a state from before our update, which a cache on the way may still show.

        The server signs a new timestamp for every update that it acknowledges.
        """
        if repository.timestamp.body.version <= self._outdated:
            raise UnavailableError(
                f"{self.server.gun} is still shown as it was before it was published"
            )

    def _may_rest(self) -> bool:
        """Whether what is there now will still be there in a moment."""
        if self._is_settled or {ROOT, TARGETS}.isdisjoint(self.roles):
            return True
        self._is_settled = True
        time.sleep(_SETTLE_S)
        return False

    def _send(self, repository: TrustedRepository, changes: Changes) -> None:
        self.number += 1
        self._is_settled = False
        versions = {
            role: 1 + max(content.version, repository.floors.get(role, 0), self._used.get(role, 0))
            for role, content in changes.items()
        }
        files = signed_files(repository, changes, versions, self.signers)
        self._believed = {role: repository.floors.get(role, 0) for role in files}
        try:
            self.server.api.post(files)
        except (UnreachableError, UnavailableError) as error:
            self.trouble = error  # it may have arrived all the same; the next refresh tells
        except ConflictError as error:
            self.trouble = error
            self._learn(changes)
        except RemoteError as error:
            if isinstance(error, _FINAL) or not self._has_moved(repository):
                raise
            self.trouble = error
        else:
            # Where the server then loses the update, its version stays taken.
            self.roles, self._used, self.trouble = tuple(files), versions, None
            self._acknowledged += 1
            self._outdated = repository.timestamp.body.version

    def _excuse(self) -> str:
        if self._acknowledged:
            return f"the server acknowledged {self._acknowledged} of them and shows none"
        return "other publishers won"

    def _learn(self, changes: Changes) -> None:
        """After two conflicts on one base nobody was faster: a version number is used up."""
        base = {role: content.version for role, content in changes.items()}
        if base == self._conflicted:
            api = self.server.api
            try:
                self._used = {role: api.newest_version(role, base[role]) for role in base}
            except (UnreachableError, UnavailableError):
                return  # the next conflict asks again
            if self._used.get(ROOT, 0) > base.get(ROOT, 0):
                raise WedgedRootError(
                    f"{api.gun}: {api.url} holds root version {self._used[ROOT]}, but refers to "
                    f"version {base[ROOT]} and takes no other",
                    hint="The server lost a root that it had acknowledged. Its operator must "
                    "delete the lost version from its database",
                )
        self._conflicted = base

    def _has_moved(self, repository: TrustedRepository) -> bool:
        """Whether somebody published since *repository* was fetched; a refusal may be due to it."""
        try:
            now = self.server.refresh()
        except (UnreachableError, UnavailableError):
            return True  # not known; the next try shows
        return now.snapshot.body.version != repository.snapshot.body.version

    def _pause(self) -> None:
        """Wait a random time, so that publishers who collided do not collide again."""
        now = time.monotonic()
        if isinstance(self.trouble, (UnreachableError, UnavailableError)):
            self._outage_since = self._outage_since or now
            if now > self._outage_since + _OUTAGE_S:
                raise self.trouble
        else:
            self._outage_since = None
        if now > self._begun + _PUBLISH_DEADLINE_S:
            raise ConflictError(
                f"{self.server.gun} could not be published in {_PUBLISH_DEADLINE_S:.0f} seconds "
                f"and {self.number} tries: {self.trouble or self._excuse()}",
                hint="Nothing that was signed before was lost; run it again",
            )
        if self.trouble is not None or self.number > 1:
            limit_s = min(_BACKOFF_CAP_S, _BACKOFF_S * 2 ** min(self.number, 10))
            time.sleep(random.uniform(0, limit_s))  # noqa: S311 -- spreads load, guards nothing
