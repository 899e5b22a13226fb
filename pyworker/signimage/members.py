"""A parsed JSON object, read member by member: the right type, or `FormatError`.

Absent and `null` read alike wherever an empty value makes sense, because Go writes `null` for
empty lists and maps; a number, a string or a moment must be there.
"""

import base64
import binascii
from functools import cache
from typing import Any

from signimage.errors import FormatError


class Members:
    """The members of one JSON object, read strictly.

    Args:
        value: What the JSON parser gave; anything but an object is refused.
        what: Names the object in errors.
        known: The members of this kind of object; others are tolerated, but not a known one in
            another letter case, which Go would take for it.

    Raises:
        FormatError: From the constructor and every reader, when the form is not the expected.
    """

    __slots__ = ("_members", "what")

    def __init__(self, value: Any, what: str, known: tuple[str, ...]) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{what}: expected an object, got {kind_of(value)}")
        for name in value:
            if name not in known and name.casefold() in _folded(known):
                raise FormatError(f"{what}: member {name[:60]!r} is misspelt in letter case")
        self._members = value
        self.what = what

    def value(self, name: str) -> Any:
        """The member *name* as parsed; None when it is absent or null."""
        return self._members.get(name)

    def map(self, name: str) -> dict[str, Any]:
        """The object under *name*; empty when absent or null."""
        value = self._members.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise FormatError(f"{self.what}: {name} must be an object, got {kind_of(value)}")
        return value

    def list(self, name: str) -> list[Any]:
        """The list under *name*; empty when absent or null."""
        value = self._members.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise FormatError(f"{self.what}: {name} must be a list, got {kind_of(value)}")
        return value

    def text(self, name: str) -> str:
        """The string under *name*."""
        value = self._members.get(name)
        if not isinstance(value, str):
            raise FormatError(f"{self.what}: {name} must be a string, got {kind_of(value)}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """The list of strings under *name*; empty when absent or null."""
        values = self.list(name)
        for value in values:
            if not isinstance(value, str):
                raise FormatError(f"{self.what}: {name} must hold strings, got {kind_of(value)}")
        return tuple(values)

    def integer(self, name: str, *, minimum: int) -> int:
        """The whole number under *name*, at least *minimum*."""
        value = self._members.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise FormatError(f"{self.what}: {name} must be a whole number from {minimum} up")
        return value


@cache
def _folded(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.casefold() for name in names)


def strict_base64(text: Any, what: str) -> bytes:
    """Decode standard, padded base64 without anything between."""
    if not isinstance(text, str):
        raise FormatError(f"{what}: must be base64 text, got {kind_of(text)}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{what}: must be base64 text, got {text[:60]!r}") from error


def kind_of(value: Any) -> str:
    """What a JSON value is, in words for an error."""
    kinds = {bool: "true or false", dict: "an object", list: "a list", str: "a string"}
    return "nothing" if value is None else kinds.get(value.__class__, "a number")
