"""Text that may be printed: lines that no agent takes for a command. Pure.

The agent looks for `##vso[` anywhere in every line of a step's output, and its search follows
the culture's collation, which skips characters that nobody sees. So the rules of this file are:

1. A line ends wherever any reader of the log could end it: CR, LF, VT, FF, NEL, U+2028, U+2029.
2. Control characters go, except tabs and the escape sequences that select colours.
3. Of what is left, a search that skips invisible characters, marks and private or unassigned
   code points, and that takes letters of another case, width or style for the same letter, finds
   neither `##vso[` nor `##[`: an underscore stands between the hashes and the rest.
4. Text without such a marker comes out as it went in, and what came out passes unchanged.

Rule 3 is wider than any one agent on purpose: a narrower agent sees a subset of its matches.
"""

import re
import unicodedata

LINE_BREAK = re.compile("\r\n|[\n\r\v\f\x85\u2028\u2029]")

# Everything in category Cc but tab and colour sequences, and all other escape sequences: those
# move the cursor or set titles, which a log cannot show.
_UNPRINTABLE = re.compile(
    r"(?P<colour>\x1b\[[0-9;:]*m)"
    r"|\x1b\[[0-?]*[ -/]*[@-~]"  # other control sequences
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # operating system commands: titles, links
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f]"
)

_MARKER = re.compile(r"##(?=(?:vso)?\[)")

# U+FE5F and U+FF03 are the two other characters that compatibility mapping turns into "#".
_TWO_HASHES = re.compile("[#\ufe5f\uff03].*[#\ufe5f\uff03]", re.DOTALL)

# The invisible letters: Hangul fillers are category Lo, and all the same nobody sees them.
_FILLERS = "\u115f\u1160\u3164\uffa0"

_MACRO = re.compile(r"\$\(.+\)")
_SURROGATE = re.compile("[\ud800-\udfff]")


def is_unicode(text: str) -> bool:
    """Tell whether *text* can leave the process; half of a surrogate pair cannot.

    JSON may spell such halves, and Python reads bytes that are not UTF-8 as them.
    """
    return not _SURROGATE.search(text)


def split_lines(text: str) -> list[str]:
    """Split *text* at every line break of rule 1; a break at the end opens no further line."""
    lines = LINE_BREAK.split(text)
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    return lines


def strip_controls(line: str) -> str:
    """Remove from *line* what rule 2 removes."""
    if line.isprintable():
        return line
    return _UNPRINTABLE.sub(lambda match: match["colour"] or "", line)


def break_markers(line: str) -> str:
    """Put an underscore behind every pair of hashes that rule 3 forbids."""
    if not _TWO_HASHES.search(line):
        return line
    skeleton, positions = _skeleton(line)
    pieces = []
    done = 0
    for match in _MARKER.finditer(skeleton):
        end = positions[match.end() - 1] + 1
        pieces.append(line[done:end])
        done = end
    return "_".join([*pieces, line[done:]])


def neutralise(text: str) -> str:
    r"""Return *text* as it may be shown: safe in every line, lines separated by `\n`."""
    return "\n".join(break_markers(strip_controls(line)) for line in LINE_BREAK.split(text))


def is_unexpanded_macro(text: str) -> bool:
    """Tell whether *text* is a macro `$(name)` that the agent left as it stands.

    It does so when no variable has that name, so a missing secret arrives as this text.
    """
    return _MACRO.fullmatch(text) is not None


def _skeleton(line: str) -> tuple[str, list[int]]:
    """Reduce *line* to what the widest search sees, with the place each character came from."""
    seen: list[str] = []
    positions: list[int] = []
    for position, character in enumerate(line):
        if _is_skipped(character):
            continue
        for letter in unicodedata.normalize("NFKC", character).casefold():
            seen.append(letter)
            positions.append(position)
    return "".join(seen), positions


def _is_skipped(character: str) -> bool:
    """Tell whether some search could pass over *character*: categories C, M, Zl, Zp."""
    return (
        unicodedata.category(character)[0] in "CM"
        or unicodedata.category(character) in ("Zl", "Zp")
        or character in _FILLERS
    )
