"""What is packaged for machines that the tests cannot run on: right files, right names, all there.

`docs/platforms.md` says which platforms were run. For the others this file is all the evidence.
"""

import json
import re
import struct
import subprocess
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from task.imports import Platform, Walk
from task.interpreters import interpreters
from task.packaged import ROOT, build_vsix, unpack

TABLE = json.loads((ROOT / "packaging" / "platforms.json").read_text("utf-8"))
PYTHONS = [tuple(map(int, text.split("."))) for text in TABLE["pythons"]]
PLATFORMS = [
    Platform(name, entry["runs_on"]["system"], (major, minor))
    for name, entry in TABLE["platforms"].items()
    for major, minor in PYTHONS
]
WORKER = ("startup", "signimage.worker")
# What Windows programs would need to speak to Docker's named pipe by its Python library.
PYWIN32 = {"pywintypes", "win32api", "win32event", "win32file", "win32pipe"}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(build_vsix(), tmp_path_factory.mktemp("platforms") / "task")


@pytest.fixture(scope="module")
def library() -> frozenset[str]:
    """The standard library as far as all fit Pythons of this machine agree on it."""
    tell = "import json, sys; print(json.dumps(sorted(sys.stdlib_module_names)))"
    fit = [program for version, program in interpreters().items() if version in PYTHONS]
    told = [subprocess.run([p, "-c", tell], capture_output=True, check=True) for p in fit]
    return frozenset.intersection(*(frozenset(json.loads(each.stdout)) for each in told))


def walk(task: Path, platform: Platform, library: frozenset[str]) -> Walk:
    worker = task / "pyworker"
    native = worker / "vendor" / "native" / platform.name
    folders = (worker, worker / "vendor" / "common", native)
    own = frozenset({"startup", "signimage", "azure_pipelines_task_lib"})
    return Walk(platform, folders, native, library, own)


def modules(task: Path, platform: str) -> dict[str, bytes]:
    folder = task / "pyworker" / "vendor" / "native" / platform
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- Names and wheels ------------------------------------------------------------------------


def test_the_packaged_table_is_the_projects(task: Path) -> None:
    packaged = task / "pyworker" / "vendor" / "platforms.json"
    assert json.loads(packaged.read_text("utf-8")) == TABLE
    assert list(TABLE["platforms"]) == [
        "linux-x86_64",
        "linux-aarch64",
        "win-amd64",
        "macos-arm64",
    ]
    assert TABLE["pythons"] == ["3.10", "3.11", "3.12", "3.13", "3.14"]


@pytest.mark.parametrize("platform", TABLE["platforms"])
def test_compiled_modules_come_from_wheels_for_their_platform(task: Path, platform: str) -> None:
    files = json.loads((task / "files.json").read_text("utf-8"))["files"]
    prefix = f"pyworker/vendor/native/{platform}/"
    found = {name: entry for name, entry in files.items() if name.startswith(prefix)}
    assert len(found) == len(PYTHONS) + 1
    for entry in found.values():
        (wheel,) = entry["wheels"]
        tags = set(wheel.removesuffix(".whl").split("-")[4].split("."))
        assert tags & set(TABLE["platforms"][platform]["wheels"]), wheel


def test_no_path_is_too_long_or_means_another_on_windows_and_macos(task: Path) -> None:
    """The agent's own folder and the task's GUID take some 100 of the 260 characters."""
    names = [path.relative_to(task).as_posix() for path in task.rglob("*")]
    assert max(map(len, names)) <= 120
    assert len({name.lower() for name in names}) == len(names)
    reserved = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
    for name in names:
        for part in PurePosixPath(name).parts:
            assert not reserved.fullmatch(part), name
            assert re.fullmatch(r"[\w.+-]*[\w+-]", part), name


def test_the_documentation_names_the_platforms_and_no_others() -> None:
    text = (ROOT / "docs" / "platforms.md").read_text("utf-8")
    rows = re.findall(r"(?m)^\| `([\w-]+)` \|", text)
    assert rows == list(TABLE["platforms"])
    assert f"CPython {', '.join(TABLE['pythons'][:-1])} or {TABLE['pythons'][-1]} " in text


# --- What the files are ----------------------------------------------------------------------


