"""Node as the agent runs it: how its output is read, how it is canceled, what it leaves behind.

The rules, each a documented habit of the real agent, but the last:

1. Started by argv, in the folder of the sources, with standard input closed at once.
2. Both streams are read line by line; five seconds after node's end they are dropped.
3. Cancel is SIGINT, then SIGTERM, then SIGKILL, each to node alone and never to its children.
4. The agent would not notice processes that outlive the step. The tests must, so they are
   adopted, written down and ended.
"""

import contextlib
import ctypes
import os
import queue
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

_STREAMS_S = 5.0  # how long streams may stay open after node has ended
_STEP_S = 600.0  # a step that hangs is an error of the tests
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
_ENDED = object()


class AgentError(RuntimeError):
    """The stand-in itself cannot go on: the task's package or the test is at fault."""


class NodeProcess:
    """One run of node: `feed` gets each line; at the first yes of `cancel_when` it is canceled.

    `patience_s` is how long it has after SIGINT and after SIGTERM.
    """

    def __init__(
        self,
        argv: list[str],
        environ: Mapping[str, str],
        folder: Path,
        feed: Callable[[str], None],
        cancel_when: Callable[[str], bool] | None,
        patience_s: tuple[float, float],
    ) -> None:
        self.argv = argv
        self.environ = environ
        self.folder = folder
        self.feed = feed
        self.cancel_when = cancel_when
        self.patience_s = patience_s
        self.canceled = False

    def run(self) -> tuple[int, bool]:
        """Return node's exit code, and whether its streams stayed open behind it."""
        process = subprocess.Popen(
            self.argv,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.close()
        lines: queue.Queue[object] = queue.Queue()
        for stream in (process.stdout, process.stderr):
            threading.Thread(target=_read_lines, args=(stream, lines), daemon=True).start()
        ended = threading.Thread(target=self._wait, args=(process, lines), daemon=True)
        ended.start()
        streams_held = self._consume(process, lines)
        ended.join()
        return process.returncode, streams_held

    def _consume(self, process: subprocess.Popen[bytes], lines: "queue.Queue[object]") -> bool:
        """Feed lines to the record until both streams are at their end, or were open too long."""
        open_streams, deadline = 2, time.monotonic() + _STEP_S
        ended = False
        while open_streams or not ended:
            try:
                line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                if not ended:
                    process.kill()
                    raise AgentError(f"the step still runs after {_STEP_S:.0f} s") from None
                return True
            if isinstance(line, str):
                self._take(process, line)
            elif line is _ENDED:
                ended, deadline = True, time.monotonic() + _STREAMS_S
            else:
                open_streams -= 1
        return False

    def _take(self, process: subprocess.Popen[bytes], line: str) -> None:
        self.feed(line)
        if self.cancel_when and not self.canceled and self.cancel_when(line):
            self.canceled = True
            threading.Thread(target=self._cancel, args=(process,), daemon=True).start()

    def _cancel(self, process: subprocess.Popen[bytes]) -> None:
        for number, patience_s in zip(
            (signal.SIGINT, signal.SIGTERM), self.patience_s, strict=True
        ):
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
                return
        process.kill()

    def _wait(self, process: subprocess.Popen[bytes], lines: "queue.Queue[object]") -> None:
        process.wait()
        lines.put(_ENDED)


def _read_lines(stream: IO[bytes], lines: "queue.Queue[object]") -> None:
    with stream:
        buffered = b""
        while chunk := os.read(stream.fileno(), 65536):
            # As .NET's reader: a lone carriage return ends a line, too.
            *whole, buffered = re.split(rb"\r\n|\n|\r(?!\Z)", buffered + chunk)
            for line in whole:
                lines.put(line.decode("utf-8", "replace"))
        if buffered:
            lines.put(buffered.removesuffix(b"\r").decode("utf-8", "replace"))
    lines.put(None)


@contextlib.contextmanager
def adopted_orphans() -> Iterator[list[str]]:
    """Yield a list that afterwards has the command lines of the orphans, which are then ended.

    While it lasts, processes whose parents have died become this one's children.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    before = _children()
    prctl(_SUBREAPER, 1, 0, 0, 0)
    orphans: list[str] = []
    try:
        yield orphans
    finally:
        # The end of one may orphan the next.
        while remaining := _children() - before:
            before |= remaining
            for pid in remaining:
                _end(pid, orphans)
        prctl(_SUBREAPER, 0, 0, 0, 0)


def _end(pid: int, orphans: list[str]) -> None:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    # A container's shim detaches itself by design, and ends with its container.
    if command and "containerd-shim" not in command and not _ends_soon(pid):
        orphans.append(command)
        os.kill(pid, signal.SIGKILL)
        _ends_soon(pid)
    if _is_zombie(pid):
        os.waitpid(pid, 0)


def _ends_soon(pid: int) -> bool:
    handle = os.pidfd_open(pid)
    try:
        watch = select.poll()
        watch.register(handle, select.POLLIN)
        return bool(watch.poll(1000))
    finally:
        os.close(handle)


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] == "Z"


def _children() -> set[int]:
    children: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        # Threads end while one looks at them; their children are then another thread's.
        with contextlib.suppress(OSError):
            children.update(map(int, (thread / "children").read_text("ascii").split()))
    return children


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of everything below *folder*, by relative path."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        # A folder's own time changes with what is in it, and that is listed by itself.
        stamp = (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
        entries[str(path.relative_to(folder))] = stamp
    return entries


def changes(
    before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]
) -> tuple[str, ...]:
    """Return the paths that came, went or changed between two trees."""
    return tuple(name for name in sorted({*before, *after}) if before.get(name) != after.get(name))
