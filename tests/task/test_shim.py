"""The Node shim: which Python it takes, how it starts it, and that exactly one result is reported.

The shim runs for real, beside a worker folder of the test's own: what stands in for a Python here
is a small program, because the subject is what the shim does when one behaves in a certain way.
Whatever Pythons the machine has are found after those, and refuse (the test's worker exits 86).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node") or "node"
UNFIT = "import sys; sys.exit(86)\n"
REPORTED = "; raise SystemExit(87)\n"  # how the worker says that it has reported a result
GOOD = "print('worker ran')" + REPORTED
COMPLETE = re.compile(r"^##vso\[task\.complete result=(\w+);\](.*)$", re.MULTILINE)


class Shim:
    """An unpacked task whose worker is *unfit* for every Python, and what may be found first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.log = folder / "order.txt"
        self.environment = {"PATH": str(self.bin)}
        shutil.copytree(ROOT / "task", folder / "task")
        (folder / "pyworker").mkdir()
        (folder / "pyworker" / "__main__.py").write_text(UNFIT)

    def python(self, path: str, body: str = UNFIT) -> Path:
        """Place a program at *path* that notes its turn and then does *body*."""
        program = self.folder / path
        program.parent.mkdir(parents=True, exist_ok=True)
        note = f"open({str(self.log)!r}, 'a').write({path!r} + '\\n')\n"
        program.write_text(f"#!{sys.executable}\n{note}{body}")
        program.chmod(0o755)
        return program

    def order(self) -> list[str]:
        """Return the programs in the order of their turns."""
        return self.log.read_text().splitlines()

    def start(self, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start the shim as an agent does: by argv, with exactly this environment."""
        return subprocess.Popen(
            [NODE, str(self.folder / "task" / "index.js")],
            env={**self.environment, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, environment: Mapping[str, str] | None = None) -> str:
        """Run the shim to its end, and return its standard output; it always exits with 0."""
        with self.start(environment) as process:
            output, errors = process.communicate()
        assert process.returncode == 0, errors
        return output


@pytest.fixture
def shim(tmp_path: Path) -> Shim:
    return Shim(tmp_path)


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    """Collect processes to be ended even if the test fails half-way."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def result(output: str) -> tuple[str, str]:
    """Return the one result of the step, and its sentence."""
    (found,) = COMPLETE.findall(output)
    return str(found[0]), str(found[1])


def test_a_worker_that_ran_has_reported_its_own_result(shim: Shim) -> None:
    shim.python("bin/python3", GOOD)
    assert shim.run() == "worker ran\n"


def test_the_worker_is_started_isolated_and_by_its_folder(shim: Shim) -> None:
    shim.python("bin/python3", "import sys; print('\\n'.join(sys.argv[1:]))" + REPORTED)
    worker = os.path.realpath(shim.folder / "pyworker")
    *seen, parent = shim.run().splitlines()
    assert seen == ["-I", "-S", "-B", "-X", "utf8", worker]
    assert parent.isdecimal()


def test_names_with_hyphens_and_dots_reach_the_worker(shim: Shim) -> None:
    """Endpoints and secure files arrive in such; a shell on the way would drop them."""
    names = {
        "ENDPOINT_AUTH_5f0c5f7e-3a4b-4c1d-9e2f-000000000001": '{"scheme":"UsernamePassword"}',
        "SECUREFILE_TICKET_0d4b-11": "Grüße %;]\"'\\",
        "agent.jobstatus": "Succeeded",
    }
    shim.python("bin/python3", "import json, os; print(json.dumps(dict(os.environ)))" + REPORTED)
    seen = json.loads(shim.run(names))
    assert {name: seen.get(name) for name in names} == names


def test_the_worker_reads_no_input(shim: Shim) -> None:
    """The shim's own input stays open here; the worker's is at its end at once."""
    shim.python("bin/python3", "import sys; print(len(sys.stdin.read()))" + REPORTED)
    with shim.start() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        process.communicate()


def test_the_working_folder_is_passed_on(shim: Shim) -> None:
    shim.python("bin/python3", "import os; print(os.getcwd())" + REPORTED)
    argv = [NODE, str(shim.folder / "task" / "index.js")]
    done = subprocess.run(
        argv, env=shim.environment, cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout == "/\n"


def test_both_streams_of_the_worker_are_those_of_the_step(shim: Shim) -> None:
    shim.python("bin/python3", "import sys; print('out'); print('err', file=sys.stderr)" + REPORTED)
    with shim.start() as process:
        assert process.communicate() == ("out\n", "err\n")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (UNFIT, "the worker refuses it"),
        ("pass\n", "a program that runs no worker and is content"),
        ("import sys; sys.exit(2)\n", "a Python 2 that does not know -I"),
        ("import sys; sys.exit(127)\n", "a version manager with nothing behind it"),
    ],
)
def test_an_unfit_python_is_passed_over(shim: Shim, body: str, what: str) -> None:
    shim.python("bin/python3", body)
    shim.python("bin/python", GOOD)
    assert shim.run() == "worker ran\n", what
    assert shim.order() == ["bin/python3", "bin/python"]


