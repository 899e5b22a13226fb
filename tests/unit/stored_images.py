"""Images in files, made by hand: good ones, to which a test adds one lie.

Files are a dict from name to content until they are written as a folder or a tar archive.
"""

import hashlib
import io
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from signimage.oci import Digest, Manifest, StoredImage

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_PLAIN_LAYER = "application/vnd.oci.image.layer.v1.tar"

Files = dict[str, bytes]


def tar_of(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """Write files, and then symbolic links, as one archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return stream.getvalue()


def layer_of(text: str, size: int = 3000) -> bytes:
    """A layer with a file that compresses to about a half of it."""
    noise = random.Random(text).choices(b"abcdefghijklmnop", k=size)  # noqa: S311 -- no secret
    return tar_of({f"{text}.txt": bytes(noise)})


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below *folder*."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def json_bytes(value: object) -> bytes:
    """Spell a document as most programs do."""
    return json.dumps(value, separators=(",", ":")).encode()


def digest_of(content: bytes) -> str:
    """The digest as documents name it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def blob_file(digest: str) -> str:
    """The file of a layout that has the content."""
    return f"blobs/{digest.replace(':', '/')}"


class Layout:
    """A good OCI layout, as far as `index` names its images."""

    def __init__(self) -> None:
        self.files: Files = {"oci-layout": json_bytes({"imageLayoutVersion": "1.0.0"})}

    def blob(self, media_type: str, content: bytes, **more: Any) -> dict[str, Any]:
        """Store some content; gives its descriptor, with *more* members."""
        digest = digest_of(content)
        self.files[blob_file(digest)] = content
        return {"mediaType": media_type, "digest": digest, "size": len(content), **more}

    def image(self, text: str, *layers: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Store an image with two layers, or the given ones; gives its descriptor."""
        chosen = layers or (
            self.blob(OCI_LAYER, f"layer of {text}".encode()),
            self.blob(OCI_LAYER, b"layer of everybody"),
        )
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE,
            "config": self.blob(OCI_CONFIG, f"configuration of {text}".encode()),
            "layers": list(chosen),
        }
        return self.blob(OCI_IMAGE, json_bytes(document), **more)

    def index_of(self, *children: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Store an index; gives its descriptor."""
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(children)}
        return self.blob(OCI_INDEX, json_bytes(document), **more)

    def with_images(self, *descriptors: dict[str, Any]) -> Files:
        """All files, the layout's own index naming the given images."""
        index = {"schemaVersion": 2, "manifests": list(descriptors)}
        return {**self.files, "index.json": json_bytes(index)}


def named(name: str) -> dict[str, dict[str, str]]:
    """The members by which a layout names an image."""
    return {"annotations": {"org.opencontainers.image.ref.name": name}}


def configuration_of(layers: Sequence[bytes]) -> bytes:
    """An image's configuration; *layers* are their contents."""
    return json_bytes(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(each) for each in layers]},
        }
    )


def docker_archive(
    layers: Sequence[bytes], *, stored: Sequence[bytes] = (), name: str = "app:1.0"
) -> Files:
    """The files of a good archive of Docker's with one image.

    Args:
        layers: Their contents.
        stored: The same as they are in the archive, if they are compressed there.
        name: What the image is called.
    """
    config = configuration_of(layers)
    files = {f"{digest_of(config).removeprefix('sha256:')}.json": config}
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    files |= dict(zip(names, stored or layers, strict=True))
    entry = {"Config": next(iter(files)), "RepoTags": [name], "Layers": names}
    return {**files, "manifest.json": json_bytes([entry])}


def contents(image: StoredImage) -> dict[Digest, bytes]:
    """Read all blobs as an upload does: each is what it is described as, and comes once."""
    found: dict[Digest, bytes] = {}
    for blob in image.blobs():
        with blob.open() as stream:
            content = stream.read()
        blob.descriptor.digest.check(content, what="blob")
        assert len(content) == blob.descriptor.size
        assert blob.descriptor.digest not in found
        found[blob.descriptor.digest] = content
    return found


def documents(manifests: Sequence[Manifest]) -> list[dict[str, Any]]:
    """Parse manifests, whose descriptors are theirs."""
    for each in manifests:
        each.descriptor.digest.check(each.content, what="manifest")
        assert len(each.content) == each.descriptor.size
    return [json.loads(each.content) for each in manifests]
