"""Steps and peers that are killed at a moment of a test's choice, and what must hold afterwards.

The rules:

1. Killed is killed: SIGKILL, so nothing is finished, put back or said.
2. A peer that was killed comes back as under a supervisor: same address, same data.
3. Of what is left, the registry is asked before the trust server: what it shows was signed before
   that, whatever may still be on its way.
"""

import json
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from peers.processes import Process, find_program, start
from task.agent import Step
from task.agent_model import Masker, Record
from task.pipeline import Job, Owner

_STEP_S = 300.0  # a step that hangs is an error
_GLANCE_S = 0.001  # between looks at what a step has said
_SAID_MAX = 1_000_000  # bytes
_STREAMS_S = 5.0  # how long the agent waits for those who hold a step's streams open
_ENDING_S = 1.0  # how long a process that was killed may still be seen


# --- steps ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a step: its result and sentence, and the digest that it says it signed."""

    result: str
    message: str
    digest: str
    said: str = field(repr=False)
    survivors: tuple[str, ...]  # command lines of its processes that outlived the clean-up


class Run:
    """A step at work, started as the agent starts it; here its processes are known by number."""

    def __init__(self, job: Job, step: Step) -> None:
        self._job = job
        self._definition = json.loads((job.task / "task.json").read_text("utf-8"))
        self._environ = job.agent.environment(self._definition, step, {})
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by `end`
        self._begun = time.monotonic()
        self._node = self._start("execution")

    def parts(self) -> dict[str, float]:
        """Let the step end; gives how many seconds each part of it took, by the log's groups.

        What comes before the first of them is the part with the empty name.
        """
        begun = {"": self._begun}
        while not self._is_over():
            for part in self._groups() - begun.keys():
                begun[part] = time.monotonic()
        ends = [*list(begun.values())[1:], time.monotonic()]
        return {part: end - begun[part] for part, end in zip(begun, ends, strict=True)}

    def is_over_before(self, part: str, delay_s: float) -> bool:
        """Wait for *part* to begin, and so long; tell whether the step has ended by then."""
        while part and part not in self._groups():
            if self._is_over():
                return True
        end = time.monotonic() + delay_s
        while (left_s := end - time.monotonic()) > 0:
            if self._is_over(min(left_s, _GLANCE_S)):
                return True
        return False

    def _is_over(self, within_s: float = _GLANCE_S) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._node.wait(within_s)
        return self._node.returncode is not None

    def _groups(self) -> set[str]:
        # Read beside the writers, whose place in the file is not to change.
        said = os.pread(self._output.fileno(), _SAID_MAX, 0)
        return {name.decode() for name in re.findall(rb"(?m)^##\[group\](\w+)\n", said)}

    def kill_node(self) -> None:
        """End node alone, as the agent's last resort does."""
        self._node.kill()

    def kill_worker(self) -> None:
        """End the worker alone; nothing is done if there is none yet, or none any more."""
        for thread in Path(f"/proc/{self._node.pid}/task").iterdir():
            with suppress(OSError):
                for child in (thread / "children").read_text("ascii").split():
                    os.kill(int(child), signal.SIGKILL)

    def end(self) -> Ending:
        """Wait for the end of the step, and clean up as the agent does after the job."""
        code = self._node.wait(_STEP_S)
        _wait_for(self._processes(), _STREAMS_S)
        cleaned = self._start("postjobexecution").wait(_STEP_S)
        survivors = _wait_for(self._processes(), _ENDING_S)
        with self._output as output:
            output.seek(0)
            said = output.read().decode("utf-8", "replace")
        assert cleaned == 0, said
        record = Record(Masker(), output_names=frozenset({"digest"}))
        for line in said.splitlines():
            record.feed(line)
        return Ending(
            (record.result or "Succeeded") if code == 0 else "Failed",
            record.message,
            record.outputs.get("digest", ""),
            said,
            tuple(survivors),
        )

    def _start(self, phase: str) -> subprocess.Popen[bytes]:
        target = self._definition[phase]["Node20_1"]["target"]
        return subprocess.Popen(
            [find_program("node"), str(self._job.task / target)],
            cwd=self._job.agent.sources,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    def _processes(self) -> Iterator[int]:
        """Whoever has a folder of the job's agent in its environment, as all have."""
        mark = os.fsencode(self._job.agent.folder)
        for number in (name.name for name in Path("/proc").iterdir() if name.name.isdecimal()):
            with suppress(OSError):
                if mark in Path(f"/proc/{number}/environ").read_bytes():
                    yield int(number)


def _wait_for(processes: Iterable[int], patience_s: float) -> list[str]:
    """Wait for the end of *processes*; gives the command lines of those that go on."""
    end = time.monotonic() + patience_s
    remaining = []
    for number in processes:
        with suppress(OSError):  # it has just ended
            command = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            handle = os.pidfd_open(number)
            try:
                watch = select.poll()
                watch.register(handle, select.POLLIN)
                if not watch.poll(max(0.0, end - time.monotonic()) * 1000):
                    remaining.append(command)
            finally:
                os.close(handle)
    return remaining


# --- peers ----------------------------------------------------------------------------------


class Peer:
    """A peer that is killed, and comes back with the same arguments."""

    def __init__(self, pid: int, log: Path, ready: Callable[[], bool]) -> None:
        self._pid = pid
        self._log = log
        self._ready = ready
        self._again: Process | None = None
        place = Path(f"/proc/{pid}")
        variables = os.fsdecode((place / "environ").read_bytes()).split("\0")
        path = next(each for each in variables if each.startswith("PATH="))
        argv = os.fsdecode((place / "cmdline").read_bytes()).removesuffix("\0").split("\0")
        self._argv = ["env", path, *argv]

    def kill(self) -> None:
        """End it without warning."""
        os.kill(self._pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self._pid = 0

    def start(self) -> None:
        """Start it again, if it does not run; return when it answers."""
        if not self._pid:
            self._again = start(self._log.stem, self._argv, self._log)
            self._pid = self._again.pid
            self._again.wait_until(self._ready, f"{self._again.name} answers again")

    def stop(self) -> None:
        """End what was started again."""
        if self._again:
            self._again.stop()


# --- what must hold -------------------------------------------------------------------------


@dataclass(slots=True)
class Books:
    """What registry and trust server were ever seen to say of a job's repository.

    Attributes:
        visitor: Makes somebody who was never there.
        signed: Every tag with every digest that was ever signed for it.
        now: What was signed for each tag when they were last asked.
        tags: What the registry's tags were then.
    """

    job: Job
    visitor: Callable[[], Owner]
    signed: set[tuple[str, str]] = field(default_factory=set)
    now: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def look(self) -> dict[str, str]:
        """Ask both; gives the registry's tags with what no signature ever covered.

        Nothing that was signed may be gone, or be again what it was once.
        """
        self.tags = self.job.pushed()
        found = self.visitor().inspected(self.job.gun)
        trusted = {tag: digest for tag, (digest, _) in found.items()}
        lost = self.now.keys() - trusted.keys()
        undone = {
            tag: digest
            for tag, digest in trusted.items()
            if digest != self.now.get(tag) and (tag, digest) in self.signed
        }
        assert (lost, undone) == (set(), {})
        self.now = trusted
        self.signed.update(trusted.items())
        return {
            tag: digest for tag, digest in self.tags.items() if (tag, digest) not in self.signed
        }

    def check_agreement(self, ending: Ending, *tags: str) -> None:
        """Registry, trust server and the step itself say the same of *tags*."""
        assert ending.result == "Succeeded", ending.said
        assert {tag: self.tags.get(tag) for tag in tags} == dict.fromkeys(tags, ending.digest)
        assert {tag: self.now.get(tag) for tag in tags} == dict.fromkeys(tags, ending.digest)
