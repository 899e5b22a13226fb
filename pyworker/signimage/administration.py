"""Keys and repositories: what an owner does once, so that pipelines can sign ever after.

Every function is a use case: it looks first, changes what is missing, and can be run again.
A private key is on disk before anything that depends on it is published, and is removed again
only when the trust server has certainly refused it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from signimage.errors import (
    ConflictError,
    ExpiredError,
    FormatError,
    InputError,
    NotASignerError,
    NotInitializedError,
    PassphraseError,
    SignImageError,
    UnavailableError,
    UnreachableError,
)
from signimage.filemeta import FileMeta
from signimage.keys import P256, PrivateKey, PublicKey, certificate, root_certificate
from signimage.keystore import ROOT as ROOT_KEY
from signimage.keystore import KeyStore, Passphrases, write_new
from signimage.lookup import natural, orphans_releases, releasers, signers, signers_of
from signimage.metadata import (
    RELEASES,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Body,
    Delegation,
    Role,
    Targets,
)
from signimage.notary import TrustServer
from signimage.publication import (
    Recovery,
    check_signer_name,
    signer_plan,
    signer_removal_plan,
    witness_plan,
)
from signimage.succession import again_plan
from signimage.trust import TrustedRepository, canonical_ids

# What people call the keys of these roles.
_KEY_NAMES = {ROOT: "root key", TARGETS: "repository key"}


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


def generate_key(
    store: KeyStore, passphrases: Passphrases, name: str, folder: Path, kind: str = P256
) -> NewKey:
    """Make a signing key of a *kind*: the private half into *store*, `NAME.pub` into *folder*.

    Raises:
        InputError: The name is not a legal signer name, or `NAME.pub` is there already.
        PassphraseError: There is no passphrase for the new key.
    """
    check_signer_name(name)
    public = folder / f"{name}.pub"
    if public.exists():
        raise InputError(f"{public} is there already", hint="Choose another name or folder")
    key = PrivateKey.generate(kind)
    private = store.add(key, name, "", passphrases.choose(name))
    try:
        write_new(public, key.public_key.to_pem(name), 0o666)
    except BaseException:  # Ctrl-C, too, leaves no half of a key
        private.unlink()
        raise
    return NewKey(key.public_key.canonical_id, private, public)


def initialise_repository(
    server: TrustServer, store: KeyStore, passphrases: Passphrases, *, root_key_id: str = ""
) -> Initialisation:
    """Create the trust data of a repository, unless it has some.

    Args:
        server: Where, and which repository.
        store: Holds the root key, and will hold the repository key, which is always new.
        passphrases: For both.
        root_key_id: The canonical ID of a root key in *store*; by default the only one, or a new
            one.

    Raises:
        InputError: There is no such root key, or the choice is not made.
        ConflictError: Somebody else initialised the repository at the same moment.
        RemoteError: The trust server refused or could not be reached.
    """
    try:
        return Initialisation(server.refresh(), existed=True)
    except NotInitializedError:
        server.check_never_seen()  # before there are keys for it
    known = root_key_id or _only_root_key(store)
    root_key = root_key_of(store, passphrases, known) if known else PrivateKey.generate_ecdsa()
    # Whoever answers no question any more has left nothing behind.
    root_passphrase = b"" if known else passphrases.choose(ROOT_KEY)
    passphrase = passphrases.choose(TARGETS)
    targets_key = PrivateKey.generate_ecdsa()
    root = root_certificate(root_key, server.gun, server.clock())
    at_hand = {key.public_key.canonical_id: key for key in (root_key, targets_key)}
    with new_files() as files:
        if not known:
            files.append(store.add(root_key, ROOT_KEY, "", root_passphrase))
        files.append(store.add(targets_key, TARGETS, server.gun, passphrase))
        repository = server.initialise(root, targets_key.public_key, at_hand)
    return Initialisation(repository, existed=False)


@contextmanager
def new_files() -> Iterator[list[Path]]:
    """Collect the files of new keys; where the server certainly refuses them, they go again.

    What may have arrived is kept: its key may be the only one there is.
    """
    files: list[Path] = []
    try:
        yield files
    except (UnreachableError, UnavailableError):
        raise
    except SignImageError as error:
        if not error.state:
            for file in files:
                file.unlink()
        raise


def add_signer(
    server: TrustServer,
    store: KeyStore,
    passphrases: Passphrases,
    name: str,
    keys: Sequence[PublicKey],
    *,
    again: bool = False,
) -> TrustedRepository:
    """Let *keys* sign in the repository as *name*.

    Args:
        server: The repository.
        store: Holds the repository key.
        passphrases: For that key.
        name: The signer's name.
        keys: Any one of them may sign.
        again: Allow a name that a removed signer had; with the same key, what that one signed
            counts again.

    Where every signer was removed before, `targets/releases` is begun anew with a key of *name*:
    what the trust server still holds of it, nobody who is left has signed.

    Raises:
        InputError: The repository key is not in *store*, or a certificate has expired; or the
            releases must be begun anew, and no key of *name* is in *store*.
        SignImageError: The change could not be published.
    """
    plan = signer_plan(name, keys, again=again)
    check_not_expired(keys, server.clock())
    repository = server.refresh()
    owner = keys_at_hand(repository, store, passphrases, TARGETS)
    if not orphans_releases(repository):
        return server.publish(plan, owner).repository
    held = [key.canonical_id for key in keys if store.find(key.canonical_id)][:1]
    if not held and not again:
        raise InputError(
            f"signer {name} would be the only one of {server.gun}, and those who signed "
            f"{RELEASES} are gone: no consumer would get anything",
            hint=f"Add {name} where its private key is as well, or with --again, and then where "
            f"that key is run: signimage witness --drop {server.gun} {RELEASES}",
        )
    beginners = {key_id: store.load(key_id, passphrases) for key_id in held}
    after = server.publish(plan, owner).repository
    if beginners and after.rejection(RELEASES):
        anew = witness_plan((RELEASES,), Recovery.DROP)
        after = server.publish(anew, owner | beginners).repository
    return after


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
    may_release = releasers(repository)
    held.sort(key=lambda key_id: key_id not in may_release)
    keys = keys_at_hand(repository, store, passphrases, TARGETS)
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
    try:
        repository = server.refresh()
    except ExpiredError:
        if TARGETS not in roles:
            raise
        return _revive(server, store, passphrases, roles, recovery)
    keys = keys_at_hand(repository, store, passphrases, *roles)
    return server.publish(witness_plan(roles, recovery), keys).repository


def _revive(
    server: TrustServer,
    store: KeyStore,
    passphrases: Passphrases,
    roles: Sequence[str],
    recovery: Recovery,
) -> TrustedRepository:
    """Do as `witness` where `targets` has expired, on which all else stands.

    It is renewed when its signers are changed alone, so this is how repositories grow old.
    """
    server.ignores_expiry = True
    try:
        keys = keys_at_hand(server.refresh(), store, passphrases, *roles)
        server.publish(witness_plan(roles, recovery), keys)
    finally:
        server.ignores_expiry = False
    return server.refresh()


def sign_again(
    server: TrustServer,
    store: KeyStore,
    passphrases: Passphrases,
    roles: Sequence[str],
    recovery: Recovery,
) -> TrustedRepository:
    """Sign *roles* again, valid or not, with the newest key of each that is in *store*.

    Nothing is sent where that key has signed already, and the role does not end soon.

    Raises:
        InputError: No key of one of the roles is in *store*.
        TrustError: A role has not merely expired, and *recovery* does not drop its content.
        SignImageError: The change could not be published.
    """
    repository = server.refresh()
    newest = []
    for role in roles:
        newest += held_keys(repository, store, role)[-1:]
    beside = (TARGETS,) if SNAPSHOT in roles else ()  # what a new snapshot goes with
    keys = keys_at_hand(repository, store, passphrases, *roles, *beside)
    keys |= {key_id: store.load(key_id, passphrases) for key_id in newest if key_id not in keys}
    return server.publish(again_plan(roles, newest, recovery), keys).repository


def inspection(name: str, repository: TrustedRepository) -> dict[str, Any]:
    """What `docker trust inspect` prints of a repository; *name* is what the user typed."""
    signed = [
        {"SignedTag": tag, "Digest": meta.sha256.hex(), "Signers": _signers(repository, tag, meta)}
        for tag, meta in sorted(_released(repository), key=lambda row: natural(row[0]))
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


def full_inspection(name: str, repository: TrustedRepository) -> dict[str, Any]:
    """What `inspection` says, and beside it each role: keys, threshold, paths, version, expiry."""
    return {
        **inspection(name, repository),
        "Roles": [
            *(_base_role(repository, role) for role in (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)),
            *(_delegated_role(repository, entry) for entry in repository.delegations()),
        ],
        "Warnings": list(repository.warnings),
    }


def _base_role(repository: TrustedRepository, name: str) -> dict[str, Any]:
    bodies: dict[str, Body] = {
        ROOT: repository.root.body,
        TARGETS: repository.targets(),
        SNAPSHOT: repository.snapshot.body,
        TIMESTAMP: repository.timestamp.body,
    }
    return _described(repository, name, bodies[name])


def _delegated_role(repository: TrustedRepository, entry: Delegation) -> dict[str, Any]:
    rejection = repository.rejection(entry.name)
    paths = {"Paths": list(entry.paths or ())}
    if rejection is None:
        return {**_described(repository, entry.name, repository.targets(entry.name)), **paths}
    content = rejection.expired or replace(Targets.empty(), version=rejection.version)
    described = _described(repository, entry.name, content)
    return {**described, **paths, "Problem": str(rejection.error)}


def _described(repository: TrustedRepository, name: str, body: Body) -> dict[str, Any]:
    role, keys = repository.role_keys(name)
    return {
        "Name": name,
        "Version": body.version,
        "Expires": body.expires.text if body.version else "",
        "Threshold": role.threshold,
        "Keys": [_key_details(keys[key_id]) for key_id in role.keyids],
    }


def _key_details(key: PublicKey) -> dict[str, str]:
    details = {"ID": key.key_id, "Type": key.keytype}
    if key.bare is not key:
        with suppress(FormatError):  # nobody can sign with a certificate that nobody can read
            details |= {
                "CanonicalID": key.canonical_id,
                "CertificateExpires": f"{certificate(key).not_after:%Y-%m-%dT%H:%M:%SZ}",
            }
    return details


def keys_at_hand(
    repository: TrustedRepository, store: KeyStore, passphrases: Passphrases, *roles: str
) -> dict[str, PrivateKey]:
    """As many keys of each of *roles* as it needs, from *store*, by canonical ID.

    Where the snapshot key is in *store*, too, it is among them: no server signs snapshots then.

    Raises:
        InputError: A role has too few keys there.
        PassphraseError: One cannot be unlocked.
    """
    wanted: list[str] = []
    for name in roles:
        role, keys = repository.role_keys(name)
        held = held_keys(repository, store, name)
        if len(held) < role.threshold:
            raise _not_in_store(repository.gun, name, canonical_ids(role, keys), store)
        wanted += held[: role.threshold]
    wanted += held_keys(repository, store, SNAPSHOT)
    return {key_id: store.load(key_id, passphrases) for key_id in dict.fromkeys(wanted)}


def held_keys(repository: TrustedRepository, store: KeyStore, role: str) -> list[str]:
    """Canonical IDs of those keys of *role* that *store* has, in the role's order."""
    return [each for each in canonical_ids(*repository.role_keys(role)) if store.find(each)]


