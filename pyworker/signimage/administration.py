"""Keys and repositories: what an owner does once, so that pipelines can sign ever after.

Every function is a use case: it looks first, changes what is missing, and can be run again.
A private key is on disk before anything that depends on it is published, and is removed again
only when the trust server has certainly refused it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from signimage.errors import (
    ConflictError,
    InputError,
    NotASignerError,
    NotInitializedError,
    PassphraseError,
    RemoteError,
    UnavailableError,
    UnreachableError,
)
from signimage.filemeta import FileMeta
from signimage.keys import PrivateKey, PublicKey, certificate, root_certificate
from signimage.keystore import ROOT as ROOT_KEY
from signimage.keystore import KeyStore, Passphrases
from signimage.lookup import signers, signers_of
from signimage.metadata import RELEASES, ROOT, TARGETS, Role
from signimage.notary import TrustServer
from signimage.publication import (
    Recovery,
    check_signer_name,
    signer_plan,
    signer_removal_plan,
    witness_plan,
)
from signimage.trust import TrustedRepository, canonical_ids


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made: its canonical ID, and where its two halves are."""

    key_id: str
    private: Path
    public: Path


@dataclass(frozen=True, slots=True)
class Initialisation:
    """A repository with trust data, and whether it had some before."""

    repository: TrustedRepository
    existed: bool


def generate_key(store: KeyStore, passphrases: Passphrases, name: str, folder: Path) -> NewKey:
    """Make a signing key: the private half into *store*, `NAME.pub` into *folder*.

    Raises:
        InputError: The name is not a legal signer name, or `NAME.pub` is there already.
        PassphraseError: There is no passphrase for the new key.
    """
    check_signer_name(name)
    public = folder / f"{name}.pub"
    if public.exists():
        raise InputError(f"{public} is there already", hint="Choose another name or folder")
    key = PrivateKey.generate_ecdsa()
    private = store.add(key, name, "", passphrases.choose(name))
    try:
        with public.open("xb") as file:
            file.write(key.public_key.to_pem(name))
    except OSError as error:
        private.unlink()
        raise InputError(f"{public} cannot be written: {error.strerror}") from error
    return NewKey(key.public_key.canonical_id, private, public)


def initialise_repository(
    server: TrustServer, store: KeyStore, passphrases: Passphrases
) -> Initialisation:
    """Create the trust data of a repository, unless it has some.

    The root key is the first one in *store*, or a new one; the repository key is always new.

    Raises:
        ConflictError: Somebody else initialised the repository at the same moment.
        RemoteError: The trust server refused or could not be reached.
    """
    try:
        return Initialisation(server.refresh(), existed=True)
    except NotInitializedError:
        server.check_never_seen()  # before there are keys for it
    root_key = _root_key(store, passphrases)
    targets_key = PrivateKey.generate_ecdsa()
    file = store.add(targets_key, TARGETS, server.gun, passphrases.choose(TARGETS))
    root = root_certificate(root_key, server.gun, server.clock())
    at_hand = {key.public_key.canonical_id: key for key in (root_key, targets_key)}
    try:
        repository = server.initialise(root, targets_key.public_key, at_hand)
    except (UnreachableError, UnavailableError):
        raise  # it may have arrived: the key may be the only one there is
    except RemoteError:
        file.unlink()
        raise
    return Initialisation(repository, existed=False)


def add_signer(
    server: TrustServer,
    store: KeyStore,
    passphrases: Passphrases,
    name: str,
    keys: Sequence[PublicKey],
) -> TrustedRepository:
    """Let *keys* sign in the repository as *name*.

    Raises:
        InputError: The repository key is not in *store*, or a certificate has expired.
        SignImageError: The change could not be published.
    """
    plan = signer_plan(name, keys)
    for key in keys:
        _check_not_expired(key, server.clock())
    owner = _repository_key(server, server.refresh(), store, passphrases)
    return server.publish(plan, owner).repository


def remove_signer(
    server: TrustServer, store: KeyStore, passphrases: Passphrases, name: str
) -> TrustedRepository:
    """Take from the signer *name* the right to sign; what others released stays valid.

    Where another signer's key is in *store* and can be unlocked, that one signs the releases again.

    Raises:
        InputError: There is no such signer, or the repository key is not in *store*.
        NotASignerError: The signer signed last, and no other signer's key is in *store*.
        ConflictError: None is, and the signer signed at the moment of being removed.
        SignImageError: The change could not be published.
    """
    repository = server.refresh()
    known = {signer.name: signer for signer in signers(repository)}
    if name not in known:
        raise InputError(
            f"{server.gun} has no signer {name}; its signers are {', '.join(known) or 'none'}"
        )
    others = [key_id for each in known.values() if each.name != name for key_id in each.key_ids]
    held = [key_id for key_id in dict.fromkeys(others) if store.find(key_id)]
    held.sort(key=lambda key_id: key_id not in _releasers(repository))
    keys = _repository_key(server, repository, store, passphrases)
    try:
        keys |= {key_id: store.load(key_id, passphrases) for key_id in held[:1]}
    except PassphraseError:
        if _is_last_to_sign(repository, name):
            raise
    after = server.publish(signer_removal_plan(name, list(keys)), keys).repository
    if after.rejection(RELEASES) and not repository.rejection(RELEASES):
        raise ConflictError(
            f"signer {name} was removed from {server.gun} and signed {RELEASES} at the same "
            "moment, so that nobody's release counts any more",
            hint="Begin that role anew where the key of another signer is: "
            f"signimage witness --drop {server.gun} {RELEASES}; then sign the tags again",
        )
    return after


