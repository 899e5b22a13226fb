"""How secrets are searched for: in every form in which programs usually write them down.

As they are, percent-encoded, in base64 at every alignment, in JSON.
"""

import base64
import json
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote, quote_plus

from task.pipeline import SigningKey


def forms(secret: str) -> set[bytes]:
    """Return *secret* in the forms in which programs write it."""
    raw = secret.encode()
    # Within a longer text three alignments are possible; what is next to the secret is unknown.
    shifted = [base64.b64encode(bytes(shift) + raw)[4 : len(raw) // 3 * 4] for shift in range(3)]
    texts = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}
    texts |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    return {text.encode() for text in texts} | {base64.b64encode(raw), *shifted}


def key_lines(key: SigningKey) -> set[bytes]:
    """Return what of a key file is secret, line by line."""
    lines = key.content.splitlines()
    return {line for line in lines if re.fullmatch(rb"[A-Za-z0-9+/=]{20,}", line)}


def leaks(secrets: dict[str, set[bytes]], content: bytes) -> set[str]:
    """Return which of *secrets* are in *content*."""
    return {name for name, texts in secrets.items() if any(text in content for text in texts)}


def leaks_in_files(secrets: dict[str, set[bytes]], files: Iterable[Path]) -> set[str]:
    """Return which of *secrets* are in which of *files*."""
    return {
        f"{leak} in {path}"
        for path in files
        if path.is_file() and not path.is_symlink()
        for leak in leaks(secrets, path.read_bytes())
    }


def everything_below(*folders: Path) -> list[Path]:
    """Return all files and folders below *folders*."""
    return [path for folder in folders for path in folder.rglob("*")]
