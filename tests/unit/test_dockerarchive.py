"""`signimage.dockerarchive`: Docker's archives become what `docker push` makes of them."""

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.dockerarchive import DockerImage, read_archive
from signimage.errors import FormatError, HashMismatchError, InputError
from signimage.imagefiles import FolderFiles, TarFiles
from signimage.oci import Digest
from unit.stored_images import (
    Files,
    configuration_of,
    contents,
    digest_of,
    docker_archive,
    documents,
    json_bytes,
    layer_of,
    tar_of,
    write_folder,
)

LAYERS = (layer_of("one"), layer_of("two"))
LIST = "manifest.json"

Opened = Callable[..., DockerImage]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def opened(tmp_path: Path, scratch: Path) -> Opened:
    def opened(files: Files, name: str = "") -> DockerImage:
        folder = write_folder(tmp_path / "image", files)
        return read_archive(FolderFiles(folder, "image x"), scratch, name=name)

    return opened


def changed(files: Files, **change: Any) -> Files:
    """Change the archive's list."""
    (entry,) = json.loads(files[LIST])
    return {**files, LIST: json_bytes([{**entry, **change}])}


def test_an_image_is_what_docker_push_makes_of_it(opened: Opened) -> None:
    files = docker_archive(LAYERS)
    image = opened(files)
    *layers, config = contents(image).values()
    assert tuple(gzip.decompress(each) for each in layers) == LAYERS
    assert config == configuration_of(LAYERS)
    (manifest,) = image.manifests()
    types = "application/vnd.docker."
    assert json.loads(manifest.content) == {
        "schemaVersion": 2,
        "mediaType": f"{types}distribution.manifest.v2+json",
        "config": {
            "mediaType": f"{types}container.image.v1+json",
            "size": len(config),
            "digest": digest_of(config),
        },
        "layers": [
            {
                "mediaType": f"{types}image.rootfs.diff.tar.gzip",
                "size": len(each),
                "digest": digest_of(each),
            }
            for each in layers
        ],
    }
    assert manifest.content.startswith(b'{\n   "schemaVersion": 2,\n   "mediaType": "appl')
    assert manifest.descriptor.media_type == f"{types}distribution.manifest.v2+json"


def test_the_same_archive_gives_the_same_digest(opened: Opened) -> None:
    one = opened(docker_archive(LAYERS))
    other = opened(docker_archive(LAYERS))
    assert contents(one) == contents(other)
    assert one.manifests() == other.manifests()


def test_layers_that_gzip_compressed_are_taken_as_they_are(opened: Opened) -> None:
    """Also in several streams, as lazy pullers want them."""
    stored = (
        gzip.compress(LAYERS[0], 1),
        gzip.compress(LAYERS[1][:512]) + gzip.compress(LAYERS[1][512:]),
    )
    found = contents(opened(docker_archive(LAYERS, stored=stored)))
    assert tuple(found.values())[:2] == stored


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress])
def test_layers_of_other_compressions_become_gzip(
    opened: Opened, compress: Callable[[bytes], bytes]
) -> None:
    stored = [compress(each) for each in LAYERS]
    image = opened(docker_archive(LAYERS, stored=stored))
    assert contents(image) == contents(opened(docker_archive(LAYERS)))


def test_a_layer_that_is_there_twice_is_stored_once_and_listed_twice(opened: Opened) -> None:
    image = opened(docker_archive([LAYERS[0], LAYERS[1], LAYERS[0]]))
    assert len(contents(image)) == 3
    (document,) = documents(image.manifests())
    digests = [each["digest"] for each in document["layers"]]
    assert digests[0] == digests[2] != digests[1]


def test_docker_links_layers_that_it_has_written_already(tmp_path: Path, scratch: Path) -> None:
    files = docker_archive([LAYERS[0], LAYERS[1], LAYERS[0]])
    del files["2/layer.tar"]
    path = tmp_path / "image.tar"
    path.write_bytes(tar_of(files, {"2/layer.tar": "../0/layer.tar"}))
    image = read_archive(TarFiles(path, "image x"), scratch)
    assert [gzip.decompress(each) for each in list(contents(image).values())[:2]] == list(LAYERS)


