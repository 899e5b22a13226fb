"""Commands come through the agent's parser as they were meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_pipelines_task_lib import Result
from azure_pipelines_task_lib.commands import format_command
from unit.test_task_lib_model import ParsedCommand, parse_command

VALUES = st.text(
    st.one_of(st.sampled_from("%AZP25%0A%0D%3B%5D;]=[\r\n #vso"), st.characters(codec="utf-8"))
)
# The agent trims what stands between two semicolons, so blanks at the end of a value are lost.
PROPERTIES = st.dictionaries(
    st.text("abcdefgh", min_size=1), VALUES.map(str.strip).filter(bool), max_size=4
)


@given(PROPERTIES, VALUES)
def test_the_agent_reads_back_what_was_written(properties: dict[str, str], message: str) -> None:
    line = format_command("task.debug", properties, message)
    assert parse_command(line) == ParsedCommand("task.debug", properties, message)


@given(PROPERTIES, VALUES)
def test_a_command_is_one_line(properties: dict[str, str], message: str) -> None:
    line = format_command("task.debug", properties, message)
    assert "\n" not in line
    assert "\r" not in line


@pytest.mark.parametrize(
    ("properties", "message", "line"),
    [
        ({}, "", "##vso[task.debug]"),
        ({}, "a;b]c%d\r\n", "##vso[task.debug]a;b]c%AZP25d%0D%0A"),
        ({"k": "a;b]c%d\r\n"}, "", "##vso[task.debug k=a%3Bb%5Dc%AZP25d%0D%0A;]"),
        ({"k": "", "l": "1"}, "m", "##vso[task.debug l=1;]m"),
        ({"k": ""}, "m", "##vso[task.debug ]m"),
    ],
)
def test_the_spelling_is_that_of_the_table(
    properties: dict[str, str], message: str, line: str
) -> None:
    assert format_command("task.debug", properties, message) == line


def test_results_are_spelled_as_the_agent_parses_them() -> None:
    spelled = [result.value for result in Result]
    assert spelled == ["Succeeded", "SucceededWithIssues", "Failed", "Canceled", "Skipped"]


@pytest.mark.parametrize(
    ("first", "coming", "changes"),
    [
        (Result.SUCCEEDED, Result.SUCCEEDED, False),
        (Result.SUCCEEDED, Result.FAILED, True),
        (Result.SUCCEEDED_WITH_ISSUES, Result.SUCCEEDED, False),
        (Result.FAILED, Result.SUCCEEDED, False),
        (Result.FAILED, Result.CANCELED, True),
        (Result.CANCELED, Result.SKIPPED, False),
    ],
)
def test_the_worse_result_wins_up_to_failed(first: Result, coming: Result, changes: bool) -> None:  # noqa: FBT001 -- a table
    assert first.yields_to(coming) is changes
