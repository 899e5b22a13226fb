"""`signimage.ocilayout`: what a layout holds is given out byte for byte, or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import FormatError, HashMismatchError, InputError, SignImageError
from signimage.imagefiles import FolderFiles
from signimage.oci import Digest
from signimage.ocilayout import LayoutImage, is_same_name, parse_descriptor, read_layout
from unit.stored_images import (
    OCI_IMAGE,
    OCI_INDEX,
    OCI_LAYER,
    OCI_PLAIN_LAYER,
    Files,
    Layout,
    blob_file,
    contents,
    documents,
    json_bytes,
    named,
    write_folder,
)

FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
ATTESTATION = {"platform": {"os": "unknown", "architecture": "unknown"}}


@pytest.fixture
def layout() -> Layout:
    return Layout()


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., LayoutImage]:
    def opened(files: Files, name: str = "") -> LayoutImage:
        return read_layout(FolderFiles(write_folder(tmp_path, files), "image x"), name=name)

    return opened


Opened = Callable[..., LayoutImage]


def test_an_image_comes_out_as_it_went_in(layout: Layout, opened: Opened) -> None:
    image = layout.image("amd64")
    files = layout.with_images(image)
    found = opened(files)
    (manifest,) = found.manifests()
    assert manifest.content == files[blob_file(image["digest"])]
    assert manifest.descriptor.media_type == OCI_IMAGE
    document = json.loads(manifest.content)
    expected = [each["digest"] for each in (*document["layers"], document["config"])]
    assert [str(digest) for digest in contents(found)] == expected
    assert not found.is_plain


def test_an_index_is_kept_whole_with_its_attestations(layout: Layout, opened: Opened) -> None:
    """Children come before the index, what they share comes once, layers before configurations."""
    one, other = layout.image("amd64"), layout.image("arm64")
    inner = layout.index_of(other, one)
    outer = layout.index_of(one, inner, layout.image("attestation of amd64", **ATTESTATION))
    found = opened(layout.with_images(outer))
    manifests = found.manifests()
    assert [each.descriptor.digest.text for each in manifests] == [
        one["digest"],
        other["digest"],
        inner["digest"],
        documents(manifests)[-1]["manifests"][2]["digest"],
        outer["digest"],
    ]
    assert manifests[-1].descriptor.media_type == OCI_INDEX
    kinds = [content.split()[0] for content in contents(found).values()]
    assert kinds == [b"layer"] * 4 + [b"configuration"] * 3


def test_blobs_may_be_read_again(layout: Layout, opened: Opened) -> None:
    found = opened(layout.with_images(layout.image("amd64")))
    assert contents(found) == contents(found)


def test_layers_without_compression_are_noticed_and_kept(layout: Layout, opened: Opened) -> None:
    image = layout.image("amd64", layout.blob(OCI_PLAIN_LAYER, b"plain"))
    found = opened(layout.with_images(image))
    assert found.is_plain
    assert b"plain" in contents(found).values()


def test_what_may_not_be_distributed_need_not_be_there(layout: Layout, opened: Opened) -> None:
    layer = layout.blob(FOREIGN, b"of a vendor")
    files = layout.with_images(layout.image("windows", layer, layout.blob(OCI_LAYER, b"ours")))
    assert b"of a vendor" in contents(opened(files)).values()


def test_what_may_not_be_distributed_is_not_missed(layout: Layout, opened: Opened) -> None:
    layer = layout.blob(FOREIGN, b"of a vendor")
    files = layout.with_images(layout.image("windows", layer, layout.blob(OCI_LAYER, b"ours")))
    del files[blob_file(layer["digest"])]
    assert next(iter(contents(opened(files)).values())) == b"ours"


# --- which image -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["app:1.0", "1.0", "docker.io/library/app:1.0"])
def test_an_image_is_chosen_by_its_name(layout: Layout, opened: Opened, name: str) -> None:
    first = layout.image("first", **named("1.0" if name == "1.0" else "app:1.0"))
    second = layout.image("second", **named("app:2.0"))
    (manifest,) = opened(layout.with_images(first, second), name).manifests()
    assert manifest.descriptor.digest.text == first["digest"]


def test_an_image_is_chosen_by_its_tag_where_it_has_no_other_name(
    layout: Layout, opened: Opened
) -> None:
    first, second = layout.image("first", **named("1.0")), layout.image("second", **named("2.0"))
    files = layout.with_images(first, second)
    (manifest,) = opened(files, "localhost:5000/team/app:2.0").manifests()
    assert manifest.descriptor.digest.text == second["digest"]


def test_an_image_is_chosen_by_its_digest(layout: Layout, opened: Opened) -> None:
    first, second = layout.image("first"), layout.image("second")
    (manifest,) = opened(layout.with_images(first, second), second["digest"]).manifests()
    assert manifest.descriptor.digest.text == second["digest"]


def test_one_image_of_several_names_is_one_image(layout: Layout, opened: Opened) -> None:
    one, again = layout.image("one", **named("1")), layout.image("one", **named("2"))
    assert len(opened(layout.with_images(one, again)).manifests()) == 1


def test_several_images_are_named_and_none_is_guessed(layout: Layout, opened: Opened) -> None:
    first, second = layout.image("first", **named("app:1")), layout.image("second")
    files = layout.with_images(first, second)
    claim = rf"^image x: expected one image, got 'app:1', '{second['digest']}'$"
    with pytest.raises(InputError, match=claim) as raised:
        opened(files)
    assert raised.value.hint == "Name one of them"
    claim = r"^image x: expected one image called 'app:3', got 'app:1', 'sha256:"
    with pytest.raises(InputError, match=claim):
        opened(files, "app:3")


def test_many_images_are_not_all_named(layout: Layout, opened: Opened) -> None:
    images = [layout.image(str(number), **named(f"app:{number}")) for number in range(30)]
    with pytest.raises(InputError, match=r"^image x: expected one .*, 'app:19' and 10 more$"):
        opened(layout.with_images(*images))


def test_a_layout_may_be_empty(layout: Layout, opened: Opened) -> None:
    with pytest.raises(InputError, match=r"^image x: expected one image, got none$"):
        opened(layout.with_images())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("app", "app:latest"),
        ("app:1", "docker.io/library/app:1"),
        ("localhost/app:1", "localhost/app:1"),
        ("not a name", "not a name"),
    ],
)
def test_names_mean_what_they_mean_to_docker(one: str, other: str) -> None:
    assert is_same_name(one, other)
    assert is_same_name(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("app:1", "app:2"), ("app:1", "localhost/app:1"), ("not a name", "app"), ("app", "a/app")],
)
def test_other_names_mean_other_images(one: str, other: str) -> None:
    assert not is_same_name(one, other)
    assert not is_same_name(other, one)


# --- a good layout and one lie ---------------------------------------------------------------


def test_content_of_another_digest(layout: Layout, opened: Opened) -> None:
    image = layout.image("amd64")
    files = layout.with_images(image)
    layer = json.loads(files[blob_file(image["digest"])])["layers"][0]["digest"]
    files[blob_file(layer)] = files[blob_file(layer)].upper()
    found = opened(files)
    with pytest.raises(HashMismatchError, match=rf"^image x: blobs/\S+: expected {layer} \(14 byt"):
        contents(found)


@pytest.mark.parametrize("part", ["config", "layers"])
def test_content_of_another_length(layout: Layout, opened: Opened, part: str) -> None:
    image = layout.image("amd64")
    files = layout.with_images(image)
    found = json.loads(files[blob_file(image["digest"])])[part]
    descriptor = found if part == "config" else found[1]
    files[blob_file(descriptor["digest"])] += b"!"
    size = descriptor["size"]
    claim = rf"^image x: blobs/sha256/\w+: expected {size} bytes, got {size + 1}$"
    with pytest.raises(HashMismatchError, match=claim):
        opened(files)


@pytest.mark.parametrize("change", [b" ", b""])
def test_a_manifest_of_another_digest(layout: Layout, opened: Opened, change: bytes) -> None:
    image = layout.image("amd64")
    files = layout.with_images(image)
    content = files[blob_file(image["digest"])]
    files[blob_file(image["digest"])] = content[:-1].replace(b",", b"\n", 1) + b"}" + change
    with pytest.raises(
        HashMismatchError, match=r"^image x: blobs/\S+: expected (\d+ bytes|sha256)"
    ):
        opened(files)


def test_a_blob_that_is_not_there(layout: Layout, opened: Opened) -> None:
    image = layout.image("amd64")
    files = layout.with_images(image)
    config = json.loads(files[blob_file(image["digest"])])["config"]["digest"]
    del files[blob_file(config)]
    claim = rf"^image x: expected a file '{blob_file(config)}', got none$"
    with pytest.raises(FormatError, match=claim):
        opened(files)


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        (
            {"platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
            "'linux/arm64/v8'",
        ),
        ({}, "an image without platform"),
        ({"platform": 7}, "an image without platform"),
        (ATTESTATION, "'unknown/unknown'"),
    ],
)
def test_an_index_with_a_gap(
    layout: Layout, opened: Opened, more: dict[str, Any], shown: str
) -> None:
    child = layout.image("arm64", **more)
    files = layout.with_images(layout.index_of(layout.image("amd64"), child))
    del files[blob_file(child["digest"])]
    claim = rf"expected all images of the index, got none for {shown} \({child['digest']}\)$"
    with pytest.raises(FormatError, match=claim) as raised:
        opened(files)
    assert raised.value.hint


def test_indexes_that_never_end(layout: Layout, opened: Opened) -> None:
    child = layout.image("amd64")
    for _ in range(5):
        child = layout.index_of(child)
    with pytest.raises(
        FormatError, match=r"^image x: .*: expected at most 4 indexes in each other$"
    ):
        opened(layout.with_images(child))


def test_more_manifests_than_anybody_needs(layout: Layout, opened: Opened) -> None:
    children = [layout.image(str(number)) for number in range(1001)]
    with pytest.raises(
        FormatError, match=r"^image x: expected at most 1000 manifests in 67108864 "
    ):
        opened(layout.with_images(layout.index_of(*children)))


@pytest.mark.parametrize(
    ("document", "claim"),
    [
        ({"manifests": []}, r"expected no 'manifests' in type '.*manifest.v1\+json', got one$"),
        ({"mediaType": OCI_INDEX}, r"expected type '.*manifest.v1\+json', got another one inside$"),
        ({"config": None}, r"config: expected a descriptor, got nothing$"),
        ({"config": {}}, r"config: mediaType must be a string, got nothing$"),
        ({"layers": {}}, r"layers must be a list, got an object$"),
        ({"layers": [1]}, r"layers: expected a descriptor, got a number$"),
        ({"Layers": []}, r"member 'Layers' is misspelt in letter case$"),
    ],
)
def test_documents_that_are_no_manifests(
    layout: Layout, opened: Opened, document: dict[str, Any], claim: str
) -> None:
    """Among them those that one program takes for an image and another for an index."""
    good = json.loads(layout.files[blob_file(layout.image("amd64")["digest"])])
    image = layout.blob(OCI_IMAGE, json_bytes({**good, **document}))
    with pytest.raises(FormatError, match=rf"^image x: blobs/sha256/\w+: {claim}"):
        opened(layout.with_images(image))


@pytest.mark.parametrize("member", ["config", "layers"])
def test_an_index_that_is_an_image_too(layout: Layout, opened: Opened, member: str) -> None:
    document = {"schemaVersion": 2, "manifests": [layout.image("amd64")], member: []}
    index = layout.blob(OCI_INDEX, json_bytes(document))
    with pytest.raises(FormatError, match=rf"expected no '{member}' in type '.*index.*', got one$"):
        opened(layout.with_images(index))


def test_content_that_is_described_in_two_ways(layout: Layout, opened: Opened) -> None:
    image = layout.image("amd64")
    other = {**image, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}
    with pytest.raises(FormatError, match=r"expected one description, got two that differ$"):
        opened(layout.with_images(layout.index_of(image, other)))


@pytest.mark.parametrize(
    "media_type", ["application/vnd.docker.distribution.manifest.v1+prettyjws", "text/plain"]
)
def test_types_that_are_neither_image_nor_index(
    layout: Layout, opened: Opened, media_type: str
) -> None:
    image = {**layout.image("amd64"), "mediaType": media_type}
    with pytest.raises(FormatError, match=r"expected an image or an index, got type '"):
        opened(layout.with_images(image))


@pytest.mark.parametrize("version", ["2.0.0", ""])
def test_layouts_of_other_versions(layout: Layout, opened: Opened, version: str) -> None:
    files = layout.with_images(layout.image("amd64"))
    files["oci-layout"] = json_bytes({"imageLayoutVersion": version})
    with pytest.raises(
        FormatError, match=r"^image x: oci-layout: expected layout version 1.0.0, g"
    ):
        opened(files)


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        (
            {"mediaType": "text/plain\r\nX: y"},
            r"expected a media type, got 'text/plain\\r\\nX: y'$",
        ),
        ({"mediaType": "text"}, r"expected a media type, got 'text'$"),
        ({"size": -1}, r"size must be a whole number from 0 up$"),
        ({"size": "1"}, r"size must be a whole number from 0 up$"),
        ({"digest": "sha512:" + "0" * 128}, r"^digest: expected sha256:<64 lower-case hex>, got"),
        ({"digest": "sha256:../../x"}, r"^digest: expected sha256:<64 lower-case hex>, got"),
        ({"digest": None}, r"digest must be a string, got nothing$"),
    ],
)
def test_descriptors_that_are_none(change: dict[str, Any], claim: str) -> None:
    good = {"mediaType": "text/plain", "digest": Digest.of(b"").text, "size": 0}
    assert parse_descriptor(good, "it").digest == Digest.of(b"")
    with pytest.raises(FormatError, match=claim):
        parse_descriptor({**good, **change}, "it")


@given(data=st.data())
def test_anything_is_a_layout_or_an_error_of_ours(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    layout = Layout()
    files = layout.with_images(layout.index_of(layout.image("amd64")))
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    folder = write_folder(tmp_path_factory.mktemp("layout"), {**files, name: bytes(content)})
    try:
        found = contents(read_layout(FolderFiles(folder, "image x")))
    except (FormatError, HashMismatchError, InputError) as error:
        assert isinstance(error, SignImageError)  # noqa: PT017 -- either way is fine
    else:
        assert len(found) == 3