def test_an_image_may_have_no_layers(opened: Opened) -> None:
    image = opened(docker_archive([]))
    assert list(contents(image).values()) == [configuration_of([])]
    assert documents(image.manifests())[0]["layers"] == []


def test_layers_are_gone_from_the_disk_once_they_were_read(opened: Opened, scratch: Path) -> None:
    for blob in opened(docker_archive(LAYERS)).blobs():
        with blob.open() as stream:
            assert stream.read(10)
        # An upload that broke off begins anew.
        with blob.open() as stream:
            first = stream.read()
        assert not list(scratch.iterdir())
        # And so does one that the registry forgot.
        with blob.open() as stream:
            assert stream.read() == first
    assert not list(scratch.iterdir())


def test_layers_may_be_read_by_two_at_a_time(opened: Opened, scratch: Path) -> None:
    for blob in opened(docker_archive(LAYERS)).blobs():
        with blob.open() as one, blob.open() as other:
            assert one.read() == other.read()
    assert not list(scratch.iterdir())


def two_images() -> Files:
    one, other = docker_archive(LAYERS[:1]), docker_archive(LAYERS[1:], name="app:2.0")
    other["1/layer.tar"] = other.pop("0/layer.tar")
    other = changed(other, Layers=["1/layer.tar"])
    entries = json.loads(one[LIST]) + json.loads(other[LIST])
    return {**one, **other, LIST: json_bytes(entries)}


def test_an_image_is_chosen_among_several(opened: Opened) -> None:
    for layer, name in zip(LAYERS, ("app:1.0", "app:2.0"), strict=True):
        config = configuration_of([layer])
        for each in (name, digest_of(config), digest_of(config).removeprefix("sha256:")):
            assert config in contents(opened(two_images(), each)).values()


def test_several_images_are_named_and_none_is_guessed(opened: Opened) -> None:
    with pytest.raises(
        InputError, match=r"^image x: expected one image, got 'app:1.0', 'app:2.0'$"
    ):
        opened(two_images())
    with pytest.raises(InputError, match=r"expected one image called 'app', got 'app:1.0', 'app:2"):
        opened(two_images(), "app")


def test_an_image_without_name_is_read(opened: Opened) -> None:
    files = changed(docker_archive(LAYERS), RepoTags=None)
    assert len(contents(opened(files))) == 3
    assert len(contents(opened(files, "app"))) == 3


@pytest.mark.parametrize("form", ["sha256:{}", "blobs/sha256/{}", "{}.json", "config.json"])
def test_each_writer_names_the_configuration_in_its_way(opened: Opened, form: str) -> None:
    """Crane, Docker since 25, Docker before; and whoever chose a name."""
    files = docker_archive(LAYERS)
    config = files.pop(next(iter(files)))
    name = form.format(digest_of(config).removeprefix("sha256:"))
    image = opened(changed({**files, name: config}, Config=name))
    assert config in contents(image).values()


# --- a good archive and one lie --------------------------------------------------------------


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress])
def test_a_layer_of_other_content(
    opened: Opened, scratch: Path, compress: Callable[[bytes], bytes]
) -> None:
    stored = [compress(LAYERS[0]), compress(layer_of("another"))]
    image = opened(docker_archive(LAYERS, stored=stored))
    claim = rf"^image x: layer '1/layer.tar': expected content {digest_of(LAYERS[1])}, as the conf"
    with pytest.raises(HashMismatchError, match=claim):
        contents(image)
    assert not list(scratch.iterdir())


def test_a_layer_that_is_damaged(opened: Opened, scratch: Path) -> None:
    stored = [LAYERS[0], bz2.compress(LAYERS[1])[:-5]]
    image = opened(docker_archive(LAYERS, stored=stored))
    claim = r"^image x: layer '1/layer.tar': expected a whole compressed stream, got a part$"
    with pytest.raises(FormatError, match=claim):
        contents(image)
    assert not list(scratch.iterdir())


def test_a_layer_with_something_behind_it(opened: Opened) -> None:
    stored = [gzip.compress(LAYERS[0]), gzip.compress(LAYERS[1]) + b"!"]
    image = opened(docker_archive(LAYERS, stored=stored))
    with pytest.raises(FormatError, match=r"^image x: layer '1/layer.tar': expected "):
        contents(image)


