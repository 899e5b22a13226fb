"""`signimage.tarball`: archives are read as tar programs agree to read them, or not at all."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import FormatError
from signimage.tarball import Member, follow, read_members
from unit.stored_images import tar_of

FILES = {"a/layer.tar": b"first" * 200, "manifest.json": b"[]", "empty": b""}
GOOD = tar_of(FILES, {"b/layer.tar": "../a/layer.tar"})


def members(data: bytes) -> dict[str, Member]:
    return read_members(io.BytesIO(data), len(data), what="image.tar")


def content(data: bytes, name: str) -> bytes:
    member = follow(members(data), name, what="image.tar")
    return data[member.offset : member.offset + member.size]


def member(name: str, content: bytes = b"", **more: object) -> bytes:
    """One member as Python's own library writes it, *more* being attributes of it."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    padding = bytes(-len(content) % 512)
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + content + padding


def header(data: bytes, at: int, change: bytes) -> bytes:
    """Change the first header of an archive at a place, and make its checksum right again."""
    block = bytearray(data[:512])
    block[at : at + len(change)] = change
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[512:]


def extended(kind: bytes, records: bytes) -> bytes:
    """An extended header with the given records."""
    return member("x", records, type=kind)


def record(key: str, value: str) -> bytes:
    """One record of an extended header, which begins with its own length."""
    rest = f" {key}={value}\n".encode()
    length = next(n for n in range(1000) if len(str(n)) + len(rest) == n)
    return str(length).encode() + rest


END = bytes(1024)


def test_files_are_found_with_their_content() -> None:
    assert {name: content(GOOD, name) for name in FILES} == FILES


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["short", "f" * 60 + "/" + "g" * 39, "über/ç"])
def test_each_format_is_read(form: int, name: str) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        info = tarfile.TarInfo(name)
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.LNKTYPE, name
        archive.addfile(link)
    assert content(stream.getvalue(), name) == b"abc"
    assert content(stream.getvalue(), "link") == b"abc"


@pytest.mark.parametrize(
    ("form", "length"),
    [(tarfile.USTAR_FORMAT, 180), (tarfile.GNU_FORMAT, 700), (tarfile.PAX_FORMAT, 700)],
)
def test_long_names_are_read(form: int, length: int) -> None:
    stream = io.BytesIO()
    name = "f" * (length - 60) + "/" + "g" * 59
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        info = tarfile.TarInfo(name)
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    assert content(stream.getvalue(), name) == b"abc"


def test_names_have_one_spelling() -> None:
    data = member("./blobs//sha256/./x", b"1") + member("folder/", type=b"5") + END
    assert list(members(data)) == ["blobs/sha256/x"]


def test_sizes_may_be_written_in_two_more_ways() -> None:
    """In bytes, as GNU's tar does from 8 GiB on, and in an extended header."""
    plain = member("a", b"12345")
    in_bytes = header(plain, 124, b"\x80" + bytes(10) + b"\x05")
    assert content(in_bytes + END, "a") == b"12345"
    other = extended(b"x", record("size", "5")) + header(plain, 124, b"00000000000\0")
    assert content(other + END, "a") == b"12345"


def test_an_archive_may_end_without_empty_blocks() -> None:
    assert content(member("a", b"1"), "a") == b"1"
    assert content(member("a", b"1") + bytes(512), "a") == b"1"
    assert members(b"") == {}


def test_attributes_and_comments_are_nobodys_business() -> None:
    remarks = record("comment", "x") + record("SCHILY.xattr.user.a", "=\n") + record("mtime", "1.5")
    data = extended(b"g", remarks) + extended(b"x", remarks) + member("a", b"1") + END
    assert content(data, "a") == b"1"


def test_devices_and_folders_are_no_files() -> None:
    kinds = (b"3", b"4", b"5", b"6")
    data = b"".join(member(f"a{kind!r}", type=kind) for kind in kinds) + END
    assert members(data) == {}


