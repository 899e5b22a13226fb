"""The owner of one new repository, and everybody else who visits it, for tests of many at once.

Keys are in memory alone, visitors share nothing but what a test gives them, and the judge is the
Docker CLI.
"""

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from peers.stack import Stack
from signimage.filemeta import FileMeta
from signimage.keys import PrivateKey, root_certificate
from signimage.notary import TrustServer, utc_now
from signimage.publication import Plan, signer_plan, signing_plan
from signimage.publisher import Publication
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi
from signimage.trustcache import TrustCache


def image(text: str) -> FileMeta:
    """A manifest like no other: its description follows from *text*."""
    return FileMeta(len(text), {"sha256": sha256(text.encode()).digest()})


def images(tags: Iterable[str]) -> dict[str, FileMeta]:
    """For each of *tags* an image of its own."""
    return {tag: image(tag) for tag in tags}


def visitor(url: str, ca_file: Path, gun: str, trust_dir: Path | None = None) -> TrustServer:
    """Our client with a connection of its own; without *trust_dir* it keeps nothing."""
    transport = Transport(TransportSettings(ca_files=(ca_file,)))
    cache = TrustCache(trust_dir, gun) if trust_dir else None
    return TrustServer(TrustApi(transport, url, gun), cache=cache)


class Owner:
    """Whoever holds the root key and the repository key of *gun*.

    Attributes:
        keys: The key of each signer that was ever added, by name.
    """

    def __init__(self, stack: Stack, gun: str, folder: Path) -> None:
        self.stack = stack
        self.gun = gun
        self.keys: dict[str, PrivateKey] = {}
        self._root, self._targets = PrivateKey.generate_ecdsa(), PrivateKey.generate_ecdsa()
        self._config = stack.docker_config(folder / "docker", login=False)

    def visitor(self, trust_dir: Path | None = None) -> TrustServer:
        """A client of this repository."""
        return visitor(self.stack.trust_server, self.stack.ca_file, self.gun, trust_dir)

    def initialise(self, *signers: str) -> None:
        """Create the repository and add *signers*."""
        root = root_certificate(self._root, self.gun, utc_now())
        at_hand = _by_id((self._root, self._targets))
        self.visitor().initialise(root, self._targets.public_key, at_hand)
        for name in signers:
            self.add(name)

    def add(self, name: str, key: PrivateKey | None = None, *, again: bool = False) -> Publication:
        """Let a new key, or *key*, sign as *name*."""
        self.keys[name] = key or PrivateKey.generate_ecdsa()
        return self.publish(signer_plan(name, [self.keys[name].public_key], again=again))

    def publish(self, plan: Plan, *signers: str) -> Publication:
        """Carry *plan* out as a first visitor, with the repository key and those of *signers*."""
        at_hand = _by_id((self._targets, *(self.keys[name] for name in signers)))
        return self.visitor().publish(plan, at_hand)

    def sign(self, signer: str, tags: Mapping[str, FileMeta]) -> Publication:
        """Sign *tags* as a pipeline of *signer* does: a first visitor with one key."""
        at_hand = _by_id((self.keys[signer],))
        return self.visitor().publish(signing_plan(tags, list(at_hand)), at_hand)

    def inspected(self) -> dict[str, Any]:
        """`docker trust inspect` of the repository."""
        done = self.stack.docker("trust", "inspect", self.gun, config=self._config)
        found: dict[str, Any] = json.loads(done.stdout)[0]
        return found

    def released(self) -> dict[str, str]:
        """The SHA-256 hash of each tag, as the Docker CLI shows them."""
        return {row["SignedTag"]: row["Digest"] for row in self.inspected()["SignedTags"]}


def hashes(tags: Mapping[str, FileMeta]) -> dict[str, str]:
    """What `Owner.released` shows of *tags*."""
    return {tag: meta.sha256.hex() for tag, meta in tags.items()}


def _by_id(keys: Iterable[PrivateKey]) -> dict[str, PrivateKey]:
    return {key.public_key.canonical_id: key for key in keys}
