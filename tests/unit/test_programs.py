"""Claims about `signimage.programs`, on real child programs."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from signimage.errors import EngineError
from signimage.programs import (
    ANSWER_MAX,
    Answer,
    ask_program,
    find_program,
    follow_program,
    run_program,
)

PATIENCE_S = 60.0


def script(text: str) -> list[str]:
    return [sys.executable, "-I", "-c", text]


def test_both_streams_arrive_line_by_line_as_they_are() -> None:
    lines: list[bytes] = []
    status = run_program(
        script("import os; os.write(1, b'a\\r\\n\\xff\\n'); os.write(2, b'b\\nend')"),
        {},
        lines.append,
    )
    assert (status, lines) == (0, [b"a\r\n", b"\xff\n", b"b\n", b"end"])


def test_endless_line_arrives_in_parts() -> None:
    lines: list[bytes] = []
    run_program(script("print('x' * 200_000)"), {}, lines.append)
    assert max(map(len, lines)) == 64 * 1024
    assert b"".join(lines) == b"x" * 200_000 + b"\n"


def test_program_gets_the_given_environment_and_no_input() -> None:
    lines: list[bytes] = []
    run_program(
        script("import os, sys; print(sys.stdin.read(), sorted(os.environ))"),
        {"ONLY": "this"},
        lines.append,
    )
    assert b"'ONLY'" in lines[0]
    assert b"PATH" not in lines[0]


def test_status_of_a_program_is_returned() -> None:
    assert run_program(script("raise SystemExit(7)"), {}, print) == 7


def test_program_that_cannot_be_started_is_named() -> None:
    with pytest.raises(EngineError, match=r"^/no/docker cannot be started: no such file"):
        run_program(["/no/docker"], {}, print)


class CancelledError(BaseException):
    """What a signal handler may raise."""


@pytest.mark.parametrize("run", [run_program, follow_program])
@pytest.mark.parametrize("deaf", [False, True])
def test_interruption_ends_the_program_and_all_that_it_started(
    run: Callable[..., object], *, deaf: bool
) -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if deaf else "pass"
    parent = (
        f"import os, signal, subprocess, sys, time; {ignore}\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(os.getpid(), child.pid, flush=True); time.sleep(600)"
    )
    pids: list[int] = []

    def cancel(line: bytes) -> None:
        pids.extend(map(int, line.split()))
        raise CancelledError("by the agent")

    with pytest.raises(CancelledError, match=r"^by the agent$"):
        run(script(parent), dict(os.environ), cancel)
    assert len(pids) == 2
    for pid in pids:
        wait_until_gone(pid)


def wait_until_gone(pid: int) -> None:
    """Return once a process does nothing any more; a zombie waits for its new parent only."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state in "ZX":
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still running")


# --- answers --------------------------------------------------------------------------------

_BOTH = "import os; os.write(1, b'a\\nb\\n'); os.write(2, b'no\\xff'); raise SystemExit(3)"


def test_an_answer_and_a_complaint_are_told_apart() -> None:
    assert ask_program(script(_BOTH), {}, PATIENCE_S) == Answer(3, "a\nb\n", "no\ufffd")


def test_output_can_be_followed_and_a_complaint_kept() -> None:
    lines: list[bytes] = []
    assert follow_program(script(_BOTH), {}, lines.append) == Answer(3, "", "no\ufffd")
    assert lines == [b"a\n", b"b\n"]


def test_of_an_endless_complaint_the_end_is_kept() -> None:
    text = "import sys; sys.stderr.write('x' * 1_000_000 + 'end'); print('ok')"
    answer = ask_program(script(text), {}, PATIENCE_S)
    assert answer.output == "ok\n"
    assert (len(answer.complaint), answer.complaint[-4:]) == (16 * 1024, "xend")


def test_an_answer_has_a_maximum() -> None:
    text = "import sys\nwhile True: sys.stdout.write('x' * 65536)"
    with pytest.raises(EngineError, match=rf": expected at most {ANSWER_MAX} bytes, got more$"):
        ask_program(script(text), {}, PATIENCE_S)


def test_a_program_that_does_not_answer_is_ended_with_all_that_it_started() -> None:
    """Its child as well, which holds the output that we read to its end."""
    text = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "time.sleep(600)"
    )
    with pytest.raises(EngineError, match=r" did not answer within 2 s$"):
        ask_program(script(text), {}, 2.0)


def test_a_program_that_cannot_be_asked_is_named() -> None:
    with pytest.raises(EngineError, match=r"^/no/docker cannot be started: no such file"):
        ask_program(["/no/docker"], {}, PATIENCE_S)


# --- where they are -------------------------------------------------------------------------


def test_a_program_is_found_in_the_first_absolute_folder_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies among the sources would be the sources' own program."""
    for name in ("sources", "first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "docker").write_text("#!/bin/sh\n")
        (tmp_path / name / "docker").chmod(0o755)
    (tmp_path / "first" / "docker").chmod(0o644)
    monkeypatch.chdir(tmp_path / "sources")
    folders = ("", ".", "../sources", str(tmp_path / "first"), str(tmp_path / "second"))
    path = os.pathsep.join(folders)
    assert find_program("docker", {"PATH": path}) == str(tmp_path / "second" / "docker")
    assert find_program("docker", {"PATH": os.pathsep.join(folders[:4])}) == ""
    assert find_program("docker", {}) == ""
