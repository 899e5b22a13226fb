"""The libraries inside the package: from pinned wheels to the tree the worker imports from.

    vendor/common/              every .py file, once for all platforms and all Pythons
    vendor/native/<platform>/   the compiled modules, those of all Pythons side by side
    vendor/licenses/<library>/  the licence texts, as the licences demand
    vendor/platforms.json       which folder is for which machine; read by pyworker/startup.py

The rules of this file:

1. Only wheels whose SHA-256 stands in requirements/runtime.txt are used, cached ones included.
2. No file is dropped silently: a kind of file that has no rule here stops the build.
3. A file that two wheels bring must be the same in both, or the platforms cannot share it.
4. A new platform or Python is a line in platforms.json, never code.
5. Of every file that is packed, the wheels that it came from are known (see `UsedWheel`).
"""

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE.parent / "requirements" / "runtime.txt"
PLATFORMS = HERE / "platforms.json"

PURE = (
    "certifi",
    "charset-normalizer",
    "docker",
    "idna",
    "requests",
    "structlog",
    "typing-extensions",
    "urllib3",
)
# One wheel per platform: the compiled module keeps to the stable ABI of Python 3.9.
PER_PLATFORM = ("cryptography",)
# One wheel per platform and Python.
PER_PYTHON = ("cffi",)
LEFT_OUT = {
    "pycparser": "cryptography needs the compiled module of cffi only, which does not use it",
    "pywin32": "Docker's named pipes; 7 MB for each Python, and imported only where it is found",
}

COMPILED = (".so", ".pyd")
KEPT = (".py", ".pem")
# Type stubs, markers, cffi's headers, and urllib3's part for browsers.
DROPPED = (".pyi", ".typed", ".h", ".js")
# Some wheels bring their tests along.
TESTS = {"tests", "test"}


class VendoringError(Exception):
    """The libraries cannot be assembled; the message says what differs from what is pinned."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One pinned library of requirements/runtime.txt."""

    name: str
    version: str
    hashes: frozenset[str]  # SHA-256, hex, one for each file of the release

    @property
    def line(self) -> str:
        """The requirement as pip reads it, without a marker: which we need is decided here."""
        pins = " ".join(f"--hash=sha256:{digest}" for digest in sorted(self.hashes))
        return f"{self.name}=={self.version} {pins}\n"

    def accepts(self, wheel: Path) -> bool:
        """Tell whether *wheel* is a file of this release, by its name and its content."""
        stem = f"{self.name}-{self.version}-".replace("-", "_").lower()
        if not wheel.name.replace("-", "_").lower().startswith(stem):
            return False
        return hashlib.sha256(wheel.read_bytes()).hexdigest() in self.hashes


@dataclass(frozen=True, slots=True)
class Target:
    """Wheels that are chosen by the same tags."""

    folder: str  # in the cache
    platform: str  # whose compiled modules these are; empty for none
    names: tuple[str, ...]
    tags: tuple[str, ...]  # arguments of pip


