"""The role files of Notary v1: parse, edit, and serialise byte for byte as Notary does.

Rules of this file:

1. Anything parses or raises `FormatError`; nothing here decides whether content is trusted.
2. What is signed is the canonical JSON of `signed` *as received*, unknown members included.
3. What is written has exactly the members Notary knows, in its order, without any white space:
   the server stores our bytes but hashes its own rendering, so one differing byte makes a
   repository unreadable although the upload was acknowledged.
4. Go writes `null` for some empty lists and reads members in any letter case. The first is
   read as empty; the second is refused, because two readers would see two documents.

Format: TUF 1.0 as of Notary 0.7 (`docs/protocol.md`, "Role files").
"""

import base64
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from signimage import canonical
from signimage.errors import FormatError
from signimage.filemeta import Expiry, FileMeta, FileMetas, file_metas
from signimage.keys import PublicKey, Signature
from signimage.members import Members, kind_of, strict_base64

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
BASE_ROLES = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)
# The delegation whose targets `docker pull` believes; every signer publishes to it.
RELEASES = "targets/releases"

# How long Notary's clients let new files live (notary.go, NotaryDefaultExpiries).
LIFETIMES = {ROOT: timedelta(days=10 * 365), TARGETS: timedelta(days=3 * 365)}

_ENVELOPE = ("signed", "signatures")
# The targets stand between these in a file as Notary writes it.
_TARGETS, _AFTER_TARGETS = ',"targets":{', '},"version":'
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_DELEGATION_NAME = re.compile(r"targets(?:/[-a-z0-9_]+)+", re.ASCII)
_MAX_ROLE_NAME = 255  # bytes; Notary's limit
# A root has one more for each former root key; to try one costs up to 1 ms.
_MAX_SIGNATURES = 1000
_MAX_VERSION = 2**31 - 1  # the server's PostgreSQL column is a 32-bit integer


@dataclass(frozen=True, slots=True)
class Role:
    """Who may sign: any `threshold` of the keys named in `keyids` (TUF key IDs)."""

    keyids: tuple[str, ...]
    threshold: int

    @classmethod
    def of(cls, *keys: PublicKey) -> "Role":
        """A role that any single one of *keys* satisfies."""
        return cls(tuple(key.key_id for key in keys), 1)


@dataclass(frozen=True, slots=True)
class Delegation:
    """A role that `targets` (or another delegation) entrusts with target names.

    `paths` are byte prefixes, not patterns: `""` admits every name, an empty tuple none.
    """

    name: str
    role: Role
    paths: tuple[str, ...] | None  # None: the member is absent, which admits nothing

    def admits(self, target: str) -> bool:
        """Whether this role may sign a target of that name."""
        return any(target.startswith(path) for path in self.paths or ())

    @property
    def signer(self) -> str:
        """The name people use: `ci` for `targets/ci`."""
        return self.name.removeprefix("targets/")


class Body(Protocol):
    """What the four kinds of `signed` have in common."""

    TYPE: ClassVar[str]

    @property
    def version(self) -> int:
        """Counts up by one with every publication, from 1."""

    @property
    def expires(self) -> Expiry:
        """After this moment nobody may rely on the file."""

    @classmethod
    def from_json(cls, value: Any, what: str) -> "Body":
        """Read the `signed` member of a role file."""

    def to_json(self) -> dict[str, Any]:
        """Exactly the members Notary writes."""


B = TypeVar("B", bound=Body)


@dataclass(frozen=True, slots=True)
class Root:
    """Which keys speak for the four base roles; the anchor of all trust."""

    TYPE: ClassVar[str] = "Root"

    keys: Mapping[str, PublicKey]  # by TUF key ID
    roles: Mapping[str, Role]  # by base role name; all four are present
    version: int
    expires: Expiry
    consistent_snapshot: bool = False

    @classmethod
    def from_json(cls, value: Any, what: str) -> "Root":
        """Read the `signed` member of root.json."""
        members = Members(
            value, what, ("_type", "consistent_snapshot", "expires", "keys", "roles", "version")
        )
        keys = _keys(members.map("keys"), what)
        roles = {
            name: _role(Members(role, _of_role(name, what), ("keyids", "threshold")), keys)
            for name, role in members.map("roles").items()
        }
        for name in BASE_ROLES:
            if name not in roles:
                raise FormatError(f"{what}: role {name} is missing")
        consistent = members.value("consistent_snapshot")
        if consistent not in (True, False, None):
            raise FormatError(f"{what}: consistent_snapshot must be true or false")
        return cls(keys, roles, *_version_and_expiry(members), bool(consistent))

    def to_json(self) -> dict[str, Any]:
        """Exactly the members Notary writes."""
        roles = {
            name: {"keyids": list(role.keyids), "threshold": role.threshold}
            for name, role in self.roles.items()
        }
        return {
            "_type": self.TYPE,
            "consistent_snapshot": self.consistent_snapshot,
            "expires": self.expires.text,
            "keys": {key_id: key.to_json() for key_id, key in self.keys.items()},
            "roles": roles,
            "version": self.version,
        }


