"""What is kept of a repository between runs: verified files and version floors.

Rules of this file:

1. Only what `signimage.trust` has accepted is ever written here, and a file is replaced whole or
   not at all: readers in other processes see the old one or the new one.
2. The role files lie where Docker's and Notary's clients keep theirs, for all to share:
   `<trust directory>/tuf/<GUN>/metadata/<role>.json`, folders 0700, files 0600.
3. The floors lie elsewhere, `<trust directory>/signimage/<GUN>/floors.json`: people delete the
   cache to get rid of a problem, and that must not make an old state believable again.
4. Floors only rise. `forget` is the one way back, for a repository that was created anew.

`docs/protocol.md`, "Cache".
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from signimage.errors import FormatError

_LOCK = "_writing"  # no part of a repository's name begins so
_MAX_FLOORS = 1024 * 1024  # bytes; 2000 delegations need a tenth


class TrustCache:
    """What is kept of one repository; a kept root is the pin for every later run."""

    def __init__(self, trust_dir: Path, gun: str) -> None:
        self._gun = gun
        self._metadata = trust_dir / "tuf" / gun / "metadata"
        self._own = trust_dir / "signimage" / gun

    def read(self, role: str) -> bytes | None:
        """The kept file of *role*; None when there is none."""
        try:
            return (self._metadata / f"{role}.json").read_bytes()
        except FileNotFoundError:
            return None

    def write(self, files: Mapping[str, bytes], floors: Mapping[str, int]) -> None:
        """Keep the verified *files*, by role, and raise the *floors*, which come first."""
        with self._locked():
            self._write(files, floors)

    def _write(self, files: Mapping[str, bytes], floors: Mapping[str, int]) -> None:
        kept = self.floors()
        raised = {**kept, **{role: max(floors[role], kept.get(role, 0)) for role in floors}}
        if raised != kept:
            _replace(self._own / "floors.json", json.dumps(raised, sort_keys=True).encode())
        if any(kept.get(role, 0) > floors.get(role, 0) for role in files):
            return  # another process has kept a newer state meanwhile
        for role, data in files.items():
            if self.read(role) != data:
                _replace(self._metadata / f"{role}.json", data)

    def floors(self) -> dict[str, int]:
        """The highest version ever believed, by role.

        Raises:
            FormatError: The file is damaged; nothing may be believed on that ground.
        """
        path = self._own / "floors.json"
        try:
            with path.open("rb") as file:
                value = json.loads(file.read(_MAX_FLOORS))
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise self._damaged(path) from error
        if not isinstance(value, dict) or not all(type(each) is int for each in value.values()):
            raise self._damaged(path)
        return value

    def obstacle(self) -> Path | None:
        """What keeps this account from reading and writing here; None if nothing does."""
        for folder in (self._metadata, self._own):
            there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
            if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
                return there
        own = (each for each in self._own.glob("*") if not each.is_dir())  # names nest
        for each in sorted((*self._metadata.rglob("*"), *own)):
            is_written = each.is_dir() or each.name == _LOCK  # all others are replaced
            if not os.access(each, os.R_OK | os.W_OK if is_written else os.R_OK):
                return each
        return None

    def forget(self) -> None:
        """Forget the repository: its files, its floors, and with them the pin of its root."""
        # Nothing else below that folder is ours: names of repositories nest.
        for file in self._metadata.glob("*.json"):
            file.unlink(missing_ok=True)
        for folder in (self._metadata / "targets", self._metadata.parent / "changelist"):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(FileNotFoundError):
            (self._own / "floors.json").unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        _make_folder(self._own)
        with (self._own / _LOCK).open("ab") as file:
            _lock(file.fileno())
            yield  # closing the file gives the lock back, also when the process is killed

    def _damaged(self, path: Path) -> FormatError:
        return FormatError(
            f"version floors of {self._gun}: {path} is damaged",
            hint=f"Find out who changed it; then run: signimage repo forget {self._gun}",
        )


def _make_folder(path: Path) -> None:
    """Make *path*, and what is missing above it, for its owner alone; `parents=True` would not."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _replace(path: Path, data: bytes) -> None:
    _make_folder(path.parent)
    descriptor, name = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException as error:  # Ctrl-C, too, leaves nothing behind
        with suppress(FileNotFoundError):
            Path(name).unlink()
        if isinstance(error, OSError):  # which a full disk raises without the name of a file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 -- exists on Windows alone

        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
    else:
        import fcntl  # noqa: PLC0415 -- does not exist on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX)
