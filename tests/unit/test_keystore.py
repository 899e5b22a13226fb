"""The key store on a real disk: Docker's layout, safe writing, and where passphrases come from."""

import os
import pty
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from signimage import keyfile, keystore
from signimage.errors import FormatError, InputError, PassphraseError
from signimage.keyfile import KeyFile
from signimage.keys import PrivateKey
from signimage.keystore import REPOSITORY_VARIABLE, ROOT_VARIABLE, Entry, KeyStore, Passphrases
from unit.vectors import CAROL, KEY_FILES, KEYS

_GUN = "localhost:5000/team/app"
_ENVIRONMENT = Passphrases({ROOT_VARIABLE: "root-pass", REPOSITORY_VARIABLE: "repository-pass"})


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "docker" / "trust")


@pytest.fixture
def golden(store: KeyStore) -> KeyStore:
    """A store with the files that Docker wrote."""
    store.private.mkdir(parents=True, mode=0o700)
    for path in KEY_FILES:
        (store.private / path.name).write_bytes(path.read_bytes())
    return store


def _typing(*answers: str) -> tuple[Callable[[str], str], list[str]]:
    """A person who types these answers and then leaves; and the questions they were asked."""
    questions: list[str] = []
    rest = list(answers)

    def prompt(question: str) -> str:
        questions.append(question)
        if not rest:
            raise EOFError
        return rest.pop(0)

    return prompt, questions


def test_keys_of_docker_are_listed_and_loaded(golden: KeyStore) -> None:
    entries = golden.entries()
    assert len(entries) == len(KEY_FILES)
    assert [entry.role for entry in entries] == sorted(entry.role for entry in entries)
    carol = golden.find(CAROL)
    assert carol == Entry(CAROL, "carol", "", golden.private / f"{CAROL}.key")
    key = golden.load(CAROL, Passphrases({REPOSITORY_VARIABLE: "deleg-pass-1"}))
    assert key.public_key.canonical_id == CAROL


