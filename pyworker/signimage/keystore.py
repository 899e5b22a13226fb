"""Private keys at rest: Docker's and Notary's folder layout, and the passphrases for it.

The rules of this file:

1. A key lives in `<trust directory>/private/<canonical key ID>.key`: 0600 in a folder that is
   0700 and ours. Older clients' `root_keys/` and `tuf_keys/` are read, never written or removed.
2. A key file is complete or absent at every moment, and nothing is ever overwritten but by the
   same key under another passphrase.
3. The name of a file is a claim, checked against the key inside whenever that is decrypted.
4. A passphrase comes from the environment's variables, verbatim, else from the keyring of the
   system, else from a terminal. Where none of them has it, that is an error at once: nothing here
   waits for an answer from a pipe.

Specification: Notary v1, `docs/protocol.md`, "Key files".
"""

import getpass
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from signimage import keyfile, pem, variables
from signimage.errors import FormatError, InputError, PassphraseError
from signimage.keyfile import KeyFile
from signimage.keys import PrivateKey

ROOT_VARIABLE = variables.ROOT_VARIABLE
REPOSITORY_VARIABLE = variables.REPOSITORY_VARIABLE
NEW_VARIABLE = variables.NEW_VARIABLE

ROOT = "root"

_KEY_NAME = re.compile(r"([0-9a-f]{64})\.key")
_LEGACY_NAME = re.compile(r"([0-9a-f]{64})_([a-z0-9_-]+)\.key")

_LEGACY_FOLDERS = ("root_keys", "tuf_keys")

_MIN_DIGITS = 7  # of a key ID that is typed; Docker's tables show that many
_BEGINNING = re.compile(rf"[0-9a-f]{{{_MIN_DIGITS},64}}")

_MIN_CHARACTERS = 8  # Notary's rule for passphrases that are typed
_ATTEMPTS = 3  # Notary's number of questions


@dataclass(frozen=True, slots=True)
class Entry:
    """One key file of the store.

    `role` and `gun` are "" where the file does not say; `fault` is "" unless the file cannot be
    read, and then says why: a damaged file is listed, not hidden. `encrypted` is False only for a
    file that everybody who gets it can sign with.
    """

    key_id: str  # canonical
    role: str
    gun: str
    path: Path
    fault: str = ""
    encrypted: bool = True


class Keyring(Protocol):
    """A place outside of the store that keeps passphrases by canonical key ID."""

    def get(self, key_id: str) -> bytes | None:
        """Give the passphrase that is kept for a key, if one is."""

    @property
    def refusal(self) -> str:
        """Why nothing can be kept, "" if something can; known after `get`."""