def _not_in_store(gun: str, role: str, ids: Sequence[str], store: KeyStore) -> InputError:
    if role not in _KEY_NAMES:
        return InputError(f"{role} of {gun}: no key of {' or '.join(ids)} is at hand")
    return InputError(
        f"{gun}: its {_KEY_NAMES[role]} {' or '.join(ids)} is not in {store.private}",
        hint="Signers are changed where that key is kept, by the owner of the repository"
        if role == TARGETS
        else "Do this where that key is kept, by its owner",
    )


def _is_last_to_sign(repository: TrustedRepository, name: str) -> bool:
    try:
        signer_removal_plan(name, [])(repository)
    except NotASignerError:
        return True
    return False


def check_not_expired(keys: Sequence[PublicKey], now: datetime) -> None:
    """Refuse signer keys in certificates that have expired.

    Raises:
        InputError: One has.
    """
    for key in keys:
        if key.bare is not key and certificate(key).not_after < now:
            raise InputError(
                f"signer key {key.key_id}: its certificate expired at "
                f"{certificate(key).not_after:%Y-%m-%dT%H:%M:%SZ}",
                hint="Give a certificate that is still valid, or the bare public key",
            )


def _only_root_key(store: KeyStore) -> str:
    """The root key that is there, or none; of several one may have been replaced as it leaked."""
    known = [each.key_id for each in store.entries() if each.role == ROOT_KEY and not each.fault]
    if len(known) > 1:
        text = f"root key: expected one in {store.private}, got {', '.join(known)}"
        raise InputError(text, hint="Say with --key which one to use")
    return known[0] if known else ""


