"""A small trust server over real HTTPS that tells the truth until a test makes it lie.

It keeps what Notary's server keeps: every version of every role, by hash and by number. It holds
the snapshot and timestamp keys, and guards versions as the server's memory backend does.
"""

import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from signimage.filemeta import FileMeta
from signimage.metadata import ROOT, SNAPSHOT, TIMESTAMP, Root, Signed, Snapshot, Targets, Timestamp
from signimage.notary import TrustServer
from signimage.pinning import NO_PINS, RootPins
from signimage.publication import signing_plan
from signimage.publisher import Publication
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi
from signimage.trustcache import TrustCache
from unit.repositories import GUN, LATER, NOW, GoodRepository, key, sign
from unit.small_server import Reply, Request, SmallServer

_FILE = re.compile(rf"/v2/{re.escape(GUN)}/_trust/tuf/(.*)")
_PART = re.compile(
    rb'Content-Disposition: form-data; name="files"; filename="([^"]+)"\r\n'
    rb"Content-Type: application/octet-stream\r\n\r\n(.*?)\r\n--",
    re.DOTALL,
)

CI = key("ci").public_key.canonical_id
NEW = FileMeta(7, {"sha256": bytes(32)})

# What becomes of one POST: whether it is carried out, and what is answered.
Fate = Callable[["TrustServerModel", dict[str, bytes]], Reply]


def error(status: int, code: str, message: str = "no") -> Reply:
    """An answer in the form of Notary's error documents."""
    document = {"errors": [{"code": code, "message": message, "detail": {}}]}
    return Reply(status, json.dumps(document).encode())


@dataclass
class TrustServerModel:
    """The content of the server, and the fates that await the next POSTs."""

    versions: dict[str, dict[int, bytes]] = field(default_factory=dict)  # by role, by version
    current: dict[str, bytes] = field(default_factory=dict)  # by role
    fates: deque[Fate] = field(default_factory=deque)
    replies: dict[str, Reply] = field(default_factory=dict)  # by file, instead of the truth
    posts: int = 0

    @classmethod
    def holding(cls, repository: GoodRepository) -> "TrustServerModel":
        """A server that holds *repository*."""
        model = cls()
        model.hold(repository)
        return model

    def hold(self, repository: GoodRepository) -> None:
        """Show the files of *repository* from now on."""
        for role, data in repository.files().items():
            self.store(role, data)

    def carry_out(self, files: Mapping[str, bytes]) -> Reply:
        """Store *files* and sign what follows from them, unless a version is taken."""
        for role, data in files.items():
            if _version(role, data) in self.versions.get(role, {}):
                return error(400, "VERSION", "A newer version of metadata is already available.")
        for role, data in files.items():
            self.store(role, data)
        self.sign_snapshot()
        return Reply(200)

    def sign_snapshot(
        self,
        *,
        without: Mapping[str, bytes] | None = None,
        naming: Mapping[str, FileMeta] | None = None,
    ) -> None:
        """Sign a new snapshot and timestamp.

        Args:
            without: Older files to name for some roles, as in the server's race.
            naming: What to say of some roles, true or not.
        """
        meta = {role: FileMeta.of(data) for role, data in self.current.items()
                if role not in (SNAPSHOT, TIMESTAMP)}  # fmt: skip
        meta |= {role: FileMeta.of(data) for role, data in (without or {}).items()}
        meta |= naming or {}
        number = 1 + max(self.versions.get(SNAPSHOT, {0: b""}))
        snapshot = sign(Snapshot(meta, number, LATER), [key("snapshot")])
        self.store(SNAPSHOT, snapshot)
        stamp = Timestamp({SNAPSHOT: FileMeta.of(snapshot)}, number, LATER)
        self.store(TIMESTAMP, sign(stamp, [key("timestamp")]))

    def answer(self, request: Request) -> Reply:
        """Answer one request."""
        match = _FILE.fullmatch(request.path)
        if match is None:
            return error(404, "METADATA_NOT_FOUND")
        if request.method == "POST":
            self.posts += 1
            files = {name.decode(): data for name, data in _PART.findall(request.body)}
            return (self.fates.popleft() if self.fates else _carry_out)(self, files)
        return self.replies.get(match[1]) or self._file(match[1])

    def _file(self, name: str) -> Reply:
        if name in (f"{SNAPSHOT}.key", f"{TIMESTAMP}.key"):
            public = key(name.removesuffix(".key")).public_key
            return Reply(200, json.dumps(public.to_json()).encode())
        stem = name.removesuffix(".json")
        for role, data in self.current.items():
            if stem == role:
                return Reply(200, data)
        number, _, role = stem.partition(".")
        if number.isdecimal():
            found = self.versions.get(role, {}).get(int(number))
            return Reply(200, found) if found else error(404, "METADATA_NOT_FOUND")
        role, _, digest = stem.rpartition(".")
        for data in self.versions.get(role, {}).values():
            if FileMeta.of(data).sha256.hex() == digest:
                return Reply(200, data)
        return error(404, "METADATA_NOT_FOUND")

    def store(self, role: str, data: bytes) -> None:
        self.current[role] = data
        self.versions.setdefault(role, {})[_version(role, data)] = data


