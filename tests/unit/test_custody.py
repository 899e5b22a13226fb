"""Keys on a workstation: whatever is brought in works, and nothing leaves or changes unasked."""

import stat
import subprocess
from pathlib import Path

import pytest

from signimage import keyfile
from signimage.custody import (
    Imported,
    change_passphrase,
    encrypted_file,
    import_key,
    keys_in,
    public_file,
    rights,
)
from signimage.errors import FormatError, InputError, PassphraseError
from signimage.keys import ED25519, KINDS, PrivateKey, PublicKey
from signimage.keystore import (
    NEW_VARIABLE,
    REPOSITORY_VARIABLE,
    ROOT_VARIABLE,
    Entry,
    KeyStore,
    Passphrases,
    write_new,
)
from unit.repositories import believe
from unit.vectors import GUNS, KEY_FILES, MOMENT, role_files

_GUN = "registry.example/team/app"
_OLD, _NEW = "the old passphrase", "the new passphrase"
_ENVIRONMENT = {ROOT_VARIABLE: "root passphrase", REPOSITORY_VARIABLE: _OLD}
PASSPHRASES = Passphrases(_ENVIRONMENT)
CHANGING = Passphrases({**_ENVIRONMENT, NEW_VARIABLE: _NEW})


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "docker" / "trust")


def openssl(*words: str | Path) -> bytes:
    done = subprocess.run(["openssl", *words], capture_output=True, check=True)
    return done.stdout


def bring(store: KeyStore, path: Path, role: str = "", gun: str = "") -> Imported:
    (found,) = keys_in(path)
    return import_key(store, PASSPHRASES, found, role, gun)


def file_of(folder: Path, key: PrivateKey, role: str = "ci", gun: str = "") -> Path:
    path = folder / f"{key.public_key.canonical_id}.pem"
    path.write_bytes(keyfile.encrypt(key, _OLD.encode(), role=role, gun=gun))
    return path


# --- Bringing in -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "lock"),
    [
        (("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"), False),
        (("ecparam", "-name", "secp384r1", "-genkey", "-noout"), False),
        (("genrsa", "-traditional", "2048"), False),
        (("genpkey", "-algorithm", "ED25519"), False),
        (("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"), True),
        (("genrsa", "2048"), True),
    ],
)
def test_whatever_openssl_writes_is_brought_in(
    store: KeyStore, tmp_path: Path, words: tuple[str, ...], *, lock: bool
) -> None:
    """Case 36: in every form, encrypted afterwards in that which Docker reads."""
    path = tmp_path / "key.pem"
    path.write_bytes(openssl(*words))
    expected = keyfile.KeyFile.parse(path.read_bytes()).decrypt(None).public_key
    if lock:
        options = ("-topk8", "-v2", "aes-256-cbc", "-passout", f"pass:{_OLD}")
        path.write_bytes(openssl("pkcs8", *options, "-in", path))
    done = bring(store, path, role="ci")
    assert (done.key_id, done.role, done.existed) == (expected.canonical_id, "ci", False)
    assert stat.S_IMODE(done.path.stat().st_mode) == 0o600
    assert store.load(done.key_id, PASSPHRASES).public_key == expected
    assert b"ENCRYPTED PRIVATE KEY" in done.path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key_goes_out_and_comes_in(
    store: KeyStore, tmp_path: Path, kind: str
) -> None:
    key = PrivateKey.generate(kind)
    store.add(key, "ci", "", _OLD.encode())
    entry = store.look_up(key.public_key.canonical_id)
    path = tmp_path / "out.pem"
    write_new(path, encrypted_file(store, entry), 0o600)
    other = KeyStore(tmp_path / "elsewhere")
    done = bring(other, path)
    assert (done.key_id, done.role) == (entry.key_id, "ci")
    assert other.load(entry.key_id, PASSPHRASES).public_key == key.public_key
    public = PublicKey.from_pem(public_file(store, PASSPHRASES, entry))
    assert public == key.public_key


