"""Canonical JSON: the one spelling of a value that Notary hashes and signs.

The rules of this file:

1. `encode` writes what Go's `docker/go/canonical/json` writes: members sorted by code point, no
   blanks, only backslash and quote escaped, integers only.
2. A value whose spelling Go and we could disagree about is refused, never approximated.
3. Anything parses or raises `FormatError`, whatever the bytes.

Specification: Notary v1, `docs/protocol.md`, "Canonical JSON".
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from signimage.errors import STRANGER_HINT, FormatError

# Go verifies through float64, where larger integers lose digits.
_MAX_INTEGER = 2**53

# Digits of 2**53: longer literals are refused before Python spends time on converting them.
_MAX_INTEGER_CHARS = 16

# Notary's own files nest 5 deep; `custom` data of a target is the only part that may go deeper.
MAX_DEPTH = 64

_CONTROL = re.compile(r"[\x00-\x1f]")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_ENVELOPE = frozenset({"signed", "signatures"})
_CONTAINERS = frozenset({dict, list})
_PLAIN = frozenset({str, bool, type(None)})
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, separators=(",", ":"), sort_keys=True
)

_HTML = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)


def encode(value: object) -> bytes:
    """Write *value* (str, int, bool, None, list, dict, integral float) as canonical JSON.

    Raises:
        FormatError: a number or a string that has no canonical form.
        TypeError: a type that JSON does not have, or a member name that is not `str`.
    """
    try:
        text = _fast_text(value) or _text(value)
    except FormatError as error:
        raise FormatError(f"canonical JSON: {error}") from error
    except RecursionError as error:
        raise FormatError("canonical JSON: the value is nested too deeply") from error
    if found := _CONTROL.search(text):
        raise FormatError(
            f"canonical JSON: expected no control characters, got U+{ord(found[0]):04X}"
        )
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FormatError("canonical JSON: expected Unicode text, got a lone surrogate") from error


def parse(data: bytes, *, what: str, max_depth: int = MAX_DEPTH) -> Any:
    """Read JSON as strictly as a signed document deserves.

    Numbers come back as `int` (`1.0` and `1e3` too, as Go canonicalises them), objects as `dict`.
    Refused beyond what JSON forbids: member names given twice, numbers that are not integers
    within 2**53, lone surrogates, a byte order mark, more than *max_depth* levels.

    Args:
        data: The whole document, UTF-8.
        what: Names the document in the error, e.g. "targets/releases.json".
        max_depth: How deep arrays and objects may nest, a scalar being 0.
    """
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_integral,
            parse_constant=_constant,
        )
        _check_depth(value, max_depth)
        if _ESCAPED_SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except FormatError as error:
        raise FormatError(f"{what}: {error}") from error
    except json.JSONDecodeError as error:
        hint = STRANGER_HINT if data.lstrip().startswith(b"<") else ""
        raise FormatError(
            f"{what}: expected JSON, got {_not_json(data, error)}", hint=hint
        ) from error
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{what}: expected UTF-8, got byte 0x{data[error.start]:02x} at {error.start}"
        ) from error
    except UnicodeEncodeError as error:
        raise FormatError(f"{what}: expected Unicode text, got a lone surrogate") from error
    except RecursionError as error:
        raise FormatError(f"{what}: expected at most {max_depth} levels, got many more") from error
    return value


def parse_own_spelling(data: bytes) -> tuple[Any, Any, bytes] | None:
    """Read a role file that is spelt as we would spell it; None for all others.

    Where spelling the content again gives the same bytes, no member can have been given twice and
    nothing has to be spelt a second time: a file of 10,000 targets takes a third of the time.

    Returns:
        The values of `signed` and `signatures`, and the canonical bytes of `signed`.
    """
    if b"\\" in data or not data.startswith(b'{"signed":'):
        return None
    try:
        document = _DECODER.decode(data.decode())
        if type(document) is not dict or document.keys() != _ENVELOPE:
            return None
        signed, signatures = document["signed"], document["signatures"]
        _check_depth(document, MAX_DEPTH)
        message = _ENCODER.encode(signed).encode(errors="replace")
        last = _ENCODER.encode(signatures).encode(errors="replace")
    except (ValueError, RecursionError, FormatError):
        return None
    spelt = b'{"signed":%b,"signatures":%b}' % (message, last)
    return (signed, signatures, message) if spelt == data else None


def quoted(text: str) -> str:
    """Spell a string that has no control characters."""
    # Called through the class, so that a member name of another type is a TypeError.
    return '"' + str.replace(str.replace(text, "\\", "\\\\"), '"', '\\"') + '"'


def escape_html(text: str) -> str:
    """Escape canonical *text* as Go's `json.Marshal` does when it stores it inside a file."""
    return text.translate(_HTML)


def _fast_text(value: object) -> str:
    """The canonical text by the library's C encoder, or "" where the two might differ.

    They agree on strings, integers, booleans and null as long as nothing needs an escape: a file
    of 10,000 targets takes a quarter of the time.
    """
    if not _is_plain(value):
        return ""
    text = _ENCODER.encode(value)
    return "" if "\\" in text else text


def _is_plain(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[object] = []
        for container in level:
            if type(container) is dict:
                if set(map(type, container)) - {str}:
                    return False
                children: Iterable[object] = container.values()
            elif type(container) is list:
                children = container
            else:
                return False
            for child in children:
                if type(child) in _CONTAINERS:
                    below.append(child)
                elif not _is_plain_scalar(child):
                    return False
        level = below
        if not level:
            return True
    return False


def _is_plain_scalar(value: object) -> bool:
    return type(value) in _PLAIN or (type(value) is int and _checked(value) == value)


def _text(value: object) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return (
            "{"
            + ",".join([quoted(name) + ":" + _text(value[name]) for name in sorted(value)])
            + "}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([_text(item) for item in value]) + "]"
    return _scalar(value)


def _scalar(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(_checked(value))
    if isinstance(value, float):
        return str(_integral(repr(value)))
    raise TypeError(f"canonical JSON has no form for {type(value).__name__}")


def _checked(number: int) -> int:
    if not -_MAX_INTEGER <= number <= _MAX_INTEGER:
        raise FormatError("expected an integer within 2**53, got a larger one")
    return number


def _integer(literal: str) -> int:
    if len(literal.lstrip("-")) > _MAX_INTEGER_CHARS:
        raise FormatError("expected an integer within 2**53, got a larger one")
    return _checked(int(literal))


def _integral(literal: str) -> int:
    number = float(literal)
    if not number.is_integer():  # false for infinities and NaN as well
        raise FormatError(f"expected an integer, got {literal[:32]}")
    return _checked(int(number))


def _constant(literal: str) -> NoReturn:
    raise FormatError(f"expected a number, got {literal}")


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(members)
    if len(value) != len(members):
        seen: set[str] = set()
        for name, _ in members:
            if name in seen:
                raise FormatError(f"expected each member once, got {name[:64]!r} twice")
            seen.add(name)
    return value


def _not_json(data: bytes, error: json.JSONDecodeError) -> str:
    text = data.strip()
    if not text:
        return "nothing"
    if text.startswith(b"<"):
        return "a page of HTML or XML"
    return f"other text at character {error.pos} ({error.msg})"


def _check_depth(value: object, max_depth: int) -> None:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(max_depth):
        level = [
            child
            for container in level
            for child in (container.values() if isinstance(container, dict) else container)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    if level:
        raise FormatError(f"expected at most {max_depth} levels, got more")


def _refused(literal: str) -> NoReturn:
    raise FormatError(f"expected an integer, got {literal[:32]}")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_refused, parse_constant=_refused)