def root_key_of(store: KeyStore, passphrases: Passphrases, key_id: str) -> PrivateKey:
    """The root key with the canonical ID *key_id* from *store*.

    Raises:
        InputError: There is none, or the key is not for roots.
    """
    entry = store.find(key_id)
    if entry is None or entry.role != ROOT_KEY:
        known = [each.key_id for each in store.entries() if each.role == ROOT_KEY]
        raise InputError(
            f"root key: expected one of {' or '.join(known) or 'none'} in {store.private}, "
            f"got {key_id}"
        )
    return store.load(key_id, passphrases)


def _released(repository: TrustedRepository) -> Iterator[tuple[str, FileMeta]]:
    """Every tag with every content that consumers might be given, each once."""
    seen = set()
    for role in (RELEASES, TARGETS):
        for tag, meta in repository.targets(role).targets.items():
            if (tag, meta.sha256) not in seen and repository.admits(role, tag):
                seen.add((tag, meta.sha256))
                yield tag, meta


def _signers(repository: TrustedRepository, tag: str, meta: FileMeta) -> list[str]:
    return list(signers_of(repository, tag, meta)) or ["Repo Admin"]


def _key_ids(role: Role) -> list[dict[str, str]]:
    return [{"ID": key_id} for key_id in role.keyids]
