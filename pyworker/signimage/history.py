"""What a tag was before, as far as the trust server still shows it, and how sure that is.

A trust server keeps every file that it ever took, by hash and by number. Each old state is judged
by the same rules as the current one but for its expiry:

1. Begin with the newest timestamp and go back, number by number.
2. A timestamp names its snapshot, and that everything else, by hash; each file must be signed by
   the keys that counted then, under the root that counted then.
3. A root is proven if it is the believed one, or if a proven one's root key signed it. What stands
   under any other root is the server's word.
4. When something was published is the server's word, always.

Nothing is believed or kept because of what is found here.

`docs/rotation-and-revocation.md`, "Looking back"; `docs/protocol.md`, "Refreshing".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from signimage.errors import (
    FormatError,
    NotFoundError,
    NotSignedError,
    RemoteError,
    TrustError,
    UnauthorizedError,
    UnreachableError,
)
from signimage.filemeta import FileMeta
from signimage.lookup import released, signers_of
from signimage.metadata import ROOT, SNAPSHOT, TARGETS, TIMESTAMP, Root, Signed, Snapshot, Timestamp
from signimage.notary import TrustServer
from signimage.oci import Digest
from signimage.trust import TrustedRepository, check_threshold
from signimage.trustapi import TrustApi

MAX_PUBLICATIONS = 10_000


@dataclass(frozen=True, slots=True)
class Moment:
    """What consumers got for a tag, from one publication to the next one that changed it.

    Attributes:
        version: Of the timestamp that first showed it.
        since: When that arrived, RFC 3339, by the server's word; empty where it has none.
        digest: What they got; None where the tag was not signed, or nobody can tell.
        signers: Who vouched for it.
        problem: Why the state breaks a rule, in a sentence; empty where it holds.
        is_proven: Whether the root that it stands under is (rule 3).
    """

    version: int
    since: str
    digest: Digest | None
    signers: tuple[str, ...] = ()
    problem: str = ""
    is_proven: bool = True

    def is_like(self, other: "Moment") -> bool:
        """Whether consumers saw no difference."""
        return replace(other, version=self.version, since=self.since) == self


@dataclass(frozen=True, slots=True)
class History:
    """The moments of a tag, the newest first, and what cannot be known of them."""

    moments: tuple[Moment, ...]
    notes: tuple[str, ...]


def history(server: TrustServer, tag: str, limit: int) -> History:
    """Look back over the last *limit* publications of a repository, for what *tag* was.

    Raises:
        TrustError: The current state breaks a rule.
        RemoteError: The server could not be asked.
    """
    now = server.refresh()
    newest = now.timestamp.body.version
    oldest = max(1, newest - limit + 1)
    times = _times(server.api, newest - oldest + 1)
    past = _Past(server, now)
    found: list[Moment] = []
    missing = []
    for version in range(newest, oldest - 1, -1):
        data = server.api.old(TIMESTAMP, version)
        if data is None:
            missing.append(version)
            continue
        moment = past.moment(tag, data, version, times.get(version, ""))
        if found and found[-1].is_like(moment):
            found.pop()  # it was so before already
        found.append(moment)
    while found and found[-1].digest is None and not found[-1].problem:
        found.pop()  # before the tag there was nothing to tell
    return History(tuple(found), tuple(_notes(times, missing, oldest, found)))


def _times(api: TrustApi, limit: int) -> Mapping[int, str]:
    try:
        return api.publication_times(limit)
    except (UnreachableError, UnauthorizedError):
        raise
    except (RemoteError, FormatError):
        return {}


def _notes(
    times: Mapping[int, str], missing: list[int], oldest: int, moments: list[Moment]
) -> Iterator[str]:
    if times:
        yield "When something was published is the trust server's word; nobody signed it"
    else:
        yield "The trust server keeps no record of when something was published"
    if missing:
        yield (
            f"{len(missing)} publications between {missing[-1]} and {missing[0]} are not shown "
            "any more"
        )
    if oldest > 1:
        yield f"Publications before {oldest} were not looked at; --limit looks further back"
    if not all(moment.is_proven for moment in moments):
        yield (
            "What is marked as unproven stands under an older root key: that the two belong "
            "together is the trust server's word"
        )


@dataclass(slots=True)
class _Past:
    """The old states of one repository, and the files that were fetched for them."""

    server: TrustServer
    now: TrustedRepository
    _roots: dict[bytes, tuple[bytes, bool]] = field(default_factory=dict)  # by hash; is it proven
    _files: dict[bytes, bytes] = field(default_factory=dict)  # by hash

    def __post_init__(self) -> None:
        newer, is_proven = self.now.files[ROOT], True
        self._roots[sha256(newer).digest()] = (newer, True)
        for version in range(self.now.root.body.version - 1, 0, -1):
            older = self.server.api.old(ROOT, version)
            if older is None:
                break
            is_proven = is_proven and _is_proven(older, newer)
            self._roots[sha256(older).digest()] = (older, is_proven)
            newer = older

    def moment(self, tag: str, timestamp: bytes, version: int, since: str) -> Moment:
        """What the state under that *timestamp* says of *tag*."""
        try:
            repository, is_proven = self._state(timestamp, version)
        except (TrustError, FormatError, NotFoundError) as error:
            return Moment(version, since, None, problem=str(error))
        try:
            meta = released(repository, tag)
        except NotSignedError:
            return Moment(version, since, None, is_proven=is_proven)
        except TrustError as error:
            return Moment(version, since, None, problem=str(error), is_proven=is_proven)
        names = signers_of(repository, tag, meta)
        return Moment(version, since, Digest.of_raw(meta.sha256), names, is_proven=is_proven)

    def _state(self, timestamp: bytes, version: int) -> tuple[TrustedRepository, bool]:
        what = f"old timestamp of {self.now.gun}"
        named = Signed.parse(timestamp, Timestamp, what=what).body
        if named.version != version:
            raise TrustError(f"{what}: expected version {version}, got {named.version}")
        snapshot = self._file(SNAPSHOT, named.meta[SNAPSHOT])
        what = f"old snapshot of {self.now.gun}"
        files = Signed.parse(snapshot, Snapshot, what=what).body.meta
        root, is_proven = self._root(files[ROOT].sha256)
        state = TrustedRepository(self.now.gun, self.now.now, ignores_expiry=True)
        state.resume_root(root)
        state.load_timestamp(timestamp)
        state.load_snapshot(snapshot)
        state.check_root_is_current()
        state.load_targets(self._file(TARGETS, files[TARGETS]))
        for entry in state.delegations():
            if entry.name in files:
                state.load_delegation(entry.name, self._file(entry.name, files[entry.name]))
        return state, is_proven

    def _root(self, digest: bytes) -> tuple[bytes, bool]:
        if digest not in self._roots:
            raise TrustError(f"root of {self.now.gun}: the root of that time is not shown any more")
        return self._roots[digest]

    def _file(self, role: str, meta: FileMeta) -> bytes:
        if meta.sha256 not in self._files:
            self._files[meta.sha256] = self.server.api.by_hash(role, meta.sha256, meta.length)
        return self._files[meta.sha256]


def _is_proven(older: bytes, newer: bytes) -> bool:
    """Whether the root keys of *newer* signed *older*, which nobody else can have done."""
    try:
        known = Signed.parse(newer, Root, what="newer root").body
        signed = Signed.parse(older, Root, what="older root")
        check_threshold(signed, known.roles[ROOT], known.keys, "older root")
    except (TrustError, FormatError):
        return False
    return True
