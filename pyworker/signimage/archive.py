"""Images in files: what `docker save`, buildah, kaniko, Bazel, ko, skopeo and podman write.

The rules of this file:

1. A layout is preferred to Docker's own list, because its digests are those of the image.
   Only where `docker save` made a layout up for layers that it keeps without compression, the
   list is read: nobody has ever pushed, nor will pull, that image.
2. A compressed archive is decompressed once, into the scratch folder, and never beyond what the
   disk has to spare.
3. What was put into the scratch folder is gone when the image is closed.

OCI Image Specification 1.1, "Image Layout"; Docker Image Specification 1.2.
"""

import io
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from signimage import dockerarchive, ocilayout
from signimage.compression import Compression, compression_of, decompressed
from signimage.errors import FormatError, InputError
from signimage.imagefiles import (
    MAX_UNPACKED,
    FolderFiles,
    ImageFiles,
    TarFiles,
    system_refusals,
)
from signimage.oci import StoredImage

_PIECE = 1024**2  # bytes read at once
_SPARE = 256 * 1024**2  # bytes that are left free on the disk for everybody else
# What Docker before 1.10 wrote instead of its list.
_OLD_LIST = "repositories"


@contextmanager
def open_image(path: Path, scratch: Path, *, name: str = "") -> Iterator[StoredImage]:
    """Open the image in the file or folder *path* for the time of the block.

    Args:
        path: An archive of `docker save` or an OCI layout, as a folder or as a tar archive, which
            may be compressed.
        scratch: A private folder for what is compressed and decompressed.
        name: Which image, if there are several, by a name or digest that the archive gives it.

    Raises:
        InputError: There is no such file, it has no such image, or the disk is full.
        FormatError: It is no image, or not a whole one.
        HashMismatchError: Some content is not what it is described as.
    """
    with system_refusals("scratch folder for the image"):
        # Windows keeps what a caller has forgotten to close; it goes with the scratch folder.
        folder = TemporaryDirectory(prefix="image-", dir=scratch, ignore_cleanup_errors=True)
    with folder:
        own = Path(folder.name)
        yield _image(_files(path, own), own, name)


def _image(files: ImageFiles, scratch: Path, name: str) -> StoredImage:
    has_list = dockerarchive.LIST in files
    if ocilayout.LAYOUT in files:
        image = ocilayout.read_layout(files, name=name)
        if not (has_list and image.is_plain):
            return image
    if has_list:
        return dockerarchive.read_archive(files, scratch, name=name)
    if _OLD_LIST in files:
        raise FormatError(
            f"{files.what}: expected an archive of Docker 1.10 or newer, got an older one"
        )
    raise FormatError(
        f"{files.what}: expected {ocilayout.LAYOUT} or {dockerarchive.LIST} in it, got neither",
        hint="Give a file that docker save wrote, or an OCI layout with its files on top",
    )


def _files(path: Path, scratch: Path) -> ImageFiles:
    what = f"image {path.name or path}"
    with system_refusals(what):
        mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return FolderFiles(path, what)
    if not stat.S_ISREG(mode):
        raise InputError(f"{what}: expected a file or a folder, got something else")
    with system_refusals(what), path.open("rb") as stream:
        compression = compression_of(stream)
        if compression is not Compression.NONE:
            path = _unpacked(stream, compression, scratch / "archive.tar", what)
    return TarFiles(path, what)


def _unpacked(stream: io.BufferedReader, compression: Compression, target: Path, what: str) -> Path:
    """Write *stream* into the file *target* without its compression."""
    room = max(shutil.disk_usage(target.parent).free - _SPARE, 0)
    size = 0
    with decompressed(stream, compression, what=what) as source, target.open("xb") as file:
        while piece := source.read(_PIECE):
            size += len(piece)
            if size > MAX_UNPACKED:
                raise FormatError(f"{what}: expected at most {MAX_UNPACKED} bytes, got more")
            if size > room:
                raise InputError(
                    f"{what}: expected at most {room} bytes, as the disk has no more room,"
                    " got more",
                    hint="Free some space, or give the archive without compression",
                )
            file.write(piece)
    return target
