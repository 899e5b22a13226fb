"""What Azure Pipelines knows of a step, in the terms of containers: logins, files, labels.

The rules of this file:

1. A connection's address is what a person typed: it is read, never believed to be well formed.
2. The ticket and the job token go only to the collection's own address, as the agent gave it.
   It may be http there: servers in a company's own network still are, and the agent itself
   talks to them that way.
3. Only 200 with `application/octet-stream` is a secure file; a sign-in page is not.
4. No text made here holds a token, a ticket or a password.

Shapes of connections and of the secure-file call: the agent's and the in-box tasks' own.
"""

import http.client
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

from signimage.errors import InputError, NotFoundError, RemoteError, UnauthorizedError
from signimage.oci import DOCKER_HUB, normal_host
from signimage.transport import (
    Credentials,
    Response,
    Transport,
    origin,
    readable,
    refusal,
    said_by_server,
)

SECURE_FILE_MAX = 10 * 1024 * 1024  # bytes; the server's own limit
HUB_AUTH_KEY = "https://index.docker.io/v1/"
# Accepted by Azure DevOps Server 2019 and everything since.
_API_VERSION = "5.0-preview.1"
_FILE_HINT = "Authorize the pipeline to use the secure file, and run the job again"
_CONNECTION_HINT = "Check the Docker registry service connection in the project settings"


@dataclass(frozen=True, slots=True)
class ServiceConnection:
    """A service connection as the agent hands it to a step.

    Names in `parameters` (secret) and `data` are in lower case.
    """

    id: str
    scheme: str
    url: str
    parameters: Mapping[str, str] = field(repr=False)
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """How to log in to a registry.

    `host` is the registry as image names spell it, `auth_key` as Docker's `config.json` does.
    """

    host: str
    credentials: Credentials
    auth_key: str


@dataclass(frozen=True, slots=True)
class SecureFile:
    """A file in the pipeline library, and what this job may fetch it with."""

    collection_uri: str
    project: str
    file_id: str
    name: str
    ticket: str = field(repr=False)
    token: str = field(repr=False)

    @property
    def what(self) -> str:
        """How sentences call the file."""
        return f"secure file {readable(self.name or self.file_id)}"


def registry_login(connection: ServiceConnection) -> RegistryLogin:
    """Turn a Docker registry connection into a login.

    Raises:
        InputError: The connection is of a kind that is not supported, or incomplete.
    """
    kind = connection.scheme.lower()
    login = _LOGINS.get(kind)
    if login is None:
        raise InputError(
            f"registry service connection: expected authentication by user name and password, "
            f"got {readable(connection.scheme) or 'none'}, which is not supported yet",
            hint="Use a connection of type Docker Hub or Others, for example with a token",
        )
    return login(connection)


def _password_login(connection: ServiceConnection) -> RegistryLogin:
    parameters = connection.parameters
    missing = [name for name in ("registry", "username", "password") if not parameters.get(name)]
    if missing:
        raise InputError(
            f"registry service connection: expected a {' and a '.join(missing)}, got none",
            hint=_CONNECTION_HINT,
        )
    host = registry_host(parameters["registry"])
    credentials = Credentials(parameters["username"], parameters["password"])
    return RegistryLogin(host, credentials, HUB_AUTH_KEY if host == DOCKER_HUB else host)


# One entry for each authentication scheme of a connection; those of Azure Container Registry
# (ServicePrincipal, ManagedServiceIdentity, WorkloadIdentityFederation) exchange tokens first.
_LOGINS = {"usernamepassword": _password_login}


def registry_host(address: str) -> str:
    """Return the host (and port) of a registry from what was typed into a connection.

    Understands `https://index.docker.io/v1/`, `reg.example.com:5000`, `https://reg/v2/`,
    and `reg/team`, whose path says nothing about where the registry is.

    Raises:
        InputError: There is no host in it.
    """
    text = address.strip()
    text = text if "://" in text else f"https://{text}"
    parts = urlsplit("")
    host, port = None, None
    with suppress(ValueError):
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    usable = host and "@" not in parts.netloc and parts.scheme in ("http", "https")
    if not usable or not host or not all(ch.isalnum() or ch in ".-_:" for ch in host):
        raise InputError(
            "registry service connection: expected a registry address such as "
            f"https://registry.example.com, got {readable(address.rpartition('@')[2])!r}",
            hint=_CONNECTION_HINT,
        )
    name = f"[{host}]" if ":" in host else host
    return normal_host(name if port is None else f"{name}:{port}")


