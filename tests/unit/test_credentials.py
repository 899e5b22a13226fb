"""Claims about `signimage.credentials`, on real folders and with real programs as helpers."""

import base64
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.credentials import ANSWER_MAX, StoredLogin
from signimage.errors import InputError
from signimage.response import Credentials

HOST = "reg.example.com:5000"
HUB_KEY = "https://index.docker.io/v1/"
ME = Credentials("me", "päss:word")
SECRET = "s3cret-of-a-helper"


def basic(login: Credentials) -> str:
    return login.basic().removeprefix("Basic ")


class Workstation:
    """A Docker folder, and a folder on PATH for helpers."""

    def __init__(self, folder: Path) -> None:
        self.docker = folder / "docker"
        self.programs = folder / "bin"
        for each in (self.docker, self.programs):
            each.mkdir()
        self.environment = {"PATH": f"{self.programs}:{os.environ['PATH']}"}

    def configure(self, **settings: object) -> None:
        """Write Docker's configuration."""
        (self.docker / "config.json").write_text(json.dumps(settings), "utf-8")

    def helper(self, script: str, name: str = "vault") -> None:
        """Put a helper on PATH; $FOLDER is where it may write."""
        file = self.programs / f"docker-credential-{name}"
        file.write_text(f"#!/bin/sh\nFOLDER='{self.programs}'\n{script}\n", "utf-8")
        file.chmod(0o755)

    def login(self, host: str = HOST, patience_s: float = 60) -> Credentials | None:
        """Look the login up."""
        return StoredLogin(self.docker, host, self.environment, patience_s).current()


@pytest.fixture
def workstation(tmp_path: Path) -> Workstation:
    return Workstation(tmp_path)


def printing(**answer: object) -> str:
    return f"printf '%s' '{json.dumps(answer)}'"


# --- the file -------------------------------------------------------------------------------


def test_without_a_configuration_there_is_no_login(workstation: Workstation) -> None:
    assert workstation.login() is None


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        ({"auth": basic(ME)}, ME),
        ({"username": "me", "password": "päss:word"}, ME),
        ({"auth": basic(ME), "username": "other", "password": "old"}, ME),
        ({"auth": base64.b64encode(b"me:x\0\0").decode()}, Credentials("me", "x")),
        ({"auth": base64.b64encode(b"me:").decode()}, Credentials("me", "")),
        (
            {"auth": basic(ME), "identitytoken": "long"},
            Credentials("me", "long", is_identity_token=True),
        ),
        ({"identitytoken": "long"}, Credentials("", "long", is_identity_token=True)),
        ({}, None),
        ({"email": "me@example.com"}, None),
    ],
)
def test_an_entry_of_the_file_is_read_as_docker_reads_it(
    workstation: Workstation, entry: object, login: Credentials | None
) -> None:
    workstation.configure(auths={HOST: entry})
    assert workstation.login() == login


@pytest.mark.parametrize(
    ("host", "key"),
    [
        (HOST, HOST),
        (HOST, f"https://{HOST}"),
        (HOST, f"http://{HOST}/v1/"),
        (HOST, f"https://{HOST}/v2/team"),
        (HOST, HOST.upper()),
        ("docker.io", HUB_KEY),
        ("docker.io", "https://index.docker.io/v1"),
        ("docker.io", "index.docker.io"),
        ("docker.io", "docker.io"),
        ("docker.io", "https://registry-1.docker.io/v2/"),
    ],
)
def test_a_key_of_any_age_leads_to_its_registry(
    workstation: Workstation, host: str, key: str
) -> None:
    workstation.configure(auths={"other.example.com": {"auth": "eDp5"}, key: {"auth": basic(ME)}})
    assert workstation.login(host) == ME


@pytest.mark.parametrize(
    ("host", "key"),
    [
        (HOST, "reg.example.com"),
        (HOST, "reg.example.com:5001"),
        (HOST, f"x{HOST}"),
        (HOST, f"https://example.com/{HOST}"),
        ("reg.example.com", HOST),
        ("docker.io", "hub.docker.io"),
        ("docker.io", "https://index.docker.io/v1/access-token"),
        ("docker.io", "https://index.docker.io/v1/refresh-token"),
    ],
)
def test_a_key_leads_to_no_other_host_or_port(
    workstation: Workstation, host: str, key: str
) -> None:
    workstation.configure(auths={key: {"auth": basic(ME)}})
    assert workstation.login(host) is None


