"""Docker's own archives: layers as files, made into an image that a registry can hold.

`docker save` keeps layers without the manifest that a registry would give them, so one is made
here, with the types that `docker push` gives it. The rules of this file:

1. The configuration stays byte for byte: its digest is the image's ID.
2. Layers compressed by gzip are taken as they are, all others are compressed by us; in either
   case the content is what the configuration says of it (`diff_ids`).
3. A compressed layer is gone from the disk once it was read to its end; who needs it again has it
   made again, which gives the same bytes.

Docker Image Specification 1.2, "Combined Image JSON + Filesystem Changeset Format";
Docker Registry "Image Manifest Version 2, Schema 2".
"""

import hashlib
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from signimage.compression import (
    Compression,
    Source,
    compression_of,
    decompressed,
    gzip_pieces,
)
from signimage.errors import FormatError, HashMismatchError
from signimage.imagefiles import (
    MAX_UNPACKED,
    ImageFiles,
    checked,
    parse_document,
    read_document,
    system_refusals,
)
from signimage.members import Members
from signimage.oci import Blob, Descriptor, Digest, Manifest
from signimage.ocilayout import choice_error, is_same_name

LIST = "manifest.json"

_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"

# Names that say which digest the configuration has: of Docker, of Docker since 25, of crane.
_CONFIG_NAME = re.compile(r"(?:blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json)?")
_PIECE = 256 * 1024  # bytes read at once


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image of an archive's list."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...]


class DockerImage:
    """One image of an archive (a `StoredImage`)."""

    def __init__(self, files: ImageFiles, entry: _Entry, scratch: Path) -> None:
        """Read the configuration, and look up all layers.

        Raises:
            FormatError: They do not belong together, or something is not there.
            HashMismatchError: The configuration is not the one it is called.
        """
        self._files, self._scratch = files, scratch
        self.names = entry.names
        self._config = _configuration(files, entry.config)
        self._diff_ids = _diff_ids(self._config, f"{files.what}: configuration")
        if len(self._diff_ids) != len(entry.layers):
            raise FormatError(
                f"{files.what}: expected {len(self._diff_ids)} layers, as the configuration says,"
                f" got {len(entry.layers)}"
            )
        for name in entry.layers:
            files.size(name)
        # A layer may be there twice, and is the same then, under whatever names.
        self._layers = dict(zip(self._diff_ids, entry.layers, strict=True))
        self._packed: dict[Digest, Descriptor] = {}

    def blobs(self) -> Iterator[Blob]:
        """Give each blob once, the configuration last; compresses one layer at a time."""
        for diff_id, name in self._layers.items():
            blob = self._layer(name, diff_id)
            self._packed[diff_id] = blob.descriptor
            yield blob
        described = _descriptor(_CONFIG_TYPE, self._config)
        yield Blob(described, partial(io.BytesIO, self._config), is_proven=True)

    def manifests(self) -> tuple[Manifest, ...]:
        """Give the one manifest, spelt as Docker spells it."""
        document = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": _json(_descriptor(_CONFIG_TYPE, self._config)),
            "layers": [_json(self._packed[diff_id]) for diff_id in self._diff_ids],
        }
        content = json.dumps(document, indent=3).encode()
        return (Manifest(_descriptor(_MANIFEST_TYPE, content), content),)

    def _layer(self, name: str, diff_id: Digest) -> Blob:
        what = f"{self._files.what}: layer {name[:200]!r}"
        with self._files.open(name) as stream:
            compression = compression_of(stream)
        if compression is Compression.GZIP:
            with self._files.open(name) as stream:
                descriptor = _descriptor_of_gzip(stream, diff_id, what)
            return Blob(descriptor, partial(self._open, name, descriptor, what), is_proven=True)
        file = self._scratch / f"{diff_id.hex}.tar.gz"
        content = partial(self._content, name, compression, what)
        packed = _PackedLayer(content, diff_id, file, what)
        return Blob(packed.descriptor, packed.open, is_proven=True)

    def _content(self, name: str, compression: Compression, what: str) -> BinaryIO:
        stream = self._files.open(name)
        if compression is Compression.NONE:
            return stream
        return decompressed(stream, compression, what=what)

    def _open(self, name: str, descriptor: Descriptor, what: str) -> BinaryIO:
        return checked(self._files.open(name), descriptor, what=what)


def read_archive(files: ImageFiles, scratch: Path, *, name: str = "") -> DockerImage:
    """Open an image of an archive.

    Args:
        files: The archive's.
        scratch: A private folder for compressed layers; its owner removes it.
        name: Which image, if there are several: what it is called, or its ID.

    Raises:
        InputError: The archive has several images, and none of that name.
        FormatError: The archive is none, or the image is not complete.
        HashMismatchError: Some content is not what it is described as.
    """
    what = f"{files.what}: {LIST}"
    values = parse_document(read_document(files, LIST), what=what)
    if not isinstance(values, list):
        raise FormatError(f"{what}: expected a list of images, got something else")
    entries = [_entry(value, what) for value in values]
    chosen = {each.config: each for each in entries}
    if len(chosen) > 1 and name:
        chosen = {each.config: each for each in entries if _is_called(name, each)}
    if len(chosen) != 1:
        known = [text for each in entries for text in each.names or (each.config,)]
        raise choice_error(files.what, name, known)
    (entry,) = chosen.values()
    return DockerImage(files, entry, scratch)