def test_a_layer_that_changes_while_it_is_uploaded(opened: Opened, tmp_path: Path) -> None:
    stored = [gzip.compress(each) for each in LAYERS]
    blobs = opened(docker_archive(LAYERS, stored=stored)).blobs()
    blob = next(blobs)
    file = tmp_path / "image" / "0" / "layer.tar"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with (
        blob.open() as stream,
        pytest.raises(HashMismatchError, match=r"0/layer.tar': expected sha"),
    ):
        stream.read()


def test_a_configuration_of_another_name(opened: Opened) -> None:
    files = docker_archive(LAYERS)
    name = next(iter(files))
    files[name] += b"\n"
    claim = rf"^image x: configuration: expected sha256:{name.removesuffix('.json')}, got sha256:"
    with pytest.raises(HashMismatchError, match=claim):
        opened(files)


def test_other_layers_than_the_configuration_has(opened: Opened) -> None:
    claim = r"^image x: expected 2 layers, as the configuration says, got 1$"
    with pytest.raises(FormatError, match=claim):
        opened(changed(docker_archive(LAYERS), Layers=["0/layer.tar"]))


def test_a_layer_that_is_not_there(opened: Opened) -> None:
    with pytest.raises(FormatError, match=r"^image x: expected a file '7/layer.tar', got none$"):
        opened(changed(docker_archive(LAYERS), Layers=["0/layer.tar", "7/layer.tar"]))


def test_a_configuration_that_is_not_there(opened: Opened) -> None:
    with pytest.raises(FormatError, match=r"^image x: expected a file 'config.json', got none$"):
        opened(changed(docker_archive(LAYERS), Config="config.json"))


@pytest.mark.parametrize(
    ("document", "claim"),
    [
        ({}, r"^image x: manifest.json: expected a list of images, got something else$"),
        ([1], r"^image x: manifest.json: expected an object, got a number$"),
        ([{}], r"^image x: manifest.json: Config must be a string, got nothing$"),
        ([{"Config": "c", "Layers": [1]}], r"Layers must hold strings, got a number$"),
        ([{"Config": "c", "layers": []}], r"member 'layers' is misspelt in letter case$"),
    ],
)
def test_lists_that_are_none(opened: Opened, document: object, claim: str) -> None:
    with pytest.raises(FormatError, match=claim):
        opened({LIST: json_bytes(document)})


@pytest.mark.parametrize(
    ("rootfs", "claim"),
    [
        (None, r"^image x: configuration: rootfs: expected an object, got nothing$"),
        ({"type": "layers+base"}, r"configuration: rootfs: expected type 'layers', got 'layers\+b"),
        (
            {"type": "layers", "diff_ids": ["sha1:0"]},
            r"^digest: expected sha256:<64 lower-case hex",
        ),
    ],
)
def test_configurations_that_are_none(opened: Opened, rootfs: object, claim: str) -> None:
    files = docker_archive(LAYERS) | {"config.json": json_bytes({"rootfs": rootfs})}
    with pytest.raises(FormatError, match=claim):
        opened(changed(files, Config="config.json"))


def test_an_archive_without_images(opened: Opened) -> None:
    with pytest.raises(InputError, match=r"^image x: expected one image, got none$"):
        opened({LIST: b"[]"})


@given(data=st.data())
def test_anything_is_an_image_or_an_error_of_ours(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = docker_archive(LAYERS[:1], stored=[gzip.compress(LAYERS[0])])
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    folder = tmp_path_factory.mktemp("archive")
    write_folder(folder / "image", {**files, name: bytes(content)})
    try:
        image = read_archive(FolderFiles(folder / "image", "image x"), folder)
        found = contents(image)
    except (FormatError, HashMismatchError, InputError):
        return
    assert gzip.GzipFile(fileobj=io.BytesIO(next(iter(found.values())))).read() == LAYERS[0]
    assert documents(image.manifests())[0]["layers"][0]["digest"] == str(next(iter(found)))
    assert all(Digest.of(content) == digest for digest, content in found.items())
