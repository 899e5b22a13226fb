"""Tar archives: which files they hold, and where; nothing is ever unpacked.

The rules of this file:

1. A name is a key and never a path: links are followed inside of the archive alone.
2. What tar programs read in different ways is refused: a name given twice, two names for one
   member, sparse files, links with content, a path or a size for all members that follow.
3. Whatever is counted has a limit, and whatever has a length lies inside of the archive.
4. Anything is an archive or a `FormatError`.

POSIX.1-2017 `pax`, "ustar Interchange Format" and "pax Extended Header"; GNU tar's long names.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from signimage.errors import FormatError

_BLOCK = 512  # bytes
_EMPTY = bytes(_BLOCK)
# Where the checksum stands in a header; it is computed as if there were blanks.
_CHECKSUM = slice(148, 156)
_MAX_MEMBERS = 20_000  # an image has some hundreds, of which four for each layer
_MAX_EXTENSION = 1024**2  # bytes of names and attributes before one member
_MAX_LINKS = 8  # Docker's archives have one link to a file and none to a link

_FILES = frozenset({b"0", b"\0", b"7"})
_HARD_LINK, _SYMBOLIC_LINK = b"1", b"2"
_WITHOUT_CONTENT = frozenset({_HARD_LINK, _SYMBOLIC_LINK, b"3", b"4", b"5", b"6"})
_PAX, _PAX_FOR_ALL, _GNU_NAME, _GNU_LINK = b"x", b"g", b"L", b"K"
_EXTENSIONS = frozenset({_PAX, _GNU_NAME, _GNU_LINK})
_SPARSE = b"S"

_OCTAL = re.compile(rb"[0-7]*")
_BASE_256 = 0x80  # a size in bytes instead of octal digits begins with it
_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ")
_DECIMAL = re.compile("[0-9]{1,19}")
# What says which member it is; in a header for all of them it could only be used to deceive.
_DECISIVE = frozenset({"path", "linkpath", "size"})


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive: its content's place in bytes, or the name of the file it links to."""

    offset: int
    size: int
    link: str = ""


def read_members(stream: BinaryIO, length: int, *, what: str) -> dict[str, Member]:
    """List the files and links of a tar archive by name.

    Folders and devices are left out; names are relative, without `.` and empty parts.

    Args:
        stream: Can be positioned.
        length: Of the whole archive, in bytes.
        what: Names the archive in errors.

    Raises:
        FormatError: It is no tar archive, is cut off, or breaks a rule of this file.
    """
    members: dict[str, Member] = {}
    for count, (name, member) in enumerate(_Reader(stream, length, what).entries()):
        if count >= _MAX_MEMBERS:
            raise FormatError(f"{what}: expected at most {_MAX_MEMBERS} members, got more")
        if member is None:
            continue
        if name in members:
            raise FormatError(f"{what}: expected one member {_shown(name)}, got two")
        members[name] = member
    return members


def follow(members: Mapping[str, Member], name: str, *, what: str) -> Member:
    """Find the file called *name*, through links inside of the archive.

    Raises:
        FormatError: There is none, or the links lead nowhere.
    """
    wanted = name
    for _ in range(_MAX_LINKS):
        member = members.get(wanted)
        if member is None:
            raise FormatError(f"{what}: expected a file {_shown(wanted)}, got none")
        if not member.link:
            return member
        wanted = member.link
    raise FormatError(f"{what}: link {_shown(name)} leads in circles")


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    kind: bytes
    size: int  # bytes
    link: str


