"""The worker's first lines: every Python is either fit, or turned away in words it understands."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from startup import not_packaged, platform_facts
from task.interpreters import interpreters

ROOT = Path(__file__).resolve().parents[2]
ISOLATED = ("-I", "-S", "-B", "-X", "utf8")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


# The worker's folder is run as the interpreter itself would run it, after a lie about the machine.
APPEARANCE = """
import collections, json, os, pathlib, runpy, sys, traceback
Facts = collections.namedtuple("Facts", "machine")
"""
START = """
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Worker:
    """A worker folder whose `signimage.worker.main` does what the test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "signimage").mkdir(parents=True)
        (folder / "signimage" / "__init__.py").touch()
        for name in ("__main__.py", "startup.py"):
            shutil.copy(ROOT / "pyworker" / name, folder)

    def does(self, body: str) -> None:
        """Make *body* the body of the worker's main function."""
        (self.folder / "signimage" / "worker.py").write_text(f"def main():\n    {body}\n")

    def vendor(self, pythons: list[str], runs_on: dict[str, str]) -> Path:
        """Pack one platform with a library that needs a native module beside it."""
        vendor = self.folder / "vendor"
        bindings = vendor / "common" / "cryptography" / "hazmat" / "bindings"
        bindings.mkdir(parents=True)
        for package in (bindings, bindings.parent, bindings.parent.parent):
            (package / "__init__.py").touch()
        (vendor / "native" / "here").mkdir(parents=True)
        (vendor / "native" / "here" / "native_part.py").write_text("text = 'vendored'\n")
        table = {"pythons": pythons, "platforms": {"here": {"runs_on": runs_on, "wheels": []}}}
        (vendor / "platforms.json").write_text(json.dumps(table))
        return vendor

    def run(self, python: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
        """Start the worker as the shim does."""
        argv = [str(python), *ISOLATED, str(self.folder)]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def run_on(self, lie: str) -> subprocess.CompletedProcess[str]:
        """Start the worker on this machine as the statements in *lie* make it appear."""
        argv = [sys.executable, *ISOLATED, "-c", f"{APPEARANCE}{lie}{START}", str(self.folder)]
        return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path / "pyworker")


def test_a_worker_that_returns_zero_has_done_its_part(worker: Worker) -> None:
    worker.does("print('ran'); return 0")
    done = worker.run()
    assert (done.returncode, done.stdout, done.stderr) == (87, "ran\n", "")


def test_a_worker_that_is_done_is_not_taken_down_piece_by_piece(worker: Worker) -> None:
    """A thread may still be inside of OpenSSL: it would end the process by SIGSEGV."""
    worker.does("import atexit; atexit.register(print, 'taken down'); print('ran'); return 0")
    done = worker.run()
    assert (done.returncode, done.stdout) == (87, "ran\n")


def test_a_worker_that_is_canceled_before_it_listens_has_the_last_word(worker: Worker) -> None:
    worker.does("import os, signal; os.kill(os.getpid(), signal.SIGINT); print('went on')")
    done = worker.run()
    sentence = "The step was canceled. Nothing was pushed or signed."
    assert (done.returncode, done.stderr) == (87, "")
    assert done.stdout.splitlines() == [
        f"##vso[task.logissue type=error;]{sentence}",
        f"##vso[task.complete result=Failed;]{sentence}",
    ]


@pytest.mark.parametrize("body", ["return 2", "return 86", "raise SystemExit(127)"])
def test_no_exit_code_of_a_worker_can_be_taken_for_an_unfit_python(
    worker: Worker, body: str
) -> None:
    """Else the shim would run the step a second time, with the next Python."""
    worker.does(body)
    assert worker.run().returncode == 1


def test_an_error_that_escapes_is_named_without_its_message(worker: Worker) -> None:
    worker.does("raise ValueError('the passphrase is hunter2')")
    done = worker.run()
    assert done.returncode == 1
    assert done.stderr.startswith("SignImage stopped on ValueError (startup.py:")
    assert "worker.py:2" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_a_checkout_uses_what_is_installed_for_the_interpreter(worker: Worker) -> None:
    worker.does("import cryptography; print(cryptography.__file__); return 0")
    done = worker.run()
    assert done.returncode == 87, done.stderr
    assert "site-packages" in done.stdout


def test_a_package_uses_its_own_libraries_and_never_installed_ones(worker: Worker) -> None:
    worker.vendor([HERE], platform_facts())
    worker.does(
        "from cryptography.hazmat.bindings import native_part; print(native_part.text)\n"
        "    import urllib3"
    )
    done = worker.run()
    assert done.stdout == "vendored\n"
    assert done.stderr.startswith("SignImage stopped on ModuleNotFoundError")


def test_nothing_is_written_beside_the_worker(worker: Worker) -> None:
    worker.does("return 0")
    before = sorted(worker.folder.rglob("*"))
    assert worker.run().returncode == 87
    assert sorted(worker.folder.rglob("*")) == before


def test_a_python_without_native_modules_makes_way_for_the_next(worker: Worker) -> None:
    worker.vendor(["3.9"], platform_facts())
    worker.does("print('ran')")
    done = worker.run()
    assert done.returncode == 86
    assert done.stdout == (
        f"##vso[task.debug]{sys.executable}: no native modules for Python {HERE} in the package\n"
    )


