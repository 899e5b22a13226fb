"""`signimage.archive`: whoever wrote an image, in whatever wrapping, it is the same image."""

import bz2
import gzip
import lzma
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from signimage import archive
from signimage.archive import open_image
from signimage.errors import FormatError, InputError
from signimage.oci import Digest
from unit.stored_images import (
    OCI_LAYER,
    OCI_PLAIN_LAYER,
    Files,
    Layout,
    contents,
    docker_archive,
    documents,
    json_bytes,
    layer_of,
    named,
    tar_of,
    write_folder,
)

LAYERS = (layer_of("one"), layer_of("two"))
DOCKER_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


class Usage(NamedTuple):
    """What `shutil.disk_usage` tells."""

    total: int
    used: int
    free: int


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir(mode=0o700)
    return folder


def layout_files() -> Files:
    layout = Layout()
    return layout.with_images(layout.image("amd64", **named("app:1.0")))


def read(path: Path, scratch: Path, name: str = "") -> tuple[dict[Digest, bytes], str]:
    """All blobs, and the digest of the image."""
    with open_image(path, scratch, name=name) as image:
        found = contents(image)
        documents(image.manifests())
        digest = image.manifests()[-1].descriptor.digest.text
    assert not list(scratch.iterdir())
    return found, digest


def written(folder: Path, files: Files, compress: Callable[[bytes], bytes] = bytes) -> Path:
    path = folder / "image.tar"
    path.write_bytes(compress(tar_of(files)))
    return path


@pytest.mark.parametrize("files", [layout_files(), docker_archive(LAYERS)], ids=["OCI", "Docker"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_wrappings_do_not_matter(
    tmp_path: Path, scratch: Path, files: Files, compress: Callable[[bytes], bytes]
) -> None:
    folder = write_folder(tmp_path / "image", files)
    assert read(folder, scratch) == read(written(tmp_path, files, compress), scratch)


def test_a_layout_is_preferred_to_the_list_beside_it(tmp_path: Path, scratch: Path) -> None:
    """Docker since 25 writes both; with its containerd store the layout is the real image."""
    layout = Layout()
    stored = [gzip.compress(each) for each in LAYERS]
    image = layout.image("app", *[layout.blob(OCI_LAYER, each) for each in stored])
    files = docker_archive(LAYERS, stored=stored) | layout.with_images(image)
    assert read(written(tmp_path, files), scratch)[1] == image["digest"]


def test_a_layout_made_up_for_plain_layers_is_not(tmp_path: Path, scratch: Path) -> None:
    """Docker since 25 without containerd's store: nobody will pull layers that large."""
    layout = Layout()
    image = layout.image("app", *[layout.blob(OCI_PLAIN_LAYER, each) for each in LAYERS])
    files = docker_archive(LAYERS) | layout.with_images(image)
    path = written(tmp_path, files)
    assert read(path, scratch) == read(written(tmp_path, docker_archive(LAYERS)), scratch)
    with open_image(path, scratch) as opened:
        list(opened.blobs())
        assert opened.manifests()[-1].descriptor.media_type == DOCKER_TYPE


def test_plain_layers_without_a_list_stay_plain(tmp_path: Path, scratch: Path) -> None:
    layout = Layout()
    image = layout.image("app", *[layout.blob(OCI_PLAIN_LAYER, each) for each in LAYERS])
    found, digest = read(written(tmp_path, layout.with_images(image)), scratch)
    assert digest == image["digest"]
    assert LAYERS[0] in found.values()


@pytest.mark.parametrize("name", ["app:1.0", "docker.io/library/app:1.0", "b"])
@pytest.mark.parametrize("files", [layout_files(), docker_archive(LAYERS)], ids=["OCI", "Docker"])
def test_the_only_image_is_meant_by_any_name(
    tmp_path: Path, scratch: Path, files: Files, name: str
) -> None:
    path = written(tmp_path, files)
    assert read(path, scratch, name) == read(path, scratch)


def test_scratch_folder_is_empty_after_a_fault(tmp_path: Path, scratch: Path) -> None:
    path = written(tmp_path, docker_archive(LAYERS), gzip.compress)

    def fail() -> None:
        with open_image(path, scratch) as image:
            next(iter(image.blobs()))
            assert list(scratch.iterdir())
            raise OSError("the caller's own")

    with pytest.raises(OSError, match=r"^the caller's own$"):
        fail()
    assert not list(scratch.iterdir())


# --- what is no image ------------------------------------------------------------------------


def test_no_file(tmp_path: Path, scratch: Path) -> None:
    with pytest.raises(InputError, match=r"^image none.tar: No such file or directory$"):
        read(tmp_path / "none.tar", scratch)


def test_no_scratch_folder(tmp_path: Path) -> None:
    path = written(tmp_path, layout_files())
    with pytest.raises(InputError, match=r"^scratch folder for the image: No such file or directo"):
        read(path, tmp_path / "none")


def test_a_pipe_is_never_waited_for(tmp_path: Path, scratch: Path) -> None:
    os.mkfifo(tmp_path / "image.tar")
    with pytest.raises(
        InputError, match=r"^image image.tar: expected a file or a folder, got some"
    ):
        read(tmp_path / "image.tar", scratch)


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\3\4" * 500, gzip.compress(b"x" * 600)])
def test_other_files(tmp_path: Path, scratch: Path, content: bytes) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"^image image.tar: expected "):
        read(path, scratch)


@pytest.mark.parametrize("files", [{}, {"bin/sh": b"x"}, {"folder/oci-layout": b"{}"}])
def test_archives_of_something_else(tmp_path: Path, scratch: Path, files: Files) -> None:
    claim = r"^image image.tar: expected oci-layout or manifest.json in it, got neither$"
    with pytest.raises(FormatError, match=claim) as raised:
        read(written(tmp_path, files), scratch)
    assert raised.value.hint


def test_archives_older_than_their_list(tmp_path: Path, scratch: Path) -> None:
    files = {"repositories": json_bytes({"app": {"1.0": "0" * 64}})}
    with pytest.raises(
        FormatError, match=r"expected an archive of Docker 1.10 or newer, got an ol"
    ):
        read(written(tmp_path, files), scratch)


def test_a_compressed_archive_that_is_cut_off(tmp_path: Path, scratch: Path) -> None:
    path = written(tmp_path, docker_archive(LAYERS), lambda data: gzip.compress(data)[:-20])
    with pytest.raises(
        FormatError, match=r"^image image.tar: expected a whole compressed stream, "
    ):
        read(path, scratch)
    assert not list(scratch.iterdir())


def test_an_archive_that_would_fill_the_disk(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some room is left to others, and nothing of what was written stays."""
    path = written(tmp_path, {"x": bytes(3 * 1024**2)}, gzip.compress)
    spare = 256 * 1024**2
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, spare + 1024**2))
    claim = (
        r"^image image.tar: expected at most 1048576 bytes, as the disk has no more room, got mo"
    )
    with pytest.raises(InputError, match=claim) as raised:
        read(path, scratch)
    assert raised.value.hint
    assert not list(scratch.iterdir())


def test_an_archive_that_never_ends(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, {"x": bytes(3 * 1024**2)}, gzip.compress)
    monkeypatch.setattr(archive, "MAX_UNPACKED", 2 * 1024**2)
    with pytest.raises(
        FormatError, match=r"^image image.tar: expected at most 2097152 bytes, got m"
    ):
        read(path, scratch)
    assert not list(scratch.iterdir())
