"""The conversation with a trust server: refresh what is believed, publish what is new.

This module moves bytes; `signimage.trust` decides. One `TrustServer` speaks for one repository.

Refresh:
 1. Start from the root kept from before, else from `root.json` on first use.
 2. Fetch the timestamp by name, everything else by the hash that the file before it names.
 3. If a rule fails, there may be a newer root: follow the roots one by one, then try once more.

Publish, until the plan has nothing left to do:
 1. Refresh, and ask the plan what is missing. Nothing: it is there, verified; done.
 2. Sign each changed role with a version above every one seen; check the bytes we made.
 3. Send all roles in one form. Then go to 1: a 200 proves nothing, the next refresh does.
    The server may also have lost an acknowledged update; the plan then finds it missing again.

Server behaviour: `docs/protocol.md`, "Publishing".
"""

import json
import random
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from signimage.errors import (
    ConflictError,
    FormatError,
    InputError,
    NotFoundError,
    NotInitializedError,
    RemoteError,
    TooLargeError,
    TrustError,
    UnauthorizedError,
    UnreachableError,
)
from signimage.keys import PublicKey, Signer
from signimage.metadata import (
    LIFETIMES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Expiry,
    FileMeta,
    Root,
    Signed,
    Targets,
)
from signimage.oci import DOCKER_HUB
from signimage.pinning import NO_PINS, RootPins
from signimage.publication import Plan, first_files, signed_file
from signimage.transport import Authorizer, Response, Transport, refusal
from signimage.trust import TrustedRepository
from signimage.trustcache import TrustCache

_WHAT = "trust server"

# Limits for files whose length nothing has named yet. Notary allows 1 MiB and 100 MiB; a root
# grows by about 1 kB with every rotation.
_MAX_TIMESTAMP = 1024 * 1024  # bytes
_MAX_ROOT = 16 * 1024 * 1024  # bytes
_MAX_KEY = 256 * 1024  # bytes
_MAX_ANSWER = 64 * 1024  # bytes, of an error document
_MAX_FILE = 100 * 1024 * 1024  # bytes; also when the snapshot names more
_MAX_ROOT_STEPS = 1000

# 64 writers on one repository needed at most 9 tries; the time limit is what ends a hopeless one.
_PUBLISH_DEADLINE_S = 180.0
_BACKOFF_S, _BACKOFF_CAP_S = 0.02, 1.0
_MAX_ORPHANS = 100

_SERVER_BUSY = frozenset({429, 500, 502, 503, 504})
# No later attempt will be answered differently.
_FINAL = (UnauthorizedError, NotFoundError, TooLargeError)

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Publication:
    """A finished publication: what is believed now, and which roles were sent for it."""

    repository: TrustedRepository
    roles: tuple[str, ...]  # empty: everything was there already, nothing was sent
    attempts: int


def default_trust_server(host: str) -> str:
    """The URL of the trust server that belongs to the registry *host*, as Docker derives it."""
    return "https://notary.docker.io" if host == DOCKER_HUB else f"https://{host}"


def utc_now() -> datetime:
    """The clock that refreshes are judged by unless the caller brings another."""
    return datetime.now(timezone.utc)


