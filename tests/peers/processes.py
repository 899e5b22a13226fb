"""Long-running programs that the tests start, and the ways to be sure that they end.

1. A process is a pid *and* its start time: a number from a file may belong to a stranger by now.
2. Waiting is on an event (a pidfd), with a deadline; a peer that dies is reported with its log.
3. Unless asked to stay, a process dies with the one that started it, however that one ends.
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Debian keeps dockerd and runc here, and leaves it out of an ordinary user's PATH.
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_LOG_TAIL = 25  # lines
_READY_S = 60.0  # a first start of dockerd on a slow, busy disk takes about ten seconds
_POLL_MS = 50
_TERM_MS = 20_000  # dockerd unmounts and stops containerd first
_KILL_MS = 5_000


class PeerError(RuntimeError):
    """A peer cannot be started, or ended early; the message has the end of its log."""


def program_path(environ: Mapping[str, str]) -> str:
    """Return the PATH to look for programs in: the user's, then the system folders."""
    return f"{environ.get('PATH', os.defpath)}:{_SBIN}"


def find_program(name: str) -> str:
    """Return the absolute path of a program, or raise PeerError naming what installs it."""
    found = shutil.which(name, path=program_path(os.environ))
    if found is None:
        raise PeerError(f"{name}: not installed. Run packaging/setup.sh as root")
    return found


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Tell whether something accepts connections on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Process:
    """One started program: its pid, its start time (clock ticks since boot) and its log file."""

    name: str
    pid: int
    started: int
    log: Path

    @property
    def alive(self) -> bool:
        """Tell whether this very process still runs; a zombie does not."""
        found = _state(self.pid)
        return found is not None and found[1] == self.started and found[0] not in "ZX"

    def wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Return when *ready* says so; raise PeerError if the process ends or time runs out."""
        deadline = time.monotonic() + _READY_S
        while not ready():
            if _ended(self, _POLL_MS):
                _reap(self.pid)
                raise PeerError(f"{self.name} ended before {what}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise PeerError(f"{what}: not within {_READY_S:.0f} s:\n{self.log_tail()}")

    def join(self) -> None:
        """Return when the process has ended by itself; raise PeerError if time runs out."""
        if not _ended(self, int(_READY_S * 1000)):
            raise PeerError(f"{self.name}: expected to end within {_READY_S:.0f} s, still runs")

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return "\n".join(f"  {self.name}: {line}" for line in lines[-_LOG_TAIL:])

    def stop(self) -> None:
        """Ask the process to end, then make it; do nothing if it has already ended."""
        for number, patience_ms in ((signal.SIGTERM, _TERM_MS), (signal.SIGKILL, _KILL_MS)):
            if not self.alive:
                break
            os.kill(self.pid, number)
            _ended(self, patience_ms)
        _reap(self.pid)


def start(name: str, argv: Sequence[str], log: Path, *, stays: bool = False) -> Process:
    """Start a program with its output in *log*; with *stays* it outlives this process."""
    leash = [] if stays else [find_program("setpriv"), "--pdeathsig", "TERM"]
    environ = {**os.environ, "PATH": program_path(os.environ)}
    with log.open("ab") as output:
        child = subprocess.Popen(
            [*leash, find_program(argv[0]), *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            # Ctrl-C is for the tests; they then stop the peers in their own order.
            start_new_session=True,
        )
    # From here on the pid is the identity; Popen would only warn that it lost its child.
    child.returncode = 0
    found = _state(child.pid)
    if found is None:  # somebody else has waited for it
        raise PeerError(f"{name} ended at once:\n{log.read_text('utf-8', 'replace')}")
    return Process(name, child.pid, found[1], log)


def _state(pid: int) -> tuple[str, int] | None:
    """The state of a process, "Z" once it has ended, and its start time; None if there is none."""
    try:
        # The program's name, in parentheses, may itself contain blanks and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], int(fields[19])  # fields 3 and 22 of proc(5)


def _ended(process: Process, patience_ms: int) -> bool:
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        watch = select.poll()
        watch.register(handle, select.POLLIN)
        watch.poll(patience_ms)
    finally:
        os.close(handle)
    return not process.alive


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # another process's child, for instance of an earlier `make stack`
