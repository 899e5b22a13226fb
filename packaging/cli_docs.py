"""Writes docs/cli.md, the page of the command line: what each command says of itself with --help.

    python packaging/cli_docs.py

A test compares the page with the program, so that neither is changed alone.
"""

from pathlib import Path

from signimage import cli
from signimage.manual import commands_of, page

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
_WIDTH = 80  # columns

_BEGINNING = """\
# The command line

What each command of `signimage` says with `--help`; the page is made from the program.
How the commands work together: [Keys](keys.md).

- Options come after the command, in any order.
- Results go to the standard output, all else to the standard error output.
  With `--json` a result is one JSON document, with `--quiet` nothing is said but errors.
  What is wanted for its output, such as an exported key, refuses `--quiet`.
- A passphrase is read from the environment, else from the keyring of the system, else from a \
terminal.
  Where nobody can answer, the command ends at once with a sentence that says what to set.
- On a terminal tables are drawn by `rich`, if the extra `cli` is installed; `NO_COLOR` switches \
colours off.
- Ctrl-C at any question leaves everything as it was, and ends with 1.
- `signimage completion bash`, `zsh` or `fish` prints a script that completes command lines; for \
bash it takes version 4.
"""


def text() -> str:
    """Return the page as it is to be."""
    whole = cli.parser()
    parts = [_BEGINNING]
    parts += [_section(each.prog, page(each, _WIDTH)) for each in (whole, *commands_of(whole))]
    return "\n".join(parts)


def _section(name: str, shown: str) -> str:
    return f"## {name}\n\n```text\n{shown}```\n"


if __name__ == "__main__":
    PAGE.write_text(text(), "utf-8")
