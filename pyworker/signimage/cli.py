"""`signimage` on the command line: arguments in, one use case, text or JSON out.

What there is: `…commands`; what every command takes: `arguments`; what it works with: `desk`; how
it speaks: `console`. Exit codes: 0 done, 1 refused or failed, 2 wrong input, 3 could not decide
because a server could not be reached.
"""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from signimage import (
    __version__,
    completion,
    imagecommands,
    keycommands,
    reportcommands,
    trustcommands,
)
from signimage.arguments import EXIT_FAILED, EXIT_INPUT, EXIT_UNDECIDED, Run
from signimage.console import Console
from signimage.desk import Desk
from signimage.errors import InputError, SignImageError, UnreachableError
from signimage.manual import Command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may be none of this encoding
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        return EXIT_FAILED
    except BrokenPipeError:  # whoever reads has seen enough
        _drop_output()
        return EXIT_FAILED
    except OSError as error:
        _drop_output()
        sys.stderr.write(f"signimage: standard output: {error.strerror}.\n")
        return EXIT_FAILED


def _run(argv: Sequence[str] | None) -> int:
    arguments = parser().parse_args(argv)
    run: Run = arguments.run
    console = Console(
        sys.stdout,
        sys.stderr,
        sys.stdin,
        os.environ,
        json=arguments.json,
        quiet=arguments.quiet,
        verbose=arguments.verbose,
    )
    try:
        with Desk(os.environ, arguments, console) as desk:
            return run(arguments, desk)
    except SignImageError as error:
        console.error(error.sentence)
        return _exit_code(error)
    except OSError as error:
        if error.filename is None:  # of a stream
            raise
        console.error(f"{error.filename}: {error.strerror}.")
        return EXIT_INPUT


def _open_streams() -> None:
    """Let what is said go nowhere, where whoever started the program closed the way.

    Opened in this order they get the numbers that no other file must have.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _drop_output() -> None:
    """Leave nothing to be written when the program ends, where it cannot be written."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> Command:
    """Make the parser of the whole command line."""
    whole = Command(
        prog="signimage",
        description="Keys, signers and signatures of container images (Docker Content Trust)",
    )
    version = f"signimage {__version__}"
    whole.add_argument("--version", action="version", version=version, help="show the version")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    keycommands.add_commands(commands)
    trustcommands.add_commands(commands)
    imagecommands.add_commands(commands)
    reportcommands.add_commands(commands)
    completion.add_command(commands, whole)
    return whole


def _exit_code(error: SignImageError) -> int:
    if isinstance(error, InputError):
        return EXIT_INPUT
    return EXIT_UNDECIDED if isinstance(error, UnreachableError) else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