def test_a_python_that_cannot_be_started_is_passed_over(shim: Shim) -> None:
    shim.python("bin/python3").chmod(0o644)
    shim.python("bin/python", GOOD)
    assert shim.run() == "worker ran\n"


def test_a_python_whose_interpreter_is_gone_is_passed_over(shim: Shim) -> None:
    shim.python("bin/python3").write_text("#!/nowhere/python3\n")
    shim.python("bin/python", GOOD)
    assert shim.run() == "worker ran\n"


def test_pythons_are_tried_from_the_chosen_one_to_the_usual_places(shim: Shim) -> None:
    for path in (
        "chosen/bin/python3",
        "bin/python3",
        "bin/python3.9",
        "bin/python3.10",
        "bin/python3.12",
        "bin/python3.12-config",
        "bin/python",
        "later/python3",
        "tools/Python/3.9.18/x64/bin/python3",
        "tools/Python/3.10.4/x64/bin/python3",
        "tools/Python/3.12.1/x64/bin/python3",
        "tools/Python/3.13.0/x64/bin/python3",
    ):
        shim.python(path.replace("x64", tool_arch()))
    for version in ("3.9.18", "3.10.4", "3.12.1"):
        shim.folder.joinpath(f"tools/Python/{version}/{tool_arch()}.complete").touch()
    shim.run(
        {
            "PYTHONLOCATION": str(shim.folder / "chosen"),
            "PATH": f"{shim.bin}{os.pathsep}{shim.folder / 'later'}",
            "AGENT_TOOLSDIRECTORY": str(shim.folder / "tools"),
        }
    )
    assert shim.order() == [
        "chosen/bin/python3",
        "bin/python3",
        "later/python3",
        "bin/python3.12",
        "bin/python3.10",
        "bin/python",
        f"tools/Python/3.12.1/{tool_arch()}/bin/python3",
        f"tools/Python/3.10.4/{tool_arch()}/bin/python3",
        f"tools/Python/3.9.18/{tool_arch()}/bin/python3",
    ]


def tool_arch() -> str:
    """Return the architecture as the tool cache spells it, which is as Node does."""
    argv = [NODE, "-p", "process.arch"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_one_python_under_two_names_is_tried_once(shim: Shim) -> None:
    shim.python("bin/python3")
    (shim.bin / "python").symlink_to("python3")
    shim.run()
    assert shim.order() == ["bin/python3"]


def test_the_folder_of_the_sources_is_never_searched(shim: Shim) -> None:
    """An empty or relative entry of PATH would run a python3 that lies in the repository."""
    shim.python("sources/python3", GOOD)
    argv = [NODE, str(shim.folder / "task" / "index.js")]
    done = subprocess.run(
        argv,
        env={"PATH": os.pathsep.join(["", ".", str(shim.bin)])},
        cwd=shim.folder / "sources",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "worker ran" not in done.stdout


def test_without_a_usable_python_one_sentence_says_what_was_tried_and_what_to_do(
    shim: Shim,
) -> None:
    tried = shim.python("bin/python3")
    output = shim.run()
    verdict, sentence = result(output)
    assert verdict == "Failed"
    assert sentence.startswith("SignImage needs 64-bit CPython 3.10 or newer, and none was found.")
    assert f"Tried: {tried} (unsuitable)" in sentence
    assert sentence.endswith(
        "Install Python on the agent, add UsePythonVersion@0 before this step, "
        "or set the input pythonPath."
    )
    assert output.count("##vso[") == 2
    assert f"##vso[task.logissue type=error;]{sentence}\n" in output


def test_an_explicit_python_is_used_and_no_other(shim: Shim) -> None:
    shim.python("bin/python3", GOOD)
    chosen = shim.python("mine/python", "print('mine ran')" + REPORTED)
    assert shim.run({"INPUT_PYTHONPATH": f" {chosen} "}) == "mine ran\n"


def test_an_explicit_python_that_is_not_there_has_no_substitute(shim: Shim) -> None:
    shim.python("bin/python3", GOOD)
    verdict, sentence = result(shim.run({"INPUT_PYTHONPATH": "/nowhere/python3"}))
    assert verdict == "Failed"
    assert ", and the input pythonPath gives none. Tried: /nowhere/python3 (not found)." in sentence
    assert "Correct the input pythonPath or leave it empty." in sentence


def test_what_an_input_says_cannot_end_or_forge_a_command(shim: Shim) -> None:
    evil = "/no%/];\r\n##vso[task.complete result=Succeeded;]done"
    output = shim.run({"INPUT_PYTHONPATH": evil})
    verdict, sentence = result(output)
    assert verdict == "Failed"
    assert "/no%AZP25/%5D%3B%0D%0A##vso[task.complete result=Succeeded%3B%5Ddone" in sentence
    assert all(line.startswith("##vso[task.") for line in output.splitlines())


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("import sys; sys.exit(1)\n", "exit code 1"),
        ("import sys; sys.exit(3)\n", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)\n", "signal SIGKILL"),
        ("import os; os.abort()\n", "signal SIGABRT"),
    ],
)
def test_a_worker_that_crashed_is_reported_and_not_run_again(
    shim: Shim, body: str, how: str
) -> None:
    shim.python("bin/python3", body)
    shim.python("bin/python", GOOD)
    output = shim.run()
    verdict, sentence = result(output)
    assert verdict == "Failed"
    assert sentence.startswith(f"The worker ended unexpectedly ({how}). ")
    assert sentence.endswith("is not known. The step can be run again.")
    assert shim.order() == ["bin/python3"]


