"""`signimage key …` beside `notary key` and `docker trust key`: one folder, three programs."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from peers.processes import find_program
from peers.servers import plain_environment
from peers.stack import Stack
from peers.workstation import PASSPHRASES, Workstation
from signimage import cli
from signimage.administration import add_signer
from signimage.keyfile import KeyFile
from signimage.keys import KINDS, PublicKey
from signimage.keystore import NEW_VARIABLE, KeyStore, Passphrases
from unit.terminal import Terminal

_ROOT, _OTHER = PASSPHRASES.values()
_NOTARY = {
    f"NOTARY_{role}_PASSPHRASE": _OTHER for role in ("TARGETS", "SNAPSHOT", "DELEGATION")
} | {"NOTARY_ROOT_PASSPHRASE": _ROOT}
_GUN = "localhost:5000/team/app"
_NEW = "another passphrase"


@dataclass
class Desk:
    """One machine with three programs, without a network.

    Attributes:
        config: Docker's folder.
    """

    stack: Stack
    config: Path

    @property
    def store(self) -> KeyStore:
        return KeyStore(self.config / "trust")

    def ours(self, *words: str | Path, new: str = "") -> Any:
        """Run our command on a terminal where nobody types; gives its JSON."""
        environment = self._environment() | PASSPHRASES | ({NEW_VARIABLE: new} if new else {})
        with Terminal([*_program(), *words, "--json"], environment, self.config.parent) as it:
            assert it.end() == 0, it.shown
            return json.loads(it.shown)

    def typing(self, *words: str | Path) -> Terminal:
        """Run our command on a terminal, without a passphrase in the environment."""
        return Terminal([*_program(), *words], self._environment(), self.config.parent)

    def notary(self, *words: str | Path, trust_dir: Path | None = None) -> str:
        """Run Notary's command on the same folder, or on another one."""
        arguments = [str(word) for word in words]
        directory = trust_dir or self.store.directory
        return self.stack.notary(*arguments, trust_dir=directory, env=_NOTARY).stdout

    def docker(self, *words: str | Path) -> str:
        """Run Docker's command on the same folder."""
        arguments = [str(word) for word in words]
        return self.stack.docker(*arguments, config=self.config, env=PASSPHRASES).stdout

    def _environment(self) -> dict[str, str]:
        environment = {**plain_environment(), "DOCKER_CONFIG": str(self.config), "TERM": "dumb"}
        return environment | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}


def _program() -> tuple[str, ...]:
    return (sys.executable, "-m", "signimage.cli")


@pytest.fixture
def desk(stack: Stack, tmp_path: Path) -> Desk:
    return Desk(stack, tmp_path / "docker")


def listed_by_notary(text: str) -> set[tuple[str, str]]:
    """Role and ID of each key that `notary key list` shows."""
    return set(re.findall(r"(?m)^(\S+) .*?([0-9a-f]{64}) ", text))


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa-3072"])
def test_notary_takes_what_we_export(desk: Desk, tmp_path: Path, kind: str) -> None:
    """Encrypted as it is, with the headers that Notary asks of such a file."""
    made = desk.ours("key", "generate", "ci", "--type", kind)
    desk.ours("key", "export", made["keyId"], "--output", tmp_path / "ci.pem")
    elsewhere = tmp_path / "elsewhere"
    desk.notary("key", "import", tmp_path / "ci.pem", trust_dir=elsewhere)
    shown = desk.notary("key", "list", trust_dir=elsewhere)
    assert listed_by_notary(shown) == {("ci", made["keyId"])}
    opened = KeyStore(elsewhere).load(made["keyId"], Passphrases(PASSPHRASES))
    assert opened.public_key.canonical_id == made["keyId"]


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa-3072"])
def test_docker_loads_what_we_export(desk: Desk, tmp_path: Path, kind: str) -> None:
    """And keeps the name that the file says. A file out of the store it drops without a word."""
    made = desk.ours("key", "generate", "ci", "--type", kind)
    desk.ours("key", "export", made["keyId"][:9], "--output", tmp_path / "ci.pem")
    (entry,) = desk.store.entries()
    entry.path.unlink()
    desk.docker("trust", "key", "load", "--name", "robot", tmp_path / "ci.pem")
    (loaded,) = desk.store.entries()
    assert (loaded.role, loaded.key_id) == ("ci", made["keyId"])


def test_we_bring_in_all_that_notary_exports(desk: Desk, tmp_path: Path) -> None:
    """Case 36: root, repository and signer's keys in one file, each where it belongs."""
    theirs, file = tmp_path / "theirs", tmp_path / "all.pem"
    desk.notary("init", _GUN, trust_dir=theirs)
    desk.notary("key", "generate", "--role", "ci", trust_dir=theirs)
    desk.notary("key", "export", "-o", file, trust_dir=theirs)
    done = desk.ours("key", "import", file)
    assert {each["role"] for each in done} >= {"root", "targets", "ci"}
    assert {each["gun"] for each in done if each["role"] == "targets"} == {_GUN}
    expected = {(each.role, each.gun, each.key_id) for each in KeyStore(theirs).entries()}
    assert {(each.role, each.gun, each.key_id) for each in desk.store.entries()} == expected
    for entry in desk.store.entries():
        opened = desk.store.load(entry.key_id, Passphrases(PASSPHRASES))
        assert opened.public_key.canonical_id == entry.key_id


def test_we_list_what_notary_lists(desk: Desk) -> None:
    for name in ("ci", "release"):
        desk.ours("key", "generate", name)
    desk.notary("init", _GUN)
    ours = {(each["gun"] or each["role"], each["keyId"]) for each in desk.ours("key", "list")}
    shown = desk.notary("key", "list")
    assert len(ours) >= 4
    for name, key_id in ours:
        (line,) = [line for line in shown.splitlines() if key_id in line]
        assert name in line or f"...{name[-20:]}" in line, line


