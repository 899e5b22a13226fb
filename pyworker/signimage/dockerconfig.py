"""What Docker's programs are told: a private configuration, a chosen environment, an engine.

The rules of this file:

1. Credentials stand only in a folder of our own (0700), in a file (0600) that goes with it.
2. A child sees what it needs to work, and what the user's own arguments name; nothing else.
3. The SDK talks to the engine that the command line would talk to.

Docker CLI: "Configuration files", "Environment variables", `docker context`; what Docker finds
below `DOCKER_CONFIG` besides credentials (plugins, contexts, builders) must still be found.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from signimage.buildarguments import named_variables
from signimage.errors import InputError
from signimage.oci import DOCKER_HUB
from signimage.transport import Credentials

_HUB_KEY = "https://index.docker.io/v1/"
_DEFAULT_HOST = (
    "npipe:////./pipe/docker_engine" if sys.platform == "win32" else ("unix:///var/run/docker.sock")
)
# Settings of the user that builds depend on and that are no secrets.
_KEPT_SETTINGS = ("cliPluginsExtraDirs", "proxies", "currentContext")
_PASSED_NAMES = frozenset(
    (  # noqa: SIM905 -- as a list this fills a screen
        "PATH HOME USER LOGNAME LANG LANGUAGE TZ TMPDIR TEMP TMP SSH_AUTH_SOCK SSL_CERT_FILE "
        "SSL_CERT_DIR HTTP_PROXY HTTPS_PROXY NO_PROXY ALL_PROXY FTP_PROXY SOURCE_DATE_EPOCH "
        "DOCKER_HOST DOCKER_CONTEXT DOCKER_TLS DOCKER_TLS_VERIFY DOCKER_CERT_PATH "
        "DOCKER_API_VERSION DOCKER_BUILDKIT DOCKER_DEFAULT_PLATFORM "
        # Builders in Kubernetes: the file to reach it, or what agents inside of it have.
        "KUBECONFIG KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT "
        "SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC PATHEXT USERPROFILE APPDATA LOCALAPPDATA "
        "PROGRAMDATA PROGRAMFILES PROGRAMFILES(X86) HOMEDRIVE HOMEPATH"
    ).split()
)
_PASSED_PREFIXES = ("LC_", "XDG_", "BUILDKIT_", "BUILDX_")
_LOGIN_MEMBERS = (
    "auth",
    "email",
    "identitytoken",
    "password",
    "registrytoken",
    "serveraddress",
    "username",
)
# Removed by the task library already; a child must not get them even if it is asked to.
_SECRET_PREFIXES = (
    "INPUT_",
    "SECRET_",
    "ENDPOINT_AUTH_",
    "SECUREFILE_TICKET_",
    "VSTS_TASKVARIABLE_",
    "DOCKER_CONTENT_TRUST",
)


@dataclass(frozen=True, slots=True)
class DockerConfig:
    """A private `DOCKER_CONFIG` folder, and the variables that make Docker use it."""

    folder: Path
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where an engine listens; the three files are for TLS, empty without."""

    host: str
    ca: str = ""
    certificate: str = ""
    key: str = ""
    is_verified: bool = True

    @property
    def uses_tls(self) -> bool:
        """Tell whether the connection is to be encrypted."""
        return bool(self.ca or self.certificate)


def user_folder(environ: Mapping[str, str]) -> Path:
    """Return the `DOCKER_CONFIG` folder that Docker would use in *environ*.

    Where no variable names a home, as in services of the system, its list of users does. Without
    a home the folder would be one of the sources, whose settings and plugins nobody trusts.

    Raises:
        InputError: There is no home.
    """
    if named := environ.get("DOCKER_CONFIG"):
        return Path(named)
    try:
        home = environ.get("HOME") or environ.get("USERPROFILE") or Path.home()
    except RuntimeError as error:
        raise InputError(
            "home folder: expected one, got none", hint="Set DOCKER_CONFIG or HOME"
        ) from error
    return Path(home, ".docker")


