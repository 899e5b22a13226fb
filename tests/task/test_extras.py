"""The command line with its extra `cli`: the keyring of the system, and tables on a terminal.

The wheel is installed where nothing else is, with the libraries as they are pinned. Where it is
about how a keyring is chosen, the keyrings are classes of ours that the library `keyring` is told
to use, as it can be told by anybody.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import release

from signimage.keystore import NEW_VARIABLE, REPOSITORY_VARIABLE
from task.empty_environment import EmptyEnvironment
from task.secret_service import SecretService, session
from unit.terminal import Terminal

_OLD, _NEW = "the old passphrase", "the new passphrase"

# Keeps in a file what a system's would keep encrypted, so that a test can look.
_KEYRINGS = """
import json, os, pathlib
import keyring.backend, keyring.backends.chainer

FILE = pathlib.Path(os.environ["HOME"]) / "kept.json"

class Safe(keyring.backend.KeyringBackend):
    priority = 5
    def _all(self):
        return json.loads(FILE.read_text()) if FILE.exists() else {}
    def get_password(self, service, username):
        return self._all().get(f"{service}/{username}")
    def set_password(self, service, username, password):
        FILE.write_text(json.dumps(self._all() | {f"{service}/{username}": password}))
    def delete_password(self, service, username):
        kept = self._all()
        del kept[f"{service}/{username}"]
        FILE.write_text(json.dumps(kept))

class PlaintextKeyring(Safe):
    pass

class NotAdvised(Safe):
    priority = 0.5

class Broken(Safe):
    def get_password(self, service, username):
        raise RuntimeError("a secret may stand here")
    def set_password(self, service, username, password):
        raise RuntimeError(password)

class Chain(keyring.backends.chainer.ChainerBackend):
    priority = 10
    backends = [PlaintextKeyring(), Safe()]

class UnsafeChain(keyring.backends.chainer.ChainerBackend):
    priority = 10
    backends = [PlaintextKeyring(), NotAdvised()]
