"""PEM: the text armour around keys and certificates.

The rules of this file:

1. Reading forgives what people's tools do to text (CRLF, blanks, a byte order mark, text around
   the blocks) and nothing inside the armour: the base64 is strict, the end must match the begin.
2. A file without any block is named for what it is, because that is how wrong files get here.
3. Anything reads or raises `FormatError`, whatever the bytes.

Specification: RFC 7468; headers as RFC 1421, which Docker and Notary use for `role` and `gun`.
"""

import base64
import binascii
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from signimage.errors import FormatError

# Notary's own cap for a key, and far above any certificate bundle in use.
MAX_SIZE = 256 * 1024  # bytes

_COLUMNS = 64

_BEGIN = re.compile(r"-----BEGIN ([A-Z0-9][A-Z0-9 ]*)-----")
_HEADER = re.compile(r"([A-Za-z][A-Za-z0-9-]*):[ \t]*(.*)")

# What a file begins with when it is not PEM, and what to call it.
_LOOKS_LIKE = (
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
    (b"<", "an HTML or XML page"),
    (b"{", "a JSON document"),
    (b"ssh-", "an SSH public key"),
    (b"ecdsa-sha2-", "an SSH public key"),
    (b"0\x82", "binary data (DER or PKCS#12)"),
    (b"0\x81", "binary data (DER or PKCS#12)"),
    (b"PK\x03\x04", "a ZIP archive"),
)


@dataclass(frozen=True, slots=True)
class Block:
    """One armoured block: its *label*, headers in their order, and the bytes inside."""

    label: str
    headers: tuple[tuple[str, str], ...]
    content: bytes

    def header(self, name: str) -> str:
        """Give the value of a header by its *name* (any letter case), "" if it is absent."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


def read(data: bytes, *, what: str) -> tuple[Block, ...]:
    """Read every block of a file, at least one.

    Args:
        data: The file as it is.
        what: Names the file in errors, e.g. "key file ci.key".

    Raises:
        FormatError: no block, a damaged one, or more than `MAX_SIZE` bytes.
    """
    if len(data) > MAX_SIZE:
        raise FormatError(f"{what}: expected at most {MAX_SIZE} bytes, got {len(data)}")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"-----BEGIN " not in data:
        raise FormatError(f"{what}: expected PEM text, got {describe(data)}")
    try:
        lines = iter(data.decode().splitlines())
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: expected PEM text, got bytes that are not UTF-8") from error
    begins = (_BEGIN.fullmatch(line.strip()) for line in lines)
    blocks = tuple(_block(begin[1], lines, what) for begin in begins if begin)
    if not blocks:
        raise FormatError(f"{what}: expected PEM text, got no complete BEGIN line")
    return blocks


def write(label: str, content: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """Write one block as Go's `encoding/pem` does: headers sorted, a blank line, 64 columns."""
    lines = [f"-----BEGIN {label}-----"]
    if headers:
        for name, value in sorted(headers.items()):
            if not value.isprintable():
                raise FormatError(f"PEM header {name}: expected printable text, got {value!r}")
            lines.append(f"{name}: {value}")
        lines.append("")
    lines += textwrap.wrap(base64.b64encode(content).decode(), _COLUMNS)
    return "\n".join([*lines, f"-----END {label}-----", ""]).encode()


def describe(data: bytes) -> str:
    """Say what a file without PEM in it probably is."""
    start = data.lstrip()
    if not start:
        return "an empty file"
    for beginning, name in _LOOKS_LIKE:
        if start.startswith(beginning):
            return name
    return "something else"


def _block(label: str, lines: Iterator[str], what: str) -> Block:
    """Read up to the matching END; headers are known by their colon, which base64 has not."""
    headers: list[tuple[str, str]] = []
    body: list[str] = []
    for line in map(str.strip, lines):
        if line.startswith("-----"):
            if line != f"-----END {label}-----":
                raise FormatError(f"{what}: expected -----END {label}-----, got {line[:64]!r}")
            return Block(label, tuple(headers), _base64("".join(body), what))
        if header := _HEADER.fullmatch(line):
            headers.append((header[1], header[2]))
        else:
            body.append(line)
    raise FormatError(f"{what}: expected -----END {label}-----, got the end of the file")


def _base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(
            f"{what}: expected base64 between BEGIN and END, got other text"
        ) from error
