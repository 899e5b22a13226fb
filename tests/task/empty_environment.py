"""An environment for Python with nothing in it but what a user of the command line installs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from task.packaged import ROOT

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
_CACHE = ROOT / ".cache" / "wheels" / "cli"
_PINS = ROOT / "requirements" / "cli.txt"


@dataclass(frozen=True, slots=True)
class EmptyEnvironment:
    """The wheel with its extra `cli`, and what that asks for, as pinned."""

    folder: Path

    @classmethod
    def with_wheel(cls, wheel: Path, folder: Path) -> "EmptyEnvironment":
        """Make one below *folder*; the wheel asks for nothing that is not pinned, or it fails."""
        _download()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        made = cls(folder)
        made._install("--require-hashes", "--requirement", str(_PINS))
        made._install(f"{wheel}[cli]")
        return made

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def program(self) -> str:
        """The command line in it."""
        return str(self.folder / "bin" / "signimage")

    def run(
        self, *words: str, home: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line as somebody whose home is *home*."""
        environment = {"HOME": str(home), "PATH": os.defpath, **(env or {})}
        return subprocess.run(
            [self.program, *words],
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def _install(self, *words: str) -> None:
        """Install by the pip of the tests, from what was downloaded."""
        options = ("install", "--quiet", "--no-compile", "--no-index", "--find-links", str(_CACHE))
        subprocess.run([*PIP, "--python", str(self.python), *options, *words], check=True)


def _download() -> None:
    """Download what the command line needs, unless the pins are those of the last time."""
    stamp = _CACHE / "downloaded"
    if stamp.is_file() and stamp.read_bytes() == _PINS.read_bytes():
        return
    options = ("download", "--quiet", "--require-hashes", "--only-binary=:all:")
    argv = [*PIP, *options, "--requirement", str(_PINS), "--dest", str(_CACHE)]
    subprocess.run(argv, check=True)
    shutil.copyfile(_PINS, stamp)
