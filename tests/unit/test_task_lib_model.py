"""Two models of an agent, written from its described behaviour and apart from our code.

`parse_command` reads a line as the agent's `Command.cs` does. `finds_marker` is the most generous
search an agent could make: it walks over any character that some collation might skip.
Both are used by the other tests of the library, so they are tested here first.
"""

import unicodedata
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True)
class ParsedCommand:
    """What the agent understood: `area.event`, its properties, and the data behind the `]`."""

    name: str
    properties: dict[str, str]
    data: str


def parse_command(line: str) -> ParsedCommand | None:
    """Read the first command in *line*, wherever it begins; None if there is none."""
    start = line.find("##vso[")
    end = line.find("]", start)
    if start < 0 or end < 0:
        return None
    head, _, tail = line[start + len("##vso[") : end].partition(" ")
    if len([part for part in head.split(".") if part]) != 2:
        return None
    pairs = [item.strip().split("=", 1) for item in tail.split(";") if item.strip()]
    properties = {pair[0]: _unescape(pair[1]) for pair in pairs if len(pair) == 2}
    return ParsedCommand(head, properties, _unescape(line[end + 1 :]))


def _unescape(text: str) -> str:
    for escaped, plain in (("%3B", ";"), ("%0D", "\r"), ("%0A", "\n"), ("%5D", "]")):
        text = text.replace(escaped, plain)
    return text.replace("%AZP25", "%")


def can_be_skipped(character: str) -> bool:
    """Tell whether some collation might ignore *character*."""
    category = unicodedata.category(character)
    return (
        category[0] in "CM" or category in ("Zl", "Zp") or character in "\u115f\u1160\u3164\uffa0"
    )


def finds_marker(line: str, marker: str, skipped: frozenset[str] | None = None) -> bool:
    """Tell whether *marker* begins anywhere in *line*, passing over skippable characters.

    Args:
        line: What was printed.
        marker: Lower case, e.g. `##vso[`.
        skipped: The characters that this agent passes over; None for all that can be.
    """
    return any(_matches_at(line, start, marker, skipped) for start in range(len(line)))


def _matches_at(line: str, start: int, marker: str, skipped: frozenset[str] | None) -> bool:
    wanted = list(marker)
    for character in line[start:]:
        if (
            character.lower() == wanted[0]
            or unicodedata.normalize("NFKC", character).casefold() == wanted[0]
        ):
            wanted.pop(0)
            if not wanted:
                return True
        elif not (can_be_skipped(character) if skipped is None else character in skipped):
            return False
    return False


def test_the_model_parses_properties_and_data_as_the_agent_does() -> None:
    line = "12:00 ##vso[task.setvariable variable=a%3Bb;isoutput=true;]x]%AZP250A%0Ay"
    assert parse_command(line) == ParsedCommand(
        "task.setvariable", {"variable": "a;b", "isoutput": "true"}, "x]%0A\ny"
    )


@pytest.mark.parametrize("line", ["", "##vso", "##vso[", "##vso[task]x", "# #vso[task.debug]x"])
def test_the_model_takes_no_half_command(line: str) -> None:
    assert parse_command(line) is None


@pytest.mark.parametrize(
    "line",
    ["##vso[", "x ###VsO[", "#\u200b#v\u00ads\x00o\ufeff[", "\uff03#vso\uff3b", "##\u0301vso["],
)
def test_the_model_finds_every_disguise(line: str) -> None:
    assert finds_marker(line, "##vso[")


@pytest.mark.parametrize("line", ["# #vso[", "#vso[", "##_vso[", "##vso", "## vso["])
def test_the_model_finds_nothing_where_nothing_is(line: str) -> None:
    assert not finds_marker(line, "##vso[")


def test_the_model_skips_only_what_it_is_told_to() -> None:
    assert finds_marker("##\u200bvso[", "##vso[", frozenset("\u200b"))
    assert not finds_marker("##\u200bvso[", "##vso[", frozenset("\u00ad"))
