"""Private keys at rest: Docker's and Notary's folder layout, and the passphrases for it.

The rules of this file:

1. A key lives in `<trust directory>/private/<canonical key ID>.key`: 0600 in a folder that is
   0700 and ours. Older clients' `root_keys/` and `tuf_keys/` are read, never written or removed.
2. A key file is complete or absent, and nothing is ever overwritten.
3. The name of a file is a claim, checked against the key inside whenever that is decrypted.
4. A passphrase comes from Docker's environment variables, verbatim, or from a terminal. Where
   neither is there, that is an error at once: nothing here waits for an answer from a pipe.

Specification: Notary v1, `docs/protocol.md`, "Key files".
"""

import getpass
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from signimage import keyfile, pem
from signimage.errors import FormatError, InputError, PassphraseError
from signimage.keyfile import KeyFile
from signimage.keys import PrivateKey

# Docker asks for the passphrase of root keys under one name, for all others under another.
ROOT_VARIABLE = "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE"
REPOSITORY_VARIABLE = "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"

ROOT = "root"

_KEY_NAME = re.compile(r"([0-9a-f]{64})\.key")
_LEGACY_NAME = re.compile(r"([0-9a-f]{64})_([a-z0-9_-]+)\.key")

_MIN_CHARACTERS = 8  # Notary's rule for passphrases that are typed
_ATTEMPTS = 3  # Notary's number of questions


@dataclass(frozen=True, slots=True)
class Entry:
    """One key file of the store.

    `role` and `gun` are "" where the file does not say; `fault` is "" unless the file cannot be
    read, and then says why: a damaged file is listed, not hidden.
    """

    key_id: str  # canonical
    role: str
    gun: str
    path: Path
    fault: str = ""


class Passphrases:
    """Where passphrases come from.

    Args:
        environment: Docker's two variables are looked up here; an empty one counts as unset.
        prompt: Shows a text and gives what was typed, e.g. `terminal()`; `None` never asks.
    """

    def __init__(
        self, environment: Mapping[str, str], prompt: Callable[[str], str] | None = None
    ) -> None:
        self._environment = environment
        self._prompt = prompt
        self._typed: dict[str, bytes] = {}  # by variable: one question per kind of key

    def unlock(self, file: KeyFile, role: str = "") -> PrivateKey:
        """Decrypt a key file; *role* counts where the file does not name its own.

        Raises:
            PassphraseError: there is no passphrase, or it is not this file's.
            FormatError: the key inside is damaged or of an unknown kind.
        """
        if not file.encrypted:
            return file.decrypt(None)
        variable = _variable(file.role or role)
        if known := self._environment.get(variable):
            return _decrypt(file, os.fsencode(known), f"Check the value of {variable}")
        if self._prompt is None:
            raise PassphraseError(
                f"{file.what} is encrypted: expected its passphrase, got none",
                hint=f"Set {variable}",
            )
        return self._asked(file, variable, self._prompt, _ATTEMPTS)

    def choose(self, role: str) -> bytes:
        """Give the passphrase for a new key of this *role*, asking twice if it must be typed.

        Raises:
            PassphraseError: there is none, it is too short, or the two answers differ.
        """
        variable = _variable(role)
        if known := self._environment.get(variable):
            return os.fsencode(known)
        if self._prompt is None:
            raise PassphraseError(
                f"new {role} key: expected a passphrase, got none", hint=f"Set {variable}"
            )
        first = _typed(self._prompt, f"Passphrase for the new {role} key: ")
        if len(os.fsdecode(first)) < _MIN_CHARACTERS:
            raise PassphraseError(
                f"new {role} key: expected a passphrase of at least {_MIN_CHARACTERS} characters, "
                f"got fewer"
            )
        if _typed(self._prompt, "The same passphrase again: ") != first:
            raise PassphraseError(f"new {role} key: expected the same passphrase twice, got two")
        self._typed[variable] = first
        return first

    def _asked(
        self, file: KeyFile, variable: str, prompt: Callable[[str], str], attempts: int
    ) -> PrivateKey:
        answer = self._typed.pop(variable, b"") or _typed(prompt, f"Passphrase for {file.what}: ")
        try:
            key = file.decrypt(answer)
        except PassphraseError:
            if attempts == 1:
                raise
            return self._asked(file, variable, prompt, attempts - 1)
        self._typed[variable] = answer
        return key


