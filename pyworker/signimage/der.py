"""DER, as much of it as key files and certificate names need.

The rules of this file:

1. Definite, minimal lengths and single-byte tags only; every length is checked against what is
   really there, and what is left over must be asked for or is an error.
2. Anything reads or raises `FormatError`, whatever the bytes.

Specification: ITU-T X.690, section 10 (distinguished encoding rules).
"""

from signimage.errors import FormatError

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
SEQUENCE = 0x30
SET = 0x31

# 4 length bytes reach 4 GiB, and no input of this program is that long.
_MAX_LENGTH_BYTES = 4
_MAX_OID_SIZE = 64  # bytes; twice the longest registered one
_LONG_FORM = 0x80
_MULTI_BYTE_TAG = 0x1F
_MIN_HEADER = 2  # bytes: a tag and a length
_SUBIDENTIFIER_BITS = 7


def context(number: int) -> int:
    """Name the tag of a constructed, context-specific element `[number]`."""
    return 0xA0 | number


class Reader:
    """Walks over the elements of one DER value, in order.

    Args:
        data: The bytes of a sequence of elements (the content of a constructed one).
        what: Names the value in errors, e.g. "key file ci.key".
    """

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def peek(self) -> int | None:
        """Give the tag of the next element, `None` at the end."""
        return self._data[self._at] if self._at < len(self._data) else None

    def read(self, tag: int) -> bytes:
        """Read the next element, which must have this *tag*, and give its content."""
        if self.peek() != tag:
            found = "the end" if self.peek() is None else f"0x{self.peek():02x}"
            raise self.fault(f"expected tag 0x{tag:02x}, got {found}")
        start, end = self._bounds()
        self._at = end
        return self._data[start:end]

    def skip(self) -> bytes:
        """Read the next element whatever it is, and give it whole: tag, length and content."""
        begin = self._at
        _, self._at = self._bounds()
        return self._data[begin : self._at]

    def optional(self, tag: int) -> bytes | None:
        """Read the next element if it has this *tag*."""
        return self.read(tag) if self.peek() == tag else None

    def enter(self, tag: int = SEQUENCE) -> "Reader":
        """Read the next element, which must have this *tag*, and walk over its members."""
        return Reader(self.read(tag), self._what)

    def integer(self) -> int:
        """Read an INTEGER."""
        content = self.read(INTEGER)
        if not content:
            raise self.fault("expected an integer, got an empty one")
        return int.from_bytes(content, "big", signed=True)

    def oid(self) -> str:
        """Read an OBJECT IDENTIFIER in its dotted form."""
        content = self.read(OBJECT_IDENTIFIER)
        if not 0 < len(content) <= _MAX_OID_SIZE or content[-1] & _LONG_FORM:
            raise self.fault("expected an object identifier, got a cut-off or endless one")
        arcs = [0]
        for byte in content:
            arcs[-1] = (arcs[-1] << _SUBIDENTIFIER_BITS) | (byte & 0x7F)
            if not byte & _LONG_FORM:
                arcs.append(0)
        first = min(arcs[0] // 40, 2)
        return ".".join(map(str, [first, arcs[0] - 40 * first, *arcs[1:-1]]))

    def end(self) -> None:
        """Refuse anything that follows."""
        if self._at != len(self._data):
            raise self.fault(f"expected the end, got {len(self._data) - self._at} more bytes")

    def fault(self, message: str) -> FormatError:
        """Make the error that names this value and the place in it."""
        return FormatError(f"{self._what}: not valid DER: {message}")

    def _bounds(self) -> tuple[int, int]:
        """Where the content of the next element begins and ends."""
        header = self._data[self._at : self._at + _MIN_HEADER]
        if len(header) < _MIN_HEADER or header[0] & _MULTI_BYTE_TAG == _MULTI_BYTE_TAG:
            raise self.fault("expected an element, got no tag and length")
        start, length = self._at + _MIN_HEADER, header[1]
        if length & _LONG_FORM:
            count = length & 0x7F
            encoded = self._data[start : start + count]
            start, length = start + count, int.from_bytes(encoded, "big")
            minimal = length >= _LONG_FORM and encoded[:1] != b"\0"
            if not 0 < count <= _MAX_LENGTH_BYTES or len(encoded) < count or not minimal:
                raise self.fault("expected a definite, minimal length, got another form")
        if start + length > len(self._data):
            raise self.fault(f"expected {length} bytes, got {len(self._data) - start}")
        return start, start + length


def element(tag: int, *parts: bytes) -> bytes:
    """Write an element whose content is *parts*."""
    content = b"".join(parts)
    length = len(content)
    if length < _LONG_FORM:
        return bytes([tag, length]) + content
    encoded = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, _LONG_FORM | len(encoded)]) + encoded + content


def sequence(*parts: bytes) -> bytes:
    """Write a SEQUENCE of finished elements."""
    return element(SEQUENCE, *parts)


def integer(number: int) -> bytes:
    """Write an INTEGER that is not negative."""
    return element(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def oid(dotted: str) -> bytes:
    """Write an OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = map(int, dotted.split("."))
    return element(OBJECT_IDENTIFIER, *map(_subidentifier, [40 * first + second, *rest]))


def _subidentifier(arc: int) -> bytes:
    encoded = [arc & 0x7F]
    while arc := arc >> _SUBIDENTIFIER_BITS:
        encoded.insert(0, (arc & 0x7F) | _LONG_FORM)
    return bytes(encoded)