def _entry(value: Any, what: str) -> _Entry:
    members = Members(value, what, ("Config", "RepoTags", "Layers", "Parent", "LayerSources"))
    return _Entry(members.text("Config"), members.texts("Layers"), members.texts("RepoTags"))


def _is_called(name: str, entry: _Entry) -> bool:
    found = _CONFIG_NAME.fullmatch(entry.config)
    if found and name in (found[1], f"sha256:{found[1]}"):
        return True
    return any(is_same_name(name, each) for each in entry.names)


def _configuration(files: ImageFiles, name: str) -> bytes:
    content = read_document(files, name)
    if found := _CONFIG_NAME.fullmatch(name):
        what = f"{files.what}: configuration"
        Digest.parse(f"sha256:{found[1]}").check(content, what=what)
    return content


def _diff_ids(config: bytes, what: str) -> tuple[Digest, ...]:
    document = Members(parse_document(config, what=what), what, ("rootfs",))
    rootfs = Members(document.value("rootfs"), f"{what}: rootfs", ("type", "diff_ids"))
    if (kind := rootfs.text("type")) != "layers":
        raise FormatError(f"{rootfs.what}: expected type 'layers', got {kind[:40]!r}")
    return tuple(Digest.parse(text) for text in rootfs.texts("diff_ids"))


class _PackedLayer:
    """A layer that we compress, on the disk for as long as it was not read to its end."""

    def __init__(
        self, content: Callable[[], Source], diff_id: Digest, file: Path, what: str
    ) -> None:
        self._content, self._diff_id, self._file, self._what = content, diff_id, file, what
        self._turn = threading.Lock()
        self.descriptor = self._pack()

    def open(self) -> BinaryIO:
        """Give the compressed layer from its first byte."""
        with self._turn:
            if not self._file.exists():
                self._pack()
            with system_refusals(self._what):
                stream = self._file.open("rb")
        return checked(stream, self.descriptor, what=self._what, on_complete=self._remove)

    def _pack(self) -> Descriptor:
        packed = _Tally()
        with closing(self._content()) as source:
            content = _Tallied(source, self._what)
            try:
                with system_refusals(self._what), self._file.open("xb") as target:
                    for piece in gzip_pieces(content):
                        packed.add(piece)
                        target.write(piece)
                content.check(self._diff_id)
            except BaseException:  # a cancel, too, leaves no half of a file
                self._file.unlink(missing_ok=True)
                raise
        return Descriptor(_LAYER_TYPE, packed.digest, packed.size)

    def _remove(self) -> None:
        # Windows keeps what somebody else reads; it goes with the folder.
        with self._turn, suppress(OSError):
            self._file.unlink()


class _Tally:
    """Length and digest of what went by."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0  # bytes

    def add(self, piece: bytes) -> None:
        self._hash.update(piece)
        self.size += len(piece)

    @property
    def digest(self) -> Digest:
        return Digest.of_raw(self._hash.digest())


class _Tallied:
    """A stream that is tallied while it is read, and may not be endless."""

    def __init__(self, source: Source, what: str) -> None:
        self._source, self._what = source, what
        self.tally = _Tally()

    def read(self, size: int, /) -> bytes:
        piece = self._source.read(size)
        self.tally.add(piece)
        if self.tally.size > MAX_UNPACKED:
            raise FormatError(f"{self._what}: expected at most {MAX_UNPACKED} bytes, got more")
        return piece

    def close(self) -> None:
        self._source.close()

    def check(self, diff_id: Digest) -> None:
        """Refuse what went by unless it is the content that the configuration names."""
        if self.tally.digest != diff_id:
            raise HashMismatchError(
                f"{self._what}: expected content {diff_id}, as the configuration says,"
                f" got {self.tally.digest}"
            )


def _descriptor_of_gzip(stream: BinaryIO, diff_id: Digest, what: str) -> Descriptor:
    """Describe a layer that is compressed already, and whose content must be *diff_id*."""
    packed = _Tallied(stream, what)
    content = _Tallied(decompressed(packed, Compression.GZIP, what=what), what)
    while content.read(_PIECE):
        pass
    content.check(diff_id)
    return Descriptor(_LAYER_TYPE, packed.tally.digest, packed.tally.size)


def _descriptor(media_type: str, content: bytes) -> Descriptor:
    return Descriptor(media_type, Digest.of(content), len(content))


def _json(descriptor: Descriptor) -> dict[str, object]:
    return {
        "mediaType": descriptor.media_type,
        "size": descriptor.size,
        "digest": descriptor.digest.text,
    }