def _version(role: str, data: bytes) -> int:
    kinds = {ROOT: Root, SNAPSHOT: Snapshot, TIMESTAMP: Timestamp}
    signed: Signed[Root] | Signed[Targets] | Signed[Snapshot] | Signed[Timestamp]
    signed = Signed.parse(data, kinds.get(role, Targets), what=role)
    return signed.body.version


def _carry_out(model: TrustServerModel, files: dict[str, bytes]) -> Reply:
    return model.carry_out(files)


def refuse(status: int, code: str) -> Fate:
    """Do nothing, and say so."""
    return lambda _model, _files: error(status, code)


def lose() -> Fate:
    """Acknowledge the update, store it, and leave it out of the snapshot: the server's race."""

    def fate(model: TrustServerModel, files: dict[str, bytes]) -> Reply:
        before = {role: model.current[role] for role in files if role in model.current}
        model.carry_out(files)
        for role, data in before.items():
            model.current[role] = data
        for role in files.keys() - before.keys():
            del model.current[role]
        model.sign_snapshot()
        return Reply(200)

    return fate


def carry_out_and_hang_up() -> Fate:
    """Carry the update out, and close the connection without an answer."""

    def fate(model: TrustServerModel, files: dict[str, bytes]) -> Reply:
        model.carry_out(files)
        return Reply(raw=b"")

    return fate


def first(rival: Mapping[str, bytes]) -> Fate:
    """Let *rival* be published before the update arrives."""

    def fate(model: TrustServerModel, files: dict[str, bytes]) -> Reply:
        model.carry_out(rival)
        return model.carry_out(files)

    return fate


class Peer:
    """The model behind a real server, and our clients to it."""

    def __init__(self, model: TrustServerModel, server: SmallServer, ca_file: Path) -> None:
        self.model = model
        self.server = server
        self.now = NOW
        self.transport = Transport(TransportSettings(ca_files=(ca_file,), backoff_s=0.001))

    def client(self, cache: Path | None = None, pins: RootPins = NO_PINS) -> TrustServer:
        """A new client; *cache* is its trust directory."""
        return TrustServer(
            TrustApi(self.transport, self.server.origin, GUN),
            pins=pins,
            cache=TrustCache(cache, GUN) if cache else None,
            clock=self._clock,
        )

    def sign(self, tag: str = "2.0") -> Publication:
        """Sign *tag* as the signer `ci`, a first visitor."""
        return self.client().publish(signing_plan({tag: NEW}, [CI]), {CI: key("ci")})

    def fetched(self) -> list[str]:
        """What was asked for, in order: `timestamp`, `targets/ci`, `2.root`; "" for a POST."""
        files = [line.rpartition("/_trust/tuf/")[2] for line in self.server.seen()]
        return [re.sub(r"(\.[0-9a-f]{64})?\.json$", "", file) for file in files]

    def replace_by_hash(self, role: str, reply: Reply) -> None:
        """Answer *reply* to whoever asks for the current file of *role* by its hash."""
        digest = FileMeta.of(self.model.current[role]).sha256.hex()
        self.model.replies[f"{role}.{digest}.json"] = reply

    @contextmanager
    def untouched(self, cache: Path | None = None) -> Iterator[None]:
        """Claim that neither the server's content nor a byte below *cache* changes meanwhile."""
        before = self._evidence(cache)
        yield
        assert self._evidence(cache) == before

    def _clock(self) -> datetime:
        return self.now

    def _evidence(self, cache: Path | None) -> object:
        versions = {role: dict(each) for role, each in self.model.versions.items()}
        return versions, dict(self.model.current), kept(cache) if cache else None


def kept(cache: Path) -> dict[str, bytes]:
    """Every file below *cache*."""
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for path in cache.rglob("*")
        if path.is_file()
    }