@dataclass(slots=True)
class TrustServer:
    """One repository on one trust server.

    Attributes:
        transport: The HTTP to use; connections are shared with its other users.
        url: `https://host[:port][/prefix]`, without the API's own path.
        gun: The repository's globally unique name.
        authorizer: Answers the server's challenges; None for an anonymous visitor.
        pins: What the first root must match.
        cache: Where verified files are kept; None keeps them for the life of this object.
        clock: Tells the moment at which a refresh is judged.
    """

    transport: Transport
    url: str
    gun: str
    authorizer: Authorizer | None = None
    pins: RootPins = NO_PINS
    cache: TrustCache | None = None
    clock: Clock = utc_now
    _root: bytes = b""
    _files: dict[bytes, bytes] = field(default_factory=dict)  # by SHA-256
    _floors: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.username:
            raise InputError(f"trust server: expected an https:// URL, got {self.url[:200]!r}")
        self.url = self.url.rstrip("/")
        if self.cache is not None:
            self._resume(self.cache)

    # --- Refresh ---

    def refresh(self) -> TrustedRepository:
        """Fetch and verify the repository's current state.

        Raises:
            NotInitializedError: The server holds no trust data for the repository.
            TrustError: What the server shows breaks a rule of `signimage.trust`.
            RemoteError: The server could not be asked.
        """
        repository = TrustedRepository(self.gun, self.clock(), self.pins, self._floors)
        first = not self._root
        if first:
            root = self._named(ROOT, _MAX_ROOT)
            repository.trust_first_root(root)
            self._root = root
        else:
            repository.resume_root(self._root)
        try:
            self._load(repository)
        except (TrustError, NotFoundError):
            self._follow_root(repository)
            self._load(repository)
        self._keep(repository)
        return repository

    def _load(self, repository: TrustedRepository) -> None:
        repository.load_timestamp(self._named(TIMESTAMP, _MAX_TIMESTAMP))
        files = repository.timestamp.body.meta
        repository.load_snapshot(self._hashed(SNAPSHOT, files[SNAPSHOT]))
        repository.check_root_is_current()
        files = repository.snapshot.body.meta
        repository.load_targets(self._hashed(TARGETS, files[TARGETS]))
        for delegation in repository.delegations():
            meta = files.get(delegation.name)
            if meta is not None:
                repository.load_delegation(delegation.name, self._hashed(delegation.name, meta))

    def _follow_root(self, repository: TrustedRepository) -> None:
        newest_bytes = self._named(ROOT, _MAX_ROOT)
        newest = Signed.parse(newest_bytes, Root, what=f"root of {self.gun}").body.version
        known = repository.root.body.version
        if newest - known > _MAX_ROOT_STEPS:
            raise TrustError(
                f"root of {self.gun}: expected at most {_MAX_ROOT_STEPS} rotations since version "
                f"{known}, got version {newest}"
            )
        for version in range(known + 1, newest):
            name = f"{version}.{ROOT}"
            repository.rotate_root(self._named(name, _MAX_ROOT), newest=False)
        if newest > known:
            repository.rotate_root(newest_bytes, newest=True)
        elif newest_bytes != self._root:
            # Another root under a version that is believed already: a re-created repository.
            repository.check_same_root(newest_bytes)
        self._root = newest_bytes

    def _named(self, name: str, limit: int) -> bytes:
        response = self._get(f"{name}.json", limit, fresh=True)
        if response.status == HTTPStatus.NOT_FOUND and name == ROOT:
            raise NotInitializedError(
                f"{self.gun} has no trust data on {self.url}",
                hint=f"Its owner can initialise it with: signimage repo init {self.gun}",
            )
        return self._content(response)

    def _hashed(self, role: str, meta: FileMeta) -> bytes:
        known = self._files.get(meta.sha256)
        if known is None:
            if not meta.sha256 or meta.length > _MAX_FILE:
                raise FormatError(f"{role} of {self.gun}: its description has no usable hash")
            response = self._get(f"{role}.{meta.sha256.hex()}.json", meta.length, fresh=False)
            if response.status == HTTPStatus.NOT_FOUND:
                raise NotFoundError(
                    f"{role} of {self.gun}: {self.url} names a file that it does not have",
                    hint="If this lasts, the repository's trust data is damaged; its owner must "
                    "publish that role again",
                )
            known = self._content(response)
            meta.check(known, what=f"{role} of {self.gun}")
            self._files[meta.sha256] = known
        return known

    def _get(self, file: str, limit: int, *, fresh: bool) -> Response:
        return self.transport.request(
            "GET",
            f"{self._base}/{file}",
            what=_WHAT,
            max_bytes=max(limit, _MAX_ANSWER),
            # A shared cache may otherwise serve a timestamp that is five minutes old.
            headers={"Cache-Control": "no-cache"} if fresh else {},
            authorizer=self.authorizer,
        )

    def _content(self, response: Response) -> bytes:
        if response.status != HTTPStatus.OK:
            raise _refusal(response)
        return response.body

    @property
    def _base(self) -> str:
        return f"{self.url}/v2/{self.gun}/_trust/tuf"

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
        attempt = _Attempt(self, signers)
        deadline = time.monotonic() + _PUBLISH_DEADLINE_S
        while True:
            try:
                repository = self.refresh()
            except RemoteError as error:
                if attempt.number == 0 or isinstance(error, _FINAL):
                    raise
                attempt.trouble = error
            else:
                changes = plan(repository)
                if not changes:
                    return Publication(repository, attempt.roles, attempt.number)
                attempt.send(repository, changes)
            if time.monotonic() > deadline:
                raise ConflictError(
                    f"{self.gun} could not be published in {_PUBLISH_DEADLINE_S:.0f} seconds "
                    f"and {attempt.number} tries: {attempt.trouble or 'other publishers won'}",
                    hint="Nothing was lost; run the step again",
                )
            attempt.pause()

    def post(self, files: Mapping[str, bytes]) -> Response:
        """Send role *files* in one form; the server takes all of them or none."""
        boundary = secrets.token_hex(24)
        body = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{role}"\r\n'
            f"Content-Type: application/octet-stream\r\n\r\n".encode()
            + data
            + b"\r\n"
            for role, data in files.items()
        )
        return self.transport.request(
            "POST",
            f"{self._base}/",
            what=_WHAT,
            max_bytes=_MAX_ANSWER,
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
            body=body + f"--{boundary}--\r\n".encode(),
            authorizer=self.authorizer,
        )

    def newest_version(self, role: str, above: int) -> int:
        """The highest version of *role* that the server holds, orphans included.

        The server's race between `targets` and delegations can leave a version that nothing
        refers to and whose number is used up.
        """
        version = above
        while version < above + _MAX_ORPHANS:
            response = self._get(f"{version + 1}.{role}.json", _MAX_FILE, fresh=True)
            if response.status == HTTPStatus.NOT_FOUND:
                break
            self._content(response)
            version += 1
        return version

    # --- First publication ---

    def check_write(self) -> None:
        """Ask for something that only publishers get, so that a refusal comes early.

        Raises:
            UnauthorizedError: The credentials do not allow publishing here.
        """
        self.server_key(TIMESTAMP)

    def server_key(self, role: str) -> PublicKey:
        """The public key with which the server itself will sign *role* of this repository."""
        response = self._get(f"{role}.key", _MAX_KEY, fresh=True)
        content = self._content(response)
        try:
            value: Any = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{role} key from {self.url}: not JSON") from error
        return PublicKey.from_json(value, what=f"{role} key from {self.url}")

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
        """
        server_keys = {role: self.server_key(role) for role in (SNAPSHOT, TIMESTAMP)}
        keys = {ROOT: root_key, TARGETS: targets_key, **server_keys}
        files = first_files(keys, signers, self.clock())
        response = self.post(files)
        if response.status != HTTPStatus.OK:
            raise _refused(response, self.url, self.gun)
        repository = self.refresh()
        if repository.files[ROOT] != files[ROOT]:
            raise ConflictError(f"{self.gun} was initialised by somebody else at the same moment")
        return repository

    # --- The cache ---

    def _resume(self, cache: TrustCache) -> None:
        kept = cache.read(ROOT)
        if kept is None:
            return
        self._root = kept
        try:
            repository = TrustedRepository(self.gun, self.clock(), self.pins, self._floors)
            repository.resume_root(kept)
            self._resume_versions(repository, cache)
        except (TrustError, FormatError):
            return  # expired or damaged: the root stays the pin, the rest is fetched anew

    def _resume_versions(self, repository: TrustedRepository, cache: TrustCache) -> None:
        for role, load in (
            (TIMESTAMP, repository.load_timestamp),
            (SNAPSHOT, repository.load_snapshot),
            (TARGETS, repository.load_targets),
        ):
            data = cache.read(role)
            if data is None:
                return
            load(data)
            self._files[FileMeta.of(data).sha256] = data
        for delegation in repository.delegations():
            data = cache.read(delegation.name)
            if data is not None and delegation.name in repository.snapshot.body.meta:
                repository.load_delegation(delegation.name, data)
                self._files[FileMeta.of(data).sha256] = data

    def _keep(self, repository: TrustedRepository) -> None:
        if self.cache is not None:
            for role, data in repository.files.items():
                if self.cache.read(role) != data:
                    self.cache.write(role, data)


@dataclass(slots=True)
class _Attempt:
    """The tries of one publication: what was sent, and what came of it."""

    server: TrustServer
    signers: Mapping[str, Signer]
    number: int = 0
    roles: tuple[str, ...] = ()
    trouble: RemoteError | None = None
    _used: dict[str, int] = field(default_factory=dict)  # versions that are taken, by role
    _conflicted: dict[str, int] = field(default_factory=dict)  # the base of the last conflict
    _settled: bool = False

    def send(self, repository: TrustedRepository, changes: Mapping[str, Targets]) -> None:
        self.number += 1
        self._settled = False
        files = {role: self._signed(repository, role, content) for role, content in changes.items()}
        try:
            response = self.server.post(files)
        except UnreachableError as error:
            self.trouble = error  # it may have arrived all the same; the next refresh tells
            return
        if response.status == HTTPStatus.OK:
            # Where the server then loses the update, its version stays taken.
            self._used = {role: self._next(repository, role, changes[role]) for role in files}
            self.roles, self._settled = tuple(files), True
            return
        self.trouble = _refused(response, self.server.url, repository.gun)
        base = {role: content.version for role, content in changes.items()}
        if isinstance(self.trouble, ConflictError):
            if base == self._conflicted:
                self._used = {
                    role: self.server.newest_version(role, version)
                    for role, version in base.items()
                }
            self._conflicted = base
        elif response.status not in _SERVER_BUSY and not self._moved(repository):
            raise self.trouble

    def pause(self) -> None:
        """Wait a random time, so that publishers who collided do not collide again."""
        if not self._settled:
            limit_s = min(_BACKOFF_CAP_S, _BACKOFF_S * 2**self.number)
            time.sleep(random.uniform(0, limit_s))  # noqa: S311 -- spreads load, guards nothing

    def _signed(self, repository: TrustedRepository, role: str, content: Targets) -> bytes:
        new = replace(
            content,
            version=self._next(repository, role, content),
            expires=Expiry.at(repository.now + LIFETIMES[TARGETS]),
        )
        return signed_file(role, new, *repository.role_keys(role), self.signers)

    def _next(self, repository: TrustedRepository, role: str, content: Targets) -> int:
        return 1 + max(content.version, repository.floors.get(role, 0), self._used.get(role, 0))

    def _moved(self, repository: TrustedRepository) -> bool:
        """Whether somebody published since *repository* was fetched; a refusal may be due to it."""
        now = self.server.refresh()
        return now.snapshot.body.version != repository.snapshot.body.version


def _refused(response: Response, server: str, gun: str) -> RemoteError:
    """The error that an answer to a publication stands for."""
    codes = _error_codes(response)
    if response.status == HTTPStatus.BAD_REQUEST and "VERSION" in codes:
        return ConflictError(f"{gun} was changed by somebody else on {server}")
    return _refusal(response)


def _refusal(response: Response) -> RemoteError:
    error = refusal(response, _WHAT)
    if isinstance(error, UnauthorizedError):
        error.hint = "The account needs the right to push to the repository, and to sign in it"
    return error


def _error_codes(response: Response) -> frozenset[str]:
    try:
        errors = json.loads(response.body)["errors"]
        return frozenset(str(error["code"]) for error in errors)
    except (ValueError, LookupError, TypeError, RecursionError):
        return frozenset()
