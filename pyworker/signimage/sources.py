"""Where the images of a step come from: a build, the engine, or an archive.

Each is a `signimage.signing.Source`. What BuildKit pushes by digest, and what is read from an
archive, gets its tags when it is signed. What only the engine can push has one before.
"""

import http.client
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from signimage.buildarguments import read_arguments, without_push
from signimage.buildx import Builder, check_platforms
from signimage.dockerbuild import BuildRequest
from signimage.dockerfile import base_image
from signimage.engine import Docker
from signimage.errors import FormatError, InputError, SignImageError
from signimage.imagedetails import PushedImage, history
from signimage.oci import Digest, Manifest, Reference, Repository, StoredImage
from signimage.permissions import Permission
from signimage.registry import Registry
from signimage.response import CredentialSource, readable
from signimage.stages import build_options

CONFIGURATION_MAX = 4 * 1024 * 1024  # bytes; as for manifests


class Sink(Protocol):
    """Takes what a program says."""

    def write(self, data: bytes) -> object:
        """Take some bytes of it."""


@dataclass(slots=True)
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
    image_ids: Mapping[str, str] = field(default_factory=dict, init=False)  # by tag: `sha256:…`

    def check(self) -> None:
        """Find out whether the engine answers."""
        self.engine.check()

    @property
    def why_early(self) -> str:
        """Why tags move before they are signed."""
        return "the engine pushes nothing without a tag"

    def prepare(self) -> None:
        """Find each tag's image."""
        self.image_ids = {tag: self.engine.find(f"{self.repository}:{tag}") for tag in self.tags}

    @property
    def early_tags(self) -> tuple[str, ...]:
        """For each image the first of its tags."""
        first = {image_id: tag for tag, image_id in reversed(list(self.image_ids.items()))}
        return tuple(tag for tag in self.image_ids if tag in first.values())

    def deliver(self, registry: Registry) -> Mapping[str, Manifest]:
        """Push each image once, under the first of its tags."""
        pushed: dict[str, Manifest] = {}
        for tag in self.early_tags:
            image_id = self.image_ids[tag]
            pushed[image_id] = registry.resolve(self._push(tag))
            pushed[image_id].check_image(image_id)
        return {tag: pushed[image_id] for tag, image_id in self.image_ids.items()}

    def _push(self, tag: str) -> Digest:
        login = self.credentials.current()
        return self.engine.push(self.repository.gun, tag, login, self.show).digest

    def recognises(self, tag: str, manifest: Manifest) -> bool:
        """Tell whether *manifest* is that of the image that has *tag* in the engine."""
        return manifest.is_image(self.image_ids[tag])

    def described(self, registry: Registry, digest: Digest, tags: tuple[str, ...]) -> PushedImage:
        """What is known of the image that was pushed under *tags* and has *digest*."""
        image_id = self.image_ids.get(tags[0], "")
        if not image_id:
            return _described(registry, self.repository, digest, tags)
        layers, blobs = self.engine.layers(image_id)
        return PushedImage(self.repository, digest, tags, image_id, layers, blobs)


