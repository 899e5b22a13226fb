"""What is built: the request, the argument list that says it, and why a build failed.

Docker CLI `build`.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from signimage.buildarguments import flags
from signimage.programs import Output
from signimage.transport import readable

TAIL = 40  # lines kept to find the reason of a failed build in
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# What Docker says below the reason, where its own argument list was wrong, and how much of it.
_USAGE = re.compile(r"Usage:\s+docker |(See|Run) 'docker [^']*--help'")
_USAGE_LINES = 3


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build: `references` are the names (`host/path:tag`) that the image gets."""

    dockerfile: Path
    context: Path
    references: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()


def build_command(program: str, request: BuildRequest, id_file: Path) -> list[str]:
    """Return the argument list; the user's come after ours and win, except for the ID file."""
    command = [program, "build", "--file", str(request.dockerfile)]
    for reference in request.references:
        command += ["--tag", reference]
    for name, value in request.labels.items():
        command += ["--label", f"{name}={value}"]
    return [*command, *request.arguments, "--iidfile", str(id_file), str(request.context)]


def loaded(request: BuildRequest) -> BuildRequest:
    """Have BuildKit bring the image into the engine: builders in containers keep it otherwise.

    Where the user's arguments say what becomes of the image, that is what becomes of it.
    """
    decided = ("--load", "--push", "--output")
    if any(flag.name in decided for flag in flags(request.arguments)):
        return request
    return replace(request, arguments=(*request.arguments, "--load"))


def tee(on_output: Output, tail: deque[str]) -> Output:
    """Pass on what a builder says, and keep its last lines as text without colours."""

    def write(line: bytes) -> None:
        text = readable(_COLOUR.sub("", line.decode("utf-8", "replace")))
        if text:
            tail.append(text)
        on_output(line)

    return write


def is_misuse(tail: Iterable[str]) -> bool:
    """Tell whether Docker explained how it is used, instead of building."""
    return any(_USAGE.match(line) for line in list(tail)[-_USAGE_LINES:])


def failure(tail: Iterable[str], status: int) -> str:
    """Return the line that says why a build failed: the last that speaks of an error."""
    lines = list(tail)
    signs = ("error", "failed", "non-zero", "cannot", "unknown flag", "denied", "not found")
    for line in reversed(lines):
        if any(sign in line.lower() for sign in signs):
            return line.removeprefix("Error response from daemon: ")
    if is_misuse(lines):  # the reason has no sign of its own
        lines = lines[: next(at for at, line in enumerate(lines) if _USAGE.match(line))]
    how = f"docker ended with status {status}" if status > 0 else f"signal {-status} ended docker"
    return f"{how}: {lines[-1]}" if lines else how