@pytest.mark.parametrize(("host", "own"), [(HOST, HOST), ("docker.io", HUB_KEY)])
def test_the_registrys_own_key_comes_first(workstation: Workstation, host: str, own: str) -> None:
    older = f"https://{host}/v0/"
    workstation.configure(auths={older: {"auth": "eDp5"}, own: {"auth": basic(ME)}})
    assert workstation.login(host) == ME


@pytest.mark.parametrize(
    ("entry", "claim"),
    [
        ({"auth": "s3cret!"}, "expected user name and password in base64"),
        ({"auth": 7}, "expected user name and password in base64"),
        ({"auth": base64.b64encode(b"s3cret").decode()}, "expected user name and password in bas"),
        ({"auth": base64.b64encode(b":s3cret").decode()}, "expected user name and password in ba"),
        ({"auth": base64.b64encode(b"s3cret:\xff").decode()}, "expected user name and password in"),
        ({"username": "me", "password": "s3cret\ud800"}, "expected Unicode texts, got something"),
        ({"username": "me", "password": ["s3cret"]}, "expected Unicode texts, got something else"),
        ({"identitytoken": {"s3cret": 1}}, "expected Unicode texts, got something else"),
    ],
)
def test_a_broken_entry_is_named_and_not_quoted(
    workstation: Workstation, entry: object, claim: str
) -> None:
    workstation.configure(auths={HOST: entry})
    with pytest.raises(InputError, match=rf"config\.json: login for {HOST}: {claim}") as caught:
        workstation.login()
    assert "s3cret" not in caught.value.sentence


def test_a_broken_entry_of_another_registry_does_not_disturb(workstation: Workstation) -> None:
    workstation.configure(auths={"other.example.com": {"auth": "!"}, HOST: {"auth": basic(ME)}})
    assert workstation.login() == ME


def test_a_file_that_is_not_dockers_is_named(workstation: Workstation) -> None:
    (workstation.docker / "config.json").write_text("{", "ascii")
    with pytest.raises(InputError, match=r"config\.json: expected Docker's configuration in JSON"):
        workstation.login()


_SETTINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["auths", "auth", "username", "password", "identitytoken", HOST])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(settings=_SETTINGS)
def test_any_configuration_gives_a_login_or_none_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, settings: object
) -> None:
    folder = tmp_path_factory.mktemp("docker")
    (folder / "config.json").write_text(json.dumps(settings), "utf-8")
    try:
        login = StoredLogin(folder, HOST, {}).current()
    except InputError:
        return
    assert login is None or login.basic().isascii()


# --- helpers --------------------------------------------------------------------------------


def test_a_helper_is_asked_with_a_fixed_word_and_the_registry_on_its_input(
    workstation: Workstation,
) -> None:
    answer = printing(ServerURL=HOST, Username="me", Secret="päss:word")
    workstation.helper(f'echo "$*" > "$FOLDER/words"; cat > "$FOLDER/input"; {answer}')
    workstation.configure(credsStore="vault")
    assert workstation.login() == ME
    assert (workstation.programs / "words").read_text("utf-8") == "get\n"
    assert (workstation.programs / "input").read_text("utf-8") == HOST


def test_docker_hub_has_its_own_name_for_helpers(workstation: Workstation) -> None:
    workstation.helper(f'cat > "$FOLDER/input"; {printing(Username="me", Secret="x")}')
    workstation.configure(credHelpers={HUB_KEY: "vault"})
    assert workstation.login("docker.io") == Credentials("me", "x")
    assert (workstation.programs / "input").read_text("utf-8") == HUB_KEY


def test_a_helper_may_answer_with_an_identity_token(workstation: Workstation) -> None:
    workstation.helper(printing(Username="<token>", Secret="long"))
    workstation.configure(credsStore="vault")
    assert workstation.login() == Credentials("<token>", "long", is_identity_token=True)


def test_the_helper_of_a_registry_comes_before_the_one_for_all_and_both_before_the_file(
    workstation: Workstation,
) -> None:
    auths = {HOST: {"auth": "eDp5"}}
    workstation.helper(printing(Username="one", Secret="1"), "one")
    workstation.helper(printing(Username="all", Secret="2"), "all")
    workstation.configure(auths=auths, credsStore="all", credHelpers={HOST: "one"})
    assert workstation.login() == Credentials("one", "1")
    workstation.configure(auths=auths, credsStore="all", credHelpers={"other.example.com": "one"})
    assert workstation.login() == Credentials("all", "2")
    workstation.configure(auths=auths, credsStore="all", credHelpers={HOST: ""})
    assert workstation.login() == Credentials("x", "y")


