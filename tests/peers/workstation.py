"""An owner's machine, whose trust directory our client and the real ones share."""

import json
from pathlib import Path
from typing import Any

from peers.stack import Stack
from signimage.administration import add_signer, generate_key, initialise_repository
from signimage.filemeta import FileMeta
from signimage.keys import PrivateKey, PublicKey
from signimage.keystore import KeyStore, Passphrases
from signimage.notary import TrustServer
from signimage.pinning import RootPins
from signimage.publication import signing_plan
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi
from signimage.trustcache import TrustCache

PASSPHRASES = {
    "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": "root passphrase",
    "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "repository passphrase",
}
IMAGE = FileMeta(529, {"sha256": bytes(range(32))})
OTHER = FileMeta(530, {"sha256": bytes(32)})


class Workstation:
    """An owner's machine: a trust directory shared by us and the real clients."""

    def __init__(self, stack: Stack, folder: Path, gun: str) -> None:
        self.stack = stack
        self.gun = gun
        self.config = stack.docker_config(folder / "docker")
        self.store = KeyStore(self.config / "trust")
        self.passphrases = Passphrases(PASSPHRASES)
        self.folder = folder

    def server(self, *, cache: bool = True, pins: RootPins | None = None) -> TrustServer:
        """Our client; without *cache* it is a first visitor."""
        transport = Transport(TransportSettings(ca_files=(self.stack.ca_file,)))
        return TrustServer(
            TrustApi(transport, self.stack.trust_server, self.gun),
            pins=pins or RootPins(),
            cache=TrustCache(self.config / "trust", self.gun) if cache else None,
        )

    def initialise(self, signer: str = "ci") -> PrivateKey:
        """Initialise the repository with our commands; gives the signer's key."""
        initialise_repository(self.server(), self.store, self.passphrases)
        key = generate_key(self.store, self.passphrases, signer, self.folder)
        public = PublicKey.from_pem(key.public.read_bytes())
        add_signer(self.server(), self.store, self.passphrases, signer, [public])
        return self.store.load(key.key_id, self.passphrases)

    def sign(self, key: PrivateKey, *tags: str, image: FileMeta = IMAGE) -> None:
        """Sign *tags* with our client."""
        key_id = key.public_key.canonical_id
        plan = signing_plan(dict.fromkeys(tags, image), [key_id])
        self.server(cache=False).publish(plan, {key_id: key})

    def docker(self, *arguments: str) -> str:
        """What the Docker CLI prints."""
        return self.stack.docker(*arguments, config=self.config, env=PASSPHRASES).stdout

    def inspected(self) -> dict[str, Any]:
        """`docker trust inspect` of the repository."""
        found: dict[str, Any] = json.loads(self.docker("trust", "inspect", self.gun))[0]
        return found