def test_a_platform_that_is_not_packaged_fails_the_step_with_one_sentence(worker: Worker) -> None:
    """The right facts and one lie: the machine."""
    worker.vendor([HERE], platform_facts() | {"machine": "vax"})
    worker.does("print('ran')")
    done = worker.run()
    assert done.returncode == 87
    issue, complete = done.stdout.splitlines()
    sentence = not_packaged(platform_facts(), [platform_facts() | {"machine": "vax"}])
    assert issue == f"##vso[task.logissue type=error;]{sentence}"
    assert complete == f"##vso[task.complete result=Failed;]{sentence}"


# Each is this machine with one lie, told by the operating system to a worker that believes it.
MACHINES = {
    "musl: the name is not known": (
        "def refuse(name): raise ValueError(name)\nos.confstr = refuse",
        "linux-x86_64 with musl",
    ),
    "musl: the name has no value": ("os.confstr = lambda name: None", "linux-x86_64 with musl"),
    "macOS on Intel": (
        "sys.platform = 'darwin'\nos.uname = lambda: Facts('x86_64')",
        "macos-x86_64",
    ),
    "Windows on ARM, and a Python for it": (
        "sys.platform = 'win32'\nsys.version = '3.13.1 (main) [MSC v.1942 64 bit (ARM64)]'",
        "win-arm64",
    ),
    "Linux on another machine": ("os.uname = lambda: Facts('riscv64')", "linux-riscv64 with glibc"),
}


@pytest.mark.parametrize(("lie", "described"), MACHINES.values(), ids=MACHINES)
def test_every_platform_without_native_modules_is_told_which_have_some(
    worker: Worker, lie: str, described: str
) -> None:
    vendor = worker.folder / "vendor"
    vendor.mkdir()
    shutil.copy(ROOT / "packaging" / "platforms.json", vendor)
    worker.does("print('ran')")
    done = worker.run_on(f"os.confstr = lambda name: 'glibc 2.36'\n{lie}")
    assert (done.returncode, done.stderr) == (87, "")
    issue, complete = done.stdout.splitlines()
    _, _, sentence = complete.partition("]")
    assert issue == f"##vso[task.logissue type=error;]{sentence}"
    assert sentence == (
        f"SignImage has no native modules for this agent: it is {described}, supported are "
        "linux-x86_64 with glibc, linux-aarch64 with glibc, win-amd64 and macos-arm64. "
        "Nothing was built, pushed or signed; run the step on an agent or in a container of such "
        "a platform, or with a Python of such a platform (pythonPath)."
    )


@pytest.mark.parametrize(
    ("lie", "platform"),
    [
        ("os.uname = lambda: Facts('x86_64')", "linux-x86_64"),
        ("os.uname = lambda: Facts('aarch64')", "linux-aarch64"),
        ("sys.platform = 'darwin'\nos.uname = lambda: Facts('arm64')", "macos-arm64"),
        ("sys.platform = 'win32'\nsys.version = '3.12.1 [MSC v.1937 64 bit (AMD64)]'", "win-amd64"),
    ],
)
def test_every_packaged_platform_finds_its_own_native_modules(
    worker: Worker, lie: str, platform: str
) -> None:
    """The modules are text here: a machine of the other kinds cannot be had, its name can."""
    vendor = worker.vendor([HERE], platform_facts())
    shutil.copy(ROOT / "packaging" / "platforms.json", vendor)
    for name in json.loads((vendor / "platforms.json").read_text("utf-8"))["platforms"]:
        native = vendor / "native" / name
        native.mkdir(parents=True)
        (native / "native_part.py").write_text(f"text = {name!r}\n")
    worker.does(
        "from cryptography.hazmat.bindings import native_part; print(native_part.text); return 0"
    )
    done = worker.run_on(f"os.confstr = lambda name: 'glibc 2.36'\n{lie}")
    assert (done.returncode, done.stdout, done.stderr) == (87, f"{platform}\n", "")


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ("sys.maxsize = 2**31 - 1", "a 32-bit build"),
        ("sys.abiflags = 't'", "a free-threaded build"),
        ("sys.version = '3.14.0 free-threading build [MSC (AMD64)]'", "a free-threaded build"),
        ("sys.implementation.name = 'pypy'", "not CPython but pypy"),
    ],
)
def test_a_build_that_loads_no_native_modules_makes_way_for_the_next(
    worker: Worker, lie: str, reason: str
) -> None:
    worker.vendor([HERE], platform_facts())
    worker.does("print('ran')")
    done = worker.run_on(lie)
    assert (done.returncode, done.stderr) == (86, "")
    assert done.stdout.endswith(f": {reason}\n")


def test_every_older_python_found_is_turned_away_without_a_traceback(worker: Worker) -> None:
    """Those of the 2 series refuse -I before they read a line, with an exit code the shim knows."""
    worker.does("print('ran')")
    for version, program in interpreters().items():
        if version >= (3, 10):
            continue
        done = worker.run(program)
        assert done.returncode == (2 if version < (3, 4) else 86), version
        assert "Traceback" not in done.stderr


def test_every_older_python_found_can_read_the_gate(worker: Worker) -> None:
    """Without any option, so that those of the 2 series get as far as the first line."""
    for version, program in interpreters().items():
        if version >= (3, 10):
            continue
        argv = [str(program), str(worker.folder)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (86, ""), version
        assert done.stdout.startswith("##vso[task.debug]not 3.10 or newer: Python ")


def test_every_newer_python_found_gets_through_the_gate(worker: Worker) -> None:
    worker.does("print('ran'); return 0")
    for version, program in interpreters().items():
        if version >= (3, 10):
            assert worker.run(program).stdout == "ran\n", version
