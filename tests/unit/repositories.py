"""A good repository with every key at hand, so that a test can tell one lie about it.

A lie is told by changing a body, the keys that sign it, or the finished bytes of one role; the
files that refer to it are then made anew and are honest, unless the lie is about them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import cache

from signimage.filemeta import Expiry, FileMeta
from signimage.keys import PrivateKey, PublicKey, Signature, root_certificate
from signimage.metadata import (
    RELEASES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Body,
    Role,
    Root,
    Snapshot,
    Targets,
    Timestamp,
    payload,
    serialise,
)
from signimage.pinning import NO_PINS, RootPins
from signimage.trust import TrustedRepository

GUN = "registry.example/team/app"
NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
LATER = Expiry.at(NOW + timedelta(days=400))
PAST = Expiry.at(NOW - timedelta(days=1))
IMAGE = FileMeta(529, {"sha256": bytes(range(32))})


@cache
def key(name: str) -> PrivateKey:
    """The private key that *name* stands for, the same one all through a test session."""
    del name
    return PrivateKey.generate_ecdsa()


@cache
def certificate(name: str, gun: str, since: datetime) -> PublicKey:
    """The key *name* in a certificate for *gun*: one certificate, as one initialisation makes."""
    return root_certificate(key(name), gun, since)


@dataclass
class GoodRepository:
    """Root, targets, `targets/ci`, `targets/releases`, snapshot and timestamp, all valid."""

    root: Root = field(default_factory=lambda: good_root("root"))
    targets: Targets = field(default_factory=lambda: good_targets("ci"))
    delegated: dict[str, Targets] = field(
        default_factory=lambda: {
            "targets/ci": content({"1.0": IMAGE, "unreleased": IMAGE}),
            RELEASES: content({"1.0": IMAGE}),
        }
    )
    snapshot_version: int = 1
    timestamp_version: int = 1
    expiry: dict[str, Expiry] = field(default_factory=dict)  # by role, of snapshot and timestamp
    signers: dict[str, list[PrivateKey]] = field(default_factory=dict)  # by role
    spoil: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)  # after hashing
    reforge: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)  # before hashing

    def files(self) -> dict[str, bytes]:
        """Every role file, by role."""
        made = {ROOT: self._sign(ROOT, self.root, "root")}
        made[TARGETS] = self._sign(TARGETS, self.targets, "targets")
        for name, body in self.delegated.items():
            made[name] = self._sign(name, body, "ci")
        snapshot = Snapshot(
            {name: FileMeta.of(data) for name, data in made.items()},
            self.snapshot_version,
            self.expiry.get(SNAPSHOT, LATER),
        )
        made[SNAPSHOT] = self._sign(SNAPSHOT, snapshot, "snapshot")
        timestamp = Timestamp(
            {SNAPSHOT: FileMeta.of(made[SNAPSHOT])},
            self.timestamp_version,
            self.expiry.get(TIMESTAMP, LATER),
        )
        made[TIMESTAMP] = self._sign(TIMESTAMP, timestamp, "timestamp")
        return {name: self.spoil.get(name, _as_is)(data) for name, data in made.items()}

    def _sign(self, role: str, body: Body, name: str) -> bytes:
        ids = self.root.roles[ROOT].keyids if role == ROOT else ()
        signers = self.signers.get(role, [key(name)])
        data = sign(body, signers, keyids=ids)
        return self.reforge.get(role, _as_is)(data)


def _as_is(data: bytes) -> bytes:
    return data


def sign(body: Body, signers: list[PrivateKey], *, keyids: tuple[str, ...] = ()) -> bytes:
    """The role file of *body*; a root's signatures carry the certificates' *keyids*."""
    message = payload(body)
    ids = keyids or tuple(signer.public_key.key_id for signer in signers)
    signatures = [
        Signature(key_id, *_signed(signer, message))
        for key_id, signer in zip(ids, signers, strict=False)
    ]
    return serialise(body, signatures)


@cache
def _signed(signer: PrivateKey, message: bytes) -> tuple[str, bytes]:
    """Sign each message once, so that what did not change has the same bytes again."""
    return signer.sign(message)


def good_root(name: str, *, version: int = 1, gun: str = GUN, since: datetime = NOW) -> Root:
    """A root whose root key is the key *name* in a certificate for *gun*."""
    keys = {
        ROOT: certificate(name, gun, since),
        TARGETS: key("targets").public_key,
        SNAPSHOT: key("snapshot").public_key,
        TIMESTAMP: key("timestamp").public_key,
    }
    return Root(
        keys={each.key_id: each for each in keys.values()},
        roles={role: Role.of(each) for role, each in keys.items()},
        version=version,
        expires=LATER,
    )


def root_file(body: Root, *names: str) -> bytes:
    """The file of *body*, signed by the keys *names* with their certificates for `GUN`."""
    keyids = tuple(certificate(name, GUN, NOW).key_id for name in names)
    return sign(body, [key(name) for name in names], keyids=keyids)


def next_root(old: Root, *names: str, threshold: int = 1) -> Root:
    """The root after *old*, whose root role has the keys *names*."""
    certificates = [certificate(name, GUN, NOW) for name in names]
    return replace(
        old,
        keys={**old.keys, **{each.key_id: each for each in certificates}},
        roles={**old.roles, ROOT: replace(Role.of(*certificates), threshold=threshold)},
        version=old.version + 1,
    )


def newer(good: GoodRepository) -> GoodRepository:
    """The next state of *good*: every file but the root has one version more."""
    return replace(
        good,
        targets=replace(good.targets, version=good.targets.version + 1),
        delegated={
            name: replace(body, version=body.version + 1) for name, body in good.delegated.items()
        },
        snapshot_version=good.snapshot_version + 1,
        timestamp_version=good.timestamp_version + 1,
    )


def good_targets(signer: str) -> Targets:
    """Targets that entrust the key of *signer* with its own role and with `targets/releases`."""
    keys = [key(signer).public_key]
    own = content({}).with_delegation(f"targets/{signer}", keys)
    return own.with_delegation(RELEASES, keys)


def content(targets: dict[str, FileMeta], *, version: int = 1) -> Targets:
    """A targets body that holds *targets*."""
    return replace(Targets.empty(), targets=targets, version=version, expires=LATER)


def believe(
    files: dict[str, bytes],
    *,
    now: datetime = NOW,
    pins: RootPins = NO_PINS,
    floors: dict[str, int] | None = None,
    gun: str = GUN,
) -> TrustedRepository:
    """Load *files* in the order of the rules, as a first visitor would."""
    repository = TrustedRepository(gun, now, pins, floors if floors is not None else {})
    repository.trust_first_root(files[ROOT])
    repository.load_timestamp(files[TIMESTAMP])
    repository.load_snapshot(files[SNAPSHOT])
    repository.check_root_is_current()
    repository.load_targets(files[TARGETS])
    for delegation in repository.delegations():
        if delegation.name in repository.snapshot.body.meta:
            repository.load_delegation(delegation.name, files[delegation.name])
    return repository