"""


@dataclass
class Person:
    """Somebody with a home, one encrypted key and a keyring."""

    environment: EmptyEnvironment
    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, code: int = 0, old: str = "", new: str = "") -> str:
        """Run a command without a terminal; gives what it says where it says something.

        *old* and *new* are the passphrases in the environment.
        """
        env = {**self.variables, REPOSITORY_VARIABLE: old, NEW_VARIABLE: new}
        done = self.environment.run(*words, home=self.home, env=env)
        assert done.returncode == code, done
        assert _OLD not in done.stdout + done.stderr
        return done.stderr if code else done.stdout

    def has(self, keyring: str) -> None:
        """Have `keyring` told to use a class of `_KEYRINGS`, or one of its own by its full name."""
        name = keyring if "." in keyring else f"trial_keyrings.{keyring}"
        self.variables["PYTHON_KEYRING_BACKEND"] = name

    def kept(self) -> dict[str, str]:
        """What the keyring keeps."""
        file = self.home / "kept.json"
        found: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def terminal(self, *words: str, **variables: str) -> Terminal:
        """Run a command on a terminal."""
        env = {"HOME": str(self.home), "PATH": os.defpath, **self.variables, **variables}
        return Terminal([self.environment.program, *words], env, self.home)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> EmptyEnvironment:
    folder = tmp_path_factory.mktemp("extras")
    given = os.environ.get(release.WHEEL_VARIABLE)
    wheel = Path(given) if given else release.build_wheel(folder)
    return EmptyEnvironment.with_wheel(wheel, folder / "venv")


@pytest.fixture
def person(environment: EmptyEnvironment, tmp_path: Path) -> Person:
    (tmp_path / "trial_keyrings.py").write_text(_KEYRINGS, "utf-8")
    made = Person(environment, tmp_path, {"PYTHONPATH": str(tmp_path), "TERM": "xterm"})
    made.run("key", "generate", "ci", old=_OLD)
    made.has("Safe")
    return made


@pytest.fixture
def key_id(person: Person) -> str:
    (listed,) = json.loads(person.run("key", "list", "--json"))
    return str(listed["keyId"])


# --- The keyring -----------------------------------------------------------------------------


def test_a_passphrase_is_kept_on_request_and_then_asked_for_nowhere(
    person: Person, key_id: str
) -> None:
    assert "Set DOCKER_CONTENT" in person.run("key", "export", "--public", key_id, code=2)
    assert person.kept() == {}
    with person.terminal("key", "remember", key_id[:8]) as terminal:
        terminal.expect("Passphrase for key file .*: ")
        terminal.type(_OLD)
        assert terminal.end() == 0, terminal.shown
    assert person.kept() == {f"signimage/{key_id}": _OLD}
    assert "BEGIN PUBLIC KEY" in person.run("key", "export", "--public", key_id)
    assert person.run("key", "forget", key_id).endswith(
        "is no longer in the keyring of this system\n"
    )
    assert person.kept() == {}
    assert "was not in the keyring" in person.run("key", "forget", key_id)


def test_the_environment_comes_before_the_keyring(person: Person, key_id: str) -> None:
    person.run("key", "remember", key_id, old=_OLD)
    said = person.run("key", "export", "--public", key_id, code=2, old="x")
    assert f"Check the value of {REPOSITORY_VARIABLE}" in said


def test_the_keyring_is_not_asked_where_that_is_said(person: Person, key_id: str) -> None:
    person.run("key", "remember", key_id, old=_OLD)
    said = person.run("key", "export", "--public", key_id, "--no-keyring", code=2)
    assert "expected its passphrase, got none. Set" in said
    words = ("key", "remember", key_id, "--no-keyring")
    assert "got --no-keyring" in person.run(*words, code=2, old=_OLD)


def test_another_passphrase_is_known_to_the_keyring_too(person: Person, key_id: str) -> None:
    person.run("key", "remember", key_id, old=_OLD)
    person.run("key", "passwd", key_id, new=_NEW)
    assert person.kept() == {f"signimage/{key_id}": _NEW}
    assert "BEGIN PUBLIC KEY" in person.run("key", "export", "--public", key_id)


def test_a_passphrase_that_is_kept_and_old_is_said_to_be(person: Person, key_id: str) -> None:
    person.run("key", "remember", key_id, old=_OLD)
    words = ("key", "passwd", key_id, "--no-keyring")
    person.run(*words, old=_OLD, new=_NEW)
    said = person.run("key", "export", "--public", key_id, code=2)
    assert "expected its passphrase, got another one from the keyring" in said


@pytest.fixture
def desktop(person: Person, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecretService]:
    """What *person* is logged in to; the library `keyring` finds the keyring by itself."""
    del person.variables["PYTHON_KEYRING_BACKEND"]
    with session(tmp_path_factory.mktemp("bus")) as service:
        person.variables.update(service.variables)
        yield service


def test_the_keyring_of_a_desktop_keeps_a_passphrase(
    person: Person, key_id: str, desktop: SecretService
) -> None:
    with desktop.unlocked():
        person.run("key", "remember", key_id, old=_OLD)
        assert "BEGIN PUBLIC KEY" in person.run("key", "export", "--public", key_id)
        person.run("key", "passwd", key_id, new=_NEW)
    assert not desktop.holds(_OLD)
    assert not desktop.holds(_NEW)
    with desktop.unlocked():  # after the next login
        assert "BEGIN PUBLIC KEY" in person.run("key", "export", "--public", key_id)
        assert "is no longer in the keyring" in person.run("key", "forget", key_id)
        assert "Set DOCKER_CONTENT" in person.run("key", "export", "--public", key_id, code=2)


def test_a_locked_keyring_of_a_desktop_is_said_to_be_locked(
    person: Person, key_id: str, desktop: SecretService
) -> None:
    with desktop.unlocked():
        person.run("key", "remember", key_id, old=_OLD)
    with desktop.locked():
        said = person.run("key", "export", "--public", key_id, code=2)
        assert f"Set {REPOSITORY_VARIABLE}; the keyring " in said
        assert said.endswith("SecretService.Keyring is locked.\n")
        for command in ("remember", "forget"):
            said = person.run("key", command, key_id, code=2, old=_OLD)
            assert said.endswith("SecretService.Keyring is locked.\n")
        assert "BEGIN PUBLIC KEY" in person.run("key", "export", "--public", key_id, old=_OLD)


@pytest.mark.parametrize(
    "keyring",
    [
        "PlaintextKeyring",
        "NotAdvised",
        "UnsafeChain",
    ],
)
def test_a_keyring_that_keeps_nothing_safely_is_not_used(
    person: Person, key_id: str, keyring: str
) -> None:
    """Whatever is in it already, too."""
    person.run("key", "remember", key_id, old=_OLD)
    before = person.kept()
    person.has(keyring)
    said = person.run("key", "export", "--public", key_id, code=2)
    assert f"Set {REPOSITORY_VARIABLE}; the keyring " in said
    assert re.search(rf"{keyring}\S* is not used, as it keeps no secrets safely\.$", said)
    said = person.run("key", "remember", key_id, code=2, old=_OLD)
    assert "no passphrase can be kept: the keyring" in said
    assert person.kept() == before


@pytest.mark.parametrize("keyring", ["null", "fail"])
def test_a_system_without_a_keyring_is_said_to_have_none(
    person: Person, key_id: str, keyring: str
) -> None:
    person.has(f"keyring.backends.{keyring}.Keyring")
    said = person.run("key", "export", "--public", key_id, code=2)
    assert said.endswith(f"Set {REPOSITORY_VARIABLE}; there is no keyring on this system.\n")
    said = person.run("key", "remember", key_id, code=2, old=_OLD)
    assert "no passphrase can be kept: there is no keyring on this system" in said


def test_of_a_chain_only_what_is_safe_is_used(person: Person, key_id: str) -> None:
    person.has("Chain")
    person.run("key", "remember", key_id, old=_OLD)
    assert "BEGIN PUBLIC KEY" in person.run("key", "export", "--public", key_id)


def test_a_keyring_that_fails_is_one_sentence_without_its_words(
    person: Person, key_id: str
) -> None:
    person.has("Broken")
    said = person.run("key", "export", "--public", key_id, code=2)
    assert "Broken failed: RuntimeError" in said
    said = person.run("key", "remember", key_id, code=2, old=_OLD)
    assert said.endswith("Broken failed: RuntimeError.\n")


def test_a_keyring_that_does_not_exist_is_one_sentence(person: Person, key_id: str) -> None:
    person.has("nowhere.Keyring")
    said = person.run("key", "export", "--public", key_id, code=2)
    assert "the keyring that is set cannot be used" in said


def test_a_command_that_needs_no_passphrase_loads_no_keyring(person: Person) -> None:
    person.has("nowhere.Keyring")
    assert len(json.loads(person.run("key", "list", "--json"))) == 1


# --- Tables ----------------------------------------------------------------------------------


def _cells(text: str) -> list[str]:
    return re.sub("\x1b[^m]*m", "", text).split()


def test_a_terminal_shows_the_same_table_with_rich(person: Person, key_id: str) -> None:
    plain = person.run("key", "list")
    with person.terminal("key", "list", COLUMNS="250") as terminal:
        assert terminal.end() == 0
    assert "\x1b[1m" in terminal.shown
    assert key_id in plain
    assert _cells(terminal.shown) == _cells(plain)
    assert "\x1b" not in plain


@pytest.mark.parametrize("width", ["40", "80"])
def test_a_narrow_terminal_shows_ids_in_one_piece(person: Person, key_id: str, width: str) -> None:
    """Whoever copies one gets it whole, be the line too long."""
    with person.terminal("key", "list", COLUMNS=width) as terminal:
        assert terminal.end() == 0
    assert key_id in terminal.shown
    assert str(person.home / ".docker" / "trust" / "private") in terminal.shown


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_switched_off(person: Person, variables: dict[str, str]) -> None:
    with person.terminal("key", "list", COLUMNS="250", **variables) as terminal:
        assert terminal.end() == 0
    assert not re.search("\x1b\\[[0-9;]*3[0-9]", terminal.shown)
