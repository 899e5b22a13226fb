"""What commands say of themselves: pages that fit, tell all, and agree with the docs."""

import re

import cli_docs
import pytest

from signimage import cli
from signimage.manual import Command, commands_of, page

_COMMANDS = tuple(commands_of(cli.parser()))
_ONE = pytest.mark.parametrize("command", _COMMANDS, ids=lambda command: command.prog)


def test_the_page_of_the_docs_is_what_the_program_says() -> None:
    """`python packaging/cli_docs.py` writes it anew."""
    assert cli_docs.PAGE.read_text("utf-8") == cli_docs.text()


@_ONE
def test_every_page_has_all_its_parts(command: Command) -> None:
    shown = page(command, 80)
    titles = re.findall(r"(?m)^([a-z ]+):$", shown)
    assert titles[-3:] == ["options", "environment", "exit codes"] or "examples" in titles
    assert shown.startswith(f"usage: {command.prog}")
    for action in (*command.options, *command.operands):
        assert action.help, f"{command.prog} {action.dest}"
    for option in command.options:
        assert option.option_strings[-1] in shown


@_ONE
def test_every_example_is_a_command_line_that_is_understood(command: Command) -> None:
    """Its words, that is: whether there is such a file is another matter."""
    whole = cli.parser()
    for example in command.examples:
        line = re.search(r"signimage [^#|>)]*", example)
        assert line, example
        words = line[0].split()[1:]
        assert whole.parse_args(words).run, example


@_ONE
@pytest.mark.parametrize("width", [40, 80, 100])
def test_no_line_is_wider_than_the_terminal(command: Command, width: int) -> None:
    for line in page(command, width).splitlines():
        assert len(line) <= width or re.match(r" +\S+$|  \S", line), line


def test_a_wrong_command_line_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["key", "melt\x1b[31m"],
        ["key"],
        ["key", "generate", "ci", "--bla"],
        ["nothing"],
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert re.fullmatch(r"signimage: [^\n\x1b]+\. See signimage.* --help\.\n", said.err)


def test_options_are_not_guessed_from_their_beginnings(capsys: pytest.CaptureFixture[str]) -> None:
    """What is short for one option today would be short for two tomorrow."""
    with pytest.raises(SystemExit):
        cli.main(["key", "list", "--js"])
    assert "--js" in capsys.readouterr().err
