"""Acceptance cases 36 and 37: making keys, and the passphrases for them."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from signimage.administration import generate_key, remove_signer
from signimage.errors import (
    FormatError,
    InputError,
    PassphraseError,
)
from signimage.keys import PrivateKey, PublicKey
from signimage.keystore import REPOSITORY_VARIABLE, KeyStore, Passphrases
from signimage.lookup import released
from signimage.metadata import RELEASES
from unit.disks import full_disk
from unit.repositories import (
    GUN,
    IMAGE,
    GoodRepository,
    good_targets,
    key,
)
from unit.trust_server import (
    CI,
    Peer,
)

OWNER = key("targets").public_key.canonical_id
QA = key("qa").public_key.canonical_id
WORDS = {
    "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": "root words",
    "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "wörter %;\"'",
}
PASSPHRASES = Passphrases(WORDS)


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    """The owner's key store: the repository key, and that of the signer `ci`."""
    it = KeyStore(tmp_path / "owner")
    secret = WORDS["DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"].encode()
    it.add(key("targets"), "targets", GUN, secret)
    it.add(key("ci"), "ci", "", secret)
    return it


@pytest.mark.parametrize("name", ["releases", "Bad", "a b", ""])
def test_a_key_with_an_illegal_name_is_not_made(tmp_path: Path, name: str) -> None:
    """Case 36: neither half of it."""
    keys = KeyStore(tmp_path / "keys")
    with pytest.raises(InputError, match="signer name"):
        generate_key(keys, PASSPHRASES, name, tmp_path)
    assert keys.entries() == ()


def test_a_public_key_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    """Case 36: and no private half is left behind."""
    keys = KeyStore(tmp_path / "keys")
    (tmp_path / "qa.pub").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"qa\.pub is there already"):
        generate_key(keys, PASSPHRASES, "qa", tmp_path)
    assert ((tmp_path / "qa.pub").read_bytes(), keys.entries()) == (b"mine", ())


def test_a_public_half_that_cannot_be_written_leaves_neither_half(tmp_path: Path) -> None:
    """Case 36: where the disk is full once the private half is there."""
    with ExitStack() as later:

        class Last(KeyStore):
            """A store that takes the last free bytes."""

            def add(self, key: PrivateKey, role: str, gun: str, passphrase: bytes) -> Path:
                path = super().add(key, role, gun, passphrase)
                later.enter_context(full_disk())
                return path

        keys = Last(tmp_path / "keys")
        with pytest.raises(InputError, match=r"qa\.pub cannot be written: File too large"):
            generate_key(keys, PASSPHRASES, "qa", tmp_path)
    assert ((tmp_path / "qa.pub").exists(), keys.entries()) == (False, ())
    generate_key(KeyStore(tmp_path / "keys"), PASSPHRASES, "qa", tmp_path)


def test_a_key_that_is_made_is_encrypted_and_private(tmp_path: Path) -> None:
    """Case 36: readable by nobody else, on disk or without the passphrase."""
    keys = KeyStore(tmp_path / "keys")
    made = generate_key(keys, PASSPHRASES, "qa", tmp_path)
    assert made.private.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED PRIVATE KEY" in made.private.read_bytes()
    assert PublicKey.from_pem(made.public.read_bytes()).canonical_id == made.key_id
    with pytest.raises(PassphraseError, match="expected its passphrase, got none"):
        keys.load(made.key_id, Passphrases({}))


def test_a_damaged_key_is_told_from_a_wrong_passphrase(store: KeyStore) -> None:
    """Case 37: and both from a key that is not there."""
    wrong = Passphrases(dict.fromkeys(WORDS, "wrong"))
    with pytest.raises(PassphraseError, match=f"wrong passphrase for key file {CI}.key"):
        store.load(CI, wrong)
    with pytest.raises(InputError, match=f"key {QA} is not in"):
        store.load(QA, PASSPHRASES)
    path = store.private / f"{CI}.key"
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(FormatError, match=f"key file {CI}.key"):
        store.load(CI, PASSPHRASES)


@pytest.mark.parametrize("last", ["ci", "qa"])
def test_a_key_with_another_passphrase_hinders_a_removal_only_where_it_is_needed(
    peer: Peer, tmp_path: Path, last: str
) -> None:
    """Case 37: the key of `ci` could sign the releases again, and must where `qa` signed last."""
    keys = KeyStore(tmp_path / "keys")
    keys.add(key("targets"), "targets", GUN, WORDS[REPOSITORY_VARIABLE].encode())
    keys.add(key("ci"), "ci", "", b"other words")
    both = good_targets("ci").with_delegation("targets/qa", [key("qa").public_key])
    both = both.with_delegation(RELEASES, [key("qa").public_key])
    peer.model.hold(GoodRepository(targets=both, signers={RELEASES: [key(last)]}))
    if last == "qa":
        with peer.untouched(), pytest.raises(PassphraseError, match=f"key file {CI}.key"):
            remove_signer(peer.client(), keys, PASSPHRASES, "qa")
    else:
        repository = remove_signer(peer.client(), keys, PASSPHRASES, "qa")
        assert released(repository, "1.0") == IMAGE