@dataclass(frozen=True, slots=True)
class UsedWheel:
    """A wheel that the package was made from, and what became of it."""

    library: Requirement
    path: Path
    files: tuple[str, ...]  # below vendor/, with slashes

    @property
    def sha256(self) -> str:
        """The hash of the wheel, hex; one of those that are pinned."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def requirements(text: str) -> dict[str, Requirement]:
    """Read the pinned libraries, by name, from the text of a requirements file with hashes.

    Raises:
        VendoringError: A library is pinned twice in different versions.
    """
    found: dict[str, Requirement] = {}
    for entry in re.sub(r"\\\n", " ", text).splitlines():
        pin = re.match(r"([A-Za-z0-9._-]+)==(\S+)", entry)
        if pin is None:
            continue
        name, version = pin[1].lower(), pin[2]
        hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
        if name in found and name not in LEFT_OUT:
            both = f"{found[name].version} and {version}"
            raise VendoringError(f"{name}: expected one version, got {both}")
        found[name] = Requirement(name, version, hashes)
    return found


def targets(platforms: dict[str, dict[str, list[str]]], pythons: list[str]) -> Iterator[Target]:
    """Yield every choice of wheels that the package needs."""
    floor = ("--implementation", "cp", "--python-version", pythons[0])
    yield Target("common", "", PURE, ("--platform", "any", "--abi", "none", *floor))
    for name, platform in platforms.items():
        tags = tuple(word for tag in platform["wheels"] for word in ("--platform", tag))
        yield Target(name, name, PER_PLATFORM, (*tags, *floor, "--abi", "abi3"))
        for python in pythons:
            abi = "cp" + python.replace(".", "")
            choice = ("--implementation", "cp", "--python-version", python, "--abi", abi)
            yield Target(f"{name}-{abi}", name, PER_PYTHON, (*tags, *choice))


def wheels(target: Target, pinned: dict[str, Requirement], cache: Path) -> dict[str, Path]:
    """Return the wheel of each library of *target*, from the cache or else downloaded into it."""
    folder = cache / target.folder
    wanted = [pinned[name] for name in target.names]
    if not all(any(map(need.accepts, folder.glob("*.whl"))) for need in wanted):
        download(target, wanted, folder)
    return {need.name: next(filter(need.accepts, sorted(folder.glob("*.whl")))) for need in wanted}


def download(target: Target, wanted: list[Requirement], folder: Path) -> None:
    """Let pip fetch the wheels of *target*, and check them against the pinned hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "requirements.txt"
    listing.write_text("".join(need.line for need in wanted), "utf-8")
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:")
    argv = [sys.executable, "-m", "pip", "download", *options, "--require-hashes", *target.tags]
    argv += ["--dest", str(folder), "--requirement", str(listing)]
    done = subprocess.run(argv, check=False, text=True, capture_output=True)
    if done.returncode != 0:
        raise VendoringError(f"{target.folder}: pip could not download its wheels:\n{done.stderr}")


def place(member: str, name: str) -> str | None:
    """Return where *member* of the wheel of *name* belongs below vendor/, or None for nowhere.

    Compiled modules are returned as `native/<file>`: the caller knows the platform.
    """
    path = PurePosixPath(member)
    if ".." in path.parts or path.is_absolute():
        raise VendoringError(f"wheel of {name}: expected paths inside of it, got {member!r}")
    if path.parts[0].endswith(".dist-info"):
        is_licence = "licenses" in path.parts or path.name.upper().startswith("LICEN")
        return f"licenses/{name}/{path.name}" if is_licence else None
    if path.suffix in COMPILED:
        return f"native/{path.name}"
    if path.suffix in DROPPED or TESTS & set(path.parts):
        return None
    if path.suffix in KEPT:
        return None if name in PER_PYTHON else f"common/{path}"
    raise VendoringError(f"wheel of {name}: no rule says what becomes of {member!r}")


def unpack(name: str, wheel: Path, vendor: Path, native: str) -> tuple[str, ...]:
    """Put the files of *wheel* in their places below *vendor*, and return these places."""
    places = []
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            where = None if member.endswith("/") else place(member, name)
            if where is None:
                continue
            where = re.sub("^native/", f"native/{native}/", where)
            target = vendor / where
            content = archive.read(member)
            if target.exists() and target.read_bytes() != content:
                raise VendoringError(f"{where}: expected the same file in all wheels, got two")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            places.append(where)
    return tuple(places)


def vendor_libraries(vendor: Path, cache: Path) -> list[UsedWheel]:
    """Write the tree described above into the new folder *vendor*; return what it was made from.

    Raises:
        VendoringError: A wheel is not to be had, or holds what no rule provides for.
    """
    pinned = requirements(REQUIREMENTS.read_text("utf-8"))
    known = {*PURE, *PER_PLATFORM, *PER_PYTHON, *LEFT_OUT}
    if known != set(pinned):
        odd = ", ".join(sorted(known ^ set(pinned)))
        raise VendoringError(
            f"{REQUIREMENTS.name}: expected a rule for each library, none for {odd}"
        )
    table = json.loads(PLATFORMS.read_text("utf-8"))
    chosen = list(targets(table["platforms"], table["pythons"]))
    # Each start of pip takes a second, most of it waiting.
    with ThreadPoolExecutor(max_workers=4) as pool:
        found = list(pool.map(lambda target: wheels(target, pinned, cache), chosen))
    used = []
    for target, libraries in zip(chosen, found, strict=True):
        for name, wheel in libraries.items():
            files = unpack(name, wheel, vendor, target.platform)
            used.append(UsedWheel(pinned[name], wheel, files))
    (vendor / "platforms.json").write_bytes(PLATFORMS.read_bytes())
    return used