def test_added_keys_lie_where_docker_looks_readable_by_their_owner_alone(store: KeyStore) -> None:
    key = PrivateKey.generate_ecdsa()
    umask = os.umask(0)
    try:
        path = store.add(key, "targets", _GUN, b"repository-pass")
    finally:
        os.umask(umask)
    assert path == store.directory / "private" / f"{key.public_key.canonical_id}.key"
    assert [entry.name for entry in store.private.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.private.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    assert store.entries() == (Entry(key.public_key.canonical_id, "targets", _GUN, path),)
    loaded = store.load(key.public_key.canonical_id, _ENVIRONMENT)
    assert loaded.public_key == key.public_key


def test_an_empty_store_has_no_keys(store: KeyStore) -> None:
    assert store.entries() == ()
    assert store.find(CAROL) is None
    with pytest.raises(InputError, match=f"key {CAROL} is not in {store.private}"):
        store.load(CAROL, _ENVIRONMENT)


def test_a_key_is_never_overwritten(store: KeyStore) -> None:
    key = PrivateKey.generate_ecdsa()
    path = store.add(key, "ci", "", b"first-pass")
    before = path.read_bytes()
    with pytest.raises(InputError, match=rf"^key {key.public_key.canonical_id} is already in"):
        store.add(key, "ci", "", b"second-pass")
    assert path.read_bytes() == before
    assert [entry.name for entry in store.private.iterdir()] == [path.name]


def test_a_link_in_the_place_of_a_key_is_not_followed(store: KeyStore, tmp_path: Path) -> None:
    key = PrivateKey.generate_ecdsa()
    store.private.mkdir(parents=True, mode=0o700)
    (store.private / f"{key.public_key.canonical_id}.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is already in"):
        store.add(key, "ci", "", b"repository-pass")
    assert not (tmp_path / "elsewhere").exists()


def test_installed_files_keep_their_bytes(store: KeyStore) -> None:
    data = (KEYS / "k_ossl_def.pem").read_bytes()
    path = store.install(data, CAROL)
    assert path.name == f"{CAROL}.key"
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert store.install(data, CAROL) == path
    key = store.load(CAROL, Passphrases({REPOSITORY_VARIABLE: "deleg-pass-1"}))
    assert key.public_key.canonical_id == CAROL


def test_another_file_of_that_name_is_not_replaced(store: KeyStore) -> None:
    path = store.install((KEYS / "k_ossl_def.pem").read_bytes(), CAROL)
    before = path.read_bytes()
    with pytest.raises(InputError, match="is already in"):
        store.install((KEYS / "k_ossl_sha1.pem").read_bytes(), CAROL)
    assert path.read_bytes() == before


def test_only_key_files_are_installed(store: KeyStore) -> None:
    with pytest.raises(FormatError, match="expected PEM text, got an HTML or XML page"):
        store.install(b"<html>", CAROL)
    assert not store.directory.exists()


@pytest.mark.parametrize("key_id", ["", "../../x", CAROL.upper(), CAROL[:-1], f"{CAROL}/x"])
def test_only_key_ids_become_file_names(store: KeyStore, key_id: str) -> None:
    with pytest.raises(InputError, match="key ID: expected 64 hexadecimal digits, got"):
        store.install((KEYS / "k_ossl_def.pem").read_bytes(), key_id)
    assert not store.directory.exists()


def test_a_folder_that_others_can_read_is_not_written_to(store: KeyStore) -> None:
    store.private.mkdir(parents=True)
    store.private.chmod(0o755)
    with pytest.raises(InputError, match="expected mode 0700, got 0755") as caught:
        store.add(PrivateKey.generate_ecdsa(), "ci", "", b"repository-pass")
    assert caught.value.hint == f"Run chmod 700 {store.private}"
    assert list(store.private.iterdir()) == []


def test_a_linked_folder_is_not_written_to(store: KeyStore, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    store.directory.mkdir(parents=True)
    store.private.symlink_to(tmp_path / "theirs")
    with pytest.raises(InputError, match="expected a folder, got a link or a file"):
        store.add(PrivateKey.generate_ecdsa(), "ci", "", b"repository-pass")
    assert list((tmp_path / "theirs").iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_an_error_in_one_sentence(store: KeyStore) -> None:
    store.directory.mkdir(parents=True)
    store.private.write_text("")
    with pytest.raises(
        InputError, match=f"^key folder {store.private} cannot be made: File exists$"
    ):
        store.add(PrivateKey.generate_ecdsa(), "ci", "", b"repository-pass")


def test_a_key_under_anothers_name_is_not_believed(golden: KeyStore) -> None:
    alice = next(entry for entry in golden.entries() if entry.role == "alice")
    (golden.private / f"{CAROL}.key").write_bytes(alice.path.read_bytes())
    with pytest.raises(FormatError, match=f"expected key {CAROL}, got key {alice.key_id}"):
        golden.load(CAROL, Passphrases({REPOSITORY_VARIABLE: "deleg-pass-1"}))


def test_a_damaged_file_is_listed_and_not_loaded(golden: KeyStore) -> None:
    path = golden.private / f"{CAROL}.key"
    path.write_bytes(path.read_bytes()[:200])
    entry = golden.find(CAROL)
    assert entry is not None
    assert entry.fault.startswith(f"key file {path.name}: expected -----END ENCRYPTED")
    assert len(golden.entries()) == len(KEY_FILES)
    with pytest.raises(FormatError, match="got the end of the file"):
        golden.load(CAROL, _ENVIRONMENT)


def test_files_with_other_names_are_no_keys(golden: KeyStore) -> None:
    for name in ("readme.txt", "ci.key", f"{CAROL}.key.bak", f".new-{CAROL}"):
        (golden.private / name).write_text("x")
    assert len(golden.entries()) == len(KEY_FILES)


def test_the_folders_of_older_clients_are_read(store: KeyStore) -> None:
    """Case 10."""
    key = PrivateKey.generate_ecdsa()
    key_id = key.public_key.canonical_id
    root = store.private / "root_keys" / f"{CAROL}_root.key"
    targets = store.private / "tuf_keys" / "localhost:5000/team/app" / f"{key_id}_targets.key"
    for path in (root, targets):
        path.parent.mkdir(parents=True)
    root.write_bytes((KEYS / "k_sec1enc.pem").read_bytes())
    data = keyfile.encrypt(key, b"repository-pass", role="x")
    targets.write_bytes(data.replace(b"role: x\n\n", b""))
    assert store.entries() == (
        Entry(CAROL, "root", "", root),
        Entry(key_id, "targets", "localhost:5000/team/app", targets),
    )
    assert store.load(key_id, _ENVIRONMENT).public_key == key.public_key
    with pytest.raises(PassphraseError, match=r"^wrong passphrase") as caught:
        store.load(CAROL, _ENVIRONMENT)
    assert caught.value.hint == f"Check the value of {ROOT_VARIABLE}"


# --- passphrases


@pytest.mark.parametrize(
    ("role", "variable"),
    [
        ("root", ROOT_VARIABLE),
        ("targets", REPOSITORY_VARIABLE),
        ("snapshot", REPOSITORY_VARIABLE),
        ("alice", REPOSITORY_VARIABLE),
    ],
)
def test_roles_have_the_variables_that_docker_gives_them(role: str, variable: str) -> None:
    file = _file(role, b"the-passphrase")
    assert _opens(Passphrases({variable: "the-passphrase"}), file)
    with pytest.raises(PassphraseError, match="expected its passphrase, got none") as caught:
        Passphrases({variable: ""}).unlock(file)
    assert caught.value.hint == f"Set {variable}"


def _file(role: str, passphrase: bytes) -> KeyFile:
    data = keyfile.encrypt(PrivateKey.generate_ecdsa(), passphrase, role=role)
    return KeyFile.parse(data, what=f"key file {role}.key")


def _opens(passphrases: Passphrases, file: KeyFile) -> bool:
    return passphrases.unlock(file).public_key.keytype == "ecdsa"


@pytest.mark.parametrize("value", [b" sp ", b"a", "pä$s %;]\"'\\ 🔑".encode(), b"\xff\xfe"])
def test_passphrases_of_the_environment_are_taken_verbatim(value: bytes) -> None:
    """Case 37."""
    passphrases = Passphrases({REPOSITORY_VARIABLE: os.fsdecode(value)})
    assert _opens(passphrases, _file("ci", value))
    assert passphrases.choose("ci") == value


def test_a_wrong_passphrase_of_the_environment_is_not_asked_for_again() -> None:
    """Case 37."""
    prompt, questions = _typing("the-passphrase")
    passphrases = Passphrases({REPOSITORY_VARIABLE: "wrong"}, prompt)
    with pytest.raises(PassphraseError, match=r"^wrong passphrase for key file ci\.key$") as caught:
        passphrases.unlock(_file("ci", b"the-passphrase"))
    assert caught.value.hint == f"Check the value of {REPOSITORY_VARIABLE}"
    assert questions == []


def test_a_person_is_asked_three_times() -> None:
    file = _file("ci", b"the-passphrase")
    prompt, questions = _typing("wrong", "", " the-passphrase ")
    assert _opens(Passphrases({}, prompt), file)
    question = "Passphrase for key file ci.key (ci): "
    assert questions == [question, f"Wrong. {question}", f"Wrong. {question}"]
    prompt, questions = _typing("wrong", "wrong", "wrong", "the-passphrase")
    with pytest.raises(PassphraseError, match=r"wrong passphrase for key file ci\.key"):
        Passphrases({}, prompt).unlock(file)
    assert len(questions) == 3


def test_a_question_obeys_no_name_of_a_file() -> None:
    """Whoever packs a folder of keys chooses what its files are called."""
    data = keyfile.encrypt(PrivateKey.generate_ecdsa(), b"the-passphrase", role="ci")
    file = KeyFile.parse(data, what="keys/\x1b[2J\u202e.key")
    prompt, questions = _typing("the-passphrase")
    assert _opens(Passphrases({}, prompt), file)
    assert questions == ["Passphrase for keys/\ufffd[2J\ufffd.key (ci): "]


def test_one_answer_serves_all_keys_of_a_kind() -> None:
    prompt, questions = _typing("the-passphrase", "root-passphrase", "other-passphrase")
    passphrases = Passphrases({}, prompt)
    assert _opens(passphrases, _file("ci", b"the-passphrase"))
    assert _opens(passphrases, _file("targets", b"the-passphrase"))
    assert _opens(passphrases, _file("root", b"root-passphrase"))
    assert _opens(passphrases, _file("ci", b"other-passphrase"))
    assert len(questions) == 3


def test_an_end_of_input_is_an_error() -> None:
    prompt, _ = _typing()
    with pytest.raises(PassphraseError, match="expected an answer, got the end of the input"):
        Passphrases({}, prompt).unlock(_file("ci", b"the-passphrase"))


def test_new_passphrases_are_typed_twice_and_then_known() -> None:
    prompt, questions = _typing("the-passphrase", "the-passphrase")
    passphrases = Passphrases({}, prompt)
    assert passphrases.choose("ci") == b"the-passphrase"
    assert questions == ["Passphrase for the new ci key: ", "The same passphrase again: "]
    assert _opens(passphrases, _file("ci", b"the-passphrase"))
    assert len(questions) == 2


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (["1234567"], "expected a passphrase of at least 8 characters, got fewer"),
        (["12345678", "12345679"], "expected the same passphrase twice, got two"),
        ([], "expected an answer, got the end of the input"),
    ],
)
def test_bad_new_passphrases_are_refused(answers: list[str], message: str) -> None:
    prompt, _ = _typing(*answers)
    with pytest.raises(PassphraseError, match=message):
        Passphrases({}, prompt).choose("ci")


def test_nobody_is_asked_where_nobody_can_answer() -> None:
    """Case 37."""
    with pytest.raises(PassphraseError, match="new root key: expected a passphrase") as caught:
        Passphrases({}).choose("root")
    assert caught.value.hint == f"Set {ROOT_VARIABLE}"


@pytest.mark.parametrize("interactive", [True, False])
def test_a_terminal_is_one_only_if_somebody_sits_there(*, interactive: bool) -> None:
    code = f"import {keystore.__name__} as store; print(store.terminal() is not None)"
    environment = {"PYTHONPATH": str(Path(keystore.__file__).parent.parent)}
    outside, inside = pty.openpty()
    terminal = inside if interactive else subprocess.DEVNULL
    try:
        found = subprocess.run(
            [sys.executable, "-c", code],
            stdin=terminal,
            stderr=terminal,
            stdout=subprocess.PIPE,
            env=environment,
            check=True,
        )
    finally:
        os.close(outside)
        os.close(inside)
    assert found.stdout.decode().strip() == str(interactive)


def test_keys_that_are_not_encrypted_need_no_passphrase(store: KeyStore) -> None:
    data = subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"],
        capture_output=True,
        check=True,
    ).stdout
    key_id = KeyFile.parse(data).decrypt(None).public_key.canonical_id
    store.install(data, key_id)
    assert store.load(key_id, Passphrases({})).public_key.canonical_id == key_id
