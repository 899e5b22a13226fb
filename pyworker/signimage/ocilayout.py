"""OCI image layouts: an image, or an index of images, byte for byte as it was stored.

The rules of this file:

1. Nothing is written anew: digests are what they were, attestations stay where they are.
2. All manifests are read and checked when a layout is opened, and everything they refer to is
   looked up; blobs are checked while they are read.
3. A document is what its descriptor says, and not both image and index (CVE-2021-41190).
4. Layers that may not be distributed need not be there, as `docker push` leaves them out.

OCI Image Specification 1.1, "Image Layout", "Image Index", "Image Manifest", "Descriptor".
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

from signimage.errors import FormatError, HashMismatchError, InputError
from signimage.imagefiles import (
    MAX_DOCUMENT,
    ImageFiles,
    checked,
    parse_document,
    read_document,
)
from signimage.members import Members, kind_of
from signimage.oci import (
    DOCUMENT_MEMBERS,
    INDEX_TYPES,
    MAX_DEPTH,
    Blob,
    Descriptor,
    Digest,
    Manifest,
    Reference,
    check_type,
)

LAYOUT = "oci-layout"
_INDEX = "index.json"
_VERSION = "1.0.0"

_PLAIN_LAYERS = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
    }
)
_NOT_DISTRIBUTED = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.nondistributable\.v1\.tar"
    r"|docker\.image\.rootfs\.foreign\.diff\.tar)(?:[.+][a-z]+)?"
)
# RFC 6838 section 4.2; it becomes a header of a request.
_MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][\w!#$&^.+-]{0,126}", re.ASCII
)

# What an image is called: by most builders in full or by its tag, by containerd in full.
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_MAX_MANIFESTS = 1000
_MAX_ALL = 16 * MAX_DOCUMENT  # bytes of all manifests together, which are kept in memory
_SHOWN_NAMES = 20

_DESCRIPTOR_MEMBERS = ("mediaType", "digest", "size", "annotations", "platform", "urls", "data")


class LayoutImage:
    """One image of a layout, with everything that it refers to (a `StoredImage`)."""

    def __init__(
        self, files: ImageFiles, descriptor: Descriptor, names: tuple[str, ...] = ()
    ) -> None:
        """Read the manifests of the image that *descriptor* names.

        Raises:
            FormatError: A manifest is none, or something it refers to is not there.
            HashMismatchError: A manifest, or the length of a blob, is not what was described.
        """
        self._files = files
        self.names = names
        self._manifests: dict[Digest, Manifest] = {}
        self._layers: dict[Digest, Descriptor] = {}
        self._configurations: dict[Digest, Descriptor] = {}
        self._bytes = 0
        self._read(descriptor, 0)

    def blobs(self) -> Iterator[Blob]:
        """Give each blob once, layers before configurations."""
        for descriptor in (self._layers | self._configurations).values():
            yield Blob(descriptor, partial(self._open, descriptor))

    def manifests(self) -> tuple[Manifest, ...]:
        """Give each manifest before what refers to it, the image's own last."""
        return tuple(self._manifests.values())

    @property
    def is_plain(self) -> bool:
        """Whether this is one image, with layers that are not compressed."""
        types = {descriptor.media_type for descriptor in self._layers.values()}
        return len(self._manifests) == 1 and bool(types & _PLAIN_LAYERS)

    def _open(self, descriptor: Descriptor) -> BinaryIO:
        stream = self._files.open(blob_name(descriptor.digest))
        return checked(stream, descriptor, what=self._what(descriptor))

    def _what(self, descriptor: Descriptor) -> str:
        return f"{self._files.what}: {blob_name(descriptor.digest)}"

    def _read(self, descriptor: Descriptor, depth: int) -> None:
        what = self._what(descriptor)
        if known := self._manifests.get(descriptor.digest):
            if known.descriptor != descriptor:
                raise FormatError(f"{what}: expected one description, got two that differ")
            return
        content = self._content(descriptor, what)
        value = parse_document(content, what=what)
        document = Members(value, what, DOCUMENT_MEMBERS)
        check_type(value, descriptor.media_type, what=what)
        if descriptor.media_type in INDEX_TYPES:
            if depth == MAX_DEPTH:
                raise FormatError(f"{what}: expected at most {MAX_DEPTH} indexes in each other")
            for child in document.list("manifests"):
                self._read_child(child, what, depth)
        else:
            self._refer(document)
        self._manifests[descriptor.digest] = Manifest(descriptor, content)

    def _content(self, descriptor: Descriptor, what: str) -> bytes:
        name = blob_name(descriptor.digest)
        content = read_document(self._files, name)
        if len(content) != descriptor.size:
            raise HashMismatchError(f"{what}: expected {descriptor.size} bytes, got {len(content)}")
        descriptor.digest.check(content, what=what)
        self._bytes += len(content)
        if self._bytes > _MAX_ALL or len(self._manifests) >= _MAX_MANIFESTS:
            raise FormatError(
                f"{self._files.what}: expected at most {_MAX_MANIFESTS} manifests in {_MAX_ALL}"
                " bytes, got more"
            )
        return content

    def _read_child(self, value: Any, what: str, depth: int) -> None:
        descriptor = parse_descriptor(value, f"{what}: manifests")
        if blob_name(descriptor.digest) not in self._files:
            raise FormatError(
                f"{what}: expected all images of the index, got none for {_platform(value)}"
                f" ({descriptor.digest})",
                hint="Store the index with all its platforms, or one platform without the index",
            )
        self._read(descriptor, depth + 1)

    def _refer(self, document: Members) -> None:
        config = parse_descriptor(document.value("config"), f"{document.what}: config")
        self._look_up(config)
        self._configurations[config.digest] = config
        for value in document.list("layers"):
            layer = parse_descriptor(value, f"{document.what}: layers")
            is_there = blob_name(layer.digest) in self._files
            if is_there or not _NOT_DISTRIBUTED.fullmatch(layer.media_type):
                self._look_up(layer)
                self._layers[layer.digest] = layer

    def _look_up(self, descriptor: Descriptor) -> None:
        size = self._files.size(blob_name(descriptor.digest))
        if size != descriptor.size:
            raise HashMismatchError(
                f"{self._what(descriptor)}: expected {descriptor.size} bytes, got {size}"
            )


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of a layout's own index."""

    descriptor: Descriptor
    names: tuple[str, ...]