class Passphrases:
    """Where passphrases come from.

    Args:
        environment: Docker's two variables and `NEW_VARIABLE` are looked up here; an empty one
            counts as unset.
        prompt: Shows a text and gives what was typed, e.g. `terminal()`; `None` never asks.
        keyring: Asked for what the environment does not have; `None` is never asked.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        prompt: Callable[[str], str] | None = None,
        keyring: Keyring | None = None,
    ) -> None:
        self._environment = environment
        self._prompt = prompt
        self._keyring = keyring
        self._typed: dict[str, bytes] = {}  # by variable: one question per kind of key

    def unlock(self, file: KeyFile, role: str = "", key_id: str = "") -> PrivateKey:
        """Decrypt a key file; *role* counts where the file does not name its own.

        Args:
            file: What to decrypt.
            role: "root", or any other.
            key_id: The canonical ID that the keyring may know it by.

        Raises:
            PassphraseError: there is no passphrase, or it is not this file's.
            FormatError: the key inside is damaged or of an unknown kind.
        """
        return self.opened(file, role, key_id)[0]

    def opened(self, file: KeyFile, role: str = "", key_id: str = "") -> tuple[PrivateKey, bytes]:
        """Decrypt a key file as `unlock` does; gives its passphrase too, b"" if it has none."""
        if not file.encrypted:
            return file.decrypt(None), b""
        variable = _variable(file.role or role)
        if known := os.fsencode(self._environment.get(variable, "")):
            return _decrypt(file, known, f"Check the value of {variable}"), known
        if kept := self._kept(key_id):
            with suppress(PassphraseError):  # the file got another one since
                return file.decrypt(kept), kept
        if self._prompt is None:
            raise PassphraseError(
                f"{file.what} is encrypted: expected its passphrase, got "
                f"{'another one from the keyring' if kept else 'none'}",
                hint=f"Set {variable}{self._refusal()}",
            )
        return self._asked(file, variable, self._prompt, _whose(file, role))

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
        self._typed[variable] = chosen = _twice(self._prompt, f"new {role} key")
        return chosen

    def replacement(self, what: str) -> bytes:
        """Give the passphrase that a key gets in the place of the one it has.

        Raises:
            PassphraseError: there is none, it is too short, or the two answers differ.
        """
        if known := self._environment.get(NEW_VARIABLE):
            return os.fsencode(known)
        if self._prompt is None:
            raise PassphraseError(
                f"{what}: expected a new passphrase, got none", hint=f"Set {NEW_VARIABLE}"
            )
        return _twice(self._prompt, what, "new passphrase")

    def _kept(self, key_id: str) -> bytes | None:
        return self._keyring.get(key_id) if self._keyring and key_id else None

    def _refusal(self) -> str:
        return f"; {self._keyring.refusal}" if self._keyring and self._keyring.refusal else ""

    def _asked(
        self,
        file: KeyFile,
        variable: str,
        prompt: Callable[[str], str],
        whose: str,
        attempts: int = _ATTEMPTS,
    ) -> tuple[PrivateKey, bytes]:
        before = self._typed.pop(variable, b"")
        again = "Wrong. " if attempts < _ATTEMPTS else ""
        answer = before or _typed(prompt, f"{again}Passphrase for {file.what}{whose}: ")
        try:
            key = file.decrypt(answer)
        except PassphraseError:
            if attempts == 1:
                raise
            return self._asked(file, variable, prompt, whose, attempts - (not before))
        self._typed[variable] = answer
        return key, answer


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

    def look_up(self, beginning: str) -> Entry:
        """Give the one key whose canonical ID is, or begins with, what a person typed.

        Raises:
            InputError: there is none, or several, or too little was typed.
        """
        if not _BEGINNING.fullmatch(beginning):
            raise InputError(
                f"key ID: expected 64 hexadecimal digits or their first {_MIN_DIGITS} or more, "
                f"got {beginning[:80]!r}",
                hint="Run signimage key list",
            )
        found = [entry for entry in self.entries() if entry.key_id.startswith(beginning)]
        if not found:
            raise InputError(
                f"key {beginning} is not in {self.private}", hint="Run signimage key list"
            )
        if len({entry.key_id for entry in found}) > 1:
            raise InputError(f"key {beginning}: expected one that begins so, got {len(found)}")
        return found[0]

    def content(self, entry: Entry) -> bytes:
        """Give the bytes of a key file as they are.

        Raises:
            InputError: it cannot be read.
        """
        return _content(entry.path)

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
        return self._opened(entry, passphrases)[0]

    def passphrase(self, entry: Entry, passphrases: Passphrases) -> bytes:
        """Give the passphrase of a key, proven by decrypting it; errors as `load`."""
        return self._opened(entry, passphrases)[1]

    def _opened(self, entry: Entry, passphrases: Passphrases) -> tuple[PrivateKey, bytes]:
        file, key_id = _read(entry.path), entry.key_id
        key, passphrase = passphrases.opened(file, entry.role, key_id)
        if key.public_key.canonical_id != key_id:
            raise FormatError(
                f"{file.what}: expected key {key_id}, got key {key.public_key.canonical_id}",
                hint="Name the file after the key that is in it",
            )
        return key, passphrase

    def add(self, key: PrivateKey, role: str, gun: str, passphrase: bytes) -> Path:
        """Encrypt a key into the store; gives the path of its file.

        Raises:
            InputError: the key is there already, or the folder is not safe to write to.
            PassphraseError: *passphrase* is empty.
        """
        content = keyfile.encrypt(key, passphrase, role=role, gun=gun)
        return self._write(key.public_key.canonical_id, content)

    def encrypt_anew(self, entry: Entry, key: PrivateKey, passphrase: bytes) -> None:
        """Put the same key under another passphrase, with not a moment without a whole file.

        Raises:
            InputError: its file is not one of ours to write, or cannot be written.
            PassphraseError: *passphrase* is empty.
        """
        if entry.path.parent != self.private or entry.path.is_symlink():
            raise InputError(
                f"key {entry.key_id}: expected a file in {self.private}, got {entry.path}",
                hint="Import it first, with signimage key import",
            )
        content = keyfile.encrypt(key, passphrase, role=entry.role, gun=entry.gun)
        KeyFile.parse(content).decrypt(passphrase)  # what is replaced may be the only copy
        _check_private(self.private)
        try:
            with _written(self.private, content) as temporary:
                temporary.replace(entry.path)
            _settle(self.private)
        except OSError as error:
            raise InputError(f"key {entry.key_id} cannot be written: {error.strerror}") from error

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
        for folder in _LEGACY_FOLDERS:
            for path in _files(self.private / folder, "**/*.key"):
                if name := _LEGACY_NAME.fullmatch(path.name):
                    yield _entry(path, name[1], *named_so(path))

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


def named_so(path: Path) -> tuple[str, str]:
    """Give role and repository that the place of a key file says, as older clients chose it."""
    name = _LEGACY_NAME.fullmatch(path.name)
    folders = path.parent.parts
    below = [at + 1 for at, folder in enumerate(folders) if folder in _LEGACY_FOLDERS]
    return name[2] if name else "", "/".join(folders[below[-1] :]) if below else ""


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there yet.

    Raises:
        InputError: It is there, or cannot be written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise InputError(f"{path} is there already", hint="Choose another name") from error
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def terminal() -> Callable[[str], str] | None:
    """Give a prompt that reads without echo, or `None` where nobody can answer it."""
    interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()
    return getpass.getpass if interactive else None


def _whose(file: KeyFile, role: str) -> str:
    """Say whose key it is, as nobody knows keys by their IDs; the file may say anything."""
    text = " of ".join(filter(None, (file.role or role, file.gun)))[:300]
    return f" ({text})" if text else ""


def _variable(role: str) -> str:
    return ROOT_VARIABLE if role == ROOT else REPOSITORY_VARIABLE


def _decrypt(file: KeyFile, passphrase: bytes, hint: str) -> PrivateKey:
    try:
        return file.decrypt(passphrase)
    except PassphraseError as error:
        raise PassphraseError(str(error), hint=hint) from error


def _typed(prompt: Callable[[str], str], text: str) -> bytes:
    """Ask; names of files and what is in them cannot move the cursor of a terminal."""
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    try:
        return os.fsencode(prompt(shown).strip())
    except EOFError as error:
        raise PassphraseError("passphrase: expected an answer, got the end of the input") from error


def _twice(prompt: Callable[[str], str], what: str, name: str = "passphrase") -> bytes:
    """Ask for a passphrase that nothing can prove yet."""
    first = _typed(prompt, f"{name.capitalize()} for {_the(what)}: ")
    if len(os.fsdecode(first)) < _MIN_CHARACTERS:
        raise PassphraseError(
            f"{what}: expected a passphrase of at least {_MIN_CHARACTERS} characters, got fewer"
        )
    if _typed(prompt, "The same passphrase again: ") != first:
        raise PassphraseError(f"{what}: expected the same passphrase twice, got two")
    return first


def _the(what: str) -> str:
    return f"the {what}" if what.startswith("new ") else what


def _files(folder: Path, pattern: str) -> list[Path]:
    """List files, none if there is no such folder; one that cannot be looked into is no empty one.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        with os.scandir(folder):
            return sorted(path for path in folder.glob(pattern) if path.is_file())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"key folder {folder} cannot be read: {error.strerror}") from error


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(pem.MAX_SIZE + 1)
    except OSError as error:
        raise InputError(f"key file {path.name} cannot be read: {error.strerror}") from error


def _read(path: Path) -> KeyFile:
    return KeyFile.parse(_content(path), what=f"key file {path.name}")


def _entry(path: Path, key_id: str, role: str, gun: str) -> Entry:
    try:
        file = _read(path)
    except (FormatError, InputError) as error:
        return Entry(key_id, role, gun, path, fault=str(error))
    return Entry(key_id, file.role or role, file.gun or gun, path, encrypted=file.encrypted)


def _create(path: Path, content: bytes) -> None:
    """Write a new file, 0600 and whole from the moment it has its name (rule 2)."""
    with _written(path.parent, content) as temporary:
        os.link(temporary, path)  # refuses a name that is taken, which renaming would not


@contextmanager
def _written(folder: Path, content: bytes) -> Iterator[Path]:
    """Write a file, 0600, that has no name yet; gone afterwards unless the block moves it."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=".new-")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    if sys.platform == "win32":
        return  # folders cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
