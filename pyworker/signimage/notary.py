"""The conversation with a trust server: refresh what is believed, publish what is new.

This module moves bytes; `signimage.trust` decides. One `TrustServer` speaks for one repository.

Refresh:
 1. Start from the root kept from before, else from the newest, or from an older one that is
    pinned and leads to it.
 2. Fetch the timestamp by name, everything else by the hash that the file before it names.
 3. If a rule fails, there may be a newer root: follow the roots one by one, then try once more.
 4. Only when all of it holds is anything kept.

How something is published stands in `signimage.publisher`.

Server behaviour: `docs/protocol.md`, "Refreshing".
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
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
    SignImageError,
    TooLargeError,
    TrustError,
    UnavailableError,
    UnreachableError,
)
from signimage.filemeta import FileMeta
from signimage.keys import PublicKey, Signer
from signimage.metadata import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Root, Signed
from signimage.pinning import NO_PINS, RootPins
from signimage.publication import Plan, first_files
from signimage.publisher import Attempts, Publication
from signimage.trust import TrustedRepository
from signimage.trustapi import TrustApi
from signimage.trustcache import TrustCache

_MAX_ROOT_STEPS = 1000
_MAX_STATE = 256 * 1024 * 1024  # bytes of all files; two million tags need about as many
# As long as between a preflight and a signature with nothing to build between them. Who publishes
# upon an older state collides with everybody who published meanwhile.
_RECENT_S = 1.0

Clock = Callable[[], datetime]


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
        ignores_expiry: For an owner who signs again what has expired; never to rely on.
    """

    api: TrustApi
    pins: RootPins = NO_PINS
    cache: TrustCache | None = None
    clock: Clock = utc_now
    ignores_expiry: bool = False
    _root: bytes | None = None  # what was kept as a file may be empty
    _files: dict[bytes, bytes] = field(default_factory=dict)  # by SHA-256
    _floors: dict[str, int] = field(default_factory=dict)
    _seen: TrustedRepository | None = None  # by the last look
    _seen_at: float = 0.0  # on the monotonic clock
    _is_publishing: bool = False

    def __post_init__(self) -> None:
        if self.cache is not None:
            self._resume(self.cache)

    @property
    def gun(self) -> str:
        """The repository's globally unique name."""
        return self.api.gun

    @property
    def has_answered(self) -> bool:
        """Whether it has shown the repository before, so that its address is certainly right."""
        return self._seen is not None

    @property
    def has_root(self) -> bool:
        """Whether a root is believed already, so that the next one must follow it."""
        return self._root is not None

    def recent(self) -> TrustedRepository | None:
        """What the last look showed, if that was a moment ago: to publish upon, not as a proof."""
        return self._seen if time.monotonic() < self._seen_at + _RECENT_S else None

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
        began = time.monotonic()
        repository = TrustedRepository(
            self.gun, self.clock(), self.pins, self._floors, ignores_expiry=self.ignores_expiry
        )
        if self._root is not None:
            repository.resume_root(self._root)
        else:
            self._meet(repository)
        try:
            self._load(repository)
        except (TrustError, NotFoundError):
            self._follow_root(repository)
            self._load(repository)
        self._seen, self._seen_at = repository, began
        if not self._is_publishing:
            self._keep(repository)
        return repository

    def _keep(self, repository: TrustedRepository) -> None:
        if self.cache is not None:
            self.cache.write(repository.files, self._floors)

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
        if (size := sum(meta.length for meta in files.values())) > _MAX_STATE:
            raise TooLargeError(
                f"{self.gun}: expected at most {_MAX_STATE} bytes of trust data, got {size}"
            )
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
            RemoteError: The server refused, or could not be reached for up to a minute; for a
                quarter of one, where it had shown nothing before.
        """
        # The server may undo an update that was seen; nobody else would ever undo its floor.
        self._is_publishing = True
        try:
            done = Attempts(self, plan, signers).run()
        finally:
            self._is_publishing = False
        self._keep(done.repository)
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

    def check_never_seen(self) -> None:
        """Refuse to create trust data anew where some was believed before.

        Raises:
            RootPinError: Some was, and nobody has forgotten it.
        """
        if self.has_root or self._floors:  # the floors outlive a deleted cache
            raise RootPinError(
                f"{self.gun} had trust data when we looked last, and {self.api.url} has none now",
                hint="If it was deleted on purpose, forget it first: "
                f"signimage repo forget {self.gun}",
            )

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
            SignImageError: It is not to be believed as it is shown; `state` says so where the
                server may have taken the keys.
        """
        self.check_never_seen()
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
        except SignImageError as error:
            if trouble is None or isinstance(trouble, (UnavailableError, UnreachableError)):
                error.state = f"{self.gun} may be initialised with the new keys, which are kept"
            raise
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
            self._root = root
        else:
            self._root = root  # even if it does not hold: what was kept leaves no first use
            repository.resume_root(root)
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
        repository.check_root_is_current()  # two clients may have kept half of it each
        return repository
