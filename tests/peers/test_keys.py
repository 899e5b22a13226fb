"""Keys, key files and root certificates of ours, in the hands of Docker and Notary; and back."""

import json
import stat
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from peers.stack import Stack, make_context
from signimage import keys
from signimage.keyfile import KeyFile
from signimage.keys import PrivateKey, PublicKey
from signimage.keystore import REPOSITORY_VARIABLE, ROOT_VARIABLE, KeyStore, Passphrases

# Non-ASCII, and everything that shells and pipelines stumble over.
_PASSPHRASE = "pä$s %;]\"'\\ 🔑"
_PASSPHRASES = Passphrases({ROOT_VARIABLE: _PASSPHRASE, REPOSITORY_VARIABLE: _PASSPHRASE})
_ENVIRONMENT = {
    ROOT_VARIABLE: _PASSPHRASE,
    REPOSITORY_VARIABLE: _PASSPHRASE,
    **{
        f"NOTARY_{role}_PASSPHRASE": _PASSPHRASE
        for role in ("ROOT", "TARGETS", "SNAPSHOT", "DELEGATION")
    },
}

_ALGORITHMS = {
    "p256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "p384": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "p521": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
    "rsa2048": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
}


def _openssl_key(algorithm: str) -> PrivateKey:
    data = subprocess.run(
        ["openssl", "genpkey", *_ALGORITHMS[algorithm]], capture_output=True, check=True
    ).stdout
    return KeyFile.parse(data).decrypt(None)


def _signed(directory: Path, gun: str, role: str) -> Any:
    """The `signed` member and the key IDs of a role file as the CLI cached it."""
    path = directory / "tuf" / gun / "metadata" / f"{role}.json"
    file = json.loads(path.read_bytes())
    return file["signed"], [entry["keyid"] for entry in file["signatures"]]


@pytest.fixture
def gun(stack: Stack, repository_name: str) -> str:
    return f"{stack.registry}/{repository_name}"


@pytest.mark.parametrize("algorithm", _ALGORITHMS)
def test_notary_publishes_with_a_delegation_key_of_ours(
    stack: Stack, gun: str, tmp_path: Path, algorithm: str
) -> None:
    """It takes our .pub file for the delegation and our encrypted key file for signing."""
    directory = tmp_path / "trust"
    key = _openssl_key(algorithm)
    KeyStore(directory).add(key, "ci", "", _PASSPHRASE.encode())
    public = tmp_path / "ci.pub"
    public.write_bytes(key.public_key.to_pem("ci"))

    def notary(*arguments: str) -> str:
        return stack.notary(*arguments, trust_dir=directory, env=_ENVIRONMENT).stdout

    notary("init", "-p", gun)
    notary("delegation", "add", "-p", gun, "targets/releases", str(public), "--all-paths")
    notary("addhash", "-p", "-r", "targets/releases", gun, "1.0", "7", "--sha256", "ab" * 32)
    assert key.public_key.canonical_id in notary("delegation", "list", gun)
    assert "targets/releases" in notary("list", gun)
    _, signers = _signed(directory, gun, "targets/releases")
    assert signers == [key.public_key.key_id]


def test_notary_lists_our_keys_as_its_own(stack: Stack, tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "trust")
    for role, gun in (("root", ""), ("targets", "localhost:5000/team/app"), ("ci", "")):
        store.add(PrivateKey.generate_ecdsa(), role, gun, _PASSPHRASE.encode())
    listed = stack.notary("key", "list", trust_dir=store.directory).stdout.split()
    for entry in store.entries():
        at = listed.index(entry.key_id)
        assert listed[at - 1] == (entry.gun or entry.role)
    assert len(store.entries()) == 3


@pytest.mark.parametrize("algorithm", ["p256", "rsa2048"])
@pytest.mark.parametrize("segments", ["", "/a-rather-long-name" * 5], ids=["short", "long"])
def test_notary_builds_a_repository_on_a_root_certificate_of_ours(
    stack: Stack, gun: str, tmp_path: Path, algorithm: str, segments: str
) -> None:
    """Client and server accept our certificate, also for names longer than X.520 allows."""
    gun, directory = gun + segments, tmp_path / "trust"
    key = _openssl_key(algorithm)
    KeyStore(directory).add(key, "root", "", _PASSPHRASE.encode())
    root_key = keys.root_certificate(key, gun, datetime.now(timezone.utc))
    certificate = tmp_path / "root.crt"
    certificate.write_bytes(root_key.public)
    stack.notary(
        *("init", "-p", "--rootcert", str(certificate), gun),
        trust_dir=directory,
        env=_ENVIRONMENT,
    )
    root, signers = _signed(directory, gun, "root")
    assert root["roles"]["root"]["keyids"] == [root_key.key_id] == signers