def test_docker_goes_on_after_we_changed_the_passphrase(
    stack: Stack, tmp_path: Path, repository_name: str
) -> None:
    """Of the repository key, which Docker itself made."""
    gun, desk = f"{stack.registry}/{repository_name}", Desk(stack, tmp_path / "docker")
    stack.docker_config(desk.config)
    made = desk.ours("key", "generate", "ci")
    add = ("trust", "signer", "add", "--key", tmp_path / made["public"])
    desk.docker(*add, "first", gun)
    (key,) = [each for each in desk.store.entries() if each.role == "targets"]
    desk.ours("key", "passwd", key.key_id, new=_NEW)
    environment = dict.fromkeys(PASSPHRASES, _NEW)
    words = ("trust", "signer", "add", "--key", str(tmp_path / made["public"]), "second", gun)
    stack.docker(*words, config=desk.config, env=environment)
    (seen,) = json.loads(desk.docker("trust", "inspect", gun))
    assert sorted(signer["Name"] for signer in seen["Signers"]) == ["first", "second"]


def test_we_open_what_notary_put_under_another_passphrase(desk: Desk) -> None:
    """Typed there, and typed here."""
    made = desk.ours("key", "generate", "ci")
    argv = [find_program("notary"), "-d", str(desk.store.directory), "key", "passwd", made["keyId"]]
    with Terminal(argv, {**plain_environment(), "HOME": str(desk.config)}) as typing:
        for answer in (_OTHER, _NEW, _NEW):
            typing.expect("(?i)passphrase.*: ")
            typing.type(answer)
        assert typing.end() == 0, typing.shown
    with desk.typing("key", "export", "--public", made["keyId"]) as typing:
        typing.expect("Passphrase for key file")
        typing.type(_NEW)
        assert typing.end() == 0, typing.shown
        assert "BEGIN PUBLIC KEY" in typing.shown


def test_keys_that_were_typed_for_open_in_the_other_program(desk: Desk, tmp_path: Path) -> None:
    """Made by Docker on a terminal and opened by us; made by us on a terminal and loaded there."""
    environment = {**plain_environment(), "DOCKER_CONFIG": str(desk.config)}
    argv = [desk.stack.docker_cli, "trust", "key", "generate", "robot", "--dir", str(tmp_path)]
    with Terminal(argv, environment) as typing:
        for _ in range(2):
            typing.expect("(?i)passphrase.*: ")
            typing.type(_OTHER)
        assert typing.end() == 0, typing.shown
    (robot,) = desk.ours("key", "list")
    public = PublicKey.from_pem((tmp_path / "robot.pub").read_bytes())
    assert robot["keyId"] == public.canonical_id
    exported = desk.ours("key", "export", "--public", robot["keyId"])["pem"]
    assert exported.strip() == (tmp_path / "robot.pub").read_text().strip()
    with desk.typing("key", "generate", "human", "--dir", tmp_path) as typing:
        for _ in range(2):
            typing.expect(": ")
            typing.type(_OTHER)
        assert typing.end() == 0, typing.shown
    human = next(each for each in desk.store.entries() if each.role == "human")
    desk.ours("key", "export", human.key_id, "--output", tmp_path / "human.pem")
    human.path.unlink()
    desk.docker("trust", "key", "load", "--name", "human", tmp_path / "human.pem")
    assert desk.store.find(human.key_id)


@pytest.mark.parametrize("kind", KINDS)
def test_consumers_believe_a_signature_of_every_kind_of_key(
    workstation: Workstation, kind: str
) -> None:
    """Ed25519 too: Docker's commands do not take such a key, and its reader verifies it."""
    environment = {**PASSPHRASES, "DOCKER_CONFIG": str(workstation.config)}
    desk = Desk(workstation.stack, workstation.config)
    workstation.initialise("owner")
    made = desk.ours("key", "generate", "robot", "--type", kind)
    public = PublicKey.from_pem(Path(workstation.folder, made["public"]).read_bytes())
    store, passphrases = workstation.store, workstation.passphrases
    add_signer(workstation.server(), store, passphrases, "robot", [public])
    workstation.sign(store.load(made["keyId"], Passphrases(environment)), "1.0")
    (tag,) = workstation.inspected()["SignedTags"]
    assert (tag["SignedTag"], tag["Signers"]) == ("1.0", ["robot"])
    listed = workstation.stack.notary(
        *("list", workstation.gun, "-r", "targets/robot"),
        trust_dir=workstation.folder / "consumer",
    )
    assert "1.0" in listed.stdout


def test_we_say_which_keys_may_sign_where(workstation: Workstation) -> None:
    """Each key by the ID of its file, which for the root key is not that of its certificate."""
    workstation.initialise("ci")
    desk = Desk(workstation.stack, workstation.config)
    words = ("--trust-server", workstation.stack.trust_server)
    listed = desk.ours("key", "list", "--repositories", workstation.gun, *words)
    rights = {each["role"]: each["repositories"][workstation.gun] for each in listed}
    assert rights == {
        "root": ["root"],
        "targets": ["targets"],
        "ci": ["targets/ci", "targets/releases"],
    }


def test_a_key_file_of_ours_parses_as_it_travels(desk: Desk) -> None:
    """The headers are those of `notary key export`."""
    made = desk.ours("key", "generate", "ci")
    ours = desk.ours("key", "export", made["keyId"])["pem"]
    theirs = desk.notary("key", "export", "--key", made["keyId"])
    assert ours.strip() == theirs.strip()
    assert KeyFile.parse(ours.encode()).role == "ci"