@pytest.mark.parametrize(
    "script",
    [
        "echo 'credentials not found in native keychain'; exit 1",
        printing(Username="", Secret=""),
    ],
)
def test_a_helper_may_know_nothing_and_then_nobody_else_is_asked(
    workstation: Workstation, script: str
) -> None:
    workstation.helper(script)
    workstation.configure(auths={HOST: {"auth": basic(ME)}}, credsStore="vault")
    assert workstation.login() is None


def test_a_helper_sees_what_it_needs_and_no_secrets_of_ours(workstation: Workstation) -> None:
    needed = {"HOME": "/h", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/x", "AWS_PROFILE": "p",
              "https_proxy": "http://proxy:3128", "PASSWORD_STORE_DIR": "/p"}  # fmt: skip
    others = {"DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": SECRET, "SECRET_X": SECRET,
              "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": SECRET, "LD_PRELOAD": "x",
              "SYSTEM_ACCESSTOKEN": SECRET, "NPM_TOKEN": SECRET}  # fmt: skip
    workstation.environment |= needed | others
    workstation.helper(f'env > "$FOLDER/seen"; {printing(Username="me", Secret="x")}')
    workstation.configure(credsStore="vault")
    workstation.login()
    seen = (workstation.programs / "seen").read_text("utf-8")
    assert all(f"{name}={value}\n" in seen for name, value in needed.items())
    assert not any(f"{name}=" in seen for name in others)


@pytest.mark.parametrize("name", ["../vault", "a/b", "", "-x", "a b", 7, ["x"]])
def test_a_helper_with_an_impossible_name_is_not_started(
    workstation: Workstation, name: object
) -> None:
    workstation.configure(credsStore=name, auths={})
    if not name:
        assert workstation.login() is None
        return
    with pytest.raises(InputError, match=rf"^credential helper for {HOST}: expected a name such"):
        workstation.login()


def test_a_helper_that_is_not_there_is_named_with_who_wants_it(workstation: Workstation) -> None:
    workstation.configure(credsStore="gone")
    claim = rf"^docker-credential-gone, which Docker's configuration names for {HOST}, is not on"
    with pytest.raises(InputError, match=claim):
        workstation.login()


def test_a_helper_that_cannot_be_started_is_an_error_of_ours(workstation: Workstation) -> None:
    workstation.helper("")
    (workstation.programs / "docker-credential-vault").write_bytes(b"\x7fELF no program")
    workstation.configure(credsStore="vault")
    program = re.escape(f"{workstation.programs}/docker-credential-vault")
    with pytest.raises(InputError, match=rf"^{program} cannot be started: "):
        workstation.login()


@pytest.mark.parametrize(
    ("script", "claim"),
    [
        (f"echo {SECRET}; echo {SECRET} >&2; exit 3", "failed with status 3 for "),
        (f"echo {SECRET}", "expected JSON with Username and Secret"),
        (f"echo '[\"{SECRET}\"]'", "expected JSON with Username and Secret"),
        (printing(Secret=SECRET), "expected JSON with Username and Secret"),
        (printing(Username=SECRET, Secret=7), "expected Unicode texts, got something else"),
        (printing(Username=SECRET, Secret="\ud800"), "expected Unicode texts, got something else"),
        (f"head -c {ANSWER_MAX + 1} /dev/zero", f"expected at most {ANSWER_MAX} bytes, got more"),
        ("cat /dev/zero", f"expected at most {ANSWER_MAX} bytes, got more"),
    ],
)
def test_a_helper_that_fails_or_makes_no_sense_is_not_quoted(
    workstation: Workstation, capfd: pytest.CaptureFixture[str], script: str, claim: str
) -> None:
    workstation.helper(script)
    workstation.configure(credsStore="vault")
    with pytest.raises(InputError, match=claim) as caught:
        workstation.login()
    assert "docker-credential-vault" in str(caught.value)
    assert SECRET not in caught.value.sentence
    assert SECRET not in "".join(capfd.readouterr())


def test_a_helper_that_reads_nothing_is_heard_all_the_same(workstation: Workstation) -> None:
    workstation.helper(f"exec <&-; {printing(Username='me', Secret='x')}")
    workstation.configure(credsStore="vault")
    assert workstation.login() == Credentials("me", "x")


def test_a_helper_that_does_not_end_is_ended_with_all_that_it_started(
    workstation: Workstation,
) -> None:
    """Its child holds the output open: no error comes before the child is gone as well."""
    workstation.helper("sleep 600 & wait")
    workstation.configure(credsStore="vault")
    program = re.escape(f"{workstation.programs}/docker-credential-vault")
    with pytest.raises(InputError, match=rf"^{program} did not answer within 0\.5 s$"):
        workstation.login(patience_s=0.5)
