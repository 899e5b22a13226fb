"""Verified role files kept between runs, where Docker's and Notary's clients keep theirs.

Only what `signimage.trust` has accepted is ever written here, and a file is replaced whole or
not at all: readers in other processes see the old one or the new one.

Layout: `<trust directory>/tuf/<GUN>/metadata/<role>.json`, folders 0700, files 0600
(`docs/protocol.md`, "Cache").
"""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


class TrustCache:
    """The kept files of one repository; a kept root is the pin for every later run."""

    def __init__(self, trust_dir: Path, gun: str) -> None:
        self._directory = trust_dir / "tuf" / gun / "metadata"

    def read(self, role: str) -> bytes | None:
        """The kept file of *role*; None when there is none."""
        try:
            return (self._directory / f"{role}.json").read_bytes()
        except FileNotFoundError:
            return None

    def write(self, role: str, data: bytes) -> None:
        """Keep the verified file of *role*, whole or not at all."""
        path = self._directory / f"{role}.json"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            Path(name).replace(path)
        except BaseException:
            with suppress(FileNotFoundError):
                Path(name).unlink()
            raise
