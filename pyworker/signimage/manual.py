"""What a command says of itself: `--help`, and the same page by page in `docs/cli.md`.

A page is made from what `argparse` knows and from what is written beside it, in a form of our own:
it is the same under every version of Python, so that a test can compare it with the docs.
"""

import argparse
import inspect
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, final

from signimage.console import safe

WIDTH_MAX = 100  # columns; longer lines are hard to read, however wide the terminal
_COLUMN = 22  # where the second column begins, for all but long names
_MANY: Mapping[Any, str] = {"+": "{0}...", "*": "[{0}...]", "?": "[{0}]"}

EXIT_CODES = {
    "0": "done",
    "1": "refused or failed; the message says what state things are in",
    "2": "wrong input: arguments, files, keys or passphrases of this machine",
    "3": "could not decide, because a server could not be reached",
}


@final
class Command(argparse.ArgumentParser):
    """A command, or a group of them, that can print its page.

    Args:
        more: Paragraphs below the one-line description; lines that begin with two blanks stay.
        examples: Command lines, each with a comment behind two blanks and `#` where it needs one.
        environment: What each variable that counts here means, by its name.
        exit_codes: What each means, where that differs from other commands.
        options: What `argparse` takes.

    Attributes:
        common: The options that it shares with other commands.
    """

    def __init__(
        self,
        *,
        more: str = "",
        examples: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        exit_codes: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options, add_help=False, allow_abbrev=False)
        self.more = inspect.cleandoc(more)
        self.examples = examples
        self.environment = environment or {}
        self.exit_codes = EXIT_CODES | dict(exit_codes or {})
        self.common: tuple[argparse.Action, ...] = ()
        self.add_argument("-h", "--help", action="help", help="show this page")

    def error(self, message: str) -> NoReturn:
        """End with one sentence about a wrong command line."""
        self.exit(2, f"signimage: {safe(message).rstrip('.')}. See {self.prog} --help.\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write *message*; argparse's own way hides that nothing could be written."""
        (file or sys.stderr).write(message)

    def format_help(self) -> str:
        """Return the page, as wide as the terminal."""
        return page(self, min(shutil.get_terminal_size().columns, WIDTH_MAX))

    @property
    def options(self) -> tuple[argparse.Action, ...]:
        """The options: its own, then those of many commands, then `--help`."""
        found = [each for each in self._actions if each.option_strings and _is_shown(each)]
        own = [each for each in found[1:] if each not in self.common]
        return (*own, *self.common, found[0])

    @property
    def operands(self) -> tuple[argparse.Action, ...]:
        """What is given without a name, in order."""
        return tuple(
            each
            for each in self._actions
            if not each.option_strings and not isinstance(each.choices, dict)
        )

    @property
    def inner(self) -> Mapping[str, "Command"]:
        """The commands of a group, by name."""
        groups = (each.choices for each in self._actions if not each.option_strings)
        return next((each for each in groups if isinstance(each, dict)), {})


def commands_of(command: Command) -> Iterator[Command]:
    """Yield *command*, or those that it is a group of, in the order of their declaration."""
    if not command.inner:
        yield command
    for each in command.inner.values():
        yield from commands_of(each)


def page(command: Command, width: int) -> str:
    """Return what *command* says of itself, in lines of at most *width* columns."""
    parts = [_filled(_usage(command), width, " " * len("usage: "))]
    parts += [_filled(each, width) for each in _described(command)]
    rows = _inner_rows(command)
    sections = {
        "commands": rows,
        "arguments": [(_operand(each), each.help or "") for each in command.operands],
        "options": [(_option(each), each.help or "") for each in command.options],
        "environment": list(command.environment.items()),
        "exit codes": list(command.exit_codes.items()),
    }
    for title, entries in sections.items():
        if title == "environment" and command.examples:
            parts.append("\n".join(["examples:", *(f"  {each}" for each in command.examples)]))
        if entries:
            parts.append("\n".join([f"{title}:", *_rows(entries, width)]))
    if rows:
        parts.append(f"'{command.prog} COMMAND --help' says more of each.")
    return "\n\n".join(parts) + "\n"


def _is_shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS


def _usage(command: Command) -> str:
    words = ["usage:", command.prog]
    if command.inner:
        return " ".join([*words, "COMMAND ..."])
    words += [_option(each) for each in command.options if each.required]
    words += ["[options]", *(_operand(each) for each in command.operands)]
    return " ".join(words)


def _described(command: Command) -> Iterator[str]:
    text = command.description or ""
    yield f"{text[:1].upper()}{text[1:].rstrip('.')}."
    if command.more:
        yield from command.more.split("\n\n")


def _inner_rows(command: Command) -> list[tuple[str, str]]:
    if not command.inner:
        return []
    return [
        (each.prog.removeprefix(f"{command.prog} "), each.description or "")
        for each in commands_of(command)
    ]


def _operand(action: argparse.Action) -> str:
    return _MANY.get(action.nargs, "{0}").format(_value(action))


def _option(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {_value(action)}"


def _value(action: argparse.Action) -> str:
    if action.choices is not None and action.metavar is None:
        return "|".join(str(each) for each in action.choices)
    return str(action.metavar or action.dest.upper())


def _rows(entries: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    longest = max(len(name) for name, _ in entries)
    column = min(longest + 4, _COLUMN + 4, width // 3)
    for name, text in entries:
        lines = textwrap.wrap(text, width - column, break_on_hyphens=False)
        if len(name) + 4 > column:
            yield f"  {name}"
        else:
            first = lines.pop(0) if lines else ""
            yield (f"  {name}".ljust(column) + first).rstrip()
        yield from (" " * column + line for line in lines)


def _filled(text: str, width: int, later: str = "") -> str:
    if text.startswith("  "):
        return text
    return textwrap.fill(
        " ".join(text.split()),
        max(width, 40),
        subsequent_indent=later,
        break_on_hyphens=False,
        break_long_words=False,
    )
