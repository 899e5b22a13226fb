"""`signimage.imagefiles`: files are found by name, and content is what its digest says."""

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import FormatError, HashMismatchError, InputError
from signimage.imagefiles import (
    MAX_DOCUMENT,
    FolderFiles,
    ImageFiles,
    TarFiles,
    checked,
    parse_document,
    read_document,
)
from signimage.oci import Descriptor, Digest
from unit.stored_images import tar_of, write_folder

FILES = {"a/b.json": b"{}", "manifest.json": b"[1]", "empty": b""}


@pytest.fixture(params=["folder", "archive"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> ImageFiles:
    if request.param == "folder":
        return FolderFiles(write_folder(tmp_path, FILES), "image")
    path = tmp_path / "image.tar"
    path.write_bytes(tar_of(FILES))
    return TarFiles(path, "image")


def descriptor_of(content: bytes) -> Descriptor:
    return Descriptor("text/plain", Digest.of(content), len(content))


def test_files_are_read_by_name(files: ImageFiles) -> None:
    for name, content in FILES.items():
        assert name in files
        assert files.size(name) == len(content)
        assert read_document(files, name) == content
        with files.open(name) as stream, files.open(name) as again:
            assert stream.read(1) == content[:1]
            assert again.read() == content


@pytest.mark.parametrize("name", ["none", "a", "a/none", "a/b.json/c"])
def test_what_is_no_file_is_not_there(files: ImageFiles, name: str) -> None:
    assert name not in files
    for read in (files.size, files.open):
        with pytest.raises(FormatError, match=rf"^image: expected a file '{name}', got none$"):
            read(name)


def test_a_pipe_in_a_folder_is_no_file(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "index.json")
    files = FolderFiles(tmp_path, "image")
    assert "index.json" not in files
    with pytest.raises(FormatError, match=r"^image: expected a file 'index.json', got none$"):
        files.open("index.json")


def test_links_in_a_folder_are_followed(tmp_path: Path) -> None:
    """Bazel fills layouts with them."""
    (tmp_path / "elsewhere").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert read_document(FolderFiles(tmp_path, "image"), "link") == b"x"


def test_an_archive_that_vanished_is_the_callers_matter(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(tar_of(FILES))
    files = TarFiles(path, "image")
    path.unlink()
    with pytest.raises(InputError, match=r"^image: 'manifest.json': No such file or directory$"):
        files.open("manifest.json")
    with pytest.raises(InputError, match=r"^image: No such file or directory$"):
        TarFiles(path, "image")


def test_an_archive_that_shrinks_is_no_archive_any_more(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(tar_of({"a": bytes(10**6)}))
    with TarFiles(path, "image").open("a") as stream:
        os.truncate(path, 1024)
        with pytest.raises(FormatError, match=r"^image: 'a': expected \d+ more bytes, got the end"):
            stream.read()


def test_documents_have_a_limit(tmp_path: Path) -> None:
    write_folder(tmp_path, {"most": bytes(MAX_DOCUMENT), "more": bytes(MAX_DOCUMENT + 1)})
    files = FolderFiles(tmp_path, "image")
    assert len(read_document(files, "most")) == MAX_DOCUMENT
    claim = r"^image: 'more': expected at most 4194304 bytes, got 4194305$"
    with pytest.raises(FormatError, match=claim):
        read_document(files, "more")


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"a":1,"a":2}', b"[" * 70, b"\xff", b"{}x"])
def test_documents_are_strict_json(content: bytes) -> None:
    with pytest.raises(FormatError, match=r"^list: ") as raised:
        parse_document(content, what="list")
    assert not raised.value.hint


@given(st.binary(max_size=300), st.integers(1, 400))
def test_good_content_passes(content: bytes, size: int) -> None:
    closed = []
    whole = checked(
        io.BytesIO(content),
        descriptor_of(content),
        what="blob",
        on_complete=lambda: closed.append(1),
    )
    with whole:
        found = b""
        while piece := whole.read(size):
            found += piece
    assert found == content
    assert closed == [1]


@given(st.binary(min_size=1, max_size=300), st.data())
def test_no_other_content_passes(content: bytes, data: st.DataObject) -> None:
    """Neither a changed byte, nor less of it; and more is never looked at."""
    at = data.draw(st.integers(0, len(content) - 1))
    changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    for other in (changed, content[:at]):
        stream = checked(io.BytesIO(other), descriptor_of(content), what="blob")
        with pytest.raises(HashMismatchError, match=r"^blob: expected sha256:\w+ \(\d+ bytes\), g"):
            stream.read()
    with checked(io.BytesIO(content + b"!"), descriptor_of(content), what="blob") as stream:
        assert stream.read() == content


def test_the_last_bytes_wait_for_the_digest() -> None:
    """Whoever uploads content of a known length must not have all of it before it is checked."""
    content = bytes(10**6)
    stream = checked(io.BytesIO(content[:-1] + b"!"), descriptor_of(content), what="blob")
    assert len(stream.read(600_000)) == 600_000
    with pytest.raises(HashMismatchError, match=r"^blob: expected sha256:.*, got sha256:"):
        stream.read(400_000)


def test_wrong_content_is_never_complete() -> None:
    stream = checked(
        io.BytesIO(b"b"),
        descriptor_of(b"a"),
        what="blob",
        on_complete=lambda: pytest.fail("it was taken for complete"),
    )
    with stream, pytest.raises(HashMismatchError, match=r"^blob: expected sha256:"):
        stream.read()


def test_content_that_was_not_read_to_its_end_is_not_complete() -> None:
    closed: list[int] = []
    content = b"abc" * 100_000
    stream = checked(
        io.BytesIO(content),
        descriptor_of(content),
        what="blob",
        on_complete=lambda: closed.append(1),
    )
    stream.read(3)
    stream.close()
    assert not closed
