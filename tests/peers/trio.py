"""Three programs on one owner's machine: ours, Docker's and Notary's, with one trust directory."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from peers.test_registry import manifest_of, put_blob
from peers.workstation import IMAGE, PASSPHRASES, Workstation
from signimage import cli
from signimage.oci import Descriptor, Digest, Manifest, Repository
from signimage.registry import Registry
from signimage.transport import Transport

NOTARY_WORDS = {
    f"NOTARY_{role}_PASSPHRASE": "repository passphrase"
    for role in ("TARGETS", "SNAPSHOT", "DELEGATION")
} | {"NOTARY_ROOT_PASSPHRASE": "root passphrase"}
INDEX = "application/vnd.oci.image.index.v1+json"


class Trio:
    """What each of the three programs does and says.

    Attributes:
        at: The machine, and the name of its repository.
        said: What ours said last on the standard error output.
    """

    def __init__(self, workstation: Workstation, capsys: pytest.CaptureFixture[str]) -> None:
        self.at = workstation
        self.gun = workstation.gun
        self.said = ""
        self._capsys = capsys

    @property
    def trust_dir(self) -> Path:
        """The trust directory of all three."""
        return self.at.config / "trust"

    def ours(self, *arguments: str, code: int = 0) -> str:
        """What our command prints; it must end with *code*."""
        self._capsys.readouterr()
        ended = cli.main(list(arguments))
        found = self._capsys.readouterr()
        self.said = found.err
        assert ended == code, found
        return found.out

    def json(self, *arguments: str, code: int = 0) -> Any:
        """The document that our command prints with `--json`."""
        return json.loads(self.ours(*arguments, "--json", code=code))

    def docker(self, *arguments: str, trust: str = "0") -> str:
        """What Docker's program prints."""
        environment = {**PASSPHRASES, "DOCKER_CONTENT_TRUST": trust}
        done = self.at.stack.docker(*arguments, config=self.at.config, env=environment)
        return done.stdout

    def notary(self, *arguments: str) -> str:
        """What Notary's program prints."""
        return self.at.stack.notary(*arguments, trust_dir=self.trust_dir, env=NOTARY_WORDS).stdout

    def begin(self, *signers: str) -> dict[str, str]:
        """Initialise the repository and add new *signers*; gives their key IDs, by name."""
        self.ours("repo", "init", self.gun)
        return {name: self.add(name) for name in signers}

    def add(self, name: str) -> str:
        """Make a key and add it as the signer *name*; gives the key's ID."""
        self.ours("key", "generate", "--dir", str(self.at.folder), name)
        row = self.json("signer", "add", "--key", self.public(name), name, self.gun)[0]
        key_id: str = row["keyIds"][0]
        return key_id

    def new_key(self, name: str, label: str = "new") -> str:
        """Make one more key of the signer *name*; gives the file of its public half."""
        folder = self.at.folder / label
        folder.mkdir()
        self.ours("key", "generate", "--dir", str(folder), name)
        return str(folder / f"{name}.pub")

    def public(self, name: str) -> str:
        """The file of the public key that was made for *name*."""
        return str(self.at.folder / f"{name}.pub")

    def hide(self, key_id: str) -> None:
        """Take a key away from this machine: it is somebody else's."""
        (self.trust_dir / "private" / f"{key_id}.key").rename(self.at.folder / f"{key_id}.key")

    def show(self, key_id: str) -> None:
        """Bring a hidden key back."""
        (self.at.folder / f"{key_id}.key").rename(self.trust_dir / "private" / f"{key_id}.key")

    def held(self) -> list[str]:
        """The roles of the keys on this machine."""
        return sorted(entry.role for entry in self.at.store.entries())

    def notary_adds(self, tag: str, *roles: str) -> None:
        """Let Notary's program sign *tag*."""
        digest = IMAGE.sha256.hex()
        for role in roles or ("targets/releases",):
            self.notary("addhash", "-p", "-r", role, self.gun, tag, "529", "--sha256", digest)

    def notary_lists(self, role: str = "targets/releases") -> list[str]:
        """The tags that Notary's program sees in *role*."""
        rows = [line.split() for line in self.notary("list", "-r", role, self.gun).splitlines()]
        return [row[0] for row in rows if row and row[-1] == role]

    def check_agreement(self) -> dict[str, Any]:
        """Claim that Docker's program and ours show the same; gives it."""
        theirs: dict[str, Any] = json.loads(self.docker("trust", "inspect", self.gun))[0]
        assert self.json("inspect", self.gun) == [theirs]
        return theirs


class Shelf:
    """Images in the registry, put there by hand: no engine is wanted for signing."""

    def __init__(self, gun: str) -> None:
        self._repository = Repository.parse(gun)
        with Transport() as transport:
            put_blob(transport, self._repository.host, self._repository.path)

    def image(self, text: str, *tags: str) -> Digest:
        """Put an image under *tags*; it differs from others by *text*."""
        return self._put(manifest_of(text), tags)

    def index(self, images: Iterable[Digest], *tags: str) -> Digest:
        """Put an index of *images* under *tags*."""
        with Transport() as transport:
            registry = Registry(transport, self._repository, None)
            found = [registry.resolve(digest).descriptor for digest in images]
        entries = [
            {
                "mediaType": each.media_type,
                "digest": each.digest.text,
                "size": each.size,
                "platform": {"os": "linux", "architecture": f"arch{number}"},
            }
            for number, each in enumerate(found)
        ]
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        content = json.dumps(document).encode()
        described = Descriptor(INDEX, Digest.of(content), len(content))
        return self._put(Manifest(described, content), tags)

    def _put(self, manifest: Manifest, tags: Iterable[str]) -> Digest:
        with Transport() as transport:
            registry = Registry(transport, self._repository, None)
            for tag in tags or (manifest.descriptor.digest.hex[:12],):
                registry.put_manifest(tag, manifest)
        return manifest.descriptor.digest