@dataclass(frozen=True, slots=True)
class Targets:
    """Signed names, and the delegations that may sign further ones."""

    TYPE: ClassVar[str] = "Targets"

    targets: Mapping[str, FileMeta]  # by target name; for Docker the tag
    delegations: tuple[Delegation, ...]
    delegation_keys: Mapping[str, PublicKey]  # by TUF key ID
    version: int
    expires: Expiry

    @classmethod
    def from_json(cls, value: Any, what: str) -> "Targets":
        """Read the `signed` member of targets.json or of a delegation's file."""
        members = Members(value, what, ("_type", "delegations", "expires", "targets", "version"))
        targets = file_metas(members.map("targets"), f"{what}: target")
        inner = Members(members.map("delegations"), f"{what}: delegations", ("keys", "roles"))
        keys = _keys(inner.map("keys"), what)
        delegations = tuple(_delegation(entry, keys, what) for entry in inner.list("roles"))
        return cls(targets, delegations, keys, *_version_and_expiry(members))

    def to_json(self) -> dict[str, Any]:
        """Exactly the members Notary writes."""
        return {
            "_type": self.TYPE,
            "delegations": {
                "keys": {key_id: key.to_json() for key_id, key in self.delegation_keys.items()},
                "roles": [_delegation_json(delegation) for delegation in self.delegations],
            },
            "expires": self.expires.text,
            "targets": {name: meta.to_json() for name, meta in self.targets.items()},
            "version": self.version,
        }

    @classmethod
    def empty(cls) -> "Targets":
        """The state of a role that was never published: version 0, no content."""
        return cls({}, (), {}, 0, Expiry.at(datetime.fromtimestamp(0, timezone.utc)))

    def children(self, name: str) -> tuple[Delegation, ...]:
        """The delegations that are legal, direct children of *name*, the role of this content.

        Notary passes over all others, and so must everybody who wants to see what it sees.
        """
        return tuple(
            entry
            for entry in self.delegations
            if is_delegation(entry.name) and entry.name.rpartition("/")[0] == name
        )

    def with_targets(self, targets: Mapping[str, FileMeta]) -> "Targets":
        """This content with *targets* added or replaced."""
        if isinstance(self.targets, FileMetas):
            return replace(self, targets=self.targets.with_metas(targets))
        return replace(self, targets={**self.targets, **targets})

    def with_delegation(self, name: str, keys: Sequence[PublicKey]) -> "Targets":
        """This content with *keys* entrusted to the delegation *name*, for every target name."""
        known = {key.key_id: key for key in keys}
        old = next((entry for entry in self.delegations if entry.name == name), None)
        keyids = dict.fromkeys((*(old.role.keyids if old else ()), *known))
        entry = Delegation(name, Role(tuple(keyids), old.role.threshold if old else 1), ("",))
        if old is None:
            delegations = (*self.delegations, entry)
        else:
            delegations = tuple(entry if each is old else each for each in self.delegations)
        return replace(
            self, delegations=delegations, delegation_keys={**self.delegation_keys, **known}
        )

    def without_delegation(self, name: str) -> "Targets":
        """This content without the delegation *name*, and without keys that nobody uses then."""
        return self.with_delegations(each for each in self.delegations if each.name != name)

    def without_keys(self, name: str, keyids: Collection[str]) -> "Targets":
        """This content with *keyids* (TUF key IDs) taken from the delegation *name*.

        A delegation that has no key left is taken away.
        """
        kept = []
        for each in self.delegations:
            ids = tuple(key_id for key_id in each.role.keyids if key_id not in keyids)
            if each.name != name:
                kept.append(each)
            elif ids:
                threshold = min(each.role.threshold, len(ids))
                kept.append(replace(each, role=Role(ids, threshold)))
        return self.with_delegations(kept)

    def with_delegations(self, delegations: Iterable[Delegation]) -> "Targets":
        """This content with *delegations* alone, and without keys that nobody uses then."""
        kept = tuple(delegations)
        used = {key_id for each in kept for key_id in each.role.keyids}
        keys = {key_id: key for key_id, key in self.delegation_keys.items() if key_id in used}
        return replace(self, delegations=kept, delegation_keys=keys)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which version of every other file belongs together."""

    TYPE: ClassVar[str] = "Snapshot"

    meta: Mapping[str, FileMeta]  # by role name: root, targets, every published delegation
    version: int
    expires: Expiry

    @classmethod
    def from_json(cls, value: Any, what: str) -> "Snapshot":
        """Read the `signed` member of snapshot.json."""
        members = Members(value, what, ("_type", "expires", "meta", "version"))
        return cls(_files(members, (ROOT, TARGETS), what), *_version_and_expiry(members))

    def to_json(self) -> dict[str, Any]:
        """Exactly the members Notary writes."""
        return _files_json(self)


@dataclass(frozen=True, slots=True)
class Timestamp:
    """The freshest word of the server: which snapshot is current."""

    TYPE: ClassVar[str] = "Timestamp"

    meta: Mapping[str, FileMeta]  # the one entry `snapshot`
    version: int
    expires: Expiry

    @classmethod
    def from_json(cls, value: Any, what: str) -> "Timestamp":
        """Read the `signed` member of timestamp.json."""
        members = Members(value, what, ("_type", "expires", "meta", "version"))
        return cls(_files(members, (SNAPSHOT,), what), *_version_and_expiry(members))

    def to_json(self) -> dict[str, Any]:
        """Exactly the members Notary writes."""
        return _files_json(self)


@dataclass(frozen=True, slots=True)
class Signed(Generic[B]):
    """A parsed role file: what it says, who signed it, and the bytes that were signed."""

    body: B
    signatures: tuple[Signature, ...]
    payload: bytes  # canonical JSON of `signed` as received

    @classmethod
    def parse(cls, data: bytes, kind: type[B], *, what: str) -> "Signed[B]":
        """Read a role file of the given *kind*.

        Args:
            data: The file, whole.
            kind: `Root`, `Targets`, `Snapshot` or `Timestamp`.
            what: Names the file in errors, e.g. "targets/releases of reg/app".

        Raises:
            FormatError: The bytes are not such a file.
        """
        try:
            return _parsed(data, kind)
        except FormatError:
            return _read(data, kind, what)  # again, for an error that names the file


@lru_cache(maxsize=16)
def _parsed(data: bytes, kind: type[B]) -> "Signed[B]":
    """Read a file once, however often its bytes come by: before, while and after publishing."""
    return _read(data, kind, "role file")


def _read(data: bytes, kind: type[B], what: str) -> "Signed[B]":
    if kind is Targets and (usual := _usual_targets(data, what)):
        return usual  # type: ignore[return-value]  # kind is type[B]
    own = canonical.parse_own_spelling(data)
    signed, signatures, message = own or (None, None, b"")
    document = {"signed": signed, "signatures": signatures} if own else None
    members = Members(document or canonical.parse(data, what=what), what, _ENVELOPE)
    signed = members.map("signed")
    if signed.get("_type") != kind.TYPE:
        raise FormatError(f"{what}: expected _type {kind.TYPE}, got {_shown(signed.get('_type'))}")
    entries = members.list("signatures")
    if len(entries) > _MAX_SIGNATURES:
        raise FormatError(
            f"{what}: expected at most {_MAX_SIGNATURES} signatures, got {len(entries)}"
        )
    made = tuple(_signature(entry, what) for entry in entries)
    body = kind.from_json(signed, what)
    try:
        return Signed(body, made, message or canonical.encode(signed))  # type: ignore[arg-type]  # kind is type[B]
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from error


def _usual_targets(data: bytes, what: str) -> "Signed[Targets] | None":
    """Read a file of targets with the targets left as text; None for one of unusual form.

    1. Cut out what stands between the braces of `targets`, and read the rest by itself.
    2. Put both together again and write them: if that gives the same bytes, it was read right.
    """
    try:
        text = data.decode()
        begin, end = text.index(_TARGETS) + len(_TARGETS), text.rindex(_AFTER_TARGETS)
        metas = FileMetas.spelt(text[begin:end])
        if not metas:
            return None
        rest = _read((text[:begin] + text[end:]).encode(), Targets, what)
    except (ValueError, FormatError):
        return None
    body = replace(rest.body, targets=metas)
    message = payload(body)
    whole = envelope(message, rest.signatures) == data
    return Signed(body, rest.signatures, message) if whole else None


def payload(body: Body) -> bytes:
    """The bytes that signatures of *body* are made over."""
    if isinstance(body, Targets) and isinstance(body.targets, FileMetas):
        empty = canonical.encode(replace(body, targets={}).to_json()).decode()
        before, _, after = empty.rpartition(_AFTER_TARGETS)
        return f"{before}{body.targets.text}{_AFTER_TARGETS}{after}".encode()
    return canonical.encode(body.to_json())


def serialise(body: Body, signatures: Iterable[Signature]) -> bytes:
    """The role file, byte for byte as Notary would write it."""
    return envelope(payload(body), signatures)


def envelope(message: bytes, signatures: Iterable[Signature]) -> bytes:
    """The role file around *message*, the `payload` that was signed."""
    rendered = ",".join(
        f'{{"keyid":"{each.keyid}","method":"{each.method}",'
        f'"sig":"{base64.b64encode(each.sig).decode()}"}}'
        for each in signatures
    )
    # Go's outer encoder escapes HTML in what was canonical when it was signed.
    signed = canonical.escape_html(message.decode())
    return f'{{"signed":{signed},"signatures":[{rendered}]}}'.encode()


def is_delegation(name: str) -> bool:
    """Whether *name* is a legal delegation role name, `targets/<a>[/<b>…]`."""
    return bool(_DELEGATION_NAME.fullmatch(name)) and len(name) <= _MAX_ROLE_NAME


def _shown(value: Any) -> str:
    return repr(value[:60]) if isinstance(value, str) else kind_of(value)


def _keys(values: Mapping[str, Any], what: str) -> dict[str, PublicKey]:
    for key_id in values:
        # Pages, logs and commands to copy show it as it is.
        if not _KEY_ID.fullmatch(key_id):
            raise FormatError(f"{what}: expected key IDs of 64 hex digits, got {key_id[:64]!r}")
    return {key_id: PublicKey.from_json(value, what=what) for key_id, value in values.items()}


def _role(members: Members, keys: Mapping[str, PublicKey]) -> Role:
    role = Role(members.texts("keyids"), members.integer("threshold", minimum=1))
    for key_id in role.keyids:
        if key_id not in keys:
            raise FormatError(f"{members.what}: key {key_id[:64]!r} is not in the same file")
    return role


def _of_role(name: str, what: str) -> str:
    return f"{what}: role {name if name in BASE_ROLES else repr(name[:64])}"


def _delegation(value: Any, keys: Mapping[str, PublicKey], what: str) -> Delegation:
    members = Members(value, f"{what}: delegation", ("keyids", "name", "paths", "threshold"))
    # An empty list admits as little as an absent one, and would not be written again.
    paths = members.texts("paths") or None
    return Delegation(members.text("name"), _role(members, keys), paths)


def _delegation_json(delegation: Delegation) -> dict[str, Any]:
    # An empty or null `paths` is not byte-stable in the server; an absent one is.
    paths = {"paths": list(delegation.paths)} if delegation.paths else {}
    return {
        "keyids": list(delegation.role.keyids),
        "name": delegation.name,
        "threshold": delegation.role.threshold,
        **paths,
    }


def _files(members: Members, required: tuple[str, ...], what: str) -> dict[str, FileMeta]:
    files = file_metas(members.map("meta"), f"{what}: entry")
    for name in required:
        if name not in files or not files[name].sha256:
            raise FormatError(f"{what}: its entry for {name} with a SHA-256 hash is missing")
    return files


def _files_json(body: Snapshot | Timestamp) -> dict[str, Any]:
    return {
        "_type": body.TYPE,
        "expires": body.expires.text,
        "meta": {name: meta.to_json() for name, meta in body.meta.items()},
        "version": body.version,
    }


def _signature(value: Any, what: str) -> Signature:
    members = Members(value, f"{what}: signature", ("keyid", "method", "sig"))
    # Notary lower-cases the method when it reads; so does everybody who wants to agree with it.
    return Signature(
        keyid=members.text("keyid"),
        method=members.text("method").lower(),
        sig=strict_base64(members.value("sig"), f"{what}: signature"),
    )


def _version_and_expiry(members: Members) -> tuple[int, Expiry]:
    version = members.integer("version", minimum=1)
    if version > _MAX_VERSION:
        raise FormatError(f"{members.what}: version must be at most {_MAX_VERSION}")
    return version, Expiry.parse(members.text("expires"), what=members.what)
