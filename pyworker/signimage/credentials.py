"""The logins that Docker keeps on a workstation: in `config.json`, or with a credential helper.

The rules of this file, which are Docker's:

1. A helper named for the registry (`credHelpers`) is asked, else the one for all (`credsStore`);
   only without either does the file itself (`auths`) count.
2. In the file the registry's own key comes first, then keys of older programs that lead to the
   same host and port: with a scheme, with a path, and for Docker Hub under its other names.
3. An identity token comes before user name and password.

And ours:

4. A helper is started from an argument list, gets the registry on its standard input and the
   environment that such programs need, and may take its time only so long and answer so much.
5. What a helper answers or complains stands in no text: either may hold a secret.

Docker CLI: "Credential stores", "Credential helper protocol".
"""

import base64
import binascii
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from signimage.dockerconfig import is_passed, login_key, read_settings
from signimage.errors import EngineError, InputError
from signimage.oci import normal_host
from signimage.programs import consult_program, find_program
from signimage.response import Credentials

# Of programs; what has another one there would be run by a shell.
_ENDING = ".exe" if sys.platform == "win32" else ""
HELPER_S = 60.0  # it may have to ask somebody to unlock a key ring
ANSWER_MAX = 256 * 1024  # bytes; tokens of some registries reach 10 KiB

_IDENTITY_USER = "<token>"  # with this user name the secret is an identity token
# Where Docker keeps what it logged in to its Hub with, beside the login itself.
_TOKEN_KEYS = ("/access-token", "/refresh-token")
_NOT_FOUND = b"credentials not found"  # what helpers say, on standard output, with a failure
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# What the usual helpers read beside what every program needs: key rings of desktops, `pass` and
# the clouds' own logins.
_HELPER_NAMES = frozenset(
    (  # noqa: SIM905 -- as a list this fills a screen
        "DOCKER_CONFIG DBUS_SESSION_BUS_ADDRESS DISPLAY WAYLAND_DISPLAY XAUTHORITY GNUPGHOME "
        "GPG_TTY GPG_AGENT_INFO TERM"
    ).split()
)
_HELPER_PREFIXES = ("PASSWORD_STORE_", "AWS_", "AZURE_", "GOOGLE_", "CLOUDSDK_", "VAULT_")


@dataclass(frozen=True, slots=True)
class StoredLogin:
    """The login that Docker has for a registry, looked up whenever it is asked for.

    Attributes:
        folder: Docker's configuration folder, which holds `config.json`.
        host: The registry, with its port where it has one.
        environment: Where helpers are found, and what is passed on to them.
        patience_s: How long a helper may take.
    """

    folder: Path
    host: str
    environment: Mapping[str, str] = field(repr=False)
    patience_s: float = HELPER_S

    def current(self) -> Credentials | None:
        """Return the login; None where Docker has none.

        Raises:
            InputError: The file or the helper's answer makes no sense, or the helper fails.
        """
        settings = read_settings(self.folder)
        helper = _helper(settings, self.host)
        if helper:
            return self._ask(f"docker-credential-{helper}")
        entry = _entry(settings.get("auths", {}), self.host)
        what = f"{self.folder / 'config.json'}: login for {self.host}"
        return _read_entry(entry, what)

    def _ask(self, program: str) -> Credentials | None:
        passed = {name: value for name, value in self.environment.items() if _is_passed(name)}
        found = find_program(program + _ENDING, passed)
        if not found:
            raise InputError(
                f"{program}, which Docker's configuration names for {self.host}, is not on PATH",
                hint="Install it, or take its name out of config.json and log in again",
            )
        question = login_key(self.host).encode()
        try:
            status, answer = consult_program(
                [found, "get"], passed, question, self.patience_s, ANSWER_MAX
            )
        except EngineError as error:  # a workstation's settings are at fault, and no engine
            raise InputError(
                str(error),
                hint="See what is wrong with it, or take its name out of config.json and log in "
                "again",
            ) from error
        if status == 0:
            return _read_answer(answer, f"answer of {program} for {self.host}")
        if _NOT_FOUND in answer:
            return None
        raise InputError(
            f"{program} failed with status {status} for {self.host}",
            hint=f"Check that docker login {self.host} works",
        )


def logged_in(folder: Path) -> tuple[str, ...]:
    """Return the registries that Docker's configuration in *folder* has a login for.

    Raises:
        InputError: The file makes no sense.
    """
    settings = read_settings(folder)
    keys = (*settings.get("auths", {}), *settings.get("credHelpers", {}))
    return tuple(dict.fromkeys(host for key in keys if (host := _leads_to(key))))


# --- the file -------------------------------------------------------------------------------


def _helper(settings: Mapping[str, Any], host: str) -> str:
    """Return the name of the helper that keeps the login of *host*, "" for the file."""
    special = _for_host(settings.get("credHelpers", {}), host)
    name = settings.get("credsStore", "") if special is None else special
    if name and (not isinstance(name, str) or not _HELPER.fullmatch(name)):
        raise InputError(
            f"credential helper for {host}: expected a name such as desktop, got {name!r:.100}"
        )
    return name or ""


def _entry(auths: Mapping[str, Any], host: str) -> Mapping[str, Any]:
    return _for_host(auths, host) or {}


def _for_host(entries: Mapping[str, Any], host: str) -> Any:
    """Return the entry for *host*, whose own key comes before those that only lead to it."""
    own = login_key(host)
    if own in entries:
        return entries[own]
    return next((entries[key] for key in entries if _leads_to(key) == host), None)


def _leads_to(key: str) -> str:
    """Return the host and port that a key of any age means, "" if it keeps no login."""
    if key.endswith(_TOKEN_KEYS):
        return ""
    return normal_host(key.rpartition("://")[2].partition("/")[0])


def _read_entry(entry: Mapping[str, Any], what: str) -> Credentials | None:
    username, password = entry.get("username", ""), entry.get("password", "")
    if entry.get("auth"):
        username, password = _decoded(entry["auth"], what)
    token = entry.get("identitytoken")
    if token:
        return _checked(username, token, what, is_identity_token=True)
    return _checked(username, password, what) if username else None


def _decoded(auth: Any, what: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
    except (TypeError, ValueError, binascii.Error) as error:
        raise InputError(f"{what}: expected user name and password in base64") from error
    if not colon or not username:
        raise InputError(f"{what}: expected user name and password in base64")
    return username, password.strip("\0")


def _checked(
    username: Any, password: Any, what: str, *, is_identity_token: bool = False
) -> Credentials:
    for text in (username, password):
        # JSON can hold half of a surrogate pair, and no request can.
        if not isinstance(text, str) or re.search(r"[\ud800-\udfff]", text):
            raise InputError(f"{what}: expected Unicode texts, got something else")
    return Credentials(username, password, is_identity_token)


# --- helpers --------------------------------------------------------------------------------


def _is_passed(name: str) -> bool:
    upper = name.upper()
    return is_passed(upper) or upper in _HELPER_NAMES or upper.startswith(_HELPER_PREFIXES)


def _read_answer(answer: bytes, what: str) -> Credentials | None:
    try:
        document = json.loads(answer)
        username, secret = document["Username"], document["Secret"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{what}: expected JSON with Username and Secret") from error
    if not username and not secret:  # how `pass` says that it has none
        return None
    return _checked(username, secret, what, is_identity_token=username == _IDENTITY_USER)
