"""The one door for text: everything a step prints leaves through `Output`.

1. One line is one write and one flush, under one lock: lines of several threads never mix.
2. A line of text is stripped, redacted and neutralised in this order; a command says exactly what
   it was given, because file names and variables must arrive as they are.
3. Bytes are UTF-8 whatever the locale says, since that is what the agent reads.
4. Nobody reading is no error: when the pipe is gone, output ends silently and the work goes on.
"""

import codecs
import os
import select
from collections.abc import Iterable, Mapping
from threading import RLock
from typing import Protocol, final

from azure_pipelines_task_lib.commands import format_command
from azure_pipelines_task_lib.redaction import Redactor
from azure_pipelines_task_lib.text import LINE_BREAK, break_markers, split_lines, strip_controls

# Docker's log drivers cut lines at 16 KiB as well; browsers show the pieces without trouble.
LONGEST_LINE = 16_384  # characters


class ByteStream(Protocol):
    """What `Output` needs of a binary file, buffered or not, blocking or not."""

    def fileno(self) -> int:
        """Return the descriptor to wait for when the file would block."""

    def write(self, data: bytes, /) -> int | None:
        """Write all or the first bytes of *data*; return how many, None if none for now."""

    def flush(self) -> None:
        """Hand on what was written."""


class Output:
    """A step's standard output: lines of text, and commands to the agent."""

    def __init__(self, stream: ByteStream) -> None:
        self.redactor = Redactor()
        # Re-entrant, because a signal handler may want to say something while a line is printed.
        self.lock = RLock()
        self._stream = stream
        self._is_broken = False

    def clean(self, line: str) -> str:
        """Return *line*, without its break, as it may be printed."""
        return break_markers(self.redactor.redact(strip_controls(line)))

    def clean_text(self, text: str) -> str:
        r"""Return *text* of any number of lines as it may be printed, lines separated by `\n`."""
        return "\n".join(map(self.clean, LINE_BREAK.split(text)))

    def write_lines(self, lines: Iterable[str]) -> None:
        """Print *lines*, each cleaned."""
        with self.lock:
            for line in lines:
                self._write(self.clean(line))

    def write_decorated(self, decoration: str, text: str) -> None:
        """Print *text* as one line behind `##[decoration]`, which the log viewer interprets."""
        with self.lock:
            title = " ".join(map(self.clean, split_lines(text)))
            self._write(f"##[{decoration}]{title}")

    def write_command(self, name: str, properties: Mapping[str, str], message: str) -> None:
        """Give the agent a command, with properties and message exactly as they are."""
        self._write(format_command(name, properties, message))

    def _write(self, line: str) -> None:
        # Undecodable parts of an environment value must not come out as the bytes they were:
        # only what the rules above have looked at may be printed.
        content = f"{line}\n".encode("utf-8", "replace")
        with self.lock:
            if self._is_broken:
                return
            try:
                _write_all(self._stream, content)
            except (OSError, ValueError):  # ValueError: the file is closed
                self._is_broken = True


@final
class LineSink:
    """A writable for the raw output of another program; only whole, cleaned lines come out.

    Give each stream of each program its own. Bytes may arrive in any chunks; what is not UTF-8
    becomes U+FFFD; lines longer than `LONGEST_LINE` continue on a further line, and no cut parts
    a secret. `close` prints what the last line break left over.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._after_cr = False

    def __enter__(self) -> "LineSink":
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def write(self, data: bytes) -> int:
        """Take the next bytes, print the lines they complete, return how many were taken."""
        with self._output.lock:
            self._take(self._decoder.decode(data))
        return len(data)

    def close(self) -> None:
        """Print the unfinished line, if any. Closing twice is allowed."""
        with self._output.lock:
            self._take(self._decoder.decode(b"", final=True))
            self._decoder.reset()
            if self._pending:
                self._output.write_lines([self._pending])
                self._pending = ""

    def _take(self, text: str) -> None:
        if not text:
            return
        if self._after_cr and text.startswith("\n"):  # a CRLF that two chunks share
            text = text[1:]
            self._after_cr = False
            if not text:
                return
        self._after_cr = text.endswith("\r")
        *lines, rest = LINE_BREAK.split(self._pending + text)
        for line in lines:
            self._output.write_lines([self._print_pieces(line)])
        self._pending = self._print_pieces(rest)

    def _print_pieces(self, line: str) -> str:
        """Print what is too long for one line and return the rest."""
        redactor = self._output.redactor
        while len(line) > LONGEST_LINE + redactor.longest:
            end = redactor.end_of_piece(line, LONGEST_LINE)
            self._output.write_lines([line[:end]])
            line = line[end:]
        return line


def standard_output() -> ByteStream:
    """Return this process's standard output, unbuffered: nothing is left to lose at exit."""
    return open(1, "wb", buffering=0, closefd=False)


def _write_all(stream: ByteStream, content: bytes) -> None:
    """Write *content*, waiting as long as the reader is slow.

    A pipe shared with a Node process may be non-blocking: Node makes its own end so, and the flag
    belongs to the pipe, not to the process.
    """
    while content:
        try:
            written = stream.write(content)
        except BlockingIOError as full:
            written = full.characters_written
        if not written:
            _wait_until_writable(stream)
        content = content[written or 0 :]
    while True:
        try:
            return stream.flush()
        except BlockingIOError:
            _wait_until_writable(stream)


def _wait_until_writable(stream: ByteStream) -> None:
    if os.name == "posix":  # elsewhere pipes always block
        select.select([], [stream], [])
