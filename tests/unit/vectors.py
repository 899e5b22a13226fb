"""The golden files of `tests/vectors`, for every test that reads them."""

import re
from datetime import datetime, timezone
from pathlib import Path

from signimage.keyfile import KeyFile
from signimage.metadata import ROOT

VECTORS = Path(__file__).parent.parent / "vectors"
KEYS = VECTORS / "keys"
KEY_FILES = sorted(KEYS.glob("*.key"))
OPENSSL_FILES = sorted(KEYS.glob("k_*.pem"))

# The OpenSSL files hold the key of this file of Docker's.
CAROL = "6f9d4b9b293cb4725bbe7db88f389c6bbf338258b07399797c157ec526ce32f1"

ROLE_FILES = sorted(VECTORS.glob("*-*/**/*.json"))


def passphrase(file: KeyFile) -> bytes:
    """Give the passphrase of a golden key file, by the rule in the README beside them."""
    if file.role == "root":
        return b"rootpass123"
    if file.gun == "localhost:5000/agent2/pw":
        return b"a"
    return b" sp " if file.role == "sp1" else b"deleg-pass-1"


# The metadata is verified at this moment; its timestamps expire two weeks later.
MOMENT = datetime(2026, 11, 22, 2, 30, tzinfo=timezone.utc)

# What each folder of role files is about, by folder.
GUNS = {
    "docker-b": "localhost:5000/agent2/b",
    "notary-n1-rotated-root": "localhost:5000/agent2/n1",
    "notary-n3": "localhost:5000/agent2/n3",
}


def role_files(folder: str) -> dict[str, bytes]:
    """Give the current role files of one golden repository, by role."""
    place = VECTORS / folder
    return {
        path.relative_to(place).as_posix().removesuffix(".json"): path.read_bytes()
        for path in place.rglob("*.json")
        if not re.match(r"[0-9]", path.name)
    }


def roots(folder: str) -> list[bytes]:
    """Give every root of one golden repository, the first one first."""
    found = sorted((VECTORS / folder).glob(f"[0-9]*.{ROOT}.json"))
    return [path.read_bytes() for path in found]