# --- a good archive and one lie --------------------------------------------------------------


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "a/..", ".."])
def test_a_name_that_leaves_the_archive(name: str) -> None:
    claim = r"^image.tar: expected names inside of the archive, got '"
    with pytest.raises(FormatError, match=claim):
        members(GOOD[:-10240] + member(name, b"1") + END)
    with pytest.raises(FormatError, match=claim):
        members(extended(b"x", record("path", name)) + member("a", b"1") + END)


def test_a_name_with_a_zero_in_an_extended_header() -> None:
    with pytest.raises(FormatError, match=r"expected names inside of the archive, got 'a\\x00b'"):
        members(extended(b"x", record("path", "a\0b")) + member("a") + END)


@pytest.mark.parametrize("target", ["../../x", "/etc/passwd", "../../../blobs/x"])
def test_a_link_that_leaves_the_archive(target: str) -> None:
    claim = r"^image.tar: link 'b/layer.tar' leads out of the archive$"
    with pytest.raises(FormatError, match=claim) as raised:
        members(tar_of(FILES, {"b/layer.tar": target}))
    assert "--dereference" in raised.value.hint


def test_links_in_a_circle() -> None:
    data = tar_of({}, {"a": "b", "b": "a"})
    with pytest.raises(FormatError, match=r"^image.tar: link 'a' leads in circles$"):
        content(data, "a")


def test_a_link_to_nothing() -> None:
    with pytest.raises(FormatError, match=r"^image.tar: expected a file 'x', got none$"):
        content(tar_of({}, {"a": "x"}), "a")


def test_a_chain_of_links_is_followed() -> None:
    data = tar_of({"x/file": b"1"}, {"a": "x/b", "x/b": "./file"})
    assert content(data, "a") == b"1"


@pytest.mark.parametrize("name", ["manifest.json", "./manifest.json"])
def test_a_name_given_twice(name: str) -> None:
    with pytest.raises(FormatError, match=r"expected one member 'manifest.json', got two$"):
        members(member("manifest.json", b"[]") + member(name, b"{}") + END)


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"5", b"6"])
def test_content_in_what_has_none(kind: bytes) -> None:
    """Some programs take what follows for the next member, others skip it."""
    hidden = header(member("a", type=kind, linkname="b"), 124, b"00000001000\0")
    with pytest.raises(FormatError, match=r"^image.tar: expected content in files alone, got some"):
        members(hidden + member("manifest.json", b"[]") + END)


def test_sparse_files() -> None:
    claim = r"^image.tar: expected plain files, got 'a', which is sparse$"
    with pytest.raises(FormatError, match=claim):
        members(header(member("a", b"1"), 156, b"S") + END)
    with pytest.raises(FormatError, match=claim):
        members(extended(b"x", record("GNU.sparse.major", "1")) + member("a", b"1") + END)


@pytest.mark.parametrize("kind", [b"V", b"M", b"D", b"X", b"\xff"])
def test_unknown_types(kind: bytes) -> None:
    with pytest.raises(FormatError, match=r"^image.tar: expected a file, got 'a' of type b'"):
        members(header(member("a"), 156, kind) + END)


@pytest.mark.parametrize(
    "extensions",
    [
        member("x", b"good\0", type=b"L") + extended(b"x", record("path", "evil")),
        extended(b"x", record("path", "evil")) + member("x", b"good\0", type=b"L"),
        extended(b"x", record("path", "good")) * 2,
        member("x", b"good\0", type=b"K") + extended(b"x", record("linkpath", "evil")),
        extended(b"x", record("size", "1")) * 2,
        extended(b"x", record("path", "")),
        member("x", b"\0", type=b"L"),
    ],
)
def test_two_names_for_one_member_or_an_empty_one(extensions: bytes) -> None:
    """Go takes GNU's name before the other and an empty one for none; who scans may do so."""
    with pytest.raises(FormatError, match=r"expected one (path|linkpath|size) for a member, got"):
        members(extensions + member("a", b"1") + END)


def test_a_name_of_a_folder_for_a_file() -> None:
    data = extended(b"x", record("path", "manifest.json/")) + member("a", b"[]") + END
    with pytest.raises(FormatError, match=r"content in files alone, got some in 'manifest\.json'"):
        members(data)