@pytest.mark.parametrize("algorithm", ["p256", "p384", "rsa2048"])
def test_docker_signs_with_root_and_signer_keys_of_ours(
    stack: Stack, gun: str, tmp_path: Path, algorithm: str
) -> None:
    """It initialises on our root key, takes our .pub file, and signs with our key file."""
    config, image = stack.docker_config(tmp_path / "docker"), f"{gun}:1.0"
    store, public = KeyStore(config / "trust"), tmp_path / "ci.pub"
    root, signer = _openssl_key(algorithm), _openssl_key(algorithm)
    store.add(root, "root", "", _PASSPHRASE.encode())
    store.add(signer, "ci", "", _PASSPHRASE.encode())
    public.write_bytes(signer.public_key.to_pem("ci"))

    def docker(*arguments: str, trust: str = "0") -> str:
        environment = {**_ENVIRONMENT, "DOCKER_CONTENT_TRUST": trust}
        return stack.docker(*arguments, config=config, env=environment).stdout

    docker("build", "--tag", image, str(make_context(tmp_path / "context")))
    docker("trust", "signer", "add", "--key", str(public), "ci", gun)
    docker("push", image, trust="1")
    (seen,) = json.loads(docker("trust", "inspect", gun))
    assert seen["Signers"] == [{"Name": "ci", "Keys": [{"ID": signer.public_key.key_id}]}]
    assert seen["SignedTags"][0]["Signers"] == ["ci"]
    entries, (key_id,) = store.entries(), _signed(store.directory, gun, "root")[1]
    assert sorted(entry.role for entry in entries) == ["ci", "root", "targets"]
    value = _signed(store.directory, gun, "root")[0]["keys"][key_id]
    assert PublicKey.from_json(value).canonical_id == root.public_key.key_id


def test_docker_signs_on_after_its_key_file_was_written_anew(
    stack: Stack, gun: str, tmp_path: Path
) -> None:
    """A repository key that Docker made, encrypted again by us, still opens for Docker."""
    config = stack.docker_config(tmp_path / "docker")
    public = tmp_path / "ci.pub"
    public.write_bytes(PrivateKey.generate_ecdsa().public_key.to_pem("ci"))
    add = ("trust", "signer", "add", "--key", str(public))
    stack.docker(*add, "first", gun, config=config, env=_ENVIRONMENT)
    store = KeyStore(config / "trust")
    for entry in store.entries():
        key = store.load(entry.key_id, _PASSPHRASES)
        entry.path.unlink()
        store.add(key, entry.role, entry.gun, _PASSPHRASE.encode())
    stack.docker(*add, "second", gun, config=config, env=_ENVIRONMENT)
    (seen,) = json.loads(stack.docker("trust", "inspect", gun, config=config).stdout)
    assert sorted(signer["Name"] for signer in seen["Signers"]) == ["first", "second"]


def test_we_load_a_key_that_docker_generated(stack: Stack, tmp_path: Path) -> None:
    config = stack.docker_config(tmp_path / "docker")
    stack.docker(
        *("trust", "key", "generate", "robot", "--dir", str(tmp_path)),
        config=config,
        env=_ENVIRONMENT,
    )
    store, public = KeyStore(config / "trust"), tmp_path / "robot.pub"
    (entry,) = store.entries()
    key = store.load(entry.key_id, _PASSPHRASES).public_key
    assert PublicKey.from_pem(public.read_bytes()) == key
    assert key.to_pem("robot") == public.read_bytes()
    assert stat.S_IMODE(entry.path.stat().st_mode) == 0o600


def test_we_load_a_key_that_notary_generated_or_imported(stack: Stack, tmp_path: Path) -> None:
    store = KeyStore(tmp_path / "trust")
    plain = tmp_path / "plain.pem"
    command = ["openssl", "genpkey", *_ALGORITHMS["rsa2048"], "-out", str(plain)]
    subprocess.run(command, check=True, capture_output=True)
    for arguments in (("key", "generate", "ecdsa"), ("key", "import", "-r", "user", str(plain))):
        stack.notary(*arguments, trust_dir=store.directory, env=_ENVIRONMENT)
    imported, generated = sorted(store.entries(), key=lambda entry: entry.role != "user")
    assert (imported.role, generated.role) == ("user", "root")
    key = store.load(imported.key_id, _PASSPHRASES)
    assert key.public_key == KeyFile.parse(plain.read_bytes()).decrypt(None).public_key
    assert store.load(generated.key_id, _PASSPHRASES).public_key.keytype == "ecdsa"
