"""The instructions of a Dockerfile, and where in the text their words stand.

The rules of this file:

1. Lines become instructions as in BuildKit: escapes and comments within continued lines,
   heredocs, parser directives, a byte-order mark.
   What no version of it would take is a `FormatError` with the number of the line.
2. Every character that is handed on knows its place, so that a word can be replaced without
   touching a byte beside it.

Dockerfile reference: "Format", "Parser directives", "Here-Documents".
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from signimage.errors import FormatError
from signimage.substitution import SPACE, words

_NAMES = frozenset(
    (  # noqa: SIM905 -- as a list this fills a screen
        "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN "
        "SHELL STOPSIGNAL USER VOLUME WORKDIR"
    ).split()
)
_WITH_HEREDOCS = frozenset({"ADD", "COPY", "RUN"})
_BLANKS = re.compile(r"[\t\v\f\r ]+")
_DIRECTIVES = frozenset({"check", "escape", "syntax"})
_HEREDOC = re.compile(r"\d*<<(?P<chomp>-?)(?P<blank>\s*)(?P<name>[^<]+)")
_BOM = "\ufeff"
# Flags are told apart byte by byte.
_ASCII_SPACE = "\t\n\v\f\r "


@dataclass(frozen=True, slots=True)
class Passage:
    """Some text, and where in the file each of its characters stands."""

    text: str
    places: Sequence[int]

    def part(self, begin: int, end: int | None = None) -> "Passage":
        """The characters from *begin* to before *end*, counted in this passage."""
        return Passage(self.text[begin:end], self.places[begin:end])

    def stripped(self) -> "Passage":
        """The passage without the white space around it."""
        begin = len(self.text) - len(self.text.lstrip(SPACE))
        return self.part(begin, max(begin, len(self.text.rstrip(SPACE))))

    def split(self, limit: int = 0) -> list["Passage"]:
        """The words between blanks; at most *limit* cuts, unless that is 0."""
        found, begin = [], 0
        for blanks in list(_BLANKS.finditer(self.text))[: limit or None]:
            found.append(self.part(begin, blanks.start()))
            begin = blanks.end()
        return [*found, self.part(begin)]

    @property
    def span(self) -> tuple[int, int]:
        """Where it begins and ends in the file; there may be line ends within."""
        return self.places[0], self.places[-1] + 1


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its line, counted from 1, its name in capitals, and what follows."""

    line: int
    name: str
    flags: tuple[Passage, ...]  # `--name=value`, without quotes and escapes
    arguments: Passage
    has_heredoc: bool = False

    def flag(self, name: str) -> list[Passage]:
        """The values of the flag *name*."""
        begin = f"--{name}="
        return [each.part(len(begin)) for each in self.flags if each.text.startswith(begin)]


@dataclass(frozen=True, slots=True)
class Listing:
    """A whole Dockerfile: what its directives say, and its instructions."""

    escape: str
    syntax: str  # the image that reads it, empty for the builder's own reader
    instructions: tuple[Instruction, ...]


def parse(text: str) -> Listing:
    """Read a Dockerfile.

    Raises:
        FormatError: It is none that BuildKit would read.
    """
    return _Reader(text).read()


def parse_words(passage: Passage, escape: str) -> list[Passage]:
    """Split at white space outside of quotes; quotes and escapes stay."""
    found, begin, quote, at, text = [], -1, "", 0, passage.text
    while at < len(text):
        character = text[at]
        if begin < 0 and character not in SPACE:
            begin = at
        if begin >= 0 and not quote and character in SPACE:
            found.append(passage.part(begin, at))
            begin = -1
        elif character == escape and quote != "'":
            at += 1
        elif character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        at += 1
    return [*found, passage.part(begin)] if begin >= 0 else found