@dataclass(slots=True)
class BuiltImage(EngineImages):
    """An image that is built now.

    The builder pushes it by digest; or it writes an OCI layout, which we upload; or else the
    engine keeps it, and pushes one tag.

    Attributes:
        request: What to build.
        platforms: For which platforms, e.g. `linux/arm64`; none: for the builder's own.
        pushes: Whether the image is for a registry at all.
        labels_base: Whether the image is labelled with its base image.
        sink: Opens where the builder's words go.
        pinned: Gives the request with the base images that are trusted.
        scratch: A private folder for a layout.
        environment: Where `--build-arg NAME` takes its value from.
    """

    title: ClassVar[str] = "Build"

    request: BuildRequest
    platforms: tuple[str, ...]
    pushes: bool
    labels_base: bool
    sink: Callable[[], AbstractContextManager[Sink]]
    pinned: Callable[[BuildRequest, Builder | None], BuildRequest]
    scratch: Path
    environment: Mapping[str, str] = field(repr=False)
    _base: str | None = field(default=None, init=False)
    _builder: Builder | None = field(default=None, init=False)
    _to_build: BuildRequest | None = field(default=None, init=False)
    _digest: Digest | None = field(default=None, init=False)

    def check(self) -> None:
        """Find out what builds, whether it can do what is asked for, and on which images."""
        given = read_arguments(self.request.arguments)
        if given.platforms and self.platforms:
            raise InputError("platforms: expected them once, got them in arguments as well")
        if self.pushes and given.pushing:
            raise InputError(
                f"arguments: --output {readable(given.pushing)} moves tags before they are signed",
                hint="Leave it out: the step pushes by itself, and signs before tags move",
            )
        self.engine.check()
        self._builder = self.engine.builder(self.request.arguments)
        check_platforms(self._builder, self.platforms)
        if len(self.platforms) > 1 and not self.pushes:
            raise InputError(
                f"platforms: expected one for the command build, got {len(self.platforms)}",
                hint="Use buildAndPush: an engine keeps an image for its own platform only",
            )
        request = self.request
        if self.pushes:
            request = replace(request, arguments=without_push(request.arguments))
        if self.platforms:
            words = (*request.arguments, "--platform", ",".join(self.platforms))
            request = replace(request, arguments=words)
        if not given.file:  # which would be built instead
            is_classic = self._builder is None
            options = build_options(request.arguments, self.environment, is_classic=is_classic)
            self._base = base_image(request.dockerfile, options)
        self._to_build = self.pinned(request, self._builder)

    @property
    def why_early(self) -> str:
        """Why tags move before they are signed: the reason why nothing is pushed by digest."""
        builder = self._builder
        if builder is None:
            return "this engine builds without BuildKit, and pushes nothing without a tag"
        return builder.by_digest and builder.layout

    def prepare(self) -> None:
        """Build the image; by digest, it is in the registry then, without a tag."""
        request = self._to_build or self.request
        if self.labels_base and self._base:
            base = self.engine.base_image_labels(self._base)
            request = replace(request, labels={**base, **request.labels})
        with self.sink() as sink:
            if self._builder is None or self.why_early or not self.pushes:
                image_id = self.engine.build(request, sink.write)
                self.image_ids = dict.fromkeys(self.tags, image_id)
            elif self._builder.by_digest:
                self._digest = self.engine.build_layout(request, self._layout, sink.write)
            else:
                login = self.credentials.current()
                self._digest = self.engine.build_by_digest(
                    request, self.repository, login, sink.write
                )

    @property
    def _layout(self) -> Path:
        return self.scratch / "layout"

    def deliver(self, registry: Registry) -> Mapping[str, Manifest]:
        """Have the registry confirm what was built, upload the layout, or push by the engine."""
        if self._digest is None:
            return EngineImages.deliver(self, registry)
        if not self._layout.is_dir():
            return dict.fromkeys(self.tags, registry.resolve(self._digest))
        from signimage.archive import open_image  # noqa: PLC0415 -- few builds write a layout

        with open_image(self._layout, self.scratch, name=self._digest.text) as image:
            return dict.fromkeys(self.tags, _uploaded(registry, image, self.show))

    def described(self, registry: Registry, digest: Digest, tags: tuple[str, ...]) -> PushedImage:
        """The same, and what it was built from."""
        request = self.request
        options = {
            "dockerFilePath": str(request.dockerfile),
            "labels": ", ".join(f"{name}={value}" for name, value in request.labels.items()),
            "tags": ", ".join(tags),
            "context": str(request.context),
        }
        image = EngineImages.described(self, registry, digest, tags)
        return replace(image, base_image=self._base or "NA", build_options=options)


