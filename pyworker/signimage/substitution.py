"""Variables, quotes and escapes in the words of a Dockerfile.

The rules of this file:

1. A word means what it means to BuildKit; what BuildKit refuses is a `FormatError`.
2. What a variable holds is somebody else's knowledge, and may be asked for only where it counts:
   the word after `:-` and `:+` is filled in even where it is not used, as BuildKit does.
3. No word grows beyond `WORD_MAX`, however often it names a variable.

Dockerfile reference: "Environment replacement"; BuildKit's tests are its specification.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

from signimage.errors import FormatError

# A host and path of 255 characters, a tag of 128 and a digest are less than half of it.
WORD_MAX = 1024  # characters
# Unicode's white space; `str.isspace` holds four control characters for blanks that are none.
SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_SPECIAL = "@*#?-$!"  # the shell's own parameters, which nothing sets here
_MAX_DEPTH = 20  # of one ${…} within another; a word of people has one or two

# What a variable holds, None where it is not set.
Lookup = Callable[[str], str | None]


def expand(word: str, lookup: Lookup, escape: str = "\\") -> str:
    """Fill in the variables of *word*, and take its quotes and escapes away.

    Args:
        word: As it stands in the file, without blanks outside of quotes.
        lookup: Knows the variables.
        escape: The file's escape character.

    Raises:
        FormatError: BuildKit would not understand it, or it is longer than `WORD_MAX`.
    """
    scanner = _Scanner(word, escape, lookup)
    return "".join(piece for piece, _ in scanner.until(""))


def words(line: str) -> list[str]:
    """Split *line* at its blanks as a shell would, and leave quotes, escapes and variables alone.

    A blank after `<<` splits nothing: it stands before the name of a heredoc.

    Raises:
        FormatError: A quotation or a substitution is not closed.
    """
    found: list[list[str]] = [[]]
    for piece, may_split in _Scanner(line, "\\", None).until(""):
        for character in piece:
            if not may_split or character not in SPACE:
                found[-1].append(character)
            elif found[-1]:
                found.append([])
    return ["".join(word) for word in found if word]


@final
@dataclass(slots=True)
class _Scanner:
    """One pass over a text; without *lookup*, everything comes out as it went in."""

    text: str
    escape: str
    lookup: Lookup | None
    at: int = 0
    depth: int = 0
    grown: int = field(default=0, init=False)

    @property
    def next(self) -> str:
        """The next character, empty at the end."""
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        character = self.next
        self.at += len(character)
        return character

    def until(self, stop: str, *, raw_escapes: bool = False) -> list[tuple[str, bool]]:
        """Read up to and with *stop*, or to the end if that is empty.

        Gives the pieces that were found, each with whether blanks in it separate words.
        """
        pieces: list[tuple[str, bool]] = []
        while self.next and (not stop or self.next != stop):
            begin = self.next
            if begin in "'\"":
                piece = self._quoted(raw_escapes=raw_escapes)
            elif begin == "$":
                piece = self._variable()
            elif begin == "<":
                piece = self._heredoc_sign()
            elif begin == self.escape:
                piece = self._escaped(raw_escapes=raw_escapes)
            else:
                piece = self.take()
            pieces.append((piece, begin not in f"'\"<{self.escape}"))
            self._count(piece)
        if stop and not self.take():
            raise FormatError(f"expected {stop!r} at the end of a substitution, got nothing")
        return pieces

    def _count(self, piece: str) -> None:
        self.grown += len(piece)
        if self.lookup is not None and self.grown > WORD_MAX:
            raise FormatError(f"expected at most {WORD_MAX} characters in a word, got more")

    def _escaped(self, *, raw_escapes: bool) -> str:
        escape = self.take()
        return (escape if raw_escapes or self.lookup is None else "") + self.take()

    def _quoted(self, *, raw_escapes: bool) -> str:
        quote = self.take()
        found = []
        while self.next != quote:
            if not self.next:
                raise FormatError(f"expected a closing {quote}, got none")
            if quote == '"' and self.next == "$":
                found.append(self._variable())
                self._count(found[-1])
            elif quote == '"' and self.next == self.escape:
                escape = self.take()
                is_known = self.next and self.next in f'"${self.escape}'
                keep = not is_known or raw_escapes or self.lookup is None
                found.append((escape if keep else "") + (self.take() if is_known else ""))
            else:
                found.append(self.take())
        self.take()
        text = "".join(found)
        return f"{quote}{text}{quote}" if self.lookup is None else text

    def _heredoc_sign(self) -> str:
        begin = self.at
        self.take()
        if self.next == "<":
            self.take()
            while self.next and self.next in "\t\r ":
                self.take()
        return self.text[begin : self.at]

    def _variable(self) -> str:
        begin = self.at
        self.take()
        if self.next == "{":
            self.take()
            value = self._braced()
        else:
            name = self._name()
            value = self._value(name) or "" if name else "$"
        return value if self.lookup is not None else self.text[begin : self.at]

    def _value(self, name: str) -> str | None:
        return self.lookup(name) if self.lookup is not None else None

    def _name(self) -> str:
        begin = self.at
        if self.next.isdecimal():
            while self.next.isdecimal():
                self.take()
        elif self.next and self.next in _SPECIAL:
            self.take()
        else:
            while self.next.isalpha() or self.next.isdecimal() or self.next == "_":
                self.take()
        return self.text[begin : self.at]

    def _braced(self) -> str:
        if not self.next or self.next in "{}:":
            raise FormatError("expected a name after ${, got none")
        if self.depth == _MAX_DEPTH:
            raise FormatError(f"expected at most {_MAX_DEPTH} substitutions in each other")
        self.depth += 1
        name, sign = self._name(), self.take()
        if sign == ":" and self.next and self.next in "-+?":
            sign += self.take()
        if sign == "}":
            value = self._value(name) or ""
        elif sign in ("-", "+", "?", ":-", ":+", ":?"):
            value = self._chosen(name, sign)
        elif sign and sign in "#%":
            value = self._trimmed(name, sign)
        elif sign == "/":
            value = self._replaced(name)
        else:
            raise FormatError(f"substitution of {name[:100]}: {sign!r} is none that is understood")
        self.depth -= 1
        return value

    def _word(self, stop: str, *, raw_escapes: bool = False) -> str:
        return "".join(piece for piece, _ in self.until(stop, raw_escapes=raw_escapes))

    def _chosen(self, name: str, sign: str) -> str:
        word = self._word("}")
        value = self._value(name)
        is_set = bool(value) if sign.startswith(":") else value is not None
        if sign.endswith("+"):
            return word if is_set else ""
        if sign.endswith("?") and not is_set and self.lookup is not None:
            raise FormatError(f"variable {name[:100]}: {word or 'expected a value, got none'}")
        return value or "" if is_set else word

    def _trimmed(self, name: str, sign: str) -> str:
        pattern = self._word("}", raw_escapes=True)
        value = self._value(name) or ""
        is_greedy = pattern.startswith(sign)
        tokens = _tokens(pattern[1:] if is_greedy else pattern) if self.lookup else []
        if sign == "%":
            return _without_prefix(tokens[::-1], value[::-1], is_greedy=is_greedy)[::-1]
        return _without_prefix(tokens, value, is_greedy=is_greedy)

    def _replaced(self, name: str) -> str:
        is_everywhere = self.next == "/"
        if is_everywhere:
            self.take()
        pattern = self._word("/", raw_escapes=True)
        replacement = self._word("}", raw_escapes=True)
        value = self._value(name) or ""
        if self.lookup is None:
            return ""
        tokens = _tokens(pattern)
        if not tokens or not all(map(str.isprintable, tokens)) or "$" in replacement:
            raise FormatError(
                f"substitution of {name[:100]}: expected plain text to replace and to put"
            )
        return value.replace("".join(tokens), replacement, -1 if is_everywhere else 1)


# Tokens of a pattern: a character for itself, or one of these.
_ANY, _ONE = "\0*", "\0?"


def _tokens(pattern: str) -> list[str]:
    """Read a pattern of `#`, `%` and `/`, as BuildKit does: only `*` and `?` are special."""
    found = []
    characters = iter(pattern)
    for character in characters:
        if character != "\\":
            found.append({"*": _ANY, "?": _ONE}.get(character, character))
            continue
        escaped = next(characters, "")
        if not escaped or escaped not in "*?\\}/":
            raise FormatError(
                f"pattern {pattern[:100]!r}: expected *, ? or \\ after \\, got {escaped!r}"
            )
        found.append(escaped)
    return found


def _without_prefix(tokens: Sequence[str], value: str, *, is_greedy: bool) -> str:
    """Take away the shortest, or the longest, beginning of *value* that the pattern matches."""
    ends = {0}
    for token in tokens:
        if not ends:
            return value
        if token == _ANY:
            ends = set(range(min(ends), len(value) + 1))
        else:
            ends = {
                end + 1
                for end in ends
                if end < len(value) and (token == _ONE or value[end] == token)
            }
    if not ends:
        return value
    return value[max(ends) if is_greedy else min(ends) :]
