"""The golden files of `tests/vectors`, for every test that reads them."""

from pathlib import Path

from signimage.keyfile import KeyFile

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