@pytest.mark.parametrize("key", ["path", "linkpath", "size"])
def test_a_name_or_size_for_everything_that_follows(key: str) -> None:
    with pytest.raises(FormatError, match=rf"^image.tar: expected no {key} for all members, got"):
        members(extended(b"g", record(key, "1")) + member("a", b"1") + END)


@pytest.mark.parametrize(
    "records",
    [
        b"x",
        b"5 a=b",
        b"99 a=b\n",
        b"6 a=b\nx",
        b"06 a=b\n",
        b"4 a\n\n",
        b"5 =b\n",
        b"0 a=b\n",
        b"6\n",
    ],
)
def test_records_that_are_none(records: bytes) -> None:
    with pytest.raises(FormatError, match=r"^image.tar: expected a pax record, got b'"):
        members(extended(b"x", records) + member("a") + END)


@pytest.mark.parametrize("size", ["-1", "1e3", "", "0x10", "9" * 20])
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(FormatError, match=r"^image.tar: expected a size in decimal digits, got"):
        members(extended(b"x", record("size", size)) + member("a") + END)


@pytest.mark.parametrize(
    "size", [b"0000000000x\0", b"-0000000001\0", b"\xff" * 12, b"99999999999\0"]
)
def test_sizes_in_a_header_that_are_none(size: bytes) -> None:
    with pytest.raises(FormatError, match=r"^image.tar: expected an octal number, got b"):
        members(header(member("a"), 124, size) + END)


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + b"\xff" * 11])
def test_a_size_beyond_the_archive(size: bytes) -> None:
    with pytest.raises(FormatError, match=r"^image.tar: expected a whole archive, got one that"):
        members(header(member("a"), 124, size) + END)


def test_an_extended_header_without_member() -> None:
    with pytest.raises(FormatError, match=r"expected a member after its extended header, got the"):
        members(extended(b"x", record("path", "a")) + END)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_an_extended_header_that_is_huge(kind: bytes) -> None:
    huge = extended(kind, b"\0" * (1024**2 + 1))
    with pytest.raises(FormatError, match=r"expected an extended header of at most 1048576 bytes"):
        members(huge + member("a") + END)


@pytest.mark.parametrize("one", [member("a", type=b"5"), extended(b"g", b""), extended(b"x", b"")])
def test_too_many_members(one: bytes) -> None:
    with pytest.raises(FormatError, match=r"^image.tar: expected at most 20000 members, got more$"):
        members(one * 20_001)


def test_something_behind_half_an_end() -> None:
    """Some programs stop at one empty block, others go on behind it."""
    with pytest.raises(FormatError, match=r"expected two empty blocks at its end, got one$"):
        members(member("a") + bytes(512) + member("b") + END)


def test_archives_that_are_cut_off() -> None:
    end = len(GOOD.rstrip(b"\0"))
    for length in range(1, end, 37):
        if length % 512:
            with pytest.raises(FormatError, match=r"^image.tar: expected (a whole|a tar) archive"):
                members(GOOD[:length])


@pytest.mark.parametrize("data", [b"x" * 512, b"PK\3\4" * 300, b'{"a": 1}' + b" " * 600])
def test_no_archive_at_all(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"^image.tar: expected a tar archive, got other bytes$"):
        members(data)


@given(st.data())
def test_anything_is_an_archive_or_a_format_error(data: st.DataObject) -> None:
    """And what an archive holds lies inside of it."""
    changed = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        block = data.draw(st.sampled_from([0, 1536, 2560, 3072]))
        changed[block + data.draw(st.integers(0, 511))] = data.draw(st.integers(0, 255))
    fixed = header(bytes(changed), 0, b"") if data.draw(st.booleans()) else bytes(changed)
    anything = data.draw(st.one_of(st.just(fixed), st.binary()))
    try:
        found = members(anything)
    except FormatError as error:
        assert str(error).startswith("image.tar: ")  # noqa: PT017 -- either way is fine
        return
    for each in found.values():
        assert each.link or each.offset + each.size <= len(anything)