def test_an_unknown_kind_of_key_is_refused() -> None:
    with pytest.raises(InputError, match=f"expected p256, .*{ED25519}, got 'dsa'"):
        PrivateKey.generate("dsa")


@pytest.mark.parametrize("order", ["certificate first", "key first"])
def test_a_key_comes_with_its_certificate_and_not_with_another(
    store: KeyStore, tmp_path: Path, order: str
) -> None:
    def pair(name: str) -> tuple[bytes, bytes]:
        key, certificate = tmp_path / f"{name}.key", tmp_path / f"{name}.crt"
        words = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *words, "-subj", "/CN=x", "-keyout", key, "-out", certificate)
        return key.read_bytes(), certificate.read_bytes()

    (key, certificate), (_, strange) = pair("one"), pair("other")
    path = tmp_path / "pair.pem"
    path.write_bytes(b"".join([key, strange][:: 1 if order == "key first" else -1]))
    with pytest.raises(FormatError, match="expected the certificate of this key, got that of"):
        bring(store, path)
    assert store.entries() == ()
    path.write_bytes(b"".join([key, certificate][:: 1 if order == "key first" else -1]))
    done = bring(store, path, role="release")
    assert PublicKey.from_pem(certificate).canonical_id == done.key_id


def test_a_file_with_many_keys_keeps_what_it_says_of_each(store: KeyStore, tmp_path: Path) -> None:
    """Case 36: as `notary key export` writes."""
    keys = [PrivateKey.generate_ecdsa() for _ in range(3)]
    roles = [("root", ""), ("targets", _GUN), ("ci", "")]
    parts = [
        keyfile.encrypt(key, (_ENVIRONMENT[ROOT_VARIABLE] if role == "root" else _OLD).encode(),
                        role=role, gun=gun)
        for key, (role, gun) in zip(keys, roles, strict=True)
    ]  # fmt: skip
    path = tmp_path / "all.pem"
    path.write_bytes(b"\n".join(parts))
    done = [import_key(store, PASSPHRASES, each) for each in keys_in(path)]
    assert [(each.role, each.gun) for each in done] == roles
    assert {each.key_id for each in store.entries()} == {
        key.public_key.canonical_id for key in keys
    }


@pytest.mark.parametrize("inner", ["", "private", "private/tuf_keys"])
def test_folders_of_older_clients_are_brought_in_whole(
    store: KeyStore, tmp_path: Path, inner: str
) -> None:
    key = PrivateKey.generate_ecdsa()
    folder = tmp_path / "notary" / "private" / "tuf_keys" / _GUN
    folder.mkdir(parents=True)
    data = keyfile.encrypt(key, _OLD.encode(), role="x").replace(b"role: x\n\n", b"")
    (folder / f"{key.public_key.canonical_id}_targets.key").write_bytes(data)
    done = bring(store, tmp_path / "notary" / inner)
    assert (done.role, done.gun) == ("targets", _GUN)
    (entry,) = store.entries()
    assert (entry.role, entry.gun, entry.path) == ("targets", _GUN, done.path)


def test_a_folder_of_docker_is_brought_in_with_everything(store: KeyStore) -> None:
    environment = {ROOT_VARIABLE: "root-pass-1", REPOSITORY_VARIABLE: "repo-pass-1"}
    found = list(keys_in(KEY_FILES[0].parent))
    assert len(found) == len(KEY_FILES)
    opened = [each for each in found if _opens(each.file, environment)]
    for each in opened:
        import_key(store, Passphrases(environment), each)
    assert len(store.entries()) == len(opened)


def _opens(file: keyfile.KeyFile, environment: dict[str, str]) -> bool:
    try:
        Passphrases(environment).unlock(file)
    except PassphraseError:
        return False
    return True


def test_a_key_that_is_there_stays_as_it_is(store: KeyStore, tmp_path: Path) -> None:
    """Case 36: under its passphrase, with its name."""
    key = PrivateKey.generate_ecdsa()
    path = store.add(key, "ci", "", _OLD.encode())
    before = path.read_bytes()
    done = bring(store, file_of(tmp_path, key, role="other"), role="third")
    assert done == Imported(key.public_key.canonical_id, "ci", "", path, existed=True)
    assert path.read_bytes() == before