def login_key(host: str) -> str:
    """Return the name under which Docker keeps the login of the registry *host*."""
    return _HUB_KEY if host == DOCKER_HUB else host


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the user's settings, without members that Docker's programs would stumble over.

    Raises:
        InputError: The `config.json` in *folder* is not Docker's.
    """
    file = folder / "config.json"
    try:
        settings = json.loads(file.read_bytes())
    except (FileNotFoundError, PermissionError):
        return {}  # Docker goes on without, too
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{file}: expected Docker's configuration in JSON", hint="Mend or remove the file"
        ) from error
    if not isinstance(settings, dict):
        raise InputError(f"{file}: expected Docker's configuration, a JSON object")
    return {name: value for name, value in settings.items() if _FORMS.get(name, _any)(value)}


@contextmanager
def private_config(
    parent: Path, auths: Mapping[str, Credentials], environ: Mapping[str, str]
) -> Iterator[DockerConfig]:
    """Make a private configuration below *parent*, and remove it at the end of the block.

    It logs in to the registries in *auths*, by their keys in Docker's `config.json`.
    Logins of earlier steps to other registries stay in force: base images may need them.

    Raises:
        InputError: The user's own `config.json` cannot be read.
    """
    original = user_folder(environ)
    settings = _private_settings(read_settings(original), auths, original)
    folder = Path(tempfile.mkdtemp(prefix="docker-config-", dir=parent))  # 0700
    try:
        _write_private(folder / "config.json", json.dumps(settings).encode())
        engine = {} if _bring_contexts(original, folder) else engine_variables(environ)
        builders = environ.get("BUILDX_CONFIG") or str(original / "buildx")
        own = {"DOCKER_CONFIG": str(folder), "BUILDX_CONFIG": builders}
        yield DockerConfig(folder, {**engine, **own})
    finally:
        (folder / "config.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def log_in(folder: Path, host: str, credentials: Credentials | None) -> None:
    """Have Docker's programs use these *credentials* for a registry from now on, or none.

    Args:
        folder: A private configuration.
        host: The registry, as names of images spell it.
        credentials: What to log in with; None takes away what there was.

    Raises:
        InputError: The configuration cannot be read.
    """
    settings = read_settings(folder)
    key = login_key(host)
    for name in ("auths", "credHelpers"):
        settings.setdefault(name, {}).pop(key, None)
    if credentials is not None:
        settings["auths"][key] = _auth(credentials)
    # Docker may be reading: what it finds is the old file or the new one.
    new = folder / "config.json.new"
    new.unlink(missing_ok=True)
    _write_private(new, json.dumps(settings).encode())
    new.replace(folder / "config.json")


def child_environment(
    environ: Mapping[str, str], arguments: Sequence[str], config: DockerConfig
) -> dict[str, str]:
    """Return the environment of a Docker program: a chosen part of *environ*, and *config*'s.

    *arguments* are the user's own; `--build-arg NAME` and `--secret id=…,env=NAME` name variables
    that Docker is to read.
    """
    named = named_variables(arguments)
    chosen = {
        name: value
        for name, value in environ.items()
        if (is_passed(name.upper()) or name in named)
        and not name.upper().startswith(_SECRET_PREFIXES)
    }
    return {**chosen, **config.environment}


def is_passed(name: str) -> bool:
    """Tell whether programs need the variable *name*, in upper case, to work at all."""
    return name in _PASSED_NAMES or name.startswith(_PASSED_PREFIXES)


def engine_address(environ: Mapping[str, str]) -> EngineAddress:
    """Return the engine that the Docker command line would use in *environ*.

    1. `DOCKER_HOST`, with `DOCKER_TLS_VERIFY` or `DOCKER_TLS`, and `DOCKER_CERT_PATH`;
    2. the context named by `DOCKER_CONTEXT`, else by the user's configuration;
    3. the socket of the local engine.

    Raises:
        InputError: A context is named that is not there or not readable.
    """
    original = user_folder(environ)
    if host := environ.get("DOCKER_HOST", "").strip():
        verified = bool(environ.get("DOCKER_TLS_VERIFY"))
        if not verified and not environ.get("DOCKER_TLS"):
            return EngineAddress(host)
        folder = Path(environ.get("DOCKER_CERT_PATH") or original)
        return _with_tls(host, folder, is_verified=verified)
    name = _context_name(environ, original)
    return _context_address(original, name) if name else EngineAddress(_DEFAULT_HOST)


def engine_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return variables that lead to the same engine where the user's contexts are not at hand.

    Raises:
        InputError: A context is named that is not there or not readable.
    """
    if environ.get("DOCKER_HOST") or not _context_name(environ, user_folder(environ)):
        return {}
    address = engine_address(environ)
    variables = {"DOCKER_HOST": address.host}
    if address.uses_tls:
        variables["DOCKER_CERT_PATH"] = str(Path(address.ca or address.certificate).parent)
        variables["DOCKER_TLS_VERIFY" if address.is_verified else "DOCKER_TLS"] = "1"
    return variables


