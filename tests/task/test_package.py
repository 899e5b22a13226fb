"""The extension as it ships: what is in it, that it is the same each time, and that it runs."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import build_vsix as packaging
import pytest

from task.interpreters import interpreters
from task.packaged import ROOT, build_vsix, unpack

SIZE_LIMIT = 25 * 1024 * 1024  # bytes; the strictest server that is still in use
OVERVIEW = (ROOT / "overview.md").read_text("utf-8")

# Runs the package's own way to its libraries, then lets the compiled modules work.
SIGN = """
import json, sys
sys.path.insert(0, sys.argv[1])
import startup
assert startup.use_vendored() is None
import docker, requests, structlog, urllib3
import signimage.worker
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP256R1())
signature = key.sign(b"image", ec.ECDSA(hashes.SHA256()))
key.public_key().verify(signature, b"image", ec.ECDSA(hashes.SHA256()))
files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
print(json.dumps(sorted(file for file in files if file)))
"""


@pytest.fixture(scope="module")
def vsix() -> Path:
    return build_vsix()


@pytest.fixture(scope="module")
def names(vsix: Path) -> list[str]:
    with zipfile.ZipFile(vsix) as archive:
        return archive.namelist()


@pytest.fixture
def task(vsix: Path, tmp_path: Path) -> Path:
    return unpack(vsix, tmp_path / "_tasks" / "SignImage_1" / "1.0.0", read_only=True)


def test_the_top_of_the_package_is_what_the_marketplace_expects(names: list[str]) -> None:
    top = {name for name in names if not name.startswith("SignImage/")}
    assert top == {
        "[Content_Types].xml",
        "LICENSE.txt",
        "extension.vsixmanifest",
        "extension.vsomanifest",
        "icons/extension.png",
        "overview.md",
        *(f"images/{name}" for name in re.findall(r"\(images/(\S+)\)", OVERVIEW)),
    }


def test_the_task_is_all_there_and_nothing_else(names: list[str]) -> None:
    """Beside the worker and its libraries there are only the files named here."""
    task = {name.removeprefix("SignImage/") for name in names if name.startswith("SignImage/")}
    assert {name for name in task if not name.startswith("pyworker/")} == {
        "LICENSE.txt",
        "files.json",
        "icon.png",
        "sbom.cdx.json",
        "Strings/resources.resjson/en-US/resources.resjson",
        "task.json",
        "task.loc.json",
        "task/candidates.js",
        "task/cleanup.js",
        "task/leftovers.js",
        "task/index.js",
        "task/package.json",
    }
    worker = {p.relative_to(ROOT).as_posix() for p in (ROOT / "pyworker").rglob("*.py")}
    assert {n for n in task if n.startswith("pyworker/") and "/vendor/" not in n} == worker


def test_no_left_overs_of_development_are_packed(names: list[str]) -> None:
    for name in names:
        parts = PurePosixPath(name).parts
        assert not any(part.startswith(".") for part in parts), name
        assert not {"__pycache__", "tests", "test", "node_modules"} & set(parts), name
        assert not name.endswith((".pyc", ".pyi", ".dist-info", ".whl")), name


def test_every_file_of_the_task_is_listed_with_its_hash(task: Path) -> None:
    listed = json.loads((task / "files.json").read_text("utf-8"))["files"]
    found = {
        path.relative_to(task).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in task.rglob("*")
        if path.is_file() and path != task / "files.json"
    }
    assert found == {name: entry["sha256"] for name, entry in listed.items()}


def test_every_vendored_file_stands_so_in_each_of_its_wheels(task: Path) -> None:
    """And the wheels are those that are pinned; only three files beside them are the project's."""
    listing = json.loads((task / "files.json").read_text("utf-8"))
    contents = wheel_contents(listing["wheels"])
    pins = (ROOT / "requirements" / "runtime.txt").read_text("utf-8")
    assert all(f"--hash=sha256:{digest}" in pins for digest in listing["wheels"].values())
    ours = set()
    for name, entry in listing["files"].items():
        if name.startswith("pyworker/vendor/"):
            for wheel in entry.get("wheels", []):
                assert entry["sha256"] in contents[wheel], (name, wheel)
            if "wheels" not in entry:
                ours.add(name.removeprefix("pyworker/vendor/"))
        else:
            assert set(entry) == {"sha256"}, name
    assert ours == {"platforms.json", "licenses/libffi/LICENSE"}
    named = [wheel for entry in listing["files"].values() for wheel in entry.get("wheels", [])]
    assert set(named) == set(listing["wheels"])


def wheel_contents(wheels: dict[str, str]) -> dict[str, set[str]]:
    """Return the hashes of the files in each of these wheels, which are found by their hash."""
    found = {}
    for path in packaging.CACHE.rglob("*.whl"):
        content = path.read_bytes()
        if wheels.get(path.name) == hashlib.sha256(content).hexdigest():
            with zipfile.ZipFile(path) as archive:
                members = map(archive.read, archive.namelist())
                found[path.name] = {hashlib.sha256(member).hexdigest() for member in members}
    return found


