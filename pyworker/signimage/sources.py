"""Where the images of a step come from: a build, the engine, or an archive.

Each is a `signimage.signing.Source`, and each leaves the pushing to the engine.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

from signimage.dockerbuild import BuildRequest
from signimage.dockerfile import base_image
from signimage.engine import Docker
from signimage.imagedetails import PushedImage
from signimage.oci import Digest, Repository
from signimage.response import CredentialSource


class Sink(Protocol):
    """Takes what a program says."""

    def write(self, data: bytes) -> object:
        """Take some bytes of it."""


@dataclass(frozen=True, slots=True)
class EngineImages:
    """Images that an earlier step built and named.

    Attributes:
        engine: Has them, and pushes.
        repository: Where they are pushed to, and what they are called.
        tags: The tags they have.
        credentials: Asked anew for every push: a long one may outlive a token.
        show: Told how much is pushed, in percent.
    """

    title: ClassVar[str] = "Find"

    engine: Docker
    repository: Repository
    tags: tuple[str, ...]
    credentials: CredentialSource
    show: Callable[[int], None]

    def check(self) -> None:
        """Find out whether the engine answers."""
        self.engine.check()

    def images(self) -> Mapping[str, str]:
        """The ID of each tag's image."""
        return {tag: self.engine.find(f"{self.repository}:{tag}") for tag in self.tags}

    def push(self, tag: str) -> Digest:
        """Push the image under *tag*; gives the digest that the engine reports."""
        login = self.credentials.current()
        return self.engine.push(self.repository.gun, tag, login, self.show).digest

    def described(self, digest: Digest, tags: tuple[str, ...]) -> PushedImage:
        """What the engine knows of the image that was pushed under *tags* and has *digest*."""
        image_id = self.engine.find(f"{self.repository}:{tags[0]}")
        layers, blobs = self.engine.layers(image_id)
        return PushedImage(self.repository, digest, tags, image_id, layers, blobs)


@dataclass(frozen=True, slots=True)
class ArchivedImage(EngineImages):
    """The one image of a file that `docker save` wrote."""

    title: ClassVar[str] = "Load"

    archive: Path

    def images(self) -> Mapping[str, str]:
        """Load the file, and give the image all tags."""
        image_id = self.engine.load(self.archive)
        for tag in self.tags:
            self.engine.tag(image_id, self.repository.gun, tag)
        return dict.fromkeys(self.tags, image_id)


@dataclass(frozen=True, slots=True)
class BuiltImage(EngineImages):
    """An image that is built now."""

    title: ClassVar[str] = "Build"

    request: BuildRequest
    labels_base: bool  # whether the image is labelled with its base image
    sink: Callable[[], AbstractContextManager[Sink]]  # opens where the builder's words go

    def images(self) -> Mapping[str, str]:
        """Build the image, with all tags."""
        request = self.request
        if self.labels_base:
            base = self.engine.base_image_labels(request.dockerfile)
            request = replace(request, labels={**request.labels, **base})
        with self.sink() as sink:
            image_id = self.engine.build(request, sink.write)
        return dict.fromkeys(self.tags, image_id)

    def described(self, digest: Digest, tags: tuple[str, ...]) -> PushedImage:
        """The same, and what it was built from."""
        request = self.request
        options = {
            "dockerFilePath": str(request.dockerfile),
            "labels": ", ".join(f"{name}={value}" for name, value in request.labels.items()),
            "tags": ", ".join(tags),
            "context": str(request.context),
        }
        image = EngineImages.described(self, digest, tags)
        base = base_image(request.dockerfile) or "NA"
        return replace(image, base_image=base, build_options=options)
