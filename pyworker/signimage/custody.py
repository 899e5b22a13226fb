"""Keys on a workstation: brought in, listed, given out, under another passphrase.

Every function looks first and changes what is missing, so that it can be run again. No private
key leaves the store but encrypted, and no file is written over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from signimage import certificates, pem
from signimage.certificates import Certificate
from signimage.errors import FormatError, InputError, PassphraseError
from signimage.keyfile import KeyFile, for_travel
from signimage.keys import PrivateKey, PublicKey
from signimage.keystore import ROOT as ROOT_KEY
from signimage.keystore import Entry, KeyStore, Passphrases, named_so
from signimage.lookup import signers
from signimage.metadata import RELEASES, ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from signimage.publication import check_signer_name
from signimage.trust import TrustedRepository, canonical_ids

# What a key is called that nobody named, as `docker trust key load` does.
UNNAMED = "signer"

_OF_REPOSITORIES = (TARGETS, SNAPSHOT)  # roles whose key files name their repository


@dataclass(frozen=True, slots=True)
class Found:
    """A private key in some file, not decrypted, with what that file says of it.

    `certificate` is the one that stood beside it.
    """

    file: KeyFile
    role: str
    gun: str
    certificate: Certificate | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """A key that is in the store now; `existed` if it was before, and then nothing has changed."""

    key_id: str
    role: str
    gun: str
    path: Path
    existed: bool


def keys_in(path: Path) -> Iterator[Found]:
    """Yield the private keys of a file, or of a folder in the layout of Docker and Notary.

    Raises:
        InputError: *path* cannot be read, or is a folder without keys.
        FormatError: A file holds no private key, or a damaged one.
    """
    if path.is_dir():
        yield from _in_folder(path)
        return
    data = _read(path)
    bundle = [
        certificates.parse(block.content, what=str(path))
        for block in _blocks(data, path)
        if block.label == certificates.LABEL
    ]
    for file in KeyFile.every(data, what=str(path)):
        yield Found(file, file.role, file.gun, bundle[0] if bundle else None)


def import_key(
    store: KeyStore, passphrases: Passphrases, found: Found, role: str = "", gun: str = ""
) -> Imported:
    """Bring a key into the store; an encrypted one keeps its passphrase, others get one.

    Args:
        store: Where it goes.
        passphrases: For opening it, and for a key that has none.
        found: The key.
        role: "root", "targets", "snapshot" or the signer's name; counts before what its file says.
        gun: The repository, for "targets" and "snapshot"; counts before what its file says.

    Raises:
        InputError: The role and the repository do not fit, or the store cannot be written to.
        PassphraseError: The passphrase is missing or wrong.
        FormatError: The key is damaged, or the certificate beside it belongs to another.
    """
    if role not in ("", ROOT_KEY, *_OF_REPOSITORIES):
        check_signer_name(role)
    role, gun = role or found.role or UNNAMED, gun or found.gun
    if role in _OF_REPOSITORIES and not gun:
        raise InputError(
            f"{found.file.what}: expected the repository of the {role} key, got none",
            hint="Give --gun",
        )
    key, passphrase = passphrases.opened(found.file, role)
    _check_certificate(found, key)
    key_id = key.public_key.canonical_id
    if entry := store.find(key_id):
        return Imported(key_id, entry.role, entry.gun, entry.path, existed=True)
    kept_gun = gun if role in _OF_REPOSITORIES else ""
    path = store.add(key, role, kept_gun, passphrase or passphrases.choose(role))
    return Imported(key_id, role, kept_gun, path, existed=False)


def encrypted_file(store: KeyStore, entry: Entry) -> bytes:
    """Give a key file, encrypted as it is, with headers that tell other stores where it belongs.

    Raises:
        InputError: It is not, or cannot be read.
        FormatError: It is damaged.
    """
    data, what = store.content(entry), f"key file {entry.path.name}"
    if not KeyFile.parse(data, what=what).encrypted:
        raise InputError(
            f"key {entry.key_id} is not encrypted: expected a passphrase before it leaves",
            hint=f"Give it one, with signimage key passwd {entry.key_id[:12]}",
        )
    return for_travel(data, entry.key_id, entry.role, entry.gun, what=what)


def public_file(store: KeyStore, passphrases: Passphrases, entry: Entry) -> bytes:
    """Give the public half of a key, as `signer add` takes it; errors as `KeyStore.load`."""
    return store.load(entry.key_id, passphrases).public_key.to_pem(entry.role)


def change_passphrase(store: KeyStore, passphrases: Passphrases, entry: Entry) -> bytes:
    """Put a key under another passphrase, and give that.

    Raises:
        PassphraseError: The old one is missing or wrong, the new one missing or too short.
        InputError: The file cannot be replaced.
        FormatError: It is damaged.
    """
    key = store.load(entry.key_id, passphrases)
    new = passphrases.replacement(f"key {entry.key_id[:12]} ({entry.role or 'no role'})")
    if not new:
        raise PassphraseError("new passphrase: expected one, got none")
    store.encrypt_anew(entry, key, new)
    return new


def rights(repository: TrustedRepository) -> dict[str, list[str]]:
    """What each key may sign in a repository: role names, by canonical key ID."""
    found: dict[str, list[str]] = {}
    roles = [ROOT, TARGETS, SNAPSHOT, TIMESTAMP]
    roles += [signer.role for signer in signers(repository)]
    if any(each.name == RELEASES for each in repository.targets().children(TARGETS)):
        roles.append(RELEASES)
    for role in roles:
        for key_id in canonical_ids(*repository.role_keys(role)):
            found.setdefault(key_id, []).append(role)
    return found


def _in_folder(folder: Path) -> Iterator[Found]:
    """A trust directory, or any folder below or instead of it; older clients' layout too."""
    paths = sorted(path for path in folder.rglob("*.key") if path.is_file())
    if not paths:
        raise InputError(
            f"{folder}: expected key files that end in .key, got none",
            hint="Give the key file itself",
        )
    for path in paths:
        role, gun = named_so(path)
        for file in KeyFile.every(_read(path), what=str(path)):
            yield Found(file, file.role or role, file.gun or gun)


def _check_certificate(found: Found, key: PrivateKey) -> None:
    if found.certificate is None:
        return
    beside = PublicKey(key.public_key.keytype, found.certificate.subject_public_key)
    if beside != key.public_key:
        raise FormatError(
            f"{found.file.what}: expected the certificate of this key, got that of another"
        )


def _blocks(data: bytes, path: Path) -> tuple[pem.Block, ...]:
    try:
        return pem.read(data, what=str(path))
    except FormatError:
        return ()  # which the reader of keys says better


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(pem.MAX_SIZE + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
