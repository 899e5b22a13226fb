"""Acceptance cases 11 to 16 and 19 as matrices: every role, every lie, whatever was kept before.

The rules of this file:

1. A *lie on the wire* changes the answer to one request; a *signed lie* changes one role file and
   is honest about it in the files that name it.
2. What is refused changes no byte that was kept, and nothing on the server.
3. What is named by a hash and kept under it is not asked for, so nobody can lie about it.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from signimage.errors import (
    ExpiredError,
    FormatError,
    HashMismatchError,
    NotFoundError,
    NotInitializedError,
    RollbackError,
    SignImageError,
    ThresholdError,
    TooLargeError,
    TrustError,
    UnavailableError,
    UnreachableError,
)
from signimage.lookup import released, signers_of
from signimage.metadata import (
    RELEASES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Body,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from signimage.trust import TrustedRepository, check_threshold
from unit.repositories import GUN, IMAGE, PAST, GoodRepository, key, newer
from unit.small_server import Reply
from unit.trust_server import Peer, error, kept
from unit.vectors import GUNS, MOMENT, role_files, roots

ROLES = (ROOT, TIMESTAMP, SNAPSHOT, TARGETS, "targets/ci", RELEASES)
FIRST, SAME, OLDER = "first visit", "same kept", "older kept"

Expected = tuple[type[SignImageError], str]


# --- Lies on the wire -------------------------------------------------------------------------


@dataclass(frozen=True)
class WireLie:
    """What is answered instead of a file, and what comes of it, by how the file is asked for."""

    reply: Callable[[bytes], Reply]
    root: Expected
    timestamp: Expected | None
    by_hash: Expected


def _answers(change: Callable[[bytes], bytes]) -> Callable[[bytes], Reply]:
    return lambda data: Reply(200, change(data))


WIRE_LIES = {
    "missing": WireLie(
        lambda _: error(404, "METADATA_NOT_FOUND"),
        (NotInitializedError, f"{GUN} has no trust data on https://127"),
        (NotFoundError, "trust server .*/timestamp.json answered 404"),
        (NotFoundError, f"{{role}} of {GUN}: .* names a file that it does not have"),
    ),
    "unavailable": WireLie(
        lambda _: error(503, "UNAVAILABLE"),
        (UnavailableError, "trust server .*/root.json answered 503"),
        (UnavailableError, "trust server .*/timestamp.json answered 503"),
        (UnavailableError, "trust server .*/{role}.[0-9a-f]+.json answered 503"),
    ),
    "failing": WireLie(
        lambda _: Reply(500),
        (UnavailableError, "trust server .*/root.json answered 500"),
        (UnavailableError, "trust server .*/timestamp.json answered 500"),
        (UnavailableError, "trust server .*/{role}.[0-9a-f]+.json answered 500"),
    ),
    "cut off": WireLie(
        lambda data: Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + data),
        (UnreachableError, "the answer ended before it was complete"),
        (UnreachableError, "the answer ended before it was complete"),
        (UnreachableError, "the answer ended before it was complete"),
    ),
    "one byte short": WireLie(
        _answers(lambda data: data[:-1]),
        (FormatError, f"root of {GUN}: expected JSON"),
        (FormatError, f"timestamp of {GUN}: expected JSON"),
        (HashMismatchError, rf"{{role}} of {GUN}: expected \d+ bytes, got \d+"),
    ),
    # White space changes nothing that is signed; where a length is named, it is refused.
    "one blank more": WireLie(
        _answers(lambda data: data + b" "),
        (HashMismatchError, rf"root of {GUN}: expected \d+ bytes, got \d+"),
        None,
        (HashMismatchError, rf"{{role}} of {GUN}: expected \d+ bytes, got \d+"),
    ),
    "other content": WireLie(
        _answers(lambda data: data.replace(b'"expires":"2', b'"expires":"3')),
        (ThresholdError, f"root of {GUN}: expected valid signatures by 1 of its keys, got 0"),
        (ThresholdError, f"timestamp of {GUN}: expected valid signatures by 1 of its keys, got 0"),
        (HashMismatchError, f"{{role}} of {GUN}: expected sha256 [0-9a-f]+, got [0-9a-f]+"),
    ),
    "a page": WireLie(
        lambda _: Reply(200, b"<html>Please log in</html>"),
        (FormatError, f"root of {GUN}: expected JSON"),
        (FormatError, f"timestamp of {GUN}: expected JSON"),
        (HashMismatchError, rf"{{role}} of {GUN}: expected \d+ bytes, got 26"),
    ),
    "endless": WireLie(
        lambda _: Reply(200, b" " * (2**24 + 1)),
        (TooLargeError, "expected at most 16777216 bytes, got more"),
        (TooLargeError, "expected at most 1048576 bytes, got more"),
        (TooLargeError, r"expected at most \d+ bytes, got more"),
    ),
}


def _expected_on_the_wire(lie: WireLie, role: str, state: str) -> Expected | None:
    if role == TIMESTAMP:
        return lie.timestamp
    if role == ROOT:  # a kept root is as good, until something is wrong
        return lie.root if state == FIRST else None
    return None if state == SAME else lie.by_hash


@pytest.mark.parametrize("state", [FIRST, SAME, OLDER])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", WIRE_LIES)
def test_a_lie_on_the_wire_is_refused_and_changes_nothing(
    peer: Peer, tmp_path: Path, name: str, role: str, state: str
) -> None:
    """Cases 11, 12 and 13: missing, unavailable, wrong, long, short and senseless answers."""
    cache = tmp_path / "trust"
    lie = WIRE_LIES[name]
    if state != FIRST:
        peer.client(cache).refresh()
    if state == OLDER:
        peer.model.hold(newer(GoodRepository()))
    reply = lie.reply(peer.model.current[role])
    if role in (ROOT, TIMESTAMP):
        peer.model.replies[f"{role}.json"] = reply
    else:
        peer.replace_by_hash(role, reply)
    expected = _expected_on_the_wire(lie, role, state)
    if expected is None:
        assert released(peer.client(cache).refresh(), "1.0") == IMAGE
        return
    kind, message = expected
    with peer.untouched(cache), pytest.raises(kind, match=message.replace("{role}", role)):
        peer.client(cache).refresh()


# --- Signed lies ------------------------------------------------------------------------------

SIGNED_ROLES = (TIMESTAMP, SNAPSHOT, TARGETS, "targets/ci", RELEASES)
SignedLie = Callable[[GoodRepository, str], None]


def _by_a_stranger(good: GoodRepository, role: str) -> None:
    good.signers[role] = [key("stranger")]


def _expired(good: GoodRepository, role: str) -> None:
    if role == TARGETS:
        good.targets = replace(good.targets, expires=PAST)
    elif role in good.delegated:
        good.delegated[role] = replace(good.delegated[role], expires=PAST)
    else:
        good.expiry[role] = PAST


def _rewritten(old: bytes, new: bytes) -> SignedLie:
    def lie(good: GoodRepository, role: str) -> None:
        def forge(data: bytes) -> bytes:
            assert old in data
            return data.replace(old, new, 1)

        good.reforge[role] = forge

    return lie


def _unsigned(good: GoodRepository, role: str) -> None:
    good.signers[role] = []


def _another_type(good: GoodRepository, role: str) -> None:
    kinds = (b"Timestamp", b"Snapshot", b"Targets")
    kind = {TIMESTAMP: b"Timestamp", SNAPSHOT: b"Snapshot"}.get(role, b"Targets")
    _rewritten(b'"' + kind + b'"', b'"' + kinds[kinds.index(kind) - 1] + b'"')(good, role)


SIGNED_LIES: dict[str, tuple[SignedLie, Expected]] = {
    "by a stranger": (_by_a_stranger, (ThresholdError, "expected valid signatures by 1 of its")),
    "unsigned": (_unsigned, (ThresholdError, "expected valid signatures by 1 of its keys, got 0")),
    "expired": (_expired, (ExpiredError, " expired at 2026-11-21T12:00:00Z; this machine's clock")),
    "changed": (
        _rewritten(b'"expires":"2', b'"expires":"3'),
        (ThresholdError, "expected valid signatures by 1 of its keys, got 0"),
    ),
    "of another type": (_another_type, (FormatError, "expected _type .*, got")),
    "not JSON": (_rewritten(b"}", b"]"), (FormatError, "expected JSON")),
    "version as text": (
        _rewritten(b'"version":', b'"version":"1","x":'),
        (FormatError, "version must be a whole number from 1 up"),
    ),
    "without signed": (
        _rewritten(b'"signed"', b'"singed"'),
        (FormatError, "expected _type .*, got nothing"),
    ),
    "signatures as object": (
        _rewritten(b'"signatures":[', b'"x":{},"signatures":{"y":['),
        (FormatError, "expected JSON"),
    ),
    "member twice": (
        _rewritten(b'"_type"', b'"version":1,"_type"'),
        (FormatError, "expected each member once, got 'version' twice"),
    ),
    "member in capitals": (
        _rewritten(b'"_type"', b'"Expires":1,"_type"'),
        (FormatError, "member 'Expires' is misspelt in letter case"),
    ),
}


@pytest.mark.parametrize("state", [FIRST, OLDER])
@pytest.mark.parametrize("role", SIGNED_ROLES)
@pytest.mark.parametrize("name", SIGNED_LIES)
def test_a_signed_lie_is_refused_and_changes_nothing(
    peer: Peer, tmp_path: Path, name: str, role: str, state: str
) -> None:
    """Cases 13, 16 and 19: senseless, expired and wrongly signed files that others vouch for."""
    cache = tmp_path / "trust"
    if state == OLDER:
        peer.client(cache).refresh()
    lie, (kind, message) = SIGNED_LIES[name]
    good = newer(GoodRepository())
    lie(good, role)
    _tell(peer, good, role)
    _check_refused(peer, cache, role, kind, message)


def _tell(peer: Peer, good: GoodRepository, role: str) -> None:
    """Show *good* with the lie about *role*, which the model itself may be unable to read."""
    files = good.files()
    peer.model.current.update(files)
    for name, data in files.items():
        peer.model.versions.setdefault(name, {})[1000] = data
    assert role in files


def _check_refused(
    peer: Peer, cache: Path, role: str, kind: type[SignImageError], message: str
) -> None:
    sentence = f"{role} of {GUN}.*{message}"
    if role in (TIMESTAMP, SNAPSHOT, TARGETS):
        with peer.untouched(cache), pytest.raises(kind, match=sentence):
            peer.client(cache).refresh()
        return
    before = kept(cache)
    repository = peer.client(cache).refresh()
    with pytest.raises(kind, match=sentence):
        repository.targets(role)
    file = f"tuf/{GUN}/metadata/{role}.json"
    assert kept(cache).get(file) == before.get(file)
    if role == RELEASES:
        with pytest.raises(kind, match=sentence):
            released(repository, "1.0")
    else:
        assert released(repository, "1.0") == IMAGE
        assert signers_of(repository, "1.0", IMAGE) == ()
        assert any(role in warning for warning in repository.warnings)


# --- Going back -------------------------------------------------------------------------------


def _older(good: GoodRepository, role: str) -> GoodRepository:
    """The state after *good*, with *role* going back by one version."""
    if role == TIMESTAMP:
        return replace(newer(good), timestamp_version=good.timestamp_version - 1)
    if role == SNAPSHOT:
        return replace(newer(good), snapshot_version=good.snapshot_version - 1)
    after = newer(good)
    if role == TARGETS:
        return replace(after, targets=replace(good.targets, version=good.targets.version - 1))
    body = replace(good.delegated[role], version=good.delegated[role].version - 1)
    return replace(after, delegated={**after.delegated, role: body})


@pytest.mark.parametrize("damage", ["intact", "the role's file", "every file", "but the floors"])
@pytest.mark.parametrize("role", SIGNED_ROLES)
def test_no_role_goes_back_whatever_became_of_the_cache(
    peer: Peer, tmp_path: Path, role: str, damage: str
) -> None:
    """Case 14: floors outlive the cache, and the cache outlives the floors."""
    cache = tmp_path / "trust"
    good = newer(GoodRepository())
    peer.model.hold(good)
    peer.client(cache).refresh()
    for path in cache.rglob("*.json"):
        is_floors = path.name == "floors.json"
        is_role = path.as_posix().endswith(f"metadata/{role}.json")
        if damage == "the role's file" and is_role:
            path.write_bytes(b"{")
        if (damage == "every file" and not is_floors) or (damage == "but the floors" and is_floors):
            path.unlink()
    _tell(peer, _older(good, role), role)
    _check_refused(peer, cache, role, RollbackError, "expected version 2 or later, got 1")


@pytest.mark.parametrize("role", SIGNED_ROLES)
def test_no_role_goes_back_behind_what_docker_kept_long_ago(
    peer: Peer, tmp_path: Path, role: str
) -> None:
    """Case 14: a cache without our floors, whose files have expired, still says how far we were."""
    cache = tmp_path / "trust"
    old = newer(GoodRepository(expiry={TIMESTAMP: PAST, SNAPSHOT: PAST}))
    old.targets = replace(old.targets, expires=PAST)
    old.delegated = {name: replace(body, expires=PAST) for name, body in old.delegated.items()}
    for name, data in old.files().items():
        path = cache / "tuf" / GUN / "metadata" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    _tell(peer, _older(newer(GoodRepository()), role), role)
    _check_refused(peer, cache, role, RollbackError, "expected version 2 or later, got 1")


# --- Every byte of the golden files -----------------------------------------------------------

KINDS: dict[str, type[Body]] = {ROOT: Root, SNAPSHOT: Snapshot, TIMESTAMP: Timestamp}


def _signed_part(role: str, data: bytes) -> bytes:
    signed: Signed[Any] = Signed.parse(data, KINDS.get(role, Targets), what=role)
    return signed.payload


def _load(repository: TrustedRepository, role: str, data: bytes) -> None:
    """Let *repository* judge the file of *role*; raises what is wrong with it."""
    loads = {
        TIMESTAMP: repository.load_timestamp,
        SNAPSHOT: repository.load_snapshot,
        TARGETS: repository.load_targets,
    }
    if role in loads:
        loads[role](data)
        return
    repository.load_delegation(role, data)
    rejection = repository.rejection(role)
    if rejection is not None:
        raise rejection.error


def _up_to(folder: str, role: str) -> TrustedRepository:
    """Load the golden repository as far as it must be to judge *role*."""
    files = role_files(folder)
    repository = TrustedRepository(GUNS[folder], MOMENT)
    repository.trust_first_root(files[ROOT])
    for each in (TIMESTAMP, SNAPSHOT, TARGETS):
        if each == role:
            break
        _load(repository, each, files[each])
    return repository


def _flipped(data: bytes) -> list[bytes]:
    """Every copy of *data* in which one byte has another bit, each bit in its turn."""
    return [
        data[:place] + bytes([byte ^ 1 << place % 8]) + data[place + 1 :]
        for place, byte in enumerate(data)
    ]


GOLDEN = [(folder, role) for folder in GUNS for role in sorted(role_files(folder)) if role != ROOT]


@pytest.mark.parametrize(("folder", "role"), GOLDEN)
def test_a_flipped_bit_fails_verification_or_changes_nothing_signed(folder: str, role: str) -> None:
    """Case 12: any byte of any file that Docker or Notary wrote."""
    repository = _up_to(folder, role)
    original = role_files(folder)[role]
    signed = _signed_part(role, original)
    believed = 0
    for data in _flipped(original):
        try:
            _load(repository, role, data)
        except (TrustError, FormatError):
            continue
        assert _signed_part(role, data) == signed
        believed += 1
        repository = _up_to(folder, role)
    assert believed == 0 or role == TIMESTAMP, "only a timestamp is named by nobody"
    _load(repository, role, original)


@pytest.mark.parametrize(("folder", "role"), GOLDEN)
def test_a_flipped_bit_breaks_the_signature_or_changes_nothing_signed(
    folder: str, role: str
) -> None:
    """Case 19: also where the files that name it are honest about the flipped one."""
    repository = _up_to(folder, role)
    original = role_files(folder)[role]
    signed = _signed_part(role, original)
    for data in _flipped(original):
        with suppress(TrustError, FormatError):
            parsed: Signed[Any] = Signed.parse(data, KINDS.get(role, Targets), what=role)
            check_threshold(parsed, *repository.role_keys(role), role)
            assert parsed.payload == signed


@pytest.mark.parametrize("folder", GUNS)
def test_a_flipped_bit_in_a_first_root_fails_or_changes_nothing_signed(folder: str) -> None:
    """Case 12: and where it changes nothing signed, the snapshot still names other bytes."""
    original = role_files(folder)[ROOT]
    signed = _signed_part(ROOT, original)
    for data in _flipped(original):
        repository = TrustedRepository(GUNS[folder], MOMENT)
        try:
            repository.trust_first_root(data)
        except (TrustError, FormatError):
            continue
        assert _signed_part(ROOT, data) == signed
        for role in (TIMESTAMP, SNAPSHOT):
            _load(repository, role, role_files(folder)[role])
        with pytest.raises(HashMismatchError, match=r"root of .*: expected sha256"):
            repository.check_root_is_current()


def test_a_flipped_bit_in_a_rotation_fails_or_changes_nothing_signed() -> None:
    """Case 12: each step of the golden rotation, judged by the step before it."""
    folder = "notary-n1-rotated-root"
    chain = roots(folder)
    for before, after in pairwise(chain):
        signed = _signed_part(ROOT, after)
        for data in _flipped(after):
            repository = TrustedRepository(GUNS[folder], MOMENT)
            repository.resume_root(before)
            try:
                repository.rotate_root(data, newest=True)
            except (TrustError, FormatError):
                assert repository.files[ROOT] == before
                continue
            assert _signed_part(ROOT, data) == signed
