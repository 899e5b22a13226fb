"""A shop that pushes and signs: one repository, a signer, an engine, and things that happen.

What is to happen in the middle of a step hangs on its progress: before `Push`, `Sign` or `Tag`.
"""

import json
import secrets
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError

from peers.stack import Stack, make_context
from peers.workstation import Workstation
from signimage.dockerbuild import BuildRequest
from signimage.dockerconfig import private_config
from signimage.engine import Docker
from signimage.keys import PrivateKey
from signimage.lookup import released
from signimage.oci import Digest, Repository
from signimage.registry import Registry
from signimage.response import Fixed
from signimage.signing import Order, Source, push_and_sign
from signimage.sources import ArchivedImage, EngineImages
from signimage.transport import Transport
from signimage.verification import SignedTags


@dataclass
class Shop:
    """One repository, and who pushes to it.

    Attributes:
        events: What happens when a step comes to the part of this name.
    """

    workstation: Workstation
    key: PrivateKey
    engine: Docker
    transport: Transport
    folder: Path
    opened: ExitStack
    events: dict[str, Callable[[], object]] = field(default_factory=dict)

    @property
    def repository(self) -> Repository:
        """The repository of the images and of their trust data."""
        return Repository.parse(self.workstation.gun)

    @property
    def registry(self) -> Registry:
        """The repository in its registry."""
        return Registry(self.transport, self.repository, None)

    def order(self, *tags: str, is_recursive: bool = False, first: bool = False) -> Order:
        """An order to sign *tags*."""
        return Order(
            self.repository,
            tags,
            self.key,
            is_recursive=is_recursive,
            needs_signature_first=first,
        )

    def built(self, *tags: str) -> EngineImages:
        """A new image in the engine, with all *tags*."""
        text = secrets.token_hex(8)
        folder = make_context(self.folder / text, text)
        names = tuple(f"{self.repository}:{tag}" for tag in tags)
        request = BuildRequest(folder / "Dockerfile", folder, names, {})
        self.engine.build(request, lambda _: None)
        return EngineImages(self.engine, self.repository, tags, Fixed(None), lambda _: None)

    def archived(self, *tags: str) -> ArchivedImage:
        """A new image in an archive of `docker save`."""
        self.built(tags[0])
        file = self.folder / f"{secrets.token_hex(8)}.tar"
        self.workstation.docker("save", "--output", str(file), f"{self.repository}:{tags[0]}")
        return ArchivedImage(self.repository, tags, lambda _: None, file, self.folder, self.opened)

    def signs(self, order: Order, source: Source) -> SignedTags:
        """Push and sign, while things happen."""
        server = self.workstation.server(cache=False)
        return push_and_sign(order, source, self.registry, server, self)

    def tags(self) -> dict[str, str]:
        """Tag -> digest as the registry has them."""
        found = {}
        for tag in self._listed():
            manifest = self.registry.find(tag)
            if manifest is not None:
                found[tag] = manifest.descriptor.digest.text
        return found

    def signed(self, tag: str) -> Digest:
        """What a first visitor finds signed."""
        repository = self.workstation.server(cache=False).refresh()
        return Digest.of_raw(released(repository, tag).sha256)

    def step(self, text: str) -> None:
        """As progress: let happen what was to happen now, once."""
        self.events.pop(text, lambda: None)()

    def done(self, text: str) -> None:
        """As progress: say nothing."""

    def _listed(self) -> list[str]:
        host, _, path = self.workstation.gun.partition("/")
        try:
            with urllib.request.urlopen(f"http://{host}/v2/{path}/tags/list") as answer:
                listed: list[str] = json.load(answer)["tags"] or []
                return listed
        except HTTPError as error:
            error.close()
            return []


@contextmanager
def opened_shop(workstation: Workstation, stack: Stack, folder: Path) -> Iterator[Shop]:
    """Open a shop with the signer `ci`, for the time of the block."""
    environ: Mapping[str, str] = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "DOCKER_HOST": stack.docker_host,
    }
    with (
        private_config(folder, {}, environ) as config,
        Docker(environ, config) as engine,
        Transport() as transport,
        ExitStack() as opened,
    ):
        yield Shop(workstation, workstation.initialise(), engine, transport, folder, opened)