class _Reader:
    """Goes through the headers of one archive."""

    def __init__(self, stream: BinaryIO, length: int, what: str) -> None:
        self._stream, self._length, self._what = stream, length, what
        self._position = 0

    def entries(self) -> Iterator[tuple[str, Member | None]]:
        """Yield name and place of each member; None for what is no file and no link."""
        extended: dict[str, str] = {}
        while header := self._header():
            if header.kind in _EXTENSIONS:
                extended |= self._further(self._extension(header), extended)
                # Content would do, but a million of empty ones has to end, too.
                yield "", None
            elif header.kind == _PAX_FOR_ALL:
                self._check_for_all(header)
                yield "", None
            else:
                yield self._entry(header, extended)
                extended = {}
        if extended:
            raise self._refusal("expected a member after its extended header, got the end")

    def _entry(self, header: _Header, extended: Mapping[str, str]) -> tuple[str, Member | None]:
        text = extended.get("path", header.name)
        name = self._normal(text)
        size = self._size(extended, header)
        offset = self._position
        self._skip(size)
        # Some go by the one name to tell a folder, some by the other.
        is_folder = text.endswith("/") or header.name.endswith("/")
        if header.kind in _FILES and not is_folder:
            return name, Member(offset, size)
        if header.kind == _SPARSE:
            raise self._sparse(name)
        if header.kind not in _FILES | _WITHOUT_CONTENT:
            raise self._refusal(f"expected a file, got {_shown(name)} of type {header.kind!r}")
        if size:
            raise self._refusal(f"expected content in files alone, got some in {_shown(name)}")
        if header.kind not in (_HARD_LINK, _SYMBOLIC_LINK):
            return name, None
        folder = name.split("/")[:-1] if header.kind == _SYMBOLIC_LINK else []
        target = self._target(name, folder, extended.get("linkpath", header.link))
        return name, Member(0, 0, target)

    def _target(self, name: str, folder: list[str], link: str) -> str:
        parts = list(folder)
        for part in link.split("/"):
            if link.startswith("/") or (part == ".." and not parts):
                raise FormatError(
                    f"{self._what}: link {_shown(name)} leads out of the archive",
                    hint="Write the archive with links followed: tar --dereference",
                )
            if part == "..":
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        return "/".join(parts) or "."

    def _size(self, extended: Mapping[str, str], header: _Header) -> int:
        if any(key.startswith("GNU.sparse.") for key in extended):
            raise self._sparse(header.name)
        if (text := extended.get("size")) is None:
            return header.size
        if not _DECIMAL.fullmatch(text):
            raise self._refusal(f"expected a size in decimal digits, got {text[:40]!r}")
        return int(text)

    def _normal(self, name: str) -> str:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise self._refusal(f"expected names inside of the archive, got {_shown(name)}")
        return "/".join(parts)

    # --- extended headers ---

    def _extension(self, header: _Header) -> dict[str, str]:
        content = self._content(header)
        if header.kind == _PAX:
            return self._records(content)
        key = "path" if header.kind == _GNU_NAME else "linkpath"
        return {key: _text(content)}

    def _further(self, found: dict[str, str], before: Mapping[str, str]) -> dict[str, str]:
        """Refuse what one reader takes from this extended header and another from an earlier one.

        The same goes for an empty name, which some take for none.
        """
        for key in _DECISIVE & found.keys():
            if key in before or (not found[key] and key != "size"):
                raise self._refusal(f"expected one {key} for a member, got {_shown(found[key])}")
        return found

    def _check_for_all(self, header: _Header) -> None:
        if found := self._records(self._content(header)).keys() & _DECISIVE:
            raise self._refusal(f"expected no {min(found)} for all members, got one")

    def _records(self, content: bytes) -> dict[str, str]:
        records = {}
        while content:
            found = _RECORD.match(content)
            length = int(found[1]) if found else 0
            key, equals, value = content[:length].partition(b" ")[2].partition(b"=")
            if not key or not equals or not value.endswith(b"\n") or length > len(content):
                raise self._refusal(f"expected a pax record, got {content[:40]!r}")
            records[_decoded(key)] = _decoded(value[:-1])
            content = content[length:]
        return records

    # --- blocks ---

    def _header(self) -> _Header | None:
        """Read the header here; None at the end."""
        block = self._block()
        if not block or block == _EMPTY:
            if block and self._block() not in (b"", _EMPTY):
                raise self._refusal("expected two empty blocks at its end, got one")
            return None
        computed = sum(block) - sum(block[_CHECKSUM]) + 8 * ord(" ")
        if _digits(block[_CHECKSUM]) != computed:
            place = self._position - _BLOCK
            wanted = f"the header of a member at byte {place}" if place else "a tar archive"
            raise self._refusal(f"expected {wanted}, got other bytes")
        name = _text(block[:100])
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
            name = f"{prefix}/{name}"
        return _Header(name, block[156:157], self._number(block[124:136]), _text(block[157:257]))

    def _block(self) -> bytes:
        """Read the block here; empty at the end of the file."""
        self._stream.seek(self._position)
        block = self._stream.read(_BLOCK)
        if block and len(block) < _BLOCK:
            raise self._refusal("expected a whole archive, got one that is cut off")
        self._position += len(block)
        return block

    def _content(self, header: _Header) -> bytes:
        if header.size > _MAX_EXTENSION:
            raise self._refusal(
                f"expected an extended header of at most {_MAX_EXTENSION} bytes, got {header.size}"
            )
        start = self._position
        self._skip(header.size)
        self._stream.seek(start)
        return self._stream.read(header.size)

    def _skip(self, size: int) -> None:
        """Go on after content of *size* bytes, which fills whole blocks."""
        end = self._position + size
        end += -end % _BLOCK
        if end > self._length:
            raise self._refusal("expected a whole archive, got one that is cut off")
        self._position = end

    def _number(self, field: bytes) -> int:
        if field[0] == _BASE_256:
            return int.from_bytes(field[1:], "big")
        if (number := _digits(field)) is None:
            raise self._refusal(f"expected an octal number, got {field!r}")
        return number

    def _sparse(self, name: str) -> FormatError:
        return FormatError(
            f"{self._what}: expected plain files, got {_shown(name)}, which is sparse",
            hint="Write the archive without tar's option --sparse",
        )

    def _refusal(self, sentence: str) -> FormatError:
        return FormatError(f"{self._what}: {sentence}")


def _digits(field: bytes) -> int | None:
    """The octal number of a field; None if it holds none."""
    digits = field.partition(b"\0")[0].strip(b" ")
    return int(digits or b"0", 8) if _OCTAL.fullmatch(digits) else None


def _text(field: bytes) -> str:
    """Decode what stands before the first zero."""
    return _decoded(field.partition(b"\0")[0])


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _shown(name: str) -> str:
    return repr(name[:200])
