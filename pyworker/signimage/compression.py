"""Compressed streams: recognised, read within limits, and gzip written on all cores.

The rules of this file:

1. The same input gives the same bytes whatever the number of cores and the sizes of reads: blocks
   have one length, each is deflated with the 32 KiB before it as dictionary (as pigz does), and
   the header holds no time and no name. Another zlib may spell the same content otherwise.
2. Memory does not grow with the input, neither here nor by what a stream asks for.
3. What does not decompress to its very end is a `FormatError`; so is what follows that end.

RFC 1951 (deflate), RFC 1952 (gzip); the magic numbers of bzip2, xz and Zstandard (RFC 8878).
"""

import bz2
import importlib
import io
import lzma
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import Enum
from typing import Any, Protocol

from signimage.errors import FormatError, InputError

# Level 2 saves 3 % of the bytes for 7 % more time, level 4 saves 8 % for 50 %; an image is built to
# be uploaded now, and everybody waits for it.
_LEVEL = 1
_BLOCK = 256 * 1024  # bytes; larger ones save nothing more, and are held twice for each thread
_DICTIONARY = 32 * 1024  # bytes, as far as deflate looks back
_SAMPLE = 4 * 1024  # bytes, of what is asked whether it is compressed by itself
_DENSE = 0.97  # of the length; jars, wheels and pictures are above
_MAX_THREADS = 16  # one reader and its hashes feed no more
# Deflate, no name, no time, and no word on speed and system: what varies would vary the digest.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK = b"\x03\x00"  # empty, and final

_GZIP_WINDOW = 31  # zlib's parameter: the largest window, and gzip around it
_INPUT = 64 * 1024  # bytes read at once from what is compressed
_XZ_MEMORY = 128 * 1024**2  # bytes; `xz -9` wants 65 MiB
_HEAD = 6  # bytes that tell what a stream is


class Compression(Enum):
    """How a stream is compressed; the value is what it begins with."""

    NONE = b""
    GZIP = b"\x1f\x8b"
    BZIP2 = b"BZh"
    XZ = b"\xfd7zXZ\x00"
    ZSTD = b"\x28\xb5\x2f\xfd"

    @classmethod
    def of(cls, head: bytes) -> "Compression":
        """Recognise a stream by its first bytes; six are enough."""
        return next((each for each in cls if each.value and head.startswith(each.value)), cls.NONE)


class Source(Protocol):
    """What is read from: at most *size* bytes at a time, none at the end."""

    def read(self, size: int, /) -> bytes:
        """Give the next bytes."""

    def close(self) -> None:
        """Be read no more."""


class Peekable(Protocol):
    """What can be looked at without being read, as a file can."""

    def peek(self, size: int, /) -> bytes:
        """Give at least the next bytes, if there are any."""


class _Decompressor(Protocol):
    """What the standard library's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


_New = Callable[[], _Decompressor]
_Errors = tuple[type[Exception], ...]


def compression_of(stream: Peekable) -> Compression:
    """Recognise how *stream* is compressed, and leave it at its first byte."""
    return Compression.of(stream.peek(_HEAD)[:_HEAD])


def gzip_pieces(source: Source, *, threads: int = 0) -> Iterator[bytes]:
    """Compress *source* from here to its end; gives the gzip stream piece by piece.

    Args:
        source: Is read in the caller's thread, a bounded length ahead.
        threads: How many compress at a time; 0 stands for as many as there are cores.
    """
    threads = threads or _cores()
    checksum, length = 0, 0
    pending: deque[Future[bytes]] = deque()
    yield _HEADER
    with ThreadPoolExecutor(threads, "gzip") as pool:
        try:
            for block, dictionary in _blocks(source):
                checksum = zlib.crc32(block, checksum)
                length += len(block)
                pending.append(pool.submit(_deflated, block, dictionary))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
    yield _LAST_BLOCK + struct.pack("<LL", checksum, length % 2**32)


def decompressed(source: Source, compression: Compression, *, what: str) -> io.BufferedReader:
    """Read *source* without its compression, which closes it as well.

    Args:
        source: At its first byte.
        compression: What `compression_of` says of it.
        what: Names it in errors, which reading raises: `FormatError` for what is damaged.

    Raises:
        InputError: This Python cannot read such streams.
    """
    return io.BufferedReader(_Decompressed(source, *_library(compression, what), what), _INPUT)


def _cores() -> int:
    """The number of cores that this process may use, within reason."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux tells
        count = os.cpu_count() or 1
    return min(count, _MAX_THREADS)