def _any(_value: Any) -> bool:
    return True


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _is_objects(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, dict) for each in value.values())


def _is_proxies(value: Any) -> bool:
    return _is_objects(value) and all(_is_texts(each) for each in value.values())


def _is_login(entry: Mapping[str, Any]) -> bool:
    """Tell whether Docker can read this member of `auths`; one that it cannot costs it all."""
    known = {name.lower(): value for name, value in entry.items()}
    if not all(isinstance(known.get(name) or "", str) for name in _LOGIN_MEMBERS):
        return False
    auth = known.get("auth") or ""
    try:
        decoded = base64.b64decode(re.sub("[\r\n]", "", auth), validate=True)
    except ValueError:
        return False
    username, colon, _ = decoded.partition(b":")
    return not auth or bool(username and colon)


_FORMS: Mapping[str, Callable[[Any], bool]] = {
    "auths": _is_objects,
    "cliPluginsExtraDirs": lambda value: isinstance(value, list),
    "credHelpers": _is_texts,
    "currentContext": lambda value: isinstance(value, str),
    "proxies": _is_proxies,
}


def _private_settings(
    theirs: Mapping[str, Any], auths: Mapping[str, Credentials], original: Path
) -> dict[str, Any]:
    settings = {name: theirs[name] for name in _KEPT_SETTINGS if name in theirs}
    plugins = original / "cli-plugins"
    if plugins.is_dir():  # Docker looks for these beside its config.json
        settings["cliPluginsExtraDirs"] = [str(plugins), *settings.get("cliPluginsExtraDirs", [])]
    for name in ("auths", "credHelpers"):  # a credsStore would hide our own login
        known = theirs.get(name, {})
        settings[name] = {key: value for key, value in known.items() if key not in auths}
    settings["auths"] = {key: each for key, each in settings["auths"].items() if _is_login(each)}
    for key, credentials in auths.items():
        settings["auths"][key] = _auth(credentials)
    return settings


def _auth(credentials: Credentials) -> dict[str, str]:
    if credentials.is_identity_token:  # as a password it would go to whoever asks for Basic
        return {"identitytoken": credentials.password}
    pair = f"{credentials.username}:{credentials.password}".encode()
    return {"auth": base64.b64encode(pair).decode("ascii")}


def _write_private(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags, 0o600), "wb") as file:  # noqa: PTH123 -- Path.open takes no descriptor
        file.write(content)


def _bring_contexts(original: Path, folder: Path) -> bool:
    """Make the user's contexts reachable; a link, so that their TLS keys are not copied."""
    contexts = original / "contexts"
    if contexts.is_dir():
        try:
            (folder / "contexts").symlink_to(contexts.absolute(), target_is_directory=True)
        except (OSError, NotImplementedError):  # Windows may not allow links
            return False
    return True


def _context_name(environ: Mapping[str, str], original: Path) -> str:
    name = environ.get("DOCKER_CONTEXT", "") or read_settings(original).get("currentContext", "")
    return "" if name in ("", "default") or not isinstance(name, str) else name


def _context_address(original: Path, name: str) -> EngineAddress:
    identity = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    file = original / "contexts" / "meta" / identity / "meta.json"
    try:
        endpoint = json.loads(file.read_bytes())["Endpoints"]["docker"]
        host, unverified = endpoint["Host"], bool(endpoint.get("SkipTLSVerify"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"Docker context {name!r}: expected its description in {file}",
            hint="Check DOCKER_CONTEXT and the output of: docker context ls",
        ) from error
    tls = original / "contexts" / "tls" / identity / "docker"
    return _with_tls(str(host), tls, is_verified=not unverified)


def _with_tls(host: str, folder: Path, *, is_verified: bool) -> EngineAddress:
    def existing(name: str) -> str:
        return str(folder / name) if (folder / name).is_file() else ""

    return EngineAddress(
        host, existing("ca.pem"), existing("cert.pem"), existing("key.pem"), is_verified
    )
