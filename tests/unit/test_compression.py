"""`signimage.compression`: what is compressed is what was given, whoever reads or computes it."""

import base64
import bz2
import gzip
import io
import lzma
import random
import sys
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signimage.compression import Compression, compression_of, decompressed, gzip_pieces
from signimage.errors import FormatError, InputError

BLOCK = 256 * 1024  # bytes, the length that is compressed at once
# Little that repeats far away and near, and is soon made.
PATTERN = bytes(range(256)) * 40 + bytes(5000) + b"far" * 9000
COMPRESSORS = {
    Compression.GZIP: gzip.compress,
    Compression.BZIP2: bz2.compress,
    Compression.XZ: lzma.compress,
}
CONTENT = PATTERN[:40_000]

each_compression = pytest.mark.parametrize(
    ("kind", "compress"), COMPRESSORS.items(), ids=lambda each: getattr(each, "name", "")
)


class Stingy(io.BytesIO):
    """A stream that gives less than it is asked for."""

    def __init__(self, content: bytes, most: int) -> None:
        super().__init__(content)
        self._most = most

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(self._most if size is None or size < 0 else min(size, self._most))


def compressed(content: bytes, threads: int = 2) -> bytes:
    return b"".join(gzip_pieces(io.BytesIO(content), threads=threads))


def read(data: bytes, kind: Compression) -> bytes:
    with decompressed(io.BytesIO(data), kind, what="file") as stream:
        return stream.read()


def sample(length: int) -> bytes:
    return (PATTERN * (length // len(PATTERN) + 1))[:length]


@settings(max_examples=25)
@given(st.integers(0, 3 * BLOCK), st.binary(max_size=100))
def test_decompressing_gives_what_was_compressed(length: int, tail: bytes) -> None:
    content = sample(length) + tail
    assert gzip.decompress(compressed(content)) == content
    assert read(compressed(content), Compression.GZIP) == content


@pytest.mark.parametrize("length", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_blocks_have_no_gaps(length: int) -> None:
    assert gzip.decompress(compressed(sample(length))) == sample(length)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, BLOCK)), max_size=6), st.integers(1, 4))
def test_what_is_dense_already_is_wrapped_among_what_is_not(
    parts: list[tuple[bool, int]], threads: int
) -> None:
    """Noise begins and ends anywhere; whatever is only wrapped, the content stays the same."""
    noise = random.Random(7)  # noqa: S311 -- guards nothing
    content = b"".join(noise.randbytes(size) if dense else sample(size) for dense, size in parts)
    assert gzip.decompress(compressed(content, threads)) == content
    assert compressed(content, threads) == compressed(content, 1)


def test_noise_grows_by_little() -> None:
    content = random.Random(7).randbytes(3 * BLOCK)  # noqa: S311 -- guards nothing
    assert len(compressed(content)) < len(content) * 1.001


