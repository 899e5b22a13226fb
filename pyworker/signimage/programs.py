"""Other programs: started, listened to, and ended with all that they started.

Programs are started from argument lists, never by a shell, with a chosen environment, in a
session of their own, so that ending one ends all that it started.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from signimage.cancellation import undisturbed
from signimage.errors import EngineError
from signimage.transport import reason

# Takes what a program says, line by line, with its line ends.
Output = Callable[[bytes], object]

LINE_MAX = 64 * 1024  # bytes; longer lines arrive in parts
GRACE_S = 3.0  # between asking a program to end and ending it; the agent gives us 10 s in all


def run_program(command: Sequence[str], environment: Mapping[str, str], on_output: Output) -> int:
    """Run a program to its end and return its exit status; both its streams go to *on_output*.

    Whatever interrupts this function ends the program and all that it started.

    Raises:
        EngineError: It cannot be started.
    """
    with _running(command, environment) as process:
        stream = process.stdout
        while stream is not None and (line := stream.readline(LINE_MAX)):
            on_output(line)
        return process.wait()


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    process: subprocess.Popen[bytes] | None = None
    try:
        # Interrupted between its start and our knowing of it, a program would go on for ever.
        with undisturbed():
            process = _started(command, environment)
        yield process
    except BaseException:
        if process is not None:
            _end(process)
        raise
    finally:
        if process is not None:
            with process:
                """Close its stream, and wait for it."""


def _started(command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(  # noqa: S603 -- an argument list, never a shell
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    except OSError as error:
        raise EngineError(f"{command[0]} cannot be started: {reason(error)}") from error


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    finally:
        # The program may be gone and its children not.
        _signal(process, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, number)