@pytest.mark.parametrize(("platform", "machine"), [("linux-x86_64", 0x3E), ("linux-aarch64", 0xB7)])
def test_linux_modules_are_for_their_machine_and_for_a_c_library_of_2014(
    task: Path, platform: str, machine: int
) -> None:
    for name, content in modules(task, platform).items():
        # 64 bits, little-endian, a shared object.
        assert content[:6] == b"\x7fELF\x02\x01", name
        assert struct.unpack_from("<HH", content, 16) == (3, machine), name
        needed = {tuple(map(int, v)) for v in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", content)}
        assert needed, name
        assert max(needed) <= (2, 17), name
        assert b"\0libpython" not in content, name


def test_windows_modules_are_for_their_machine_and_their_python(task: Path) -> None:
    for name, content in modules(task, "win-amd64").items():
        assert content[:2] == b"MZ", name
        (header,) = struct.unpack_from("<I", content, 0x3C)
        assert content[header : header + 4] == b"PE\0\0", name
        (machine,) = struct.unpack_from("<H", content, header + 4)
        assert machine == 0x8664, name
        version = re.fullmatch(r"_cffi_backend\.cp(\d+)-win_amd64\.pyd", name)
        libraries = set(re.findall(rb"\0(python\d+\.dll)\0", content))
        assert libraries == {f"python{version[1] if version else 3}.dll".encode()}, name


def test_macos_modules_are_for_their_machine_signed_and_for_macos_11(task: Path) -> None:
    for name, content in modules(task, "macos-arm64").items():
        magic, machine, _, _, count = struct.unpack_from("<5I", content)
        assert (magic, machine) == (0xFEEDFACF, 0x0100000C), name
        commands, offset = {}, 32
        for _ in range(count):
            kind, size = struct.unpack_from("<2I", content, offset)
            commands[kind] = content[offset : offset + size]
            offset += size
        # LC_BUILD_VERSION: for macOS, from 11.0 on. LC_CODE_SIGNATURE: without it, it is killed.
        platform, oldest = struct.unpack_from("<2I", commands[0x32], 8)
        assert (platform, oldest) == (1, 11 << 16), name
        assert 0x1D in commands, name


# --- What is imported ------------------------------------------------------------------------


@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda p: f"{p.name}-{p.python[1]}")
def test_everything_the_worker_imports_is_there(
    task: Path, platform: Platform, library: frozenset[str]
) -> None:
    found = walk(task, platform, library)
    assert found.missing(*WORKER) == set()
    loaded = found.loaded(*WORKER)
    assert loaded["cryptography.hazmat.bindings._rust"].parent.name == platform.name
    assert loaded["_cffi_backend"].parent.name == platform.name
    assert {"docker", "requests", "structlog", "urllib3"} <= set(loaded)
    # Wished for by the library of Docker, and done without on every platform.
    assert not PYWIN32 & set(loaded)
    assert found.wished(*WORKER) >= PYWIN32


@pytest.mark.parametrize(
    ("lie", "missing"),
    [
        ("import pywintypes\n", "pywintypes"),
        ("import fcntl\n", "fcntl"),
        ("def late():\n    import distutils.core\n", "distutils"),
        ("try:\n    import yaml\nexcept ValueError:\n    pass\n", "yaml"),
        ("import sys\nif sys.platform == 'win32':\n    import colorama\n", "colorama"),
        ("from cryptography import nothing\nimport cryptography.nothing\n", "cryptography.nothing"),
    ],
)
def test_a_module_that_is_not_there_would_be_noticed(
    task: Path, library: frozenset[str], tmp_path: Path, lie: str, missing: str
) -> None:
    """The worker's modules and one lie: a module beside them that imports another."""
    (tmp_path / "startup.py").write_text(lie)
    found = walk(task, Platform("win-amd64", "win32", (3, 13)), library)
    found = replace(found, folders=(tmp_path, *found.folders), files={}, wants={})
    assert missing in found.missing("startup")


def test_a_compiled_module_of_another_python_or_platform_is_not_taken(
    task: Path, library: frozenset[str]
) -> None:
    found = walk(task, Platform("linux-x86_64", "linux", (3, 15)), library)
    assert "_cffi_backend" in found.missing(*WORKER)
    other = walk(task, Platform("win-amd64", "linux", (3, 13)), library)
    assert "cryptography.hazmat.bindings._rust" in other.missing(*WORKER)