def test_a_repository_key_needs_its_repository(store: KeyStore, tmp_path: Path) -> None:
    path = file_of(tmp_path, PrivateKey.generate_ecdsa())
    with pytest.raises(InputError, match="expected the repository of the targets key") as caught:
        bring(store, path, role="targets")
    assert caught.value.hint == "Give --gun"
    assert store.entries() == ()
    assert bring(store, path, role="targets", gun=_GUN).gun == _GUN


def test_an_illegal_name_brings_nothing_in(store: KeyStore, tmp_path: Path) -> None:
    path = file_of(tmp_path, PrivateKey.generate_ecdsa())
    for name in ("Ci", "releases", "a/b", "-x"):
        with pytest.raises(InputError, match=r"signer name .*: expected lower-case letters"):
            bring(store, path, role=name)
    assert store.entries() == ()


def test_a_wrong_passphrase_brings_nothing_in(store: KeyStore, tmp_path: Path) -> None:
    (found,) = keys_in(file_of(tmp_path, PrivateKey.generate_ecdsa()))
    with pytest.raises(PassphraseError, match="wrong passphrase for"):
        import_key(store, Passphrases({REPOSITORY_VARIABLE: "another"}), found)
    assert not store.directory.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected PEM text, got an empty file; a private key was expected"),
        (b"ssh-ed25519 AAAA x", "got an SSH public key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
         "expected PRIVATE KEY in PEM, got OPENSSH PRIVATE KEY"),
    ],
)  # fmt: skip
def test_files_that_are_no_keys_are_named_for_what_they_are(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        list(keys_in(path))


def test_a_place_without_keys_is_no_empty_success(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected key files that end in \.key, got none"):
        list(keys_in(tmp_path))
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        list(keys_in(tmp_path / "nothing"))


# --- Giving out ------------------------------------------------------------------------------


def test_a_key_never_leaves_unencrypted(store: KeyStore) -> None:
    data = openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout")
    key_id = keyfile.KeyFile.parse(data).decrypt(None).public_key.canonical_id
    store.install(data, key_id)
    entry = store.look_up(key_id)
    assert not entry.encrypted
    with pytest.raises(InputError, match="is not encrypted: expected a passphrase") as caught:
        encrypted_file(store, entry)
    assert caught.value.hint == f"Give it one, with signimage key passwd {key_id[:12]}"
    change_passphrase(store, CHANGING, entry)
    assert keyfile.KeyFile.parse(encrypted_file(store, entry)).encrypted


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "there"
    path.write_bytes(b"before")
    with pytest.raises(InputError, match="is there already"):
        write_new(path, b"after", 0o600)
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with pytest.raises(InputError, match="is there already"):
        write_new(tmp_path / "link", b"after", 0o600)
    assert path.read_bytes() == b"before"
    assert not (tmp_path / "new").exists()


def test_a_file_that_cannot_be_made_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_new(tmp_path / "nowhere" / "file", b"x", 0o600)


# --- Another passphrase ----------------------------------------------------------------------


@pytest.mark.parametrize(("role", "gun"), [("root", ""), ("targets", _GUN), ("ci", "")])
def test_a_key_under_another_passphrase_is_the_same_key(
    store: KeyStore, role: str, gun: str
) -> None:
    key = PrivateKey.generate_ecdsa()
    old = _ENVIRONMENT[ROOT_VARIABLE] if role == "root" else _OLD
    path = store.add(key, role, gun, old.encode())
    entry = store.look_up(key.public_key.canonical_id)
    assert change_passphrase(store, CHANGING, entry) == _NEW.encode()
    assert store.entries() == (Entry(entry.key_id, role, gun, path),)
    assert [each.name for each in store.private.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    now = Passphrases({ROOT_VARIABLE: _NEW, REPOSITORY_VARIABLE: _NEW})
    assert store.load(entry.key_id, now).public_key == key.public_key
    with pytest.raises(PassphraseError, match="wrong passphrase"):
        store.load(entry.key_id, PASSPHRASES)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({REPOSITORY_VARIABLE: "wrong", NEW_VARIABLE: _NEW}, "wrong passphrase"),
        ({NEW_VARIABLE: _NEW}, "expected its passphrase, got none"),
        ({REPOSITORY_VARIABLE: _OLD}, "expected a new passphrase, got none"),
        ({REPOSITORY_VARIABLE: _OLD, NEW_VARIABLE: ""}, "expected a new passphrase, got none"),
    ],
)
def test_whatever_is_missing_changes_nothing(
    store: KeyStore, environment: dict[str, str], message: str
) -> None:
    path = store.add(PrivateKey.generate_ecdsa(), "ci", "", _OLD.encode())
    before = path.read_bytes()
    with pytest.raises(PassphraseError, match=message):
        change_passphrase(store, Passphrases(environment), store.look_up(path.stem))
    assert path.read_bytes() == before
    assert [each.name for each in store.private.iterdir()] == [path.name]


def test_files_that_are_not_ours_to_write_stay(store: KeyStore, tmp_path: Path) -> None:
    """A file of an older client's folder, and a link to somewhere else."""
    key = PrivateKey.generate_ecdsa()
    store.private.mkdir(parents=True, mode=0o700)
    elsewhere = file_of(tmp_path, key)
    link = store.private / f"{key.public_key.canonical_id}.key"
    link.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    with pytest.raises(InputError, match=f"expected a file in {store.private}") as caught:
        change_passphrase(store, CHANGING, store.look_up(link.stem))
    assert caught.value.hint == "Import it first, with signimage key import"
    assert (link.is_symlink(), elsewhere.read_bytes()) == (True, before)


# --- Looking up ------------------------------------------------------------------------------


def test_a_key_is_found_by_enough_of_its_id(store: KeyStore) -> None:
    path = store.add(PrivateKey.generate_ecdsa(), "ci", "", _OLD.encode())
    for length in (7, 12, 64):
        assert store.look_up(path.stem[:length]).path == path
    for typed in (path.stem[:6], "", "*", "../../x", path.stem.upper() + "X", path.stem + "0"):
        with pytest.raises(InputError, match="key ID: expected 64 hexadecimal digits or their"):
            store.look_up(typed)
    other = ("0" if path.stem[0] != "0" else "1") + path.stem[1:]
    with pytest.raises(InputError, match=f"key {other} is not in {store.private}"):
        store.look_up(other)


def test_two_keys_that_begin_alike_are_not_guessed_between(store: KeyStore) -> None:
    store.private.mkdir(parents=True, mode=0o700)
    for end in "ab":
        (store.private / f"{'0' * 63}{end}.key").write_bytes(b"")
    with pytest.raises(InputError, match="expected one that begins so, got 2"):
        store.look_up("0" * 10)


def test_a_folder_that_cannot_be_looked_into_is_not_empty(store: KeyStore) -> None:
    store.directory.mkdir(parents=True)
    store.private.write_text("")
    with pytest.raises(InputError, match=f"key folder {store.private} cannot be read: Not a dir"):
        store.entries()


def test_rights_are_those_of_each_role_by_the_id_of_the_key_file() -> None:
    """The golden repository of Docker, whose root key stands in a certificate."""
    gun = GUNS["docker-b"]
    found = rights(believe(role_files("docker-b"), now=MOMENT, gun=gun))
    by_role = {path.stem: keyfile.KeyFile.parse(path.read_bytes()) for path in KEY_FILES}
    mine = {
        (by_role[key_id].role, by_role[key_id].gun): roles
        for key_id, roles in found.items()
        if key_id in by_role
    }
    assert mine[("targets", gun)] == ["targets"]
    assert mine[("root", "")] == ["root"]
    assert {"targets/releases"} < set(mine[("alice", "")])