@final
class _Reader:
    """One pass over the lines of a file."""

    def __init__(self, text: str) -> None:
        begin = len(_BOM) if text.startswith(_BOM) else 0
        self._lines: list[Passage] = []
        while begin < len(text):
            end = text.find("\n", begin) + 1 or len(text)
            self._lines.append(Passage(text[begin:end], range(begin, end)))
            begin = end
        self._at = 0
        self._directives: dict[str, str] = {}
        self._may_direct = True
        self._has_shebang = False

    @property
    def _escape(self) -> str:
        return self._directives.get("escape", "\\")

    def read(self) -> Listing:
        """Read to the end."""
        instructions = []
        while self._at < len(self._lines):
            number = self._at + 1
            try:
                instruction = self._next_instruction(number)
            except FormatError as error:
                raise FormatError(f"Dockerfile line {number}: {error}") from error
            if instruction is not None:
                instructions.append(instruction)
        syntax = self._directives.get("syntax", "").partition(" ")[0]
        return Listing(self._escape, syntax, tuple(instructions))

    def _next_instruction(self, number: int) -> Instruction | None:
        line = self._next_line()
        first = line.part(len(line.text) - len(line.text.lstrip(SPACE)))
        self._read_directive(first.text)
        if first.text.startswith("#") or not first.text:
            return None
        whole = self._continued(first)
        instruction = _instruction(whole, number, self._escape)
        heredocs = _heredocs(instruction, whole.text, self._escape)
        for terminator, chomp in heredocs:
            self._skip_heredoc(terminator, chomp=chomp)
        return replace(instruction, has_heredoc=bool(heredocs))

    def _next_line(self) -> Passage:
        self._at += 1
        line = self._lines[self._at - 1]
        return line.part(0, len(line.text.rstrip("\r\n")))

    def _read_directive(self, line: str) -> None:
        if not self._may_direct:
            return
        if self._at == 1 and line.startswith("#!"):
            self._has_shebang = True
            return
        before, _, after = line[1:].partition("=")
        name, value = before.strip(SPACE).lower(), after.strip(SPACE)
        if not line.startswith("#") or name not in _DIRECTIVES or not value:
            self._may_direct = False
            return
        if self._has_shebang:  # some builders look behind it, others do not
            raise FormatError(f"expected no directive {name} after #!, got one")
        if name in self._directives:
            raise FormatError(f"expected one directive {name}, got another")
        if name == "escape" and value not in ("\\", "`"):
            raise FormatError(f"escape: expected \\ or `, got {value[:20]!r}")
        self._directives[name] = value

    def _continued(self, first: Passage) -> Passage:
        """Join the lines that *first* is continued on; comments and empty lines fall out."""
        escape = re.escape(self._escape)
        mark = re.compile(rf"(?<!{escape}){escape}[ \t]*\Z")
        texts: list[str] = []
        places: list[int] = []
        line: Passage | None = first
        while line is not None:
            found = mark.search(line.text)
            kept = line.part(0, found.start() if found else None)
            texts.append(kept.text)
            places += kept.places
            line = self._next_content() if found else None
        return Passage("".join(texts), places)

    def _next_content(self) -> Passage | None:
        while self._at < len(self._lines):
            line = self._next_line()
            content = line.text.lstrip(SPACE)
            if content and not content.startswith("#"):
                return line
        return None

    def _skip_heredoc(self, terminator: str, *, chomp: bool) -> None:
        while self._at < len(self._lines):
            line = self._next_line().text
            if (line.lstrip("\t") if chomp else line) == terminator:
                return
        raise FormatError(f"heredoc: expected a line {terminator[:100]!r} at its end, got none")


def _instruction(line: Passage, number: int, escape: str, outer: str = "") -> Instruction:
    name, *rest = line.stripped().split(limit=1)
    upper = name.text.upper()
    if upper not in _NAMES:
        raise FormatError(f"expected an instruction, got {name.text[:100]!r}")
    flags, arguments = _flags(rest[0], escape) if rest else ((), name.part(0, 0))
    instruction = Instruction(number, upper, flags, arguments.stripped())
    if upper != "ONBUILD":
        return instruction
    if outer or not arguments.text.strip(SPACE):
        raise FormatError("ONBUILD: expected another instruction")
    inner = _instruction(arguments, number, escape, upper)
    if inner.name in ("FROM", "MAINTAINER"):
        raise FormatError(f"ONBUILD: expected an instruction within a stage, got {inner.name}")
    return instruction


def triggered(instruction: Instruction, escape: str) -> Instruction:
    """What an `ONBUILD` puts off until another build begins with its image."""
    return _instruction(instruction.arguments, instruction.line, escape)


def _flags(rest: Passage, escape: str) -> tuple[tuple[Passage, ...], Passage]:
    """Take the words that begin with `--` off; quotes and escapes in them are done with."""
    found: list[Passage] = []
    at, text = 0, rest.text
    while True:
        while at < len(text) and text[at] in _ASCII_SPACE:
            at += 1
        if not text.startswith("--", at):
            return tuple(found), rest.part(at)
        characters, quote = [], ""
        while at < len(text) and (quote or text[at] not in _ASCII_SPACE):
            if text[at] == escape:
                at += 1
            elif text[at] == quote or (not quote and text[at] in "'\""):
                quote = "" if quote else text[at]
                at += 1
                continue
            if at < len(text):
                characters.append(at)
            at += 1
        word = "".join(text[place] for place in characters)
        if word == "--":
            return tuple(found), rest.part(at)
        found.append(Passage(word, [rest.places[place] for place in characters]))


def _heredocs(instruction: Instruction, line: str, escape: str) -> list[tuple[str, bool]]:
    """The names that end the heredocs of an instruction, and whether tabs before them go."""
    if "<<" not in line:
        return []
    inner = instruction
    if instruction.name == "ONBUILD":
        inner = triggered(instruction, escape)
    if inner.name not in _WITH_HEREDOCS or _is_json(inner.arguments.text):
        return []
    try:
        candidates = words(line)
    except FormatError:  # a shell may understand it; no heredoc begins here
        return []
    found = []
    for match in map(_HEREDOC.fullmatch, candidates):
        names = words(match["name"]) if match else []
        if match and len(names) == 1:
            if match["blank"]:  # for BuildKit before 0.15 that is no heredoc
                raise FormatError("heredoc: expected its name right after <<, got a blank")
            found.append((_unquoted(names[0]), bool(match["chomp"])))
    return found


def _unquoted(name: str) -> str:
    return re.sub(r"\\(.?)|['\"]", r"\1", name)


def _is_json(arguments: str) -> bool:
    if not arguments.startswith("["):
        return False
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, list) and all(isinstance(each, str) for each in found)
