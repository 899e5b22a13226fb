"""Builds the extension: dist/signimage-<version>.vsix, the same bytes whenever and wherever.

    1. stage   a passing folder gets the layout that the Marketplace and the agent expect:
               vss-extension.json, overview.md, LICENSE.txt, icons/, and SignImage/ with the task
    2. vendor  SignImage/pyworker/vendor/ gets the libraries (see `vendoring`)
    3. list    SignImage/sbom.cdx.json says whose work is in it (see `sbom`), SignImage/files.json
               has the SHA-256 of every file of the task, and the wheels that it came from
    4. pack    tfx-cli packs and validates; any warning of it stops the build
    5. settle  the archive is written again: entries sorted, one fixed date, no host's content types

tfx validates a task only in a staged layout, which is why there is one.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import quoteattr

import localisation
from sbom import EMBEDDED, bill_of_materials
from vendoring import UsedWheel, VendoringError, vendor_libraries

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build"
CACHE = ROOT / ".cache" / "wheels"
TFX = HERE / "node_modules" / "tfx-cli" / "_build" / "tfx-cli.js"

VENDOR = "pyworker/vendor"  # below SignImage/
# Higher levels take three times as long for half a percent.
COMPRESSION = 6
# The oldest date a zip archive can hold.
EPOCH = (1980, 1, 1, 0, 0, 0)
CONTENT_TYPES = "[Content_Types].xml"
# What tfx writes by itself, beside the staged files.
WRITTEN_BY_TFX = {"extension.vsixmanifest", "extension.vsomanifest"}
OCTETS = "application/octet-stream"
# The host's `file` program must not decide; what is not named here is served as plain bytes.
MEDIA_TYPES = {
    "js": "application/javascript",
    "json": "application/json",
    "md": "text/markdown",
    "pem": "text/plain",
    "png": "image/png",
    "py": "text/x-python",
    "resjson": "application/json",
    "txt": "text/plain",
    "vsixmanifest": "text/xml",
    "vsomanifest": "application/json",
}


class PackagingError(Exception):
    """The extension cannot be built; the message says why."""


def version() -> str:
    """Return the version of the extension, e.g. "1.0.0"."""
    return str(json.loads((ROOT / "vss-extension.json").read_text("utf-8"))["version"])


def copy(source: Path, target: Path) -> None:
    """Copy the content of a file, and nothing else of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def stage(folder: Path, cache: Path) -> None:
    """Lay out the extension in the new folder *folder*."""
    task = folder / "SignImage"
    copy(ROOT / "vss-extension.json", folder / "vss-extension.json")
    copy(ROOT / "overview.md", folder / "overview.md")
    copy(ROOT / "icons" / "extension.png", folder / "icons" / "extension.png")
    for picture in (ROOT / "images").glob("*.png"):
        copy(picture, folder / "images" / picture.name)
    copy(ROOT / "LICENSE", folder / "LICENSE.txt")
    copy(ROOT / "LICENSE", task / "LICENSE.txt")
    copy(ROOT / "task.json", task / "task.json")
    localisation.write(task)
    copy(ROOT / "icons" / "task.png", task / "icon.png")
    for source in (*(ROOT / "task").glob("*.js"), ROOT / "task" / "package.json"):
        copy(source, task / "task" / source.name)
    for source in (ROOT / "pyworker").rglob("*.py"):
        copy(source, task / source.relative_to(ROOT))
    used = vendor_libraries(task / VENDOR, cache)
    for part in EMBEDDED.values():
        copy(part.text, task / VENDOR / "licenses" / part.name / "LICENSE")
    (task / "sbom.cdx.json").write_bytes(bill_of_materials(version(), used).encode())
    write_file_list(task, used)


