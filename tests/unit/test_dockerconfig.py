"""Claims about `signimage.dockerconfig`, on real folders."""

import base64
import hashlib
import json
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from signimage.buildarguments import named_variables
from signimage.dockerconfig import (
    DockerConfig,
    EngineAddress,
    child_environment,
    engine_address,
    engine_variables,
    log_in,
    private_config,
    user_folder,
)
from signimage.errors import InputError
from signimage.transport import Credentials

PASSWORD = "pass\"wörd'%;\\"
AUTHS = {"reg.example.com": Credentials("me", PASSWORD)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a home folder with a Docker configuration."""
    docker = tmp_path / "home" / ".docker"
    docker.mkdir(parents=True)
    settings = {
        "auths": {"reg.example.com": {"auth": "b2xk"}, "other.example.com": {"auth": "bzp4"}},
        "credHelpers": {"reg.example.com": "x", "gcr.io": "gcloud"},
        "credsStore": "desktop",
        "HttpHeaders": {"X": "y"},
        "proxies": {"default": {"httpProxy": "http://proxy:3128"}},
        "currentContext": "far",
    }
    (docker / "config.json").write_text(json.dumps(settings))
    return tmp_path / "home"


def add_context(home: Path, name: str, endpoint: object, *files: str) -> Path:
    identity = hashlib.sha256(name.encode()).hexdigest()
    contexts = home / ".docker" / "contexts"
    meta, tls = contexts / "meta" / identity, contexts / "tls" / identity / "docker"
    meta.mkdir(parents=True)
    tls.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": endpoint}}))
    for file in files:
        (tls / file).write_text("x")
    return tls


# --- the user's folder ----------------------------------------------------------------------


def test_folder_of_settings_is_never_among_the_sources_where_no_variable_names_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".docker" / "cli-plugins").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME", raising=False)
    assert user_folder({}) == Path(pwd.getpwuid(os.getuid()).pw_dir, ".docker")
    with private_config(tmp_path, AUTHS, {}) as config:
        assert str(tmp_path / ".docker") not in (config.folder / "config.json").read_text()


# --- private configuration ------------------------------------------------------------------


def test_login_is_private_and_gone_afterwards(tmp_path: Path, home: Path) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    with private_config(temp, AUTHS, {"HOME": str(home)}) as config:
        file = config.folder / "config.json"
        assert stat.S_IMODE(config.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert config.folder.parent == temp
        auth = json.loads(file.read_text())["auths"]["reg.example.com"]["auth"]
        assert base64.b64decode(auth).decode() == f"me:{PASSWORD}"
    assert list(temp.iterdir()) == []


def test_login_is_gone_after_a_cancel(tmp_path: Path) -> None:
    temp = tmp_path / "temp"
    temp.mkdir()
    with (
        suppress(KeyboardInterrupt),
        private_config(temp, AUTHS, {"HOME": str(tmp_path)}) as config,
    ):
        (config.folder / "trust").mkdir()
        raise KeyboardInterrupt
    assert list(temp.iterdir()) == []


def test_settings_and_other_logins_of_the_user_stay_in_force(tmp_path: Path, home: Path) -> None:
    (home / ".docker" / "cli-plugins").mkdir()
    with private_config(tmp_path, AUTHS, {"HOME": str(home)}) as config:
        settings = json.loads((config.folder / "config.json").read_text())
    assert set(settings) == {
        "auths", "credHelpers", "proxies", "currentContext", "cliPluginsExtraDirs"
    }  # fmt: skip
    assert settings["auths"]["other.example.com"] == {"auth": "bzp4"}
    assert settings["credHelpers"] == {"gcr.io": "gcloud"}
    assert settings["cliPluginsExtraDirs"] == [str(home / ".docker" / "cli-plugins")]
    assert config.environment == {
        "DOCKER_CONFIG": str(config.folder),
        "BUILDX_CONFIG": str(home / ".docker" / "buildx"),
    }


def test_contexts_of_the_user_are_reachable_and_survive(tmp_path: Path, home: Path) -> None:
    tls = add_context(home, "far", {"Host": "tcp://h:2376"}, "key.pem")
    inside = tls.relative_to(home / ".docker")
    with private_config(tmp_path, AUTHS, {"HOME": str(home)}) as config:
        assert (config.folder / inside / "key.pem").is_file()
    assert (tls / "key.pem").is_file()


def test_configuration_named_by_the_environment_comes_first(tmp_path: Path, home: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    environ = {"HOME": str(home), "DOCKER_CONFIG": str(other)}
    with private_config(tmp_path, {}, environ) as config:
        settings = json.loads((config.folder / "config.json").read_text())
    assert settings == {"auths": {}, "credHelpers": {}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("proxies", 7),
        ("proxies", {"default": "http://proxy"}),
        ("proxies", {"default": {"httpProxy": 7}}),
        ("auths", {"x": 5}),
        ("credHelpers", ["x"]),
        ("currentContext", 5),
        ("cliPluginsExtraDirs", "x"),
        ("HttpHeaders", 3),
    ],
)
def test_settings_of_a_senseless_form_are_left_out(home: Path, name: str, value: object) -> None:
    """Docker's own programs would stop on them, with a message about something else."""
    (home / ".docker" / "config.json").write_text(json.dumps({name: value}))
    with private_config(home, AUTHS, {"HOME": str(home)}) as config:
        settings = json.loads((config.folder / "config.json").read_text())
    assert settings.get(name) != value
    assert list(settings["auths"]) == list(AUTHS)


@pytest.mark.parametrize(
    "entry",
    [{"auth": "!!"}, {"auth": "bm9ib2R5"}, {"auth": "OnA="}, {"auth": 7}, {"identitytoken": ["x"]}],
)
def test_login_that_docker_cannot_read_hides_no_other(home: Path, entry: dict[str, object]) -> None:
    """Docker drops its whole configuration because of one, and our login with it."""
    good = {
        "a.example.com": {"auth": "bTpw\n"},
        "b.example.com": {},
        "c.example.com": {"auth": None},
    }
    settings = {"auths": {**good, "broken.example.com": entry}}
    (home / ".docker" / "config.json").write_text(json.dumps(settings))
    with private_config(home, AUTHS, {"HOME": str(home)}) as config:
        kept = json.loads((config.folder / "config.json").read_text())["auths"]
    assert set(kept) == {*good, *AUTHS}


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_broken_configuration_of_the_user_is_named(tmp_path: Path, home: Path, text: str) -> None:
    (home / ".docker" / "config.json").write_text(text, "latin-1")
    with (
        pytest.raises(InputError, match=r"config\.json: expected Docker's configuration"),
        private_config(tmp_path, AUTHS, {"HOME": str(home)}),
    ):
        pass


# --- what a child sees ----------------------------------------------------------------------

CONFIG = DockerConfig(Path("/t"), {"DOCKER_CONFIG": "/t", "BUILDX_CONFIG": "/h/.docker/buildx"})


def test_child_sees_what_it_needs_and_nothing_else() -> None:
    needed = {"PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "DOCKER_HOST": "unix:///x",
              "https_proxy": "p", "NO_PROXY": "n", "XDG_RUNTIME_DIR": "/r", "BUILDX_BUILDER": "b",
              "BUILDKIT_PROGRESS": "plain", "SSH_AUTH_SOCK": "/s", "KUBECONFIG": "/k"}  # fmt: skip
    others = {"AWS_SECRET_ACCESS_KEY": "x", "SYSTEM_ACCESSTOKEN": "x", "PYTHONPATH": "x",
              "LD_PRELOAD": "x", "DOCKER_CONFIG": "/mine", "DOCKER_CONTENT_TRUST": "1",
              "BUILD_BUILDID": "7", "npm_token": "x"}  # fmt: skip
    assert child_environment({**needed, **others}, (), CONFIG) == {**needed, **CONFIG.environment}


def test_child_sees_what_the_arguments_name() -> None:
    environ = {"NPM_TOKEN": "t", "VERSION": "1", "GIVEN": "no", "PIP": "p", "OTHER": "x"}
    arguments = ("--build-arg", "VERSION", "--build-arg=GIVEN=2", "--secret", "id=n,env=NPM_TOKEN",
                 "--secret=id=PIP", "--secret", "id=OTHER,src=/f", "--build-arg")  # fmt: skip
    assert named_variables(arguments) == {"VERSION", "NPM_TOKEN", "PIP"}
    seen = child_environment(environ, arguments, CONFIG)
    assert seen == {"NPM_TOKEN": "t", "VERSION": "1", "PIP": "p", **CONFIG.environment}


@pytest.mark.parametrize(
    "name",
    ["DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE", "INPUT_X", "SECRET_X", "ENDPOINT_AUTH_X",
     "SECUREFILE_TICKET_X", "VSTS_TASKVARIABLE_X"],
)  # fmt: skip
def test_child_never_sees_the_secrets_of_the_step(name: str) -> None:
    assert child_environment({name: "s"}, ("--build-arg", name), CONFIG) == CONFIG.environment


# --- which engine ---------------------------------------------------------------------------


def test_engine_is_the_local_one_by_default(tmp_path: Path) -> None:
    assert engine_address({"HOME": str(tmp_path)}) == EngineAddress("unix:///var/run/docker.sock")


def test_engine_named_by_the_environment_comes_first(home: Path) -> None:
    environ = {"HOME": str(home), "DOCKER_HOST": "tcp://h:2375", "DOCKER_CONTEXT": "far"}
    assert engine_address(environ) == EngineAddress("tcp://h:2375")


def test_engine_over_tls_uses_the_certificates_of_the_environment(tmp_path: Path) -> None:
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).write_text("x")
    environ = {"DOCKER_HOST": "tcp://h:2376", "DOCKER_CERT_PATH": str(tmp_path)}
    ca, certificate, key = (str(tmp_path / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    for variable, verified in [("DOCKER_TLS_VERIFY", True), ("DOCKER_TLS", False)]:
        expected = EngineAddress("tcp://h:2376", ca, certificate, key, is_verified=verified)
        assert engine_address({**environ, variable: "1"}) == expected


def test_engine_of_the_current_context_is_used(home: Path) -> None:
    tls = add_context(home, "far", {"Host": "tcp://far:2376", "SkipTLSVerify": True}, "ca.pem")
    add_context(home, "near", {"Host": "unix:///near.sock"})
    far = EngineAddress("tcp://far:2376", str(tls / "ca.pem"), is_verified=False)
    assert engine_address({"HOME": str(home)}) == far
    near = engine_address({"HOME": str(home), "DOCKER_CONTEXT": "near"})
    assert near == EngineAddress("unix:///near.sock")


@pytest.mark.parametrize("endpoint", [None, {}, [], "x"])
def test_context_that_is_not_there_or_broken_is_named(home: Path, endpoint: object) -> None:
    environ = {"HOME": str(home), "DOCKER_CONTEXT": "gone"}
    with pytest.raises(InputError, match=r"^Docker context 'gone': expected its description in /"):
        engine_address(environ)
    add_context(home, "gone", endpoint)
    with pytest.raises(InputError, match=r"^Docker context 'gone': expected its description in /"):
        engine_address(environ)


def test_current_context_whose_name_is_no_unicode_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"currentContext":"\\ud800"}')
    with pytest.raises(InputError, match=r"^Docker context '\\ud800': expected its description"):
        engine_address({"DOCKER_CONFIG": str(tmp_path)})


def test_engine_of_a_context_is_named_where_contexts_cannot_be_linked(home: Path) -> None:
    """As on Windows: the private configuration then leads to no context at all."""
    environ = {"HOME": str(home)}
    tls = add_context(home, "far", {"Host": "tcp://far:2376"}, "ca.pem", "cert.pem", "key.pem")
    by_tls = {"DOCKER_HOST": "tcp://far:2376", "DOCKER_CERT_PATH": str(tls)}
    assert engine_variables(environ) == {**by_tls, "DOCKER_TLS_VERIFY": "1"}
    add_context(home, "lax", {"Host": "tcp://lax:2376", "SkipTLSVerify": True}, "cert.pem")
    assert engine_variables({**environ, "DOCKER_CONTEXT": "lax"})["DOCKER_TLS"] == "1"
    add_context(home, "pipe", {"Host": "npipe:////./pipe/dockerDesktopLinuxEngine"})
    pipe = engine_variables({**environ, "DOCKER_CONTEXT": "pipe"})
    assert pipe == {"DOCKER_HOST": "npipe:////./pipe/dockerDesktopLinuxEngine"}
    assert engine_variables({**environ, "DOCKER_HOST": "tcp://h:1"}) == {}
    assert engine_variables({**environ, "DOCKER_CONTEXT": "default"}) == {}


# --- logging in again -----------------------------------------------------------------------


def test_a_login_that_is_renewed_replaces_the_old_one_and_stays_private(
    tmp_path: Path, home: Path
) -> None:
    with private_config(tmp_path, AUTHS, {"HOME": str(home)}) as config:
        before = json.loads((config.folder / "config.json").read_text())
        log_in(config.folder, "reg.example.com", Credentials("me", "new"))
        file = config.folder / "config.json"
        after = json.loads(file.read_text())
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert base64.b64decode(after["auths"].pop("reg.example.com")["auth"]) == b"me:new"
        del before["auths"]["reg.example.com"]
        assert after == before
        log_in(config.folder, "reg.example.com", None)
        assert json.loads(file.read_text()) == before
        assert [path.name for path in config.folder.iterdir()] == ["config.json"]
