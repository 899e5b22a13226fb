"""Rotation: new keys in the place of old ones, where a key leaked, was lost or grew old.

Rules of this file:

1. Every question is asked before the first file is written; a new key is on disk before anything
   that depends on it is sent, and goes again only where the server has certainly refused it.
2. The file of an old key is removed only after the publication was found again and verified, and
   only where no other repository can need it: root keys are never removed.
3. Whoever believes the old root believes the new one: both sign it.

`docs/rotation-and-revocation.md`; Notary v1, `docs/protocol.md`, "Root".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from signimage.administration import (
    check_not_expired,
    keys_at_hand,
    new_files,
    root_key_of,
)
from signimage.errors import InputError
from signimage.keys import PrivateKey, PublicKey, root_certificate
from signimage.keystore import ROOT as ROOT_KEY
from signimage.keystore import KeyStore, Passphrases
from signimage.metadata import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from signimage.notary import TrustServer
from signimage.succession import base_key_plan, signer_keys_plan
from signimage.trust import TrustedRepository, canonical_ids

# Who can hold the key of a base role besides the owner of the repository.
SERVER_ROLES = (SNAPSHOT, TIMESTAMP)
OWNER_ROLES = (TARGETS, SNAPSHOT)


@dataclass(frozen=True, slots=True)
class Rotation:
    """A base role whose key was replaced.

    Attributes:
        repository: What is believed now.
        role: The role.
        key_id: The canonical ID of its new key.
        removed: The canonical IDs of old keys whose files were removed.
    """

    repository: TrustedRepository
    role: str
    key_id: str
    removed: tuple[str, ...] = ()


def rotate_to_server(
    server: TrustServer, store: KeyStore, passphrases: Passphrases, role: str
) -> Rotation:
    """Have the server make a new key for `snapshot` or `timestamp`, and sign with it.

    Raises:
        InputError: The server cannot hold the key of *role*, or the root key is not in *store*.
        SignImageError: The change could not be published.
    """
    if role not in SERVER_ROLES:
        raise InputError(
            f"role {role[:100]!r}: expected one that the trust server can sign, "
            f"{' or '.join(SERVER_ROLES)}"
        )
    before = server.refresh()
    keys = keys_at_hand(before, store, passphrases, ROOT)
    return _replaced(server, store, before, (role, server.api.new_key(role)), keys)


def rotate_here(
    server: TrustServer, store: KeyStore, passphrases: Passphrases, role: str
) -> Rotation:
    """Make a new key for `targets` or `snapshot` in *store*.

    Whoever publishes needs the snapshot key then, so that no pipeline without it can sign.

    Raises:
        InputError: Nobody but the server can hold the key of *role*, or the root key is not in
            *store*.
        SignImageError: The change could not be published.
    """
    if role not in OWNER_ROLES:
        raise InputError(
            f"role {role[:100]!r}: expected one whose key its owner can hold, "
            f"{' or '.join(OWNER_ROLES)}"
        )
    before = server.refresh()
    keys = keys_at_hand(before, store, passphrases, ROOT)
    passphrase = passphrases.choose(role)
    new = PrivateKey.generate_ecdsa()
    with new_files() as files:
        files.append(store.add(new, role, server.gun, passphrase))
        at_hand = {**keys, new.public_key.canonical_id: new}
        return _replaced(server, store, before, (role, new.public_key), at_hand)


def rotate_root(server: TrustServer, store: KeyStore, passphrases: Passphrases) -> Rotation:
    """Make a new root key in *store* for one repository; others keep the one that they have.

    Raises:
        InputError: The old root key is not in *store*.
        SignImageError: The change could not be published.
    """
    before = server.refresh()
    keys = keys_at_hand(before, store, passphrases, ROOT)
    passphrase = passphrases.choose(ROOT_KEY)
    new = PrivateKey.generate_ecdsa()
    with new_files() as files:
        files.append(store.add(new, ROOT_KEY, "", passphrase))
        return _with_root(server, store, before, new, keys)


def rotate_root_to(
    server: TrustServer, store: KeyStore, passphrases: Passphrases, key_id: str
) -> Rotation:
    """Give the root role to the root key *key_id* of *store*, in a new certificate.

    The key that the role has already is fine: its certificate and the root file begin a new life.

    Raises:
        InputError: One of the two keys is not in *store*.
        SignImageError: The change could not be published.
    """
    before = server.refresh()
    keys = keys_at_hand(before, store, passphrases, ROOT)
    new = keys.get(key_id) or root_key_of(store, passphrases, key_id)
    return _with_root(server, store, before, new, keys)


def renew_root(server: TrustServer, store: KeyStore, passphrases: Passphrases) -> Rotation:
    """Sign the root again with the key that it has, in a new certificate.

    Raises:
        InputError: The root key is not in *store*.
        SignImageError: The change could not be published.
    """
    before = server.refresh()
    keys = keys_at_hand(before, store, passphrases, ROOT)
    key_id = next(each for each in canonical_ids(*before.role_keys(ROOT)) if each in keys)
    return _with_root(server, store, before, keys[key_id], keys)


def replace_signer_keys(
    server: TrustServer,
    store: KeyStore,
    passphrases: Passphrases,
    name: str,
    keys: Sequence[PublicKey],
) -> TrustedRepository:
    """Put *keys* in the place of all keys of the signer *name*; what was signed stays signed.

    Raises:
        InputError: There is no such signer, the repository key is not in *store*, or a
            certificate has expired.
        NotASignerError: The new key is not in *store*, and has not signed yet.
        SignImageError: The change could not be published.
    """
    check_not_expired(keys, server.clock())
    before = server.refresh()
    at_hand = keys_at_hand(before, store, passphrases, TARGETS)
    held = [key.canonical_id for key in keys if store.find(key.canonical_id)]
    at_hand |= {key_id: store.load(key_id, passphrases) for key_id in held[:1]}
    return server.publish(signer_keys_plan(name, keys, list(at_hand)), at_hand).repository


def _with_root(
    server: TrustServer,
    store: KeyStore,
    before: TrustedRepository,
    new: PrivateKey,
    keys: Mapping[str, PrivateKey],
) -> Rotation:
    certified = root_certificate(new, server.gun, server.clock())
    at_hand = {**keys, new.public_key.canonical_id: new}
    return _replaced(server, store, before, (ROOT, certified), at_hand)


def _replaced(
    server: TrustServer,
    store: KeyStore,
    before: TrustedRepository,
    change: tuple[str, PublicKey],
    keys: Mapping[str, PrivateKey],
) -> Rotation:
    """Publish a new key for a role, and then remove what nobody needs any more (rule 2)."""
    role, key = change
    after = server.publish(base_key_plan(role, key), keys).repository
    old = set(canonical_ids(*before.role_keys(role))) - {key.canonical_id}
    removed = [key_id for key_id in sorted(old) if _remove(store, key_id, role, server.gun)]
    return Rotation(after, role, key.canonical_id, tuple(removed))


def _remove(store: KeyStore, key_id: str, role: str, gun: str) -> bool:
    """Remove the key file of *role* in the repository *gun*; tells whether there was one."""
    entry = store.find(key_id)
    if entry is None or (entry.role, entry.gun) != (role, gun):
        return False
    if role == ROOT or entry.path.parent != store.private:
        return False  # older clients' folders are never changed
    entry.path.unlink()
    return True
