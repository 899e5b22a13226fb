"""What is published: versions agree, the wheel works where nothing else is, every part is listed.

A release names its wheel in `SIGNIMAGE_WHEEL`, and these tests judge that one.
"""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import release
from build_vsix import PackagingError

from task.empty_environment import PIP, EmptyEnvironment
from task.packaged import ROOT, build_vsix


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get(release.WHEEL_VARIABLE):
        return Path(given)
    return release.build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is listed of the extension."""
    folder = tmp_path_factory.mktemp("lists")
    release.write_lists(build_vsix(), folder)
    return folder


# --- Versions --------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with copies of the files that state a version."""
    for name in release.stated_versions(ROOT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_project_states_one_version(copy: Path) -> None:
    stated = release.stated_versions(ROOT)
    assert release.agreed_version(copy) == stated["task.json"]
    assert set(stated) == {
        "pyworker/signimage/__init__.py",
        "task.json",
        "vss-extension.json",
        "CHANGELOG.md",
    }


@pytest.mark.parametrize("name", ["task.json", "vss-extension.json", "CHANGELOG.md"])
def test_a_file_that_lags_behind_is_named(copy: Path, name: str) -> None:
    file = copy / name
    version = release.agreed_version(copy)
    lie = {
        "task.json": (r'"Patch": \d+', '"Patch": 99'),
        "vss-extension.json": (rf'"version": "{version}"', '"version": "9.9.9"'),
        "CHANGELOG.md": (rf"## \[{version}\]", "## [9.9.9]"),
    }[name]
    file.write_text(re.sub(*lie, file.read_text("utf-8"), count=1), "utf-8")
    with pytest.raises(
        PackagingError,
        match=rf"^{name}: expected version {version} as in pyworker/signimage/__init__\.py, got ",
    ):
        release.agreed_version(copy)


def test_a_package_that_states_no_version_is_named(copy: Path) -> None:
    (copy / release.SOURCE).write_text("", "utf-8")
    with pytest.raises(PackagingError, match=r"^pyworker/signimage/__init__\.py: .*got none$"):
        release.agreed_version(copy)


# --- The wheel -------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    version = release.agreed_version(ROOT)
    assert wheel.name == f"signimage-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    about = f"signimage-{version}.dist-info/"
    assert {name.removeprefix(about) for name in names if name.startswith(about)} == {
        "METADATA",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
        "RECORD",
    }
    package = {f"signimage/{p.name}" for p in (ROOT / "pyworker" / "signimage").glob("*.py")}
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    left_out = set(re.findall(r'(?m)^ +"pyworker/(signimage/\w+\.py)",$', project))
    assert "signimage/worker.py" in left_out <= package
    assert {name for name in names if not name.startswith(about)} == package - left_out


def test_no_module_of_the_wheel_imports_what_the_wheel_does_not_bring(wheel: Path) -> None:
    """The step's own modules stay out (pyproject.toml), and whatever imports them would have to."""
    own = {Path(path.name).stem for path in zipfile.Path(wheel, "signimage/").iterdir()}
    for path in zipfile.Path(wheel, "signimage/").iterdir():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            else:
                continue
            for name in named:
                top, _, rest = name.partition(".")
                assert top != "azure_pipelines_task_lib", path.name
                if top == "signimage" and (ROOT / f"pyworker/signimage/{rest}.py").is_file():
                    assert rest in own, f"{path.name} imports {name}"


def test_the_wheel_is_the_same_wherever_it_is_built(wheel: Path, tmp_path: Path) -> None:
    """Another folder, time zone, language, mask of modes, and dates of all files."""
    copy = tmp_path / "another place ü"
    shutil.copytree(
        ROOT / "pyworker",
        copy / "pyworker",
        ignore=shutil.ignore_patterns("__pycache__"),
        copy_function=shutil.copyfile,
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, copy / name)
    code = "import pathlib, release; release.build_wheel(pathlib.Path('out'), pathlib.Path.cwd())"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "packaging"),
        "TZ": "Pacific/Chatham",
        "LC_ALL": "C",
    }
    argv = [sys.executable, "-B", "-c", code]
    subprocess.run(argv, cwd=copy, env=environment, umask=0o077, check=True)
    assert (copy / "out" / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """With its extra for the command line, which asks for nothing that is not pinned."""
    environment = EmptyEnvironment.with_wheel(wheel, tmp_path / "venv")

    def run(*words: str) -> str:
        done = environment.run(*words, home=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert run("--version") == f"signimage {release.agreed_version(ROOT)}\n"
    assert re.search("(?m)^ +key list +list the private keys in the trust store$", run("--help"))
    assert json.loads(run("key", "list", "--json")) == []
    argv = [*PIP, "--python", str(environment.python), "check"]
    check = subprocess.run(argv, check=False, capture_output=True)
    assert check.returncode == 0, check.stdout


# --- The lists -------------------------------------------------------------------------------


def test_the_bill_of_materials_lists_every_wheel_with_its_hash(lists: Path) -> None:
    bill = json.loads((lists / "sbom.cdx.json").read_text("utf-8"))
    with zipfile.ZipFile(build_vsix()) as archive:
        wheels = json.loads(archive.read("SignImage/files.json"))["wheels"]
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["version"] == release.agreed_version(ROOT)
    listed = {
        part["name"]: part["hashes"]
        for library in bill["components"]
        for part in library["components"]
        if part["type"] == "file"
    }
    assert listed == {
        name: [{"alg": "SHA-256", "content": digest}] for name, digest in wheels.items()
    }


def test_every_library_is_listed_as_it_is_pinned(lists: Path) -> None:
    bill = json.loads((lists / "sbom.cdx.json").read_text("utf-8"))
    pins = (ROOT / "requirements" / "runtime.txt").read_text("utf-8")
    for library in bill["components"]:
        name, version = library["name"], library["version"]
        assert re.search(rf"(?m)^{name}=={re.escape(version)}[ \\]", pins), name
        assert library["purl"] == library["bom-ref"] == f"pkg:pypi/{name}@{version}"
        assert library["licenses"][0]["expression"], name
        assert library["hashes"], name
    assert bill["dependencies"][0]["dependsOn"] == [each["purl"] for each in bill["components"]]


def test_what_is_compiled_into_a_library_is_listed_once(lists: Path) -> None:
    bill = json.loads((lists / "sbom.cdx.json").read_text("utf-8"))
    parts = {each["name"]: each["components"] for each in bill["components"]}
    compiled = [part for part in parts["cryptography"] if part["type"] == "library"]
    purls = [part["purl"] for part in compiled]
    assert len(set(purls)) == len(purls)
    assert any(purl.startswith("pkg:generic/openssl@") for purl in purls)
    assert any(purl.startswith("pkg:cargo/pyo3@") for purl in purls)
    assert "libffi" in [part["name"] for part in parts["cffi"]]
    references = [each["bom-ref"] for each in bill["components"]]
    references += [part["bom-ref"] for inner in parts.values() for part in inner]
    assert len(set(references)) == len(references)


def test_the_lists_name_no_place_that_somebody_built_at(lists: Path) -> None:
    for file in lists.iterdir():
        assert not re.search(r"file://|download_url|/runner/", file.read_text("utf-8")), file.name


def test_every_licence_text_of_the_extension_is_in_the_listing(lists: Path) -> None:
    listing = (lists / "LICENSES.txt").read_text("utf-8")
    bill = json.loads((lists / "sbom.cdx.json").read_text("utf-8"))
    for library in bill["components"]:
        licence = library["licenses"][0]["expression"]
        assert f"{library['name']} {library['version']}: {licence}\n" in listing
    with zipfile.ZipFile(build_vsix()) as archive:
        names = [name for name in archive.namelist() if "/vendor/licenses/" in name]
        assert len(names) >= len(bill["components"])
        for name in names:
            assert archive.read(name).decode("utf-8").strip() in listing, name


def test_the_sums_are_those_that_sha256sum_finds(lists: Path, tmp_path: Path) -> None:
    files = [Path(shutil.copy(file, tmp_path)) for file in lists.iterdir()]
    sums = release.write_sums(files, tmp_path)
    argv = ["sha256sum", "--check", "--strict", "--quiet", sums.name]
    assert subprocess.run(argv, cwd=tmp_path, check=False).returncode == 0
    assert len(sums.read_text("utf-8").splitlines()) == len(files)
    files[0].write_bytes(files[0].read_bytes() + b"\n")
    refused = subprocess.run(argv, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert refused.returncode == 1
    assert hashlib.sha256(files[0].read_bytes()).hexdigest() not in sums.read_text("utf-8")
