"""The Pythons of this machine, old and new: those that run the tests, and those found beside it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NAME = re.compile(r"python[23](\.\d+)?")
TELL = "import sys; sys.stdout.write('%d %d' % sys.version_info[:2])"


def programs() -> Iterator[Path]:
    """Yield whatever is named like a Python on PATH, and what pyenv has installed."""
    yield Path(sys.executable)
    for folder in os.get_exec_path():
        if Path(folder).is_dir():
            yield from (p for p in sorted(Path(folder).iterdir()) if NAME.fullmatch(p.name))
    yield from sorted(Path.home().glob(".pyenv/versions/*/bin/python"))


def interpreters() -> dict[tuple[int, int], Path]:
    """Return one working interpreter for each version found, by (major, minor)."""
    found: dict[tuple[int, int], Path] = {}
    for program in programs():
        done = subprocess.run([program, "-c", TELL], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            major, minor = done.stdout.split()
            found.setdefault((int(major), int(minor)), program)
    return found
