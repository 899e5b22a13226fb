"""The finished extension, built once or given, and unpacked as an agent unpacks a task.

A release names the file that it built in `SIGNIMAGE_VSIX`, and the tests judge that one.

An agent gets the contents of SignImage/ in a folder of its own, files without Unix modes, and
shares the folder between jobs: nothing may be written there.
"""

import functools
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from release import VSIX_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
TASK = "SignImage/"


def build_afresh(output: Path) -> Path:
    """Build the extension into *output* as `make vsix` does, and return its path."""
    argv = [sys.executable, str(ROOT / "packaging" / "build_vsix.py"), "--output", str(output)]
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return (ROOT / done.stdout.strip()).resolve()


@functools.cache
def build_vsix() -> Path:
    """Return the extension that is given, or build it once for this process, in dist/."""
    if given := os.environ.get(VSIX_VARIABLE):
        return Path(given)
    return build_afresh(ROOT / "dist")


def unpack(vsix: Path, folder: Path, *, read_only: bool = False) -> Path:
    """Unpack the task of *vsix* into the new folder *folder*, and return *folder*.

    Args:
        vsix: The extension.
        folder: What will hold task.json, e.g. `<work>/_tasks/SignImage_<guid>/1.0.0`.
        read_only: Take the right to write away, which binds all users but root.
    """
    folder.mkdir(parents=True)
    with zipfile.ZipFile(vsix) as archive:
        for name in archive.namelist():
            if name.startswith(TASK):
                target = folder / name.removeprefix(TASK)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    if read_only:
        for path in folder.rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        folder.chmod(0o555)
    return folder
