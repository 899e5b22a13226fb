"""Secrets that must not be printed, in any of the forms in which programs print them. Pure.

The agent masks what it knows, as it knows it. This second mask works before a line leaves the
process, and knows what the agent does not: values read from an environment, and the encoded forms
that clients, servers and tracebacks show (percent, base64 within `user:password`, JSON, `repr`).
"""

import binascii
import json
import re

from azure_pipelines_task_lib.text import LINE_BREAK, is_unexpanded_macro, strip_controls

# Shorter values protect nothing and occur everywhere: with the passphrase "a" masked, a log is
# unreadable and still tells the passphrase, by what is missing. Agents draw the same line, at up
# to six characters (AZP_IGNORE_SECRETS_SHORTER_THAN); four keeps every password worth the name.
SHORTEST_SECRET = 4  # characters

MASK = "***"

# What percent-encoders leave as it is, beside letters and digits: RFC 3986, the same with "/",
# JavaScript's encodeURIComponent, and the user information of Go's net/url.
_UNRESERVED = ("-._~", "-._~/", "-._~!'()*", "-._~$&+,;=")

_ALPHANUMERIC = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


class Redactor:
    """The known secrets, and their replacement in text by `***`."""

    def __init__(self) -> None:
        self._forms: list[str] = []  # longest first, so that no part of a secret hides the whole
        self._pattern: re.Pattern[str] | None = None

    @property
    def longest(self) -> int:
        """Length of the longest form of any secret, in characters; 0 without secrets."""
        return len(self._forms[0]) if self._forms else 0

    def add(self, secret: str) -> None:
        """Know *secret* from now on: as a whole, and each of its lines by itself.

        Values shorter than `SHORTEST_SECRET` and unexpanded macros are no secrets.
        """
        forms = {form for part in secret_parts(secret) for form in _forms_of(part)}
        if not forms.issubset(self._forms):
            self._forms = sorted(forms.union(self._forms), key=lambda form: (-len(form), form))
            self._pattern = None

    def redact(self, text: str) -> str:
        """Return *text*, which should be one line, with every form of every secret replaced."""
        if not self._occurs_in(text):
            return text
        return self._compiled().sub(MASK, text)

    def end_of_piece(self, line: str, size: int) -> int:
        """Say where to cut *line* near *size* so that no form of a secret is cut in two."""
        if self._occurs_in(line[: size + self.longest]):
            for match in self._compiled().finditer(line[: size + self.longest]):
                if match.start() < size < match.end():
                    return match.end()
        return size

    def _occurs_in(self, text: str) -> bool:
        """Tell whether there is work to do; several times faster than the pattern says no."""
        return any(form in text for form in self._forms)

    def _compiled(self) -> re.Pattern[str]:
        if self._pattern is None:
            self._pattern = re.compile("|".join(map(re.escape, self._forms)))
        return self._pattern


def secret_parts(secret: str) -> list[str]:
    """Return the texts that give *secret* away: itself and each line, none too short to mask."""
    if is_unexpanded_macro(secret):
        return []
    texts = [secret, *LINE_BREAK.split(secret)]
    parts = dict.fromkeys(form for text in texts for form in (text, text.strip()))
    return [part for part in parts if len(part) >= SHORTEST_SECRET]


def _forms_of(secret: str) -> set[str]:
    """Spell *secret* in every way known to occur in logs."""
    as_json = json.dumps(secret)[1:-1]
    forms = {secret, strip_controls(secret), repr(secret)[1:-1], as_json}
    forms.add(json.dumps(secret, ensure_ascii=False)[1:-1])
    # Go's encoder escapes these three as well.
    forms.add(as_json.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))
    content = _content(secret)
    forms.add(content.decode("utf-8", "replace"))
    forms |= _percent_forms(content) | _base64_forms(content)
    return {form for form in forms if len(form) >= SHORTEST_SECRET}


def _content(secret: str) -> bytes:
    """Return the bytes of *secret*, also of an environment value that is not UTF-8."""
    try:
        return secret.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return secret.encode("utf-8", "replace")


def _percent_forms(content: bytes) -> set[str]:
    forms = set()
    for unreserved in _UNRESERVED:
        plain = _ALPHANUMERIC.union(unreserved.encode())
        for hexadecimal in ("%{:02X}", "%{:02x}"):
            form = "".join(chr(b) if b in plain else hexadecimal.format(b) for b in content)
            forms |= {form, form.replace("%20", "+")}
    return forms


def _base64_forms(content: bytes) -> set[str]:
    """Encode *content* alone, and as it appears within longer content at each of 3 alignments."""
    alone = binascii.b2a_base64(content, newline=False).decode()
    forms = {alone, alone.rstrip("=")}
    for offset, start in ((0, 0), (1, 2), (2, 3)):
        shifted = binascii.b2a_base64(bytes(offset) + content, newline=False).decode()
        # Only the characters that hold nothing of the neighbours: 6 bits each.
        forms.add(shifted[start : (offset + len(content)) * 8 // 6])
    return forms | {form.replace("+", "-").replace("/", "_") for form in forms}