def _blocks(source: Source) -> Iterator[tuple[bytes, bytes]]:
    """Cut *source* into blocks of one length, each with what stands right before it."""
    before = b""
    while block := _block(source):
        yield block, before
        before = block[-_DICTIONARY:]


def _block(source: Source) -> bytes:
    block = source.read(_BLOCK)
    while 0 < len(block) < _BLOCK and (more := source.read(_BLOCK - len(block))):
        block += more
    return block


def _deflated(block: bytes, dictionary: bytes) -> bytes:
    """Deflate a block so that another one can follow; one that is dense already is only wrapped."""
    level = 0 if _is_dense(block) else _LEVEL
    window, memory = -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL
    engine = zlib.compressobj(
        level, zlib.DEFLATED, window, memory, zlib.Z_DEFAULT_STRATEGY, dictionary
    )
    return engine.compress(block) + engine.flush(zlib.Z_SYNC_FLUSH)


def _is_dense(block: bytes) -> bool:
    """Tell from three samples whether deflate would gain nothing, and take its longest for it."""
    last = max(len(block) - _SAMPLE, 0)
    samples = (block[at : at + _SAMPLE] for at in (0, last // 2, last))
    return all(len(zlib.compress(each, _LEVEL)) > _DENSE * len(each) for each in samples)


class _Gunzip:
    """zlib's decompressor with the manners of the others."""

    def __init__(self) -> None:
        self._engine = zlib.decompressobj(_GZIP_WINDOW)
        self._rest = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._engine.eof

    @property
    def unused_data(self) -> bytes:
        return self._engine.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        content = self._engine.decompress(self._rest + data, max_length)
        self._rest = self._engine.unconsumed_tail
        # A full answer may have left something inside, too.
        self.needs_input = not self._rest and len(content) < max_length
        return content


def _library(compression: Compression, what: str) -> tuple[_New, _Errors]:
    """How such a stream is begun, and what is raised when it is damaged."""
    match compression:
        case Compression.GZIP:
            return _Gunzip, (zlib.error,)
        case Compression.BZIP2:
            return bz2.BZ2Decompressor, (OSError, ValueError)
        case Compression.XZ:
            return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY), (lzma.LZMAError,)
        case _:
            return _zstd_library(what)


def _zstd_library(what: str) -> tuple[_New, _Errors]:
    try:
        library: Any = importlib.import_module("compression.zstd")
    except ImportError as error:
        raise InputError(
            f"{what} is compressed by zstd, which Python reads from version 3.14 on",
            hint="Write it plain or compressed by gzip, or run this with a newer Python",
        ) from error
    return library.ZstdDecompressor, (library.ZstdError,)


class _Decompressed(io.RawIOBase):
    """One or more compressed streams after each other, read as one."""

    def __init__(self, source: Source, new: _New, errors: _Errors, what: str) -> None:
        super().__init__()
        self._source, self._new, self._errors, self._what = source, new, errors, what
        self._engine = new()
        self._ahead = b""  # read, and not given to the engine yet

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        while not self._engine.eof or self._begins_another():
            if content := self._decompress(len(view)):
                view[: len(content)] = content
                return len(content)
        return 0

    def _decompress(self, limit: int) -> bytes:
        data = b""
        if self._engine.needs_input:
            data, self._ahead = self._ahead or self._source.read(_INPUT), b""
            if not data:
                raise FormatError(f"{self._what}: expected a whole compressed stream, got a part")
        try:
            return self._engine.decompress(data, limit)
        except self._errors as error:
            raise FormatError(
                f"{self._what}: expected compressed data, got damaged: {error}"
            ) from error

    def _begins_another(self) -> bool:
        """Begin with what follows the end of a stream; False if nothing but padding does."""
        data = self._engine.unused_data.lstrip(b"\0")
        while not data:
            if not (piece := self._source.read(_INPUT)):
                return False
            data = piece.lstrip(b"\0")
        self._engine, self._ahead = self._new(), data
        return True

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()
