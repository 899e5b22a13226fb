"""`signimage.instructions`: a Dockerfile is read as by BuildKit, and words know their places."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.errors import FormatError
from signimage.instructions import Instruction, Passage, parse, parse_words
from unit.vectors import VECTORS

CASES: list[dict[str, Any]] = json.loads((VECTORS / "dockerfiles.json").read_text("utf-8"))


def shown(instructions: tuple[Instruction, ...]) -> list[list[object]]:
    """What the vectors say of each instruction."""
    return [[each.line, each.name, [flag.text for flag in each.flags]] for each in instructions]


@pytest.mark.parametrize("case", [case for case in CASES if case["instructions"] is not None])
def test_instructions_are_those_that_buildkit_finds(case: dict[str, Any]) -> None:
    assert shown(parse(case["text"]).instructions) == case["instructions"]


@pytest.mark.parametrize("case", [case for case in CASES if case["instructions"] is None])
def test_what_buildkit_refuses_is_refused_with_its_line(case: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"^Dockerfile line \d: "):
        parse(case["text"])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("FORM a", "line 1: expected an instruction, got 'FORM'"),
        ("FROM a\n\nRUN <<EOF\n", "line 3: heredoc: expected a line 'EOF' at its end, got none"),
        ("#escape=/\n", r"line 1: escape: expected \\ or `, got '/'"),
        ("#syntax=a\n#Syntax=a\n", "line 2: expected one directive syntax, got another"),
        ("FROM a\nONBUILD", "line 2: ONBUILD: expected another instruction"),
        ("FROM a\nONBUILD ONBUILD RUN x", "line 2: ONBUILD: expected another instruction"),
        ("FROM a\nONBUILD FROM b", "line 2: ONBUILD: expected an instruction within a stage"),
    ],
)
def test_fault_is_told_with_its_line(text: str, fault: str) -> None:
    with pytest.raises(FormatError, match=f"^Dockerfile {fault}"):
        parse(text)


def test_directives_are_known() -> None:
    listing = parse("# syntax = docker/dockerfile:1 and more\n# escape=`\nFROM a")
    assert (listing.syntax, listing.escape) == ("docker/dockerfile:1", "`")
    assert (parse("FROM a\n# escape=`").escape, parse("FROM a").syntax) == ("\\", "")


def test_words_know_their_places_across_lines_quotes_and_escapes() -> None:
    text = '\ufeff# c\nFROM --platform="a\\ b" im\\\n # c\n\nage:1 AS \\\r\nx\r\n'
    (instruction,) = parse(text).instructions
    (flag,) = instruction.flags
    assert text[slice(*flag.span)] == '--platform="a\\ b'
    image, _, name = instruction.arguments.split()
    assert image.text == "image:1"
    assert text[slice(*image.span)] == "im\\\n # c\n\nage:1"
    assert text[slice(*name.span)] == "x"


def test_flag_is_found_by_its_whole_name() -> None:
    (_, instruction) = parse("FROM a\nCOPY --from=b --fromage=c --from d --from=e x y").instructions
    assert [value.text for value in instruction.flag("from")] == ["b"]
    assert instruction.arguments.text == "d --from=e x y"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A=1 B C=", ["A=1", "B", "C="]),
        ("A=\"1 '2\" B='3 \"4'", ['A="1 \'2"', "B='3 \"4'"]),
        (r'A=\" B="\" x" C=\ y', [r"A=\"", r'B="\" x"', r"C=\ y"]),
        (r"A='\' B", [r"A='\'", "B"]),
        ("", []),
    ],
)
def test_words_end_at_blanks_outside_of_quotes(text: str, found: list[str]) -> None:
    passage = Passage(text, range(len(text)))
    assert [word.text for word in parse_words(passage, "\\")] == found


# --- Laws ------------------------------------------------------------------------------------

_LINES = st.lists(
    st.sampled_from(
        [
            *(
                "FROM a",
                "FROM b:1 AS c",
                "RUN x",
                " COPY --from=c x y",
                "ARG A=1 B",
                "ONBUILD RUN x",
            ),
            *("# c", "# escape=`", "# syntax=x", "", "  ", "\\", "`", " y", "EOF", "\tEOF"),
            *(
                "RUN x \\",
                "RUN x `",
                "FROM \\",
                "RUN <<EOF",
                "ADD <<-EOF /",
                'RUN ["<<EOF"]',
                "CMD 'x",
            ),
        ]
    ),
    max_size=12,
)
_TEXTS = st.builds(str.join, st.sampled_from(["\n", "\r\n"]), _LINES) | st.text(max_size=60)


@given(_TEXTS)
def test_any_text_is_read_or_refused_and_every_character_stands_where_it_says(text: str) -> None:
    with suppress(FormatError):
        for instruction in parse(text).instructions:
            for passage in (instruction.arguments, *instruction.flags):
                assert "".join(text[place] for place in passage.places) == passage.text
                assert list(passage.places) == sorted(set(passage.places))


@given(_LINES)
def test_line_ends_change_nothing(lines: list[str]) -> None:
    """What Windows writes is the same file."""
    found = []
    for end in ("\n", "\r\n"):
        try:
            found.append(shown(parse(end.join([*lines, ""])).instructions))
        except FormatError as error:
            found.append([[str(error)]])
    assert found[0] == found[1]
