"""What role files say of files and of time: lengths, hashes, and until when to believe it.

Format: TUF 1.0 as of Notary 0.7 (`docs/protocol.md`, "Role files").
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from signimage import canonical
from signimage.errors import FormatError, HashMismatchError
from signimage.members import Members, strict_base64

_FILE_META = ("custom", "hashes", "length")
_USUAL = frozenset({"hashes", "length"})

# A target as Docker describes it, or with both hashes as `notary add` does, and its name. The last
# of 43 characters that spell 32 bytes has two bits to spare, the last of 86 that spell 64 has four;
# they are zero in the one spelling that Go would write again.
_MEMBER = re.compile(
    r'(?:\A|,)"([^"\\\x00-\x1f]*)":'
    r'(\{"hashes":\{"sha256":"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="'
    r'(?:,"sha512":"[A-Za-z0-9+/]{85}[AQgw]==")?\},'
    r'"length":(?:0|[1-9][0-9]{0,14})\})'
)
_MEMBER_MARKS = len(',"":')  # around name and description

# Fractions beyond Python's microseconds and any numeric offset occur: Go writes RFC 3339 "Nano".
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Expiry:
    """A moment as a role file writes it: the exact `text`, and the `moment` in UTC."""

    text: str
    moment: datetime = field(compare=False)

    @classmethod
    def parse(cls, text: str, *, what: str) -> "Expiry":
        """Read an RFC 3339 time with 0 to 9 fractional digits and a zone."""
        match = _RFC3339.fullmatch(text)
        if match is None:
            raise FormatError(f"{what}: expires must be an RFC 3339 time, got {text[:60]!r}")
        seconds, fraction, zone = match.groups()
        micros = (fraction or "").ljust(6, "0")[:6]
        offset = "+00:00" if zone in "Zz" else zone
        try:
            moment = datetime.fromisoformat(f"{seconds.upper()}.{micros}{offset}")
            return cls(text, moment.astimezone(timezone.utc))
        except (ValueError, OverflowError) as error:
            raise FormatError(f"{what}: expires {text[:60]!r} is not a real time") from error

    @classmethod
    def at(cls, moment: datetime) -> "Expiry":
        """The expiry *moment* (with a zone), written in whole seconds of UTC."""
        whole = moment.astimezone(timezone.utc).replace(microsecond=0)
        return cls(whole.strftime("%Y-%m-%dT%H:%M:%SZ"), whole)


@dataclass(frozen=True, slots=True)
class FileMeta:
    """Length and hashes of some content; for a target also the publisher's `custom` JSON."""

    length: int  # bytes
    hashes: Mapping[str, bytes]  # algorithm name -> raw digest
    custom: Any = None  # any JSON value but null; None means absent

    @property
    def sha256(self) -> bytes:
        """The 32 bytes of the SHA-256 hash; empty when the entry has none of that length."""
        value = self.hashes.get("sha256", b"")
        return value if len(value) == hashlib.sha256().digest_size else b""

    def check(self, content: bytes, *, what: str) -> None:
        """Refuse *content* unless its length and every hash that we know are as described.

        Raises:
            HashMismatchError: Length or hash differ, or there is no SHA-256 hash to compare.
        """
        if len(content) != self.length:
            raise HashMismatchError(f"{what}: expected {self.length} bytes, got {len(content)}")
        if not self.sha256:
            raise HashMismatchError(f"{what}: its description has no SHA-256 hash")
        for name in ("sha256", "sha512"):
            expected = self.hashes.get(name)
            found = hashlib.new(name, content).digest()
            if expected is not None and expected != found:
                raise HashMismatchError(
                    f"{what}: expected {name} {expected.hex()}, got {found.hex()}"
                )

    @classmethod
    def of(cls, content: bytes) -> "FileMeta":
        """Describe a metadata file as Notary does: SHA-256 and SHA-512."""
        hashes = {name: hashlib.new(name, content).digest() for name in ("sha256", "sha512")}
        return cls(len(content), hashes)

    @classmethod
    def from_json(cls, value: Any, what: str) -> "FileMeta":
        """Read `{custom?, hashes, length}`."""
        members = Members(value, what, _FILE_META)
        hashes = {
            name: strict_base64(text, f"{what}: hash")
            for name, text in members.map("hashes").items()
        }
        return cls(members.integer("length", minimum=0), hashes, members.value("custom"))

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads."""
        hashes = {name: base64.b64encode(raw).decode() for name, raw in self.hashes.items()}
        custom = {} if self.custom is None else {"custom": self.custom}
        return custom | {"hashes": hashes, "length": self.length}


class FileMetas(Mapping[str, FileMeta]):
    """Descriptions by name, each kept as canonical JSON until somebody asks for it.

    A role file is read, checked and written again with every publication, while hardly one of
    its entries is looked at: as text, 10,000 of them take a tenth of the time.
    """

    __slots__ = ("_texts", "text")

    def __init__(self, texts: Mapping[str, str], text: str = "") -> None:
        self._texts = texts
        # What stands between the braces in canonical JSON.
        self.text = text or ",".join(
            [f"{canonical.quoted(name)}:{texts[name]}" for name in sorted(texts)]
        )

    @classmethod
    def spelt(cls, text: str) -> "FileMetas | None":
        """Read *text*, what stands between the braces of an object of descriptions.

        None where it is not canonical, or where an entry is more than a length and the usual
        hashes: those are for `file_metas`.
        """
        found = _MEMBER.findall(text)
        texts = dict(found)
        names = list(texts)
        # Matches do not overlap and each but the first begins with its comma, so that they are
        # all of the text if they are as long; names given twice make fewer entries.
        length = sum(map(len, names)) + sum(map(len, texts.values())) + _MEMBER_MARKS * len(names)
        if length - 1 != len(text) or len(found) != len(names) or names != sorted(names):
            return None
        return cls(texts, text)

    def __getitem__(self, name: str) -> FileMeta:
        return _usual(json.loads(self._texts[name]), name[:130])

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FileMetas):
            return self._texts == other._texts
        return isinstance(other, Mapping) and dict(self) == dict(other)

    __hash__ = None  # type: ignore[assignment]  # as with every mapping

    def with_metas(self, more: Mapping[str, FileMeta]) -> "FileMetas":
        """These, with *more* added or replaced."""
        for name in more:
            canonical.encode(name)  # refuses what has no canonical form
        spelt = {name: canonical.encode(meta.to_json()).decode() for name, meta in more.items()}
        return FileMetas({**self._texts, **spelt})


def _usual(value: Any, what: str) -> FileMeta:
    """`FileMeta.from_json` for the form that nearly all descriptions have, which is quicker."""
    if type(value) is dict and value.keys() == _USUAL:
        length, hashes = value["length"], value["hashes"]
        if type(length) is int and length >= 0 and type(hashes) is dict:
            return FileMeta(length, {name: strict_base64(hashes[name], what) for name in hashes})
    return FileMeta.from_json(value, what)


def file_metas(values: Mapping[str, Any], what: str) -> dict[str, FileMeta]:
    """Read many descriptions; which of them is at fault is found out only when one is."""
    try:
        return {name: _usual(value, what) for name, value in values.items()}
    except FormatError:
        for name, value in values.items():
            FileMeta.from_json(value, f"{what} {name[:130]!r}")
        raise