def files_below(folder: Path) -> Iterator[str]:
    """Yield the files below *folder*, sorted, as relative paths with slashes."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def write_file_list(task: Path, wheels: Iterable[UsedWheel]) -> None:
    """Write files.json: each file but itself, each wheel, and which file came from which."""
    origins: dict[str, list[str]] = {}
    hashes = {}
    for wheel in sorted(wheels, key=lambda one: one.path.name):
        hashes[wheel.path.name] = wheel.sha256
        for name in wheel.files:
            origins.setdefault(f"{VENDOR}/{name}", []).append(wheel.path.name)
    files: dict[str, dict[str, object]] = {}
    for name in files_below(task):
        files[name] = {"sha256": hashlib.sha256((task / name).read_bytes()).hexdigest()}
        if name in origins:
            files[name]["wheels"] = origins[name]
    text = json.dumps({"version": version(), "wheels": hashes, "files": files}, indent=1)
    (task / "files.json").write_bytes(text.encode() + b"\n")


def program(name: str) -> str:
    """Return the path of a program that the build cannot do without."""
    found = shutil.which(name)
    if found is None:
        raise PackagingError(
            f"{name}: expected Node.js and npm to be installed, found none on PATH"
        )
    return found


def install_tfx() -> None:
    """Install the pinned tfx-cli, unless it is there."""
    pinned = json.loads((HERE / "package.json").read_text("utf-8"))["devDependencies"]["tfx-cli"]
    installed = TFX.parent.parent / "package.json"
    if installed.is_file() and json.loads(installed.read_text("utf-8"))["version"] == pinned:
        return
    subprocess.run([program("npm"), "ci", "--no-progress"], cwd=HERE, check=True, stdout=sys.stderr)


def pack(staged: Path, target: Path) -> None:
    """Let tfx pack and validate, offline.

    Raises:
        PackagingError: tfx refused, or warned: most mistakes in a task.json are warnings to it.
    """
    nowhere = staged.parent / "empty"
    nowhere.mkdir(exist_ok=True)
    # With an empty PATH it cannot start the host's `file`, once for each file, and its settings
    # are looked for in HOME.
    environment = {"PATH": str(nowhere), "HOME": str(nowhere), "NO_COLOR": "1"}
    argv = [program("node"), str(TFX), "extension", "create", "--root", str(staged)]
    argv += ["--manifest-globs", "vss-extension.json", "--output-path", str(target)]
    argv += ["--no-prompt", "--no-color"]
    done = subprocess.run(
        argv,
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode != 0 or "warning" in done.stdout.lower() or not target.is_file():
        raise PackagingError(
            f"tfx: expected neither error nor warning, got:\n{done.stdout.strip()}"
        )


def content_types(names: Iterable[str]) -> str:
    """Return the part that every package of this kind begins with: the types of its files."""
    listed = sorted(names)
    suffixes = sorted({Path(name).suffix[1:] for name in listed} - {""})
    lines = [
        f'  <Default Extension=".{suffix}" ContentType="{MEDIA_TYPES.get(suffix, OCTETS)}"/>'
        for suffix in suffixes
    ]
    lines += [
        f'  <Override PartName={quoteattr("/" + name)} ContentType="{OCTETS}"/>'
        for name in listed
        if not Path(name).suffix
    ]
    namespace = "http://schemas.openxmlformats.org/package/2006/content-types"
    body = "\n".join(lines)
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<Types xmlns="{namespace}">\n{body}\n</Types>\n'
    )


def settle(packed: Path, staged: Path, target: Path) -> None:
    """Write *packed* again as *target*, with nothing in it that depends on time or machine.

    Raises:
        PackagingError: tfx packed other files than those staged.
    """
    with zipfile.ZipFile(packed) as archive:
        parts = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    parts.pop(CONTENT_TYPES, None)
    expected = {*files_below(staged), *WRITTEN_BY_TFX} - {"vss-extension.json"}
    if expected != set(parts):
        odd = ", ".join(sorted(expected ^ set(parts)))
        raise PackagingError(f"tfx: expected to find the staged files, got a difference in {odd}")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.stem}-{os.getpid()}.part")
    with zipfile.ZipFile(unfinished, "w") as archive:
        write_part(archive, CONTENT_TYPES, content_types(parts).encode())
        for name in sorted(parts):
            write_part(archive, name, parts[name])
    unfinished.replace(target)


def write_part(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file without date, mode or system: agents unpack none of them anyway."""
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.create_system = 0
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED, COMPRESSION)
    # Only now: a mode of zero is taken for a forgotten one. It is written with the directory.
    entry.external_attr = 0


def build(output: Path, work: Path = BUILD, cache: Path = CACHE) -> Path:
    """Build the extension and return its path.

    Args:
        output: The folder for the finished file.
        work: The folder for everything in between; removed at the end.
        cache: The folder that keeps the wheels, so that a second build needs no network.

    Raises:
        PackagingError: tfx is missing or dissatisfied.
        VendoringError: The pinned libraries are not to be had.
        LocalisationError: A translation does not fit the task.
    """
    target = output / f"signimage-{version()}.vsix"
    install_tfx()
    work.mkdir(parents=True, exist_ok=True)
    # A folder of its own, so that two builds at a time do not meet.
    with tempfile.TemporaryDirectory(prefix="vsix-", dir=work) as area:
        staged, packed = Path(area, "stage"), Path(area, "packed.vsix")
        stage(staged, cache)
        pack(staged, packed)
        settle(packed, staged, target)
    return target


def main() -> int:
    """Build, and print the path of the result."""
    parser = argparse.ArgumentParser(description="Build the extension (VSIX).")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder for the result")
    options = parser.parse_args()
    try:
        print(os.path.relpath(build(options.output.resolve())))
    except (PackagingError, VendoringError, localisation.LocalisationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