@settings(max_examples=15)
@given(st.integers(1, 2 * BLOCK), st.integers(1, 5), st.integers(0, 3 * BLOCK))
def test_neither_cores_nor_sizes_of_reads_change_a_byte(
    most: int, threads: int, length: int
) -> None:
    content = sample(length)
    source = Stingy(content, max(most, length // 1000))
    assert b"".join(gzip_pieces(source, threads=threads)) == compressed(content, 1)
    assert b"".join(gzip_pieces(io.BytesIO(content))) == compressed(content, 1)


def test_stream_says_nothing_of_time_name_and_system() -> None:
    assert compressed(b"x")[:10] == b"\x1f\x8b\x08" + bytes(6) + b"\xff"


def test_blocks_know_what_stands_before_them() -> None:
    """Noise in letters keeps three quarters of its length, but its repetition hardly any."""
    noise = base64.b64encode(random.Random(1).randbytes(15_000))  # noqa: S311 -- no secret
    first = bytes(BLOCK - len(noise)) + noise
    both = compressed(first + noise)
    assert len(both) - len(compressed(first)) < len(compressed(noise)) // 10


def test_reading_ends_when_nobody_wants_more() -> None:
    """A consumer that gives up leaves the rest of the source unread."""
    source = io.BytesIO(bytes(200 * BLOCK))
    pieces = gzip_pieces(source, threads=2)
    next(pieces)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]  # a generator, which callers need not know
    assert source.tell() < 10 * BLOCK


def test_a_source_that_fails_fails_the_compression() -> None:
    class Broken(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            raise FormatError("layer: cut off")

    with pytest.raises(FormatError, match=r"^layer: cut off$"):
        list(gzip_pieces(Broken()))


# --- reading ---------------------------------------------------------------------------------


@each_compression
def test_streams_are_recognised_and_not_consumed(
    kind: Compression, compress: Callable[[bytes], bytes]
) -> None:
    stream = io.BufferedReader(io.BytesIO(compress(CONTENT)))
    assert compression_of(stream) is kind
    assert decompressed(stream, kind, what="file").read() == CONTENT


@pytest.mark.parametrize("content", [b"", b"\x1f", b"BZ", bytes(600), b"manifest.json\0"])
def test_everything_else_is_not_compressed(content: bytes) -> None:
    assert compression_of(io.BufferedReader(io.BytesIO(content))) is Compression.NONE


@each_compression
@pytest.mark.parametrize("padding", [b"", bytes(1), bytes(700)], ids=len)
def test_streams_after_each_other_are_one(
    kind: Compression, compress: Callable[[bytes], bytes], padding: bytes
) -> None:
    data = compress(CONTENT) + padding + compress(b"") + compress(b"second") + padding
    assert read(data, kind) == CONTENT + b"second"
    with decompressed(Stingy(data, 7), kind, what="file") as stream:
        assert stream.read() == CONTENT + b"second"


@each_compression
def test_a_part_of_a_stream_is_no_stream(
    kind: Compression, compress: Callable[[bytes], bytes]
) -> None:
    whole = compress(b"some content")
    for length in range(len(whole)):
        with pytest.raises(
            FormatError, match=r"^file: expected a whole compressed stream, got a p"
        ):
            read(whole[:length], kind)


@each_compression
def test_nothing_else_may_follow(kind: Compression, compress: Callable[[bytes], bytes]) -> None:
    with pytest.raises(FormatError, match=r"^file: expected "):
        read(compress(CONTENT) + b"something else", kind)


@each_compression
@given(data=st.data())
def test_anything_decompresses_or_is_a_format_error(
    kind: Compression, compress: Callable[[bytes], bytes], data: st.DataObject
) -> None:
    good = compress(PATTERN[:3000])
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    anything = data.draw(st.one_of(st.just(bytes(changed)), st.binary()))
    try:
        found = read(anything, kind)
    except FormatError as error:
        assert str(error).startswith("file: expected ")  # noqa: PT017 -- either way is fine
    else:
        # All three have checksums over the content, if not over every byte around it.
        assert found == PATTERN[:3000] or anything != bytes(changed)


def test_a_stream_is_read_no_further_than_asked() -> None:
    """A million zeros fit into a thousand bytes, and are not all made for the first of them."""
    source = io.BytesIO(b"".join(gzip.compress(bytes(10**6)) for _ in range(200)))
    with decompressed(source, Compression.GZIP, what="file") as stream:
        assert stream.read(1) == b"\0"
        assert source.tell() <= 64 * 1024


def test_xz_may_not_ask_for_gigabytes() -> None:
    """The dictionary's size stands in the header of a block, under a checksum of its own."""
    good = lzma.compress(b"x")
    begin = 12  # of the block's header, after that of the stream
    end = begin + (good[begin] + 1) * 4
    at = good.index(b"\x21\x01", begin) + 2
    header = bytearray(good[begin : end - 4])
    header[at - begin] = 40  # 4 GiB
    checksum = zlib.crc32(header).to_bytes(4, "little")
    with pytest.raises(FormatError, match=r"^file: expected compressed data, got damaged: Memory"):
        read(good[:begin] + bytes(header) + checksum + good[end:], Compression.XZ)


def test_zstd_needs_a_python_that_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python takes None there for a module that does not exist.
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    assert Compression.of(b"\x28\xb5\x2f\xfd\0\0") is Compression.ZSTD
    claim = "^file is compressed by zstd, which Python reads from version 3.14 on$"
    with pytest.raises(InputError, match=claim) as raised:
        read(b"\x28\xb5\x2f\xfd\0\0", Compression.ZSTD)
    assert raised.value.hint
