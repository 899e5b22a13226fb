"""The one door for what the command line says: results, warnings, progress, questions.

The rules of this file:

1. Results go to the standard output, everything else to the standard error output. With `--json`
   the standard output holds one JSON document; with `--quiet` nothing is said but errors.
2. On a terminal tables are drawn with `rich` if it is installed, elsewhere in plain columns; the
   content is the same. Colour is for terminals alone, and never with `NO_COLOR` or `TERM=dumb`.
3. Names and words of servers and files cannot move the cursor, change colours or turn the
   direction of the text: what would is shown as U+FFFD, in JSON as its escape.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO, final

from signimage.errors import InputError

# Controls, line and paragraph separators, marks that turn the direction of text, halves of
# surrogate pairs. A line feed ends a line of ours, so it is looked at apart.
_UNSAFE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_GAP = "  "
_TWO = 2  # words can be broken between


@final
@dataclass(frozen=True, slots=True)
class Console:
    """Where to say things, and how.

    Attributes:
        output: The standard output, for results.
        errors: The standard error output, for everything else.
        answers: The standard input; asked only if it and `errors` are a terminal.
        environment: Looked at for `NO_COLOR` and `TERM`.
        json: Results are JSON documents.
        quiet: Only errors are said.
        verbose: HTTP requests are told.
    """

    output: TextIO
    errors: TextIO
    answers: TextIO | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def tell(self, value: Any, text: str) -> None:
        """Say a result: *value* as JSON, or *text*, which may have several lines."""
        if self.json:
            self._print_json(value)
        else:
            self._print(text)

    def hand_over(self, value: Any, text: str) -> None:
        """Say a result that is wanted for itself: somebody redirects it into a file.

        Raises:
            InputError: Nothing is to be said, so that the file would be empty.
        """
        if self.quiet:
            raise InputError(
                "--quiet: expected a result that is not the output itself, got one that is",
                hint="Leave --quiet away",
            )
        self.tell(value, text)

    def table(
        self,
        value: Any,
        headings: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        empty: str = "",
    ) -> None:
        """Say a result: *value* as JSON, or *rows* under their *headings*; *empty* without rows."""
        if self.json:
            self._print_json(value)
        elif not rows:
            self._print(empty)
        elif not self.quiet and not self._draw_table(headings, rows):
            self._print(columns(headings, rows))

    def note(self, text: str) -> None:
        """Say beside the result what is worth knowing; not with `--json`."""
        if not self.json and not self.quiet:
            self._complain(text)

    def warn(self, text: str) -> None:
        """Say what may need somebody's attention, though the command goes on."""
        if not self.quiet:
            self._complain(f"signimage: warning: {text}")

    def error(self, text: str) -> None:
        """Say in one sentence why the command ends."""
        self._complain(f"signimage: {text}")

    def trace(self, event: str, **values: object) -> None:
        """Tell what `TransportSettings.observe` is told of; only with `--verbose`."""
        forms = {
            "answer": "{method} {url} {status} ({ms} ms)",
            "pause": "{url}: {why}; again in {ms} ms",
        }
        if self.verbose and event in forms:
            self._complain(forms[event].format_map(values))

    def confirm(self, question: str, *, hint: str = "Repeat it with --yes") -> bool:
        """Ask *question*; True only for a typed yes.

        Raises:
            InputError: There is no terminal, so that nobody can answer.
        """
        if self.answers is None or not self.answers.isatty() or not self.errors.isatty():
            raise InputError(f"{_line(question)} expected an answer, got no terminal", hint=hint)
        self.errors.write(f"{_line(question)} [y/N] ")
        self.errors.flush()
        return self.answers.readline().strip().lower() in {"y", "yes"}

    @contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Show on a terminal that something takes its time, while the block runs."""
        rich = None if self.quiet or self.json or self.verbose else self._rich(self.errors)
        if rich is None:
            yield
            return
        with rich.status(_line(text)):
            yield

    def _print_json(self, value: Any) -> None:
        if self.quiet:
            return
        text = json.dumps(value, indent=4, ensure_ascii=False)
        escaped = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        self.output.write(f"{escaped}\n")

    def _print(self, text: str) -> None:
        if text and not self.quiet:
            self.output.write(f"{safe(text)}\n")

    def _complain(self, text: str) -> None:
        self.errors.write(f"{safe(text)}\n")

    def _draw_table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
        """Draw a table with rich; False where there is none, or no terminal."""
        by_column = [
            [_line(cell) for cell in column] for column in zip(headings, *rows, strict=True)
        ]
        rich = self._rich(self.output, sum(_least(column) + len(_GAP) for column in by_column))
        if rich is None:
            return False
        from rich.table import Table  # noqa: PLC0415 -- only with the extra, and on a terminal
        from rich.text import Text  # noqa: PLC0415 -- the same

        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading, *cells in by_column:
            table.add_column(heading, no_wrap=all(len(cell.split()) < _TWO for cell in cells))
        for row in zip(*(cells for _, *cells in by_column), strict=True):
            table.add_row(*map(Text, row))
        rich.print(table)
        return True

    def _rich(self, stream: TextIO, least: int = 0) -> Any:
        """Give rich's console for *stream*; `None` without rich, or where nobody looks.

        It is at least *least* columns wide: what is one word, such as a key ID, is copied as one,
        so that a line may rather be too long for the terminal.
        """
        if not stream.isatty() or self.environment.get("TERM") in {"dumb", "unknown"}:
            return None
        try:
            from rich.console import Console as RichConsole  # noqa: PLC0415 -- only with the extra
        except ImportError:
            return None
        return RichConsole(
            file=stream,
            width=max(least, shutil.get_terminal_size().columns),
            no_color=bool(self.environment.get("NO_COLOR")),
            highlight=False,
            markup=False,
            emoji=False,
        )


def safe(text: str) -> str:
    """Return *text* without anything that a terminal obeys, line feeds excepted (rule 3)."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", text)


def columns(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return *rows* under their *headings*, each column as wide as its widest cell."""
    lines = [[_line(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[at]) for row in lines) for at in range(len(headings))]
    return "\n".join(
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in lines
    )


def _least(column: Sequence[str]) -> int:
    """Return how wide a column must be to break no word."""
    return max(len(word) for cell in column for word in (cell.split() or [""]))


def _line(text: str) -> str:
    return safe(text).replace("\n", "\N{REPLACEMENT CHARACTER}")