def witness(
    server: TrustServer,
    store: KeyStore,
    passphrases: Passphrases,
    roles: Sequence[str],
    recovery: Recovery,
) -> TrustedRepository:
    """Sign *roles* that are invalid again, with keys from *store*.

    Raises:
        InputError: No key of one of the roles is in *store*.
        TrustError: A role has not merely expired, and *recovery* does not drop its content.
        SignImageError: The change could not be published.
    """
    repository = server.refresh()
    keys: dict[str, PrivateKey] = {}
    for role in roles:
        ids = canonical_ids(*repository.role_keys(role))
        held = next((key_id for key_id in ids if store.find(key_id)), None)
        if held is None:
            raise InputError(f"{role} of {server.gun}: no key of {' or '.join(ids)} is at hand")
        keys[held] = store.load(held, passphrases)
    return server.publish(witness_plan(roles, recovery), keys).repository


def inspection(name: str, repository: TrustedRepository) -> dict[str, Any]:
    """What `docker trust inspect` prints of a repository; *name* is what the user typed."""
    signed = [
        {"SignedTag": tag, "Digest": meta.sha256.hex(), "Signers": _signers(repository, tag, meta)}
        for tag, meta in sorted(_released(repository), key=lambda row: _natural(row[0]))
    ]
    people = [
        {"Name": signer.name, "Keys": [{"ID": key_id} for key_id in signer.key_ids]}
        for signer in sorted(signers(repository), key=lambda signer: signer.name, reverse=True)
    ]
    roles = repository.root.body.roles
    return {
        "Name": name,
        "SignedTags": signed,
        "Signers": people,
        "AdministrativeKeys": [
            {"Name": "Root", "Keys": _key_ids(roles[ROOT])},
            {"Name": "Repository", "Keys": _key_ids(roles[TARGETS])},
        ],
    }


def _repository_key(
    server: TrustServer,
    repository: TrustedRepository,
    store: KeyStore,
    passphrases: Passphrases,
) -> dict[str, PrivateKey]:
    ids = canonical_ids(*repository.role_keys(TARGETS))
    held = next((key_id for key_id in ids if store.find(key_id)), None)
    if held is None:
        raise InputError(
            f"{server.gun}: its repository key {' or '.join(ids)} is not in {store.private}",
            hint="Signers are changed where that key is kept, by the owner of the repository",
        )
    return {held: store.load(held, passphrases)}


def _releasers(repository: TrustedRepository) -> tuple[str, ...]:
    """Canonical IDs of the keys that may sign `targets/releases`."""
    entries = [each for each in repository.targets().children(TARGETS) if each.name == RELEASES]
    return canonical_ids(*repository.role_keys(RELEASES)) if entries else ()


def _is_last_to_sign(repository: TrustedRepository, name: str) -> bool:
    try:
        signer_removal_plan(name, [])(repository)
    except NotASignerError:
        return True
    return False


def _check_not_expired(key: PublicKey, now: datetime) -> None:
    if key.bare is not key and certificate(key).not_after < now:
        raise InputError(
            f"signer key {key.key_id}: its certificate expired at "
            f"{certificate(key).not_after:%Y-%m-%dT%H:%M:%SZ}",
            hint="Give a certificate that is still valid, or the bare public key",
        )


def _root_key(store: KeyStore, passphrases: Passphrases) -> PrivateKey:
    for entry in store.entries():
        if entry.role == ROOT_KEY and not entry.fault:
            return store.load(entry.key_id, passphrases)
    key = PrivateKey.generate_ecdsa()
    store.add(key, ROOT_KEY, "", passphrases.choose(ROOT_KEY))
    return key


def _released(repository: TrustedRepository) -> Iterator[tuple[str, FileMeta]]:
    """Every tag with every content that consumers might be given, each once."""
    seen = set()
    for role in (RELEASES, TARGETS):
        for tag, meta in repository.targets(role).targets.items():
            if (tag, meta.sha256) not in seen:
                seen.add((tag, meta.sha256))
                yield tag, meta


def _signers(repository: TrustedRepository, tag: str, meta: FileMeta) -> list[str]:
    return list(signers_of(repository, tag, meta)) or ["Repo Admin"]


def _key_ids(role: Role) -> list[dict[str, str]]:
    return [{"ID": key_id} for key_id in role.keyids]


def _natural(tag: str) -> list[tuple[int, int, str]]:
    """Sort key that puts v9 before v10 and numbers before words, as Docker does."""
    parts = re.findall(r"[0-9]+|[^0-9]+", tag)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
