"""Where the shim looks for a Python on systems that the tests do not run on, and by bare names.

The search runs for real in a process that takes itself for another system: paths keep the form of
this one, because the subject is which files are taken and in which order.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node") or "node"
SEARCH = """
const [system, machine, module] = process.argv.slice(1);
Object.defineProperty(process, 'platform', { value: system });
Object.defineProperty(process, 'arch', { value: machine });
console.log(JSON.stringify([...require(module).candidates(process.env)]));
"""


class Machine:
    """Files in a folder, and what is found among them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, *names: str) -> None:
        """Place empty files; nothing is started here."""
        for name in names:
            file = self.root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    def candidates(
        self, system: str, machine: str, path: tuple[str, ...], **environment: str
    ) -> list[list[str]]:
        """Return the command lines, with paths relative to the folder where they are below it."""
        argv = [NODE, "-e", SEARCH, system, machine, str(ROOT / "task" / "candidates.js")]
        folders = os.pathsep.join(str(self.root / name) if name else "" for name in path)
        done = subprocess.run(
            argv,
            env={"PATH": folders, **environment},
            cwd=self.root,
            capture_output=True,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout)
        return [[word.removeprefix(f"{self.root}/") for word in command] for command in found]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_on_windows_the_launcher_is_last_and_found_on_path_alone(machine: Machine) -> None:
    """By its full name: Windows looks for a bare one among the sources first."""
    machine.has(
        "py.exe",  # in the current folder
        "chosen/python.exe",
        "first/python.exe",
        "windows/py.exe",
        "tools/Python/3.9.13/x64/python.exe",
        "tools/Python/3.9.13/x64.complete",
        "tools/Python/3.13.1/x64/python.exe",
        "tools/Python/3.13.1/x64.complete",
        "tools/Python/3.14.0/x64/python.exe",  # cut short
    )
    environment = {
        "PYTHONLOCATION": str(machine.root / "chosen"),
        "AGENT_TOOLSDIRECTORY": str(machine.root / "tools"),
    }
    assert machine.candidates("win32", "x64", ("", "first", "windows"), **environment) == [
        ["chosen/python.exe"],
        ["first/python.exe"],
        ["tools/Python/3.13.1/x64/python.exe"],
        ["tools/Python/3.9.13/x64/python.exe"],
        ["windows/py.exe", "-3"],
    ]


def test_on_windows_without_a_launcher_none_is_tried(machine: Machine) -> None:
    machine.has("py.exe", "first/python.exe")
    assert machine.candidates("win32", "x64", ("", "first")) == [["first/python.exe"]]


def test_on_macos_the_placeholder_of_the_system_is_passed_over(machine: Machine) -> None:
    """It is older than 3.10, or opens a dialogue and ends as if the worker had crashed."""
    machine.has("homebrew/python3", "homebrew/python3.14")
    for system, taken in (("linux", True), ("darwin", False)):
        found = machine.candidates(system, "arm64", ("homebrew", "/usr/bin"))
        assert [command for command in found if command[0].startswith("homebrew")] == [
            ["homebrew/python3"],
            ["homebrew/python3.14"],
        ]
        assert (["/usr/bin/python3"] in found) is (taken and Path("/usr/bin/python3").exists())


@pytest.mark.parametrize(
    ("system", "file"), [("linux", "mine/python3.12"), ("win32", "mine/python3.12.exe")]
)
def test_an_explicit_python_without_a_folder_is_looked_up_on_path_alone(
    machine: Machine, system: str, file: str
) -> None:
    """Not in the current folder: there the sources lie."""
    chosen = {"INPUT_PYTHONPATH": "python3.12"}
    machine.has("python3.12", "python3.12.exe")
    assert machine.candidates(system, "x64", ("", "mine"), **chosen) == []
    machine.has(file, "later/python3.12", "later/python3.12.exe")
    assert machine.candidates(system, "x64", ("", "mine", "later"), **chosen) == [[file]]


@pytest.mark.parametrize("path", ["bin/python3", "./python3", "/nowhere/python3"])
def test_an_explicit_python_with_a_folder_is_taken_as_it_is(machine: Machine, path: str) -> None:
    assert machine.candidates("linux", "x64", ("bin",), INPUT_PYTHONPATH=path) == [[path]]
