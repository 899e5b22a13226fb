"""Makes a release: everything that is published, in dist/, built once and tested as built.

    1. agree   task.json, vss-extension.json, the package and the changelog state one version
    2. build   the extension (see `build_vsix`) and the wheel of the command line
    3. list    sbom.cdx.json and LICENSES.txt, out of the extension
    4. test    the tests of the packaged task and of the wheel, on these very files
    5. sum     SHA256SUMS over all of them; without it, what lies in dist/ is no release

The same sources and pinned libraries give the same bytes: `docs/releasing.md` says how to compare.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import localisation
from build_vsix import ROOT, VENDOR, PackagingError, build
from sbom import licence_listing
from vendoring import VendoringError

TASK = "SignImage/"
# The one that the others follow: it is what a running program says of itself.
SOURCE = "pyworker/signimage/__init__.py"
SUMS = "SHA256SUMS"
# Tests look here for the files to be tested; without them they build their own.
VSIX_VARIABLE, WHEEL_VARIABLE = "SIGNIMAGE_VSIX", "SIGNIMAGE_WHEEL"
# Seconds since 1970 for the dates inside of the wheel: 1980-01-01, where zip archives begin.
EPOCH = "315532800"


def stated_versions(root: Path) -> dict[str, str]:
    """Return the version that each file below *root* states, by file; empty where none is found."""

    def text(name: str) -> str:
        return (root / name).read_text("utf-8")

    def found(pattern: str, name: str) -> str:
        match = re.search(pattern, text(name), re.MULTILINE)
        return match[1] if match else ""

    task = json.loads(text("task.json"))["version"]
    return {
        SOURCE: found(r'^__version__ = "(.*)"$', SOURCE),
        "task.json": f"{task['Major']}.{task['Minor']}.{task['Patch']}",
        "vss-extension.json": str(json.loads(text("vss-extension.json"))["version"]),
        "CHANGELOG.md": found(r"^## \[(.*?)\]", "CHANGELOG.md"),
    }


def agreed_version(root: Path) -> str:
    """Return the version that all files below *root* state.

    Raises:
        PackagingError: A file states another one; the message names it.
    """
    versions = stated_versions(root)
    expected = versions[SOURCE]
    for name, stated in versions.items():
        if stated != expected or not stated:
            raise PackagingError(
                f"{name}: expected version {expected or 'x.y.z'} as in {SOURCE}, "
                f"got {stated or 'none'}"
            )
    return expected


def build_wheel(output: Path, root: Path = ROOT) -> Path:
    """Build the wheel of the command line into the folder *output*, and return its path."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
        argv += ["--directory", folder]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
        done = subprocess.run(
            argv, cwd=root, env=environment, check=False, text=True, capture_output=True
        )
        if done.returncode != 0:
            raise PackagingError(f"wheel: expected hatchling to build it, got:\n{done.stderr}")
        (built,) = Path(folder).glob("*.whl")
        output.mkdir(parents=True, exist_ok=True)
        target = output / built.name
        target.write_bytes(built.read_bytes())
    return target


def write_lists(vsix: Path, output: Path) -> list[Path]:
    """Take the bill of materials out of the extension, and list the licences; return both files."""
    licences = f"{TASK}{VENDOR}/licenses/"
    with zipfile.ZipFile(vsix) as archive:
        bill = archive.read(f"{TASK}sbom.cdx.json")
        texts = {
            name.removeprefix(licences): archive.read(name)
            for name in archive.namelist()
            if name.startswith(licences)
        }
    bill_file, licence_file = output / "sbom.cdx.json", output / "LICENSES.txt"
    bill_file.write_bytes(bill)
    licence_file.write_bytes(licence_listing(bill.decode("utf-8"), texts).encode())
    return [bill_file, licence_file]


def write_sums(files: Iterable[Path], output: Path) -> Path:
    """Write the SHA-256 hashes of *files* as `sha256sum --check` reads them."""
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(files, key=lambda one: one.name)
    ]
    sums = output / SUMS
    sums.write_bytes("".join(lines).encode())
    return sums


def test_built(vsix: Path, wheel: Path) -> None:
    """Run the tests of what is shipped, on these files.

    Raises:
        PackagingError: One failed.
    """
    environment = {**os.environ, VSIX_VARIABLE: str(vsix), WHEEL_VARIABLE: str(wheel)}
    argv = [sys.executable, "-m", "pytest", "-q", "tests/task"]
    if subprocess.run(argv, cwd=ROOT, env=environment, check=False).returncode != 0:
        raise PackagingError("tests/task: expected all tests to pass on the built files")


def release(output: Path) -> list[Path]:
    """Build, test and list everything, and return the files.

    Raises:
        PackagingError: The versions disagree, a build failed or a test did.
        VendoringError: The pinned libraries are not to be had.
    """
    version = agreed_version(ROOT)
    (output / SUMS).unlink(missing_ok=True)
    vsix, wheel = build(output), build_wheel(output)
    if not wheel.name.startswith(f"signimage-{version}-"):
        raise PackagingError(f"wheel: expected version {version}, got {wheel.name}")
    files = [vsix, wheel, *write_lists(vsix, output)]
    test_built(vsix, wheel)
    return [*files, write_sums(files, output)]


def main() -> int:
    """Make the release, and print the paths of its files."""
    parser = argparse.ArgumentParser(description="Build and test everything that is published.")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the results")
    options = parser.parse_args()
    try:
        for file in release(options.output.resolve()):
            print(os.path.relpath(file))
    except (PackagingError, VendoringError, localisation.LocalisationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
