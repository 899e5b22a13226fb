"""A program on a terminal of its own, and somebody who reads and types there.

Needs `env` of coreutils 8.31, and `setsid` of util-linux, which makes the terminal the one that the
program asks for secrets.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import final

_PATIENCE_S = 60.0  # of a reader; a program that stays silent for longer hangs
_LINES, _COLUMNS = 50, 200


@final
class Terminal:
    """Runs *argv*; the terminal is gone, and the program with it, at the end of the block."""

    def __init__(
        self, argv: Sequence[str | Path], env: Mapping[str, str], cwd: Path | None = None
    ) -> None:
        self._own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, _COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            # Whoever runs the tests in the background ignores SIGINT, and so would all below.
            ["env", "--default-signal=INT", "setsid", "--ctty", "--wait", *argv],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""
        self._read_up_to = 0

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._own)  # a hang-up for whoever still runs there
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def expect(self, pattern: str) -> str:
        """Read until *pattern* is shown after what was expected before; gives what is shown."""
        while True:
            if found := re.compile(pattern).search(self.shown, self._read_up_to):
                self._read_up_to = found.end()
                return found[0]
            if not self._read():
                raise AssertionError(f"expected {pattern!r}, got {self.shown!r}")

    def type(self, text: str, end: str = "\r") -> None:
        """Type *text* and Return."""
        os.write(self._own, f"{text}{end}".encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.type("", end="\x03")

    def end(self) -> int:
        """Read to the end; gives the exit code."""
        while self._read():
            pass
        return self._process.wait(_PATIENCE_S)

    def _read(self) -> bool:
        deadline = time.monotonic() + _PATIENCE_S
        while not select.select([self._own], [], [], 0.2)[0]:
            if time.monotonic() > deadline:
                raise AssertionError(f"no more after {_PATIENCE_S} s: {self.shown!r}")
        try:
            data = os.read(self._own, 65536)
        except OSError:  # how Linux says that the other end is closed
            return False
        self.shown += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(data)
