"""The files that hold an image: those of a folder or of a tar archive, read by their names.

The rules of this file:

1. Files are read, and never written; an archive's names touch no disk.
2. Content whose digest is known is checked while it is read: its last bytes are handed out only
   when all of them were right.
3. What is read as a whole has a limit.
4. An operating system's refusal is an `InputError`: the caller named the file.
"""

import hashlib
import io
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from signimage import canonical
from signimage.errors import FormatError, HashMismatchError, InputError
from signimage.oci import Descriptor
from signimage.tarball import Member, follow, read_members

# What registries accept as a manifest at least (OCI Distribution Specification 1.1, "Pushing
# Manifests"); configurations and indexes need less.
MAX_DOCUMENT = 4 * 1024**2  # bytes
# No layer and no archive that anybody uses comes near; what promises more is a bomb.
MAX_UNPACKED = 128 * 1024**3  # bytes
_BUFFER = 128 * 1024  # bytes


class ImageFiles(Protocol):
    """Named files of one image, or of several."""

    @property
    def what(self) -> str:
        """Their folder or archive, in words for an error."""

    def __contains__(self, name: str) -> bool: ...

    def size(self, name: str) -> int:
        """The length of a file in bytes; `FormatError` if there is none."""

    def open(self, name: str) -> io.BufferedReader:
        """Give a file from its first byte; whoever calls this closes it."""


class FolderFiles:
    """The files below a folder. Links are followed: the folder is the caller's own."""

    def __init__(self, folder: Path, what: str) -> None:
        self._folder = folder
        self.what = what

    def __contains__(self, name: str) -> bool:
        with system_refusals(f"{self.what}: {name}"):
            return (self._folder / name).is_file()

    def size(self, name: str) -> int:
        """The length of a file in bytes; `FormatError` if there is none."""
        path = self._folder / name
        with system_refusals(f"{self.what}: {name}"):
            status = path.stat() if path.exists() else None
        # A pipe would never answer.
        if status is None or not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{self.what}: expected a file {name!r}, got none")
        return status.st_size

    def open(self, name: str) -> io.BufferedReader:
        """Give a file from its first byte."""
        return _section(self._folder / name, 0, self.size(name), f"{self.what}: {name}")


class TarFiles:
    """The files in a tar archive that is not compressed."""

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self.what = what
        with system_refusals(what), path.open("rb") as stream:
            length = stream.seek(0, io.SEEK_END)
            self._members: Mapping[str, Member] = read_members(stream, length, what=what)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """The length of a file in bytes; `FormatError` if there is none."""
        return follow(self._members, name, what=self.what).size

    def open(self, name: str) -> io.BufferedReader:
        """Give a file from its first byte."""
        member = follow(self._members, name, what=self.what)
        return _section(self._path, member.offset, member.size, f"{self.what}: {name[:200]!r}")


def read_document(files: ImageFiles, name: str) -> bytes:
    """Read a small file as a whole.

    Raises:
        FormatError: There is none, or it is larger than a manifest may be.
    """
    if (size := files.size(name)) > MAX_DOCUMENT:
        what = f"{files.what}: {name[:200]!r}"
        raise FormatError(f"{what}: expected at most {MAX_DOCUMENT} bytes, got {size}")
    with files.open(name) as stream:
        return stream.read()


def parse_document(content: bytes, *, what: str) -> Any:
    """Read JSON strictly: no member twice, no depths, nothing that two readers read in two ways.

    Raises:
        FormatError: It is none.
    """
    try:
        return canonical.parse(content, what=what)
    except FormatError as error:
        # The hint there is about servers.
        raise FormatError(str(error)) from error


def checked(
    stream: BinaryIO,
    descriptor: Descriptor,
    *,
    what: str,
    on_complete: Callable[[], None] | None = None,
) -> BinaryIO:
    """Read *stream* as the content that *descriptor* describes, which closes it as well.

    Args:
        stream: At its first byte.
        descriptor: Names the length and the digest.
        what: Names the content in errors.
        on_complete: Called when the content is closed after it was read to its end.

    Raises:
        HashMismatchError: From reading: it is other content, or less of it.
    """
    return io.BufferedReader(_Checked(stream, descriptor, what, on_complete), _BUFFER)


@contextmanager
def system_refusals(what: str) -> Iterator[None]:
    """Turn what the operating system refuses into an `InputError` about *what*."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{what}: {error.strerror or error}") from error


def _section(path: Path, offset: int, size: int, what: str) -> io.BufferedReader:
    with system_refusals(what):
        file = path.open("rb", buffering=0)
        file.seek(offset)
    return io.BufferedReader(_Section(file, size, what), _BUFFER)


class _Section(io.RawIOBase):
    """A part of a file: *size* bytes from where it stands."""

    def __init__(self, file: io.FileIO, size: int, what: str) -> None:
        super().__init__()
        self._file, self._left, self._what = file, size, what

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)[: self._left]
        with system_refusals(self._what):
            count = self._file.readinto(view) or 0
        if len(view) and not count:
            raise FormatError(f"{self._what}: expected {self._left} more bytes, got the end")
        self._left -= count
        return count

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class _Checked(io.RawIOBase):
    """Content whose digest is compared before its last bytes are handed out."""

    def __init__(
        self,
        source: BinaryIO,
        descriptor: Descriptor,
        what: str,
        on_complete: Callable[[], None] | None,
    ) -> None:
        super().__init__()
        self._source, self._descriptor, self._what = source, descriptor, what
        self._on_complete = on_complete
        self._hash = hashlib.sha256()
        self._left = descriptor.size
        self._is_complete = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)[: self._left]
        content = self._source.read(len(view))
        if len(view) and not content:
            raise self._mismatch(f"{self._descriptor.size - self._left} bytes")
        self._hash.update(content)
        self._left -= len(content)
        if not self._left:
            if (found := self._hash.hexdigest()) != self._descriptor.digest.hex:
                raise self._mismatch(f"sha256:{found}")
            self._is_complete = True
        view[: len(content)] = content
        return len(content)

    def _mismatch(self, found: str) -> HashMismatchError:
        digest, size = self._descriptor.digest, self._descriptor.size
        return HashMismatchError(f"{self._what}: expected {digest} ({size} bytes), got {found}")

    def close(self) -> None:
        if not self.closed:
            self._source.close()
            if self._is_complete and self._on_complete:
                self._on_complete()
        super().close()