@dataclass(slots=True)
class ArchivedImage:
    """The image of an archive or an OCI layout, which no engine has to see.

    Attributes:
        archive: What `docker save`, buildah, kaniko, Bazel or ko wrote: a file, or a folder.
        name: Which image, where there are several; any of its names.
        scratch: A private folder for what has to be unpacked or compressed.
    """

    title: ClassVar[str] = "Read"

    repository: Repository
    tags: tuple[str, ...]
    show: Callable[[int], None]
    archive: Path
    scratch: Path
    opened: ExitStack
    name: str = ""
    why_early: str = field(default="", init=False)
    early_tags: tuple[str, ...] = field(default=(), init=False)
    _image: StoredImage | None = field(default=None, init=False)

    def check(self) -> None:
        """Read what the archive says of itself."""
        from signimage.archive import open_image  # noqa: PLC0415 -- most images are in no archive

        try:
            image = open_image(self.archive, self.scratch, name=self.name)
            self._image = self.opened.enter_context(image)
        except SignImageError as error:
            raise type(error)(f"imageArchive {self.archive}: {error}", hint=error.hint) from error

    def prepare(self) -> None:
        """Nothing: the image is read while it is sent."""

    def deliver(self, registry: Registry) -> Mapping[str, Manifest]:
        """Send what the registry does not have."""
        if self._image is None:
            raise AssertionError("an archive is opened by check")
        return dict.fromkeys(self.tags, _uploaded(registry, self._image, self.show))

    def recognises(self, _tag: str, _manifest: Manifest) -> bool:
        """Nothing is ever tagged early."""
        return False

    def described(self, registry: Registry, digest: Digest, tags: tuple[str, ...]) -> PushedImage:
        """What the registry has of the image that was pushed under *tags* and has *digest*."""
        return _described(registry, self.repository, digest, tags)


def _uploaded(registry: Registry, image: StoredImage, show: Callable[[int], None]) -> Manifest:
    from signimage.upload import upload_image  # noqa: PLC0415 -- engines and builders push

    def told(there: int, known: int) -> None:
        show(100 * there // max(known, 1))

    return upload_image(registry, image, told, mount_from=_neighbours(registry, image))


def _neighbours(registry: Registry, image: StoredImage) -> tuple[str, ...]:
    """Repositories of the same registry that have the image already, by what it is called."""
    paths = []
    for name in image.names:
        with suppress(InputError):  # a layout may call it by anything
            known = Reference.parse(name).repository
            if known.host == registry.repository.host and known != registry.repository:
                paths.append(known.path)
    return tuple(dict.fromkeys(paths))


def _described(
    registry: Registry, repository: Repository, digest: Digest, tags: tuple[str, ...]
) -> PushedImage:
    """What the registry knows of an image; of an index, what it knows of its first image."""
    manifest = registry.resolve(digest)
    while image := next((child.digest for child in manifest.children() if child.is_image), None):
        manifest = registry.resolve(image)
    config = _configuration(registry, manifest)
    layers = history(config, [layer.size for layer in manifest.layers()])
    rootfs = config.get("rootfs")
    blobs = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    names = [str(blob) for blob in blobs] if isinstance(blobs, list) else []
    return PushedImage(repository, digest, tags, manifest.config_digest, layers, names)


def _configuration(registry: Registry, manifest: Manifest) -> Mapping[str, Any]:
    """The configuration of an image, as its manifest names it."""
    digest = Digest.parse(manifest.config_digest)
    response = registry.request(
        "GET", f"blobs/{digest}", max_bytes=CONFIGURATION_MAX, leave_origin=True
    )
    if response.status != http.client.OK:
        raise registry.refused(response, Permission.PULL)
    what = f"configuration of {registry.repository}"
    digest.check(response.body, what=what)
    config = response.json(what)
    if not isinstance(config, dict):
        raise FormatError(f"{what}: expected an object, got something else")
    return config