def test_every_packaged_library_brings_its_licence(task: Path) -> None:
    """That of libffi too, which is compiled into the modules of cffi."""
    vendor = task / "pyworker" / "vendor"
    licensed = {path.name.replace("-", "_") for path in (vendor / "licenses").iterdir()}
    libraries = {p.stem for p in (vendor / "common").iterdir()} | {"cffi", "libffi"}
    assert licensed == libraries


def test_every_platform_has_compiled_modules_for_every_python(task: Path) -> None:
    vendor = task / "pyworker" / "vendor"
    table = json.loads((vendor / "platforms.json").read_text("utf-8"))
    assert {path.name for path in (vendor / "native").iterdir()} == set(table["platforms"])
    for platform in table["platforms"]:
        modules = [path.name for path in (vendor / "native" / platform).iterdir()]
        assert len(modules) == len(table["pythons"]) + 1, modules
        for python in table["pythons"]:
            digits = python.replace(".", "")
            assert any(f"cp{digits}-" in m or f"-{digits}-" in m for m in modules), python


def test_every_python_found_can_sign_with_the_packaged_libraries(task: Path) -> None:
    """Isolated, without site-packages, and leaving nothing behind in the folder."""
    before = sorted(task.rglob("*"))
    fit = {v: p for v, p in interpreters().items() if (3, 10) <= v <= (3, 14)}
    assert sys.version_info[:2] in fit
    for version, program in fit.items():
        argv = [str(program), "-I", "-S", "-B", "-c", SIGN, str(task / "pyworker")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (version, done.stderr)
        files = [Path(file) for file in json.loads(done.stdout)]
        assert task / "pyworker/vendor/common/cryptography/__init__.py" in files
        assert task / "pyworker/signimage/worker.py" in files
        assert not [file for file in files if "site-packages" in file.parts]
    assert sorted(task.rglob("*")) == before


def test_building_elsewhere_gives_the_same_bytes(vsix: Path, tmp_path: Path) -> None:
    """Another folder, Python, time zone, language, mask of modes, and dates of all files."""
    copy = tmp_path / "another place ü"
    for name in ("LICENSE", "overview.md", "task.json", "vss-extension.json"):
        packaging.copy(ROOT / name, copy / name)
    for name in ("icons", "images", "packaging", "pyworker", "requirements", "task"):
        left_out = shutil.ignore_patterns("node_modules", "__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=left_out, copy_function=shutil.copyfile)
    # What was downloaded is the same, by hash.
    (copy / "packaging" / "node_modules").symlink_to(ROOT / "packaging" / "node_modules")
    (copy / ".cache").symlink_to(ROOT / ".cache")
    others = {v: p for v, p in interpreters().items() if v >= (3, 10)}
    others.pop(sys.version_info[:2])
    python = next(iter(others.values()), sys.executable)
    argv = [str(python), "-B", str(copy / "packaging" / "build_vsix.py")]
    environment = {"PATH": os.environ["PATH"], "TZ": "Pacific/Chatham", "LC_ALL": "C"}
    subprocess.run(argv, cwd=tmp_path, env=environment, umask=0o077, check=True)
    (again,) = (copy / "dist").iterdir()
    assert again.name == vsix.name
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(vsix.read_bytes()).digest()


def test_the_archive_keeps_no_date_mode_or_system(vsix: Path) -> None:
    with zipfile.ZipFile(vsix) as archive:
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert (entry.external_attr, entry.create_system) == (0, 0)


def test_the_package_is_small_enough_for_every_server(vsix: Path) -> None:
    assert vsix.stat().st_size < SIZE_LIMIT


def test_a_task_json_that_the_packer_only_warns_of_stops_the_build(tmp_path: Path) -> None:
    """Good files and one lie: the name of the task has a blank."""
    staged = tmp_path / "stage"
    for name in ("vss-extension.json", "overview.md", "icons/extension.png", "images/step-log.png"):
        packaging.copy(ROOT / name, staged / name)
    packaging.copy(ROOT / "overview.md", staged / "LICENSE.txt")
    packaging.copy(ROOT / "icons/task.png", staged / "SignImage" / "icon.png")
    for source in (ROOT / "task").iterdir():
        packaging.copy(source, staged / "SignImage" / "task" / source.name)
    lie = (ROOT / "task.json").read_text("utf-8").replace('"SignImage",', '"Sign Image",', 1)
    (staged / "SignImage" / "task.json").write_text(lie, "utf-8")
    packaging.install_tfx()
    with pytest.raises(packaging.PackagingError, match="name"):
        packaging.pack(staged, tmp_path / "packed.vsix")