def read_layout(files: ImageFiles, *, name: str = "") -> LayoutImage:
    """Open an image of a layout.

    Args:
        files: The layout's.
        name: Which image, if there are several: what it is called, or its digest.

    Raises:
        InputError: The layout has several images, and none of that name.
        FormatError: The layout is none, or the image is not complete.
        HashMismatchError: Some content is not what it is described as.
    """
    layout = _document(files, LAYOUT, ("imageLayoutVersion",))
    if (version := layout.text("imageLayoutVersion")) != _VERSION:
        raise FormatError(
            f"{layout.what}: expected layout version {_VERSION}, got {version[:40]!r}"
        )
    index = _document(files, _INDEX, DOCUMENT_MEMBERS)
    entries = [_entry(value, index.what) for value in index.list("manifests")]
    found = {each.descriptor.digest: each.descriptor for each in entries}
    if len(found) > 1 and name:
        chosen = [each for each in entries if _is_called(name, each)]
        found = {each.descriptor.digest: each.descriptor for each in chosen}
    if len(found) != 1:
        known = [text for each in entries for text in each.names or (str(each.descriptor.digest),)]
        raise choice_error(files.what, name, known)
    (descriptor,) = found.values()
    names = tuple(name for each in entries if each.descriptor == descriptor for name in each.names)
    return LayoutImage(files, descriptor, names)


def blob_name(digest: Digest) -> str:
    """The file that holds the content of *digest*."""
    return f"blobs/sha256/{digest.hex}"


def parse_descriptor(value: Any, what: str) -> Descriptor:
    """Read a descriptor as it stands in a manifest or an index.

    Raises:
        FormatError: It is none, or its digest is not a SHA-256.
    """
    if not isinstance(value, dict):
        raise FormatError(f"{what}: expected a descriptor, got {kind_of(value)}")
    members = Members(value, what, _DESCRIPTOR_MEMBERS)
    media_type = members.text("mediaType")
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise FormatError(f"{what}: expected a media type, got {media_type[:100]!r}")
    size = members.integer("size", minimum=0)
    return Descriptor(media_type, Digest.parse(members.text("digest")), size)


def is_same_name(wanted: str, name: str) -> bool:
    """Whether two names mean the same image, as Docker reads names."""
    if wanted == name:
        return True
    try:
        one, other = Reference.parse(wanted), Reference.parse(name)
    except InputError:
        return False
    same_tag = (one.tag or "latest") == (other.tag or "latest")
    return one.repository == other.repository and same_tag and one.digest == other.digest


def choice_error(what: str, name: str, known: list[str]) -> InputError:
    """Word that no image, or more than one, goes by *name* among those that are *known*."""
    wanted = f"one image called {name[:200]!r}" if name else "one image"
    shown = ", ".join(repr(each[:200]) for each in known[:_SHOWN_NAMES])
    more = f" and {len(known) - _SHOWN_NAMES} more" if len(known) > _SHOWN_NAMES else ""
    hint = "Name one of them" if known else "Check how it was written"
    return InputError(f"{what}: expected {wanted}, got {shown or 'none'}{more}", hint=hint)


def _document(files: ImageFiles, name: str, known: tuple[str, ...]) -> Members:
    what = f"{files.what}: {name}"
    return Members(parse_document(read_document(files, name), what=what), what, known)


def _entry(value: Any, what: str) -> _Entry:
    descriptor = parse_descriptor(value, f"{what}: manifests")
    annotations = Members(value, what, _DESCRIPTOR_MEMBERS).map("annotations")
    names = tuple(
        dict.fromkeys(
            name for key in _NAMES if isinstance(name := annotations.get(key), str) and name
        )
    )
    return _Entry(descriptor, names)


def _is_called(name: str, entry: _Entry) -> bool:
    tag = name.rpartition("/")[2].partition(":")[2]  # all that many writers call an image
    return name == entry.descriptor.digest.text or any(
        is_same_name(name, each) or tag == each for each in entry.names
    )


def _platform(value: dict[str, Any]) -> str:
    platform = value.get("platform")
    if not isinstance(platform, dict):
        return "an image without platform"
    parts = [platform.get(key) for key in ("os", "architecture", "variant")]
    return repr("/".join(str(part)[:40] for part in parts if part))