class KeyStore:
    """The private keys below one trust directory (`$DOCKER_CONFIG/trust`, `~/.notary`)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.private = directory / "private"

    def entries(self) -> tuple[Entry, ...]:
        """List the key files, sorted by role, repository and ID; none if there is no store."""
        found = [*self._current(), *self._legacy()]
        return tuple(sorted(found, key=lambda entry: (entry.role, entry.gun, entry.key_id)))

    def find(self, key_id: str) -> Entry | None:
        """Look up a key by its canonical ID."""
        return next((entry for entry in self.entries() if entry.key_id == key_id), None)

    def load(self, key_id: str, passphrases: Passphrases) -> PrivateKey:
        """Decrypt the key with this canonical ID.

        Raises:
            InputError: there is no such key here.
            PassphraseError: its passphrase is missing or wrong.
            FormatError: its file is damaged, or holds another key than its name says.
        """
        entry = self.find(key_id)
        if entry is None:
            raise InputError(f"key {key_id} is not in {self.private}")
        file = _read(entry.path)
        key = passphrases.unlock(file, entry.role)
        if key.public_key.canonical_id != key_id:
            raise FormatError(
                f"{file.what}: expected key {key_id}, got key {key.public_key.canonical_id}",
                hint="Name the file after the key that is in it",
            )
        return key

    def add(self, key: PrivateKey, role: str, gun: str, passphrase: bytes) -> Path:
        """Encrypt a key into the store; gives the path of its file.

        Raises:
            InputError: the key is there already, or the folder is not safe to write to.
            PassphraseError: *passphrase* is empty.
        """
        content = keyfile.encrypt(key, passphrase, role=role, gun=gun)
        return self._write(key.public_key.canonical_id, content)

    def install(self, data: bytes, key_id: str) -> Path:
        """Put the bytes of a key file under the name that its canonical ID *key_id* demands.

        Raises:
            FormatError: *data* is no key file.
            InputError: another file has that name, or the folder is not safe to write to.
        """
        KeyFile.parse(data)
        path = self.private / f"{key_id}.key"
        if path.is_file() and path.read_bytes() == data:
            return path
        return self._write(key_id, data)

    def _current(self) -> Iterator[Entry]:
        for path in _files(self.private, "*.key"):
            if name := _KEY_NAME.fullmatch(path.name):
                yield _entry(path, name[1], "", "")

    def _legacy(self) -> Iterator[Entry]:
        for folder in (self.private / "root_keys", self.private / "tuf_keys"):
            for path in _files(folder, "**/*.key"):
                if name := _LEGACY_NAME.fullmatch(path.name):
                    gun = path.parent.relative_to(folder).as_posix()
                    yield _entry(path, name[1], name[2], "" if gun == "." else gun)

    def _write(self, key_id: str, content: bytes) -> Path:
        if not _KEY_NAME.fullmatch(f"{key_id}.key"):
            raise InputError(f"key ID: expected 64 hexadecimal digits, got {key_id!r}")
        _make_private(self.private)
        path = self.private / f"{key_id}.key"
        try:
            _create(path, content)
        except FileExistsError as error:
            raise InputError(f"key {key_id} is already in {self.private}") from error
        except OSError as error:
            raise InputError(f"key {key_id} cannot be written: {error.strerror}") from error
        return path


def terminal() -> Callable[[str], str] | None:
    """Give a prompt that reads without echo, or `None` where nobody can answer it."""
    interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    return getpass.getpass if interactive else None


def _variable(role: str) -> str:
    return ROOT_VARIABLE if role == ROOT else REPOSITORY_VARIABLE


def _decrypt(file: KeyFile, passphrase: bytes, hint: str) -> PrivateKey:
    try:
        return file.decrypt(passphrase)
    except PassphraseError as error:
        raise PassphraseError(str(error), hint=hint) from error


def _typed(prompt: Callable[[str], str], text: str) -> bytes:
    try:
        return os.fsencode(prompt(text).strip())
    except EOFError as error:
        raise PassphraseError("passphrase: expected an answer, got the end of the input") from error


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _read(path: Path) -> KeyFile:
    what = f"key file {path.name}"
    try:
        with path.open("rb") as file:
            data = file.read(pem.MAX_SIZE + 1)
    except OSError as error:
        raise InputError(f"{what} cannot be read: {error.strerror}") from error
    return KeyFile.parse(data, what=what)


def _entry(path: Path, key_id: str, role: str, gun: str) -> Entry:
    try:
        file = _read(path)
    except (FormatError, InputError) as error:
        return Entry(key_id, role, gun, path, fault=str(error))
    return Entry(key_id, file.role or role, file.gun or gun, path)


def _create(path: Path, content: bytes) -> None:
    """Write a new file, 0600 and whole from the moment it has its name (rule 2)."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # refuses a name that is taken, which renaming would not
    finally:
        Path(temporary).unlink()


def _make_private(folder: Path) -> None:
    """Make a key folder and the trust directory around it, unless they are there and safe."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"key folder {folder} cannot be made: {error.strerror}") from error
    _check_private(folder)


def _check_private(folder: Path) -> None:
    """Refuse to put keys where somebody else could read or replace them."""
    if not hasattr(os, "geteuid"):
        return  # Windows: access lists, inherited from the user's profile, decide
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise InputError(f"key folder {folder}: expected a folder, got a link or a file")
    if found.st_uid != os.geteuid():
        raise InputError(f"key folder {folder}: expected owner {os.geteuid()}, got {found.st_uid}")
    if found.st_mode & 0o077:
        raise InputError(
            f"key folder {folder}: expected mode 0700, got {stat.S_IMODE(found.st_mode):04o}",
            hint=f"Run chmod 700 {folder}",
        )