# The handler writes by os.write: the signal may come while the main program is still in print().
WAITING = """
import os, signal
def stop(number, frame):
    os.write(1, f'got {signal.Signals(number).name}\\n'.encode())
    os._exit(87)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
print('ready', flush=True)
while True:
    signal.pause()
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_worker_which_has_the_last_word(
    shim: Shim, running: list[subprocess.Popen[str]], sent: signal.Signals
) -> None:
    shim.python("bin/python3", WAITING)
    process = shim.start()
    running.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(sent)
    assert process.communicate()[0] == f"got {sent.name}\n"
    assert process.returncode == 0


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_that_dies_of_the_signal_leaves_a_failed_step(
    shim: Shim, running: list[subprocess.Popen[str]], sent: signal.Signals
) -> None:
    default = "import signal\nfor s in (2, 15): signal.signal(s, signal.SIG_DFL)\n"
    shim.python("bin/python3", default + "print('ready', flush=True)\nsignal.pause()\n")
    shim.python("bin/python", GOOD)
    process = shim.start()
    running.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(sent)
    output = process.communicate()[0]
    verdict, sentence = result(output)
    assert verdict == "Failed"
    assert sentence == (
        "The step was canceled before the worker could report. What it had pushed or signed by "
        "then is not known. The step can be run again."
    )
    assert process.returncode == 0
    assert shim.order() == ["bin/python3"]


def test_a_worker_that_was_killed_after_a_cancel_leaves_nothing(
    shim: Shim, running: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    temp = tmp_path / "temp"
    (temp / "signimage-ab12").mkdir(parents=True)
    ending = "import os, signal\nsignal.signal(2, lambda *_: os.kill(os.getpid(), 9))\n"
    shim.python("bin/python3", ending + "print('ready', flush=True)\nsignal.pause()\n")
    process = shim.start({"AGENT_TEMPDIRECTORY": str(temp)})
    running.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert result(process.communicate()[0])[0] == "Failed"
    assert list(temp.iterdir()) == []


def clean(temp: Path | None) -> str:
    """Run the post-job script for the temporary folder *temp*; it always exits with 0."""
    environment = {"PATH": os.defpath}
    if temp is not None:
        environment["AGENT_TEMPDIRECTORY"] = str(temp)
    argv = [NODE, str(ROOT / "task" / "cleanup.js")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_what_a_killed_step_left_behind_is_removed(tmp_path: Path) -> None:
    key = tmp_path / "signimage-ab12" / "trust" / "private" / "key.key"
    key.parent.mkdir(parents=True)
    key.write_text("secret")
    (tmp_path / "other-step").mkdir()
    (tmp_path / "signimage-notes.txt").write_text("a file of somebody else's")
    assert clean(tmp_path) == ""
    assert {path.name for path in tmp_path.iterdir()} == {"other-step", "signimage-notes.txt"}


def test_a_program_of_a_killed_worker_is_ended(
    tmp_path: Path, running: list[subprocess.Popen[str]]
) -> None:
    own = tmp_path / "signimage-1" / "docker-config-2"
    own.mkdir(parents=True)
    for folder in (own, tmp_path / "docker"):
        environment = {"DOCKER_CONFIG": str(folder)}
        running.append(subprocess.Popen(["/bin/sleep", "600"], env=environment, text=True))
    assert clean(tmp_path) == ""
    assert running[0].wait(30) == -signal.SIGKILL
    assert running[1].poll() is None
    assert not own.exists()


def test_cleaning_follows_no_links(tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "file"
    kept.parent.mkdir()
    kept.touch()
    temp = tmp_path / "temp"
    (temp / "signimage-ab12").mkdir(parents=True)
    (temp / "signimage-ab12" / "inside").symlink_to(kept.parent)
    (temp / "signimage-link").symlink_to(kept.parent)
    assert clean(temp) == ""
    assert kept.exists()
    assert [path.name for path in temp.iterdir()] == ["signimage-link"]


def test_cleaning_without_a_temporary_folder_does_nothing(tmp_path: Path) -> None:
    assert clean(None) == ""
    assert clean(tmp_path / "gone") == ""