def fetch_secure_file(transport: Transport, file: SecureFile) -> bytes:
    """Download a secure file and return its content; nothing is written to disk.

    Raises:
        UnauthorizedError: Ticket or token are not accepted.
        NotFoundError: The file was deleted.
        RemoteError: Anything else that is not the file: an error, a sign-in page, nothing.
    """
    if not file.ticket:
        raise UnauthorizedError(
            f"{file.what}: the agent gave this job no ticket to read it", hint=_FILE_HINT
        )
    try:
        response = _get_secure_file(transport, file)
    except RemoteError as error:
        raise _named(error, file.what) from error
    _check_secure_file(response, file.what)
    return response.body


def _get_secure_file(transport: Transport, file: SecureFile) -> Response:
    query = urlencode(
        {"ticket": file.ticket, "download": "false", "api-version": _API_VERSION},
        quote_via=quote,
    )
    # On a server of one's own the collection's name is part of the path, blanks included.
    collection = quote(file.collection_uri.strip().rstrip("/"), safe="/:%[]")
    return transport.request(
        "GET",
        f"{collection}/{quote(file.project, safe='')}"
        f"/_apis/distributedtask/securefiles/{quote(file.file_id, safe='')}?{query}",
        what="Azure DevOps",
        max_bytes=SECURE_FILE_MAX,
        headers={
            "Accept": "application/octet-stream",
            "Authorization": Credentials("PAT", file.token).basic(),
            "X-TFS-FedAuthRedirect": "Suppress",
        },
        redirects=0,
    )


# 203 is how Azure DevOps answers who it does not know; 302 is what it sends a browser.
_SIGN_IN_STATUSES = frozenset({200, 203, 301, 302, 303, 307, 308})


def _check_secure_file(response: Response, what: str) -> None:
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    status = response.status
    server = f"Azure DevOps {origin(response.url)}"
    if status == http.client.OK and kind == "application/octet-stream":
        if not response.body:
            raise RemoteError(f"{what}: expected its content from {server}, got nothing")
        return
    said = said_by_server(response)
    if status == http.client.NOT_FOUND:
        raise NotFoundError(
            f"{what}: {server} does not have it (it answered {_answer(status, said)})",
            hint="Check that the file is still in the library of this project",
        )
    if status in (http.client.BAD_REQUEST, http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        raise UnauthorizedError(
            f"{what}: {server} does not let this job read it (it answered {_answer(status, said)})",
            hint=_FILE_HINT,
        )
    if status in _SIGN_IN_STATUSES:
        raise RemoteError(
            f"{what}: expected its content from {server}, got {_answer(status, said)} "
            f"with {readable(kind) or 'no type'}, probably a sign-in page"
        )
    raise _named(refusal(response, "Azure DevOps"), what)


def _answer(status: int, said: str) -> str:
    return f"{status}: {said}" if said else f"{status}"


def _named(error: RemoteError, what: str) -> RemoteError:
    return type(error)(f"{what}: {error}", hint=error.hint)


# As `Docker@2` names them; a release has no one repository.
_COMMON_LABELS = ("system.teamfoundationcollectionuri", "build.sourceversion")
_BUILD_LABELS = (
    "system.teamproject",
    "build.repository.name",
    "build.repository.uri",
    "build.sourcebranchname",
    "build.definitionname",
    "build.buildnumber",
    "build.builduri",
)
_RELEASE_LABELS = (
    "system.teamproject",
    "release.releaseid",
    "release.definitionname",
    "release.releaseweburl",
)


def pipeline_labels(variables: Mapping[str, str], *, add_pipeline_data: bool) -> dict[str, str]:
    """Return the labels that `Docker@2` puts on an image, by their names.

    A name is the collection's host reversed, `image`, and the variable:
    `com.azure.dev.image.build.sourceversion`. Variables that are not set have no label.

    Args:
        variables: Pipeline variables by their names, e.g. `Build.SourceVersion`, in any case.
        add_pipeline_data: Also name project, repository, branch and run.
    """
    known = {name.lower(): value for name, value in variables.items()}
    host = urlsplit(known.get("system.teamfoundationcollectionuri", "")).hostname
    if not host:
        return {}
    prefix = ".".join(reversed(host.split(".")))
    names: tuple[str, ...] = _COMMON_LABELS
    if add_pipeline_data:
        is_build = known.get("system.hosttype", "build").lower() == "build"
        names += _BUILD_LABELS if is_build else _RELEASE_LABELS
    return {f"{prefix}.image.{name}": known[name] for name in names if known.get(name)}
