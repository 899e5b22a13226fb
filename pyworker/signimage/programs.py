"""Other programs: found, started, listened to, and ended with all that they started.

The rules of this file:

1. Programs are looked for in absolute folders alone: all others lie among the sources.
2. They are started from argument lists, never by a shell, with a chosen environment, in a session
   of their own, so that ending one ends all that it started.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from signimage.cancellation import undisturbed
from signimage.errors import EngineError
from signimage.transport import reason

# Takes what a program says, line by line, with its line ends.
Output = Callable[[bytes], object]

LINE_MAX = 64 * 1024  # bytes; longer lines arrive in parts
GRACE_S = 3.0  # between asking a program to end and ending it; the agent gives us 10 s in all
ANSWER_MAX = 16 * 1024 * 1024  # bytes; what an engine knows of one image is some KiB
COMPLAINT_MAX = 16 * 1024  # bytes; of a longer one, the end


@dataclass(frozen=True, slots=True)
class Answer:
    """How a program ended, and what it wrote to its two streams."""

    status: int
    output: str
    complaint: str


def find_program(name: str, environment: Mapping[str, str]) -> str:
    """Return the path of a program, "" if no folder of `PATH` has it.

    On Windows a name needs its ending: what would run a script is a shell.
    """
    for folder in environment.get("PATH", "").split(os.pathsep):
        if os.path.isabs(folder):  # noqa: PTH117 -- text as it comes, "" included
            found = shutil.which(os.path.join(folder, name))  # noqa: PTH118 -- the same
            if found:
                return found
    return ""


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


def follow_program(
    command: Sequence[str], environment: Mapping[str, str], on_output: Output
) -> Answer:
    """Run a program to its end; *on_output* gets its output, the answer holds its complaint.

    Whatever interrupts this function ends the program and all that it started.

    Raises:
        EngineError: It cannot be started.
    """
    # A file takes what nobody reads in the meantime; of a pipe, a thread would have to.
    with tempfile.TemporaryFile() as complaint, _running(command, environment, complaint) as it:
        stream = it.stdout
        while stream is not None and (line := stream.readline(LINE_MAX)):
            on_output(line)
        return Answer(it.wait(), "", _end_of(complaint))


def ask_program(
    command: Sequence[str], environment: Mapping[str, str], patience_s: float
) -> Answer:
    """Run a program that answers soon, and return all that it wrote.

    Raises:
        EngineError: It cannot be started, takes longer than *patience_s*, or writes too much.
    """
    with tempfile.TemporaryFile() as complaint:
        with _running(command, environment, complaint) as process:
            status, output = _answer_of(process, command[0], patience_s, ANSWER_MAX)
        return Answer(status, output.decode("utf-8", "replace"), _end_of(complaint))


def consult_program(
    command: Sequence[str],
    environment: Mapping[str, str],
    question: bytes,
    patience_s: float,
    most: int,
) -> tuple[int, bytes]:
    """Hand a *question* of some bytes to a program; return its exit status and its answer.

    Its complaint goes nowhere: what is asked about may be a secret.

    Raises:
        EngineError: It cannot be started, takes longer than *patience_s*, or writes more than
            *most* bytes.
    """
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    with _running(command, environment, nowhere, question=pipe) as process:
        if process.stdin is not None:
            with suppress(OSError), process.stdin:  # it need not read what it knows
                process.stdin.write(question)
        return _answer_of(process, command[0], patience_s, most)


def _answer_of(
    process: "subprocess.Popen[bytes]", name: str, patience_s: float, most: int
) -> tuple[int, bytes]:
    with _ended_after(process, patience_s) as late:
        output = b"" if process.stdout is None else process.stdout.read(most + 1)
        if len(output) > most:
            raise EngineError(f"{name}: expected at most {most} bytes, got more")
        status = process.wait()
        if late.is_set():
            raise EngineError(f"{name} did not answer within {patience_s:g} s")
    return status, output


def _end_of(file: IO[bytes]) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - COMPLAINT_MAX))
    return file.read(COMPLAINT_MAX).decode("utf-8", "replace")


@contextmanager
def _ended_after(
    process: "subprocess.Popen[bytes]", patience_s: float
) -> Iterator[threading.Event]:
    """End *process* when the block takes longer than *patience_s*, and tell so."""
    late = threading.Event()

    def end() -> None:
        late.set()
        _end(process)

    timer = threading.Timer(patience_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


@contextmanager
def _running(
    command: Sequence[str],
    environment: Mapping[str, str],
    complaint: int | IO[bytes] = subprocess.STDOUT,
    *,
    question: int = subprocess.DEVNULL,
) -> Iterator["subprocess.Popen[bytes]"]:
    process: subprocess.Popen[bytes] | None = None
    try:
        # Interrupted between its start and our knowing of it, a program would go on for ever.
        with undisturbed():
            process = _started(command, environment, complaint, question)
        yield process
    except BaseException:  # a cancel, too, ends what runs for us
        if process is not None:
            _end(process)
        raise
    finally:
        if process is not None:
            with process:
                """Close its stream, and wait for it."""


def _started(
    command: Sequence[str],
    environment: Mapping[str, str],
    complaint: int | IO[bytes],
    question: int,
) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(  # noqa: S603 -- an argument list, never a shell
            command,
            env=dict(environment),
            stdin=question,
            stdout=subprocess.PIPE,
            stderr=complaint,
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
